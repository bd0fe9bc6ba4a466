"""Taking turns on the clock, and the rows of the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

HEADINGS = ("what", "fabremote", "floor", "floor's", "ratio", "target", "", "peak memory")


@dataclass(frozen=True)
class Row:
    """One comparison: both sides as text, their ratio, and the target if there is one.

    ``memory``: what it took at its peak, for the rows that tell.
    """

    what: str
    ours: str
    floor: str
    floors: str
    ratio: float
    at_most: float | None = None
    at_least: float | None = None
    memory: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the texts of the table's columns."""
        return (
            self.what,
            self.ours,
            self.floor,
            self.floors,
            f"{self.ratio:.2f}",
            self._target(),
            self._verdict(),
            self.memory,
        )

    def _target(self) -> str:
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return f">= {self.at_least:g}" if self.at_least is not None else "-"

    def _verdict(self) -> str:
        if self.at_most is not None:
            return "met" if self.ratio <= self.at_most else "missed"
        if self.at_least is not None:
            return "met" if self.ratio >= self.at_least else "missed"
        return ""


def take_turns(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    each: int = 1,
    warm: int = 1,
    after: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Return the seconds of each contender's runs: ``each`` in a row, ``rounds`` times.

    ``warm`` runs of each come first and don't count. ``after`` follows every
    run, off the clock. The order moves on by one from round to round.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-1, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            for _ in range(warm if turn < 0 else each):
                began = time.perf_counter()
                contenders[name]()
                elapsed = time.perf_counter() - began
                after()
                if turn >= 0:
                    seconds[name].append(elapsed)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Return each contender's median in seconds."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def percentile(values: list[float], percent: int) -> float:
    """Return the value that so many percent of the values don't exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def milliseconds(seconds: float) -> str:
    """Return a time as the table gives it."""
    return f"{seconds * 1e3:.2f} ms"


def rate(size: int, seconds: float) -> str:
    """Return bytes over seconds as the table gives it."""
    return f"{size / seconds / 1e6:.1f} MB/s"


def times_row(what: str, ours: float, floor: str, floors: float, **target: Any) -> Row:
    """Return the row of two times."""
    return Row(what, milliseconds(ours), floor, milliseconds(floors), ours / floors, **target)


def rates_row(what: str, size: int, ours: float, floor: str, floors: float, **target: Any) -> Row:
    """Return the row of two rates: ``size`` bytes in ``ours`` and in ``floors`` seconds."""
    return Row(what, rate(size, ours), floor, rate(size, floors), floors / ours, **target)


def table(rows: list[Row]) -> str:
    """Return the rows as aligned text under their headings."""
    lines = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = [lines[0], tuple("-" * width for width in widths), *lines[1:]]
    aligned = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in ruled
    ]
    return "\n".join(line.rstrip() for line in aligned)
