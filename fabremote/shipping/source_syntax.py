"""Whether an older Python reads a function's source, rewritten for it where that is simple.

What only looks newer is spelt in the older way (see `source_edits`); a
construct that the older Python has no equivalent of is refused, by its name.
"""

from __future__ import annotations

import ast
import functools
import importlib
import sys
from collections.abc import Iterator
from typing import Any, TypeAlias

from fabremote.bootstrap import RemotePython
from fabremote.exceptions import ShippingError
from fabremote.shipping.source import Source
from fabremote.shipping.source_files import quiet

Version: TypeAlias = tuple[int, int]
# A construct: what it is called, the version that brought it, and its line.
Need: TypeAlias = tuple[str, Version, int]

_NODES: dict[str, tuple[str, Version]] = {
    "NamedExpr": ("an assignment expression (:=)", (3, 8)),
    "Match": ("a match statement", (3, 10)),
    "TryStar": ("an except* clause", (3, 11)),
    "TypeAlias": ("a type statement", (3, 12)),
    "TemplateStr": ("a t-string", (3, 14)),
}
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def adapted(found: Source, remote: RemotePython) -> tuple[str, str | None]:
    """Return a source's body as ``remote`` reads it, and what to show of it if that is another.

    Raise ShippingError if it uses what that version lacks.
    """
    version = remote.version[:2]
    for what, needed, line in needs(found.node):
        if version < needed:
            raise _newer(found, remote, what, needed, line)
    source_edits = _source_edits()
    try:
        body = source_edits.rewritten(found, version)
    except source_edits.Unwritable as error:
        what, needed, line = error.args
        raise _newer(found, remote, what, needed, line) from None
    if body == found.body or found.shown is not None:
        return body, found.shown
    return body, found.before + found.body


def _source_edits() -> Any:
    # Imported where it is needed: few calls do.
    return importlib.import_module("fabremote.shipping.source_edits")


def _newer(
    found: Source, remote: RemotePython, what: str, needed: Version, line: int
) -> ShippingError:
    name = getattr(found.node, "name", "<lambda>")
    return ShippingError(
        f"{name}() can't be sent to {remote}: {what}, at {found.file}, line {line}, needs Python "
        f"{needed[0]}.{needed[1]}. Nothing of the call was sent. Write it without, or name a "
        "newer interpreter with python=."
    )


@functools.lru_cache(maxsize=4096)
def reads(text: str, version: Version) -> bool:
    """Return whether Python ``version`` reads a whole module's text as it is."""
    if version >= sys.version_info[:2]:
        return True
    try:
        # It knows some of what follows, and parentheses after `with`.
        with quiet():
            tree = ast.parse(text, feature_version=version)
    except (SyntaxError, ValueError):
        return False
    if any(version < needed for child in tree.body for _, needed, _ in _needs(child, tree)):
        return False
    lines = [f"{line}\n" for line in text.split("\n")]
    return not _source_edits().is_newer(tree, lines, version)


def needs(node: ast.AST) -> Iterator[Need]:
    """Yield the constructs of a function that not every Python from 3.6 on has."""
    decorators = getattr(node, "decorator_list", [])
    for child in ast.iter_child_nodes(node):
        if child not in decorators and child not in getattr(node, "type_params", []):
            yield from _needs(child, node)
    yield from _of_arguments(node)


def _needs(node: ast.AST, parent: ast.AST) -> Iterator[Need]:
    known = _NODES.get(type(node).__name__)
    if known is not None:
        yield (*known, getattr(node, "lineno", 0))
    if isinstance(node, _SCOPES):
        yield from _of_scope(node)
    if isinstance(node, ast.Try):
        for step in _continues(node.finalbody):
            yield "continue in a finally clause", (3, 8), step.lineno
    if isinstance(node, _COMPREHENSIONS) and _is_async(node) and _within(parent):
        yield "an asynchronous comprehension inside another", (3, 11), node.lineno
    for child in ast.iter_child_nodes(node):
        yield from _needs(child, node)


def _of_arguments(node: ast.AST) -> Iterator[Need]:
    arguments = getattr(node, "args", None)
    if isinstance(arguments, ast.arguments) and arguments.posonlyargs:
        yield "a positional-only parameter (/)", (3, 8), getattr(node, "lineno", 0)


def _of_scope(node: ast.AST) -> Iterator[Need]:
    yield from _of_arguments(node)
    line = getattr(node, "lineno", 0)
    parameters = getattr(node, "type_params", [])
    if parameters:
        yield "a type parameter list", (3, 12), line
    if any(getattr(each, "default_value", None) is not None for each in parameters):
        yield "a default of a type parameter", (3, 13), line
    for decorator in getattr(node, "decorator_list", []):
        if not _is_plain(decorator):
            yield "a decorator that is more than a dotted name or its call", (3, 9), line


def _is_plain(decorator: ast.expr) -> bool:
    inner = decorator.func if isinstance(decorator, ast.Call) else decorator
    while isinstance(inner, ast.Attribute):
        inner = inner.value
    return isinstance(inner, ast.Name)


def _continues(body: list[ast.stmt]) -> Iterator[ast.Continue]:
    for node in body:
        if isinstance(node, ast.Continue):
            yield node
        elif not isinstance(node, (*_LOOPS, *_SCOPES)):
            inside = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            yield from _continues(inside)


def _is_async(node: ast.AST) -> bool:
    return any(each.is_async for each in getattr(node, "generators", []))


def _within(parent: ast.AST) -> bool:
    return isinstance(parent, (*_COMPREHENSIONS, ast.comprehension))


__all__ = ["adapted", "needs", "reads"]
