"""What a code object refers to, and the bytes it travels as.

Code goes as bytecode, which only an interpreter of the same implementation and
minor version can read; `check_version` refuses any other before anything is
sent.
"""

from __future__ import annotations

import dis
import linecache
import marshal
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

from fabremote.bootstrap import RemotePython
from fabremote.exceptions import ShippingError
from fabremote.shipping.sources import from_import

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


_dumped: weakref.WeakKeyDictionary[CodeType, dict[int, bytes]] = weakref.WeakKeyDictionary()


def dump(code: CodeType, remote: RemotePython) -> bytes:
    """Return the bytes that ``agent.loader.code`` makes the code object from again."""
    check_version(code, remote)
    known = _dumped.setdefault(code, {})
    if remote.optimize not in known:
        known[remote.optimize] = marshal.dumps(optimized(code, remote.optimize))
    return known[remote.optimize]


def check_version(code: CodeType, remote: RemotePython) -> None:
    """Raise ShippingError unless bytecode of this Python runs there."""
    here = sys.implementation.name, *sys.version_info[:2]
    if (remote.implementation, *remote.version[:2]) != here:
        version = ".".join(map(str, sys.version_info[:3]))
        raise ShippingError(
            f"{code.co_name}() is code of Python {version}, and the far side is {remote}: a "
            f"function's code runs only under the same minor version, {here[1]}.{here[2]}. "
            f"Nothing of the call was sent. Name such an interpreter with python=, or run this "
            f"side under Python {remote.version[0]}.{remote.version[1]}."
        )


def optimized(code: CodeType, level: int) -> CodeType:
    """Return ``code`` as compiled at optimisation ``level``, so that ``-O`` there drops asserts.

    Where its source isn't known any more, the code stays as it is.
    """
    if level == sys.flags.optimize:
        return code
    text = "".join(linecache.getlines(code.co_filename))
    try:
        same = _compiled(text, code, sys.flags.optimize)
        other = _compiled(text, code, level)
    except (SyntaxError, ValueError):
        return code
    if code not in same:
        return code
    # By place, and by order among those of one line, as long as both levels have as
    # many: what stands in an assert is gone at another level.
    place = _place(code)
    here = [candidate for candidate in same if _place(candidate) == place]
    there = [candidate for candidate in other if _place(candidate) == place]
    return there[here.index(code)] if len(here) == len(there) else code


def _place(code: CodeType) -> tuple[str, int]:
    """Return where a code object's source is, as far as both levels agree on it."""
    return getattr(code, "co_qualname", code.co_name), code.co_firstlineno


def _compiled(text: str, code: CodeType, level: int) -> list[CodeType]:
    flags = code.co_flags & _FUTURE_FLAGS
    whole = compile(text, code.co_filename, "exec", flags, True, level)
    return [part for part in nested(whole) if part.co_name == code.co_name]


_FUTURE_FLAGS = 0x1000000  # CO_FUTURE_ANNOTATIONS, the only one that still changes code.
