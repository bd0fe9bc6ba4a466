"""Shows how far large arguments and results are: ``progress=``."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from fabremote.options import Report

# What takes no longer than this gets no bar, in seconds.
PATIENCE = 2.0
# How often a bar is drawn, in seconds.
INTERVAL = 0.1
ARROWS = {"up": "\N{UPWARDS ARROW}", "down": "\N{DOWNWARDS ARROW}"}


def reporter(progress: Report | Literal[True] | None, name: str) -> Report | None:
    """Return what is told how far a call's bytes are, or None if nobody wants to know."""
    if progress is not True:
        return progress
    return Bar(name) if sys.stderr.isatty() else None


class Bars:
    """The bars on the terminal: rich draws all of them at once, or none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._drawn: Progress | None = None
        self._count = 0

    def add(self, text: str, total: int) -> TaskID:
        """Put another bar under those that there are."""
        with self._lock:
            if self._drawn is None:
                self._drawn = _make()
                self._drawn.start()
            self._count += 1
            return self._drawn.add_task(text, total=total)

    def update(self, bar: TaskID, done: int) -> None:
        """Draw a bar anew."""
        with self._lock:
            if self._drawn is not None:
                self._drawn.update(bar, completed=done, refresh=True)

    def remove(self, bar: TaskID) -> None:
        """Take a bar away; nothing of it stays on the terminal."""
        with self._lock:
            if self._drawn is None:
                return
            self._drawn.remove_task(bar)
            self._count -= 1
            if not self._count:
                self._drawn.stop()
                self._drawn = None


_bars = Bars()


def _make() -> Progress:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        # No thread of its own: each report draws it.
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class Bar:
    """The bar of one call, for each direction that takes long."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._direction = ""
        self._began = self._drawn = 0.0
        self._bar: TaskID | None = None

    def __call__(self, direction: str, done: int, total: int) -> None:
        """Note that ``done`` of ``total`` bytes have gone or come."""
        now = time.monotonic()
        if direction != self._direction:
            self.close()
            self._direction, self._began = direction, now
        if done >= total:
            self.close()
        elif self._bar is not None:
            if now - self._drawn >= INTERVAL:
                self._drawn = now
                _bars.update(self._bar, done)
        elif now - self._began >= PATIENCE:
            self._drawn = now
            self._bar = _bars.add(f"{self._name} {ARROWS[direction]}", total)
            _bars.update(self._bar, done)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            _bars.remove(self._bar)
            self._bar = None


__all__ = ["Bar", "reporter"]
