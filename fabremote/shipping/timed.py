"""An answer's bytes as the unpickler gets them: for as long as reading them may take."""

from __future__ import annotations

import time

from fabremote.agent.loader import Stream
from fabremote.shipping.scan import Malformed

# How long the unpickler may take: seconds, times what looking through the answer took, and
# bytes a second; and how many bytes it gets at once.
PATIENCE = 2.0
SLOWER = 20
SLOWEST = 10 << 20
PIECE = 1 << 12


class Timed(Stream):
    """A binary file that fails once reading it takes far longer than looking through it.

    So it does where the keys of a dict collide, each of which is compared with all before.
    """

    def __init__(self, data: memoryview, scanned: float) -> None:
        super().__init__(data)  # type: ignore[no-untyped-call]
        self._until = time.thread_time() + PATIENCE + scanned * SLOWER + len(data) / SLOWEST

    def peek(self, size: int) -> memoryview:
        """Return some bytes without taking them."""
        if time.thread_time() > self._until:
            raise Malformed("an answer takes far longer to read than one of its size does")
        piece: memoryview = self.data[self.at : self.at + PIECE]
        return piece


__all__ = ["Timed"]
