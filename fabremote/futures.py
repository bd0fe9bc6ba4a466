"""The futures of submitted calls, and what waits for many of them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from fabremote.exceptions import RemoteCancelled
from fabremote.threads import awaited, start_thread, surely

T = TypeVar("T")
# Calls of a `map` that run at once unless told otherwise.
IN_FLIGHT = 8
# Calls of asyncio's that connect in a thread of their own at once, whatever the host.
CONNECTING = 32
_connecting = threading.BoundedSemaphore(CONNECTING)


class _Condition(threading.Condition):
    """One that is entered and left by its lock's own methods.

    Amid a Condition's Python may call a signal's handler, and what that raises leaves it locked.
    """

    __enter__ = property(lambda self: self._lock.__enter__)
    __exit__ = property(lambda self: self._lock.__exit__)


class RemoteFuture(concurrent.futures.Future[T]):
    """The Future of a submitted call; cancelling it kills the remote process."""

    # What must not be dropped as long as the call runs.
    _owner: object = None

    def __init__(self, name: str, cancel: Callable[[], object]) -> None:
        super().__init__()
        self._condition = _Condition()
        self._name = name
        self._kill = cancel
        self._killed = False
        # What becomes of it when nobody wants its result any more, if not `cancel`.
        self._drop: Callable[[], object] | None = None
        # Again by a callback, or by a signal's handler that comes amid it.
        self._cancelling = threading.RLock()
        # Whether somebody is to be called back.
        self._heard = False
        # Again by a signal's handler that comes amid it.
        self._hearing = threading.RLock()

    def cancel(self) -> bool:
        """Kill the call unless it is done; return whether it is cancelled now."""
        with self._cancelling:
            if not self.cancelled():
                if not super().cancel():
                    return False
                # Tells those who wait in as_completed() or wait().
                self.set_running_or_notify_cancel()
        if not self._killed:
            # By the next cancel() where Ctrl-C comes amid this.
            surely(self._kill)
            self._killed = True
        return True

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        """Have ``fn`` called with this future once it is done; at once if it is."""
        with self._hearing:
            self._heard = True
        super().add_done_callback(fn)

    def settled_by(self, work: Callable[[], None]) -> bool:
        """Do ``work``, which settles it, unless that would call somebody back; return which.

        Where another thread is at it, nothing is done, nor waited for: a signal's handler that
        comes amid that may itself wait for the thread that this is called in.
        """
        if not self._hearing.acquire(blocking=False):
            return False
        try:
            if self._heard or not self._condition.acquire(blocking=False):
                return False
            try:
                work()
                return True
            finally:
                self._condition.release()
        finally:
            self._hearing.release()

    def running(self) -> bool:
        """Return whether the call has been sent and isn't done."""
        return not self.done()

    def result(self, timeout: float | None = None) -> T:
        """Return the value; raise what the call raised, or RemoteCancelled."""
        try:
            await_end(self, timeout)
            return super().result(0)
        except concurrent.futures.CancelledError as error:
            raise self._as_remote(error) from None

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, or None; raise RemoteCancelled if it was cancelled."""
        try:
            await_end(self, timeout)
            return super().exception(0)
        except concurrent.futures.CancelledError as error:
            raise self._as_remote(error) from None

    def _as_remote(self, error: BaseException) -> BaseException:
        if not self.cancelled():
            return error
        return RemoteCancelled(f"{self._name} was cancelled.")


def await_end(future: concurrent.futures.Future[Any], timeout: float | None = None) -> None:
    """Wait until a future is done, or for ``timeout`` seconds; Ctrl-C ends it."""

    def ends(pause: float | None) -> bool:
        with contextlib.suppress(
            concurrent.futures.TimeoutError, concurrent.futures.CancelledError
        ):
            concurrent.futures.Future.exception(future, pause)
        return future.done()

    awaited(ends, timeout)


def in_order(
    begin: Callable[..., RemoteFuture[T]], items: Iterable[tuple[Any, ...]], in_flight: int
) -> Iterator[T]:
    """Yield the results of ``begin(*item)``, as many begun ahead as ``in_flight`` says."""
    futures: deque[RemoteFuture[T]] = deque()

    def first() -> T:
        # It stays among them as long as it is waited for, which Ctrl-C may end.
        value = futures[0].result()
        futures.popleft()
        return value

    try:
        for item in items:
            futures.append(begin(*item))
            if len(futures) >= in_flight:
                yield first()
        while futures:
            yield first()
    finally:
        surely(lambda: [(future._drop or future.cancel)() for future in reversed(futures)])


async def begun(
    begin: Callable[[], RemoteFuture[T]], cancel: Callable[[], object], connects: bool
) -> RemoteFuture[T]:
    """Return the future that ``begin`` returns; a thread does it, as it may wait.

    ``cancel``: what has ``begin`` come to an end, once its future isn't wanted.
    ``connects``: it may do so for long, so that the thread is its own. Those of the event loop
    are few, and its end waits for them; where many calls connect already, it does for this one.
    """
    work: concurrent.futures.Future[RemoteFuture[T]] = concurrent.futures.Future()
    work.set_running_or_notify_cancel()
    if connects and _connecting.acquire(blocking=False):
        try:
            start_thread("fabremote-connecting", _do, work, begin, _connecting.release)
        except BaseException:
            _connecting.release()
            raise
    else:
        asyncio.get_running_loop().run_in_executor(None, _do, work, begin)
    try:
        return await asyncio.wrap_future(work)
    except asyncio.CancelledError:
        try:
            cancel()
        finally:
            work.add_done_callback(_cancel)
        raise


def _do(
    work: concurrent.futures.Future[T],
    begin: Callable[[], T],
    ended: Callable[[], object] = lambda: None,
) -> None:
    try:
        work.set_result(begin())
    except BaseException as error:
        work.set_exception(error)
    finally:
        ended()


def _cancel(future: concurrent.futures.Future[RemoteFuture[Any]]) -> None:
    """Cancel a call that nobody waits for any more, if it could begin."""
    if not future.cancelled() and future.exception() is None:
        future.result().cancel()


__all__ = ["IN_FLIGHT", "RemoteFuture", "await_end", "begun", "in_order"]
