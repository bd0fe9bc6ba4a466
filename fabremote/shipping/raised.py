"""Exceptions from the far side: their own type again, with the remote traceback as text.

The records come from ``fabremote.agent.worker.raised``. Type names, texts,
notes and frames are plain text in them; only ``data`` holds an exception, as an
answer like any other, so that one which can't be rebuilt still tells all.
"""

from __future__ import annotations

import linecache
import textwrap
import traceback
from dataclasses import dataclass

from fabremote.calls import printable
from fabremote.exceptions import RemoteError, RemoteTraceback, ResultError
from fabremote.shipping.answers import Decoder, plain
from fabremote.shipping.nodes import Malformed

_LIMIT = 200


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
        texts = [self.module, self.name, self.text, *self.args, *self.notes]
        links = [self.cause, self.context, *(self.members or ())]
        good = all(type(text) is str for text in texts)
        good = good and all(link is None or type(link) is int for link in links)
        good = good and all(
            (type(file), type(line), type(name)) == (str, int, str)
            and type(source) in (str, type(None))
            for file, line, name, source, _ in self.frames
        )
        if not good or type(self.data) not in (bytes, type(None)):
            raise Malformed("an answer describes an exception by other than text")

    @property
    def type_name(self) -> str:
        """The class's full name, as a traceback prints it."""
        return printable(f"{self.module}.{self.name}".removeprefix("builtins."))


def records(data: memoryview) -> list[Record]:
    """Return the records in an answer that says what was raised."""
    found = plain(data)
    try:
        made = [Record(*record) for record in found]
    except (TypeError, ValueError) as error:
        raise Malformed(f"an answer describes an exception wrongly: {error}") from None
    if not 0 < len(made) <= _LIMIT:
        raise Malformed(f"an answer describes {len(made)} exceptions")
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
    _end_of_chain(made[0]).__cause__ = RemoteTraceback(render(found, 0, label))
    return made[0]


def _one(
    found: list[Record], index: int, made: dict[int, BaseException], decoder: Decoder, label: str
) -> BaseException:
    record = found[index]
    try:
        exception = _decoded(record, made, decoder)
    except ResultError:
        exception = None
    if exception is not None:
        return exception
    name, text = record.type_name, printable(record.text)
    args = tuple(map(printable, record.args))
    message = f"{name}: {text}" if text else name
    return RemoteError(message, name, args, render(found, index, label))


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
    try:
        return decoder.exception(ref, args, state)
    except (TypeError, ValueError):
        return None


def _link(exception: BaseException, record: Record, made: dict[int, BaseException]) -> None:
    if record.cause is not None:
        exception.__cause__ = made.get(record.cause)
    if record.context is not None:
        exception.__context__ = made.get(record.context)
    exception.__suppress_context__ = record.suppress
    if record.notes:
        exception.__notes__ = [printable(note) for note in record.notes]  # type: ignore[attr-defined]


def _end_of_chain(exception: BaseException) -> BaseException:
    seen = {id(exception)}
    while exception.__cause__ is not None and id(exception.__cause__) not in seen:
        exception = exception.__cause__
        seen.add(id(exception))
    return exception


def render(found: list[Record], index: int, label: str) -> str:
    """Return the text of a traceback, as Python prints it, with causes before effects."""
    parts: list[str] = []
    seen: set[int] = set()
    current: int | None = index
    while current is not None and current not in seen and 0 <= current < len(found):
        seen.add(current)
        record = found[current]
        parts.append(_render_one(found, record, label, seen))
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
    return "".join(reversed(parts))


def _render_one(found: list[Record], record: Record, label: str, seen: set[int]) -> str:
    stack = traceback.StackSummary.from_list([_frame(*frame) for frame in record.frames])
    lines = [f"Traceback on {label} (most recent call last):\n", *stack.format()]
    text = printable(record.text)
    lines.append(f"{record.type_name}: {text}\n" if text else f"{record.type_name}\n")
    lines += [f"{printable(note)}\n" for note in record.notes]
    for number, link in enumerate(record.members or (), 1):
        if link is not None and link not in seen and 0 <= link < len(found):
            lines.append(f"  +-- {number} of {len(record.members or ())}\n")
            lines.append(textwrap.indent(render(found, link, label), "  | "))
    return "".join(lines)


def _frame(
    file: str, number: int, name: str, source: str | None, mine: bool
) -> traceback.FrameSummary:
    if mine is True:
        source = linecache.getline(file, number)
    line = printable((source or "").strip())
    return traceback.FrameSummary(printable(file), number, printable(name), line=line)
