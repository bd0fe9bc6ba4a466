"""A call's output on this side: decoded, shown, kept, watched."""

from __future__ import annotations

import codecs
import sys
from collections import deque
from collections.abc import Callable
from typing import IO

from invoke.watchers import StreamWatcher

from fabremote.agent import wire
from fabremote.options import Options
from fabremote.watching import Watching

# What is kept of a stream nobody asked to keep, for RemoteProcessDied.stderr.
TAIL = 8192


class Output:
    """One of a call's output streams.

    ``target`` is the local file that shows it, or None to hide it; ``keep``
    says whether all of it is kept, as for a Result, or only its tail.
    """

    def __init__(
        self,
        target: IO[str] | None,
        encoding: str,
        keep: bool,
        watchers: list[StreamWatcher],
        respond: Callable[[str], None],
    ) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._target = target
        # Of a labelled stream, see `fabremote.labels`.
        self._end_line: Callable[[], None] | None = getattr(target, "end_line", None)
        self._keep = keep
        self._kept: deque[str] = deque()
        self._size = 0
        self._watching = Watching(watchers) if watchers else None
        self._respond = respond

    def write(self, data: bytes | memoryview, final: bool = False) -> None:
        """Take in bytes as they came; an unfinished character waits for its rest."""
        text = self._decoder.decode(bytes(data), final)
        if not text:
            return
        self._remember(text)
        if self._target is not None:
            show(self._target, text)
        if self._watching is not None:
            for response in self._watching.responses(text):
                self._respond(response)

    def text(self) -> str:
        """Return what is kept of the stream."""
        text = "".join(self._kept)
        return text if self._keep else text[-TAIL:]

    def end(self) -> None:
        """The call has ended: have its last line shown, if that has no end of its own."""
        if self._end_line is not None:
            self._end_line()

    def mute(self) -> None:
        """Show and watch nothing any more: the call is being ended."""
        self._target = None
        self._watching = None

    def _remember(self, text: str) -> None:
        self._kept.append(text)
        self._size += len(text)
        while not self._keep and self._size - len(self._kept[0]) >= TAIL:
            self._size -= len(self._kept.popleft())


def show(target: IO[str], text: str) -> None:
    """Write text to a local file at once, with what its encoding lacks escaped."""
    try:
        target.write(text)
    except UnicodeEncodeError:
        encoding = getattr(target, "encoding", None) or "ascii"
        target.write(text.encode(encoding, "backslashreplace").decode(encoding))
    target.flush()


def open_outputs(
    options: Options, keep: bool, respond: Callable[[str], None]
) -> dict[int, Output]:
    """Return a call's outputs by the kind of their frames; ``respond`` is the watchers'."""
    outputs = {}
    for kind, name, given in (
        (wire.STDOUT, "stdout", options.out_stream),
        (wire.STDERR, "stderr", options.err_stream),
    ):
        target = None if name in options.hide else local_stream(given, name)
        encoding, watchers = options.encoding, list(options.watchers)
        outputs[kind] = Output(target, encoding, keep, watchers, respond)
    return outputs


def local_stream(given: IO[str] | None, name: str) -> IO[str]:
    """Return the file a stream is shown on: the one given, or sys's of that name."""
    stream: IO[str] = given if given is not None else getattr(sys, name)
    return stream


__all__ = ["Output", "local_stream", "open_outputs", "show"]
