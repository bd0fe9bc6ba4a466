"""What a call's function reads: ``in_stream``, the watchers' responses, or what is typed here."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from fabremote.feeding import Feeder
from fabremote.options import Options
from fabremote.terminals import EOT, Raw, keyboard

# An ``in_stream``: what the function reads does not come with its call, but its process.
ELSEWHERE = object()


class Stdin:
    """The stdin of one call."""

    def __init__(self, options: Options) -> None:
        given = options.in_stream
        # False: not even the keyboard.
        self._stream: Any = None if given is False or given is ELSEWHERE else given
        # Whether it is typed.
        self._pty, self._encoding = options.pty and given is not ELSEWHERE, options.encoding
        self._asks = self._pty and given is None
        self._responding = bool(options.watchers)
        self._lock = threading.Lock()
        self._raw: Raw | None = None
        self._feeder: Feeder | None = None
        self._stopped = False
        # Whether anything of the stream has been taken, once it is stopped.
        self.used = False

    @property
    def stays_open(self) -> bool:
        """Whether there may be something to read, or a terminal, which has no end."""
        return self._pty or self._responding or self._stream is not None

    def attend(self) -> None:
        """With a terminal there, forward this one's keyboard unless ``in_stream`` is given.

        It is the main thread's: several calls would each get some of what is typed.
        """
        if self._asks and threading.current_thread() is threading.main_thread():
            self._stream = keyboard()

    def start(self, send: Callable[[bytes], None], failed: Callable[[Exception], None]) -> None:
        """Begin to forward, once the call is sent.

        ``send`` sends a piece, the empty one at the end; ``failed`` is told why a
        stream could not be read.
        """
        ending = None if self._responding else EOT if self._pty else b""
        with self._lock:
            if self._stopped:
                return
            if self._stream is not None:
                if self._pty:
                    self._raw = Raw(self._stream)
                args = self._stream, self._encoding, send, failed
                self._feeder = Feeder(*args, ending)
                return
        if self._pty and ending is not None:
            # The link's errors are the reader's to tell.
            with contextlib.suppress(OSError):
                send(ending)

    def taken(self, count: int) -> None:
        """Note that the far side has written ``count`` bytes of it."""
        if self._feeder is not None:
            self._feeder.taken(count)

    def stop(self) -> None:
        """Forward nothing more; the local terminal is as it was before."""
        with self._lock:
            self._stopped = True
            raw, self._raw = self._raw, None
            feeder, self._feeder = self._feeder, None
        if raw is not None:
            raw.end()
        if feeder is not None:
            feeder.stop()
            self.used = feeder.used


__all__ = ["ELSEWHERE", "Stdin"]
