"""Printed output: against the same script on a raw channel."""

from __future__ import annotations

import sys

from benchmarks.far_side import PRINTING, print_lines
from benchmarks.host import Host, drain, run_raw
from benchmarks.measure import Row, medians, rates_row, take_turns

ROUNDS = 5
LINES = 200_000
WIDTH = 79
SIZE = LINES * (WIDTH + 1)


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
        rates_row(what, SIZE, ours_took, "raw, sent by the line", found["lines"], at_least=0.5),
        rates_row(what, SIZE, ours_took, "raw, sent by the block", found["blocks"]),
    ]


def check(size: int) -> None:
    """Raise RuntimeError if output was lost: then its speed means nothing."""
    if size != SIZE:
        raise RuntimeError(f"{size} characters came of {SIZE} that were printed")
