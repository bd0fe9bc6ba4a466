"""Printed output: against the same script on a raw channel."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from benchmarks import memory
from benchmarks.far_side import PRINTING, print_lines
from benchmarks.host import Host, drain, run_raw
from benchmarks.measure import Row, medians, rates_row, take_turns, times_row

ROUNDS = 5
LINES = 200_000
WIDTH = 79
SIZE = LINES * (WIDTH + 1)
# 300 MB.
FLOOD = 3_750_000


def measure(host: Host) -> list[Row]:
    """Return the rows of printing much."""
    with host.connection() as conn, host.raw() as client:
        python = conn.python(python=sys.executable, hide=True)

        def ours() -> None:
            result = python.run(print_lines, LINES, WIDTH)
            check(len(result.stdout))

        def raw(by_line: bool) -> None:
            check(drain(run_raw(client, PRINTING % (by_line, WIDTH, LINES))))

        contenders = {"ours": ours, "blocks": lambda: raw(False), "lines": lambda: raw(True)}
        found = medians(take_turns(contenders, rounds=ROUNDS))
    what, ours_took = "200,000 printed lines", found["ours"]
    return [
        # What a function prints is relayed live, line by line, so that is the floor.
        rates_row(what, SIZE, ours_took, "raw, sent by the line", found["lines"], at_least=0.8),
        rates_row(what, SIZE, ours_took, "raw, sent by the block", found["blocks"]),
    ]


def measure_flood(host: Host) -> list[Row]:
    """Return the row of 300 MB of prints, by what as many times 16 MB would take."""
    with host.connection() as conn:
        python = conn.python(python=sys.executable, hide=True)
        python.call(print_lines, LINES, WIDTH)
        little = statistics.median(
            [timed(lambda: python.call(print_lines, LINES, WIDTH)) for _ in range(ROUNDS)]
        )
        with memory.watched(python) as peaks:
            much = timed(lambda: python.call(print_lines, FLOOD, WIDTH))
    times = FLOOD / LINES
    what, floor = "300 MB of printed lines", f"16 MB {times:.3g} times"
    took = f"{peaks.here >> 20} MB here, {peaks.worker + peaks.supervisor >> 20} MB there"
    return [times_row(what, much, floor, little * times, at_most=1.2, memory=took)]


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def check(size: int) -> None:
    """Raise RuntimeError if output was lost: then its speed means nothing."""
    if size != SIZE:
        raise RuntimeError(f"{size} characters came of {SIZE} that were printed")
