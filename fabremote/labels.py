"""Output of several hosts on one terminal or file: whole lines, each with its host's label.

::

    web1's call ── Labelled ──┐
    web2's call ── Labelled ──┴── Terminal, one line at a time ──> sys.stdout, a file

Lines stay whole even while hosts print at once. On a terminal an unfinished
line, such as a prompt, shows after a moment; elsewhere it waits for its end.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

from fabremote.streams import show
from fabremote.threads import start_thread

# The longest line that is waited for, in characters; a longer one is shown in pieces.
LONGEST = 1 << 20
# How long a line may be unfinished before a terminal shows what there is of it, in seconds.
SOON = 0.4
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
# What ends a line beside LF: CR LF, and the CR by which progress bars start over.
_ENDS = re.compile(r"\r*\n")
_IDLE_CR = re.compile(r"(?:^|(?<=\n))\r+")


def names_of(group: Iterable[Any]) -> list[str]:
    """Return a name for each connection: its host's, with what else tells it from the others."""
    every = list(group)
    names = [str(getattr(one, "original_host", "localhost")) for one in every]
    ways: tuple[Callable[[Any, str], str], ...] = (
        lambda one, name: f"{name}:{getattr(one, 'port', '')}",
        lambda one, name: f"{getattr(one, 'user', '')}@{name}",
    )
    for way in ways:
        fuller = [way(one, name) for one, name in zip(every, names, strict=True)]
        kinds = collections.defaultdict(set)
        for name, full in zip(names, fuller, strict=True):
            kinds[name].add(full)
        names = [
            full if len(kinds[name]) > 1 else name
            for name, full in zip(names, fuller, strict=True)
        ]
    total, seen = collections.Counter(names), collections.Counter[str]()
    for place, name in enumerate(names):
        seen[name] += 1
        if total[name] > 1:
            names[place] = f"{name}#{seen[name]}"
    return names


def is_terminal(file: Any) -> bool:
    """Return whether a person looks at ``file``."""
    try:
        return bool(file.isatty())
    except (AttributeError, ValueError):
        return False


def coloured() -> bool:
    """Return whether a terminal is to be shown colours."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Terminal:
    """What all labelled output goes through: one line at a time, and one cursor."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        # Prints text above a live view while there is one; see `fabremote.live`.
        self.above: Callable[[str], None] | None = None
        # Takes that view away until it is drawn anew.
        self.erase: Callable[[], None] | None = None
        # How many questions a person is being asked, during which no view is drawn.
        self.asking = 0
        # Whose unfinished line the cursor stands in.
        self._unfinished: Labelled | None = None
        # Those whose unfinished line will show if it stays so.
        self._waiting: set[Labelled] = set()
        self._thread: threading.Thread | None = None

    def lines(self, stream: Labelled, text: str, shown: int = 0) -> None:
        """Show whole lines of a stream, of whose first line a part may be shown already."""
        with self.lock:
            if not stream.terminal:
                show(stream.target, text)
            elif self.above is not None:
                self.above(text)
            elif self._unfinished is stream:
                show(stream.target, text[shown:])
                self._unfinished = None
            else:
                show(stream.target, self._fresh() + text)

    def unfinished(self, stream: Labelled, text: str, shown: int) -> None:
        """Show what there is of a line that may go on."""
        with self.lock:
            if self.above is not None:
                self.above(text + "\n")
            elif self._unfinished is stream:
                show(stream.target, text[shown:])
            else:
                show(stream.target, self._fresh() + text)
                self._unfinished = stream

    def watch(self, stream: Labelled) -> None:
        """Show a stream's unfinished line if it stays so for a while."""
        with self.lock:
            self._waiting.add(stream)
            if self._thread is None:
                self._thread = start_thread("fabremote-labels", self._run)

    @contextlib.contextmanager
    def question(self, target: IO[str]) -> Iterator[None]:
        """Leave the cursor's line to a question for as long as a person is asked it."""
        with self.lock:
            self.asking += 1
            if self.erase is not None:
                self.erase()
            self.free_line(target)
        try:
            yield
        finally:
            with self.lock:
                self.asking -= 1

    def _run(self) -> None:
        while True:
            with self.lock:
                now = time.monotonic()
                self._waiting = {one for one in self._waiting if one.since is not None}
                due = [one for one in self._waiting if now - (one.since or now) >= SOON]
                for one in due:
                    # If what it is shown on is gone, its next line says so to its call.
                    with contextlib.suppress(OSError, ValueError):
                        one.show_unfinished()
                self._waiting.difference_update(due)
                if not self._waiting:
                    self._thread = None
                    return
            time.sleep(SOON / 4)

    def free_line(self, target: IO[str]) -> None:
        """Leave the line in which the cursor stands, if somebody's unfinished one is there."""
        with self.lock:
            show(target, self._fresh())

    def _fresh(self) -> str:
        """Return what leads to an empty line."""
        other, self._unfinished = self._unfinished, None
        return "" if other is None else "\n"


TERMINAL = Terminal()


class Labelled:
    """A text file that shows what one host prints on another file, labelled and by lines."""

    def __init__(self, target: IO[str], name: str, place: int) -> None:
        self.target = target
        self.terminal = is_terminal(target)
        self._label = f"[{name}] "
        if self.terminal and coloured():
            colour = COLOURS[place % len(COLOURS)]
            # The reset first: a host may have left its own colour on.
            self._label = f"\x1b[0;{colour}m[{name}]\x1b[0m "
        self._parts: list[str] = []
        self._size = self._shown = 0
        # Since when a person has waited for the end of its line.
        self.since: float | None = None

    @property
    def encoding(self) -> str | None:
        """The encoding of the file that is written to."""
        return getattr(self.target, "encoding", None)

    def isatty(self) -> bool:
        """Return whether a person sees it."""
        return self.terminal

    def write(self, text: str) -> int:
        """Take in text; show the lines that it ends."""
        with TERMINAL.lock:
            self._parts.append(text)
            self._size += len(text)
            if "\n" in text or "\r" in text or self._size > LONGEST:
                self._show_lines()
            self._wait_for_rest()
        return len(text)

    def flush(self) -> None:
        """Nothing to do: whole lines are shown at once."""

    def end_line(self) -> None:
        """Show what there is of a line, and end it."""
        with TERMINAL.lock:
            if "".join(self._parts).strip("\r"):
                self._parts.append("\n")
                self._show_lines()
            self._parts, self._size = [], 0
            self._wait_for_rest()

    def show_unfinished(self) -> None:
        """Show the line that is waited for, as far as it goes."""
        with TERMINAL.lock:
            self.since = None
            text = self._label + "".join(self._parts).strip("\r")
            if self._size:
                TERMINAL.unfinished(self, text, self._shown)
                self._shown = len(text)

    def _show_lines(self) -> None:
        text = "".join(self._parts)
        # Of a CR at the end it isn't known yet what follows.
        held = "\r" if text.endswith("\r") else ""
        text = text[: len(text) - len(held)]
        if "\r" in text:
            text = _IDLE_CR.sub("", _ENDS.sub("\n", text)).replace("\r", "\n")
        whole, end, rest = text.rpartition("\n")
        if len(rest) > LONGEST:
            whole, end, rest = text, "\n", ""
        if end:
            lines = self._label + whole.replace("\n", "\n" + self._label) + "\n"
            TERMINAL.lines(self, lines, self._shown)
            self._shown = 0
        self._parts = [rest + held] if rest or held else []
        self._size = len(rest + held)

    def _wait_for_rest(self) -> None:
        unfinished = self.terminal and self._size > 0
        self.since = time.monotonic() if unfinished else None
        if unfinished:
            TERMINAL.watch(self)


__all__ = ["TERMINAL", "Labelled", "coloured", "is_terminal", "names_of"]
