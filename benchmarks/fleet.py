"""Many hosts at once: against as many raw connections in as many threads."""

from __future__ import annotations

import concurrent.futures
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paramiko

from benchmarks.calls import forked
from benchmarks.far_side import FORK_PER_CALL
from benchmarks.host import Host, run_raw, same_python
from benchmarks.measure import Row, medians, times_row
from fabremote import ThreadingGroup
from fabremote.demo.server import serve

HOSTS = 64
ROUNDS = 3
NEXT = 5


def measure(_: Host) -> list[Row]:
    """Return the rows of 64 hosts: connecting and the first call, and a later one."""
    with tempfile.TemporaryDirectory() as directory:
        # All are this machine, by other addresses.
        server = serve(Path(directory), env=same_python(Path(directory)))
        server.hosts = [f"127.0.1.{number}" for number in range(1, HOSTS + 1)]
        with server:
            turns = [(_ours(Host(server)), _raw(Host(server))) for _ in range(ROUNDS)]
    ours, raw = (
        medians({name: [turn[side][at] for turn in turns] for at, name in enumerate(NAMES)})
        for side in (0, 1)
    )
    first, later = NAMES
    floor = f"{HOSTS} raw connections, a fork per call"
    return [
        times_row(f"{HOSTS} hosts: {first}", ours[first], floor, raw[first], at_most=1.15),
        times_row(f"{HOSTS} hosts: {later}", ours[later], floor, raw[later], at_most=1.5),
    ]


NAMES = ("connect and first call", "the next call")


def _ours(host: Host) -> tuple[float, float]:
    server = host.server
    settings = {"user": server.user, "port": server.port}
    with ThreadingGroup(*server.hosts, **settings, connect_kwargs=server.connect_kwargs) as group:
        python = group.python(python=sys.executable)
        return _timed(lambda: python.call(len, "abc"))


def _raw(host: Host) -> tuple[float, float]:
    channels: dict[str, paramiko.Channel] = {}
    with ExitStack() as opened, concurrent.futures.ThreadPoolExecutor(HOSTS) as pool:

        def call(address: str) -> Any:
            if address not in channels:
                client = opened.enter_context(host.raw(address=address))
                channels[address] = run_raw(client, FORK_PER_CALL)
            return forked(channels[address])

        return _timed(lambda: list(pool.map(call, host.server.hosts)))


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of the first run, and the median of those of the next."""
    seconds = []
    for _ in range(NEXT + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds[0], sorted(seconds[1:])[NEXT // 2]
