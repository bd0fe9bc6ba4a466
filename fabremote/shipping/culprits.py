"""Finds the place of what can't be sent, inside the function or an argument."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

from fabric.group import Group
from invoke.context import Context

from fabremote.agent import paths
from fabremote.shipping.code import references

_MAX_DEPTH = 100


def children(obj: Any) -> list[tuple[str, Any]]:
    """Return the (label, object) pairs that ``obj`` holds, a function's surroundings included."""
    if isinstance(obj, types.FunctionType):
        return _function_children(obj)
    if isinstance(obj, types.MethodType):
        return [(".__self__", obj.__self__), (".__func__", obj.__func__)]
    if isinstance(obj, functools.partial):
        return [(".func", obj.func), (".args", obj.args), (".keywords", obj.keywords)]
    if isinstance(obj, (staticmethod, classmethod)):
        return [(".__func__", obj.__func__)]
    if isinstance(obj, type):
        return [(f".{name}", value) for name, value in vars(obj).items()]
    found: list[tuple[str, Any]] = paths.children(obj)
    return found


def _function_children(fn: types.FunctionType) -> list[tuple[str, Any]]:
    found = []
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
        try:
            found.append((f" -> variable {name}", cell.cell_contents))
        except ValueError:
            continue
    for name in references(fn.__code__).globals:
        if name in fn.__globals__:
            found.append((f" -> global {name}", fn.__globals__[name]))
    for index, value in enumerate(fn.__defaults__ or ()):
        found.append((f" -> default {index}", value))
    for name, value in (fn.__kwdefaults__ or {}).items():
        found.append((f" -> default {name}", value))
    return found


def _fails_by_itself(obj: Any) -> bool:
    """Whether no part of ``obj`` is to blame: a connection, or one that refuses pickling."""
    if isinstance(obj, (Context, Group)):
        return True
    if isinstance(obj, (list, tuple, dict, set, frozenset, type, types.FunctionType)):
        return False
    if type(obj) in (types.MethodType, functools.partial, staticmethod, classmethod):
        return False
    try:
        obj.__reduce_ex__(5)
    except Exception:
        return True
    return False


def locate(root: Any, fails: Callable[[Any], bool]) -> tuple[str, Any]:
    """Return (path, object) of the deepest object under ``root`` that by itself ``fails``."""
    path, current, seen = "", root, {id(root)}
    for _ in range(_MAX_DEPTH):
        if _fails_by_itself(current):
            return path, current
        for label, child in children(current):
            if id(child) not in seen and fails(child):
                seen.add(id(child))
                path, current = path + label, child
                break
        else:
            return path, current
    return path, current
