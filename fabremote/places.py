"""The places that an agent has for calls: one more than it has waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fabremote.threads import awaited_for, serves_here

# Calls at once on one agent: five descriptors each, of the 1024 that a host usually allows.
IN_FLIGHT = 128


class Full(Exception):
    """No place was left in time. No TimeoutError, which a signal's handler may raise amid it."""


class Places:
    """Who has a place, and who waits for one.

    ``alive``: whether the agent takes calls. ``taken``: how many it has already.
    """

    def __init__(self, alive: Callable[[], bool], taken: int) -> None:
        self._alive = alive
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._taken, self._waiting = taken, 0
        self._closing = False
        # When the last call ended, on the monotonic clock.
        self.rested = time.monotonic()
        # The numbers of streams that were dropped and are being closed there.
        self.lingering: set[int] = set()

    def take(self, timeout: float | None, unwanted: Callable[[], bool]) -> bool:
        """Wait for a place; return whether there is one, which is taken.

        There is none if the agent takes no calls any more, or the place is ``unwanted``, which
        `wake` has looked at. Raises Full after ``timeout`` seconds.
        """

        def wanted() -> bool:
            return self._alive() and not unwanted()

        with self._lock:
            # A callback of a finished call must not wait for others that it keeps from ending.
            if self._taken >= IN_FLIGHT and wanted() and not serves_here():
                self._await(timeout, wanted)
            taken = wanted()
            self._taken += taken
            return taken

    def _await(self, timeout: float | None, wanted: Callable[[], bool]) -> None:
        self._waiting += 1
        try:
            if not awaited_for(
                self._changed, lambda: self._taken < IN_FLIGHT or not wanted(), timeout
            ):
                raise Full
        finally:
            self._waiting -= 1

    def leave(self, number: int) -> None:
        """Give the place of a call back."""
        with self._lock:
            self._taken -= 1
            self.lingering.discard(number)
            self.rested = time.monotonic()
            if self._waiting or self._closing:
                self._changed.notify_all()

    def if_idle(self, work: Callable[[], None]) -> None:
        """Do ``work`` if nobody has a place or gets one meanwhile."""
        with self._lock:
            if not self._taken and not self._waiting:
                work()

    def wake(self) -> None:
        """Have those who wait look whether the agent still takes calls, and they are wanted."""
        with self._lock:
            self._changed.notify_all()

    def await_lingering(self, timeout: float) -> None:
        """Wait for the streams that are being closed, for ``timeout`` seconds at most."""
        with self._lock:
            self._closing = True
            self._changed.wait_for(lambda: not self.lingering or not self._alive(), timeout)


__all__ = ["IN_FLIGHT", "Full", "Places"]
