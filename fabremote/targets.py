"""Where a decorated function runs: a host, a connection, a group, or a list of these."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import fabric
from invoke.context import Context

from fabremote import ssh_arguments
from fabremote.closing import closer
from fabremote.connection import wrap_context
from fabremote.group import ThreadingGroup, wrap_group
from fabremote.hosts import open_connection


class Target:
    """Where a decorated function runs: connections opened at the first call, and kept.

    Made from a host name, a connection, an Invoke context, a group, or a list
    of any of these. What it opened is closed by `close`, once nothing refers to
    it any more, or at exit.
    """

    def __init__(self, where: Any, settings: Mapping[str, Any]) -> None:
        self._where = where
        self._settings = dict(settings)
        self._lock = threading.Lock()
        self._opened: Opened | None = None
        check_where(where, self._settings)

    def __repr__(self) -> str:
        return repr(self._where)

    def get(self) -> Any:
        """Return the connection or group, made if it isn't yet."""
        with self._lock:
            if self._opened is None:
                self._opened = Opened(self._where, self._make(self._where))
                closer.watch(self, self._opened)
            return self._opened.made

    def _make(self, where: Any) -> Any:
        if isinstance(where, str):
            return open_connection(where, **self._settings)
        if isinstance(where, fabric.Group):
            return wrap_group(where)
        if isinstance(where, Context):
            return wrap_context(where)
        return ThreadingGroup.from_connections([self._make(one) for one in each(where)])

    def close(self) -> None:
        """Close the connections that this target opened itself."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
            closer.forget(opened)


class Opened:
    """The connection or group made of what a `Target` was given."""

    def __init__(self, where: Any, made: Any) -> None:
        self.where, self.made = where, made

    def close(self) -> None:
        """Close it, but for connections that were given."""
        if isinstance(self.where, (Context, fabric.Group)):
            return
        many = _many(self.made)
        given = [one for one in each(self.where) if not isinstance(one, str)] if many else []
        for one in self.made if many else [self.made]:
            if not any(vars(one) is vars(other) for other in given):
                one.close()


def _many(made: Any) -> bool:
    return isinstance(made, fabric.Group)


def each(where: Any) -> Iterator[Any]:
    """Yield the names and connections in a list, those in its groups and lists included."""
    for one in where:
        if isinstance(one, (list, tuple)):
            yield from each(one)
        else:
            yield one


def has_names(where: Any) -> bool:
    """Return whether ``where`` is a host name or has any in it."""
    if isinstance(where, (str, Context, fabric.Group)):
        return isinstance(where, str)
    return any(isinstance(one, str) for one in each(where))


def check_where(where: Any, settings: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError unless ``where`` and ``settings`` can name hosts."""
    if isinstance(where, (Context, fabric.Group)):
        if settings:
            raise TypeError(
                f"{', '.join(settings)} can't be given with {where!r}, which has its own "
                "settings. Give them to the connection, or give a host name here."
            )
        return
    if isinstance(where, str):
        if not where.strip():
            raise ValueError(f"hostname={where!r} names no host.")
        ssh_arguments.read(where, settings)
        return
    if not isinstance(where, (list, tuple)) or not where:
        raise TypeError(
            f"hostname={where!r:.100} must be a host name, a connection, a group, or a list of "
            "these. Write @remotely('web1'), with parentheses."
        )
    if settings and not has_names(where):
        raise TypeError(f"{', '.join(settings)} can't be given with connections alone.")
    for one in each(where):
        check_where(one, settings if isinstance(one, str) else {})


__all__ = ["Target", "check_where", "has_names"]
