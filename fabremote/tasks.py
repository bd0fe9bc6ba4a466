"""`task`: Fabric's, whose body's context also runs Python functions."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import fabric
from invoke.context import Context

from fabremote.connection import wrap_context


def task(*args: Any, **kwargs: Any) -> Any:
    """Make a function a task, as ``fabric.task`` does, and give its context `call` and `python`.

    Takes what ``fabric.task`` takes, with or without parentheses. The context
    is a connection's under ``fab -H`` or ``hosts=``, and this machine's under
    plain ``inv``. An ``async`` body is run to its end.
    """
    if kwargs.get("hosts") is not None:
        kwargs["hosts"] = _check_hosts(kwargs["hosts"])
    if len(args) == 1 and not kwargs and _is_body(args[0]):
        return fabric.task(_with_calls(args[0]))
    make = fabric.task(*args, **kwargs)
    return lambda body: make(_with_calls(body))


def _is_body(value: Any) -> bool:
    return callable(value) and not isinstance(value, fabric.tasks.Task)


def _check_hosts(hosts: Any) -> list[Any]:
    found = list(hosts) if isinstance(hosts, Iterable) and not isinstance(hosts, str) else [...]
    for one in found:
        if not isinstance(one, (str, dict)):
            raise TypeError(
                f"task(hosts={hosts!r:.100}): give a list of names such as 'web1', or "
                "of dicts of Connection's arguments such as {'host': 'web1', 'port': 2222}."
            )
    return found


def _with_calls(body: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(body)
    def run(context: Context, /, *args: Any, **kwargs: Any) -> Any:
        result = body(wrap_context(context), *args, **kwargs)
        # Another async task's call of this one is awaited there.
        if not inspect.iscoroutine(result) or _in_a_loop():
            return result
        return asyncio.run(result)

    return run


def _in_a_loop() -> bool:
    return asyncio._get_running_loop() is not None


__all__ = ["task"]
