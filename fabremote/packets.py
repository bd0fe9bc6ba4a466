"""What a channel has received, kept packet by packet."""

from __future__ import annotations

import threading
from collections import deque

from paramiko.buffered_pipe import BufferedPipe, PipeTimeout


class Packets(BufferedPipe):  # type: ignore[type-arg]  # generic in the stubs alone
    """A channel's ``in_buffer`` that hands on packets as they came.

    Paramiko's own joins them in one array and cuts that anew, which takes as long
    as all else that a large answer needs here (measured: 64 MiB, 80 ms of 160).
    """

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._packets: deque[bytes] = deque()
        self._readable: threading.Event | None = None
        self._ended = False

    def set_event(self, event: threading.Event) -> None:
        """Have an event be set while there is something to read, or the end."""
        with self._changed:
            self._readable = event
            self._tell()

    def feed(self, data: bytes) -> None:
        """Take in a packet's bytes."""
        if data:
            with self._changed:
                self._packets.append(data)
                self._tell()

    def read_ready(self) -> bool:
        """Return whether there is anything to read."""
        return bool(self._packets)

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """Return bytes of one packet, waiting for it; b"" once it is closed and empty.

        Raises PipeTimeout after ``timeout`` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._packets or self._ended, timeout):
                raise PipeTimeout
            data = self._packets.popleft() if self._packets else b""
            if len(data) > nbytes:
                self._packets.appendleft(data[nbytes:])
                data = data[:nbytes]
            self._tell()
            return data

    def empty(self) -> bytes:
        """Take all there is to read."""
        with self._changed:
            data = b"".join(self._packets)
            self._packets.clear()
            self._tell()
            return data

    def close(self) -> None:
        """Take nothing more: what there is can still be read."""
        with self._changed:
            self._ended = True
            self._tell()

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._packets))

    def _tell(self) -> None:
        self._changed.notify_all()
        if self._readable is not None:
            if self._packets or self._ended:
                self._readable.set()
            else:
                self._readable.clear()


__all__ = ["Packets"]
