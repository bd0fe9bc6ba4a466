"""The libraries that make a call: what code names of them travels, though a host hasn't them.

A class of a fabfile may well use ``Connection`` in one method and be sent for
another. So such a name is looked up there, and where it isn't to be had, a
stand-in raises an error when it is used (`fabremote.agent.standins`). An
exception of fabremote's goes by value.
"""

from __future__ import annotations

import sys
from types import FunctionType, ModuleType
from typing import Any

from fabremote.agent.standins import named

_LIBRARIES = frozenset(["fabremote", "fabric", "invoke"])
# Of fabremote, but sent by value.
_SENT = frozenset(["fabremote.exceptions"])
# Special methods that a stand-in's objects do without: they are never made by calling it.
_LEFT_OUT = frozenset(
    [
        *("__new__", "__init__", "__del__", "__repr__", "__dir__", "__init_subclass__"),
        *("__getattr__", "__getattribute__", "__setattr__", "__delattr__", "__class_getitem__"),
        *("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__subclasshook__"),
    ]
)


def is_library(name: str) -> bool:
    """Return whether a module is of fabremote's, Fabric's or Invoke's."""
    return name.partition(".")[0] in _LIBRARIES


def is_sent(name: str) -> bool:
    """Return whether a module is of fabremote's, and goes by value."""
    return name in _SENT


def name_there(name: str) -> str:
    """Return the name that the globals of a module's code have there.

    Another one where it is fabremote's, which may be installed there as well.
    """
    return f"_{name}" if is_sent(name) else name


def stand_in(obj: Any) -> tuple[Any, ...] | None:
    """Return the arguments of `named` for a module, class or function of a library, or None."""
    if isinstance(obj, ModuleType):
        name = obj.__name__
        known = is_library(name) and sys.modules.get(name) is obj
        return (name, "", name, "module") if known and not is_sent(name) else None
    module, path = obj.__module__, obj.__qualname__
    if not isinstance(module, str) or not is_library(module) or is_sent(module):
        return None
    shown = _shown(obj, module, path)
    if not isinstance(obj, type):
        return module, path, shown, "function"
    kind = "error" if issubclass(obj, BaseException) else "class"
    return module, path, shown, kind, _special(obj)


def _shown(obj: Any, module: str, path: str) -> str:
    """Return the name that users know something by: the package's, if it has it too."""
    top = module.partition(".")[0]
    public = getattr(sys.modules.get(top), path, None) is obj
    return f"{top if public else module}.{path}"


def _special(cls: type) -> tuple[str, ...]:
    return tuple(
        name
        for name in dir(cls)
        if name.startswith("__") and name not in _LEFT_OUT and _is_own(cls, name)
    )


def _is_own(cls: type, name: str) -> bool:
    """Whether a class, or one above it that isn't built in, defines a method."""
    owner = next((each for each in cls.__mro__ if name in vars(each)), object)
    return owner.__module__ != "builtins" and callable(vars(owner)[name])


def parts(module: ModuleType, names: frozenset[str]) -> list[tuple[ModuleType, dict[str, Any]]]:
    """Return what code may name of a library's modules, the module and those inside it."""
    found: dict[ModuleType, dict[str, Any]] = {}
    queue = [module]
    for each in queue:
        values = {
            name: value
            for name, value in list(vars(each).items())
            if name in names and isinstance(value, (type, FunctionType, ModuleType))
        }
        inner = [value for value in values.values() if isinstance(value, ModuleType)]
        queue += [value for value in inner if stand_in(value) and value not in found]
        if values:
            found[each] = values
    return list(found.items())


__all__ = ["is_library", "is_sent", "name_there", "named", "parts", "stand_in"]
