"""One live agent: started over a link, shared by every call of one interpreter.

::

    Interpreter.call ──> Session.begin ── frames ──> agent
                             |                         |
          Call.wait <── inbox <── reader thread <── frames

One thread, the reader, takes frames off the link and hands each to its call; a
call's own thread handles them, or, once something was submitted, the service's.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable

from fabremote.agent import wire
from fabremote.bootstrap import FLOOR, RemotePython, Start
from fabremote.calls import LOST, Call, printable
from fabremote.exceptions import (
    RemoteCancelled,
    RemoteConnectionLost,
    RemoteException,
    RemoteInterpreterMissing,
)
from fabremote.links import Link, release
from fabremote.options import Options
from fabremote.service import Service

# What a login shell may print before the agent's hello, in bytes.
MAX_NOISE = 64 << 20
KEEP_NOISE = 1 << 16
# How long `close` waits for the agent to have killed what still ran, in seconds.
CLOSING = 3.0


class Session:
    """An agent and the calls that run through it; safe to use from several threads."""

    def __init__(self, link: Link, label: str, python: RemotePython, rest: bytes) -> None:
        self.label = label
        self.python = python
        self._link = link
        self._send_lock = threading.Lock()
        self._lock = threading.Lock()
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count(1)
        self._lost: str | None = None
        self._closed = False
        self._service: Service | None = None
        # What the link runs over; a session isn't used over another.
        self.carrier: object = None
        self._decoder = wire.Decoder()
        self._reader = threading.Thread(
            target=self._read, args=(rest,), name=f"fabremote-reader-{label}", daemon=True
        )
        self._reader.start()

    @property
    def alive(self) -> bool:
        """Whether calls can still be begun."""
        return self._lost is None and not self._closed

    # Calls

    def begin(self, call: Call, payload: list[bytes | memoryview]) -> None:
        """Send a call; its frames come to ``call.deliver`` from now on."""
        with self._lock:
            if not self.alive:
                raise self.loss(call.name)
            self._calls[call.number] = call
        try:
            self._send_call(call, payload)
        except OSError:
            # The reader sees the broken link too, and tells the call.
            self._link.close()
            return
        call.start_stdin()

    def number(self) -> int:
        """Return the next call's number."""
        return next(self._numbers)

    def _send_call(self, call: Call, payload: list[bytes | memoryview]) -> None:
        opening = wire.frame(wire.OPEN, call.number, b"\1" if call.has_stdin else b"\0")
        if len(payload) == 1 and len(payload[0]) <= wire.MAX_DATA:
            self.send(opening + wire.frame(wire.DATA, call.number, bytes(payload[0])))
            return
        self.send(opening)
        for part in payload:
            view = memoryview(part).cast("B")
            for start in range(0, len(view), wire.MAX_DATA):
                if call.done:
                    return
                piece = bytes(view[start : start + wire.MAX_DATA])
                self.send(wire.frame(wire.DATA, call.number, piece))

    def send(self, data: bytes) -> None:
        """Send whole frames."""
        with self._send_lock:
            self._link.send(data)

    def forget(self, number: int) -> None:
        """A call has ended."""
        with self._lock:
            self._calls.pop(number, None)

    def loss(self, name: str) -> RemoteException:
        """Return the error for a call that the end of this session ended."""
        if self._closed:
            return RemoteCancelled(
                f"{name} was ended: the connection to {self.label} was closed from this side."
            )
        return RemoteConnectionLost(
            f"The link to {self.label} broke during {name}: {self._lost or 'it is closed'}. "
            "Whether the call ran to its end is not known."
        )

    def service(self) -> Service:
        """Return the service in whose threads submitted calls handle their frames."""
        with self._lock:
            if not self.alive:
                raise self.loss("the call")
            if self._service is None:
                self._service = Service(self.label)
            return self._service

    # The reader thread

    def _read(self, data: bytes) -> None:
        reason = "the far side ended it"
        try:
            while True:
                for kind, number, piece in self._decoder.feed(data):
                    if kind == wire.CRASH:
                        reason = "its agent failed: " + printable(
                            bytes(piece).decode("utf-8", "replace")
                        )
                    call = self._calls.get(number)
                    if call is not None:
                        call.deliver(kind, piece)
                data = self._link.receive()
                if not data:
                    break
        except wire.ProtocolError as error:
            reason = f"it sent what is not the agent's protocol ({error})"
        self._end(reason)

    def _end(self, reason: str) -> None:
        with self._lock:
            self._lost = self._lost or reason
            calls = list(self._calls.values())
        self._link.close()
        release(self._link)
        for call in calls:
            call.deliver(LOST, b"")
        if self._service is not None:
            self._service.stop()

    def close(self) -> None:
        """End the agent and every call of it; return when the far side has killed them."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._link.finish()
        self._join(CLOSING)
        self._link.close()
        self._join(CLOSING)
        if self._service is not None:
            self._service.join()

    def _join(self, timeout: float) -> None:
        if threading.current_thread() is not self._reader:
            self._reader.join(timeout)


def start(open_link: Callable[[], Link], label: str, options: Options) -> Session:
    """Start an agent under the interpreter that ``options`` asks for.

    Raises RemoteInterpreterMissing if there is none that can be used, and
    RemoteConnectionLost if the link breaks before its hello.
    """
    tried: tuple[str, ...] = ()
    while True:
        attempt = Start(options.python, options.py_options, list(options.prefixes), tried)
        link = open_link()
        try:
            found = _greet(link, attempt, options.start_timeout)
        except BaseException:
            link.close()
            release(link)
            raise
        if isinstance(found, tuple):
            python, rest = found
            if python.version >= FLOOR:
                link.settle()
                return Session(link, label, python, rest)
        status = link.status(1.0)
        link.close()
        release(link)
        name = attempt.started(found) if isinstance(found, bytes) else options.python
        tried += (name,) if name and name not in tried else ()
        # A candidate that is there but can't run, such as a version manager's
        # shim: the next one may.
        if options.python is None and status in (126, 127) and name and name != "python3":
            continue
        raise _missing(label, options, attempt, found, tried, status)


def _greet(link: Link, attempt: Start, timeout: float) -> tuple[RemotePython, bytes] | bytes:
    """Send the runner and return (interpreter, rest), or what came instead."""
    timer = threading.Timer(timeout, link.close)
    timer.daemon = True
    timer.start()
    received = b""
    try:
        with contextlib.suppress(OSError):
            link.send(attempt.message())
        total = 0
        while total < MAX_NOISE:
            piece = link.receive()
            if not piece:
                break
            total += len(piece)
            received += piece
            found = attempt.hello(received)
            if found is not None:
                return found
            received = received[-KEEP_NOISE:]
        return received
    finally:
        timer.cancel()
        timer.join()


def _missing(
    label: str,
    options: Options,
    attempt: Start,
    found: tuple[RemotePython, bytes] | bytes,
    tried: tuple[str, ...],
    status: int | None,
) -> RemoteInterpreterMissing:
    wanted = options.python or " or ".join(attempt.choices)
    if isinstance(found, tuple):
        version = ".".join(map(str, found[0].version))
        return RemoteInterpreterMissing(
            f"{wanted} on {label} is Python {version}; fabremote needs 3.6 or newer there. "
            "Name another one with python=.",
            wanted,
            tried or (wanted,),
        )
    noise = printable(attempt.noise(found))
    said = f" It said: {noise.rstrip('.')}." if noise else ""
    names = tried or attempt.choices
    if status in (126, 127) or (status is None and not tried):
        why = f"{label} has no interpreter {wanted} that can be run (tried {', '.join(names)})."
    elif status is None:
        why = f"{wanted} on {label} did not start within {options.start_timeout:g} seconds."
    else:
        why = f"{wanted} on {label} isn't a Python that runs (it exited with status {status})."
    remedy = " Install Python 3.6 or newer there, or name one with python=."
    return RemoteInterpreterMissing(why + said + remedy, wanted, names)


__all__ = ["Session", "start"]
