"""The live view of a group's work on a terminal: hosts done, running, failed, and the time.

Needs rich, the extra of that name; without it, and where output is no
terminal, there is none.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable

from fabremote.labels import TERMINAL, is_terminal
from fabremote.streams import show
from fabremote.threads import start_thread

# How long work must take to be worth a view, and how often the view is drawn anew, in seconds.
WORTH = 0.5
PACE = 0.2
# How long it stays away while more and more is printed, in seconds.
REST = 0.05
# So many names of hosts are shown.
NAMES = 6


class View:
    """Counts a group's hosts, and shows the counts below their output while they run."""

    def __init__(self, names: list[str], wanted: bool) -> None:
        self._names = names
        self._begun = time.monotonic()
        self._running: dict[int, str] = {}
        self._failed: list[str] = []
        self._done: list[str] = []
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if wanted and possible():
            self._thread = start_thread("fabremote-live", self._run)

    def began(self, place: int) -> None:
        """A host's work begins."""
        self._running[place] = self._names[place]

    def ended(self, place: int, failed: bool) -> None:
        """A host's work has ended."""
        self._running.pop(place, None)
        if failed:
            self._failed.append(self._names[place])
        else:
            self._done.append(self._names[place])

    def close(self) -> None:
        """Take the view away."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def text(self) -> str:
        """Return what is shown."""
        seconds = int(time.monotonic() - self._begun)
        running, failed = list(self._running.copy().values()), list(self._failed)
        done = len(self._done)
        waiting = len(self._names) - done - len(running) - len(failed)
        parts = [f"{done}/{len(self._names)} done", f"{len(running)} running"]
        parts += [f"{waiting} waiting"] if waiting else []
        parts += [f"{len(failed)} failed"]
        lines = [" · ".join([*parts, f"{seconds // 60}:{seconds % 60:02}"])]
        for word, names in (("running", running), ("failed", failed)):
            if names:
                more = f" +{len(names) - NAMES}" if len(names) > NAMES else ""
                lines.append(f"{word}: {', '.join(names[:NAMES])}{more}")
        return "\n".join(lines)

    def _run(self) -> None:
        if self._closed.wait(WORTH):
            return
        drawing = self._begin()
        if drawing is None:
            return
        try:
            while not self._closed.wait(PACE):
                with TERMINAL.lock:
                    drawing.draw()
        finally:
            with TERMINAL.lock:
                TERMINAL.above = TERMINAL.erase = None
                drawing.erase()

    def _begin(self) -> Drawing | None:
        with TERMINAL.lock:
            if TERMINAL.above is not None:
                return None  # Another group's work is shown.
            TERMINAL.free_line(sys.stdout)
            drawing = Drawing(self.text)
            drawing.draw()
            TERMINAL.above, TERMINAL.erase = drawing.above, drawing.erase
        return drawing


class Drawing:
    """A view on the terminal, below all that is printed; used under the terminal's lock."""

    def __init__(self, text: Callable[[], str]) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        def view() -> Text:
            return Text(text(), style="dim", overflow="ellipsis", no_wrap=True)

        self._target = sys.stdout
        console = Console(file=self._target)
        self._live = Live(console=console, get_renderable=view, auto_refresh=False, transient=True)
        self._drawn: float | None = None

    def draw(self) -> None:
        """Show it as it is now, unless a person is being asked."""
        if TERMINAL.asking:
            return
        self._live.start()
        self._live.refresh()
        self._drawn = time.monotonic()

    def erase(self) -> None:
        """Take it away."""
        self._live.stop()

    def above(self, text: str) -> None:
        """Write text, untouched, where the view was; after a flood `draw` is left to others."""
        self.erase()
        show(self._target, text)
        if self._drawn is None or time.monotonic() - self._drawn > REST:
            self.draw()


def possible() -> bool:
    """Return whether a person would see a view."""
    seen = is_terminal(sys.stdout) and is_terminal(sys.stderr)
    return (
        seen and os.environ.get("TERM") != "dumb" and importlib.util.find_spec("rich") is not None
    )


__all__ = ["View", "possible"]
