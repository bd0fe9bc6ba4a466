"""The way to a scheduler behind a gateway: a port of this machine that SSH forwards.

::

    Client ── TCP ──> Way ── a channel for each connection ──> scheduler

Fabric's `forward_local` ends for good with the first connection that is refused there, as those
of a client are whose scheduler dies, and raises that when it is closed.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

from paramiko import SSHException

from fabremote.connection import CHANNEL_TIMEOUT
from fabremote.threads import start_thread

PIECE = 1 << 15
# Who is to be disconnected at once is given so long to say something first, in seconds: tornado
# takes a connection that ends before its TLS begins for a mistake, not for one that has ended.
HEARING = 0.5


class Way:
    """Forwards ``port``, a free one of this machine, over a connection.

    ``connection``: Fabric's, which is open. ``host``, ``port``: where to, as its
    host knows it.
    """

    def __init__(self, connection: Any, host: str, port: int) -> None:
        self._connection, self._goal = connection, (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._over = False
        self._carried: set[socket.socket] = set()
        self._thread = start_thread("fabremote-way", self._listen)

    def close(self) -> None:
        """Carry nothing any more: what is connected is disconnected."""
        self._over = True
        with contextlib.suppress(OSError):
            # Nothing else wakes who waits for a connection, on every system.
            socket.create_connection(("127.0.0.1", self.port), 5).close()
        self._thread.join(5)
        self._listener.close()
        for one in self._carried.copy():
            _end(one)

    def _listen(self) -> None:
        while not self._over:
            try:
                here, address = self._listener.accept()
            except OSError:  # Who came is gone; or too much is open here for now.
                time.sleep(0.05)
                continue
            if self._over:
                here.close()
                break
            self._carried.add(here)
            start_thread("fabremote-way", self._carry, here, address)

    def _carry(self, here: socket.socket, address: tuple[str, int]) -> None:
        try:
            # If it is refused, who connects here is disconnected.
            with here, contextlib.suppress(OSError, SSHException, EOFError):
                # Where who came is gone already, some systems refuse this.
                here.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    there = self._connection.transport.open_channel(
                        "direct-tcpip", self._goal, address, timeout=CHANNEL_TIMEOUT
                    )
                except (OSError, SSHException, EOFError):
                    here.settimeout(HEARING)
                    here.recv(1)
                    raise
                with contextlib.closing(there):
                    self._exchange(here, there)
        finally:
            self._carried.discard(here)

    def _exchange(self, here: socket.socket, there: Any) -> None:
        """Hand on what comes, both ways, until either end has ended."""

        def down() -> None:
            _hand_on(there.recv, here.sendall)
            _end(here)

        thread = start_thread("fabremote-way-down", down)
        _hand_on(here.recv, there.sendall)
        there.close()
        thread.join()


def _hand_on(receive: Callable[[int], bytes], send: Callable[[bytes], object]) -> None:
    with contextlib.suppress(OSError, SSHException):
        while piece := receive(PIECE):
            send(piece)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


__all__ = ["Way"]
