"""The consumer's side of one stream: orders out, items in.

::

    next() ──> Source.tell ── orders ──> agent.streaming.Stream
               Source.get <── items <──┘

A generator's frames are handled in the thread that waits for an item, and an
asynchronous one's in the session's service threads, as a submitted call's are.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import queue
import threading
from collections.abc import Callable
from typing import Any

from fabremote.calls import Call
from fabremote.exceptions import (
    RemoteCancelled,
    RemoteConnectionLost,
    RemoteException,
    RemoteProcessDied,
)
from fabremote.receiving import Outcome
from fabremote.shipping.answers import Decoder
from fabremote.shipping.feeds import Feeds
from fabremote.threads import awaited_for, start_thread


class Reaper:
    """Ends the streams that nobody has any more.

    One is dropped in whatever thread the garbage collector happens to run, which
    may hold any lock: so a thread of ours does it, as long as there is any stream.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dropped: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._open = 0
        self._thread: threading.Thread | None = None

    def watch(self) -> None:
        """There is one more stream."""
        with self._lock:
            self._open += 1
            if self._thread is None:
                self._thread = start_thread("fabremote-reaper", self._run)

    def drop(self, call: Call) -> None:
        """End this one."""
        self._dropped.put(call)

    def forget(self) -> None:
        """One has ended."""
        with self._lock:
            self._open -= 1
            if not self._open:
                self._dropped.put(None)

    def _run(self) -> None:
        while True:
            call = self._dropped.get()
            if call is not None:
                self._end(call)
                self.forget()
            with self._lock:
                if not self._open:
                    self._thread = None
                    return

    def _end(self, call: Call) -> None:
        try:
            call.session.service().linger(call)
        except RemoteException:
            # The session has ended, and the process with it.
            call.finish()


reaper = Reaper()

# What the far side said before it was lost still counts.
_LOSSES = (RemoteProcessDied, RemoteConnectionLost)


class Source:
    """The consumer's side of one stream, whose frames are handled in the thread that waits.

    ``judge`` makes the call's outcome its value, or raises what it says.
    """

    def __init__(
        self, call: Call, feeds: Feeds, decoder: Decoder, judge: Callable[[Outcome], Any]
    ) -> None:
        self.call = call
        self.name = call.name
        self._feeds, self._decoder, self._judge = feeds, decoder, judge
        self.begun = self.ended = False
        reaper.watch()
        if call.deadline is not None:
            with contextlib.suppress(RemoteException):
                call.session.service().mind(call)

    # Orders

    def ask(self, value: Any = None) -> None:
        """Have the next item come; ``value`` is what its ``yield`` returns."""
        if value is not None and not self.begun:
            raise TypeError("can't send non-None value to a just-started generator")
        if value is not None and self.call.items.waits:
            pieces = self._feeds.tell(b"S", value)
            self.call.items.told()
            self.tell(pieces)
        else:
            self._say(self.call.items.go_on())
        self.begun = True

    def throw(self, error: BaseException) -> Callable[[], bool]:
        """Have an exception raised in the generator; return what says that it was."""
        items = self.call.items
        pieces = self._feeds.tell(b"T", error)
        before = items.thrown
        items.told()
        self.tell(pieces)
        return lambda: items.thrown > before

    def _say(self, order: bytes | None) -> None:
        if order is not None:
            self.tell([order])

    def tell(self, pieces: Any) -> None:
        """Send a message."""
        self.call.send_message(pieces)

    # What comes

    def here(self) -> bool:
        """Return whether there is an item."""
        return bool(self.call.items.waiting)

    def wait(self, enough: Callable[[], bool]) -> None:
        """Return when there is ``enough``, or when the call has ended."""
        if not enough():
            self.call.wait(enough)

    def get(self) -> Any:
        """Return the item that is there; raise StopIteration with the value at the end."""
        call, error = self.call, self.call.failure
        if call.items.waiting and (error is None or isinstance(error, _LOSSES)):
            data = call.items.take()
            self._say(call.items.more())
            try:
                return self._decoder.value(data)
            except BaseException:
                self.drop()
                raise
        raise StopIteration(self.result())

    def result(self) -> Any:
        """Return what the generator returned; raise what it raised, or what befell it."""
        self.finish()
        return self._judge(self.call.outcome())

    # The end

    def close(self) -> None:
        """Close the generator and wait for its end; raise what it raises."""
        self.call.close_stream()
        self.wait(lambda: self.call.done)
        # Closing the connection has ended the process.
        with contextlib.suppress(RemoteCancelled):
            self.result()

    def finish(self) -> None:
        """The stream has ended: keep nothing of it."""
        if not self.ended:
            self.ended = True
            self.call.items.close()
            reaper.forget()

    def drop(self) -> None:
        """Nobody wants it any more. Safe wherever the garbage collector may run."""
        if not self.ended:
            self.ended = True
            self.call.session.places.lingering.add(self.call.number)
            reaper.drop(self.call)


class ServedSource(Source):
    """The same where service threads handle the frames."""

    def __init__(
        self, call: Call, feeds: Feeds, decoder: Decoder, judge: Callable[[Outcome], Any]
    ) -> None:
        super().__init__(call, feeds, decoder, judge)
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._waiter: tuple[Callable[[], bool], Callable[[], None]] | None = None
        call.changed = self._changed

    def _changed(self) -> None:
        with self._lock:
            self._condition.notify_all()
            if self._waiter is not None and (self._waiter[0]() or self.call.done):
                wake, self._waiter = self._waiter[1], None
                wake()

    def wait(self, enough: Callable[[], bool]) -> None:
        """Return when there is ``enough``, or when the call has ended."""
        try:
            with self._lock:
                awaited_for(self._condition, lambda: enough() or self.call.done)
        except BaseException:
            self.drop()
            raise

    async def wait_async(self, enough: Callable[[], bool]) -> None:
        """Do the same as `wait` in an event loop."""
        # Who awaits this has it; importing it takes longer than most of ours.
        loop = importlib.import_module("asyncio").get_running_loop()
        future = loop.create_future()

        def arrive() -> None:
            if not future.done():
                future.set_result(None)

        def wake() -> None:
            # The loop may be closed by now.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(arrive)

        with self._lock:
            if enough() or self.call.done:
                return
            self._waiter = enough, wake
        try:
            await future
        except BaseException:
            self.drop()
            raise


class AsyncSource(ServedSource):
    """The source of an asynchronous generator: no order is sent from the event loop's thread."""

    def tell(self, pieces: Any) -> None:
        """Have a message sent."""
        self.in_service(functools.partial(self.call.send_message, pieces))

    def in_service(self, work: Callable[[], None]) -> None:
        """Have ``work`` done in a service thread; one that is gone has told the call."""
        with contextlib.suppress(RemoteException):
            self.call.session.service().submit(work)


__all__ = ["AsyncSource", "ServedSource", "Source"]
