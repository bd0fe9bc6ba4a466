"""A call's output on this side: decoded, shown, kept, watched; and its stdin's feeder."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import IO, Any

from invoke.watchers import StreamWatcher

from fabremote.agent import wire
from fabremote.watching import Watching

# What is kept of a stream nobody asked to keep, for RemoteProcessDied.stderr.
TAIL = 8192
PIECE = 16384


class Output:
    """One of a call's output streams.

    ``target`` is the local file that shows it, or None to hide it; ``keep``
    says whether all of it is kept, as for a Result, or only its tail.
    """

    def __init__(
        self,
        target: IO[str] | None,
        encoding: str,
        keep: bool,
        watchers: list[StreamWatcher],
        respond: Callable[[str], None],
    ) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._target = target
        self._keep = keep
        self._kept: deque[str] = deque()
        self._size = 0
        self._watching = Watching(watchers) if watchers else None
        self._respond = respond

    def write(self, data: bytes | memoryview, final: bool = False) -> None:
        """Take in bytes as they came; an unfinished character waits for its rest."""
        text = self._decoder.decode(bytes(data), final)
        if not text:
            return
        self._remember(text)
        if self._target is not None:
            _show(self._target, text)
        if self._watching is not None:
            for response in self._watching.responses(text):
                self._respond(response)

    def text(self) -> str:
        """Return what is kept of the stream."""
        text = "".join(self._kept)
        return text if self._keep else text[-TAIL:]

    def mute(self) -> None:
        """Show and watch nothing any more: the call is being ended."""
        self._target = None
        self._watching = None

    def _remember(self, text: str) -> None:
        self._kept.append(text)
        self._size += len(text)
        while not self._keep and self._size - len(self._kept[0]) >= TAIL:
            self._size -= len(self._kept.popleft())


def _show(target: IO[str], text: str) -> None:
    try:
        target.write(text)
    except UnicodeEncodeError:
        encoding = getattr(target, "encoding", None) or "ascii"
        target.write(text.encode(encoding, "backslashreplace").decode(encoding))
    target.flush()


class Feeder:
    """Forwards a local stream to a call's stdin from a thread that ends with the call."""

    def __init__(self, stream: Any, encoding: str, send: Callable[[bytes], None], eof: bool):
        self._stream = stream
        self._encoding = encoding
        self._send = send
        self._eof = eof
        self._room = wire.WINDOW
        self._changed = threading.Condition()
        self._stopped = False
        # Why the stream could not be read to its end, if so.
        self.failure: Exception | None = None
        self._wake = os.pipe() if self._descriptor() is not None else None
        self._thread = threading.Thread(target=self._run, name="fabremote-stdin", daemon=True)
        self._thread.start()

    def taken(self, count: int) -> None:
        """Note that the far side has written ``count`` bytes to the function's stdin."""
        with self._changed:
            self._room = min(self._room + count, wire.WINDOW)
            self._changed.notify_all()

    def stop(self) -> None:
        """End the thread; a stream without a descriptor may hold it in a read until its next."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._wake is None:
            self._thread.join(0.1)
            return
        os.write(self._wake[1], b"x")
        self._thread.join()
        for fd in self._wake:
            os.close(fd)

    def _run(self) -> None:
        try:
            while self._wait_for_room():
                data = self._read()
                if data:
                    self._forward(data)
                elif data is not None:
                    break
        except Exception as error:
            # If it is the connection that is gone, the call's own error says so.
            self.failure = error
        finally:
            if (self._eof or self.failure is not None) and not self._stopped:
                with contextlib.suppress(OSError):
                    self._send(b"")

    def _forward(self, data: bytes) -> None:
        with self._changed:
            self._room -= len(data)
        for start in range(0, len(data), wire.MAX_DATA):
            self._send(data[start : start + wire.MAX_DATA])

    def _wait_for_room(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._room > 0 or self._stopped)
            return not self._stopped

    def _read(self) -> bytes | None:
        """Return the next piece, b"" at the end, or None if the call ended meanwhile."""
        if self._wake is not None:
            descriptor = self._stream.fileno()
            ready, _, _ = select.select([descriptor, self._wake[0]], [], [])
            if self._wake[0] in ready:
                return None
            raw = getattr(self._stream, "buffer", self._stream)
            data = raw.read1(PIECE) if hasattr(raw, "read1") else os.read(descriptor, PIECE)
        else:
            data = self._stream.read(PIECE)
        return data.encode(self._encoding) if isinstance(data, str) else bytes(data or b"")

    def _descriptor(self) -> int | None:
        try:
            descriptor = self._stream.fileno()
        except (AttributeError, OSError, ValueError):
            return None
        return descriptor if isinstance(descriptor, int) and descriptor >= 0 else None


def local_stream(given: IO[str] | None, name: str) -> IO[str]:
    """Return the file a stream is shown on: the one given, or sys's of that name."""
    stream: IO[str] = given if given is not None else getattr(sys, name)
    return stream


__all__ = ["Feeder", "Output", "local_stream"]
