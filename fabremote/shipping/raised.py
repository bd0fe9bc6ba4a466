"""Exceptions from the far side: their own type again, with the remote traceback as text.

The records come from ``fabremote.agent.raising``. Type names, texts,
notes and frames are plain text in them; only ``data`` holds an exception, as an
answer like any other, so that one which can't be rebuilt still tells all.
"""

from __future__ import annotations

import linecache
import os
import textwrap
import traceback
from collections.abc import Set
from dataclasses import dataclass, fields
from typing import Any

from fabremote.exceptions import RemoteError, RemoteTraceback
from fabremote.printing import printable
from fabremote.shipping.answers import Decoder, plain
from fabremote.shipping.nodes import Malformed
from fabremote.shipping.scan import Budget

_LIMIT = 200
_LAST_LINE = 1 << 31
# The most characters of a traceback that are shown, and of groups: levels, as Python's own.
_SHOWN = 1 << 18
_GROUPS = 10


@dataclass
class Record:
    """One exception as the far side describes it."""

    module: str
    name: str
    text: str
    args: list[str]
    notes: list[str]
    frames: list[tuple[str, int, str, str | None, bool]]
    cause: int | None
    context: int | None
    suppress: bool
    members: list[int | None] | None
    data: bytes | None

    def __post_init__(self) -> None:
        lists = (self.args, self.notes, self.frames, [] if self.members is None else self.members)
        good = all(type(each) is list for each in lists)
        good = good and all(type(text) is str for text in self._texts())
        links = [self.cause, self.context, *(self.members or ())] if good else []
        good = good and all(link is None or type(link) is int for link in links)
        good = good and all(map(_is_frame, self.frames)) and type(self.suppress) is bool
        if not good or not isinstance(self.data, bytes | None):
            raise Malformed("an answer describes an exception by other than text")

    def _texts(self) -> list[str]:
        return [self.module, self.name, self.text, *self.args, *self.notes]

    @property
    def size(self) -> int:
        """The number of characters to show, each as often as it is shown."""
        frames = sum(
            len(file) + len(name) + len(line or "") for file, _, name, line, _ in self.frames
        )
        return sum(map(len, self._texts())) + frames + 100 * len(self.frames)

    @property
    def type_name(self) -> str:
        """The class's full name, as a traceback prints it."""
        return printable(f"{self.module}.{self.name}".removeprefix("builtins."))


def _is_frame(frame: Any) -> bool:
    if type(frame) is not tuple or len(frame) != 5:
        return False
    file, line, name, source, mine = frame
    good = type(file) is type(name) is str and (source is None or type(source) is str)
    return good and type(line) is int and abs(line) < _LAST_LINE and type(mine) is bool


def records(data: memoryview) -> list[Record]:
    """Return the records in an answer that says what was raised."""
    found = plain(data)
    if type(found) is not list or not 0 < len(found) <= _LIMIT:
        raise Malformed("an answer describes no exceptions, or too many")
    if not all(type(record) is tuple and len(record) == len(fields(Record)) for record in found):
        raise Malformed("an answer describes an exception wrongly")
    made = [Record(*record) for record in found]
    Budget(len(data)).spend(sum(record.size for record in made))
    for record in made:
        record.text = printable(record.text)
    return made


def rebuild(found: list[Record], decoder: Decoder, label: str) -> BaseException:
    """Return the first record's exception with all that it refers to.

    ``label`` names the host. The text of the remote traceback becomes the last
    ``__cause__`` of the chain.
    """
    made: dict[int, BaseException] = {}
    for index in reversed(range(len(found))):
        made[index] = _one(found, index, made, decoder, label)
    for index, record in enumerate(found):
        _link(made[index], record, made)
    cause = RemoteTraceback(render(found, 0, label, decoder.files))
    _set(_end_of_chain(made[0]), "__cause__", cause)
    return made[0]


def _set(exception: BaseException, name: str, value: Any) -> None:
    """Set an attribute, past a ``__setattr__`` of the exception's class."""
    BaseException.__setattr__(exception, name, value)


def _one(
    found: list[Record], index: int, made: dict[int, BaseException], decoder: Decoder, label: str
) -> BaseException:
    record = found[index]
    try:
        exception = _decoded(record, made, decoder)
    except Exception:
        # Whatever is wrong with it: its description tells what was raised.
        exception = None
    if exception is not None:
        return exception
    name, text = record.type_name, record.text
    args = tuple(map(printable, record.args))
    message = f"{name}: {text}" if text else name
    # Only the first tells of all, or a long chain would be told as often as it is long.
    files, others = decoder.files, set(range(len(found))) - {index} if index else set()
    return RemoteError(message, name, args, render(found, index, label, files, others))


def _decoded(
    record: Record, made: dict[int, BaseException], decoder: Decoder
) -> BaseException | None:
    shape = decoder.value(memoryview(record.data)) if record.data is not None else None
    if type(shape) is not tuple:
        return None
    if len(shape) == 2 and shape[0] == "whole" and isinstance(shape[1], BaseException):
        return shape[1]
    if len(shape) != 4 or shape[0] != "parts":
        return None
    _, ref, args, state = shape
    if record.members is not None:
        members = [made[link] for link in record.members if link is not None and link in made]
        if len(members) != len(record.members):
            return None
        args = (*args, members)
    return decoder.exception(ref, args, state)


def _link(exception: BaseException, record: Record, made: dict[int, BaseException]) -> None:
    if record.cause is not None:
        _set(exception, "__cause__", made.get(record.cause))
    if record.context is not None:
        _set(exception, "__context__", made.get(record.context))
    _set(exception, "__suppress_context__", record.suppress)
    if record.notes:
        _set(exception, "__notes__", [printable(note) for note in record.notes])


def _end_of_chain(exception: BaseException) -> BaseException:
    seen = {id(exception)}
    while exception.__cause__ is not None and id(exception.__cause__) not in seen:
        exception = exception.__cause__
        seen.add(id(exception))
    return exception


def render(
    found: list[Record],
    index: int,
    label: str,
    files: Set[str] = frozenset(),
    seen: set[int] | None = None,
    depth: int = 0,
) -> str:
    """Return the text of a traceback, as Python prints it, with causes before effects.

    ``files``: those of this machine whose lines may be shown. ``seen``: the
    records that have been rendered, to which these are added. ``depth``: in how
    many groups it is.
    """
    parts: list[str] = []
    seen = set() if seen is None else seen
    current: int | None = index
    while current is not None and current not in seen and 0 <= current < len(found):
        seen.add(current)
        record = found[current]
        parts.append(_render_one(found, record, label, files, seen, depth))
        if record.cause is not None:
            parts.append(
                "\nThe above exception was the direct cause of the following exception:\n\n"
            )
            current = record.cause
        elif record.context is not None and not record.suppress:
            parts.append(
                "\nDuring handling of the above exception, another exception occurred:\n\n"
            )
            current = record.context
        else:
            current = None
    if len(parts) % 2 == 0:
        parts.pop()
    return _cut("".join(reversed(parts)))


def _cut(text: str) -> str:
    """Return a text, or the beginning and end of one that is too long to show."""
    if len(text) <= _SHOWN:
        return text
    half = _SHOWN // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters are left out ...\n{text[-half:]}"


def _render_one(
    found: list[Record],
    record: Record,
    label: str,
    files: Set[str],
    seen: set[int],
    depth: int,
) -> str:
    stack = traceback.StackSummary.from_list([_frame(*frame, files) for frame in record.frames])
    lines = [f"Traceback on {label} (most recent call last):\n", *stack.format()]
    name, text = record.type_name, record.text
    lines.append(f"{name}: {text}\n" if text else f"{name}\n")
    lines += [f"{printable(note)}\n" for note in record.notes]
    for number, link in enumerate(record.members or (), 1):
        if depth < _GROUPS and link is not None and link not in seen and 0 <= link < len(found):
            lines.append(f"  +-- {number} of {len(record.members or ())}\n")
            lines.append(
                textwrap.indent(render(found, link, label, files, seen, depth + 1), "  | ")
            )
    return _cut("".join(lines))


def _frame(
    file: str, number: int, name: str, source: str | None, mine: bool, files: Set[str]
) -> traceback.FrameSummary:
    # Not any file that the host names: only one that this call's code came from.
    if mine and file in files and (file in linecache.cache or os.path.isfile(file)):
        source = linecache.getline(file, number)
    line = printable((source or "").strip())
    return traceback.FrameSummary(printable(file), number, printable(name), line=line)
