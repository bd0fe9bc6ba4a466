"""`task`: Fabric's, whose body's context also runs Python functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import fabric
from invoke.context import Context

from fabremote.connection import wrap_context


def task(*args: Any, **kwargs: Any) -> Any:
    """Make a function a task, as ``fabric.task`` does, and give its context `call` and `python`.

    Takes what ``fabric.task`` takes, with or without parentheses. The context
    is a connection's under ``fab -H`` or ``hosts=``, and this machine's under
    plain ``inv``.
    """
    if len(args) == 1 and not kwargs and _is_body(args[0]):
        return fabric.task(_with_calls(args[0]))
    make = fabric.task(*args, **kwargs)
    return lambda body: make(_with_calls(body))


def _is_body(value: Any) -> bool:
    return callable(value) and not isinstance(value, fabric.tasks.Task)


def _with_calls(body: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(body)
    def run(context: Context, /, *args: Any, **kwargs: Any) -> Any:
        return body(wrap_context(context), *args, **kwargs)

    return run


__all__ = ["task"]
