"""Sends the small frames that nobody may wait for: windows, cancels, a watcher's answers.

A host that stops reading would otherwise hold up the thread that watches a deadline.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable

from fabremote.threads import start_thread, surely

# The most bytes that wait to be sent, in an outbox: a host that reads nothing while it
# gives cause for more is given up.
LIMIT = 4 << 20


class Outbox:
    """Frames on their way to ``send``, in one thread, which the first of them starts."""

    def __init__(self, label: str, send: Callable[[bytes], None]) -> None:
        self._label, self._send = label, send
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._waiting = 0
        self._since: float | None = None
        self._serving = self._closed = False

    def post(self, data: bytes) -> bool:
        """Have whole frames sent; return False if too much waits already."""
        with self._lock:
            if self._closed:
                return True
            self._waiting += len(data)
            self._frames.put(data)
            surely(self._begin)
            return self._waiting <= LIMIT

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = start_thread(f"fabremote-outbox-{self._label}", self._run)

    def _run(self) -> None:
        with self._lock:
            if self._serving:
                return  # Ctrl-C came amid the start of the other, which runs nonetheless.
            self._serving, self._thread = True, threading.current_thread()
        while (data := self._frames.get()) is not None:
            self._since = time.monotonic()
            # The reader sees a broken link too, and tells the calls.
            with contextlib.suppress(OSError):
                self._send(data)
            self._since = None
            with self._lock:
                self._waiting -= len(data)

    def stuck(self, seconds: float) -> bool:
        """Return whether the link has taken nothing for so long."""
        since = self._since
        return since is not None and time.monotonic() - since >= seconds

    def close(self) -> None:
        """Take no more; the thread ends once it has sent what there is, or the link breaks."""
        with self._lock:
            self._closed = True
            self._frames.put(None)

    def join(self, timeout: float) -> None:
        """Wait for the thread's end."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)


__all__ = ["Outbox"]
