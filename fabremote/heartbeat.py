"""Signs of life to agents and from them, by one clock for all that this process waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from fabremote.agent import wire
from fabremote.threads import start_thread


class Ticking(Protocol):
    """What a clock ticks for."""

    def tick(self) -> None:
        """Do what is due now, without waiting for anything."""


class Clock:
    """Ticks in one thread, which runs as long as there is somebody to tick for."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # Each one's pace and when its next tick is due, in seconds, the latter monotonic.
        self._paces: dict[Ticking, float] = {}
        self._due: dict[Ticking, float] = {}
        self._thread: threading.Thread | None = None

    def add(self, one: Ticking, pace: float) -> None:
        """Tick for ``one`` every ``pace`` seconds."""
        with self._lock:
            self._paces[one] = pace
            self._due[one] = time.monotonic() + pace
            if self._thread is None:
                self._thread = start_thread("fabremote-heartbeat", self._run)
            self._changed.notify()

    def remove(self, one: Ticking) -> None:
        """Tick for it no more."""
        with self._lock:
            self._paces.pop(one, None)
            self._due.pop(one, None)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._lock:
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


class Pulse:
    """The heartbeat of one session; ``heard`` is set whenever anything comes from its agent.

    ``seconds``: between signs of life, 0 for none. ``send`` posts one, without
    waiting for it. ``give_up`` is called, in a thread of its own, with the
    seconds for which nothing came.
    """

    def __init__(
        self, seconds: float, send: Callable[[bytes], None], give_up: Callable[[float], None]
    ) -> None:
        self._seconds, self._send, self._give_up = seconds, send, give_up
        self.heard = False
        self._ticks = self._silent = 0

    def start(self) -> None:
        """Begin, unless there is to be none."""
        if self._seconds:
            CLOCK.add(self, self._seconds / wire.BEAT)

    def stop(self) -> None:
        """End."""
        CLOCK.remove(self)

    def tick(self) -> None:
        """Give a sign of life now and then; give the link up once the host gives none.

        Ticks are counted, not time: while this process stood still, nothing could be heard.
        """
        heard, self.heard = self.heard, False
        self._silent = 0 if heard else self._silent + 1
        self._ticks += 1
        # It has lasted so many ticks, and up to one more.
        if self._silent >= wire.SILENCE:
            self.stop()
            # It may take a moment, which the clock has not.
            silence = self._seconds * wire.SILENCE / wire.BEAT
            start_thread("fabremote-link", self._give_up, silence)
        elif self._ticks % wire.BEAT == 0:
            self._send(beat(self._seconds))


def beat(seconds: float) -> bytes:
    """Return a sign of life for an agent: it says how often to give some."""
    tick = max(1, round(seconds * 1000 / wire.BEAT))
    frame: bytes = wire.frame(wire.PING, 0, wire.NUMBER.pack(tick))
    return frame


__all__ = ["CLOCK", "Pulse", "beat"]
