"""How large the parts of an answer are, and how long making dicts and sets of them may take."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fabremote.shipping.scan import Malformed

_SINGLE = frozenset([type(None), bool, int, float])
_SIZED = frozenset([str, bytes, bytearray, list, tuple, dict, set, frozenset])
# How long making large dicts and sets may take: seconds, and bytes of the answer a second. Keys
# can be chosen so that each is looked for in the places of all before, though no two hashes
# are alike.
PATIENCE = 2.0
SLOWEST = 2 << 20
# How many keys go into one before the clock is looked at.
STEP = 1000


def extent(part: Any) -> int:
    """Return how much a constructor may copy of an argument: bytes, or items."""
    kind = type(part)
    if kind in _SINGLE:
        return 0
    if kind not in _SIZED:
        return _of_array(part)
    if kind is list and any(map(_is_foreign, set(map(type, part)))):
        return len(part) + sum(map(_of_array, part))
    return len(part)


def _is_foreign(kind: type) -> bool:
    module = kind.__module__
    return type(module) is str and module.partition(".")[0] in ("numpy", "pandas")


def _of_array(part: Any) -> int:
    """Return how much there is in an array of NumPy or pandas, which many objects may copy."""
    kind = type(part)
    if not _is_foreign(kind) or not hasattr(part, "nbytes") or not hasattr(kind, "__len__"):
        return 0
    if any(base.__name__ == "Index" for base in kind.__mro__):
        # It is shared, not copied.
        return 0
    return int(part.nbytes) if kind.__module__ == "numpy" else len(part)


def alike(keys: Iterable[Any]) -> int:
    """Return how many comparisons it takes to put keys into a dict, for those of one hash."""
    counts = collections.Counter(map(hash, keys))
    return sum(count * count for count in counts.values() if count > 1)


class Watch:
    """How long the dicts and sets of an answer of ``size`` bytes may take this thread.

    What is given in steps can be given up between them; raises Malformed then.
    """

    def __init__(self, size: int) -> None:
        self._left = PATIENCE + size / SLOWEST

    def steps(self, items: Iterable[Any], count: int) -> Iterable[Any]:
        """Return ``items``, of which there are ``count``, to be put into a dict or set."""
        return self._steps(items) if count > STEP else items

    def _steps(self, items: Iterable[Any]) -> Iterator[Any]:
        since = time.thread_time()
        for number, item in enumerate(items, 1):
            yield item
            if not number % STEP:
                since = self._spent(since)
        self._spent(since)

    def timed(self, make: Callable[..., Any], *args: Any) -> Any:
        """Return what ``make`` makes of arguments among which are large dicts or sets."""
        since = time.thread_time()
        made = make(*args)
        self._spent(since)
        return made

    def _spent(self, since: float) -> float:
        now = time.thread_time()
        self._left -= now - since
        if self._left < 0:
            raise Malformed("an answer's keys take far longer than those of its size do")
        return now


__all__ = ["PATIENCE", "STEP", "Watch", "alike", "extent"]
