"""Reads an answer that is one small value, as most are, without an unpickler.

Nothing is looked through, allocated or called for what is a number or a short text:
see `scan` for the rest, and for what these instructions are.
"""

from __future__ import annotations

import struct
from typing import Any

# The longest pickle that is looked at, in bytes.
LONGEST = 300
_PROTOCOLS = (b"\x80\x04", b"\x80\x05")
_FRAME, _FRAME_HEAD = 0x95, 9
_STOP, _MEMOIZE = b".", b"\x94"
_CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}
_BININT, _BININT1, _BININT2, _BINFLOAT = b"JKMG"
_SHORT_BINUNICODE, _SHORT_BINBYTES = b"\x8cC"
_DOUBLE = struct.Struct(">d")


def read(data: memoryview) -> tuple[Any] | None:
    """Return the value of a pickle that holds just that, in a tuple; None for any other."""
    if not 3 < len(data) <= LONGEST:
        return None
    whole = bytes(data)
    if whole[:2] not in _PROTOCOLS or whole[-1:] != _STOP:
        return None
    at, end = 2, len(whole) - 1
    if whole[2] == _FRAME:
        at += _FRAME_HEAD
        if int.from_bytes(whole[3:at], "little") != len(whole) - at:
            return None
    if end - at <= 1:
        code = whole[at:end]
        return (_CONSTANTS[code],) if code in _CONSTANTS else None
    return _value(whole[at], whole[at + 1 : end])


def _value(code: int, rest: bytes) -> tuple[Any] | None:
    """Return what an instruction and all that follows it make."""
    size = len(rest)
    if (code, size) in ((_BININT1, 1), (_BININT2, 2)):
        return (int.from_bytes(rest, "little"),)
    if code == _BININT and size == 4:
        return (int.from_bytes(rest, "little", signed=True),)
    if code == _BINFLOAT and size == _DOUBLE.size:
        return _DOUBLE.unpack(rest)
    if code not in (_SHORT_BINUNICODE, _SHORT_BINBYTES):
        return None
    text, after = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
    if len(text) != rest[0] or after not in (b"", _MEMOIZE):
        return None
    if code == _SHORT_BINBYTES:
        return (text,)
    try:
        return (text.decode("utf-8", "surrogatepass"),)
    except UnicodeDecodeError:
        return None


__all__ = ["LONGEST", "read"]
