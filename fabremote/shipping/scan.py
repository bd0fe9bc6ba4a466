"""Looks through an answer's pickle before it is unpickled, for what would harm the unpickler.

Python's unpickler allocates whatever a length or a memo index asks for, fetches
extension codes past ``find_class``, and hashes tuples without a limit: nested
a million deep they overflow C's stack, each holding the one before twice they
hash for ever. So nothing is unpickled but these instructions, which are all
that an agent's pickler (C, protocols 4 and 5) writes, each within the data:

- values: NONE, NEWTRUE, NEWFALSE, BININT, BININT1, BININT2, LONG1, LONG4,
  BINFLOAT; text and bytes of each size, BYTEARRAY8, and NEXT_BUFFER, which is
  bytes or a bytearray that came beside the pickle;
- containers: EMPTY_TUPLE, TUPLE, TUPLE1 to TUPLE3, EMPTY_LIST, APPEND, APPENDS,
  EMPTY_DICT, SETITEM, SETITEMS, EMPTY_SET, ADDITEMS, FROZENSET, and MARK;
- objects: STACK_GLOBAL (of a tag, see `nodes`), REDUCE and BUILD;
- the memo: MEMOIZE after what makes an object, BINGET and LONG_BINGET; POP and
  POP_MARK before them, where a tuple holds itself;
- PROTO at the start, and STOP at the end.

A large FROZENSET, which would be made at once, becomes TUPLE and BINPERSID, which
are none of these: `nodes` makes it of the tuple, and looks at the clock.

FRAME, around some 64 KiB each, is taken out first: the unpickler would want each whole.

A regular expression reads them, thousands at a time, in about the time that
unpickling takes. It also knows the common cases in which nothing costly can be
hashed: nothing is hashed, no tuple is made, or none that could hold another.
For the rest, `_Walk` follows what the unpickler's stack would hold, at some
0.5 us for each instruction.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import TypeAlias

from fabremote.exceptions import ResultError
from fabremote.shipping import collisions
from fabremote.shipping.collisions import Longs

# What reading and building may copy or hash, in bytes and items: this, and so much for each
# byte received. A pickle can name one large part many times.
ROOM = 1 << 24
AMPLIFICATION = 4
# How deeply what is hashed may be nested. An agent's pickler gets about as far.
DEPTH = 1000
HEAVIEST = 1 << 60


class Malformed(ResultError):
    """The bytes of an answer aren't what an agent writes."""


# Instructions as regular expressions.
_SHORT = b"|".join(re.escape(bytes([size])) + b".{%d}" % size for size in range(64))
# With those that are beside the pickle.
_VALUE = rb"[N\x88\x89)\x97]|K.|M..|J.{4}|G.{8}|[\x8cC\x8a](?:" + _SHORT + b")"
_ATOM = b"(?:" + _VALUE + rb")\x94?"
_TUPLE = rb"[\x85-\x87t]\x94?"
_OTHER = rb"[aeb]|[]}\x8fR\x93]\x94?|\((?!u)|h.|j.{4}"
# MARK SETITEMS ends every dict of a multiple of 1000 items.
_HASHING = rb"\(?u|[s\x90]"
_FROZENSET = rb"\x91\x94?"
# A tuple of the 1 to 3 atoms before it, of up to 32, or of a dict just filled and None; atoms.
_FLAT = (
    rb"%(atom)s(?:\x85\x94?|%(atom)s(?:\x86\x94?|%(atom)s\x87\x94?))?"
    rb"|\((?:%(atom)s){1,32}t\x94?"
    rb"|[su]N\x86\x94?"
) % {b"atom": _ATOM}
_KINDS = {
    "nothing is hashed": (_ATOM, _OTHER, _TUPLE, b"[01]"),
    "no tuples": (_ATOM, _OTHER, _HASHING),
    "tuples are flat": (_FLAT, _OTHER, _HASHING, _FROZENSET),
    "any": (_ATOM, _OTHER, _TUPLE, b"[01]", _HASHING, _FROZENSET),
}
# What begins with its length, in so many bytes, unless it is among the short ones above.
_LENGTHS = dict.fromkeys(b"\x8cC\x8a", 1) | dict.fromkeys(b"XB\x8b", 4)
_LENGTHS |= dict.fromkeys(b"\x8d\x8e\x96", 8)
_FRAME, _FRAME_HEAD, _STOP, _MEMOIZE, _LONGS = 0x95, 9, 0x2E, 0x94, b"\x8a\x8b"


@functools.cache
def _runs(kind: str) -> re.Pattern[bytes]:
    """Return what matches a run of instructions; compiling it takes some milliseconds."""
    return re.compile(b"(?s:(?:" + b"|".join(_KINDS[kind]) + b"){1,4096})")


@functools.cache
def _instructions() -> re.Pattern[bytes]:
    """Return what finds a run's instructions as (which, if it isn't a new value; MEMOIZE)."""
    followed = rb"[aeb(01stuR\x85-\x87\x90\x91\x93]|h.|j.{4}"
    return re.compile(b"(?s:(?:(" + followed + b")|" + _VALUE + rb"|[]}\x8f])(\x94?))")


@functools.cache
def _codes() -> re.Pattern[bytes]:
    """Return what finds the first byte of each of a run's instructions but MEMOIZE."""
    named = rb"[aeb(01stuR\x85-\x87\x90\x91\x93]|h.|j.{4}|[]}\x8f]|"
    return re.compile(b"(?s:(?=(.))(?:" + named + _VALUE + rb")\x94?)")


def check(data: memoryview) -> memoryview:
    """Return what of ``data`` may be unpickled, in its place; raise Malformed if it may not."""
    data = _unframed(data)
    if not data or data[-1] != _STOP:
        raise Malformed("an answer isn't a pickle")
    if _consists(data, "nothing is hashed"):
        return data
    longs = Longs()
    if not _consists(data, "no tuples", longs):
        longs = Longs()
        # What tuples and frozensets there are, and how many are put into something at once.
        codes = bytearray() if len(data) >= collisions.SMALL else None
        if not _consists(data, "tuples are flat", longs, codes):
            longs, codes = Longs(), None if codes is None else bytearray()
            _walk(data, longs, codes)
        if codes and _has_large(codes):
            data = _in_steps(data)
    Budget(len(data)).spend(longs.alike())
    return data


def _in_steps(data: memoryview) -> memoryview:
    """Return the same with TUPLE and BINPERSID for each FROZENSET: the reader makes it then."""
    runs, at, end = _runs("any"), _start(data), len(data) - 1
    pieces: list[bytes | memoryview] = []
    kept = 0
    while at < end:
        run = runs.match(data, at, end)
        if run is None:
            at, _ = _after(data, at)
            continue
        for found in _codes().finditer(data, at, run.end()):
            if found[1] == b"\x91":
                pieces += data[kept : found.start()], b"tQ"
                kept = found.start() + 1
        at = run.end()
    return memoryview(b"".join([*pieces, data[kept:]]))


def _has_large(codes: bytearray) -> bool:
    try:
        return collisions.check_batches(codes)
    except collisions.TooMany as error:
        raise Malformed(f"an answer holds {error}") from None


def _unframed(data: memoryview) -> memoryview:
    """Return the instructions in ``data``; it is changed if it can be."""
    at, end = _start(data), len(data)
    if at + _FRAME_HEAD <= end and data[at] == _FRAME and _frame_end(data, at) == end:
        return data[at + _FRAME_HEAD :]
    if data.readonly:
        data = memoryview(bytearray(data))
    kept = at
    while at < end:
        start = at
        if data[at] == _FRAME:
            start += _FRAME_HEAD
            at = _frame_end(data, at)
        elif data[at] in _LENGTHS:
            # Large values are in no frame, and neither are a few bytes between two of them.
            at, _ = _after(data, at)
        else:
            run = _runs("any").match(data, at)
            at = run.end() if run is not None else end
        if at > end:
            raise Malformed("an answer holds less than it says")
        data[kept : kept + at - start] = data[start:at]
        kept += at - start
    return data[:kept]


def _frame_end(data: memoryview, at: int) -> int:
    return at + _FRAME_HEAD + int.from_bytes(data[at + 1 : at + _FRAME_HEAD], "little")


def _consists(
    data: memoryview, kind: str, longs: Longs | None = None, codes: bytearray | None = None
) -> bool:
    """Return whether ``data`` holds only instructions of a kind; note what `collisions` looks at.

    ``codes`` gets the first byte of each.
    """
    runs, at, end = _runs(kind), _start(data), len(data) - 1
    while at < end:
        run, start = runs.match(data, at, end), at
        if run is not None:
            at = run.end()
            if longs is not None:
                longs.look(data, start, at)
            if codes is not None:
                codes += b"".join(_codes().findall(data, start, at))
        elif data[at] in _LENGTHS:
            at, _ = _after(data, at)
            if longs is not None and data[start] in _LONGS:
                longs.add(_content(data, start, at))
            if codes is not None:
                codes.append(data[start])
        else:
            return False
    return at == end


def _content(data: memoryview, start: int, end: int) -> bytes:
    return bytes(data[start + 1 + _LENGTHS[data[start]] : end])


def _start(data: memoryview) -> int:
    return 2 if bytes(data[:2]) in (b"\x80\x04", b"\x80\x05") else 0


def _after(data: memoryview, at: int) -> tuple[int, bool]:
    """Return what comes after a value that begins with its length, and whether it is memoized."""
    code, start = data[at], at + 1 + _LENGTHS[data[at]]
    end = start + int.from_bytes(data[at + 1 : start], "little")
    if end >= len(data):
        raise Malformed("an answer holds less than it says")
    if data[end] == _MEMOIZE and code not in _LONGS:
        return end + 1, True
    return end, False


def _walk(data: memoryview, longs: Longs, codes: bytearray | None = None) -> None:
    """Raise Malformed if an instruction is none of the above, or too much would be hashed.

    ``longs`` and ``codes``: as for `_consists`.
    """
    runs, at, end = _runs("any"), _start(data), len(data) - 1
    walk = _Walk(Budget(len(data)))
    try:
        while at < end:
            run, start = runs.match(data, at, end), at
            if run is not None:
                at = run.end()
                walk.follow(_instructions().findall(data, start, at))
                longs.look(data, start, at)
                if codes is not None:
                    codes += b"".join(_codes().findall(data, start, at))
            elif data[at] in _LENGTHS:
                at, memoized = _after(data, at)
                if data[start] in _LONGS:
                    longs.add(_content(data, start, at))
                if codes is not None:
                    codes.append(data[start])
                walk.push((1 + (at - start >> 3), 0) if data[start] in _LONGS else _ONE, memoized)
            else:
                raise Malformed(f"an answer has the instruction {data[at]:#04x}, as no agent does")
    except IndexError:
        raise Malformed("an answer uses what it doesn't hold") from None


class Budget:
    """How much may be copied and hashed for an answer of so many bytes."""

    def __init__(self, size: int) -> None:
        self._room = ROOM + AMPLIFICATION * size

    def spend(self, amount: int) -> None:
        """Count what is copied."""
        self._room -= amount
        if self._room < 0:
            raise Malformed("an answer takes far more than it holds")

    def hash(self, cost: Cost) -> None:
        """Count what is hashed, as a key or as an item of a set."""
        weight, depth = cost
        if depth > DEPTH:
            raise Malformed("an answer nests a key too deeply")
        self.spend(weight)


# What hashing an object costs: (how many objects are looked at, how deeply they are nested).
Cost: TypeAlias = tuple[int, int]
_ONE: Cost = (1, 0)


def around(costs: Iterable[Cost]) -> Cost:
    """Return the cost of what holds parts of these costs."""
    weight, depth = 1, 0
    for each in costs:
        weight += each[0]
        depth = max(depth, each[1])
    return min(weight, HEAVIEST), depth + 1


class _Walk:
    """What would be on the unpickler's stack, and in its memo: for each object, its cost.

    All but tuples cost little: lists and dicts can't be hashed, texts and
    frozensets are hashed once, and nodes are not looked into.
    """

    def __init__(self, budget: Budget) -> None:
        self._stack: list[Cost] = []
        self._marks: list[int] = []
        self._memo: list[Cost] = []
        self._budget = budget

    def push(self, cost: Cost, memoized: bool) -> None:
        """Put a value of this cost on the stack."""
        self._stack.append(cost)
        if memoized:
            self._memo.append(cost)

    def follow(self, instructions: list[tuple[bytes, bytes]]) -> None:
        """Do what these instructions do."""
        stack, memo = self._stack, self._memo
        for code, memoize in instructions:
            if not code:
                stack.append(_ONE)
            elif code[0] in b"hj":
                stack.append(memo[int.from_bytes(code[1:], "little")])
            elif code in b"\x85\x86\x87":
                size = code[0] - 0x84
                stack[-size:] = [around(stack[-size:])]
            elif code == b"(":
                self._marks.append(len(stack))
            elif code in b"ab":
                stack.pop()
            elif code in b"R\x93":
                stack[-2:] = [_ONE]
            elif code == b"s":
                self._budget.hash(stack[-2])
                del stack[-2:]
            elif code == b"0" and len(stack) > (self._marks[-1] if self._marks else 0):
                stack.pop()
            else:
                self._to_mark(code)
            if memoize:
                memo.append(stack[-1])

    def _to_mark(self, code: bytes) -> None:
        """Do what an instruction does that takes all from the last mark on."""
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        if code in b"u\x90\x91":
            for cost in items[:: 2 if code == b"u" else 1]:
                self._budget.hash(cost)
        if code in b"t\x91":
            self._stack.append(around(items) if code == b"t" else _ONE)


__all__ = ["AMPLIFICATION", "ROOM", "Budget", "Cost", "Malformed", "around", "check"]
