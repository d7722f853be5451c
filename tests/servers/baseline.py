#!/usr/bin/env python3
"""Stops the real faulty servers the way people do, without superd, and counts the panics.

    baseline.py caddy|nats|quic|quic-cut [-n N] [--min K] [--seed S] [-v]
                caddy [--rival cli|blind|int|none]   nats [--signal TERM|INT] [--nosigs]

Prints `NAME: K of N panicked ...`. A machine on which the servers do not panic cannot show that
superd helps, hence the status: 0 K is at least the minimum; 1 it is not; 2 the recipe itself
went wrong; 77 skipped, the server is not built (build.sh).

Not for: judging superd. The suite does that, with the same servers and the same caddy.json.in.

Everything listens on 127.0.0.1, on ports that were free. Only what was started here is signalled,
through a pidfd or as our own unreaped child. The pauses are those of the recipes; all else waits for an event.
"""

import argparse
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVERS = Path(os.environ.get("SUPERD_SERVERS_DIR") or HERE.parent.parent / "target" / "servers")

START_LIMIT = 10.0  # s, from exec to ready
EXIT_LIMIT = 20.0  # s, from the stop to the exit; caddy's drain with its polling needs about 1.5
CONNECT_PAUSE = 0.005  # s, between two tries to connect, spent waiting for the server's death

CADDY_RIVAL_WITHIN = 0.080  # s, the second stop comes this long after the first, or earlier
CADDY_REQUEST_OPEN = 0.5  # s, from the second stop
NATS_AFTER_READY = 0.080  # s
QUIC_DEATH_WITHIN = 1.0  # s, after the second client has left; the server takes milliseconds

# A Go crash: the text at the start of a line, and a goroutine's stack. Status 2 alone is not
# one (caddy's forced quit), the word alone neither (net/http logs the panics it recovers).
GO_PANIC = re.compile(r"^(panic: .*|fatal error: .*)$", re.MULTILINE)
GO_CRASH_STATUS = 2
GOROUTINE = re.compile(r"^goroutine \d+ \[", re.MULTILINE)


class RecipeFailed(Exception):
    """The round says nothing about the fault: the server did not even start, or never ended."""


class Server:
    """One run of a server: its process, its pidfd and its output. Killed on leaving the block."""

    def __init__(self, directory, command, **environment):
        self.log = Path(directory) / f"{Path(command[0]).name}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self.pidfd = os.pidfd_open(self.process.pid)
        self.output = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.pidfd)
        self.process.stdout.close()

    def signal(self, number):
        # Not reaped before exit_status(), so the number cannot have gone to another process.
        self.process.send_signal(number)

    def gone_within(self, seconds):
        return bool(select.select([self.pidfd], [], [], max(seconds, 0))[0])

    def exit_status(self):
        """Waits for the exit; the output is complete from then on."""
        if not self.gone_within(EXIT_LIMIT):
            raise RecipeFailed(f"{self.process.args[0]} is still there after {EXIT_LIMIT:.0f} s")
        self.output += self.process.stdout.read()
        return self.process.wait()

    def wait_line(self, line):
        if not self.wait_output(lambda output: line in output.split(b"\n")):
            raise RecipeFailed(f"{self.process.args[0]} ended without {line!r}: {self.errors()[-500:]}")

    def wait_output(self, enough):
        """Reads standard output until there is enough of it. False: the server ended before."""
        deadline = time.monotonic() + START_LIMIT
        while not enough(self.output):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise RecipeFailed(f"{self.process.args[0]} says only {self.output!r}: {self.errors()[-500:]}")
            piece = os.read(self.process.stdout.fileno(), 4096)
            if not piece:
                return False
            self.output += piece
        return True

    def connect(self, port):
        """Connects to the server's port as soon as it accepts."""
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=START_LIMIT)
            except ConnectionRefusedError:
                if self.gone_within(CONNECT_PAUSE) or time.monotonic() > deadline:
                    raise RecipeFailed(f"port {port} does not accept: {self.errors()[-500:]}") from None

    def errors(self):
        return self.log.read_text(errors="replace")

    def panic(self):
        """The panic line of a server that ended, or None."""
        text = self.errors()
        line = GO_PANIC.search(text)
        if self.process.returncode == GO_CRASH_STATUS and line and GOROUTINE.search(text, line.end()):
            return line.group()
        return None


class NotifySocket:
    """Where caddy says READY=1 and STOPPING=1 (sd_notify(3))."""

    def __init__(self, directory):
        self.path = f"{directory}/notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.words = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def hear(self, seconds):
        """Takes one message, if one comes in time."""
        if not select.select([self.socket], [], [], max(seconds, 0))[0]:
            return False
        self.words += self.socket.recv(4096).decode().splitlines()
        return True

    def wait(self, word, seconds):
        deadline = time.monotonic() + seconds
        while word not in self.words:
            if not self.hear(deadline - time.monotonic()):
                raise RecipeFailed(f"no {word} within {seconds:.0f} s")

    def count(self, word):
        while self.hear(0):
            pass
        return self.words.count(word)


def binary(name):
    path = SERVERS / name
    if not os.access(path, os.X_OK):
        print(f"{name}: skipped: {path} is not built (build.sh {name})")
        sys.exit(77)
    return str(path)


def free_ports(count, kind=socket.SOCK_STREAM):
    """Ports that were free a moment ago: all bound together, so that they differ, then let go."""
    sockets = [socket.socket(socket.AF_INET, kind) for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def open_request(server, port):
    """A connection that caddy cannot drain: a request whose ten bytes of body never come.

    The answer of caddy.json.in contains the request's body, so that caddy's handler waits for it,
    and "100 Continue" says that it has begun to.
    """
    connection = server.connect(port)
    connection.sendall(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        piece = connection.recv(4096)
        answer += piece
        if not piece or not answer.startswith(b"HTTP/1.1 100"[: len(answer)]):
            raise RecipeFailed(f"caddy answered {answer!r}")
    return connection


def caddy_round(directory, options, chance):
    """`caddy stop`, TERM up to 80 ms later, while a request is open for another 0.5 s (Caddy issue 6707).

    The 80 ms count from the first STOPPING=1, that is from the arrival of the stop. Counted from the
    start of the `caddy stop` program ("blind"), TERM comes first as often as not, how often depends
    on the machine's load, and then it is the admin API's stop that panics, which net/http recovers.
    """
    caddy = binary("caddy")
    http, admin = free_ports(2)
    config = Path(directory) / "caddy.json"
    text = (HERE / "caddy.json.in").read_text()
    config.write_text(text.replace("@HTTP@", str(http)).replace("@ADMIN@", str(admin)))
    homes = {"HOME": directory, "XDG_CONFIG_HOME": directory, "XDG_DATA_HOME": directory}
    with ExitStack() as held:
        told = held.enter_context(NotifySocket(directory))
        server = held.enter_context(
            Server(directory, [caddy, "run", "--config", str(config)], NOTIFY_SOCKET=told.path, **homes)
        )
        told.wait("READY=1", START_LIMIT)
        request = held.enter_context(open_request(server, http))
        if options.rival in ("cli", "blind"):
            stop = [caddy, "stop", "--address", f"127.0.0.1:{admin}"]
            held.enter_context(Server(f"{directory}/rival", stop, **homes))
            if options.rival == "cli":
                told.wait("STOPPING=1", EXIT_LIMIT)
            time.sleep(chance.uniform(0, CADDY_RIVAL_WITHIN))
        elif options.rival == "int":
            server.signal(signal.SIGINT)
        server.signal(signal.SIGTERM)
        begun = time.monotonic()
        early = server.gone_within(CADDY_REQUEST_OPEN)
        request.close()
        status = server.exit_status()
        notes = [f"STOPPING=1 {told.count('STOPPING=1')} times"]
        if early:
            notes.append("did not wait for the request")
        if "http: panic serving" in server.errors():
            notes.append("panic recovered by net/http")
        return server.panic(), status, time.monotonic() - begun, notes


def nats_round(directory, options, _chance):
    """One signal, two handlers (NATS issues 5922 and 6358)."""
    (port,) = free_ports(1)
    switch = {"NOSIGS": "1"} if options.nosigs else {}
    with Server(directory, [binary("nats"), str(port)], **switch) as server:
        server.wait_line(b"ready")
        time.sleep(NATS_AFTER_READY)
        server.signal(signal.Signals["SIG" + options.signal])
        begun = time.monotonic()
        status = server.exit_status()
        took = time.monotonic() - begun
        cleaned = b"app cleanup done" in server.output
        return server.panic(), status, took, ["clean-up done" if cleaned else "clean-up skipped"]


def quic_client(port):
    """One client comes, gets its page and goes."""
    done = subprocess.run(
        [binary("quic"), "get", f"https://127.0.0.1:{port}/"],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=EXIT_LIMIT,
    )
    if done.returncode:
        raise RecipeFailed(f"quic get: {done.stderr.decode(errors='replace').strip()}")


def quic_round(directory, _options, _chance):
    """Two clients one after the other, and no signal at all (quic-go issue 4705)."""
    (port,) = free_ports(1, socket.SOCK_DGRAM)
    with Server(directory, [binary("quic"), "serve", str(port)]) as server:
        server.wait_line(b"ready")
        quic_client(port)
        server.wait_line(b"client gone")  # else the second may come before the first has left
        quic_client(port)
        begun = time.monotonic()
        if not server.gone_within(QUIC_DEATH_WITHIN):
            return None, "alive", QUIC_DEATH_WITHIN, []
        status = server.exit_status()
        return server.panic(), status, time.monotonic() - begun, []


def quic_cut_round(directory, _options, _chance):
    """One client has been and gone, TERM while the next one waits for its answer: cut, and status 0.

    Counted as the "panic" here is the cut: the fault that the exit status does not show.
    """
    (port,) = free_ports(1, socket.SOCK_DGRAM)
    quic = binary("quic")
    with Server(directory, [quic, "serve", str(port)]) as server:
        server.wait_line(b"ready")
        quic_client(port)
        server.wait_line(b"client gone")
        with Server(f"{directory}/rival", [quic, "get", f"https://127.0.0.1:{port}/slow"]) as client:
            server.wait_line(b"slow request begun")
            server.signal(signal.SIGTERM)
            begun = time.monotonic()
            status = server.exit_status()
            took = time.monotonic() - begun
            cut = client.exit_status() != 0
            return "request cut" if cut else None, status, took, []


# round, rounds, minimum, what K counts
RECIPES = {
    "caddy": (caddy_round, 30, 10, "panicked"),
    "nats": (nats_round, 50, 5, "panicked"),
    "quic": (quic_round, 20, 20, "panicked"),
    "quic-cut": (quic_cut_round, 20, 20, "cut the request"),
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("server", choices=RECIPES)
    parser.add_argument("-n", type=int, help="rounds")
    parser.add_argument("--min", type=int, help="least number of panics that makes status 0")
    parser.add_argument("--seed", type=int, default=1, help="of the offsets (default 1)")
    parser.add_argument(
        "--rival",
        choices=["cli", "blind", "int", "none"],
        default="cli",
        help="caddy: what stops it besides TERM: `caddy stop` before (blind: arrived or not), INT at once, nothing",
    )
    parser.add_argument("--signal", choices=["TERM", "INT"], default="TERM", help="nats: the one signal")
    parser.add_argument("--nosigs", action="store_true", help="nats: without the server's own handler")
    parser.add_argument("-v", action="store_true", help="a line per round")
    return parser.parse_args()


def main():
    options = arguments()
    one_round, rounds, least, verb = RECIPES[options.server]
    rounds = options.n or rounds
    least = least if options.min is None else options.min
    chance = random.Random(options.seed)
    # TERM ends this script through the `with` blocks, so that its servers go with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    counted, tally, times = 0, {}, []
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory(prefix="superd-baseline.") as directory:
            os.mkdir(f"{directory}/rival")
            try:
                panic, status, took, notes = one_round(directory, options, chance)
            except (RecipeFailed, OSError, subprocess.SubprocessError) as why:
                print(f"{options.server}: round {number}: {why}")
                return 2
        counted += panic is not None
        times.append(took)
        for fact in [panic or "no panic", f"status {status}", *notes]:
            tally[fact] = tally.get(fact, 0) + 1
        if options.v:
            print(f"  {number:3}  {took:6.3f} s  status {status}  {panic or '-'}  {' '.join(notes)}")
    details = ", ".join(f"{count} x {fact}" for fact, count in sorted(tally.items()))
    print(
        f"{options.server}: {counted} of {rounds} {verb} (at least {least} wanted): {details};"
        f" {min(times):.3f} to {max(times):.3f} s"
    )
    return 0 if counted >= least else 1


if __name__ == "__main__":
    sys.exit(main())
