"""The TCP socket under a connection: without Nagle's delay, and prompt in its handshake."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from paramiko import Channel, Transport


class PromptSocket(socket.socket):
    """A TCP socket that acknowledges at once while its SSH connection is set up.

    sshd leaves Nagle's algorithm on until a session starts, and waits for our
    delayed acknowledgement before it sends the rest: some 40 ms each time.
    ``prompt`` is switched off once the first session is open.
    """

    prompt = True

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        if self.prompt:
            _acknowledge(self)
        return data


def _acknowledge(sock: socket.socket) -> None:
    option = getattr(socket, "TCP_QUICKACK", None)
    if option is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, 1)


def connect(host: str, port: int, timeout: float | None) -> PromptSocket:
    """Return a connected socket, trying each address of ``host``; raise OSError if none does."""
    found = socket.create_connection((host, port), timeout)
    made = PromptSocket(found.family, found.type, found.proto, fileno=found.detach())
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _acknowledge(made)
    return made


def hurry(transport: Transport) -> None:
    """Switch Nagle's delay off below an open transport, through gateways too."""
    sock: Any = transport.sock
    while isinstance(sock, Channel):
        sock = sock.get_transport().sock
    if isinstance(sock, socket.socket) and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def calm(transport: Transport) -> None:
    """The first session is open: let the kernel acknowledge as it likes."""
    if isinstance(transport.sock, PromptSocket):
        transport.sock.prompt = False
