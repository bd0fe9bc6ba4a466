"""One live agent: started over a link, shared by every call of one interpreter.

::

    Interpreter.call ──> Session.begin ── frames ──> agent
                             |                         |
          Call.wait <── inbox <──────────── frames

The thread that receives from the link hands each frame to its call, and never
waits: a call's own thread handles them, or, once something was submitted, the
service's.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from fabremote import terminals
from fabremote.agent import wire
from fabremote.bootstrap import RemotePython
from fabremote.calls import Call
from fabremote.early import FIRST, Early
from fabremote.exceptions import RemoteCancelled, RemoteException
from fabremote.heartbeat import Pulse
from fabremote.links import Link, Unsent, parts, release
from fabremote.notices import LAST_WORD, LOST, UNBEGUN, crowded, lost
from fabremote.outbox import Outbox
from fabremote.places import IN_FLIGHT, Full, Places
from fabremote.printing import printable
from fabremote.service import Service
from fabremote.store import Parcel, Store
from fabremote.threads import apart, start_thread

Pack = Callable[[int, memoryview], tuple[int, bytes | memoryview]]
Pieces = Sequence[bytes | memoryview]

# How long `close` waits for the agent to have killed what still ran, in seconds.
CLOSING = 3.0
# How much of what a failed agent says an error quotes, in bytes: the end.
CRASH = 4000


class _Crashed(Exception):
    """The agent says that it has failed, and has told all."""


class Session:
    """An agent and the calls that run through it; safe to use from several threads."""

    def __init__(
        self,
        link: Link,
        label: str,
        python: RemotePython,
        rest: bytes,
        heartbeat: float = 0.0,
        early: Early | None = None,
    ) -> None:
        self.label = label
        self.python = python
        self._link = link
        self._send_lock = threading.Lock()
        self._outbox = Outbox(label, self.send)
        self._store = Store(coded=python.coded) if early is None else early.store
        # Own modules that this interpreter could not load: they go by value.
        self.unloadable: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._calls: dict[int, Call] = {}
        self.places = Places(lambda: self.alive, 0 if early is None else 1)
        self._numbers = itertools.count(1)
        self._lost: str | None = None
        # Whether the agent has told, as it failed, of each call that had begun.
        self._told = False
        # Whether it was given up, as nothing was heard from it.
        self.silent = False
        self._closed = self._broken = self._ending = False
        self._service: Service | None = None
        # What the link runs over; a session isn't used over another.
        self.carrier: object = None
        self._decoder = wire.Decoder()
        self._pulse = Pulse(heartbeat, self.post, self._give_up)
        self._over = threading.Event()
        if early is not None:
            # It is there already, and may have answered.
            self._calls[FIRST] = early.accept(self)
        self._pulse.start()
        self._receive(rest)
        link.attend(self._receive, lambda: self._end_soon("the far side ended it"), label)

    @property
    def alive(self) -> bool:
        """Whether calls can still be begun."""
        return self._lost is None and not self._closed and not self._broken

    # Calls

    def begin(self, call: Call, parcel: Parcel) -> None:
        """Send a call; its frames come to ``call.deliver`` from now on.

        Ctrl-C, or what else comes amid it, is raised, and ends the call.
        """
        with self._lock:
            alive = self.alive and not call.unwanted
            if alive:
                self._calls[call.number] = call
        if not alive:
            call.deliver(UNBEGUN, b"")
            return
        try:
            with self.watched(call.deadline, len(parcel.pieces) > 1):
                self._send_call(call, parcel)
        except Unsent:
            # Some of it has not gone, so that it can't begin. Whoever receives tells the call.
            call.begun = False
            self._break()
        except BaseException as error:
            # Raised too: by now another thread may have ended the call for another reason.
            call.abort(error)
            raise
        else:
            call.start_stdin()

    def reserve(
        self,
        name: str,
        timeout: float | None,
        waited: float = 0.0,
        unwanted: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Wait for one of the places that an agent has for calls; `forget` gives it back.

        Returns False, with no place taken, if the agent is one that has ended or was retired, and
        once it is ``unwanted``. Raises RemoteTimeout ``timeout`` seconds, less ``waited``, later.
        """
        try:
            return self.places.take(timeout and timeout - waited, unwanted)
        except Full:
            raise crowded(name, self.label, timeout or 0.0, IN_FLIGHT) from None

    def retire(self) -> bool:
        """Take no more calls, if there are none; return whether it is so."""

        def give_up() -> None:
            self._broken = True

        self.places.if_idle(give_up)
        return self._broken

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
        opening = wire.frame(wire.OPEN, call.number, parcel.opening(call.flags, call.inside))
        if call.flags & wire.HAS_PTY:
            opening += wire.frame(wire.RESIZE, call.number, terminals.size())
        pieces, size = parcel.pieces, parcel.size
        if len(pieces) == 1 and size <= wire.MAX_DATA:
            opening += wire.frame(wire.DATA, call.number, bytes(pieces[0]))
            pieces = []
        self._send_opening(opening, parcel, call.deadline)
        if pieces:
            apart(lambda: self._send_pieces(call, pieces, size))
        else:
            call.report("up", size, size)

    def _send_pieces(self, call: Call, pieces: Pieces, size: int) -> None:
        pack = wire.Packer().pack if call.flags & wire.PACKS else None
        sent = 0
        for piece in pieces:
            for part in parts(self._link, piece):
                if call.stops:
                    return
                self._send_part(call.number, part, pack)
                sent += len(part)
                call.report("up", sent, size)

    def _send_part(self, number: int, part: memoryview, pack: Pack | None) -> None:
        kind, data = (wire.DATA, part) if pack is None else pack(wire.DATA, part)
        size = wire.HEADER.size
        # The one copy of the payload that is made.
        frame = bytearray(size + len(data))
        wire.HEADER.pack_into(frame, 0, kind, number, len(data))
        frame[size:] = data
        self.send(memoryview(frame))

    def watched(
        self, deadline: float | None, large: bool
    ) -> contextlib.AbstractContextManager[None]:
        """Give the link up if what is large isn't sent by the deadline: the host doesn't read."""
        if deadline is None or not large:
            return contextlib.nullcontext()
        return self._limited(deadline)

    @contextlib.contextmanager
    def _limited(self, deadline: float) -> Iterator[None]:
        """Give the link up if what is sent meanwhile hasn't gone soon after the deadline."""
        timer = threading.Timer(max(0, deadline + LAST_WORD - time.monotonic()), self._break)
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

        def frames() -> bytes:
            # Should it fail, what was counted as sent may not have gone.
            lacking = self._store.sending(blobs, extras)
            return b"".join([*lacking, opening, self._store.dropping()])

        self._in_turn(frames, deadline)

    def _put(self, data: bytes | memoryview, deadline: float | None) -> None:
        """Put whole frames on the link, whose turn it is; not for longer than the deadline."""
        try:
            if deadline is None or self._link.ready(len(data)):
                self._link.send(data)
                return
            with self._limited(deadline):
                self._link.send(data)
        except TimeoutError:
            raise  # A signal's handler's: no link has one.
        except OSError as error:
            raise Unsent(*error.args) from error

    def _in_turn(self, make: Callable[[], bytes | memoryview], deadline: float | None) -> None:
        """Send what ``make`` returns in its turn; give up a link that others hold for too long."""
        rest = -1.0 if deadline is None else max(0.0, deadline - time.monotonic()) + LAST_WORD
        if not self._send_lock.acquire(timeout=rest):
            self._break()
            raise Unsent("the host doesn't read what it is sent")
        try:
            self._put(make(), deadline)
        except BaseException:
            # Half a frame may have gone, such as at Ctrl-C: nothing can follow it.
            self._break()
            raise
        finally:
            self._send_lock.release()

    def _break(self) -> None:
        """End the link, over which nothing can be sent; the next call gets another at once."""
        first, self._broken = not self._broken, True
        if first:
            # The clock, which posts, ticks for other hosts, too.
            start_thread("fabremote-link", self._link.close)

    def send(self, data: bytes | memoryview, deadline: float | None = None) -> None:
        """Send whole frames."""
        self._in_turn(lambda: data, deadline)

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
            call = self._calls.pop(number, None)
            service = self._service
        if service is not None and call is not None and call.deadline is not None:
            service.ended(call)
        self.places.leave(number)

    def loss(self, name: str, begun: bool = True) -> RemoteException:
        """Return the error for a call that the end of this session ended.

        ``begun``: whether anything of it may have run.
        """
        if self._closed:
            return RemoteCancelled(
                f"{name} was ended: the connection to {self.label} was closed from this side."
            )
        return lost(name, self.label, self._lost or "it is closed", begun)

    def service(self) -> Service:
        """Return the service in whose threads submitted calls handle their frames."""
        with self._lock:
            if not self.alive:
                raise self.loss("the call", begun=False)
            if self._service is None:
                self._service = Service(self.label)
            return self._service

    def _give_up(self, seconds: float) -> None:
        self.silent = True
        with self._lock:
            self._lost = self._lost or f"nothing was heard from it for {seconds:g} seconds"
        self._link.abandon(seconds)

    # In the thread that receives

    def _receive(self, data: bytes) -> None:
        if self._ending:
            return
        self._pulse.heard = True
        try:
            self._take(data)
        except _Crashed:
            self._end_soon("its agent failed")
        except wire.ProtocolError as error:
            self._end_soon(f"it sent what is not the agent's protocol ({error})")
        except Exception as error:
            # Whatever it is, the calls must not wait for what is never received.
            self._end_soon(f"reading it failed here: {printable(repr(error))}")

    def _take(self, data: bytes) -> None:
        """Hand the frames that are complete now to their calls."""
        for kind, number, piece in self._decoder.feed(data):
            if kind == wire.CRASH and number == 0:
                self._crashed(bytes(piece[-CRASH:]))
            call = self._calls.get(number)
            if call is not None:
                call.admit(kind, piece)

    def _crashed(self, text: bytes) -> None:
        """The agent says why it ends; without a text, that it has told of all calls it had."""
        if not text:
            self._told = True
            raise _Crashed
        self._lost = "its agent failed: " + printable(text.decode("utf-8", "replace"))

    def _end_soon(self, reason: str) -> None:
        """End; closing the link may take a moment."""
        with self._lock:
            if self._ending:
                return
            self._ending = True
        start_thread(f"fabremote-end-{self.label}", self._end, reason)

    def _end(self, reason: str) -> None:
        self._pulse.stop()
        with self._lock:
            self._lost = self._lost or reason
            calls = list(self._calls.values())
        self._link.close()
        self._outbox.close()
        release(self._link)
        self.places.wake()
        for call in calls:
            call.deliver(UNBEGUN if self._told else LOST, b"")
        if self._service is not None:
            self._service.stop()
        self._over.set()

    def close(self) -> None:
        """End the agent and every call of it; return when the far side has killed them.

        Streams that were dropped may run their finally blocks first, for a moment.
        """
        if self.alive and self.places.lingering:
            self.places.await_lingering(CLOSING)
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._pulse.stop()
        self._outbox.close()
        self._outbox.join(CLOSING)
        self._link.finish()
        self._over.wait(CLOSING)
        self._link.close()
        self._over.wait(CLOSING)
        if self._service is not None:
            self._service.join()


__all__ = ["Session"]
