"""What a group's calls came to, by connection."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from typing import Any, Generic, NamedTuple, TypeVar

import fabric

from fabremote.labels import names_of
from fabremote.summary import summarise

T = TypeVar("T")
Pair = tuple[Any, Any]


class Outcome(NamedTuple):
    """How work on one host went: its value or error, and the seconds that it took."""

    connection: Any
    value: Any
    error: BaseException | None
    seconds: float | None = None


class ByConnection(dict[Any, T], Generic[T]):
    """A dict by connection, with an item for each even where several lead to one host.

    Connections to one host are equal: a lookup finds the item of that very
    connection, or else of an equal one.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self.pairs = tuple(pairs)
        self._by_identity = {id(one): value for one, value in self.pairs}
        # An Invoke context isn't hashable: it is found by identity alone.
        super().__init__(pair for pair in self.pairs if type(pair[0]).__hash__ is not None)

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Any]:
        return (one for one, _ in self.pairs)

    def __getitem__(self, connection: Any) -> T:
        if id(connection) in self._by_identity:
            found: T = self._by_identity[id(connection)]
            return found
        return super().__getitem__(connection)

    def __contains__(self, connection: object) -> bool:
        if id(connection) in self._by_identity:
            return True
        return type(connection).__hash__ is not None and super().__contains__(connection)

    def get(self, connection: Any, default: Any = None) -> Any:
        """Return the value of a connection, or ``default``."""
        try:
            return self[connection]
        except KeyError:
            return default

    def keys(self) -> KeysView[Any]:  # type: ignore[override]
        """Return the connections."""
        return KeysView(self)

    def values(self) -> ValuesView[T]:  # type: ignore[override]
        """Return the values, in the connections' order."""
        return _Values(self)

    def items(self) -> ItemsView[Any, T]:  # type: ignore[override]
        """Return the (connection, value) pairs."""
        return _Items(self)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{one!r}: {value!r}" for one, value in self.pairs) + "}"


class _Values(ValuesView[Any]):
    _mapping: ByConnection[Any]

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping.pairs)

    def __repr__(self) -> str:
        return f"dict_values({list(self)!r})"


class _Items(ItemsView[Any, Any]):
    _mapping: ByConnection[Any]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._mapping.pairs)

    def __repr__(self) -> str:
        return f"dict_items({list(self)!r})"


class GroupResult(ByConnection[T], fabric.GroupResult):
    """Fabric's GroupResult, in which a *returned* exception is a value like any other.

    Keys are connections, values what the calls returned; in ``failed``, what
    they raised. Two connections to one host have an item each.
    """

    def __init__(self, outcomes: Iterable[tuple[Any, ...]]) -> None:
        self._outcomes = [Outcome(*each) for each in outcomes]
        super().__init__(
            (one.connection, one.value if one.error is None else one.error)
            for one in self._outcomes
        )
        self._successes = ByConnection[T](
            (one.connection, one.value) for one in self._outcomes if one.error is None
        )
        self._failures = ByConnection[BaseException](
            (one.connection, one.error) for one in self._outcomes if one.error is not None
        )

    def _bifurcate(self) -> None:
        """Both parts are known from the start."""

    def summary(self) -> str:
        """Return a table for people: a line for each host, and one with the counts.

        A host's line has its name, ``ok`` or ``failed``, the seconds that it
        took, and its value or error, shortened. Sorted by name, failures last
        and with the last lines that tell why.
        """
        names = names_of(one.connection for one in self._outcomes)
        return summarise(
            (name, one.value, one.error, one.seconds)
            for name, one in zip(names, self._outcomes, strict=True)
        )


__all__ = ["ByConnection", "GroupResult", "Outcome"]
