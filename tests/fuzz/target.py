"""What is fuzzed: a host's bytes, as an answer of each kind and as frames on the link."""

from __future__ import annotations

import dataclasses
import enum
import traceback
from typing import Any

from fabremote import RemoteException
from fabremote.agent import wire
from fabremote.outcomes import NotRun, read_answer
from fabremote.receiving import Outcome
from fabremote.shipping.answers import Decoder

MAX_SIZE = 1 << 16


class Plain:
    """An own class without code."""


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int = 0


class Colour(enum.Enum):
    RED = 1


class Bits(enum.Flag):
    A = 1
    B = 2


class Failure(Exception):
    """An own exception."""


class OwnDict(dict[Any, Any]):
    """An own dict."""


class Hidden:
    """Its code would run, and must not."""

    def __setstate__(self, state: Any) -> None:
        raise SystemError("code ran")


CLASSES: list[type] = [Plain, Frozen, Colour, Bits, Failure, OwnDict, Hidden]


class Escaped(Exception):
    """Something came out of the decoder that must not."""


def decode(data: bytes) -> None:
    """Read an answer; raise Escaped for what is neither data nor an error of ours."""
    decoder = Decoder("f() on host", CLASSES, frozenset(), ())
    try:
        value = read_answer(Outcome(memoryview(bytearray(data))), decoder, "host")
    except (RemoteException, NotRun) as error:
        if type(error).__module__ == "fabremote.exceptions" and len(str(error)) > 1 << 20:
            raise Escaped("a long message") from error
    except BaseException as error:
        # What the host says was raised, which carries its traceback; all else is a hole.
        if error.__cause__ is None or data[:1] != b"E":
            raise Escaped(f"{type(error).__name__}: {error}") from error
        "".join(traceback.format_exception(error))
    else:
        repr(type(value))


def frames(data: bytes) -> None:
    """Cut bytes into frames, in pieces whose size the first of them says."""
    reader, step = wire.Decoder(), 1 + data[0] if data else 1
    try:
        for at in range(1, len(data), step):
            reader.feed(data[at : at + step])
    except wire.ProtocolError:
        pass


def run(data: bytes) -> None:
    """Do both, as the first byte says."""
    if data[:1] == b"F":
        frames(data[1:MAX_SIZE])
    else:
        decode(data[:MAX_SIZE])
