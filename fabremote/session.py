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
import time
from collections.abc import Iterator

from fabremote import terminals
from fabremote.agent import wire
from fabremote.bootstrap import RemotePython
from fabremote.calls import LAST_WORD, LOST, Call
from fabremote.exceptions import (
    RemoteCancelled,
    RemoteConnectionLost,
    RemoteException,
)
from fabremote.links import Link, release
from fabremote.outbox import Outbox
from fabremote.printing import printable
from fabremote.service import Service
from fabremote.store import Parcel, Store

# Calls at once on one agent: five descriptors each, of the 1024 that a host usually allows.
IN_FLIGHT = 128
# How long `close` waits for the agent to have killed what still ran, in seconds.
CLOSING = 3.0


class Session:
    """An agent and the calls that run through it; safe to use from several threads."""

    def __init__(self, link: Link, label: str, python: RemotePython, rest: bytes) -> None:
        self.label = label
        self.python = python
        self._link = link
        self._send_lock = threading.Lock()
        self._outbox = Outbox(label, self.send)
        self._store = Store()
        # Own modules that this interpreter could not load: they go by value.
        self.unloadable: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._calls: dict[int, Call] = {}
        self._places = threading.Condition()
        self._taken = 0
        self._numbers = itertools.count(1)
        self._lost: str | None = None
        self._closed = False
        self._broken = False
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
        return self._lost is None and not self._closed and not self._broken

    # Calls

    def begin(self, call: Call, parcel: Parcel) -> None:
        """Send a call; its frames come to ``call.deliver`` from now on."""
        with self._lock:
            alive = self.alive
            if alive:
                self._calls[call.number] = call
        if not alive:
            call.finish()
            raise self.loss(call.name)
        try:
            with self._watched(call, parcel):
                self._send_call(call, parcel)
            call.start_stdin()
        except OSError:
            # The reader sees the broken link too, and tells the call.
            self._break()
        except BaseException as error:
            call.abort(error)

    def reserve(self) -> None:
        """Wait for one of the places that an agent has for calls; `forget` gives it back."""
        # A callback of a finished call must not wait for others that it keeps from ending.
        wait = not threading.current_thread().name.startswith("fabremote-service")
        with self._places:
            self._places.wait_for(lambda: not wait or self._taken < IN_FLIGHT or not self.alive)
            self._taken += 1

    def keep_from(self, modules: frozenset[str]) -> bool:
        """Note modules that can't be loaded there; return whether that is news."""
        with self._lock:
            news = not modules <= self.unloadable
            self.unloadable |= modules
            return news

    def number(self) -> int:
        """Return the next call's number."""
        return next(self._numbers)

    def _send_call(self, call: Call, parcel: Parcel) -> None:
        opening = wire.frame(wire.OPEN, call.number, parcel.opening(call.stdin.stays_open))
        if parcel.pty:
            opening += wire.frame(wire.RESIZE, call.number, terminals.size())
        pieces = parcel.pieces
        if len(pieces) == 1 and len(pieces[0]) <= wire.MAX_DATA:
            opening += wire.frame(wire.DATA, call.number, bytes(pieces[0]))
            pieces = []
        self._send_opening(opening, parcel, call.deadline)
        for part in pieces:
            view = memoryview(part).cast("B")
            for start in range(0, len(view), wire.MAX_DATA):
                if call.done:
                    return
                piece = bytes(view[start : start + wire.MAX_DATA])
                self.send(wire.frame(wire.DATA, call.number, piece))

    @contextlib.contextmanager
    def _watched(self, call: Call, parcel: Parcel) -> Iterator[None]:
        """Give the link up if a large call isn't sent by its deadline: the host doesn't read."""
        if call.deadline is None or len(parcel.pieces) == 1:
            yield
            return
        rest = call.deadline - time.monotonic() + LAST_WORD
        timer = threading.Timer(max(0.0, rest), self._break)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _send_opening(self, opening: bytes, parcel: Parcel, deadline: float | None) -> None:
        """Send the frames that begin a call, and ahead of them what the agent lacks of its own.

        All under one lock: what one call counts as sent is there before another's frames are.
        """
        blobs, extras = parcel.needed, parcel.extras
        if not blobs and self._store.has(extras):
            self.send(opening, deadline)
            return
        with self._turn(deadline):
            # Should it fail, what was counted as sent may not have gone.
            frames = [*self._store.sending(blobs, extras), opening, self._store.dropping()]
            self._link.send(b"".join(frames))

    @contextlib.contextmanager
    def _turn(self, deadline: float | None) -> Iterator[None]:
        """Have the link to send whole frames; give it up if others hold it past the deadline."""
        rest = -1.0 if deadline is None else max(0.0, deadline - time.monotonic()) + LAST_WORD
        if not self._send_lock.acquire(timeout=rest):
            self._break()
            raise BrokenPipeError("the host doesn't read what it is sent")
        try:
            yield
        except BaseException:
            # Half a frame may have gone, such as at Ctrl-C: nothing can follow it.
            self._break()
            raise
        finally:
            self._send_lock.release()

    def _break(self) -> None:
        """End the link, over which nothing can be sent; the next call gets another at once."""
        self._broken = True
        self._link.close()

    def send(self, data: bytes, deadline: float | None = None) -> None:
        """Send whole frames."""
        with self._turn(deadline):
            self._link.send(data)

    def post(self, data: bytes) -> None:
        """Send whole frames soon, without waiting for it."""
        if not self._outbox.post(data):
            self._break()

    def unheard(self) -> None:
        """A killed call's end wasn't heard of; if not even the order could go, end the link."""
        if self._outbox.stuck(LAST_WORD / 2):
            self._break()

    def forget(self, number: int) -> None:
        """A call has ended."""
        with self._lock:
            self._calls.pop(number, None)
        with self._places:
            self._taken -= 1
            self._places.notify()

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
                        call.admit(kind, piece)
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
        self._outbox.close()
        release(self._link)
        with self._places:
            self._places.notify_all()
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
        self._outbox.close()
        self._outbox.join(CLOSING)
        self._link.finish()
        self._join(CLOSING)
        self._link.close()
        self._join(CLOSING)
        if self._service is not None:
            self._service.join()

    def _join(self, timeout: float) -> None:
        if threading.current_thread() is not self._reader:
            self._reader.join(timeout)


__all__ = ["Session"]
