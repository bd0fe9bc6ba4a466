"""Which versions of Python a ``requires-python`` allows."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence


@functools.cache
def clauses(text: str) -> tuple[tuple[str, str], ...]:
    """Return the parts of ``requires-python`` as (operator, version)."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(===?|~=|!=|<=|>=|<|>)\s*(\d+(?:\.\d+)*)(\.\*)?", part)
        starred = match is not None and bool(match[3])
        if match is None or (starred and match[1] not in ("==", "!=")):
            raise ValueError(f"{part!r} can't be compared with a version; write '>=3.11,<4'.")
        if match[1] == "~=" and "." not in match[2]:
            raise ValueError(f"{part!r} needs two numbers, as in '~=3.11'.")
        found.append((match[1] + ("*" if starred else ""), match[2]))
    return tuple(found)


def holds(operator: str, text: str, version: Sequence[int]) -> bool:
    wanted = tuple(map(int, text.split(".")))
    here = tuple(version[:3])
    if operator in ("==*", "!=*"):
        return (here[: len(wanted)] == wanted) == (operator == "==*")
    if operator == "~=":
        return _padded(wanted) <= here and here[: len(wanted) - 1] == wanted[:-1]
    there = _padded(wanted)
    return {
        "==": here == there,
        "===": here == there,
        "!=": here != there,
        "<=": here <= there,
        ">=": here >= there,
        "<": here < there,
        ">": here > there,
    }[operator]


def _padded(version: tuple[int, ...]) -> tuple[int, ...]:
    return version + (0,) * (3 - len(version))


__all__ = ["clauses", "holds"]
