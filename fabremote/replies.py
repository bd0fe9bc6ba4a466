"""What an answer's bytes say: a value, what was raised, or why there is neither."""

from __future__ import annotations

from typing import Any

from fabremote.exceptions import ResultError, ShippingError
from fabremote.shipping import raised
from fabremote.shipping.answers import Decoder, plain, refusal
from fabremote.shipping.modules import explain_missing, modules_of


class Unloadable(Exception):
    """Own modules that the far side could not load, before the function ran.

    ``error``: what it comes to unless the call can go without them.
    """

    def __init__(self, names: frozenset[str], error: ShippingError) -> None:
        super().__init__(names, error)
        self.names, self.error = names, error


def read_answer(
    answer: memoryview | None, decoder: Decoder, label: str, modules: tuple[str, ...] = ()
) -> Any:
    """Return the value that an answer's bytes hold, or raise what they say was raised."""
    letter = bytes(answer[:1]) if answer is not None else b""
    data = answer[1:] if answer is not None else memoryview(b"")
    if letter == b"V":
        return decoder.value(data)
    if letter == b"R":
        raise refusal(decoder, plain(data))
    if letter == b"E":
        raise with_remedy(raised.rebuild(raised.records(data), decoder, label), label, modules)
    if letter == b"M" and len(data) >= 2:
        size = 2 + int.from_bytes(data[:2], "big")
        names = frozenset(bytes(data[2:size]).decode("utf-8", "replace").split("\0"))
        raise Unloadable(decoder.own(names), not_loaded(data[size:], decoder, label, modules))
    if letter == b"L":
        raise not_loaded(data, decoder, label, modules)
    raise ResultError(f"{decoder.what} answered with what is not an answer.")


def not_loaded(
    data: memoryview, decoder: Decoder, label: str, modules: tuple[str, ...]
) -> ShippingError:
    """Return the error for a call that was sent but could not be loaded there."""
    found = raised.records(data)
    cause = with_remedy(raised.rebuild(found, decoder, label), label, modules)
    why = f"{found[0].type_name}: {found[0].text}"
    if isinstance(cause, ModuleNotFoundError):
        why = str(cause)
    error = ShippingError(
        f"{decoder.what} was sent, but not loaded there: {why.rstrip('.')}. "
        "What the function uses must be importable by that interpreter."
    )
    error.__cause__ = cause
    return error


def with_remedy(error: BaseException, label: str, modules: tuple[str, ...]) -> BaseException:
    """Return the exception; where an import failed there, it says where, and what to do."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        plain_text = f"No module named {error.name!r}"
        if str(error) in (plain_text, f"{plain_text}; {error.name!r} is not a package"):
            error.msg = explain_missing(error.name, modules_of(modules), label)
            error.args = (error.msg,)
    return error


__all__ = ["Unloadable", "read_answer"]
