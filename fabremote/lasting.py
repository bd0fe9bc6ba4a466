"""The process of a ``with`` block: it serves the block's calls, one after the other.

::

    Interpreter.__enter__ -> Lasting ---- OPEN, lasting --> worker, kept
    call, submit -> Lasting.begin ------- OPEN, inside ---> its turn in that worker
    Interpreter.__exit__ -> Lasting.close -- END ---------> runs exit handlers, ends
"""

from __future__ import annotations

import dataclasses
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from fabremote.agent import wire
from fabremote.calls import Call, Outcome
from fabremote.exceptions import (
    RemoteCancelled,
    RemoteException,
    RemoteProcessDied,
    RemoteTimeout,
    ended_how,
)
from fabremote.notices import UNBEGUN
from fabremote.options import Options
from fabremote.session import Session
from fabremote.shipping.forwarding import Memory
from fabremote.shipping.payload import Payload, dump
from fabremote.stdin import ELSEWHERE
from fabremote.store import Parcel
from fabremote.terminals import is_terminal
from fabremote.threads import awaited, awaited_for
from fabremote.upload import EXTRA_MODULES

# Calls that may wait on the host for those before them; larger ones wait here.
AHEAD = 32
# How long a call that the process's end kept from beginning waits to hear of that, in seconds.
SOON = 0.3


class Lasting:
    """One process that stays, and the calls in it; safe to use from several threads."""

    def __init__(self, session: Session, options: Options) -> None:
        self.session = session
        self._options = options
        self._memory = Memory()
        self._dumping = threading.Lock()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._open: set[int] = set()
        self._reason = self._end = ""
        self._stream: weakref.ref[Call] | None = None
        self._ended = threading.Event()
        name = "the process of a with block"
        if not session.reserve(name, options.timeout or None):
            raise session.loss(name, begun=False)
        self.number = session.number()
        try:
            own = self._process_options()
            self._call = Call(session, self.number, name, own, False, flags=wire.LASTING)
        except BaseException:
            session.forget(self.number)
            raise
        try:
            session.service().adopt(self._call, self._finished)
            session.begin(self._call, Parcel([], extras=EXTRA_MODULES))
        except BaseException as error:
            self._call.abort(error)
            self._call.finish()
            raise

    def dump(self, fn: Callable[..., Any], args: Any, kwargs: Any, options: Options) -> Payload:
        """Return the payload of a call in this process."""
        session = self.session
        with self._dumping:
            python, by_value = session.python, session.unloadable
            return dump(fn, args, kwargs, options, python, by_value, self._memory)

    @property
    def classes(self) -> list[type]:
        """The caller's own classes in the process, by number; it grows with each call."""
        return self._memory.classes

    def call_options(self, options: Options) -> Options:
        """Return the options of a call: what is the process's own has been given to that."""
        # The terminal is there from the start or not at all.
        if options.pty != self._options.pty:
            options = dataclasses.replace(options, pty=self._options.pty)
        if self._each_typed or not options.in_stream:
            return options
        return dataclasses.replace(options, in_stream=ELSEWHERE)

    @property
    def _each_typed(self) -> bool:
        """Whether there is a terminal, to which each call types what is its own.

        Else the one stream is the process's, from which a call takes what it reads.
        """
        stream = self._options.in_stream
        return self._options.pty and (not stream or is_terminal(stream))

    def _process_options(self) -> Options:
        """Return the options of the process itself."""
        options = dataclasses.replace(self._options, timeout=None)
        if self._each_typed:
            options = dataclasses.replace(options, in_stream=ELSEWHERE, watchers=())
        return options

    def begin(self, call: Call, parcel: Parcel) -> None:
        """Send a call, once not too many wait there."""
        most = AHEAD if len(parcel.pieces) == 1 else 1
        try:
            with self._lock:
                if len(self._open) >= most and not self._await_turn(call, most):
                    call.begun = False
                    call.abort(_late(call))
                    call.deliver(UNBEGUN, b"")
                    return
                self._open.add(call.number)
        except BaseException:
            call.finish()
            raise
        self.session.begin(call, parcel)

    def _await_turn(self, call: Call, most: int) -> bool:
        """Wait until fewer calls than ``most`` wait there; return False at the call's deadline.

        Also until the call is not wanted any more.
        """
        rest = None if call.deadline is None else call.deadline - time.monotonic()
        ready: Callable[[], bool] = lambda: call.unwanted or len(self._open) < most  # noqa: E731
        return awaited_for(self._changed, ready, rest)

    def wake(self) -> None:
        """Have the calls that wait for their turn look whether they are still wanted."""
        with self._lock:
            self._changed.notify_all()

    def skip(self, call: Call) -> None:
        """Have a call dropped unless it has begun, which then goes on."""
        self.session.post(wire.frame(wire.SKIP, call.number))

    def left(self, call: Call) -> None:
        """A call has ended; note why, if the process has with it."""
        with self._lock:
            self._open.discard(call.number)
            self._changed.notify_all()
            if call.begun and call.failure is not None and not self._reason:
                self._reason = f"{_how(call.failure)} during {call.name}"

    def taken(self, count: int) -> None:
        """Note that ``count`` bytes of the process's stdin were written during a call."""
        self._call.taken(count)

    def gone(self, name: str) -> RemoteException:
        """Return the error for a call that can't begin, as the process has ended."""
        if not self.session.alive:
            return self.session.loss(name, begun=False)
        if not self._reason:
            # What is known of its end comes next.
            self._ended.wait(SOON)
        reason = self._reason or self._end or "ended before"
        return RemoteProcessDied(
            f"{name} on {self.session.label} was not run: the process of its with block "
            f"{reason}. Leave the block; entering it again starts another process.",
            begun=False,
        )

    def check(self, name: str) -> None:
        """Raise the error for call ``name`` if the process is known not to come to it."""
        if self._ended.is_set():
            raise self.gone(name)
        stream = self._stream() if self._stream is not None else None
        if stream is not None and not stream.done:
            raise RuntimeError(
                f"{name} can't begin: the process of its with block is giving the items of "
                f"{stream.name}. Take them all, or close() that generator, before; or make the "
                "call by another interpreter: conn.python(...)."
            )

    def occupied_by(self, call: Call) -> None:
        """A call has made a generator: the process does nothing else until its end."""
        self._stream = weakref.ref(call)

    def _finished(self, outcome: Outcome) -> None:
        with self._lock:
            # A call that it ended with tells more.
            self._end = _how(outcome.error) if outcome.error is not None else ""
        self._ended.set()

    def close(self, kill: bool = False) -> None:
        """End the process once its calls have, as it ends by itself, or at once.

        It gets as long as its exit handlers take, within ``timeout``. A generator
        that still has items is closed.
        """
        stream = self._stream() if self._stream is not None else None
        try:
            if not kill:
                if stream is not None and not stream.done:
                    text = f"{stream.name} was closed, as the with block that it is of was left."
                    stream.cut_short(RemoteCancelled(text))
                self.session.post(wire.frame(wire.END, self.number))
                awaited(self._ended.wait, self._options.timeout)
        finally:
            if not self._ended.is_set():
                self.session.service().cancel(self._call)
                awaited(self._ended.wait)


def _late(call: Call) -> RemoteTimeout:
    """Return the error for a call whose turn has not come in time."""
    return RemoteTimeout(
        f"{call.name} on {call.session.label} waited {call.timeout:g} seconds for the calls "
        "before it in its with block, and was not run. Raise timeout=, or make fewer calls at "
        "once.",
        call.timeout,
    )


def _how(failure: BaseException) -> str:
    """Return how a process ended, by what it came to for the call in it."""
    if isinstance(failure, RemoteTimeout):
        return "was killed at its timeout"
    if not isinstance(failure, RemoteProcessDied):
        return "was killed"
    return ended_how(failure.exited, failure.signal)


__all__ = ["Lasting"]
