"""Finds the source of a code object, and proves that it is.

A candidate of the right name and line (see `source_files`) is compiled here as
`agent.sources` will there: only what gives the very same code object travels.
So the right lambda of several on a line is found, and a file that was edited
since it was loaded is noticed.
"""

from __future__ import annotations

import ast
import dis
import itertools
import linecache
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any, TypeAlias

from fabremote.agent import sources
from fabremote.shipping import source_rewritten
from fabremote.shipping.source_files import (
    Chain,
    File,
    Function,
    Place,
    Unit,
    file_of,
    first_line,
    quiet,
    search,
    searching,
)

CO_NESTED = 0x10
# Set by types.coroutine.
CO_ITERABLE_COROUTINE = 0x100
FUTURE_ANNOTATIONS = 0x1000000
Same: TypeAlias = Callable[[CodeType, CodeType], bool]
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
_STATIC = "__static_attributes__"
# What is around a function, and what every Python does without being asked.
_INDIFFERENT = CO_NESTED | 0xFE0000


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
    with searching:
        return _found(code, values)


def _found(code: CodeType, values: dict[str, Any] | None) -> Source:
    file = code.co_filename
    code = code.replace(co_flags=code.co_flags & ~CO_ITERABLE_COROUTINE)
    lines = linecache.getlines(file, values) or _command_lines(file)
    found = _locate(code, lines, values) if lines else None
    if not found:
        # linecache may have had another state of the file.
        linecache.checkcache(file)
        again = linecache.getlines(file, values) or lines
        found = _locate(code, again, values) if again != lines else None
        lines = again
    if not lines:
        raise Unknown(f"its source isn't known: there is no file {file!r}")
    if not found:
        raise Unknown(f"{file} has changed since it was loaded, or the code wasn't made from it")
    return found


def _command_lines(file: str) -> list[str]:
    """Return the lines of ``python -c``, which Python itself keeps from 3.13 on."""
    if file != "<string>":
        return []
    for option, text in itertools.pairwise(sys.orig_argv[1:]):
        if option.startswith("-") and option.endswith("c"):
            return text.splitlines(True)
    return []


def _locate(code: CodeType, lines: list[str], values: dict[str, Any] | None) -> Source | None:
    file = file_of(lines, code.co_filename)
    found = _matching(code, file, same_code)
    if found is None and values is not None and source_rewritten.is_rewritten(values):
        made = source_rewritten.codes(file, values, code)
        if any(same_code(each, code) for each in made):
            found = _matching(code, file, _same_place)
    return found


def _matching(code: CodeType, file: File, same: Same) -> Source | None:
    for unit in file.units(code.co_firstlineno):
        for place in search(unit.tree, code.co_name, code.co_firstlineno):
            found = _proved(code, file, unit, place, same)
            if found is not None:
                return found
    return None


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
    """Return whether two code objects do the same at the same lines, columns aside."""
    if any(getattr(made, name) != getattr(live, name) for name in (*_COMPARED, "co_names")):
        return False
    if made.co_code != live.co_code or list(made.co_lines()) != list(live.co_lines()):
        return False
    # Tells what a ``try`` guards, from 3.11 on.
    if getattr(made, "co_exceptiontable", b"") != getattr(live, "co_exceptiontable", b""):
        return False
    return _same_flags(made, live) and _same_constants(made, live)


def _same_flags(made: CodeType, live: CodeType) -> bool:
    return not (made.co_flags ^ live.co_flags) & ~_INDIFFERENT


def _same_constants(made: CodeType, live: CodeType) -> bool:
    if len(made.co_consts) != len(live.co_consts):
        return False
    unordered = _static_attributes(made)
    for index, (first, second) in enumerate(zip(made.co_consts, live.co_consts, strict=True)):
        if index in unordered and type(first) is type(second) is tuple:
            first, second = frozenset(first), frozenset(second)
        if not _same_constant(first, second):
            return False
    return True


def _same_constant(made: Any, live: Any) -> bool:
    if type(made) is not type(live):
        return False
    if isinstance(made, CodeType):
        return same_code(made, live)
    if type(made) is tuple:
        return len(made) == len(live) and all(map(_same_constant, made, live))
    if type(made) is frozenset:
        return sorted(map(repr, made)) == sorted(map(repr, live))
    return repr(made) == repr(live)


def _static_attributes(code: CodeType) -> set[int]:
    """Return which constants only name a class's attributes, as Python 3.13 orders by hash."""
    if _STATIC not in code.co_names:
        return set()
    steps = list(dis.get_instructions(code))
    loads = [step.arg for step in steps if step.opname == "LOAD_CONST"]
    found = {
        before.arg
        for before, step in itertools.pairwise(steps)
        if (before.opname, step.opname, step.argval) == ("LOAD_CONST", "STORE_NAME", _STATIC)
    }
    return {arg for arg in found if arg is not None and loads.count(arg) == 1}


def _same_place(made: CodeType, live: CodeType) -> bool:
    """Whether a function is the one at this place, its asserts being rewritten."""
    count = made.co_argcount + made.co_kwonlyargcount
    names = [name for name in live.co_varnames if not name.startswith("@")]
    return (
        all(getattr(made, name) == getattr(live, name) for name in _COMPARED if "var" not in name)
        and made.co_varnames[:count] == live.co_varnames[:count]
        and sorted(made.co_varnames) == sorted(names)
        and made.co_freevars == live.co_freevars
        and made.co_cellvars == live.co_cellvars
    )


__all__ = ["Source", "Unknown", "locate", "segment"]
