"""The local terminal during a call with ``pty=True``: its size, its modes, its signals.

What is typed is the function's, character by character, as with ``ssh -t``: the
local terminal echoes nothing and makes no signals of Ctrl-C or Ctrl-Z, as the
one over there does.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# What the terminal over there is where this side doesn't know, as in paramiko and Invoke.
KIND = "vt100"
COLUMNS, ROWS = 80, 24
# A terminal's end of file, Ctrl-D.
EOT = b"\x04"

_SIZE = struct.Struct(">HH")
_INPUT = (
    termios.BRKINT
    | termios.INPCK
    | termios.ISTRIP
    | termios.ICRNL
    | termios.INLCR
    | termios.IGNCR
    | termios.IXON
)
_LOCAL = termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG


def size() -> bytes:
    """Return the local terminal's rows and columns as they travel; 24 and 80 without one."""
    for stream in (sys.__stdout__, sys.__stdin__, sys.__stderr__):
        descriptor = descriptor_of(stream)
        if descriptor is not None and os.isatty(descriptor):
            found = os.get_terminal_size(descriptor)
            if found.columns and found.lines:
                return _SIZE.pack(found.lines, found.columns)
    return _SIZE.pack(ROWS, COLUMNS)


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return a call's variables with TERM, which is the local one's unless given."""
    return {"TERM": os.environ.get("TERM") or KIND, **given}


def descriptor_of(stream: Any) -> int | None:
    """Return the descriptor that a stream reads from or writes to, if it has one."""
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None
    return descriptor if isinstance(descriptor, int) and descriptor >= 0 else None


def is_terminal(stream: Any) -> bool:
    """Return whether a stream is a terminal's."""
    descriptor = descriptor_of(stream)
    return descriptor is not None and os.isatty(descriptor)


def keyboard() -> Any:
    """Return stdin where a user types for this process: a terminal in whose foreground it is."""
    descriptor = descriptor_of(sys.stdin)
    return sys.stdin if descriptor is not None and _in_foreground(descriptor) else None


def _in_foreground(descriptor: int) -> bool:
    """Whether this is a terminal whose modes may be set: in the background that stops us."""
    try:
        return os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return False


class _Modes:
    """The terminals that calls read raw, the modes they had, and how many calls do so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[int, list[Any]]] = {}
        self._process = os.getpid()
        atexit.register(self.restore)

    def take(self, descriptor: int) -> None:
        """Make a terminal raw for one more call."""
        with self._lock:
            self._process = os.getpid()
            if descriptor in self._kept:
                count, modes = self._kept[descriptor]
            else:
                count, modes = 0, termios.tcgetattr(descriptor)
                self._set(descriptor, raw(modes))
            self._kept[descriptor] = count + 1, modes

    def give_back(self, descriptor: int) -> None:
        """One call less reads it; after the last it has its modes back."""
        with self._lock:
            count, modes = self._kept.pop(descriptor)
            if count > 1:
                self._kept[descriptor] = count - 1, modes
            else:
                self._set(descriptor, modes)

    def restore(self) -> None:
        """Give all terminals their modes back, at this process's end, not at a forked one's."""
        if os.getpid() == self._process:
            for descriptor, (_, modes) in self._kept.items():
                self._set(descriptor, modes)

    def _set(self, descriptor: int, modes: list[Any]) -> None:
        # It may have been closed, or the process been put into the background.
        if _in_foreground(descriptor):
            with contextlib.suppress(termios.error):
                termios.tcsetattr(descriptor, termios.TCSANOW, modes)


def raw(modes: list[Any]) -> list[Any]:
    """Return a terminal's modes changed so that each key is read as it is; output stays."""
    changed = [*modes[:6], [*modes[6]]]
    changed[0] &= ~_INPUT
    changed[3] &= ~_LOCAL
    changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
    return changed


_MODES = _Modes()


class Raw:
    """A stream's terminal, if that is what it is, read raw until `end`."""

    def __init__(self, stream: Any) -> None:
        self._descriptor = descriptor_of(stream)
        if self._descriptor is not None and _in_foreground(self._descriptor):
            _MODES.take(self._descriptor)
        else:
            self._descriptor = None

    def end(self) -> None:
        """Give the terminal its modes back."""
        if self._descriptor is not None:
            _MODES.give_back(self._descriptor)
            self._descriptor = None


@contextlib.contextmanager
def following(changed: Callable[[], None]) -> Iterator[None]:
    """Have ``changed`` called, in a signal handler, when the window has another size.

    Signals are the main thread's: a call in another keeps its first size.
    """
    before = signal.getsignal(signal.SIGWINCH)
    # None is a handler that isn't Python's, which could not be put back.
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return

    def handle(number: int, frame: Any) -> None:
        changed()
        if callable(before):
            before(number, frame)

    try:
        signal.signal(signal.SIGWINCH, handle)
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


__all__ = ["EOT", "Raw", "environment", "following", "is_terminal", "keyboard", "size"]
