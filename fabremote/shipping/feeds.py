"""What goes to a function while it runs: items of iterators, and what is sent to a generator.

::

    iterator.next ──> Feeds.pull ── messages ──> agent.incoming.Incoming
"""

from __future__ import annotations

import functools
import inspect
import marshal
import struct
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fabremote.agent import bundle, streaming
from fabremote.agent.answers import Chunks
from fabremote.exceptions import ShippingError
from fabremote.shipping import iterators
from fabremote.shipping.modules import Scope
from fabremote.shipping.pickler import PayloadPickler
from fabremote.shipping.reducers import Forbidden
from fabremote.shipping.sources import MARSHAL, is_standard

if TYPE_CHECKING:
    from fabremote.store import Blob

_LENGTH = struct.Struct(">I")
# Small payloads are joined, to travel as one frame.
_SMALL = 60000
# The most bytes that are sent ahead in answer to one request, and in one item that
# nobody waits for yet: who doesn't read must not hold up what reads its output.
_AHEAD = 1 << 18

Pieces = list[bytes | memoryview]
# What is called itself, not by a __call__ of its class's.
_ROUTINES = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type)


def message(front: bytes, chunks: Chunks) -> Pieces:
    """Return a stream's message to the function's process: ``front`` says what it is for."""
    start = marshal.dumps({}, MARSHAL)
    start = front + _LENGTH.pack(len(start)) + start
    size = len(start) + chunks.size
    pieces: Pieces = [bundle.TOTAL.pack(size | bundle.STREAMED), start, *chunks.pieces]
    return [b"".join(pieces)] if size <= _SMALL else pieces


class _LaterScope(Scope):
    """The modules of what is sent later: nothing goes along with it any more."""

    def __init__(self, first: Scope) -> None:
        super().__init__(first.modules, first.version, first._by_value)
        self._roots, self.bundle = first.roots(), first.bundle

    def by_reference(self, name: str) -> bool:
        """Return whether the far side can import a module by now."""
        if not super().by_reference(name):
            return False
        needed = () if is_standard(name) else self.modules.closure(name)
        return all(each.partition(".")[0] in self._roots for each in needed)

    def need(self, name: str) -> None:
        """Nothing more can go along: the function asks for what it imports."""

    def package(self, name: str) -> bool:
        """Return whether a package that goes by value is one there, too."""
        return name in self.bundle and super().package(name)


class _LaterPickler(PayloadPickler):
    """Pickles what goes to a function that runs: its classes are there already."""

    def __init__(self, file: Any, buffers: Any, first: PayloadPickler, scope: Scope) -> None:
        super().__init__(file, first.remote, buffers, scope)
        self.classes, self.files, self.iterators = first.classes, first.files, first.iterators
        self._numbers = {cls: number for number, cls in enumerate(self.classes)}

    def stores(self, blob: Blob) -> bool:
        """Blobs go ahead of a call, not in the midst of it."""
        return False

    def reduce_class(self, cls: type) -> Any:
        number = self._numbers.get(cls)
        return super().reduce_class(cls) if number is None else (streaming.known, (number,))


class Feeds:
    """The iterators among a call's arguments, and what makes messages to it.

    ``pickler``: the one that made the call's payload. ``what`` names the call.
    """

    def __init__(self, pickler: PayloadPickler, what: str) -> None:
        self._first, self._what = pickler, what
        self._iterators = pickler.iterators
        self._scope: Scope | None = None
        self._owed: dict[int, int] = {}
        self._taken: dict[int, int] = {}
        self._kept: dict[int, tuple[Pieces, bool]] = {}
        self._ended = False

    @property
    def empty(self) -> bool:
        """Whether the function has no iterators, or has come to the end of each."""
        return not self._iterators

    def dumps(self, front: bytes, value: Any, place: str) -> Pieces:
        """Return the message that brings ``value``; raise ShippingError if it can't be sent."""
        chunks = Chunks()
        if self._scope is None:
            self._scope = _LaterScope(self._first.scope)
        try:
            _LaterPickler(chunks, chunks.add, self._first, self._scope).dump(value)
        except (KeyboardInterrupt, SystemExit, ShippingError, MemoryError):
            raise
        except Exception as error:
            why = error.args[0] if isinstance(error, Forbidden) else error
            raise ShippingError(
                f"{self._what} was ended: {place} can't be sent: {why}. Pass data, and make such "
                "an object inside the function."
            ) from error
        return message(front, chunks)

    def tell(self, letter: bytes, value: Any) -> Pieces:
        """Return the message that gives the generator a value, or raises an exception in it."""
        place = "what is sent to it" if letter == b"S" else "the exception to raise in it"
        return self.dumps(streaming.ADDRESS.pack(0, letter[0]), value, place)

    def pull(self, channel: int, count: int, waits: bool) -> Iterator[Pieces]:
        """Yield the messages with the next items that the function asked for.

        At least one if it ``waits``; of those asked for ahead, what may lie about unread.
        """
        if self._ended or channel not in self._iterators:
            # Its generator is being closed, and asks nothing of ours.
            yield self.dumps(streaming.ADDRESS.pack(channel, b"R"[0]), None, "the end")
            return
        iterator = self._iterators[channel]
        owed = self._owed.get(channel, 0) + count
        owed = min(owed, iterators.ahead_of(iterator))
        sent = 0
        self._owed[channel] = owed
        while self._owed[channel] and sent < _AHEAD:
            kept = self._kept.pop(channel, None)
            pieces, last = kept or self._next(channel, iterator)
            size = sum(memoryview(piece).nbytes for piece in pieces)
            if size > _AHEAD and (sent or not waits):
                self._kept[channel] = pieces, last
                return
            sent += size
            self._owed[channel] -= 1
            yield pieces
            if last:
                self._end(channel)
                return

    def _next(self, channel: int, iterator: Any) -> tuple[Pieces, bool]:
        address = functools.partial(streaming.ADDRESS.pack, channel)
        number = self._taken[channel] = self._taken.get(channel, 0) + 1
        place = f"item {number} of the iterator {_described(iterator)}"
        try:
            item = next(iterator)
        except StopIteration as stop:
            return self.dumps(address(b"R"[0]), stop.value, f"the value of {place}"), True
        except Exception as error:
            return self._raised(address(b"E"[0]), error, place), True
        return self.dumps(address(b"I"[0]), item, place), False

    def _raised(self, front: bytes, error: Exception, place: str) -> Pieces:
        try:
            return self.dumps(front, error, place)
        except ShippingError:
            text = f"{place} raised {type(error).__qualname__}: {error}"
            return self.dumps(front, RuntimeError(text), place)

    def _end(self, channel: int) -> None:
        iterators.close(self._iterators.pop(channel))

    def end(self) -> None:
        """Take no more of the iterators."""
        self._ended = True

    def close(self) -> None:
        """The function has ended: close the generators that it was given."""
        for channel in list(self._iterators):
            self._end(channel)


def _described(iterator: Any) -> str:
    name = getattr(iterator, "__qualname__", None)
    return f"{name}()" if name else type(iterator).__qualname__


def makes_stream(fn: Any) -> bool:
    """Return whether a callable makes a generator when it is called, as far as can be seen."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if not isinstance(fn, _ROUTINES):
        fn = vars(type(fn)).get("__call__", fn)
    flags = getattr(getattr(fn, "__code__", None), "co_flags", 0)
    return bool(flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR))


__all__ = ["Feeds", "Pieces", "makes_stream"]
