"""A host that was broken into: it speaks the agent's protocol, and lies.

`LyingLink` is one in memory, `lying_python` one on a real host: an executable
that is started in place of an interpreter.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from invoke.context import Context

from fabremote.agent import wire
from fabremote.bootstrap import this_python
from fabremote.early import Early
from fabremote.interpreter import Interpreter
from fabremote.links import read_on
from fabremote.options import Bound, Options
from fabremote.session import Session


class LyingLink:
    """Says these frames once a call was sent, then stays silent, or ends if ``ends``.

    It stops reading after ``reads`` bytes. ``taken``: all that it says was handled by
    the session's reader.
    """

    def __init__(self, frames: Iterable[bytes], reads: int = 1 << 30, ends: bool = False) -> None:
        self._frames = iter(frames)
        self._ends = ends
        self.reads = reads
        self.sent = 0
        self._begun = threading.Event()
        self.taken = threading.Event()
        self.closed = threading.Event()

    def send(self, data: bytes) -> None:
        self.sent += len(data)
        self._begun.set()
        if self.sent > self.reads:
            self.closed.wait()
        if self.closed.is_set():
            raise BrokenPipeError("closed")

    def ready(self, size: int) -> bool:
        return self.sent + size <= self.reads

    def receive(self) -> bytes:
        self._begun.wait()
        piece = next(self._frames, b"")
        if piece and not self.closed.is_set():
            return piece
        self.taken.set()
        if not self._ends:
            self.closed.wait()
        return b""

    def finish(self) -> None:
        self.close()

    def status(self, timeout: float) -> int | None:
        return None

    def attend(self, take: Callable[[bytes], None], end: Callable[[], None], label: str) -> None:
        read_on(self, take, end, label)

    def close(self) -> None:
        self.closed.set()
        self._begun.set()


class LyingHost:
    """What an interpreter runs on: each of its sessions is with a new `LyingLink`."""

    label = "h"

    def __init__(self, *frames: bytes, **settings: Any) -> None:
        self.context = Context()
        self._frames, self._settings = frames, settings
        self._session: Session | None = None

    def live_session(self, options: Options) -> Session | None:
        return self._session if self._session is not None and self._session.alive else None

    def session(self, options: Options, early: Early | None = None) -> Session:
        self.link = LyingLink(self._frames, **self._settings)
        self._session = Session(self.link, self.label, this_python(), b"")
        return self._session

    def python(self, **options: Any) -> Interpreter:
        """Return an interpreter of this host."""
        return Interpreter(self, Bound(self.context, options))

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


def answer(data: bytes, call: int = 1) -> bytes:
    """The frames of an answer, and of an honest end."""
    whole = wire.NUMBER.pack(len(data)) + data
    pieces = [whole[at : at + wire.MAX_DATA] for at in range(0, len(whole), wire.MAX_DATA)]
    return b"".join(wire.frame(wire.REPLY, call, piece) for piece in pieces) + done(call)


def done(call: int = 1, data: bytes = wire.STATUS.pack(1, 0, 0)) -> bytes:
    return wire.frame(wire.DONE, call, data)


_PROGRAM = """#!{python} -S
import os, re, struct, sys
size = sum(map(int, re.findall(r"[md]=r\\((\\d+)\\)", sys.argv[-1])))
def read(count):
    found = b""
    while len(found) < count:
        piece = os.read(0, count - len(found))
        if not piece:
            sys.exit()
        found += piece
    return found
def write(data):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]
marker = read(size)[:32]
write({hello!r}.replace(b"MARKER", marker))
kind = {ping}
while kind == {ping}:  # until a call comes
    kind, _, length = struct.unpack(">BII", read(9))
    read(length)
for data, times in {said!r}:
    for _ in range(times):
        write(data)
while os.read(0, 65536):
    pass
"""


def lying_python(folder: Path, said: list[tuple[bytes, int]], hello: bytes | None = None) -> str:
    """Make an executable that says hello, then this once a call comes; return its path.

    ``said``: bytes, and how many times they are said.
    """
    version = ".".join(map(str, sys.version_info[:3]))
    honest = f"\nMARKER hello {version} cpython 0 77 /liar\n".encode()
    path = folder / "liar"
    text = _PROGRAM.format(python=sys.executable, hello=hello or honest, ping=wire.PING, said=said)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)
