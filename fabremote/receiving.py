"""An answer's bytes as they come: the pickle, and the large buffers beside it."""

from __future__ import annotations

import struct

from fabremote.agent import wire

TOTAL = struct.Struct(">Q")
_COUNT = struct.Struct(">I")
_SIZE = struct.Struct(">q")
# The letter before an answer whose pickle has buffers, see ``fabremote.agent.worker``.
_BESIDE = b"B"

Data = bytes | memoryview


class Answer:
    """Gathers an answer, each byte copied once: to where it stays.

    ``limit``: the most bytes that it may have. ``refused``: how many it would
    have beyond that, or 0. ``total`` and ``received``: its size in bytes, 0 until
    that is known, and how much of it has come.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # What comes before the sizes of all parts are known.
        self._head = b""
        self._rooms: list[wire.Room] = []
        self._room = 0
        self.refused = 0
        self.total = 0
        self.received = 0

    def add(self, data: Data) -> None:
        """Take in the next bytes; raise ProtocolError if they aren't an answer's."""
        if self.refused:
            return
        self.received += len(data)
        if not self._rooms:
            self._head += bytes(data)
            data = self._begin()
        while data and self._room < len(self._rooms):
            room = self._rooms[self._room]
            data = room.add(data)
            if not room.left:
                self._room += 1
        if data:
            raise wire.ProtocolError("more bytes of an answer than it has")

    def _begin(self) -> bytes:
        """Make room for the parts, once it is known how large they are; return what is theirs."""
        head = self._head
        if not self.total:
            if len(head) < TOTAL.size:
                return b""
            size = TOTAL.unpack_from(head)[0]
            if size > self._limit:
                self.refused, self._head = size, b""
                return b""
            self.total = TOTAL.size + size
        at = TOTAL.size
        sizes: tuple[int, ...] = ()
        if head[at : at + 1] == _BESIDE:
            at += 1 + _COUNT.size
            if len(head) < at:
                return b""
            count = _COUNT.unpack_from(head, at - _COUNT.size)[0]
            if count * _SIZE.size > self.total:
                raise wire.ProtocolError("more buffers of an answer than it has room for")
            if len(head) < at + count * _SIZE.size:
                return b""
            sizes = struct.unpack_from(f">{count}q", head, at)
            at += count * _SIZE.size
        elif len(head) == at:
            return b""
        own = self.total - at - sum(map(abs, sizes))
        if own <= 0 or 0 in sizes:
            raise wire.ProtocolError("an answer whose parts don't fit")
        self._rooms = [wire.Room(size) for size in (own, *sizes)]
        self._head = b""
        return head[at:]

    def complete(self) -> bool:
        """Return whether all of it has come."""
        return bool(self._rooms) and self._room == len(self._rooms)

    def take(self) -> tuple[memoryview, list[bytes | bytearray]]:
        """Return a complete answer: its letter and pickle, and the pickle's buffers."""
        first, *buffers = [room.take() for room in self._rooms]
        return memoryview(first), buffers


__all__ = ["TOTAL", "Answer", "Data"]
