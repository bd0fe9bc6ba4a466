"""Shows a stream's text to Invoke's watchers, in time and memory that a flood doesn't square."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from invoke.watchers import FailingResponder, Responder, StreamWatcher

# How much of a stream a `Responder` may still look through for its pattern, in characters:
# what it has found nothing in, it would search again with each piece that comes.
WINDOW = 1 << 16
# The watchers whose ways are known, and what they note of how far they have read.
_INDEXES = {Responder: ("index",), FailingResponder: ("index", "failure_index")}


class Watching:
    """The watchers of one stream.

    A watcher remembers how far it has read, for the thread that it is used in;
    here one thread serves both streams of a call, so each keeps its own memory.
    """

    def __init__(self, watchers: Sequence[StreamWatcher]) -> None:
        self._watchers = [(watcher, dict(vars(watcher))) for watcher in watchers]
        # Others are promised the whole text.
        self._bounded = all(type(watcher) in _INDEXES for watcher in watchers)
        self._seen = ""

    def responses(self, text: str) -> list[str]:
        """Return what the watchers answer to the next piece of the stream."""
        # With no other reference to it, the text grows where it is.
        seen, self._seen = self._seen, ""
        seen += text
        found: list[str] = []
        for watcher, memory in self._watchers:
            found += _submit(watcher, memory, seen)
        self._seen = self._shortened(seen) if self._bounded and len(seen) > WINDOW else seen
        return found

    def _shortened(self, seen: str) -> str:
        excess = len(seen) - WINDOW
        for watcher, memory in self._watchers:
            for name in _INDEXES[type(watcher)]:
                memory[name] = max(0, memory[name] - excess)
        return seen[excess:]


def _submit(watcher: StreamWatcher, memory: dict[str, Any], text: str) -> list[str]:
    """Have a watcher look at a stream's text, with its memory of that stream."""
    shared = vars(watcher)
    before = dict(shared)
    shared.update(memory)
    try:
        return list(watcher.submit(text))
    finally:
        memory.update(shared)
        shared.clear()
        shared.update(before)


__all__ = ["Watching"]
