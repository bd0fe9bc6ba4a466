"""What a group's calls came to, by connection."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from typing import Any

import fabric

Pair = tuple[Any, Any]


class ByConnection(dict[Any, Any]):
    """A dict by connection, with an item for each even where several lead to one host.

    Connections to one host are equal: a lookup finds the item of that very
    connection, or else of an equal one.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self.pairs = tuple(pairs)
        self._by_identity = {id(one): value for one, value in self.pairs}
        super().__init__(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Any]:
        return (one for one, _ in self.pairs)

    def __getitem__(self, connection: Any) -> Any:
        if id(connection) in self._by_identity:
            return self._by_identity[id(connection)]
        return super().__getitem__(connection)

    def get(self, connection: Any, default: Any = None) -> Any:
        """Return the value of a connection, or ``default``."""
        try:
            return self[connection]
        except KeyError:
            return default

    def keys(self) -> KeysView[Any]:  # type: ignore[override]
        """Return the connections."""
        return KeysView(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """Return the values, in the connections' order."""
        return _Values(self)

    def items(self) -> ItemsView[Any, Any]:  # type: ignore[override]
        """Return the (connection, value) pairs."""
        return _Items(self)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{one!r}: {value!r}" for one, value in self.pairs) + "}"


class _Values(ValuesView[Any]):
    _mapping: ByConnection

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping.pairs)

    def __repr__(self) -> str:
        return f"dict_values({list(self)!r})"


class _Items(ItemsView[Any, Any]):
    _mapping: ByConnection

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._mapping.pairs)

    def __repr__(self) -> str:
        return f"dict_items({list(self)!r})"


class GroupResult(ByConnection, fabric.GroupResult):
    """Fabric's GroupResult, in which a *returned* exception is a value like any other.

    Keys are connections, values what the calls returned; in ``failed``, what
    they raised. Two connections to one host have an item each.
    """

    def __init__(self, outcomes: Iterable[tuple[Any, Any, BaseException | None]]) -> None:
        each = list(outcomes)
        super().__init__((one, value if error is None else error) for one, value, error in each)
        self._successes = ByConnection((one, value) for one, value, error in each if error is None)
        self._failures = ByConnection((one, error) for one, _, error in each if error is not None)

    def _bifurcate(self) -> None:
        """Both parts are known from the start."""


__all__ = ["ByConnection", "GroupResult"]
