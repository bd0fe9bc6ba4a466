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
        self.deliver: Callable[[int, Data], None] = self._to_inbox
        self._moving = threading.Lock()
        self._elsewhere: Callable[[int, Data], None] | None = None

    def _to_inbox(self, kind: int, data: Data) -> None:
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
        self.deliver = deliver

    def _move_on(self, deliver: Callable[[int, Data], None]) -> None:
        with self._moving:
            while not self.inbox.empty():
                deliver(*self.inbox.get())


__all__ = ["Inbox"]
