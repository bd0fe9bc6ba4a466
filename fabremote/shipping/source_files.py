"""Files of source, parsed no further than needed, and searched for functions by name and line."""

from __future__ import annotations

import ast
import contextlib
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
# What is around a function, outermost first: ("class", name), ("def", name), ("", "<lambda>").
Chain: TypeAlias = tuple[tuple[str, str], ...]

# One thread at a time, as each quietens the warnings of all.
searching = threading.RLock()


@dataclass(frozen=True)
class Unit:
    """A parsed part of a file, and a statement that imports what the file imports for all to see.

    Calls of such names' attributes are compiled differently.
    """

    tree: ast.Module
    imports: str


# What begins a statement at the left margin, and what goes on with the one before.
_STATEMENT = re.compile(r"[^\s#)\]}]")
_GOES_ON = re.compile(r"(?:else|elif|except|finally)\b")
_IMPORTS = re.compile(r"^[ \t]*(?:from\b[^\n]*?\b)?import\b([^(\n]*(?:\([^)]*\))?)", re.MULTILINE)


class File:
    """The text of a file, as it was when it was first looked at; parsed as far as needed."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = list(lines)
        self._units: dict[tuple[int, int], Unit | None] = {}

    def units(self, line: int) -> Iterator[Unit]:
        """Yield the statement around a line, as the left margin tells it; then all."""
        for part in (self._around(line), (0, len(self.lines))):
            if part not in self._units:
                self._units[part] = self._parsed(*part)
            unit = self._units[part]
            if unit is not None:
                yield unit

    def _parsed(self, start: int, end: int) -> Unit | None:
        text = "\n" * start + "".join(self.lines[start:end])
        try:
            with quiet():
                tree = ast.parse(text)
        except (SyntaxError, ValueError):
            return None
        whole = end - start == len(self.lines)
        names = sorted(set(_imported(tree.body))) if whole else self._names()
        return Unit(tree, f"\nimport {','.join(names)}\n" if names else "")

    def _around(self, line: int) -> tuple[int, int]:
        start = min(line, len(self.lines)) - 1
        while start > 0 and not self._begins(start):
            start -= 1
        end, decorated = start + 1, self.lines[start : start + 1][0][:1] == "@"
        while end < len(self.lines) and (decorated or not self._begins(end)):
            decorated = decorated and (
                not _STATEMENT.match(self.lines[end]) or self.lines[end][0] == "@"
            )
            end += 1
        return max(start, 0), end

    def _begins(self, index: int) -> bool:
        text = self.lines[index]
        return bool(_STATEMENT.match(text)) and not _GOES_ON.match(text)

    def _names(self) -> list[str]:
        """Return the names that the file seems to import: good enough to be proved right."""
        words: set[str] = set()
        for found in _IMPORTS.findall("".join(self.lines)):
            for item in found.strip("()").split(","):
                name = item.split()[-1:] or [""]
                words.add(name[0].strip("()").partition(".")[0])
        return sorted(filter(str.isidentifier, words))


_files: dict[str, File] = {}


def file_of(lines: list[str], name: str) -> File:
    known = _files.get(name)
    if known is None or known.lines != lines:
        known = _files[name] = File(lines)
    return known


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings: whoever imported the file has had them."""
    with searching, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _imported(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements outside of any function or class import."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                if name != "*":
                    yield name
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for part in ("body", "orelse", "finalbody", "handlers", "cases"):
                for child in getattr(node, part, ()):
                    inside = child.body if not isinstance(child, ast.stmt) else [child]
                    yield from _imported(inside)


# Search


@dataclass(frozen=True)
class Place:
    """A function's node, what is around it, and the last line of its statement."""

    node: Function
    chain: Chain
    end: int


def first_line(node: ast.AST) -> int:
    """Return the first line of a node, its decorators included."""
    decorators = getattr(node, "decorator_list", None)
    line: int = getattr(node, "lineno", 0)
    return min(line, decorators[0].lineno) if decorators else line


def search(tree: ast.Module, name: str, line: int) -> Iterator[Place]:
    """Yield the functions of this name that begin at this line."""
    yield from _search(tree.body, (), 0, name, line)


def _search(nodes: Any, chain: Chain, end: int, name: str, line: int) -> Iterator[Place]:
    for node in nodes:
        last = getattr(node, "end_lineno", None)
        if last is not None and not first_line(node) <= line <= last:
            continue
        if isinstance(node, ast.stmt):
            end = last or 0
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if node.name == name and first_line(node) == line:
                yield Place(node, chain, end)
            word = "def" if isinstance(node, ast.FunctionDef) else "async def"
            inner = (*chain, (word, node.name))
        elif isinstance(node, ast.Lambda):
            if name == "<lambda>" and node.lineno == line:
                yield Place(node, chain, end)
            inner = (*chain, ("", name))
        elif isinstance(node, ast.ClassDef):
            inner = (*chain, ("class", node.name))
        else:
            yield from _search(ast.iter_child_nodes(node), chain, end, name, line)
            continue
        body = node.body if isinstance(node.body, list) else [node.body]
        around = [child for child in ast.iter_child_nodes(node) if child not in body]
        yield from _search(around, chain, end, name, line)
        yield from _search(body, inner, end, name, line)


__all__ = [
    "Chain",
    "File",
    "Function",
    "Place",
    "Unit",
    "file_of",
    "first_line",
    "quiet",
    "search",
    "searching",
]
