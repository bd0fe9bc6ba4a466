"""What is under a connection: a TCP socket without Nagle's delay, or a proxy command's pipe."""

from __future__ import annotations

import array
import contextlib
import contextvars
import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from paramiko import Channel, Transport

# Linux's request for an interface's IPv4 address; the answer has it at this offset.
SIOCGIFADDR = 0x8915
_IFREQ = struct.Struct("16s24x")
_IFREQ_ADDRESS = slice(20, 24)

# Seconds between attempts, and for a proxy command to end once its pipe is closed.
PAUSE = 1.0
PROXY_PATIENCE = 1.0
PROXY_GRACE = 0.2  # seconds for one to end that has closed its side
ENDING = 1.0  # seconds for a connection's thread to end that has been closed
GREETING = 64  # how much of what a server says first is kept, in bytes
FAMILY_NAMES: dict[int, str] = {socket.AF_INET: "inet", socket.AF_INET6: "inet6"}


class Hindrance(OSError):
    """An option of ours is in the way, not the host; ``remedy`` says what to do."""

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(text)
        self.remedy = remedy


class Aborted(OSError):
    """This side gave up the connection."""


class PromptSocket(socket.socket):
    """A TCP socket that acknowledges at once while its SSH connection is set up.

    sshd leaves Nagle's algorithm on until a session starts, and waits for our
    delayed acknowledgement before it sends the rest: some 40 ms each time.
    ``prompt`` is switched off once the first session is open. ``heard`` is when
    the last bytes came, on the monotonic clock; ``greeting`` what the first of
    them were. ``aborted``: whether this side gave it up.
    """

    prompt = True
    heard = 0.0
    greeting = b""
    aborted = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._starting = threading.Lock()

    def connect(self, address: Any, /) -> None:
        """Connect within the socket's timeout, unless `abort` comes before it or meanwhile."""
        limit = self.gettimeout()
        with self._starting:
            self._check()
            self.setblocking(False)
            error = self.connect_ex(address)
        self.settimeout(limit)
        if error == errno.EINPROGRESS:
            waiting = select.poll()
            waiting.register(self, select.POLLOUT)
            if not waiting.poll(None if limit is None else limit * 1000):
                raise TimeoutError("timed out")
            error = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._check()
        if error:
            raise OSError(error, os.strerror(error))

    def abort(self) -> None:
        """Have `connect` fail, whether it has begun or not."""
        with self._starting:
            self.aborted = True

    def _check(self) -> None:
        if self.aborted:
            raise Aborted("it was closed from this side")

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        self.heard = time.monotonic()
        if self.prompt:
            if len(self.greeting) < GREETING:
                self.greeting += data[:GREETING]
            _acknowledge(self)
        return data


class ProxySocket(socket.socket):
    """Our end of a proxy command's stdin and stdout; closing it ends the command.

    ``status``: the command's exit status, if it ended by itself.
    """

    process: subprocess.Popen[bytes] | None = None
    status: int | None = None
    _left = False

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        try:
            data = super().recv(size, flags)
        except ConnectionError:
            self._left = True
            raise
        self._left = not data
        return data

    def send(self, data: Any, flags: int = 0, /) -> int:
        try:
            return super().send(data, flags)
        except ConnectionError:
            self._left = True
            raise

    def close(self) -> None:
        super().close()
        process, self.process = self.process, None
        if process is None:
            return
        if self._left:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PROXY_GRACE)
        if process.poll() is not None:
            self.status = process.returncode
            return
        process.terminate()
        try:
            process.wait(PROXY_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# Told of each socket that `connect` makes, before it is connected.
_noted: contextvars.ContextVar[Callable[[socket.socket], None] | None] = contextvars.ContextVar(
    "noted", default=None
)


@contextlib.contextmanager
def noting(note: Callable[[socket.socket], None]) -> Iterator[None]:
    """Have ``note`` told of the sockets that this thread connects meanwhile."""
    token = _noted.set(note)
    try:
        yield
    finally:
        _noted.reset(token)


def let_go(client: Any) -> None:
    """Close an SSH client that did not get to be connected.

    Paramiko leaves a timer behind a handshake that is cut off, for whose 15 seconds
    the process doesn't end.
    """
    transport = client.get_transport()
    client.close()
    if transport is not None:
        # Ctrl-C may come before it was started.
        if transport.is_alive():
            transport.join(ENDING)
        transport.packetizer.complete_handshake()


def abort(sock: socket.socket) -> None:
    """End a socket's connecting or its connection, whatever thread waits for it."""
    if isinstance(sock, PromptSocket):
        sock.abort()
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _acknowledge(sock: socket.socket) -> None:
    option = getattr(socket, "TCP_QUICKACK", None)
    if option is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, 1)


def connect(
    host: str,
    port: int,
    timeout: float | None,
    *,
    family: int = socket.AF_UNSPEC,
    source: str | None = None,
    interface: str | None = None,
    attempts: int = 1,
    keepalive: bool = False,
    service: int | None = None,
) -> PromptSocket:
    """Return a connected socket, trying each address of ``host``; raise OSError if none does.

    ``timeout``: seconds for each address. ``family``: AF_INET or AF_INET6 to use
    no other. ``source``: the address, or ``interface``: the network interface
    whose address, to connect from. ``attempts``: how often to try, a second
    apart. ``keepalive``: let the kernel probe an idle peer. ``service``: the
    value of the IP header's type of service or traffic class.
    """
    for left in reversed(range(attempts)):
        try:
            return _connect_once(
                host, port, timeout, family, source, interface, keepalive, service
            )
        except OSError as error:
            if not left or isinstance(error, Aborted):
                raise
            time.sleep(PAUSE)
    raise ValueError(f"attempts={attempts!r} is not possible: give 1 or more.")


def _connect_once(
    host: str,
    port: int,
    timeout: float | None,
    family: int,
    source: str | None,
    interface: str | None,
    keepalive: bool,
    service: int | None,
) -> PromptSocket:
    failure: OSError = OSError(f"{host} has no address")
    for kind, _, protocol, _, address in _addresses(host, port, family):
        made = PromptSocket(kind, socket.SOCK_STREAM, protocol)
        note = _noted.get()
        if note is not None:
            note(made)
        try:
            _prepare(made, keepalive, service)
            _bind(made, source, interface)
            made.settimeout(timeout)
            made.connect(address)
        except OSError as error:
            made.close()
            if not isinstance(error, Hindrance) or failure.errno is None:
                failure = error
            continue
        _acknowledge(made)
        return made
    raise failure


def _addresses(host: str, port: int, family: int) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, socket.AddressFamily(family), socket.SOCK_STREAM)
    except socket.gaierror:
        if family == socket.AF_UNSPEC:
            raise
        socket.getaddrinfo(host, port)  # Where there is none at all, that is the error.
    name = FAMILY_NAMES.get(family, str(family))
    raise Hindrance(
        f"{host} has no address of the kind that AddressFamily={name} asks for",
        f"Give another address of {host}, or leave AddressFamily out.",
    )


def _prepare(made: socket.socket, keepalive: bool, service: int | None) -> None:
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if keepalive:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if service is not None and made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, service)
    elif service is not None:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, service)


def _bind(made: socket.socket, source: str | None, interface: str | None) -> None:
    option = f"BindInterface={interface}" if interface else f"BindAddress={source}"
    try:
        if interface is not None:
            source = interface_address(interface, made.family)
        if source is not None:
            found = socket.getaddrinfo(source, 0, made.family, made.type, made.proto)
            made.bind(found[0][4])
    except OSError as error:
        raise Hindrance(
            f"{option} can't be used: {error.strerror or error}",
            "Name one that this machine has, as `ip address` lists them, or leave the option out.",
        ) from error


def interface_address(name: str, family: int) -> str:
    """Return this machine's first address of ``family`` on a network interface (Linux only).

    Raises OSError if there is none.
    """
    if not sys.platform.startswith("linux"):
        raise OSError(f"the addresses of {name} can't be read on {sys.platform}")
    socket.if_nametoindex(name)  # says so itself if there is no such interface
    if family == socket.AF_INET6:
        return _interface_address6(name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = array.array("B", _IFREQ.pack(name.encode()))
        fcntl.ioctl(probe, SIOCGIFADDR, request)
    return socket.inet_ntoa(request[_IFREQ_ADDRESS].tobytes())


def _interface_address6(name: str) -> str:
    found = []
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        digits, _, _, _, _, interface = line.split()
        if interface == name:
            found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)))
    if not found:
        raise OSError(f"{name} has no IPv6 address")
    local = "fe80:"  # valid on one link only, so the last choice
    first = min(found, key=lambda address: address.startswith(local))
    return f"{first}%{name}" if first.startswith(local) else first


def proxy(command: str) -> ProxySocket:
    """Start a proxy command in the user's shell and return the socket to talk through it."""
    ours, theirs = socket.socketpair()
    made = ProxySocket(ours.family, ours.type, ours.proto, fileno=ours.detach())
    shell = os.environ.get("SHELL") or "/bin/sh"
    try:
        made.process = subprocess.Popen(
            [shell, "-c", "exec " + command], stdin=theirs.fileno(), stdout=theirs.fileno()
        )
    except BaseException:
        made.close()
        raise
    finally:
        theirs.close()
    return made


def hurry(transport: Transport) -> None:
    """Switch Nagle's delay off below an open transport, through gateways too."""
    sock: Any = transport.sock
    while isinstance(sock, Channel):
        sock = sock.get_transport().sock
    if isinstance(sock, socket.socket) and sock.family in (socket.AF_INET, socket.AF_INET6):
        # Its thread has closed it where the host has gone since.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def calm(transport: Transport) -> None:
    """The first session is open: let the kernel acknowledge as it likes."""
    if isinstance(transport.sock, PromptSocket):
        transport.sock.prompt = False
