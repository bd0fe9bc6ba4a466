"""Finds the source of a code object, and proves that it is.

The file is parsed once, searched by name and line, and each candidate is
compiled here as `agent.sources` will there: only what gives the very same code
object travels. So the right lambda of several on a line is found, and a file
that was edited since it was loaded is noticed.
"""

from __future__ import annotations

import ast
import contextlib
import linecache
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any, TypeAlias

from fabremote.agent import sources

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
# What is around a function, outermost first: ("class", name), ("def", name), ("", "<lambda>").
Chain: TypeAlias = tuple[tuple[str, str], ...]

FUTURE_ANNOTATIONS = 0x1000000
_COMPARED = (
    "co_name",
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
    "co_varnames",
    "co_cellvars",
    "co_freevars",
    "co_firstlineno",
)


@dataclass(frozen=True)
class Unit:
    """A parsed part of a file, and a statement that imports what the file imports for all to see.

    Calls of such names' attributes are compiled differently.
    """

    tree: ast.Module
    imports: str


@dataclass(frozen=True)
class Source:
    """Where a code object is from, and what `agent.sources.compiled` needs to make it again."""

    file: str
    node: Function
    lines: list[str]
    head: str
    body: str
    place: int
    future: bool
    before: str
    shown: str | None


class Unknown(Exception):
    """A code object whose source can't be had; the text says why."""


# Files

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


def _file(lines: list[str], name: str) -> File:
    known = _files.get(name)
    if known is None or known.lines != lines:
        known = _files[name] = File(lines)
    return known


# One thread at a time, as each quietens the warnings of all.
_searching = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings: whoever imported the file has had them."""
    with _searching, warnings.catch_warnings():
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


# Units for the compiler


def _heads(chain: Chain, code: CodeType) -> Iterator[list[str]]:
    """Yield ways to write what is around a function: all of it, then what it can't do without."""
    free = [name for name in code.co_freevars if name != "__class__"]
    named = [each for each in chain if each[0]]
    yield _head(named, free)
    defs = [each for each in named if each[0] != "class"]
    classes = [each for each in named if each[0] == "class"]
    for fewer in ([*defs[-1:], *classes[-1:]], classes[-1:], defs[-1:], []):
        yield _head(fewer, free)


def _head(chain: list[tuple[str, str]], free: list[str]) -> list[str]:
    inner = max((i for i, (word, _) in enumerate(chain) if word != "class"), default=None)
    if free and inner is None:
        chain, inner = [("def", "_"), *chain], 0
    lines = []
    for depth, (word, name) in enumerate(chain):
        parameters = f"({', '.join(free if depth == inner else [])})" if word != "class" else ""
        lines.append(" " * depth + f"{word} {name}{parameters}:")
    return lines


@dataclass(frozen=True)
class Writing:
    """One way to write a function: made-up lines, its own, and those to show."""

    head: str
    body: str
    before: str
    shown: str | None


def segment(lines: list[str], node: Any) -> str:
    """Return a node's own text."""
    part = lines[node.lineno - 1 : node.end_lineno]
    part[-1] = part[-1].encode()[: node.end_col_offset].decode()
    part[0] = part[0].encode()[node.col_offset :].decode()
    return "".join(part)


def _writings(lines: list[str], place: Place, code: CodeType) -> Iterator[Writing]:
    node = place.node
    if isinstance(node, ast.Lambda):
        yield from _lambda_writings(lines, place, code)
        return
    first, last = first_line(node), node.end_lineno or node.lineno
    body = "".join(lines[node.lineno - 1 : last])
    body = body if body.endswith("\n") else body + "\n"
    before = "".join(lines[first - 1 : node.lineno - 1])
    indent = body[: len(body) - len(body.lstrip())]
    for around in _heads(place.chain, code):
        head = around or (["if 1:"] if indent else [])
        if len(head) < first:
            lead = " " * (len(head) - len(indent))
            # The first line of a function's code is that of its first decorator.
            decorator = f"{lead}{indent}@_\n" + "\n" * (node.lineno - first - 1) if before else ""
            made_up = "".join(f"{line}\n" for line in head) + decorator
            yield Writing(made_up, lead + body, before, before + body if lead else None)


def _lambda_writings(lines: list[str], place: Place, code: CodeType) -> Iterator[Writing]:
    node = place.node
    last = node.end_lineno or node.lineno
    # Up to the end of its statement, as inspect would show it, unless that is far.
    shown = "".join(lines[node.lineno - 1 : place.end if place.end < last + 20 else last])
    body = segment(lines, node) + ")\n"
    for head in _heads(place.chain, code):
        opening = [*head[:-1], f"{head[-1]} ("] if head else ["("]
        if len(opening) < node.lineno:
            text = "\n".join(opening) + "\n" + " " * node.col_offset
            yield Writing(text, body, "", shown)
        elif len(opening) == 1:
            yield Writing(opening[0] + " " * (node.col_offset - len(opening[0])), body, "", shown)


# Proof


def locate(code: CodeType, values: dict[str, Any] | None = None) -> Source:
    """Return the source of ``code``, whose globals are ``values``; raise `Unknown`."""
    with _searching:
        return _found(code, values)


def _found(code: CodeType, values: dict[str, Any] | None) -> Source:
    file = code.co_filename
    lines = linecache.getlines(file, values)
    found = _locate(code, lines, values) if lines else None
    if not found:
        # linecache may have had another state of the file.
        linecache.checkcache(file)
        again = linecache.getlines(file, values)
        found = _locate(code, again, values) if again != lines else None
        lines = again
    if not lines:
        raise Unknown(f"its source isn't known: there is no file {file!r}")
    if not found:
        raise Unknown(f"{file} has changed since it was loaded, or the code wasn't made from it")
    return found


def _locate(code: CodeType, lines: list[str], values: dict[str, Any] | None) -> Source | None:
    file = _file(lines, code.co_filename)
    for same in (same_code, _same_place) if _is_rewritten(values) else (same_code,):
        for unit in file.units(code.co_firstlineno):
            for place in search(unit.tree, code.co_name, code.co_firstlineno):
                found = _proved(code, file, unit, place, same)
                if found is not None:
                    return found
    return None


Same: TypeAlias = Callable[[CodeType, CodeType], bool]


def _proved(code: CodeType, file: File, unit: Unit, place: Place, same: Same) -> Source | None:
    for writing in _writings(file.lines, place, code):
        number = _verified(code, unit, writing, same)
        if number is not None:
            return Source(
                code.co_filename,
                place.node,
                file.lines,
                writing.head,
                writing.body,
                number,
                bool(code.co_flags & FUTURE_ANNOTATIONS),
                writing.before,
                writing.shown,
            )
    return None


def _verified(code: CodeType, unit: Unit, writing: Writing, same: Same) -> int | None:
    """Return which of the codes that a writing compiles to is ``code``, or None."""
    first = code.co_firstlineno
    line = first + writing.before.count("\n")
    text = sources.placed(line, writing.head, writing.body)
    for more in dict.fromkeys((unit.imports, "")):
        try:
            with quiet():
                found = sources.find(
                    text + more,
                    code.co_filename,
                    code.co_name,
                    first,
                    code.co_flags & FUTURE_ANNOTATIONS,
                )
        except (SyntaxError, ValueError):
            continue
        for number, each in enumerate(found):
            if same(each, code):
                return number
    return None


def same_code(made: CodeType, live: CodeType) -> bool:
    """Return whether two code objects do the same at the same lines."""
    return made == live or _alike(made, live)


def _alike(made: CodeType, live: CodeType) -> bool:
    """The same, but for columns and the order of names that Python sorts by hash."""
    if any(getattr(made, name) != getattr(live, name) for name in (*_COMPARED, "co_names")):
        return False
    if made.co_code != live.co_code or list(made.co_lines()) != list(live.co_lines()):
        return False
    if len(made.co_consts) != len(live.co_consts):
        return False
    return all(map(_same_constant, made.co_consts, live.co_consts))


def _same_constant(made: Any, live: Any) -> bool:
    if type(made) is not type(live):
        return False
    if isinstance(made, CodeType):
        return same_code(made, live)
    if type(made) is tuple and all(type(item) is str for item in made + live):
        return sorted(made) == sorted(live)
    return repr(made) == repr(live) or (type(made) is frozenset and made == live)


def _same_place(made: CodeType, live: CodeType) -> bool:
    """Whether a function is the one at this place, where the loader rewrites its asserts."""
    count = made.co_argcount + made.co_kwonlyargcount
    names = [name for name in live.co_varnames if not name.startswith("@")]
    return (
        all(getattr(made, name) == getattr(live, name) for name in _COMPARED if "var" not in name)
        and made.co_varnames[:count] == live.co_varnames[:count]
        and sorted(made.co_varnames) == sorted(names)
        and made.co_freevars == live.co_freevars
        and made.co_cellvars == live.co_cellvars
    )


def _is_rewritten(values: dict[str, Any] | None) -> bool:
    """Whether the loader of a module rewrites its statements, as pytest's does its asserts."""
    loader = (values or {}).get("__loader__")
    return type(loader).__name__ == "AssertionRewritingHook"


__all__ = ["Chain", "Function", "Source", "Unknown", "locate", "quiet", "segment"]
