"""What the tests of faults share: a link that can go dead, hosts of their own, what is left."""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fabremote import Connection
from fabremote.connection import Config
from fabremote.demo.openssh import OpenSSHServer, find_sshd
from fabremote.demo.server import Server


class Relay:
    """A TCP relay to a server: its links can be made to carry nothing, or be cut on one side."""

    def __init__(self, server: Server) -> None:
        self._target = server.hosts[0], server.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._left = 0
        self._answers = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def hold(self, after: int = 0, answers: bool = False) -> None:
        """Carry nothing any more in either direction, and keep every link open.

        ``after``: once so many bytes more have come for the server. ``answers``: only
        what comes from there is held.
        """
        self._left, self._answers = after, answers
        if not after:
            self._open.clear()

    @property
    def holds(self) -> bool:
        """Whether nothing is carried now."""
        return not self._open.is_set()

    def release(self) -> None:
        """Carry on; links that were held are gone."""
        self._cut(0, 1)
        self._open.set()

    def reset(self) -> None:
        """Carry on; links that were held are reset, as by a host that knows nothing of them."""
        # Not those that are made meanwhile.
        for near, _ in list(self._pairs):
            if near.fileno() >= 0:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                near.close()
        self._open.set()

    def resume(self) -> None:
        """Carry on, with what was held up."""
        self._open.set()

    def cut_behind(self) -> None:
        """End the links' far side only: the near one is half open."""
        self._open.clear()
        self._cut(1)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._open.set()
        self._cut(0, 1)
        for thread in self._threads:
            thread.join(10)
        for pair in self._pairs:
            for sock in pair:
                sock.close()

    def _cut(self, *sides: int) -> None:
        for pair in list(self._pairs):
            for side in sides:
                with contextlib.suppress(OSError):
                    pair[side].shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            self._pairs.append((near, far))
            for source, target in ((near, far), (far, near)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=self._carry, args=(source, target, near))
                thread.start()
                self._threads.append(thread)

    def _carry(self, source: socket.socket, target: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source is near and self._left:
                    self._left = max(0, self._left - len(data))
                    if not self._left:
                        self._open.clear()
                if not (self._answers and source is near):
                    self._open.wait()
                target.sendall(data)
        self._open.wait()
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relayed(server: Server) -> Iterator[Relay]:
    """A relay to ``server``."""
    relay = Relay(server)
    try:
        yield relay
    finally:
        relay.close()


@contextlib.contextmanager
def host(directory: Path, **settings: Any) -> Iterator[OpenSSHServer]:
    """An sshd of the test's own, on which nothing may be left running."""
    if find_sshd() is None:
        pytest.skip("no sshd on this machine")
    with OpenSSHServer(directory, **settings) as server:
        yield server
        assert settled(lambda: not server.processes()), server.processes()


def dial(server: Server, port: int | None = None, **remotely: Any) -> Connection:
    """A connection to a server, over another port if given, with settings of ours."""
    return Connection(
        server.hosts[0] if port is None else "127.0.0.1",
        user=server.user,
        port=port or server.port,
        config=Config(overrides={"remotely": remotely}),
        connect_kwargs=server.connect_kwargs,
    )


def settled(check: Callable[[], Any], seconds: float = 30.0) -> bool:
    """Whether ``check`` comes to be true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block must not take longer; generous, as it is hangs that are looked for."""
    before = time.monotonic()
    yield
    assert time.monotonic() - before < seconds


def each(cases: Mapping[str, Any], check: Callable[[Any], object]) -> None:
    """Have ``check`` pass for every case; tell of all that fail."""
    failures = []
    for name, case in cases.items():
        try:
            check(case)
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)


def program(path: Path, text: str) -> Path:
    """An executable script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def shell(name: str) -> str:
    """The path of a login shell; skips the test where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on this machine")
    return found
