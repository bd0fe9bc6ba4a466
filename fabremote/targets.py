"""Where a decorated function runs: a host, a connection, a group, or a list of these."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Mapping
from typing import Any

import fabric
from invoke.context import Context

from fabremote.connection import wrap_context
from fabremote.group import ThreadingGroup, wrap_group
from fabremote.hosts import check_port, find_key, open_connection
from fabremote.ssh_options import parse


class Target:
    """Where a decorated function runs: connections opened at the first call, and kept.

    Made from a host name, a connection, an Invoke context, a group, or a list
    of any of these.
    """

    def __init__(self, where: Any, settings: Mapping[str, Any]) -> None:
        self._where = where
        self._settings = dict(settings)
        self._lock = threading.Lock()
        self._made: Any = None
        check_where(where, self._settings)

    def __repr__(self) -> str:
        return repr(self._where)

    def get(self) -> Any:
        """Return the connection or group, made if it isn't yet."""
        with self._lock:
            if self._made is None:
                self._made = self._make(self._where)
                _targets.add(self)
            return self._made

    def _make(self, where: Any) -> Any:
        if isinstance(where, str):
            return open_connection(where, **self._settings)
        if isinstance(where, fabric.Group):
            return wrap_group(where)
        if isinstance(where, Context):
            return wrap_context(where)
        return ThreadingGroup.from_connections([self._make(one) for one in where])

    def close(self) -> None:
        """Close the connections that this target opened itself."""
        with self._lock:
            made, self._made = self._made, None
            _targets.discard(self)
        if made is None or isinstance(self._where, (Context, fabric.Group)):
            return
        given = [one for one in self._where if not isinstance(one, str)] if _many(made) else []
        for one in made if _many(made) else [made]:
            if not any(vars(one) is vars(other) for other in given):
                one.close()


# Those with connections: kept until closed, whoever has let go of the function.
_targets: set[Target] = set()


@atexit.register
def _close_targets() -> None:
    for target in list(_targets):
        target.close()


def _many(made: Any) -> bool:
    return isinstance(made, fabric.Group)


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
        check_port(settings.get("port"))
        if settings.get("key") is not None:
            find_key(settings["key"])
        parse(settings.get("ssh_options") or {})
        return
    if not isinstance(where, (list, tuple)) or not where:
        raise TypeError(
            f"hostname={where!r:.100} must be a host name, a connection, a group, or a list of "
            "these. Write @remotely('web1'), with parentheses."
        )
    names = [one for one in where if isinstance(one, str)]
    if settings and not names:
        raise TypeError(f"{', '.join(settings)} can't be given with connections alone.")
    for one in where:
        check_where(one, settings if isinstance(one, str) else {})


__all__ = ["Target", "check_where"]
