"""``python -m benchmarks.soak [CALLS]``: many calls on one connection, and what has grown after.

Threads, descriptors and memory here, and processes, descriptors and memory of
the agent, and how long a call takes, at the beginning and as the calls go on.
Linux only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.__main__ import machine
from benchmarks.host import Host, same_python
from benchmarks.memory import agent_pids, status
from fabremote import Interpreter
from fabremote.demo.server import serve

CALLS = 100_000
REPORTS = 10
SETTLING = 2000
HEADINGS = (
    "calls",
    "p50 ms",
    "threads",
    "fds",
    "RSS MB",
    "there: fds",
    "supervisor MB",
    "forker MB",
)


def main() -> None:
    """Make the calls, a fresh process each, and one in ten in a lasting one; print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("calls", nargs="?", type=int, default=CALLS)
    count = parser.parse_args().calls
    print(machine(), end="\n\n", flush=True)
    print("  ".join(HEADINGS))
    with (
        tempfile.TemporaryDirectory() as directory,
        serve(Path(directory), env=same_python(Path(directory))) as server,
        Host(server).connection() as conn,
    ):
        fresh = conn.python(python=sys.executable)
        pids = fresh.call(agent_pids)
        with conn.python(python=sys.executable) as lasting:
            run(fresh, lasting, min(SETTLING, count))
            done = min(SETTLING, count)
            show(done, run(fresh, lasting, 100), pids)
            while done < count:
                step = min(max(1, count // REPORTS), count - done)
                seconds = run(fresh, lasting, step)
                done += step
                show(done, seconds, pids)


def run(fresh: Interpreter, lasting: Interpreter, count: int) -> list[float]:
    """Make so many calls; return the seconds of those in fresh processes."""
    seconds = []
    for number in range(count):
        if number % 10 == 9:
            lasting.call(len, "abc")
            continue
        began = time.perf_counter()
        fresh.call(len, "abc")
        seconds.append(time.perf_counter() - began)
    return seconds


def show(calls: int, seconds: list[float], pids: tuple[int, int]) -> None:
    """Print a row of the table."""
    forker, supervisor = pids
    row = (
        calls,
        f"{statistics.median(seconds) * 1e3:.2f}",
        threading.active_count(),
        len(os.listdir("/proc/self/fd")),
        f"{status('self', 'VmRSS') / 1e6:.1f}",
        len(os.listdir(f"/proc/{supervisor}/fd")),
        f"{status(supervisor, 'VmRSS') / 1e6:.1f}",
        f"{status(forker, 'VmRSS') / 1e6:.1f}",
    )
    widths = map(len, HEADINGS)
    print(
        "  ".join(str(cell).rjust(width) for cell, width in zip(row, widths, strict=True)),
        flush=True,
    )


if __name__ == "__main__":
    main()
