"""The server that is measured against, and ways to it: fabremote's and paramiko's own."""

from __future__ import annotations

import shlex
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import paramiko

from fabremote import Connection
from fabremote.demo.server import Server

CHUNK = 262144


class RawSocket(socket.socket):
    """A TCP socket that acknowledges at once, if asked; see `Host.raw`."""

    prompt = False

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        if self.prompt and hasattr(socket, "TCP_QUICKACK"):
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data


@dataclass(frozen=True)
class Host:
    """A loopback server and the connections that the benchmarks make to it."""

    server: Server

    def connection(self, port: int | None = None) -> Connection:
        """Return a connection of fabremote's, not yet open; ``port``: another that leads here."""
        server = self.server
        return Connection(
            server.hosts[0],
            user=server.user,
            port=port or server.port,
            connect_kwargs=server.connect_kwargs,
        )

    def raw(self, prompt: bool = False, address: str | None = None) -> paramiko.SSHClient:
        """Return an open connection of paramiko's, Nagle's delay off before its handshake.

        ``prompt``: without delayed acknowledgements either. ``address``: another
        one of the server's than its first.
        """
        server = self.server
        address = address or server.hosts[0]
        found = socket.create_connection((address, server.port))
        sock = RawSocket(found.family, found.type, found.proto, fileno=found.detach())
        sock.prompt = prompt
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect(address, server.port, server.user, sock=sock, **server.connect_kwargs)
        return client


def same_python(directory: Path) -> dict[str, str]:
    """Return an environment whose ``pythonX.Y`` is this one, so that all measure the same."""
    folder = directory / "bin"
    folder.mkdir()
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    script = folder / name
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    script.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def run_raw(client: paramiko.SSHClient, script: str) -> paramiko.Channel:
    """Return a new channel in which this Python runs ``script``."""
    transport = client.get_transport()
    if transport is None:
        raise RuntimeError("the raw connection is closed")
    channel = transport.open_session()
    channel.exec_command(f"exec {shlex.quote(sys.executable)} -c {shlex.quote(script)}")
    return channel


def read_exactly(channel: paramiko.Channel, size: int) -> bytes:
    """Return ``size`` bytes from the channel; raise EOFError if it ends before."""
    data = b""
    while len(data) < size:
        piece = channel.recv(size - len(data))
        if not piece:
            raise EOFError("the far side ended the channel")
        data += piece
    return data


def drain(channel: paramiko.Channel, size: int | None = None) -> int:
    """Read and drop ``size`` bytes, or all there are until the end; return how many."""
    count = 0
    while size is None or count < size:
        piece = channel.recv(CHUNK)
        if not piece:
            break
        count += len(piece)
    return count
