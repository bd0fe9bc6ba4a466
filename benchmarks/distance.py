"""Calls over a link with delay: how many round trips each takes, through a relay of our own."""

from __future__ import annotations

import contextlib
import queue
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator

from benchmarks.host import Host
from benchmarks.measure import Row, milliseconds

ROUND_TRIP = 0.05
ROUNDS = 5
WARM = 10
# What is neither a round trip nor the link's fault.
SLACK = 1.2


def measure(host: Host) -> list[Row]:
    """Return the rows of a first and of a warm call at 50 ms."""
    first, warm = [], []
    with relay((host.server.hosts[0], host.server.port)) as port:
        for _ in range(ROUNDS):
            with host.connection(port) as conn:
                conn.open()
                python = conn.python(python=sys.executable)
                first.append(timed(lambda: python.call(len, "abc")))  # noqa: B023
                warm += [timed(lambda: python.call(len, "abc")) for _ in range(WARM)]  # noqa: B023
    return [
        _row("first call on an open connection", statistics.median(first), 3),
        _row("warm call", statistics.median(warm), 1),
    ]


def _row(what: str, seconds: float, trips: int) -> Row:
    floor = f"{trips} round trip{'s' if trips > 1 else ''} of {ROUND_TRIP * 1e3:.0f} ms"
    floors = trips * ROUND_TRIP
    ours = milliseconds(seconds)
    return Row(what, ours, floor, milliseconds(floors), seconds / floors, at_most=SLACK)


def timed(work: object) -> float:
    """Return how many seconds a call takes."""
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began


@contextlib.contextmanager
def relay(target: tuple[str, int]) -> Iterator[int]:
    """Serve a port whose connections go to ``target``, half a round trip later each way."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, target), daemon=True).start()
        yield listener.getsockname()[1]
        # Wakes the thread that accepts.
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, target: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(target)
            for one, other in ((near, far), (far, near)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                for work, end in ((_receive, one), (_send, other)):
                    threading.Thread(target=work, args=(end, waiting), daemon=True).start()


def _receive(one: socket.socket, waiting: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    data = b"-"
    while data:
        try:
            data = one.recv(1 << 18)
        except OSError:
            data = b""
        waiting.put((time.monotonic() + ROUND_TRIP / 2, data))


def _send(other: socket.socket, waiting: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    while True:
        due, data = waiting.get()
        time.sleep(max(0.0, due - time.monotonic()))
        with contextlib.suppress(OSError):
            if not data:
                other.shutdown(socket.SHUT_WR)
                return
            other.sendall(data)
