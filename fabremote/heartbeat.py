"""The clock of all sessions: one thread that ticks for each at its own pace."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Ticking(Protocol):
    """What a clock ticks for."""

    def tick(self) -> None:
        """Do what is due now, without waiting for anything."""


class Clock:
    """Ticks in one thread, which runs as long as there is somebody to tick for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Each one's pace and when its next tick is due, in seconds, the latter monotonic.
        self._paces: dict[Ticking, float] = {}
        self._due: dict[Ticking, float] = {}
        self._thread: threading.Thread | None = None

    def add(self, one: Ticking, pace: float) -> None:
        """Tick for ``one`` every ``pace`` seconds."""
        with self._changed:
            self._paces[one] = pace
            self._due[one] = time.monotonic() + pace
            if self._thread is None:
                name = "fabremote-heartbeat"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, one: Ticking) -> None:
        """Tick for it no more."""
        with self._changed:
            self._paces.pop(one, None)
            self._due.pop(one, None)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._due:
                    self._thread = None
                    return
                now = time.monotonic()
                ready = [one for one, due in self._due.items() if due <= now]
                for one in ready:
                    self._due[one] = now + self._paces[one]
                if not ready:
                    self._changed.wait(min(self._due.values()) - now)
            for one in ready:
                one.tick()


CLOCK = Clock()

__all__ = ["CLOCK", "Clock"]
