#!/usr/bin/env python3
"""Stops the faulty servers the way people do, without superd, and counts the panics.

    baseline.py caddy|nats|quic|quic-cut|air|go2rtc [-n N] [--min K] [--seed S] [--twin] [--row] [-v]
                caddy [--rival cli|http|blind|int|none]   nats [--signal TERM|INT] [--nosigs]
    baseline.py NAME --honest [...]     the real one and its twin, by one recipe: do they agree?

Prints `NAME: K of N panicked ...`. A machine on which the servers do not panic cannot show that
superd helps, hence the status: 0 K is at least the minimum; 1 it is not, or real and twin do not
agree; 2 the recipe itself went wrong; 77 skipped, the server (build.sh) or the twin
(`cargo build --examples`) is not built. Air and go2rtc have twins only.

Not for: judging superd. The suite does that, with the same servers and the same caddy.json.in.

Everything listens on 127.0.0.1, on ports that were free. Only what was started here is signalled,
through a pidfd or as our own unreaped child. The pauses are those of the recipes; all else waits for an event.
"""

import argparse
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SERVERS = Path(os.environ.get("SUPERD_SERVERS_DIR") or ROOT / "target" / "servers")
TWIN = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "debug" / "examples" / "twin"

START_LIMIT = 10.0  # s, from exec to ready
EXIT_LIMIT = 20.0  # s, from the stop to the exit; caddy's drain with its polling needs about 1.5
CONNECT_PAUSE = 0.005  # s, between two tries to connect, spent waiting for the server's death

CADDY_RIVAL_WITHIN = 0.080  # s, the second stop comes this long after the first, or earlier
CADDY_REQUEST_OPEN = 0.5  # s, from the second stop
NATS_AFTER_READY = 0.080  # s
QUIC_DEATH_WITHIN = 1.0  # s, after the second client has left; the server takes milliseconds
PORTS_TAKEN = 5  # so many rounds are begun again because a port was taken meanwhile
AIR_SUBSCRIBERS = 5
AIR_HANGS_AFTER = 2.0  # s; the real one was given 8, and stops within 0.033 when it does

# Of 100 stops, as measured with the real ones: caddy 27 to 29 of 30; nats 39 of 50; Air with INT, five
# subscribers and an application that ignores SIGHUP 4 panics, 3 hangs and 7 orphans of 20.
CADDY_TWIN = ["--drain", "0", "--panic", "93"]
NATS_TWIN = ["--panic", "75"]
AIR_TWIN = ["--pty", "--panic", "20", "--hang", "15", "--orphan", "35"]

# A Go crash: the text at the start of a line, and a goroutine's stack. Status 2 alone is not
# one (caddy's forced quit), the word alone neither (net/http logs the panics it recovers).
GO_PANIC = re.compile(r"^(panic: .*|fatal error: .*)$", re.MULTILINE)
GO_CRASH_STATUS = 2
GOROUTINE = re.compile(r"^goroutine \d+ \[", re.MULTILINE)


class RecipeFailed(Exception):
    """The round says nothing about the fault: the server did not even start, or never ended."""

    def port_taken(self):
        """Whether another process was faster to take a port that free_ports() had found."""
        return "address already in use" in str(self).lower()


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
        # What it wrote is in the pipe; its end need not come, since children that it left hold it too.
        os.set_blocking(self.process.stdout.fileno(), False)
        self.output += self.process.stdout.read() or b""
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


def twin(directory, options, *arguments):
    """The command of a twin; its fate depends on the seed alone."""
    if not os.access(TWIN, os.X_OK):
        print(f"skipped: {TWIN} is not built (cargo build --examples)")
        sys.exit(77)
    record = ["--record", f"{directory}/record", "--seed", str(options.seed * 1000 + options.round)]
    return [str(TWIN), *record, *map(str, arguments)]


class Child:
    """A child that a twin has started, by its record: only that process can be meant.

    The pidfd is opened while the parent lives and has not reaped it.
    """

    def __init__(self, directory):
        lines = Path(directory, "record").read_text().splitlines()
        self.pidfd = os.pidfd_open(next(int(line.split()[-1]) for line in lines if " child " in line))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(self.pidfd)

    def alive(self):
        return not select.select([self.pidfd], [], [], 0)[0]


def ask(port, request, until=None):
    """One HTTP/1.1 request in the clear: the connection and what was answered, up to its end or `until`."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=EXIT_LIMIT)
    connection.sendall(f"{request} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    answer = b""
    while until is None or until not in answer:
        try:
            piece = connection.recv(4096)
        except ConnectionResetError:
            break
        if not piece:
            break
        answer += piece
    return connection, answer


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


class StopByApi:
    """`POST /stop` while the block goes on, because caddy answers when it has stopped, or never."""

    def __init__(self, port):
        self.thread = threading.Thread(target=self.post, args=[port])
        self.thread.start()

    @staticmethod
    def post(port):
        try:
            ask(port, "POST /stop")[0].close()
        except OSError:
            pass  # it was faster than we

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.thread.join()


def caddy_round(directory, options, chance):
    """`caddy stop`, TERM up to 80 ms later, while a request is open for another 0.5 s (Caddy issue 6707).

    The 80 ms count from the first STOPPING=1, that is from the arrival of the stop. Counted from the
    start of the `caddy stop` program ("blind"), TERM comes first as often as not, how often depends
    on the machine's load, and then it is the admin API's stop that panics, which net/http recovers.
    """
    http, admin = free_ports(2)
    if options.twin:
        admin = http  # its pages and its API are at one port
        command = twin(directory, options, "doublestop", "--listen", f"127.0.0.1:{http}", *CADDY_TWIN)
    else:
        command = [binary("caddy"), "run", "--config", f"{directory}/caddy.json"]
    config = Path(directory) / "caddy.json"
    text = (HERE / "caddy.json.in").read_text()
    config.write_text(text.replace("@HTTP@", str(http)).replace("@ADMIN@", str(admin)))
    homes = {"HOME": directory, "XDG_CONFIG_HOME": directory, "XDG_DATA_HOME": directory}
    with ExitStack() as held:
        told = held.enter_context(NotifySocket(directory))
        server = held.enter_context(
            Server(directory, command, NOTIFY_SOCKET=told.path, **homes)
        )
        told.wait("READY=1", START_LIMIT)
        request = held.enter_context(open_request(server, http))
        if options.rival == "http" or options.rival in ("cli", "blind") and options.twin:
            held.enter_context(StopByApi(admin))
        elif options.rival in ("cli", "blind"):
            stop = [command[0], "stop", "--address", f"127.0.0.1:{admin}"]
            held.enter_context(Server(f"{directory}/rival", stop, **homes))
        if options.rival in ("cli", "http", "blind"):
            if options.rival != "blind":
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
    if options.twin:
        command = twin(directory, options, "twohandlers", "--listen", f"127.0.0.1:{port}", *NATS_TWIN)
    else:
        command = [binary("nats"), str(port)]
    with Server(directory, command, **switch) as server:
        server.wait_line(b"ready")
        time.sleep(NATS_AFTER_READY)
        server.signal(signal.Signals["SIG" + options.signal])
        begun = time.monotonic()
        status = server.exit_status()
        took = time.monotonic() - begun
        cleaned = b"app cleanup done" in server.output
        return server.panic(), status, took, ["clean-up done" if cleaned else "clean-up skipped"]


def quic_server(directory, options):
    """The command and the port; the twin speaks HTTP over TCP."""
    if options.twin:
        (port,) = free_ports(1)
        return twin(directory, options, "secondclient", "--listen", f"127.0.0.1:{port}"), port
    (port,) = free_ports(1, socket.SOCK_DGRAM)
    return [binary("quic"), "serve", str(port)], port


def quic_client(port, options):
    """One client comes, gets its page and goes."""
    if options.twin:
        connection, answer = ask(port, "GET /")
        connection.close()
        if not answer.endswith(b"hello\n"):
            raise RecipeFailed(f"the twin answered {answer!r}")
        return
    done = subprocess.run(
        [binary("quic"), "get", f"https://127.0.0.1:{port}/"],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=EXIT_LIMIT,
    )
    if done.returncode:
        raise RecipeFailed(f"quic get: {done.stderr.decode(errors='replace').strip()}")


def quic_round(directory, options, _chance):
    """Two clients one after the other, and no signal at all (quic-go issue 4705)."""
    command, port = quic_server(directory, options)
    with Server(directory, command) as server:
        server.wait_line(b"ready")
        quic_client(port, options)
        server.wait_line(b"client gone")  # else the second may come before the first has left
        quic_client(port, options)
        begun = time.monotonic()
        if not server.gone_within(QUIC_DEATH_WITHIN):
            return None, "alive", QUIC_DEATH_WITHIN, []
        status = server.exit_status()
        return server.panic(), status, time.monotonic() - begun, []


def quic_cut_round(directory, options, _chance):
    """One client has been and gone, TERM while the next one waits for its answer: cut, and status 0.

    Counted as the "panic" here is the cut: the fault that the exit status does not show.
    """
    command, port = quic_server(directory, options)
    if options.twin:
        client = [sys.executable, __file__, "ask", str(port), "GET /slow"]
    else:
        client = [binary("quic"), "get", f"https://127.0.0.1:{port}/slow"]
    with Server(directory, command) as server:
        server.wait_line(b"ready")
        quic_client(port, options)
        server.wait_line(b"client gone")
        with Server(f"{directory}/rival", client) as client:
            server.wait_line(b"slow request begun")
            server.signal(signal.SIGTERM)
            begun = time.monotonic()
            status = server.exit_status()
            took = time.monotonic() - begun
            cut = client.exit_status() != 0
            return "request cut" if cut else None, status, took, []


def air_round(directory, options, _chance):
    """INT with five subscribers and an application that ignores SIGHUP (air-verse/air issue 584). Twin only."""
    proxy, page = free_ports(2)
    where = ["--listen", f"127.0.0.1:{proxy}", "--app", f"127.0.0.1:{page}"]
    with ExitStack() as held:
        server = held.enter_context(Server(directory, twin(directory, options, "wrapper", *where, *AIR_TWIN)))
        server.wait_line(b"ready")
        app = held.enter_context(Child(directory))
        server.connect(page).close()
        for _ in range(AIR_SUBSCRIBERS):
            held.enter_context(ask(proxy, "GET /internal/reload", b"\r\n\r\n")[0])
        server.signal(signal.SIGINT)
        begun = time.monotonic()
        hangs = not server.gone_within(AIR_HANGS_AFTER)
        if hangs:
            server.signal(signal.SIGKILL)
        status = server.exit_status()
        took = time.monotonic() - begun
        left = app.alive() and not port_is_free(page)  # killed before the wrapper ended, or never
        fault = server.panic() or ("hang" if hangs else "ended before its application" if left else None)
        return fault, status, took, ["application left"] if left else []


def port_is_free(port):
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=START_LIMIT).close()
            return False
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            pass  # it was killed while we connected


def go2rtc_round(directory, options, _chance):
    """TERM: status 0 at once, and the camera's process stays (AlexxIT/go2rtc issue 907). Twin only."""
    api, camera = free_ports(2)
    where = ["--listen", f"127.0.0.1:{api}", "--camera", f"127.0.0.1:{camera}"]
    with Server(directory, twin(directory, options, "leaver", *where)) as server:
        server.wait_line(b"ready")
        with Child(directory) as child:
            server.connect(camera).close()
            server.signal(signal.SIGTERM)
            begun = time.monotonic()
            status = server.exit_status()
            took = time.monotonic() - begun
            left = child.alive() and not port_is_free(camera)
            return "child left" if left else None, status, took, []


# round, rounds, minimum, what K counts, how often at least what else
RECIPES = {
    "caddy": (caddy_round, 30, 10, "panicked", {}),
    "nats": (nats_round, 50, 5, "panicked", {}),
    "quic": (quic_round, 20, 15, "panicked", {}),
    "quic-cut": (quic_cut_round, 20, 15, "cut the request", {}),
    "air": (air_round, 40, 6, "panicked, hung or left the application", {"application left": 3}),
    "go2rtc": (go2rtc_round, 10, 10, "left the child", {}),
}
# So many times these rounds at most.
MORE = 8
TWINS_ONLY = ("air", "go2rtc")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("server", choices=RECIPES)
    parser.add_argument("-n", type=int, help="rounds")
    parser.add_argument("--min", type=int, help="least number of panics that makes status 0")
    parser.add_argument("--seed", type=int, default=1, help="of the offsets and the twins (default 1)")
    parser.add_argument(
        "--rival",
        choices=["cli", "http", "blind", "int", "none"],
        default="cli",
        help="caddy: what stops it besides TERM: `caddy stop` or `POST /stop` before (blind: arrived or not),"
        " INT at once, nothing",
    )
    parser.add_argument("--signal", choices=["TERM", "INT"], default="TERM", help="nats: the one signal")
    parser.add_argument("--nosigs", action="store_true", help="nats: without the server's own handler")
    parser.add_argument("--twin", action="store_true", help="the twin in place of the real one")
    parser.add_argument("--honest", action="store_true", help="both, and compare")
    parser.add_argument("--row", action="store_true", help="also the line of table.py")
    parser.add_argument("-v", action="store_true", help="a line per round")
    options = parser.parse_args()
    options.twin |= options.server in TWINS_ONLY
    if options.honest and options.twin:
        parser.error(f"{options.server}: there is only a twin")
    return options


class Series:
    """What came out of N rounds."""

    def __init__(self, options):
        one_round, rounds, self.least, self.verb, self.also = RECIPES[options.server]
        self.name = f"{options.server} (twin)" if options.twin else options.server
        self.rounds = options.n or rounds
        if options.min is not None:
            self.least = options.min
        self.bad, self.tally, self.times, self.faults = 0, {}, [], set()
        chance = random.Random(options.seed)
        # Races are lost less often on a busy machine: then it takes more rounds to see enough.
        most = self.rounds * (MORE if options.n is None else 1)
        number = taken = 0
        while number < self.rounds or (number < most and not self.enough()):
            number += 1
            options.round = number
            with tempfile.TemporaryDirectory(prefix="superd-baseline.") as directory:
                os.mkdir(f"{directory}/rival")
                try:
                    panic, status, took, notes = one_round(directory, options, chance)
                except (RecipeFailed, OSError, subprocess.SubprocessError) as why:
                    failed = RecipeFailed(f"{self.name}: round {number}: {why}")
                    if not failed.port_taken() or taken == PORTS_TAKEN:
                        raise failed from why
                    taken += 1
                    number -= 1  # the same round, with other ports
                    continue
            self.bad += panic is not None
            self.times.append(took)
            if panic is not None:
                self.faults.add((panic, status, *notes))
            for fact in [panic or "no panic", f"status {status}", *notes]:
                self.tally[fact] = self.tally.get(fact, 0) + 1
            if options.v:
                print(f"  {number:3}  {took:6.3f} s  status {status}  {panic or '-'}  {' '.join(notes)}")
        self.rounds = number

    def tell(self):
        details = ", ".join(f"{count} x {fact}" for fact, count in sorted(self.tally.items()))
        print(
            f"{self.name}: {self.bad} of {self.rounds} {self.verb} (at least {self.least} wanted): {details};"
            f" {min(self.times):.3f} to {max(self.times):.3f} s"
        )

    def enough(self):
        return self.bad >= self.least and all(self.tally.get(f, 0) >= n for f, n in self.also.items())


def agree(real, copy):
    """Whether the twin's fault looks like the real one's: text, exit status, what else was seen.

    How often, and how a stop ends that went well, are left to chance in the real ones; that both
    show the fault often enough is asked for besides.
    """
    strange = copy.faults - real.faults
    for panic, status, *notes in sorted(strange):
        print(f"{copy.name}: not as the real one: {panic}, status {status}, {', '.join(notes)}")
    return not strange


def main():
    if sys.argv[1:2] == ["ask"]:
        # A client in a process of its own: 1 when it was not answered whole.
        return 0 if ask(int(sys.argv[2]), sys.argv[3])[1].endswith(b"hello\n") else 1
    options = arguments()
    # TERM ends this script through the `with` blocks, so that its servers go with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        series = Series(options)
        series.tell()
        fine = series.enough()
        if options.honest:
            options.twin = True
            copy = Series(options)
            copy.tell()
            fine = agree(series, copy) and copy.enough() and fine
    except RecipeFailed as why:
        print(why)
        return 2
    if options.row:
        fields = ("name", "bad", "rounds", "least", "verb")
        print("row " + json.dumps({f: getattr(series, f) for f in fields} | {"longest": max(series.times)}))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
