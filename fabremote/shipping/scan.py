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
- PROTO at the start, FRAME, and STOP at the end.

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
_FRAME = rb"\x95.{8}"
_SHORT = b"|".join(re.escape(bytes([size])) + b".{%d}" % size for size in range(64))
# What stands between frames is memoized in the next one.
_BUFFER = rb"\x97(?:" + _FRAME + rb"(?=\x94))?"
_VALUE = rb"[N\x88\x89)]|K.|M..|J.{4}|G.{8}|[\x8cC\x8a](?:" + _SHORT + b")|" + _BUFFER
_ATOM = b"(?:" + _VALUE + rb")\x94?"
_TUPLE = rb"[\x85-\x87t]\x94?"
_OTHER = rb"[aeb]|[]}\x8fR\x93]\x94?|\((?!(?:\x95.{8})*u)|h.|j.{4}"
# MARK SETITEMS ends every dict of a multiple of 1000 items.
_HASHING = b"(?:[(](?:" + _FRAME + rb")?)?u|[s\x90]|\x91\x94?"
# A tuple of the 1 to 3 atoms before it, of up to 32, or of a dict just filled and None; atoms.
_FLAT = (
    rb"%(atom)s(?:\x85\x94?|%(atom)s(?:\x86\x94?|%(atom)s\x87\x94?))?"
    rb"|\((?:%(frame)s)?(?:%(atom)s){1,32}t\x94?"
    rb"|[su](?:%(frame)s)?N(?:%(frame)s)?\x86\x94?"
) % {b"atom": _ATOM + b"(?:" + _FRAME + b")?", b"frame": _FRAME}
_KINDS = {
    "nothing is hashed": (_ATOM, _OTHER, _TUPLE, b"[01]", _FRAME),
    "no tuples": (_ATOM, _OTHER, _HASHING, _FRAME),
    "tuples are flat": (_FLAT, _OTHER, _HASHING, _FRAME),
    "any": (_ATOM, _OTHER, _TUPLE, b"[01]", _HASHING, _FRAME),
}
# What begins with its length, in so many bytes, unless it is among the short ones above.
_LENGTHS = dict.fromkeys(b"\x8cC\x8a", 1) | dict.fromkeys(b"XB\x8b", 4)
_LENGTHS |= dict.fromkeys(b"\x8d\x8e\x96", 8)
_FRAME_CODE, _STOP, _MEMOIZE, _LONGS = 0x95, 0x2E, b"\x94", b"\x8a\x8b"


@functools.cache
def _runs(kind: str) -> re.Pattern[bytes]:
    """Return what matches a run of instructions; compiling it takes some milliseconds."""
    return re.compile(b"(?s:(?:" + b"|".join(_KINDS[kind]) + b"){1,4096})")


@functools.cache
def _instructions() -> re.Pattern[bytes]:
    """Return what finds a run's instructions as (which, if it isn't a new value; MEMOIZE)."""
    followed = rb"[aeb(01stuR\x85-\x87\x90\x91\x93]|h.|j.{4}|" + _FRAME
    return re.compile(b"(?s:(?:(" + followed + b")|" + _VALUE + rb"|[]}\x8f])(\x94?))")


def check(data: memoryview) -> None:
    """Raise Malformed unless ``data`` may be unpickled."""
    if not data or data[-1] != _STOP:
        raise Malformed("an answer isn't a pickle")
    if not any(_consists(data, kind) for kind in _KINDS if kind != "any"):
        _walk(data)


def _consists(data: memoryview, kind: str) -> bool:
    """Return whether ``data`` holds only instructions of a kind."""
    runs, at, end = _runs(kind), _start(data), len(data) - 1
    while at < end:
        run = runs.match(data, at, end)
        if run is not None:
            at = run.end()
        elif data[at] in _LENGTHS:
            at, _ = _after(data, at)
        else:
            return False
    return at == end


def _start(data: memoryview) -> int:
    return 2 if bytes(data[:2]) in (b"\x80\x04", b"\x80\x05") else 0


def _after(data: memoryview, at: int) -> tuple[int, bool]:
    """Return what comes after a value that begins with its length, and whether it is memoized."""
    code, start = data[at], at + 1 + _LENGTHS[data[at]]
    end = start + int.from_bytes(data[at + 1 : start], "little")
    if end >= len(data):
        raise Malformed("an answer holds less than it says")
    # A large one stands between frames.
    memo = end + 9 if data[end] == _FRAME_CODE else end
    if bytes(data[memo : memo + 1]) == _MEMOIZE and code not in _LONGS:
        return memo + 1, True
    return end, False


def _walk(data: memoryview) -> None:
    """Raise Malformed if an instruction is none of the above, or too much would be hashed."""
    runs, at, end = _runs("any"), _start(data), len(data) - 1
    walk = _Walk(Budget(len(data)))
    try:
        while at < end:
            run, start = runs.match(data, at, end), at
            if run is not None:
                at = run.end()
                walk.follow(_instructions().findall(data, start, at))
            elif data[at] in _LENGTHS:
                at, memoized = _after(data, at)
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
            elif code[0] != _FRAME_CODE:
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
