"""Finds the source of a class, to be shown there: its code comes from its methods."""

from __future__ import annotations

import ast
import linecache
import re
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from fabremote.agent.class_sources import describe
from fabremote.shipping.code import has_source
from fabremote.shipping.source_files import File, file_of, first_line, searching
from fabremote.store import Blob


@dataclass(frozen=True, eq=False)
class ClassSource:
    """A class's lines: those of ``file`` from ``first`` on."""

    file: str
    first: int
    text: Blob

    def description(self, cls: type, text: Any) -> Any:
        """Return how ``inspect`` is told there; ``text``: what stands for the text."""
        return describe, (cls, self.file, self.first, text)


# By id, as a metaclass may have no hash.
_found: dict[int, tuple[weakref.ref[type], ClassSource | None]] = {}


def source_of(cls: type) -> ClassSource | None:
    """Return the source of a class, or None if it isn't known."""
    known = _found.get(id(cls))
    if known is None or known[0]() is not cls:
        number = id(cls)
        known = weakref.ref(cls, lambda _: _found.pop(number, None)), _locate(cls)
        _found[number] = known
    return known[1]


def _locate(cls: type) -> ClassSource | None:
    codes = [fn.__code__ for fn in _functions(cls) if fn.__qualname__.startswith(cls.__qualname__)]
    values = getattr(sys.modules.get(cls.__module__), "__dict__", {})
    name = codes[0].co_filename if codes else values.get("__file__")
    codes = [code for code in codes if code.co_filename == name]
    if not isinstance(name, str) or not all(map(has_source, codes)):
        return None
    with searching:
        lines = linecache.getlines(name, values)
        nodes = _nodes_around(file_of(lines, name), cls, codes) if lines else []
    if len(nodes) != 1:
        return None
    first = first_line(nodes[0])
    text = "".join(lines[first - 1 : _last(nodes[0])])
    return ClassSource(name, first, Blob(text.encode("utf-8", "surrogatepass")))


def _nodes_around(file: File, cls: type, codes: list[CodeType]) -> list[ast.ClassDef]:
    """Return the classes of this name in a file that all of the code is in."""
    lines = {code.co_firstlineno for code in codes}
    found = [node for node in _nodes(file, cls) if lines <= {*range(node.lineno, _last(node) + 1)}]
    return list(_surely(file, found, cls.__qualname__)) if len(found) > 1 else found


def _functions(cls: type) -> Iterator[FunctionType]:
    for value in list(vars(cls).values()):
        inner = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(inner, FunctionType) and inner.__module__ == cls.__module__:
            # Those of a dataclass are made by exec.
            written = inner.__code__.co_filename != "<string>"
            yield from [inner] if written else []


def _last(node: ast.ClassDef) -> int:
    return node.end_lineno or node.lineno


def _nodes(file: File, cls: type) -> Iterator[ast.ClassDef]:
    """Yield the classes of this qualified name in a file."""
    statement = re.compile(rf"\s*class\s+{re.escape(cls.__name__)}\b")
    for number, line in enumerate(file.lines, 1):
        if statement.match(line):
            for start in _starts(file.lines, number):
                unit = next(file.units(start), None)
                found = unit and next(_search(unit.tree, "", cls.__qualname__, number), None)
                if found:
                    yield found
                    break


def _surely(file: File, nodes: list[ast.ClassDef], name: str) -> Iterator[ast.ClassDef]:
    """Yield those of the nodes that the whole file has, too: text in a string looks the same."""
    *_, unit = file.units(1)
    for node in nodes:
        yield from _search(unit.tree, "", name, node.lineno)


def _starts(lines: list[str], number: int) -> list[int]:
    """Return the lines on which the statement of a class may begin: its own, or a decorator's."""
    found = [number]
    for before in range(number - 1, 0, -1):
        if not lines[before - 1].strip():
            break
        if lines[before - 1].startswith("@"):
            found.append(before)
    return found[::-1]


def _search(node: ast.AST, prefix: str, name: str, line: int) -> Iterator[ast.ClassDef]:
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, ast.ClassDef):
            inner = f"{prefix}{child.name}."
            if child.lineno == line and prefix + child.name == name:
                yield child
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inner = f"{prefix}{child.name}.<locals>."
        yield from _search(child, inner, name, line)


__all__ = ["ClassSource", "source_of"]
