"""What runs no code of the user's when it is let go."""

from __future__ import annotations

import types
from typing import Any

_INERT = frozenset([type(None), bool, int, float, str, bytes, types.ModuleType])


def is_inert(fn: Any, *values: Any) -> bool:
    """Return whether nothing of the user's can run when a function and values are let go."""
    held = values
    if type(fn) is types.BuiltinFunctionType:
        held += (getattr(fn, "__self__", None),)
    elif type(fn) is types.FunctionType:
        held += fn.__defaults__ or ()
        if fn.__closure__ or fn.__kwdefaults__ or fn.__dict__:
            return False
        if fn.__annotations__ and "<locals>" in fn.__qualname__:
            return False
    else:
        return False
    return all(type(each) in _INERT for each in held)


__all__ = ["is_inert"]
