"""What the constructors of `kinds` and `kinds_arrays` share: a table, and strict arguments."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

Builder: TypeAlias = Callable[..., object]
# The exact types that an argument may have; no types at all mean any.
Types: TypeAlias = type | tuple[type, ...]

ANY: tuple[type, ...] = ()
NoneType = type(None)
OPTIONAL_STR = (str, NoneType)
MESSAGE_LENGTH = 200


def builds(table: dict[str, Builder], tag: str, *types: Types) -> Callable[[Builder], Builder]:
    """Enter a constructor into ``table`` as ``tag``, with the exact types of its arguments.

    What is entered raises nothing but ValueError, whose message is one printable line.
    """
    allowed = [wanted if isinstance(wanted, tuple) else (wanted,) for wanted in types]

    def enter(function: Builder) -> Builder:
        @functools.wraps(function)
        def build(*args: object) -> object:
            try:
                check_types(args, allowed)
                return function(*args)
            except Exception as error:
                raise ValueError(f"{tag}: {one_line(error)}") from None

        table[tag] = build
        return function

    return enter


def check_types(args: tuple[object, ...], allowed: list[tuple[type, ...]]) -> None:
    """Raise ValueError unless there are as many arguments as wanted, of the exact types."""
    if len(args) != len(allowed):
        raise ValueError(f"{len(allowed)} arguments are needed, {len(args)} came")
    for position, (given, wanted) in enumerate(zip(args, allowed, strict=True), 1):
        if wanted and type(given) not in wanted:
            names = " or ".join(kind.__name__ for kind in wanted)
            raise ValueError(f"argument {position} is {type(given).__name__}, not {names}")


def check_items(items: Iterable[object], *types: type) -> None:
    """Raise ValueError unless each of ``items`` is of one of the exact types."""
    for item in items:
        if type(item) not in types:
            names = " or ".join(kind.__name__ for kind in types)
            raise ValueError(f"an item is {type(item).__name__}, not {names}")


def require(condition: bool, text: str) -> None:
    """Raise ValueError with ``text`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(text)


def one_line(error: Exception) -> str:
    """What ``error`` says, cut to one line without control characters."""
    text = str(error)[:MESSAGE_LENGTH] or type(error).__name__
    return "".join(letter if letter.isprintable() else " " for letter in text)


def extra(name: str) -> Any:
    """Return the module of an optional library; ValueError if it isn't installed here."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(f"{name} is needed to rebuild this value, and isn't here") from None
