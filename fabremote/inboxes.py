"""Where a call's frames wait until somebody handles them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from fabremote.receiving import Data


class Inbox:
    """The frames of a call, for the thread that waits for it, unless others handle them."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[tuple[int, Data]] = queue.SimpleQueue()
        self._moving = threading.Lock()
        # Where frames go instead: for good, and meanwhile.
        self._moved: Callable[[int, Data], None] | None = None
        self._elsewhere: Callable[[int, Data], None] | None = None
        # Called after each frame, once somebody waits elsewhere than in `Call.wait`.
        self.changed: Callable[[], None] = _nothing

    def deliver(self, kind: int, data: Data) -> None:
        """Take a frame, which is handled later; in whatever thread, which goes on at once."""
        if self._moved is not None:
            self._moved(kind, data)
            return
        self.inbox.put((kind, data))
        if self._elsewhere is not None:
            # Meanwhile.
            self._move_on(self._elsewhere)

    @property
    def inboxed(self) -> bool:
        """Whether the frames wait for `wait`."""
        return self._elsewhere is None

    def move(self, deliver: Callable[[int, Data], None]) -> None:
        """Have the frames handled elsewhere from now on, those that wait in the inbox first."""
        self._elsewhere = deliver
        self._move_on(deliver)
        if self._elsewhere is deliver:
            # Else the call has ended by what was there.
            self._moved = deliver

    def leave(self) -> None:
        """Handle no more frames, as the call has ended: nothing holds it any longer by them."""
        self._elsewhere = self._moved = _drop
        self.changed = _nothing

    def _move_on(self, deliver: Callable[[int, Data], None]) -> None:
        with self._moving:
            while not self.inbox.empty():
                deliver(*self.inbox.get())


def _drop(kind: int, data: Data) -> None:
    """Take a frame that came too late."""


def _nothing() -> None:
    """Nobody waits to be told."""


__all__ = ["Inbox"]
