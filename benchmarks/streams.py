"""Streams of values: against the same bytes and round trips on a raw channel."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import Any

from benchmarks.far_side import BULK, ITEMS
from benchmarks.host import Host, drain, read_exactly, run_raw
from benchmarks.measure import Row, medians, rates_row, take_turns, times_row
from fabremote import ahead

ROUNDS = 5
PIECE = 1 << 20
PIECES = 64
SMALL = 5000
TRIPS = 300
# What an item's message takes, about.
BODY = 24


def pieces() -> Iterator[bytes]:
    """Yield 64 MiB."""
    piece = b"\x5a" * PIECE
    for _ in range(PIECES):
        yield piece


def numbers(count: int) -> Iterator[int]:
    """Yield numbers."""
    yield from range(count)


def echo() -> Generator[Any, Any, None]:
    """Yield what is sent."""
    got = None
    while True:
        got = yield got


def use(items: Iterator[Any]) -> int:
    """Count items."""
    return sum(1 for _ in items)


def measure(host: Host) -> list[Row]:
    """Return the rows of streams: of large items, of small ones, and of round trips."""
    with host.connection() as conn, host.raw() as client, host.raw() as second:
        python = conn.python(python=sys.executable)
        bulk = run_raw(client, BULK % (PIECE * PIECES))
        items = run_raw(second, ITEMS % (BODY, SMALL))

        def raw_down() -> None:
            bulk.sendall(b"d")
            drain(bulk, PIECE * PIECES)

        def raw_trips() -> None:
            for _ in range(TRIPS):
                items.sendall(b"e")
                read_exactly(items, BODY)

        def raw_items() -> None:
            items.sendall(b"i")
            for _ in range(SMALL):
                read_exactly(items, BODY)

        def trips() -> None:
            stream = python.call(echo)
            next(stream)
            for number in range(TRIPS):
                stream.send(number)
            stream.close()

        found = medians(
            take_turns(
                {
                    "large": lambda: use(python.call(pieces)),
                    "raw large": raw_down,
                    "small": lambda: use(python.call(numbers, SMALL)),
                    "raw small": raw_items,
                    "trips": trips,
                    "pulled": lambda: python.call(use, numbers(TRIPS)),
                    "raw trips": raw_trips,
                    "ahead": lambda: python.call(use, ahead(range(SMALL), 1000)),
                },
                rounds=ROUNDS,
            )
        )
    large = found["large"], "raw channel", found["raw large"]
    return [
        rates_row("64 items of 1 MiB", PIECE * PIECES, *large),
        times_row(f"{SMALL} numbers", found["small"], "raw, as many", found["raw small"]),
        times_row(f"{SMALL} numbers ahead", found["ahead"], "raw, down", found["raw small"]),
        times_row(f"{TRIPS} send()", found["trips"], "raw echoes", found["raw trips"]),
        times_row(f"{TRIPS} items pulled", found["pulled"], "raw echoes", found["raw trips"]),
    ]
