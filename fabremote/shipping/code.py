"""What a code object refers to, and what it travels as.

To an interpreter of the same implementation and minor version code goes as
bytecode, with its source for whoever looks at it there; to any other it goes as
source, and is compiled there.
"""

from __future__ import annotations

import dis
import marshal
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

from fabremote.agent import sources
from fabremote.bootstrap import RemotePython
from fabremote.exceptions import ShippingError
from fabremote.shipping import source, source_syntax
from fabremote.shipping.sources import MARSHAL, from_import
from fabremote.store import Blob

_GLOBAL_NAMES = frozenset(
    ["LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"]
)


@dataclass(frozen=True)
class References:
    """What code uses by name: globals, attributes of anything, and modules it imports."""

    globals: tuple[str, ...]
    names: frozenset[str]
    imports: tuple[tuple[str, int, tuple[str, ...]], ...]

    def modules(self, package: str) -> list[str]:
        """Return the full names of the modules that the code may import."""
        found = []
        for name, level, names in self.imports:
            found += from_import(package, name, level, list(names)) if level or names else [name]
        return found


_references: weakref.WeakKeyDictionary[CodeType, References] = weakref.WeakKeyDictionary()


def references(code: CodeType) -> References:
    """Return what ``code`` and all code nested in it refer to."""
    known = _references.get(code)
    if known is None:
        known = _references[code] = _find(code)
    return known


def nested(code: CodeType) -> Iterator[CodeType]:
    """Yield ``code`` and every code object inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


def _find(code: CodeType) -> References:
    used: dict[str, None] = {}
    names: set[str] = set()
    imports: list[tuple[str, int, tuple[str, ...]]] = []
    for part in nested(code):
        names.update(part.co_names)
        constants: list[object] = [None, None]
        for step in dis.get_instructions(part):
            if step.opname in _GLOBAL_NAMES:
                used[step.argval] = None
            elif step.opname in ("LOAD_CONST", "LOAD_SMALL_INT"):
                constants = [constants[-1], step.argval]
            elif step.opname == "IMPORT_NAME":
                level, listed = constants
                listed = listed if isinstance(listed, tuple) else ()
                imports.append((step.argval, level if isinstance(level, int) else 0, listed))
    return References(tuple(used), frozenset(names), tuple(imports))


# What travels for a code object, by remote: kept as long as the code object itself is. Not by
# equality, as equal code of two files is not the same.
_dumped: dict[int, tuple[weakref.ref[CodeType], dict[Any, Any]]] = {}


def _cache(code: CodeType) -> dict[Any, Any]:
    known = _dumped.get(id(code))
    if known is None or known[0]() is not code:
        number = id(code)
        known = weakref.ref(code, lambda _: _dumped.pop(number, None)), {}
        _dumped[number] = known
    return known[1]


@dataclass(frozen=True)
class Recipe:
    """How a code object is made there: by a function of `agent.sources`, and its arguments.

    ``packed``: the arguments as `agent.sources.unpacked` reads them.
    """

    make: Callable[..., CodeType]
    args: tuple[Any, ...]
    packed: Blob


def dump(code: CodeType, remote: RemotePython, values: dict[str, Any] | None = None) -> Recipe:
    """Return how ``code`` is made there; ``values``: its globals.

    Raise ShippingError where that can't be.
    """
    known = _cache(code)
    found: Recipe | None = known.get(remote.reads)
    if found is None:
        make, args = _dump(code, remote, values)
        found = known[remote.reads] = Recipe(make, args, Blob(marshal.dumps(args, MARSHAL)))
    return found


def _dump(
    code: CodeType, remote: RemotePython, values: dict[str, Any] | None
) -> tuple[Callable[..., CodeType], tuple[Any, ...]]:
    found = _source(code, values)
    unknown = isinstance(found, source.Unknown)
    if unknown and not is_same(remote):
        raise _unknown(code, remote, found)
    if unknown:
        return sources.marshalled, (marshal.dumps(code),)
    if is_same(remote) and remote.optimize == sys.flags.optimize:
        text = found.before + found.body if found.shown is None else found.shown
        return sources.marshalled, (marshal.dumps(code), code.co_firstlineno, text)
    body, shown = source_syntax.adapted(found, remote)
    args = (code.co_name, code.co_filename, code.co_firstlineno, found.head, body)
    more = (True,) if code.co_flags & source.CO_ITERABLE_COROUTINE else ()
    return sources.compiled, (*args, found.place, found.future, found.before, shown, *more)


def _source(code: CodeType, values: dict[str, Any] | None) -> Any:
    """Return the source of ``code``, or the reason that it isn't known."""
    known = _cache(code)
    if "source" not in known:
        try:
            known["source"] = source.locate(code, values)
        except source.Unknown as error:
            known["source"] = error
    return known["source"]


def has_source(code: CodeType, values: dict[str, Any] | None = None) -> bool:
    """Return whether the source of ``code``, whose globals are ``values``, is known."""
    return not isinstance(_source(code, values), source.Unknown)


def is_same(remote: RemotePython) -> bool:
    """Return whether bytecode of this Python runs there."""
    here = sys.implementation.name, *sys.version_info[:2]
    return (remote.implementation, *remote.version[:2]) == here


def _unknown(code: CodeType, remote: RemotePython, why: Exception) -> ShippingError:
    version = ".".join(map(str, sys.version_info[:2]))
    return ShippingError(
        f"{code.co_name}() can't be sent to {remote}: under another minor version than this "
        f"side's {version} a function is compiled from its source, and {why}. Nothing of the "
        f"call was sent. Define it in a file, start this program anew if that was edited, or "
        f"name a Python {version} with python=."
    )
