"""Newer spellings of old constructs, in a way that every Python from 3.6 on reads.

Each is a small edit that leaves everything on its line: parentheses around
starred tuples, ``with (a, b):`` as ``with (a), (b):``, f-strings that nest their
quotes or say ``{x=}`` as calls of ``str.format``, and annotations of inner
functions as texts, which an older Python might fail to evaluate.
"""

from __future__ import annotations

import ast
import copy
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from fabremote.shipping.source import Source, segment

Version: TypeAlias = tuple[int, ...]
# A line from 1 and a column in bytes from 0.
Point: TypeAlias = tuple[int, int]

_REST_OF_HEADER = re.compile(rb"(?:[\s),\\]|#[^\n]*)*")


class Unwritable(Exception):
    """What has no older spelling: (its name, the version that brought it, its line)."""


@dataclass(frozen=True)
class Edit:
    """New text between two points."""

    start: Point
    end: Point
    text: str


def rewritten(found: Source, version: Version) -> str:
    """Return a source's body as Python ``version`` reads it; raise `Unwritable`."""
    if version >= sys.version_info[:2] and version >= (3, 12):
        return found.body
    text = Text(found)
    edits = [*_of_type_parameters(text, version), *_edits(found.node, None, text, version)]
    return text.edited(edits) if edits else found.body


class Text:
    """The body of a source, by the points of its file."""

    def __init__(self, found: Source) -> None:
        node = found.node
        self.node, self.lines, self.future = node, found.lines, found.future
        self._first = node.lineno
        self._column = node.col_offset if isinstance(node, ast.Lambda) else 0
        body = found.body.encode()
        # What was put before it, so that it is deeper than what is around it.
        self._lead = b" " * (
            0 if isinstance(node, ast.Lambda) else _indent(body) - node.col_offset
        )
        self.data = body[len(self._lead) :]

    def offset(self, point: Point) -> int:
        """Return the place of a point in `data`."""
        before = self.lines[self._first - 1 : point[0] - 1]
        return sum(len(line.encode()) for line in before) + point[1] - self._column

    def point(self, offset: int) -> Point:
        """Return the point of a place in `data`."""
        lines = self.data[:offset].split(b"\n")
        column = len(lines[-1]) + (self._column if len(lines) == 1 else 0)
        return self._first + len(lines) - 1, column

    def between(self, start: Point, end: Point) -> bytes:
        """Return what stands between two points."""
        return self.data[self.offset(start) : self.offset(end)]

    def edited(self, edits: list[Edit]) -> str:
        """Return the body with all edits."""
        data = self.data
        for edit in sorted(edits, key=lambda edit: (edit.start, edit.end), reverse=True):
            start, end = self.offset(edit.start), self.offset(edit.end)
            data = data[:start] + edit.text.encode() + data[end:]
        return (self._lead + data).decode()


def _indent(line: bytes) -> int:
    return len(line) - len(line.lstrip())


def start_of(node: Any) -> Point:
    """Return where a node begins."""
    return node.lineno, node.col_offset


def end_of(node: Any) -> Point:
    """Return where a node ends."""
    return node.end_lineno, node.end_col_offset


def _edits(node: ast.AST, parent: ast.AST | None, text: Text, version: Version) -> Iterator[Edit]:
    skipped: list[ast.AST] = []
    if isinstance(node, ast.JoinedStr):
        if _is_new_string(node, text.lines, version):
            yield _replaced(node, _plain_string(node))
        return
    if isinstance(node, (ast.With, ast.AsyncWith)) and version < (3, 9):
        yield from _of_with(node, text)
    yield from _of_brackets(node, text.lines, version)
    if parent is None:
        skipped = [*getattr(node, "decorator_list", []), *getattr(node, "type_params", [])]
    for annotation in _annotations(node, parent):
        if _is_new_annotation(annotation, text.future, version):
            skipped.append(annotation)
            yield _replaced(annotation, repr(ast.unparse(annotation)))
    inside = parent if isinstance(node, (ast.arguments, ast.arg)) else node
    for child in ast.iter_child_nodes(node):
        if child not in skipped:
            yield from _edits(child, inside, text, version)


def is_newer(tree: ast.Module, lines: list[str], version: Version) -> bool:
    """Return whether a module is spelt in a way that Python ``version`` doesn't read."""
    future = any(
        isinstance(node, ast.ImportFrom)
        and node.module == "__future__"
        and any(alias.name == "annotations" for alias in node.names)
        for node in tree.body
    )
    return (future and version < (3, 7)) or _is_newer(tree, tree, lines, future, version)


def _is_newer(
    node: ast.AST, parent: ast.AST, lines: list[str], future: bool, version: Version
) -> bool:
    if isinstance(node, ast.JoinedStr) and _is_new_string(node, lines, version):
        return True
    annotations = _annotations(node, parent)
    if any(_is_new_annotation(each, future, version) for each in annotations):
        return True
    if any(_of_brackets(node, lines, version)):
        return True
    children = ast.iter_child_nodes(node)
    return any(_is_newer(child, node, lines, future, version) for child in children)


def _replaced(node: Any, new: str) -> Edit:
    lines = node.end_lineno - node.lineno
    return Edit(start_of(node), end_of(node), "(" + new + "\n" * lines + ")")


# f-strings


def _is_new_string(node: ast.JoinedStr, lines: list[str], version: Version) -> bool:
    parts = [part for part in ast.walk(node) if isinstance(part, ast.FormattedValue)]
    if version < (3, 8) and any(map(_may_show_itself, _strings(node))):
        return True
    if version >= (3, 12) or sys.version_info < (3, 12):
        # What an older Python here has parsed is old enough.
        return False
    if "\n" in segment(lines, node):
        return True
    return any(set(segment(lines, part.value)) & set("\\#'\"") for part in parts)


def _strings(node: ast.AST) -> Iterator[ast.JoinedStr]:
    return (part for part in ast.walk(node) if isinstance(part, ast.JoinedStr))


def _may_show_itself(node: ast.JoinedStr) -> bool:
    """Whether a field may have been written as ``{x=}``, which is no different from ``x={x}``."""
    for text, field in zip(node.values, node.values[1:], strict=False):
        pair = isinstance(text, ast.Constant) and isinstance(field, ast.FormattedValue)
        if pair and str(getattr(text, "value", "")).rstrip().endswith("="):
            return True
    return False


def _plain_string(node: ast.JoinedStr) -> str:
    """Return an f-string as a call of ``str.format``."""
    line = node.lineno
    # A copy, as it is changed.
    return ast.unparse(_Formatting(line).visit(copy.deepcopy(node)))


class _Formatting(ast.NodeTransformer):
    def __init__(self, line: int) -> None:
        self._line = line

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        values: list[ast.expr] = []
        template = self._template(node, values, 0)
        function = ast.Attribute(ast.Constant(template), "format", ast.Load())
        return ast.Call(function, [self.visit(value) for value in values], [])

    def _template(self, node: ast.JoinedStr, values: list[ast.expr], depth: int) -> str:
        parts = []
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                parts.append(self._field(part, values, depth))
            elif isinstance(part, ast.Constant):
                text = str(part.value)
                if depth and set(text) & set("{}"):
                    self._refuse()
                parts.append(text.replace("{", "{{").replace("}", "}}"))
        return "".join(parts)

    def _field(self, part: ast.FormattedValue, values: list[ast.expr], depth: int) -> str:
        if depth > 1:
            self._refuse()
        values.append(part.value)
        conversion = f"!{chr(part.conversion)}" if part.conversion != -1 else ""
        if not isinstance(part.format_spec, ast.JoinedStr):
            return f"{{{conversion}}}"
        return f"{{{conversion}:{self._template(part.format_spec, values, depth + 1)}}}"

    def _refuse(self) -> NoReturn:
        raise Unwritable("an f-string with such a format", (3, 12), self._line)


# Headers and tuples


def _of_with(node: Any, text: Text) -> Iterator[Edit]:
    """Yield what takes the parentheses around a with statement's items away."""
    first = node.items[0].context_expr
    keyword = text.data[text.offset(start_of(node)) :].index(b"with") + 4
    line, column = start_of(node)
    start = line, column + keyword
    if b"(" not in text.between(start, start_of(first)):
        return
    opening = " "
    for item in node.items:
        expression = item.context_expr
        gap = text.between(start, start_of(expression))
        yield Edit(start, start_of(expression), opening + "(" + "\n" * gap.count(b"\n"))
        start = end_of(expression)
        target = f" as {ast.unparse(item.optional_vars)}" if item.optional_vars else ""
        opening = f"){target}, "
    last = end_of(node.items[-1].optional_vars or node.items[-1].context_expr)
    rest = _REST_OF_HEADER.match(text.data, text.offset(last))
    gap = text.data[text.offset(start) : rest.end() if rest else 0]
    lines, end = gap.count(b"\n"), text.point(text.offset(start) + len(gap))
    yield Edit(start, end, "\n" * lines + f"){target}")


def _of_brackets(node: ast.AST, lines: list[str], version: Version) -> Iterator[Edit]:
    """Yield parentheses around tuples and assignments, where they may be left out by now."""
    tuple_: ast.expr | None = None
    if isinstance(node, (ast.Return, ast.Yield, ast.AnnAssign)) and version < (3, 8):
        tuple_ = node.value
    elif isinstance(node, (ast.For, ast.AsyncFor)) and version < (3, 9):
        tuple_ = node.iter
    elif isinstance(node, ast.Subscript) and version < (3, 11):
        tuple_ = node.slice
    if isinstance(tuple_, ast.Tuple) and _is_open(tuple_, node, lines):
        closed = segment(lines, tuple_).rstrip()[-1] in ",)"
        comma = "," if len(tuple_.elts) == 1 and not closed else ""
        yield from _bracketed(tuple_, comma)
    if version < (3, 10):
        for assignment in _bare_assignments(node):
            yield from _bracketed(assignment)


def _is_open(found: ast.Tuple, node: ast.AST, lines: list[str]) -> bool:
    if any(isinstance(each, ast.Starred) for each in found.elts):
        return True
    return isinstance(node, ast.AnnAssign) and not segment(lines, found).startswith("(")


def _bare_assignments(node: ast.AST) -> Iterator[ast.NamedExpr]:
    """Yield assignment expressions in indexes and sets, which may lack parentheses."""
    inside: list[ast.expr] = []
    if isinstance(node, ast.Subscript):
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    elif isinstance(node, ast.Set):
        inside = node.elts
    elif isinstance(node, ast.SetComp):
        inside = [node.elt]
    return (each for each in inside if isinstance(each, ast.NamedExpr))


def _bracketed(node: ast.expr, more: str = "") -> Iterator[Edit]:
    yield Edit(start_of(node), start_of(node), "(")
    yield Edit(end_of(node), end_of(node), f"{more})")


# Annotations and type parameters


def _annotations(node: ast.AST, parent: ast.AST | None) -> Iterator[ast.expr]:
    """Yield the annotations at a node that are evaluated as it runs, or that must be read."""
    if isinstance(node, ast.arg) and node.annotation is not None:
        yield node.annotation
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns is not None:
        yield node.returns
    elif isinstance(node, ast.AnnAssign) and isinstance(parent, (ast.ClassDef, ast.Module)):
        yield node.annotation


def _is_new_annotation(annotation: ast.expr, future: bool, version: Version) -> bool:
    if future:
        # From 3.7 on it is a text there too.
        return version < (3, 7)
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and version < (3, 9):
            return True
        if isinstance(node, ast.BinOp) and version < (3, 10):
            return True
        if isinstance(node, (ast.Starred, ast.JoinedStr)) and version < (3, 12):
            return True
    return False


def _of_type_parameters(text: Text, version: Version) -> Iterator[Edit]:
    """Yield what drops the function's own type parameters; what it uses of them is data."""
    parameters = getattr(text.node, "type_params", [])
    newest = any(getattr(each, "default_value", None) is not None for each in parameters)
    if not parameters or version >= ((3, 13) if newest else (3, 12)):
        return
    first, last = text.offset(start_of(parameters[0])), text.offset(end_of(parameters[-1]))
    start, end = text.data.rindex(b"[", 0, first), text.data.index(b"(", last)
    yield Edit(text.point(start), text.point(end), "")


__all__ = ["Unwritable", "is_newer", "rewritten"]
