"""Passwords that a person types here, each asked for once."""

from __future__ import annotations

import atexit
import functools
import getpass
import os
import select
import sys
import termios
import threading
from collections.abc import Callable

from fabremote.labels import TERMINAL

# How often it is looked whether the answer is still wanted, in seconds.
LOOK = 0.2


class Typed:
    """Passwords typed in this process, by the user who logs in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, str] = {}
        self._refusals = 0

    def get(self, login: str, prompt: str, wanted: Callable[[], bool]) -> str:
        """Return a login's password, asked for on the terminal if it isn't known.

        Raises EOFError if none is typed, to another who asked meanwhile too, and once it is not
        ``wanted`` any more.
        """
        refusals = self._refusals
        with self._lock:
            if login not in self._known:
                if refusals != self._refusals or not wanted():
                    raise EOFError
                try:
                    with TERMINAL.question(sys.stdout):
                        self._known[login] = ask(prompt, wanted)
                except EOFError:
                    # Others are asked where it was this one that wants it no more.
                    self._refusals += wanted()
                    raise
            return self._known[login]

    def forget(self, login: str, password: str) -> None:
        """A login's password is wrong, unless another was typed meanwhile."""
        with self._lock:
            if self._known.get(login) == password:
                del self._known[login]


typed = Typed()


def ask(prompt: str, wanted: Callable[[], bool]) -> str:
    """Return a line typed on the terminal and not shown; raise EOFError if there is none.

    Unlike getpass, it ends once the answer is not ``wanted``: a thread may wait here, which
    no Ctrl-C reaches.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return getpass.getpass(prompt)
    try:
        before = termios.tcgetattr(terminal)
        silent = [*before]
        silent[3] &= ~termios.ECHO
        restore = functools.partial(termios.tcsetattr, terminal, termios.TCSAFLUSH, before)
        # The process may end while a thread asks here, such as one of asyncio's.
        atexit.register(restore)
        try:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
            os.write(terminal, prompt.encode())
            return _line(terminal, wanted)
        finally:
            atexit.unregister(restore)
            restore()
            os.write(terminal, b"\n")
    finally:
        os.close(terminal)


def _line(terminal: int, wanted: Callable[[], bool]) -> str:
    waiting, line = select.poll(), b""
    waiting.register(terminal, select.POLLIN)
    while not line.endswith(b"\n"):
        if not wanted():
            raise EOFError
        if waiting.poll(LOOK * 1000):
            piece = os.read(terminal, 4096)
            if not piece:
                raise EOFError
            line += piece
    return line[:-1].decode(errors="surrogateescape")


__all__ = ["Typed", "typed"]
