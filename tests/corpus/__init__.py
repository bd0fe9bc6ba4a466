"""Functions of every kind, each with the value that it must give on any Python.

Plain modules: `run` imports those that its own Python can read and sends every
case to the interpreters that it is given.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
CASES: list[Case] = []


@dataclass(frozen=True)
class Case:
    """A callable, its arguments, its value, and where it can't go.

    ``since``: the lowest remote version; ``why``: what the refusal by an older
    one says. ``exception``: the type that it raises instead of returning.
    """

    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    value: Any
    since: tuple[int, int] = (3, 6)
    why: str = ""
    exception: type[BaseException] | None = None


def add(name: str, fn: Callable[..., Any], value: Any, *args: Any, **more: Any) -> None:
    """Enter a callable into the corpus."""
    CASES.append(Case(f"{_file()}: {name}", fn, args, value, **more))


def case(value: Any, *args: Any, **more: Any) -> Callable[[F], F]:
    """Enter the function below into the corpus."""

    def enter(fn: F) -> F:
        name = getattr(fn, "__qualname__", repr(fn))
        CASES.append(Case(f"{_file()}: {name}", fn, args, value, **more))
        return fn

    return enter


def _file() -> str:
    """The last name of the module whose statement enters a case."""
    return str(sys._getframe(2).f_globals["__name__"]).rpartition(".")[2]
