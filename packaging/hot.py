#!/usr/bin/env python3
"""Makes the list of functions that an idle superd has run: packaging/hot.py FILE [TRACE...] >packaging/hot.txt

FILE is the program for aarch64 with its names: what `packaging/cross.sh names` has built. It is run
under qemu-user (qemu-user-static), which says which code it executes: superd starts with three
services, one of which writes lines, answers `superctl status`, and is left alone for some seconds.
TRACE is what another qemu said of the same file (-d in_asm): in a virtual router there are cgroups.

First come those that it has run after it let go of what only its start needs (madvise(2), in
src/sys/memory.rs); behind the line "# at the start only" the others. What the list that is there has
besides stays in it, at the place where it was.

Not for: the order itself, which `link` makes when a program is linked. It need not be made anew with
every change; when much has moved, tests/vm/run smoke shows it as memory.
"""

import bisect
import os
import re
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
crate_sizes = __import__("crate-sizes")

# Of assembler: its size is nowhere.
RUN_BY_ALL = {"__set_thread_area"}
QEMU = "qemu-aarch64-static"
LINE = "# at the start only"
SERVICES = {"web": "sleep 100", "dns": "sleep 100", "time": "while sleep 1; do echo a line; done"}


def run(program, place):
    """The addresses of code that an idle superd has executed, at its start and after it."""
    config = os.path.join(place, "superd.toml")
    with open(config, "w", encoding="utf-8") as to:
        print(f'[daemon]\nrun-dir = "{place}/run"', file=to)
        for name, script in SERVICES.items():
            print(f'[service.{name}]\ncommand = ["/bin/sh", "-c", "{script}"]', file=to)
    os.chmod(config, 0o644)
    # On standard error, since superd closes what it does not know.
    command = [QEMU, "-d", "exec,nochain,strace", program, "--config", config, "--foreground"]
    superd = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    start, later, is_over = set(), set(), threading.Event()
    reader = threading.Thread(target=read, args=(superd.stderr, start, later, is_over))
    reader.start()
    try:
        status = [QEMU, program, "ctl", "--socket", f"{place}/run/superd.sock", "status"]
        for _ in range(300):
            if subprocess.run(status, capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        else:
            sys.exit("superd does not answer")
        time.sleep(5)
        is_over.set()
        return start, later
    finally:
        superd.terminate()
        superd.wait()
        reader.join()


def read(said, start, later, is_over):
    """Sorts what is executed; its end belongs to neither."""
    into = start
    executed = re.compile(rb"^Trace \d+: \S+ \[[0-9a-f]+/([0-9a-f]+)/")
    for line in said:
        found = executed.match(line)
        if found and not is_over.is_set():
            into.add(int(found[1], 16))
        elif b"MADV_DONTNEED" in line:
            into = later


def hit(program, addresses):
    """The names of the functions that have these addresses."""
    with open(program, "rb") as of:
        elf = of.read()
    rows = list(crate_sizes.sections(elf))
    symbols = sorted((value, size, name) for name, value, size in crate_sizes.symbols(elf, rows))
    starts = [value for value, _, _ in symbols]
    names = set()
    for address in addresses:
        at = bisect.bisect_right(starts, address) - 1
        # All names of the same bytes: another build may have them apart.
        while at >= 0 and symbols[at][0] + symbols[at][1] > address:
            names.add(symbols[at][2])
            at -= 1
    names = {name for name in names if not name.startswith("OUTLINED_FUNCTION_")}
    of_rust = "\n".join(sorted(name for name in names if name.startswith("_R")))
    awk = os.path.join(HERE, "hot.awk")
    short = subprocess.run(["awk", "-v", "names=1", "-f", awk], input=of_rust, capture_output=True, text=True, check=True)
    return {*short.stdout.split(), *(n for n in names if not n.startswith("_R"))}


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__.strip())
    program = os.path.realpath(sys.argv[1])
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        start, later = run(program, place)
    for trace in sys.argv[2:]:
        with open(trace, encoding="utf-8", errors="replace") as by:
            later |= {int(found, 16) for found in re.findall(r"^0x([0-9a-f]+):", by.read(), re.M)}
    with open(os.path.join(HERE, "hot.txt"), encoding="utf-8") as of:
        was_later, _, was_start = of.read().partition(LINE)
    later = hit(program, later)
    start = hit(program, start) | RUN_BY_ALL - later
    later |= set(was_later.split()) - start
    start |= set(was_start.split())
    print("\n".join([*sorted(later), LINE, *sorted(start - later)]))


if __name__ == "__main__":
    main()
