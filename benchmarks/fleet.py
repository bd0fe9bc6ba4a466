"""Many hosts at once: against as many raw connections in as many threads."""

from __future__ import annotations

import concurrent.futures
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import paramiko

from benchmarks.calls import forked
from benchmarks.far_side import FORK_PER_CALL
from benchmarks.host import Host, run_raw, same_python
from benchmarks.measure import Row, medians, times_row
from fabremote import ThreadingGroup
from fabremote.demo.server import Server, serve

HOSTS = 64
# An sshd listens on no more addresses than this.
EACH = 16
ROUNDS = 3
NEXT = 5
NAMES = ("connect and first call", "the next call")


def measure(_: Host) -> list[Row]:
    """Return the rows of 64 hosts: connecting and the first call, and a later one."""
    with tempfile.TemporaryDirectory() as directory, fleet(Path(directory)) as hosts:
        turns = [(_ours(hosts), _raw(hosts)) for _ in range(ROUNDS)]
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


@contextmanager
def fleet(directory: Path) -> Iterator[list[Host]]:
    """Serve 64 addresses, all of them this machine's, with one key."""
    with ExitStack() as opened:
        first: Server | None = None
        hosts = []
        for start in range(0, HOSTS, EACH):
            folder = directory / str(start)
            folder.mkdir()
            for name in ("client_key", "client_key.pub") if first is not None else ():
                shutil.copy(Path(first.key).with_name(name), folder)  # type: ignore[union-attr]
            server = serve(folder, env=same_python(folder))
            server.hosts = [f"127.0.1.{start + number}" for number in range(1, EACH + 1)]
            opened.enter_context(server)
            first = first or server
            hosts.append(Host(server))
        yield hosts


def _ours(hosts: list[Host]) -> tuple[float, float]:
    names = [f"{name}:{host.server.port}" for host in hosts for name in host.server.hosts]
    server = hosts[0].server
    with ThreadingGroup(*names, user=server.user, connect_kwargs=server.connect_kwargs) as group:
        python = group.python(python=sys.executable)
        return _timed(lambda: python.call(len, "abc"))


def _raw(hosts: list[Host]) -> tuple[float, float]:
    channels: dict[str, paramiko.Channel] = {}
    places = [(host, address) for host in hosts for address in host.server.hosts]
    with ExitStack() as opened, concurrent.futures.ThreadPoolExecutor(HOSTS) as pool:

        def call(place: tuple[Host, str]) -> Any:
            host, address = place
            if address not in channels:
                client = opened.enter_context(host.raw(address=address))
                channels[address] = run_raw(client, FORK_PER_CALL)
            return forked(channels[address])

        return _timed(lambda: list(pool.map(call, places)))


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of the first run, and the median of those of the next."""
    seconds = []
    for _ in range(NEXT + 1):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds[0], sorted(seconds[1:])[NEXT // 2]
