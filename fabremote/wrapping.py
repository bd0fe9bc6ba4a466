"""`wrap` and `install`: `call` and `python` for objects that Fabric and Invoke made."""

from __future__ import annotations

from typing import Any

import fabric

from fabremote.connection import Calls, RemoteHost, wrap_context
from fabremote.group import GroupCalls, wrap_group


def wrap(context: Any) -> Any:
    """Return ``context`` with `call` and `python`.

    ``context``: a `fabric.Connection`, whose transport and everything else is
    shared with what is returned; a group of such connections; or a plain
    `invoke.Context`, for which calls run in fresh processes of this machine.
    Raises TypeError for anything else.
    """
    if isinstance(context, fabric.Group):
        return wrap_group(context)
    return wrap_context(context)


def install() -> None:
    """Give every `fabric.Connection` and group of this process `call` and `python`.

    For fabfiles left as they are. Connections already made have them too.
    """
    connection, group = fabric.Connection, fabric.Group
    for name in ("call", "python", "call_env"):
        setattr(connection, name, vars(Calls)[name])
    connection._calls_host = lambda self: RemoteHost(self)
    for name in ("call", "map", "python"):
        setattr(group, name, vars(GroupCalls)[name])


__all__ = ["install", "wrap"]
