"""A call's output on this side: decoded, shown, kept, watched."""

from __future__ import annotations

import codecs
import sys
from collections import deque
from collections.abc import Callable, Sequence
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
        watchers: Sequence[StreamWatcher],
    ) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._target = target
        # Of a labelled stream, see `fabremote.labels`.
        self._end_line: Callable[[], None] | None = getattr(target, "end_line", None)
        self._keep = keep
        self._kept: deque[str] = deque()
        self._size = 0
        self._watching = Watching(watchers) if watchers else None

    def write(
        self, data: bytes | memoryview, respond: Callable[[str], None], final: bool = False
    ) -> None:
        """Take in bytes as they came; an unfinished character waits for its rest.

        ``respond`` sends what a watcher answers.
        """
        text = self._decoder.decode(bytes(data), final)
        if not text:
            return
        self._remember(text)
        if self._target is not None:
            show(self._target, text)
        if self._watching is not None:
            for response in self._watching.responses(text):
                respond(response)

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


class Outputs:
    """A call's streams of output, by the kind of their frames.

    Where they are shown is settled as the call begins; all else is made with the
    first bytes, which most calls don't have.
    """

    def __init__(self, options: Options, keep: bool) -> None:
        hide = options.hide
        self._options, self._keep = options, keep
        self._targets = (
            None if "stdout" in hide else local_stream(options.out_stream, "stdout"),
            None if "stderr" in hide else local_stream(options.err_stream, "stderr"),
        )
        self._made: dict[int, Output] = {}
        self._muted = False
        if options.watchers:
            # Their memory of what they have read is theirs of now.
            self._output(wire.STDOUT), self._output(wire.STDERR)

    def write(self, kind: int, data: bytes | memoryview, respond: Callable[[str], None]) -> None:
        """Take in bytes of one stream, see `Output.write`."""
        self._output(kind).write(data, respond)

    def _output(self, kind: int) -> Output:
        output = self._made.get(kind)
        if output is None:
            target, options = self._targets[kind == wire.STDERR], self._options
            output = Output(target, options.encoding, self._keep, options.watchers)
            self._made[kind] = output
            if self._muted:
                output.mute()
        return output

    def complete(self, respond: Callable[[str], None]) -> None:
        """Nothing more comes: an unfinished character is all there is of it."""
        for output in self._made.values():
            output.write(b"", respond, True)

    @property
    def empty(self) -> bool:
        """Whether nothing has come, and nobody watches."""
        return not self._made

    def text(self, kind: int) -> str:
        """Return what is kept of one stream."""
        output = self._made.get(kind)
        return "" if output is None else output.text()

    def end(self) -> None:
        """The call has ended."""
        for output in self._made.values():
            output.end()

    def mute(self) -> None:
        """Show and watch nothing any more: the call is being ended."""
        self._muted = True
        for output in list(self._made.values()):
            output.mute()


def local_stream(given: IO[str] | None, name: str) -> IO[str]:
    """Return the file a stream is shown on: the one given, or sys's of that name."""
    stream: IO[str] = given if given is not None else getattr(sys, name)
    return stream


__all__ = ["Output", "Outputs", "local_stream", "show"]
