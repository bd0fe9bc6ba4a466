"""Calls in a process that stays, and several at once: against an echo on the raw channel."""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.far_side import ECHO, sleep
from benchmarks.host import Host, read_exactly, run_raw
from benchmarks.measure import Row, medians, percentile, take_turns, times_row
from fabremote import Interpreter

ROUNDS = 20
EACH = 50
IN_FLIGHT = 8
CALLS = 400


def measure(host: Host) -> list[Row]:
    """Return the rows of lasting calls and of calls in flight."""
    with host.connection() as conn, host.raw() as client:
        fresh, bound = (conn.python(python=sys.executable) for _ in range(2))
        channel = run_raw(client, ECHO)

        def echo() -> None:
            channel.sendall(b"e" * 100)
            read_exactly(channel, 100)

        with bound as lasting:
            seconds = take_turns(
                {"lasting": lambda: lasting.call(len, "abc"), "echo": echo},
                rounds=ROUNDS,
                each=EACH,
                warm=EACH,
            )
            eight = {
                "fresh": functools.partial(in_flight, fresh, len, ["abc"] * CALLS),
                "lasting": functools.partial(in_flight, lasting, len, ["abc"] * CALLS),
                "sleep": functools.partial(in_flight, fresh, sleep, [0.1] * IN_FLIGHT),
            }
            found = medians(take_turns(eight, rounds=3))
    ours, floor = seconds["lasting"], seconds["echo"]
    what, least = "call in a lasting process", "100 bytes echoed on a raw channel"
    halves = statistics.median(ours), statistics.median(floor)
    ends = percentile(ours, 99), percentile(floor, 99)
    return [
        times_row(f"{what}, p50", halves[0], least, halves[1], at_most=1.3),
        times_row(f"{what}, p99", ends[0], least, ends[1], at_most=3),
        _rate_row("in fresh processes", CALLS / found["fresh"], 800),
        _rate_row("in a lasting process", CALLS / found["lasting"], 6600),
        times_row("8 sleeps of 0.1 s at once", found["sleep"], "one sleep", 0.1, at_most=1.3),
    ]


def _rate_row(where: str, rate: float, target: int) -> Row:
    what = f"{IN_FLIGHT} calls in flight {where}"
    return Row(what, f"{rate:.0f} /s", "target", f"{target} /s", rate / target, at_least=1)


def in_flight(python: Interpreter, fn: Callable[..., Any], values: Sequence[Any]) -> float:
    """Call ``fn`` with each of the values, eight at a time; return the seconds it took."""
    began = time.perf_counter()
    waiting = []
    for value in values:
        waiting.append(python.submit(fn, value))
        if len(waiting) == IN_FLIGHT:
            waiting.pop(0).result()
    for future in waiting:
        future.result()
    return time.perf_counter() - began
