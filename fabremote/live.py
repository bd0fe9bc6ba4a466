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
from typing import Any

from fabremote.labels import TERMINAL, is_terminal

# How long work must take to be worth a view, and how often the view is drawn anew, in seconds.
WORTH = 0.5
PACE = 0.2
# So many names of hosts are shown.
NAMES = 6


class View:
    """Counts a group's hosts, and shows the counts below their output while they run."""

    def __init__(self, names: list[str], wanted: bool) -> None:
        self._names = names
        self._begun = time.monotonic()
        self._running: dict[int, str] = {}
        self._failed: list[str] = []
        self._done = 0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if wanted and possible():
            self._thread = threading.Thread(target=self._run, name="fabremote-live", daemon=True)
            self._thread.start()

    def began(self, place: int) -> None:
        """A host's work begins."""
        self._running[place] = self._names[place]

    def ended(self, place: int, failed: bool) -> None:
        """A host's work has ended."""
        self._running.pop(place, None)
        if failed:
            self._failed.append(self._names[place])
        else:
            self._done += 1

    def close(self) -> None:
        """Take the view away."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def text(self) -> str:
        """Return what is shown."""
        seconds = int(time.monotonic() - self._begun)
        running, failed = list(self._running.copy().values()), list(self._failed)
        waiting = len(self._names) - self._done - len(running) - len(failed)
        parts = [f"{self._done}/{len(self._names)} done", f"{len(running)} running"]
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
        live = self._start()
        if live is None:
            return
        try:
            while not self._closed.wait(PACE):
                live.refresh()
        finally:
            with TERMINAL.lock:
                TERMINAL.above = None
                live.stop()

    def _start(self) -> Any:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        def above(text: str) -> None:
            console.print(Text.from_ansi(text.removesuffix("\n")), soft_wrap=True)

        def view() -> Text:
            return Text(self.text(), style="dim", overflow="ellipsis", no_wrap=True)

        with TERMINAL.lock:
            if TERMINAL.above is not None:
                return None
            console = Console(file=sys.stdout, highlight=False)
            live = Live(console=console, get_renderable=view, auto_refresh=False, transient=True)
            live.start(refresh=True)
            TERMINAL.above = above
        return live


def possible() -> bool:
    """Return whether a person would see a view."""
    seen = is_terminal(sys.stdout) and is_terminal(sys.stderr)
    return (
        seen and os.environ.get("TERM") != "dumb" and importlib.util.find_spec("rich") is not None
    )


__all__ = ["View", "possible"]
