"""Which iterators stay on this side, and are asked for their items from there."""

from __future__ import annotations

import io
import types
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# The most items that `ahead` may be told.
MOST = 10_000


class Ahead(Generic[T]):
    """An iterator of which items may be taken before they are needed."""

    def __init__(self, iterable: Iterable[T], items: int) -> None:
        self._iterator = iter(iterable)
        self.items = items

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return next(self._iterator)

    def close(self) -> None:
        """Close the generator that the items come from, if it is one."""
        close(self._iterator)


def ahead(iterable: Iterable[T], items: int = 100) -> Iterator[T]:
    """Return an iterator for an argument, whose items may be sent before they are needed.

    The function over there otherwise asks for each item of an iterator as it
    needs it, which takes a round trip. ``items``: at most so many are taken from
    ``iterable`` ahead of the function. Raises ValueError unless that is 1 to 10,000.
    """
    if not isinstance(items, int) or not 1 <= items <= MOST:
        raise ValueError(f"ahead() takes items=1 to {MOST}, not {items!r}.")
    return Ahead(iterable, items)


def ahead_of(iterator: Any) -> int:
    """Return how many items may be asked for at once."""
    return iterator.items if isinstance(iterator, Ahead) else 1


def streams(obj: Any) -> bool:
    """Return whether an iterator stays here: a generator, or one that can't be pickled."""
    if isinstance(obj, (types.GeneratorType, Ahead)) or is_stream(obj):
        return True
    if isinstance(obj, io.IOBase) or type(obj).__module__ == "__main__":
        return False
    if isinstance(type(obj).__dict__.get("__next__"), types.FunctionType):
        # An object of a class written in Python goes as what it is.
        return False
    try:
        obj.__reduce_ex__(4)
    except TypeError:
        return True
    except Exception:
        return False
    return False


def is_stream(obj: Any) -> bool:
    """Return whether this is a stream of another call's."""
    return bool(getattr(type(obj), "_fabremote_stream", False))


def close(iterator: Any) -> None:
    """Close an iterator if it is a generator or stands for one; others are their owners'."""
    if isinstance(iterator, (types.GeneratorType, Ahead)) or is_stream(iterator):
        iterator.close()


__all__ = ["Ahead", "ahead", "ahead_of", "close", "is_stream", "streams"]
