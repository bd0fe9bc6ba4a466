"""A terminal of the test's own, with a program in its foreground."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path
from typing import Any

# How long anything may take, in seconds.
PATIENCE = 30.0


class Terminal:
    """Runs a Python script as a shell would, types, and reads what the screen shows."""

    def __init__(self, script: Path, *args: str, size: tuple[int, int] = (30, 100)) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            command = [sys.executable, str(script), *args]
            # Not before the terminal has its size.
            os.read(0, 1)
            os.environ["TERM"] = "dumb"
            os.execv(sys.executable, command)
        self.screen = ""
        self._seen = 0
        # A character may come in two reads.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.resize(*size)
        modes = termios.tcgetattr(self.fd)
        os.write(self.fd, b"\n")
        self.expect("\r\n")
        self.modes = modes

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    @property
    def raw(self) -> bool:
        """Whether the program reads each key as it is."""
        return not termios.tcgetattr(self.fd)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    @property
    def restored(self) -> bool:
        """Whether the terminal has the modes that it began with."""
        return bool(termios.tcgetattr(self.fd) == self.modes)

    def resize(self, rows: int, columns: int) -> None:
        """Give the window another size, of which the program is told."""
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, size)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, text: str) -> str:
        """Return what is shown from where the last one ended, once ``text`` is."""
        end = self._until(lambda: self.screen.find(text, self._seen))
        shown, self._seen = self.screen[self._seen : end + len(text)], end + len(text)
        return shown

    def end(self) -> int:
        """Return the program's exit status, or minus the signal that ended it."""
        self._until(lambda: -1, to_the_end=True)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)

    def rest(self) -> str:
        """Return what is shown from where the last expectation ended."""
        return self.screen[self._seen :]

    def _until(self, found: Any, to_the_end: bool = False) -> int:
        deadline = time.monotonic() + PATIENCE
        while (place := found()) < 0:
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"nothing more came after {self.screen!r}"
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            if not data:
                assert to_the_end, f"the program ended after {self.screen!r}"
                return -1
            self.screen += self._decoder.decode(data)
        return int(place)
