"""Closes what was opened for objects that nobody has any more."""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from typing import Protocol

from fabremote.threads import start_thread


class Closable(Protocol):
    """What there is to close."""

    def close(self) -> None:
        """Close it."""


class Closer:
    """Closes what belonged to objects that are gone, and all that is left at exit.

    An object is dropped in whatever thread the garbage collector happens to run,
    which may hold any lock: so a thread of ours does it, as long as there is
    anything open.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Closable] = set()
        self._dropped: queue.SimpleQueue[Closable | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def watch(self, owner: object, opened: Closable) -> None:
        """Close ``opened`` once ``owner`` is gone."""
        weakref.finalize(owner, self._dropped.put, opened).atexit = False
        with self._lock:
            self._open.add(opened)
            if self._thread is None:
                self._thread = start_thread("fabremote-closer", self._run)

    def forget(self, opened: Closable) -> None:
        """It is closed."""
        with self._lock:
            self._open.discard(opened)
            if not self._open:
                self._dropped.put(None)

    def _run(self) -> None:
        while True:
            opened = self._dropped.get()
            if opened is not None:
                opened.close()
                self.forget(opened)
            with self._lock:
                if not self._open:
                    self._thread = None
                    return

    def close(self) -> None:
        """Close everything."""
        with self._lock:
            every = list(self._open)
        for opened in every:
            opened.close()
            self.forget(opened)


closer = Closer()
atexit.register(closer.close)


__all__ = ["closer"]
