#!/usr/bin/env python3
"""From exec to answering: packaging/start.py SUPERD [MOST-CALLS [MOST-MS]]

Counts the system calls of a superd without services, from execve(2) to its first epoll_wait(2), with
cgroups and without (needs strace); and measures, 50 times, from before the exec to the first answer on
the socket: by the clock, and what superd was on a processor meanwhile. Fails with more calls than 120,
or more than 3 ms of the latter in half of the starts: by the clock a machine that is busy with other
things takes longer.
"""

import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 50
GATES = ["120", "3"]
ASKS = b'{"v":1,"id":1,"do":"status"}\n'


def configured(cgroup):
    # In memory, as a run directory is.
    place = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    os.chmod(place, 0o755)
    config = os.path.join(place, "superd.toml")
    with open(config, "w", encoding="utf-8") as to:
        print(f'[daemon]\nrun-dir = "{place}/run"\ncgroup = "{cgroup}"', file=to)
    os.chmod(config, 0o644)
    return place, ["--config", config, "--foreground"]


def answer(place):
    """Asks until there is an answer. Does not pause: that would be measured."""
    until = time.monotonic() + 60
    with socket.socket(socket.AF_UNIX) as client:
        while client.connect_ex(f"{place}/run/superd.sock") != 0:
            if time.monotonic() > until:
                sys.exit("superd does not answer")
        client.sendall(ASKS)
        if b'"ok":true' not in client.recv(65536):
            sys.exit("superd answers something else")


def calls(superd, cgroup):
    place, arguments = configured(cgroup)
    trace = os.path.join(place, "trace")
    try:
        command = ["strace", "-o", trace, superd, *arguments]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as traced:
            answer(place)
            with open(f"{place}/run/pid", encoding="ascii") as of:
                os.kill(int(of.read()), signal.SIGTERM)
            traced.wait()
        with open(trace, encoding="utf-8", errors="replace") as of:
            return next(n for n, line in enumerate(of) if re.match(r"epoll_p?wait", line))
    finally:
        shutil.rmtree(place)


def milliseconds(superd):
    place, arguments = configured("auto")
    null = os.open("/dev/null", os.O_RDWR)
    try:
        quiet = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in range(3)]
        began = time.perf_counter()
        pid = os.posix_spawn(superd, [superd, *arguments], os.environ, file_actions=quiet)
        answer(place)
        took = time.perf_counter() - began
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as of:
            ran = int(of.read().split()[0])
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        return took * 1000, ran / 1e6
    finally:
        os.close(null)
        shutil.rmtree(place)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__.strip())
    superd = os.path.realpath(sys.argv[1])
    said = sys.argv[2:]
    most_calls, most_ms = map(float, [*said, *GATES[len(said):]])
    with_groups, without = calls(superd, "auto"), calls(superd, "off")
    print(f"system calls from exec to answering: {with_groups} with cgroups, {without} without; gate {most_calls:g}")
    took, ran = zip(*(milliseconds(superd) for _ in range(ROUNDS)))
    median = statistics.median(ran)
    print(f"exec to the first answer: median {statistics.median(took):.2f} ms, best {min(took):.2f} ms by the clock;"
          f" on a processor {median:.2f} ms, best {min(ran):.2f} ms; gate {most_ms:g} ms")
    if max(with_groups, without) > most_calls or median > most_ms:
        sys.exit("more than that")


if __name__ == "__main__":
    main()
