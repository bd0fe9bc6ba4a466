"""How soon nothing runs for a call that is over or cut off, and what the heartbeat costs."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.host import Host
from benchmarks.measure import Row, medians, take_turns, times_row
from fabremote import Connection, RemoteConnectionLost, RemoteTimeout
from fabremote.connection import Config
from fabremote.demo import processes

ROUNDS = 30
EACH = 20
TIMES = 15
SILENCES = 5
BEAT = 0.5
# What may be asked for, in seconds.
AFTER_AN_END = 0.5
AFTER_A_DEATH = 2.0
# A link is given up after three signs of life that don't come.
AFTER_SILENCE = 3 * BEAT + 2.0

CALLER = """
import sys
from benchmarks.faults import stubborn
from fabremote import Connection
path, host, user, port, key = sys.argv[1:]
c = Connection(host, user, int(port), connect_kwargs={"key_filename": key})
c.call(stubborn, path)
"""


def stubborn(path: str) -> None:
    """Note the pids of this process and of a child, both deaf to SIGTERM, and go on."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
    with open(path + ".part", "w") as stream:
        stream.write(f"{os.getpid()} {child.pid}")
    os.rename(path + ".part", path)
    time.sleep(100)


def measure(host: Host) -> list[Row]:
    """Return the rows of both."""
    server = host.server

    def connection(heartbeat: float) -> Connection:
        config = Config(overrides={"remotely": {"heartbeat": heartbeat}})
        place: dict[str, Any] = {"port": server.port, "connect_kwargs": server.connect_kwargs}
        return Connection(server.hosts[0], server.user, config=config, **place)

    with connection(15) as usual, connection(0.2) as quick, connection(0) as without:
        rows = _cost({"usual": usual, "quick": quick, "without": without})
        usual.call(len, "abc")  # starts the agent of the calls to come
        for what, end in (("timeout", _at_timeout), ("cancel", _at_cancel)):
            once = functools.partial(end, usual)
            rows.append(_row(f"gone after a {what}", once, AFTER_AN_END))
    rows.append(_row("gone after the caller's death", lambda: _at_death(host), AFTER_A_DEATH))
    what = f"given up by both ends after silence, heartbeat of {BEAT:g} s"
    rows.append(_row(what, lambda: _at_silence(host), AFTER_SILENCE, SILENCES))
    return rows


def _cost(connections: dict[str, Connection]) -> list[Row]:
    """Return what a call takes with each heartbeat: of time, and of both ends' processors."""
    calls = {
        name: functools.partial(one.python(python=sys.executable).call, len, "abc")
        for name, one in connections.items()
    }
    found = medians(take_turns(calls, rounds=ROUNDS, each=EACH, warm=EACH))
    busy = {name: functools.partial(_busy, _agent(one)) for name, one in connections.items()}
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(ROUNDS):
        names = list(calls)
        for name in names[turn % 3 :] + names[: turn % 3]:
            before = busy[name]()
            for _ in range(EACH):
                calls[name]()
            spent[name].append((busy[name]() - before) / EACH)
    worked = medians(spent)
    rows = []
    for name, how in (("usual", "heartbeat of 15 s"), ("quick", "heartbeat of 0.2 s")):
        # The time on the clock varies by more than what is looked for.
        for what, took, most in (("call", found, None), ("processors of a call", worked, 1.02)):
            floor = took["without"]
            rows.append(
                times_row(f"{what}, {how}", took[name], "no heartbeat", floor, at_most=most)
            )
    return rows


def _agent(connection: Connection) -> int:
    """Return the pid of a connection's supervisor."""
    forker = connection.python(python=sys.executable).call(os.getppid)
    return processes.running()[forker].parent


def _busy(agent: int) -> float:
    """Return how many seconds this process and an agent's have kept a processor busy."""
    nanoseconds = Path(f"/proc/{agent}/schedstat").read_text().split()[0]
    return time.process_time() + int(nanoseconds) / 1e9


def _row(what: str, once: Callable[[], float], limit: float, times: int = TIMES) -> Row:
    longest = max(once() for _ in range(times))
    return times_row(f"{what}, longest of {times}", longest, "limit", limit, at_most=1)


def _at_timeout(connection: Connection) -> float:
    """Return how long after the timeout the processes are gone and the call has raised it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pids")
        began = time.monotonic()
        try:
            connection.python(timeout=0.5).call(stubborn, str(path))
        except RemoteTimeout:
            return _gone(_pids(path)) - began - 0.5
        raise RuntimeError("no timeout")


def _at_cancel(connection: Connection) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pids")
        future = connection.python().submit(stubborn, str(path))
        pids = _pids(path)
        began = time.monotonic()
        future.cancel()
        return _gone(pids) - began


def _at_death(host: Host) -> float:
    server = host.server
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pids")
        where = [
            server.hosts[0],
            server.user,
            str(server.port),
            server.connect_kwargs["key_filename"],
        ]
        caller = subprocess.Popen([sys.executable, "-c", CALLER, str(path), *where])
        pids = _pids(path)
        began = time.monotonic()
        caller.kill()
        gone = _gone(pids)
        caller.wait()
        return gone - began


def _at_silence(host: Host) -> float:
    """Return how long after a link carries nothing any more both ends have given it up."""
    server = host.server
    carries = threading.Event()
    carries.set()
    target = server.hosts[0], server.port
    with tempfile.TemporaryDirectory() as folder, _relay(target, carries) as port:
        path = Path(folder, "pids")
        config = Config(overrides={"remotely": {"heartbeat": BEAT}})
        place: dict[str, Any] = {"port": port, "connect_kwargs": server.connect_kwargs}
        with Connection("127.0.0.1", server.user, config=config, **place) as connection:
            future = connection.python().submit(stubborn, str(path))
            pids = _pids(path)
            carries.clear()
            began = time.monotonic()
            _gone(pids)
            if not isinstance(future.exception(60), RemoteConnectionLost):
                raise RuntimeError("the link was not lost")
            seconds = time.monotonic() - began
            carries.set()
        return seconds


@contextlib.contextmanager
def _relay(target: tuple[str, int], carries: threading.Event) -> Iterator[int]:
    """Serve a port whose one connection goes to ``target`` while ``carries`` is set."""
    ends: list[socket.socket] = []

    def carry(source: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                carries.wait()
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    def accept() -> None:
        ends.append(listener.accept()[0])
        ends.append(socket.create_connection(target))
        for pair in (ends, ends[::-1]):
            threads.append(threading.Thread(target=carry, args=pair))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        yield listener.getsockname()[1]
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    for end in ends:
        end.close()


def _pids(path: Path) -> list[int]:
    while not path.exists():
        time.sleep(0.001)
    return [int(word) for word in path.read_text().split()]


def _gone(pids: list[int]) -> float:
    """Return when none of these processes was left, on the monotonic clock."""
    while any(pid in processes.running() for pid in pids):
        time.sleep(0.001)
    return time.monotonic()
