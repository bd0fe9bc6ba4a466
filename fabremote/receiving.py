"""An answer's bytes as they come: the pickle, and the large buffers beside it; the outcome."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fabremote.agent import wire

TOTAL = struct.Struct(">Q")
_COUNT = struct.Struct(">I")
_CODE = struct.Struct(">Q")
# The letter before an answer whose pickle has buffers, see ``fabremote.agent.worker``.
_BESIDE = b"B"

Data = bytes | memoryview


@dataclass
class Outcome:
    """How a call ended: its answer's bytes, or the error that stands for it.

    ``answer``: a letter and a pickle; ``buffers``: what that refers to.
    """

    answer: memoryview | None = None
    buffers: Buffers | None = None
    error: BaseException | None = None
    stdout: str = ""
    stderr: str = ""


class Answer:
    """Gathers an answer, each byte copied once: to where it stays.

    ``limit``: the most bytes that it may have. ``refused``: how many it would
    have beyond that, or 0. ``total`` and ``received``: its size in bytes, 0 until
    that is known, and how much of it has come.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # What comes before the sizes of all parts are known.
        self._head = bytearray()
        self._rooms: list[wire.Room] = []
        self._room = 0
        # An answer that came in one piece, as small ones do.
        self._whole: bytes | None = None
        self.refused = 0
        self.total = 0
        self.received = 0

    def add(self, data: Data) -> None:
        """Take in the next bytes; raise ProtocolError if they aren't an answer's."""
        if self.refused:
            return
        if not self.received and self._is_whole(data):
            self.received = self.total = len(data)
            self._whole = bytes(data[TOTAL.size :])
            return
        if self._whole is not None:
            raise wire.ProtocolError("more bytes of an answer than it has")
        self.received += len(data)
        if not self._rooms:
            self._head += data
            data = self._begin()
        while data and self._room < len(self._rooms):
            room = self._rooms[self._room]
            data = room.add(data)
            if not room.left:
                self._room += 1
        if data:
            raise wire.ProtocolError("more bytes of an answer than it has")

    def _is_whole(self, data: Data) -> bool:
        """Return whether the first bytes are all of an answer that is one part."""
        size = len(data) - TOTAL.size
        if not 0 < size <= self._limit or data[TOTAL.size] == _BESIDE[0]:
            return False
        return bool(TOTAL.unpack_from(data)[0] == size)

    def _begin(self) -> Data:
        """Make room for the parts, once it is known how large they are; return what is theirs."""
        head = self._head
        if not self.total:
            if len(head) < TOTAL.size:
                return b""
            size = TOTAL.unpack_from(head)[0]
            if size > self._limit:
                self.refused, self._head = size, bytearray()
                return b""
            if not size:
                raise wire.ProtocolError("an answer of no bytes")
            self.total = TOTAL.size + size
        at = TOTAL.size
        codes: tuple[int, ...] = ()
        if head[at : at + 1] == _BESIDE:
            at += 1 + _COUNT.size
            if len(head) < at:
                return b""
            count = _COUNT.unpack_from(head, at - _COUNT.size)[0]
            # Each has at least so many bytes; a list of them is small beside them.
            if count * wire.LARGE > self.total:
                raise wire.ProtocolError("more buffers of an answer than it has room for")
            if len(head) < at + count * _CODE.size:
                return b""
            codes = struct.unpack_from(f">{count}Q", head, at)
            at += count * _CODE.size
        elif len(head) == at:
            return b""
        own = self.total - at - sum(code >> 2 for code in codes)
        if own <= 0 or any(code < 4 or code & 3 > wire.TEXT for code in codes):
            raise wire.ProtocolError("an answer whose parts don't fit")
        self._rooms = [wire.Room(code) for code in (own << 2, *codes)]
        self._head = bytearray()
        return memoryview(head)[at:]

    @property
    def letter(self) -> bytes:
        """What kind of answer it is, once all of it has come; b"" before."""
        if self._whole is not None:
            return self._whole[:1]
        return bytes(self._rooms[0].made[:1]) if self.complete() else b""

    @property
    def value(self) -> memoryview | None:
        """The pickle of a value that came in one piece, or None."""
        if self._whole is None or self._whole[:1] != b"V":
            return None
        return memoryview(self._whole)[1:]

    def complete(self) -> bool:
        """Return whether all of it has come."""
        if self._whole is not None:
            return True
        return bool(self._rooms) and self._room == len(self._rooms)

    def take(self) -> tuple[memoryview, Buffers]:
        """Return a complete answer, once: its letter and pickle, and the pickle's buffers."""
        if self._whole is not None:
            return memoryview(self._whole), Buffers((), self.total)
        first, *rooms = self._rooms
        return memoryview(first.take()), Buffers(rooms, self.total)


class Buffers:
    """What is beside an answer's pickle: an iterator of bytes, bytearrays and texts.

    ``size``: the whole answer's, in bytes.
    """

    def __init__(self, rooms: Sequence[wire.Room], size: int) -> None:
        self._rooms, self.size = iter(rooms), size

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        # Text is made of its bytes as it is asked for, so that one at a time is there twice.
        return next(self._rooms).take()


__all__ = ["TOTAL", "Answer", "Buffers", "Data", "Outcome"]
