"""An answer's bytes as the unpickler gets them: for as long as reading them may take."""

from __future__ import annotations

import time

from fabremote.agent.loader import Stream
from fabremote.shipping import scan
from fabremote.shipping.scan import Malformed

# How long the unpickler may take: seconds, times what looking through the answer took, and
# bytes a second; and how many bytes it gets at once.
PATIENCE = 2.0
SLOWER = 20
SLOWEST = 10 << 20
PIECE = 1 << 12
# An answer of fewer bytes takes no time worth a look at the clock, whatever its keys.
SMALL = 1 << 12


class Ahead(Stream):
    """A binary file of which a reader may see some bytes ahead."""

    def peek(self, size: int) -> memoryview:
        """Return some bytes without taking them."""
        piece: memoryview = self.data[self.at : self.at + PIECE]
        return piece


class Timed(Ahead):
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
        return super().peek(size)


def checked(data: memoryview) -> Ahead:
    """Return what may be unpickled of an answer; reading a large one is timed."""
    if len(data) < SMALL:
        return Ahead(scan.check(data))  # type: ignore[no-untyped-call]
    started = time.thread_time()
    found = scan.check(data)
    return Timed(found, time.thread_time() - started)


__all__ = ["Ahead", "Timed", "checked"]
