"""Looks through an answer's pickle for keys that were chosen to collide.

A dict or set compares a new key with all that have the same hash: for numbers
and tuples of them, whose hashes are no secret, a host can choose keys that all
have one, and then their number squared is what it takes, inside a single
instruction that nothing can interrupt. Texts and bytes have secret hashes.

So large integers must not all be alike modulo that of Python's hash. Tuples and
frozensets may be, but only so many in one instruction, as an agent writes them:
between instructions `nodes` looks at the clock. A frozenset is one instruction,
however large it is, and is made piece by piece where it is large.
"""

from __future__ import annotations

import _pickle
import collections
import io
import re
import struct
import sys
from typing import Any

# As many pairs of a dict, or items of a set, an agent's pickler puts in at once.
BATCH = 1000
# The most items of a frozenset that is made at once.
FROZEN = 10_000
# What is smaller than this, in bytes, can't hold enough keys to matter.
SMALL = 1 << 14
_SIZE = struct.Struct("<Q")
_LONG = re.compile(rb"(?s)\x8a(?=([\x08-\x3f]))")
# What `_Counter` reads in place of each instruction: None for a value, False for one named
# before, tuples as they are, and POP or POP_MARK for what takes objects off the stack.
_STEPS = bytearray(b"N" * 256)
for _codes, _step in (
    *((b"hj", b"\x89"), (b"abR\x93", b"0"), (b"e", b"1")),
    *((bytes([_same]), bytes([_same])) for _same in b"(01t\x85\x86\x87su\x90\x91"),
):
    for _code in _codes:
        _STEPS[_code] = _step[0]
# Those that it looks at; a frozenset's items are told from others by their wrapping.
_LOOKS = ((b"s", b"00"), (b"u", b"tQ0"), (b"\x90", b"tQ0"), (b"\x91", b"t\x85Q"))


class TooMany(Exception):
    """More keys at once than an agent writes."""


class Longs:
    """The large integers of an answer."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def look(self, data: memoryview, start: int, end: int) -> None:
        """Note what may be large integers in a run of instructions, and what only looks so."""
        for found in _LONG.finditer(data, start, end):
            at = found.end()
            self.add(bytes(data[at + 1 : at + 1 + data[at]]))

    def add(self, data: bytes) -> None:
        """Note the bytes of one."""
        self._seen.add(data)

    def alike(self) -> int:
        """Return how many comparisons it takes to put all that have one hash into a set."""
        counts: collections.Counter[int] = collections.Counter()
        for data in self._seen:
            number = int.from_bytes(data, "little", signed=True)
            if abs(number) >= sys.hash_info.modulus:
                counts[hash(number)] += 1
        return sum(count * count for count in counts.values() if count > 1)


class _Counter(_pickle.Unpickler):
    """Runs stand-ins for instructions; what there would be too many of raises TooMany.

    ``large``: whether there is a frozenset that mustn't be made at once.
    """

    large = False

    def persistent_load(self, items: Any) -> Any:
        if len(items) == 1 and type(items[0]) is tuple:
            # A frozenset; a set of one tuple looks alike, which does no harm.
            self.large = self.large or len(items[0]) > FROZEN
            return ()
        if len(items) > 2 * BATCH:
            raise TooMany("more keys at once than an agent writes")
        return None


def check_batches(codes: bytes | bytearray) -> bool:
    """Return whether one of these instructions makes a large frozenset at once.

    ``codes``: the first byte of each. Raises TooMany if one puts too much into a dict or set.
    """
    steps = codes.translate(_STEPS)
    for code, looks in _LOOKS:
        steps = steps.replace(code, looks)
    # In a frame, which is read at once.
    whole = b"\x80\x04\x95%b%b." % (_SIZE.pack(len(steps) + 1), bytes(steps))
    counter = _Counter(io.BytesIO(whole))
    counter.load()
    return counter.large


__all__ = ["BATCH", "FROZEN", "SMALL", "Longs", "TooMany", "check_batches"]
