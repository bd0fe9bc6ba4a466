"""What an answer's bytes come to: the value, what was raised there, or that nothing has run."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import fabric

from fabremote.calls import Outcome
from fabremote.exceptions import ResultError, ShippingError
from fabremote.printing import printable
from fabremote.shipping import raised
from fabremote.shipping.answers import Decoder, plain, refusal
from fabremote.shipping.missing import versions, with_remedy
from fabremote.shipping.modules import modules_of

T = TypeVar("T")


class Result(fabric.Result, Generic[T]):
    """Fabric's Result of a call, with the function's value.

    ``value``: what the function returned. ``stdout``, ``stderr``: what it
    printed (str). ``exited``: 0. ``connection``: where it ran. ``command``: the
    call as text.
    """

    value: T

    def __init__(self, value: T, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.value = value


class NotRun(Exception):
    """Nothing of the function has run: the link broke before, or modules could not be loaded.

    ``names``: those modules, the caller's own. ``error``: what it comes to unless it goes again.
    """

    def __init__(self, names: frozenset[str], error: Exception) -> None:
        super().__init__(names, error)
        self.names, self.error = names, error


def read_answer(
    outcome: Outcome, decoder: Decoder, label: str, modules: tuple[str, ...] = ()
) -> Any:
    """Return the value that an answer's bytes hold, or raise what they say was raised."""
    answer = outcome.answer
    letter = bytes(answer[:1]) if answer is not None else b""
    data = answer[1:] if answer is not None else memoryview(b"")
    if letter == b"V":
        return decoder.value(data, outcome.buffers)
    if letter == b"R":
        raise refusal(decoder, plain(data))
    if letter == b"E":
        error = raised.rebuild(raised.records(data), decoder, label)
        raise with_remedy(error, label, modules_of(modules))
    if letter == b"M" and len(data) >= 2:
        size = 2 + int.from_bytes(data[:2], "big")
        names = frozenset(bytes(data[2:size]).decode("utf-8", "replace").split("\0"))
        raise NotRun(decoder.own(names), not_loaded(data[size:], decoder, label, modules))
    if letter == b"L":
        raise not_loaded(data, decoder, label, modules)
    raise ResultError(f"{decoder.what} answered with what is not an answer.")


def not_loaded(
    data: memoryview, decoder: Decoder, label: str, modules: tuple[str, ...]
) -> ShippingError:
    """Return the error for a call that was sent but could not be loaded there."""
    found = raised.records(data)
    cause = with_remedy(raised.rebuild(found, decoder, label), label, modules_of(modules))
    why = f"{found[0].type_name}: {found[0].text[:2000]}"
    if isinstance(cause, ModuleNotFoundError):
        why = printable(str(cause)[:2000])
    error = ShippingError(
        f"{decoder.what} was sent, but not loaded there: {why.rstrip('.')}."
        f"{versions(found[0].notes)} "
        "What the function uses must be importable by that interpreter."
    )
    error.__cause__ = cause
    return error


__all__ = ["NotRun", "Result", "read_answer"]
