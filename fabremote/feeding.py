"""Forwards a local stream to a call's stdin, as it comes and as the function takes it."""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
import threading
from collections.abc import Callable
from typing import Any

from fabremote.agent import wire
from fabremote.terminals import EOT, descriptor_of

# Read at once, in bytes or characters: below what malloc() would map and unmap each time.
PIECE = wire.MAX_DATA


class Feeder:
    """Forwards a stream from a thread that ends with the call.

    ``send`` sends a piece; ``failed`` is told why the stream could not be read.
    ``ending``: what says that it is at its end, ``b""`` for a pipe, ``EOT`` for
    a terminal; None if stdin stays open then.
    """

    def __init__(
        self,
        stream: Any,
        encoding: str,
        send: Callable[[bytes], None],
        failed: Callable[[Exception], None],
        ending: bytes | None,
    ) -> None:
        self._stream = stream
        self._encoding = encoding
        self._send = send
        self._failed = failed
        self._ending = ending
        self._room = wire.WINDOW
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._stopped = self._used = False
        self._descriptor = _awaited(stream)
        self._wake = os.pipe() if self._descriptor is not None else ()
        # Known before it runs: it may be the one that stops this.
        self._thread = threading.Thread(target=self._run, name="fabremote-stdin", daemon=True)
        self._thread.start()

    def taken(self, count: int) -> None:
        """Note that the far side has written ``count`` bytes to the function's stdin."""
        with self._lock:
            self._room = min(self._room + count, wire.WINDOW)
            self._changed.notify_all()

    @property
    def used(self) -> bool:
        """Whether anything of the stream has been read, or still is."""
        return self._used or self._thread.is_alive()

    def stop(self) -> None:
        """End the thread; a stream without a descriptor may hold it in a read until its next."""
        with self._lock:
            self._stopped = True
            self._changed.notify_all()
        if not self._wake:
            self._join(0.1)
            return
        os.write(self._wake[1], b"x")
        self._join(None)
        for fd in self._wake:
            os.close(fd)

    def _join(self, timeout: float | None) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        last = b"\n"
        while self._wait_for_room():
            try:
                data = self._read()
            except Exception as error:
                self._failed(error)
                return
            if data is None:
                return
            self._used = self._used or bool(data)
            # If it is the connection that is gone, the call's own error says so.
            with contextlib.suppress(OSError):
                if not data:
                    self._end(last)
                    return
                self._forward(data)
            last = data[-1:]

    def _forward(self, data: bytes) -> None:
        with self._lock:
            self._room -= len(data)
        for start in range(0, len(data), wire.MAX_DATA):
            self._send(data[start : start + wire.MAX_DATA])

    def _end(self, last: bytes) -> None:
        if self._ending is not None and not self._stopped:
            # After part of a line, the first one only ends that.
            twice = self._ending == EOT and last != b"\n"
            self._send(self._ending * 2 if twice else self._ending)

    def _wait_for_room(self) -> bool:
        with self._lock:
            self._changed.wait_for(lambda: self._room > 0 or self._stopped)
            return not self._stopped

    def _read(self) -> bytes | None:
        """Return the next piece, b"" at the end, or None if the call ended meanwhile."""
        data: Any = None
        while data is None:
            if self._wake and self._descriptor is not None:
                ready, _, _ = select.select([self._descriptor, self._wake[0]], [], [])
                if self._wake[0] in ready:
                    return None
                data = getattr(self._stream, "buffer", self._stream).read1(PIECE)
            else:
                data = self._stream.read(PIECE)
        if isinstance(data, str):
            return data.encode(self._encoding)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"in_stream={self._stream!r:.100} gave {type(data).__name__} when it was read; "
                "it must give str or bytes."
            )
        return bytes(data)


def _awaited(stream: Any) -> int | None:
    """Return the descriptor that says when a stream can be read, if it has one.

    A file can always be. Of what isn't Python's own reader, nobody knows what it
    holds back.
    """
    reader = stream.buffer if isinstance(stream, io.TextIOWrapper) else stream
    if not isinstance(reader, io.BufferedReader) or not isinstance(reader.raw, io.FileIO):
        return None
    descriptor = descriptor_of(stream)
    if descriptor is None or stat.S_ISREG(os.fstat(descriptor).st_mode):
        return None
    return descriptor


__all__ = ["Feeder"]
