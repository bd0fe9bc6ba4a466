"""Large arguments and results: against the same bytes on a raw channel, and in memory."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import memory
from benchmarks.far_side import BULK, make_array, make_bytes
from benchmarks.host import Host, drain, read_exactly, run_raw
from benchmarks.measure import Row, medians, rates_row, take_turns

ROUNDS = 7
SIZE = 64 << 20
GIGABYTE = 1 << 30


def measure(host: Host) -> list[Row]:
    """Return the rows of 64 MiB, each way."""
    return _rows(host, SIZE, "64 MiB", ROUNDS)


def measure_gigabyte(host: Host) -> list[Row]:
    """Return the rows of 1 GiB, each way."""
    return _rows(host, GIGABYTE, "1 GiB", 3)


def _rows(host: Host, size: int, name: str, rounds: int) -> list[Row]:
    import numpy

    data, array = make_bytes(size), numpy.ones(size // 8)
    with host.connection() as conn, host.raw() as client:
        settings: dict[str, Any] = {"python": sys.executable, "max_result": 2 * size}
        python = conn.python(**settings)
        channel = run_raw(client, BULK % size)

        def raw_up() -> None:
            channel.sendall(b"u")
            channel.sendall(memoryview(data))  # type: ignore[arg-type]
            read_exactly(channel, 1)

        def raw_down() -> None:
            channel.sendall(b"d")
            drain(channel, size)

        # A fresh process would have to import NumPy first, which says nothing of the transfer.
        with conn.python(**settings) as lasting:
            lasting.call(make_array, 8)
            contenders: dict[str, Callable[[], Any]] = {
                "bytes up": functools.partial(python.call, len, data),
                "array up": functools.partial(lasting.call, len, array),
                "raw up": raw_up,
                "bytes down": functools.partial(python.call, make_bytes, size),
                "array down": functools.partial(lasting.call, make_array, size),
                "raw down": raw_down,
            }
            found = medians(take_turns(contenders, rounds=rounds))
        rows = []
        for what, way in (("bytes", "up"), ("bytes", "down"), ("array", "up"), ("array", "down")):
            argument = len if way == "up" else make_bytes if what == "bytes" else make_array
            given = (data if what == "bytes" else array) if way == "up" else size
            with memory.watched(python) as peaks:
                python.call(argument, given)  # type: ignore[arg-type]
            kind = "bytes" if what == "bytes" else "a float64 array, lasting process"
            row = rates_row(
                f"{'argument' if way == 'up' else 'result'} of {name}, {kind}",
                size,
                found[f"{what} {way}"],
                "raw channel",
                found[f"raw {way}"],
                at_least=0.9,
                memory=peaks.text(size),
            )
            rows.append(row)
    return rows
