#!/usr/bin/env python3
"""All faulty servers, without superd and with it, in one table.

    table.py [--no-build]

Builds the real servers where they are not built (build.sh), runs the baselines (baseline.py) and the
tests with superd (tests/e2e/real_servers.rs, five_twins.rs), and prints one table. Status 0: every
baseline shows its fault often enough and every test passed; 1 else, with what failed below the table.

Not for: measuring rates well; N is what makes a fault sure to show, not what makes a good average.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# As the tests name them: the arguments of baseline.py.
BASELINES = [
    "caddy",
    "caddy --rival http",
    "caddy --rival int",
    "nats",
    "nats --signal INT",
    "quic",
    "quic-cut",
    "air",
    "go2rtc",
    "caddy --twin",
    "nats --twin",
    "quic --twin",
]
TESTS = ["real_servers", "five_twins"]

# What a status of baseline.py means.
SAYS = {
    1: "this machine does not show the fault often enough, so that the table proves nothing (above: how often)",
    2: "the recipe went wrong",
    77: "the server is not built",
}


def run(what, command, failed, says=(), **options):
    """Runs and shows it; its rows. Its status is noted in `failed`, as `says` has it."""
    print(f"-- {what}", flush=True)
    rows = []
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    for line in process.stdout:
        if line.startswith("row "):
            rows.append(json.loads(line[4:]))
        else:
            print(line, end="", flush=True)
    status = process.wait()
    if status:
        failed.append(f"{what}: {dict(says).get(status, f'status {status}')}")
    return rows


def table(rows):
    """Columns as wide as they must be."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--no-build", action="store_true", help="the servers are built already")
    options = parser.parse_args()
    began, failed = time.monotonic(), []
    if not options.no_build:
        run("the real servers", [HERE / "build.sh"], failed)
    run("superd, its tests and the twins", ["cargo", "test", "--no-run", "--test", "e2e"], failed)
    run("the twins", ["cargo", "build", "--examples"], failed)
    built = time.monotonic()

    without = {}
    for name in BASELINES:
        for row in run(name, [HERE / "baseline.py", *name.split(), "--row"], failed, SAYS):
            without[name] = row
    command = ["cargo", "test", "--test", "e2e", "--", *TESTS, "--nocapture"]
    rows = run("with superd", command, failed, env={**os.environ, "SUPERD_REQUIRE_SERVERS": "1"})

    def of(row):
        return f"{row['bad']} of {row['rounds']}" if row else "-"

    lines = [("server", "trigger", "without", "with", "longest stop")]
    for row in sorted(rows, key=lambda row: (row["server"], row["trigger"])):
        if row["without"] not in {"-", *BASELINES}:
            failed.append(f"{row['trigger']}: no baseline {row['without']}")
        if row["bad"]:
            failed.append(f"{row['server']}: {row['trigger']}: {of(row)} with superd")
        bare = of(without.get(row["without"]))
        lines.append((row["server"], row["trigger"], bare, of(row), f"{row['longest']:.3f} s"))
    print()
    table(lines)
    print(f"\n{time.monotonic() - built:.0f} s, and {built - began:.0f} s for building")
    if not rows:
        failed.append("no test told a result")
    for what in failed:
        print(f"FAILED: {what}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
