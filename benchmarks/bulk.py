"""Large arguments and results: against the same bytes on a raw channel."""

from __future__ import annotations

import sys

from benchmarks.far_side import BULK, make_bytes
from benchmarks.host import Host, drain, read_exactly, run_raw
from benchmarks.measure import Row, medians, rates_row, take_turns

ROUNDS = 5
SIZE = 64 << 20


def measure(host: Host) -> list[Row]:
    """Return the rows of bulk data, each way."""
    data = make_bytes(SIZE)
    with host.connection() as conn, host.raw() as client:
        python = conn.python(python=sys.executable)
        channel = run_raw(client, BULK % SIZE)

        def raw_up() -> None:
            channel.sendall(b"u")
            channel.sendall(memoryview(data))  # type: ignore[arg-type]
            read_exactly(channel, 1)

        def raw_down() -> None:
            channel.sendall(b"d")
            drain(channel, SIZE)

        found = medians(
            take_turns(
                {
                    "up": lambda: python.call(len, data),
                    "raw up": raw_up,
                    "down": lambda: python.call(make_bytes, SIZE),
                    "raw down": raw_down,
                },
                rounds=ROUNDS,
            )
        )
    up, down, floor = "argument of 64 MiB", "result of 64 MiB", "raw channel"
    return [
        rates_row(up, SIZE, found["up"], floor, found["raw up"], at_least=0.6),
        rates_row(down, SIZE, found["down"], floor, found["raw down"], at_least=0.6),
    ]
