"""A call's stream as it comes: items on their way to their consumer, and how many more may.

The far side may run ahead by a window of items, which opens as the consumer
finds nothing there, and by `streaming.AHEAD` bytes. A generator that uses what
its ``yield`` returns waits for each order instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from fabremote.agent import bundle, streaming, wire
from fabremote.exceptions import ResultError
from fabremote.receiving import Data

TOTAL = bundle.TOTAL.size
# The widest window, in items.
WINDOW = 1024
# A frame takes this room at least, in bytes, for what may wait to be handled.
LEAST = 256
# What may come beside the items themselves, in bytes.
MORE = 1 << 20


def frames(number: int, pieces: Sequence[Data]) -> Iterator[bytes]:
    """Yield the frames that bring a message to a call's process."""
    for part in pieces:
        view = memoryview(part).cast("B")
        for start in range(0, len(view), wire.MAX_DATA):
            yield wire.frame(wire.DATA, number, bytes(view[start : start + wire.MAX_DATA]))


def order(letter: bytes, data: bytes = b"") -> bytes:
    """Return a message to the generator that brings no value."""
    body = streaming.ADDRESS.pack(0, letter[0]) + data
    return bundle.TOTAL.pack(bundle.STREAMED | len(body)) + body


class Items:
    """Cuts messages of a call's streams out of what comes; keeps the items until they are taken.

    ``kind``: "s" once the function has made a generator, "a" for an asynchronous one.
    ``thrown``: how many exceptions thrown into it were followed by an item.
    """

    def __init__(self, limit: int) -> None:
        self.kind = ""
        self.thrown = 0
        self.waiting: deque[tuple[int, memoryview]] = deque()
        self._limit = limit
        self._most = limit + streaming.AHEAD + MORE
        self._admitted = self._handled = self._kept = 0
        self._head = b""
        # A message that comes in pieces, and how much of it is still to come.
        self._body: bytearray | None = None
        self._missing = 0
        self._closed = False
        # What the consumer did: items and bytes taken and granted, and the last item's flag.
        self._window = 1
        self._granted = self._taken = self._unsaid = 0
        self.waits = False

    # What comes

    def admit(self, size: int) -> bool:
        """Return whether a frame may wait to be handled: no agent sends more."""
        self._admitted += max(LEAST, size)
        return self._admitted - self._handled <= self._most

    def feed(self, data: Data) -> list[tuple[int, int, bool]]:
        """Take in a frame; return what the function wants of iterators.

        That is, (channel, how many items, whether it waits). Raises ResultError
        for what no agent sends, and for an item above the limit.
        """
        self._handled += max(LEAST, len(data))
        view, wanted = memoryview(data), []
        for message in self._messages(view):
            letter = bytes(message[:1])
            if letter == b"Y" and len(message) >= 2:
                self._add(message[1], message[2:])
            elif letter == b"N" and len(message) == streaming.PULL.size:
                wanted.append(streaming.PULL.unpack(message)[1:])
            elif bytes(message) in (b"Gs", b"Ga") and not self.kind:
                self.kind = bytes(message[1:]).decode()
            else:
                raise ResultError("The host sent a stream that is not an agent's.")
        return wanted

    def _messages(self, view: memoryview) -> Iterator[memoryview]:
        while view or self._body is not None:
            if self._body is None:
                need = TOTAL - len(self._head)
                if not self._head and len(view) >= TOTAL:
                    size = self._size(view[:TOTAL])
                    if len(view) >= TOTAL + size:
                        # Whole, as small ones are: no copy of it is needed.
                        yield view[TOTAL : TOTAL + size]
                        view = view[TOTAL + size :]
                        continue
                self._head += bytes(view[:need])
                view = view[need:]
                if len(self._head) < TOTAL:
                    return
                # It grows with what comes: the size may be a lie.
                self._body, self._missing = bytearray(), self._size(self._head)
                self._head = b""
            piece = view[: self._missing]
            self._body += piece
            self._missing -= len(piece)
            view = view[len(piece) :]
            if self._missing:
                return
            body, self._body = self._body, None
            yield memoryview(body)

    def _size(self, head: Data) -> int:
        size = int.from_bytes(head, "big") - bundle.STREAMED
        if size > self._limit + 2:
            raise ResultError(
                f"An item of {size} bytes came; the limit is {self._limit}. Yield less at once, "
                "or raise it: max_result=."
            )
        if size < 0:
            raise ResultError("The host sent a stream that is not an agent's.")
        return size

    def _add(self, flags: int, data: memoryview) -> None:
        if flags & streaming.THROWN:
            self.thrown += 1
        if self._closed:
            return
        self._kept += max(LEAST, len(data))
        if not self.kind or self._kept > self._most:
            raise ResultError("The host sent more items than its agent does.")
        self.waiting.append((flags, data))

    # What is taken

    def close(self) -> None:
        """Keep nothing, also of what is still to come."""
        self._closed = True
        self.waiting.clear()

    def go_on(self) -> bytes | None:
        """Return the message that has the next item come, if one is needed for that."""
        if self.waiting:
            return None
        if self.waits:
            self._granted += 1
            return order(b"N")
        # Nothing is there: the far side may run further ahead.
        if self._taken:
            self._window = min(2 * self._window, WINDOW)
        return self._grant() if self._is_low() else None

    def told(self) -> None:
        """The generator was told to go on, by a value or exception: that grants an item."""
        self._granted += 1

    def take(self) -> memoryview:
        """Return the next item's pickle."""
        flags, data = self.waiting.popleft()
        self._kept -= max(LEAST, len(data))
        self._taken += 1
        self._unsaid += len(data)
        self.waits = bool(flags & streaming.WAITS)
        return data

    def more(self) -> bytes | None:
        """Return the message that lets more come, if it is time for one."""
        low = self._window > 1 and self._is_low()
        if self.waits or not (low or self._unsaid > streaming.AHEAD // 4):
            return None
        return self._grant()

    def _is_low(self) -> bool:
        """Return whether half of the window or less is granted."""
        return self._granted - self._taken <= self._window // 2

    def _grant(self) -> bytes | None:
        count = max(0, self._window - (self._granted - self._taken))
        size, self._unsaid = self._unsaid, 0
        if not count and not size:
            return None
        self._granted += count
        return order(b"C", streaming.CREDIT.pack(count, size))


__all__ = ["Items", "frames", "order"]
