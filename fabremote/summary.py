"""A group's results as a short table for people."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

import invoke

from fabremote.printing import printable

# Of a failure's text, so many lines at most; of a value's, so many characters.
LINES = 3
WIDTH = 60
# The most characters of a text that its last lines are looked for in.
LONGEST = 4000

# A host's name, its value, its error or None, and the seconds that it took or None.
Row = tuple[str, Any, BaseException | None, float | None]


def summarise(rows: Iterable[Row]) -> str:
    """Return a table with a line for each host: the name, how it went, how long, and what came.

    Sorted by name, those that failed last, each of these with the last lines
    that tell why; then a line with the counts.
    """
    every = sorted(rows, key=lambda row: (row[2] is not None, natural(row[0])))
    if not every:
        return "No hosts."
    widest = max(len(row[0]) for row in every)
    text = ""
    for name, value, error, seconds in every:
        took = "" if seconds is None else f"{seconds:.1f} s"
        state = "ok" if error is None else "failed"
        first, *rest = [_brief(value)] if error is None else _last_lines(error)
        text += f"{name:<{widest}}  {state:<6}  {took:>7}  {first}".rstrip() + "\n"
        text += "".join(f"{'':<{widest + 19}}{line}".rstrip() + "\n" for line in rest)
    failed = sum(row[2] is not None for row in every)
    return text + f"{len(every) - failed} ok, {failed} failed"


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Return what sorts web2 before web10."""
    return [
        (part.isdigit(), int(part) if part.isdigit() else 0, part)
        for part in re.split(r"([0-9]+)", name)
    ]


def _brief(value: Any) -> str:
    """Return a value, or of a Result what says most, in a few words."""
    if isinstance(value, invoke.Result):
        if hasattr(value, "value"):
            return _brief(value.value)
        return _tail(value.stdout, 1)[0] if value.stdout.strip() else f"exited {value.exited}"
    text = printable(" ".join(_said(reprlib.repr, value).split()))
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def _said(how: Callable[[Any], str], value: Any) -> str:
    """Return what an object says of itself; a host may have left out what it needs for that."""
    try:
        return how(value)
    except Exception as error:
        return f"<{type(value).__name__} that can't be shown: {type(error).__name__}>"


def _last_lines(error: BaseException) -> list[str]:
    """Return a failure's type, and the last lines of what there is about it."""
    kind = type(error).__name__
    result: Any = getattr(error, "result", None)
    if isinstance(result, invoke.Result):
        # Of a command that failed, or that a watcher ended.
        how = kind if result.exited is None else f"exited {result.exited}"
        said = result.stderr if str(result.stderr).strip() else result.stdout
        lines = _tail(str(said), LINES) if str(said).strip() else []
        return [f"{how}: {lines[0]}"] if len(lines) == 1 else [how, *lines]
    text = _said(str, error)
    first, *rest = _tail(text, LINES) if text.strip() else [""]
    lines = [f"{kind}: {first}" if first else kind, *rest]
    stderr = getattr(error, "stderr", "")
    if isinstance(stderr, str) and stderr.strip() and stderr.strip() not in text:
        lines += _tail(stderr, LINES)
    return lines


def _tail(text: str, count: int) -> list[str]:
    lines = [line.rstrip() for line in text.strip()[-LONGEST:].split("\n")[-count:]]
    return [printable(line) for line in lines]


__all__ = ["summarise"]
