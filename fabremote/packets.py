"""What a channel receives: kept packet by packet until asked for, or handed on at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from paramiko.buffered_pipe import BufferedPipe, PipeTimeout

from fabremote.threads import awaited_for


class Packets(BufferedPipe):  # type: ignore[type-arg]  # generic in the stubs alone
    """A channel's ``in_buffer`` that hands on packets as they came.

    Paramiko's own joins them in one array and cuts that anew, which takes as long
    as all else that a large answer needs here (measured: 64 MiB, 80 ms of 160).
    """

    def __init__(self) -> None:
        super().__init__()
        # A lock of its own: where a signal handler raises as a Condition is entered, that
        # stays locked, and the connection's thread would wait for it for ever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._packets: deque[bytes] = deque()
        self._readable: threading.Event | None = None
        self._ended = False
        self._take: Callable[[bytes], None] | None = None
        self._end: Callable[[], None] = lambda: None

    def push(self, take: Callable[[bytes], None], end: Callable[[], None]) -> None:
        """From now on call ``take`` with each packet, those first that are here, then ``end``.

        In the thread that receives them, which is to go on at once.
        """
        # All without the lock: whoever closes the channel may hold its own, which taking needs.
        while True:
            with self._lock:
                if not self._packets:
                    self._take, self._end = take, end
                    ended = self._ended
                    break
                data = self._packets.popleft()
            take(data)
        if ended:
            end()

    def set_event(self, event: threading.Event) -> None:
        """Have an event be set while there is something to read, or the end."""
        with self._lock:
            self._readable = event
            self._tell()

    def feed(self, data: bytes) -> None:
        """Take in a packet's bytes."""
        with self._lock:
            take = self._take
            if self._ended:
                return  # Nobody waits for it, and who sends it may go on for ever.
            if take is None and data:
                self._packets.append(data)
                self._tell()
        if take is not None:
            take(data)

    def read_ready(self) -> bool:
        """Return whether there is anything to read."""
        return bool(self._packets)

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """Return bytes of one packet, waiting for it; b"" once it is closed and empty.

        Raises PipeTimeout after ``timeout`` seconds.
        """
        with self._lock:
            if not awaited_for(self._changed, lambda: self._packets or self._ended, timeout):
                raise PipeTimeout
            data = self._packets.popleft() if self._packets else b""
            if len(data) > nbytes:
                self._packets.appendleft(data[nbytes:])
                data = data[:nbytes]
            self._tell()
            return data

    def empty(self) -> bytes:
        """Take all there is to read."""
        with self._lock:
            data = b"".join(self._packets)
            self._packets.clear()
            self._tell()
            return data

    def close(self) -> None:
        """Take nothing more: what there is can still be read."""
        with self._lock:
            first, self._ended = not self._ended, True
            end = self._end
            self._tell()
        if first:
            end()

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._packets))

    def _tell(self) -> None:
        self._changed.notify_all()
        if self._readable is not None:
            if self._packets or self._ended:
                self._readable.set()
            else:
                self._readable.clear()


class Told(threading.Event):
    """An event that calls ``then`` once it is set, in the thread that sets it."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self._then = then

    def set(self) -> None:
        first = not self.is_set()
        super().set()
        if first:
            self._then()


__all__ = ["Packets", "Told"]
