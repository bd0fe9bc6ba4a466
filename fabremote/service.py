"""The few threads of a session in which submitted calls handle their frames."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections import deque
from collections.abc import Callable

from fabremote.agent import wire
from fabremote.calls import Call, Outcome
from fabremote.notices import EXPIRED, LAST_WORD, LOST
from fabremote.receiving import Data
from fabremote.threads import serve_here, serves_here, start_thread

# So many calls may be showing output at once; one whose out_stream stands still
# holds up no other before as many do.
WORKERS = 8

Finished = Callable[[Outcome], None]
# Given an answer, and what ends the call by it in this thread: whether that was done.
Alone = Callable[[memoryview, Callable[[], None]], bool]


class Service:
    """Runs the handling of submitted calls: each one's frames in order, in a small pool."""

    def __init__(self, label: str) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(
            WORKERS, f"fabremote-service-{label}", initializer=serve_here
        )
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._deadlines: dict[Call, float] = {}
        self._stopped = False
        self._clock: threading.Thread | None = None
        self._label = label

    def adopt(self, call: Call, finished: Finished, alone: Alone | None = None) -> None:
        """Handle ``call``'s frames here; call ``finished`` with its outcome.

        ``alone``: see `Served`.
        """
        call.move(Served(call, finished, self, alone).deliver)
        self.mind(call)
        if call.done:
            self.ended(call)

    def mind(self, call: Call) -> None:
        """Have the call killed at its deadline, even while nobody waits for it."""
        if call.deadline is not None:
            self._watch(call, call.deadline)

    def linger(self, call: Call) -> None:
        """Close a stream that nobody waits for; kill it if that takes long."""
        call.move(Served(call, lambda _: None, self).deliver)
        # What has ended meanwhile needs it no more.
        self._watch(call, min(time.monotonic() + LAST_WORD, call.deadline or float("inf")))
        self.submit(call.close_stream)
        if call.done:
            self.ended(call)

    def cancel(self, call: Call) -> None:
        """Have the call killed, even while its output waits to be shown."""
        call.cancel()

    def submit(self, work: Callable[[], None]) -> None:
        """Run ``work`` in the pool; at once in this thread if the pool is gone."""
        try:
            self._pool.submit(work)
        except RuntimeError:
            work()

    def stop(self) -> None:
        """Take no more; what was delivered is still handled."""
        with self._lock:
            self._stopped = True
            self._changed.notify_all()
        self._pool.shutdown(wait=False)

    def join(self) -> None:
        """Wait until the threads have ended, unless this is one of a service."""
        if not serves_here():
            self._pool.shutdown(wait=True)
            if self._clock is not None:
                self._clock.join()

    def ended(self, call: Call) -> None:
        """The call needs no deadline any more."""
        with self._lock:
            self._deadlines.pop(call, None)
            self._changed.notify_all()

    def give_last_word(self, call: Call) -> None:
        """End a call that is being killed, should its host say nothing."""
        self._watch(call, time.monotonic() + LAST_WORD)

    def _watch(self, call: Call, deadline: float) -> None:
        with self._lock:
            self._deadlines[call] = deadline
            if self._clock is None:
                name = f"fabremote-service-{self._label}-clock"
                self._clock = start_thread(name, self._tick)
            self._changed.notify_all()

    def _tick(self) -> None:
        serve_here()
        while True:
            with self._lock:
                if self._stopped and not self._deadlines:
                    return
                now = time.monotonic()
                due = [call for call, deadline in self._deadlines.items() if deadline <= now]
                for call in due:
                    del self._deadlines[call]
                if not due:
                    nearest = min(self._deadlines.values(), default=None)
                    self._changed.wait(None if nearest is None else nearest - now)
            for call in due:
                call.kill()
                call.deliver(EXPIRED, b"")


class Served:
    """A submitted call and the frames that wait for it.

    ``alone`` is asked in the thread that receives, for a call that ends with an
    answer and nothing else: it may have it end there, which saves waking another
    thread. Nothing of the user's may run then, and nothing be waited for.
    """

    def __init__(
        self, call: Call, finished: Finished, service: Service, alone: Alone | None = None
    ) -> None:
        self._call, self._finished, self._service = call, finished, service
        self._alone = alone
        self._frames: deque[tuple[int, Data]] = deque()
        self._lock = threading.Lock()
        self._busy = False
        self._ending = False

    def deliver(self, kind: int, data: Data) -> None:
        """Take a frame; it is handled in a thread of the pool."""
        with self._lock:
            if self._busy:
                self._frames.append((kind, data))
                return
            self._busy = True
        if kind == wire.DONE and self._ends_here(data):
            return
        # Before what came meanwhile.
        self._frames.appendleft((kind, data))
        self._service.submit(self._drain)

    def _ends_here(self, data: Data) -> bool:
        """End the call in this thread if it may; return whether it has ended."""
        if self._alone is None:
            return False
        answer = self._call.answer_alone(data)
        if answer is None:
            return False
        return self._alone(answer, lambda: self._handle(wire.DONE, data))

    def _drain(self) -> None:
        while True:
            with self._lock:
                if not self._frames:
                    self._busy = False
                    return
                kind, data = self._frames.popleft()
            if not self._call.done:
                self._handle(kind, data)

    def _handle(self, kind: int, data: Data) -> None:
        call = self._call
        if kind == EXPIRED and self._ending:
            call.handle(LOST, b"")
        elif kind == EXPIRED:
            call.expire()
        else:
            call.handle(kind, data)
        if call.done:
            self._service.ended(call)
            # The thread that receives may be the last that has this: what is the caller's is
            # let go here.
            finished, self._finished, self._alone = self._finished, _told, None
            finished(call.outcome())
            call.leave()
        elif call.killed and not self._ending:
            self._ending = True
            self._service.give_last_word(call)


def _told(outcome: Outcome) -> None:
    """Whoever wanted to know has been told."""


__all__ = ["Service"]
