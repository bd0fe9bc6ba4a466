"""Rebuilds the objects of the standard library that an answer describes.

The other half is ``fabremote.agent.kinds``, in the same order. `BUILDERS` maps
each tag that an answer may hold to a constructor of ours, which checks every
argument and raises ValueError if one is malformed. Answers come from hosts that
may be hostile: nothing here is looked up by a name that they chose except in a
table that is written out below, and nothing takes more than the size of its
arguments in time and memory.
"""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import http
import importlib
import ipaddress
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import types
import urllib.parse
import uuid
from typing import Any

from fabremote.shipping import kinds_arrays, kinds_random
from fabremote.shipping.builders import (
    ANY,
    OPTIONAL_STR,
    Builder,
    NoneType,
    builds,
    check_items,
    require,
)

BUILDERS: dict[str, Builder] = {}

# Reducing a fraction takes time that grows with the square of its size.
FRACTION_BITS = 1 << 14
ADDRESS_LENGTH = 256
OPTIONAL_INT = (int, NoneType)


# Built-in ones.


@builds(BUILDERS, "Ellipsis")
def _ellipsis() -> object:
    return ...


@builds(BUILDERS, "NotImplemented")
def _not_implemented() -> object:
    return NotImplemented


builds(BUILDERS, "complex", float, float)(complex)
builds(BUILDERS, "bytearray", bytes)(bytearray)
builds(BUILDERS, "range", int, int, int)(range)
builds(BUILDERS, "slice", ANY, ANY, ANY)(slice)
builds(BUILDERS, "MappingProxyType", dict)(types.MappingProxyType)


@builds(BUILDERS, "SimpleNamespace", dict)
def _namespace(attributes: dict[str, object]) -> object:
    check_items(attributes, str)
    return types.SimpleNamespace(**attributes)


# Those that come back as plain values.


def _same(value: object) -> object:
    return value


for _plain in (bytes, list, dict, tuple):
    builds(BUILDERS, _plain.__name__, _plain)(_same)


# Numbers.


@builds(BUILDERS, "Decimal", str)
def _decimal(text: str) -> object:
    # The caller's own context may turn malformed text into NaN.
    return decimal.Decimal(text, decimal.Context(traps=[decimal.InvalidOperation]))


@builds(BUILDERS, "Fraction", int, int)
def _fraction(numerator: int, denominator: int) -> object:
    require(numerator.bit_length() <= FRACTION_BITS, "the numerator is too large")
    require(denominator.bit_length() <= FRACTION_BITS, "the denominator is too large")
    require(denominator > 0, "the denominator isn't positive")
    return fractions.Fraction(numerator, denominator)


@builds(BUILDERS, "UUID", bytes, str)
def _uuid(data: bytes, safety: str) -> object:
    return uuid.UUID(bytes=data, is_safe=_member("uuid.SafeUUID", safety))


# Dates and times.

builds(BUILDERS, "date", int, int, int)(datetime.date)


@builds(BUILDERS, "time", int, int, int, int, ANY, int)
def _time(hour: int, minute: int, second: int, micro: int, zone: Any, fold: int) -> object:
    return datetime.time(hour, minute, second, micro, zone, fold=fold)


@builds(BUILDERS, "datetime", int, int, int, int, int, int, int, ANY, int)
def _datetime(*args: Any) -> object:
    return datetime.datetime(*args[:-1], fold=args[-1])


@builds(BUILDERS, "timedelta", int, int, int)
def _timedelta(days: int, seconds: int, microseconds: int) -> object:
    require(0 <= seconds < 86400, "the seconds are outside of a day")
    require(0 <= microseconds < 10**6, "the microseconds are outside of a second")
    return datetime.timedelta(days, seconds, microseconds)


@builds(BUILDERS, "timezone", datetime.timedelta, OPTIONAL_STR)
def _timezone(offset: datetime.timedelta, name: str | None) -> object:
    return datetime.timezone(offset) if name is None else datetime.timezone(offset, name)


builds(BUILDERS, "ZoneInfo", str)(kinds_arrays.zone)


# Collections.

builds(BUILDERS, "OrderedDict", dict)(collections.OrderedDict)
builds(BUILDERS, "Counter", dict)(collections.Counter)


@builds(BUILDERS, "deque", list, OPTIONAL_INT)
def _deque(items: list[object], maxlen: int | None) -> object:
    require(maxlen is None or len(items) <= maxlen <= sys.maxsize, "maxlen doesn't fit")
    return collections.deque(items, maxlen)


_FACTORIES: dict[str, Any] = {
    factory.__name__: factory
    for factory in (
        *(bool, bytes, dict, float, frozenset, int, list, set, str, tuple),
        *(collections.Counter, collections.OrderedDict, collections.deque),
    )
}


@builds(BUILDERS, "defaultdict", OPTIONAL_STR, dict)
def _defaultdict(name: str | None, items: dict[object, object]) -> object:
    require(name is None or name in _FACTORIES, "the factory isn't a known one")
    return collections.defaultdict(None if name is None else _FACTORIES[name], items)


@builds(BUILDERS, "array", str, int, str, (bytes, str))
def _array(code: str, size: int, order: str, data: bytes | str) -> object:
    require(code in tuple(array.typecodes), "the type code isn't known here")
    require((code in "uw") == (type(data) is str), "the data doesn't suit the type code")
    require(order in ("little", "big"), "the byte order isn't known")
    if isinstance(data, str):
        return array.array(code, data)
    # Longs have 4 bytes on some systems and 8 on others.
    alike = "bhilq" if code in "bhilq" else "BHILQ" if code in "BHILQ" else code
    codes = [like for like in code + alike if array.array(like).itemsize == size]
    require(bool(codes), "the item size isn't known here")
    result: array.array[Any] = array.array(codes[0])
    result.frombytes(data)
    if order != sys.byteorder:
        result.byteswap()
    return result if codes[0] == code else array.array(code, result)


# Structures of the system: the visible fields in order, and a dict of the others.


def _structure(tag: str, module: str, name: str, *leaves: type) -> None:
    """Enter a structure, if this system has it, whose fields have one of the exact types."""
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return
    visible = cls.n_sequence_fields
    named = cls((0,) * visible).__reduce__()[1][1]

    @builds(BUILDERS, tag, tuple, dict)
    def build(fields: tuple[object, ...], more: dict[str, object]) -> object:
        require(len(fields) == visible, f"it has {visible} fields, {len(fields)} came")
        check_items(more, str)
        for field in (*fields, *more.values()):
            _check_field(field, leaves)
        # Other systems have other fields; those unknown here are left out.
        return cls(fields, {key: value for key, value in more.items() if key in named})


def _check_field(field: object, leaves: tuple[type, ...]) -> None:
    check_items([field], *leaves)
    if isinstance(field, int):
        require(-(1 << 63) <= field < 1 << 64, "a number is out of range")
    if isinstance(field, list):
        check_items(field, str)


_structure("stat_result", "os", "stat_result", int, float, str, NoneType)
_structure("statvfs_result", "os", "statvfs_result", int, NoneType)
_structure("terminal_size", "os", "terminal_size", int)
_structure("times_result", "os", "times_result", float)
_structure("uname_result", "os", "uname_result", str)
_structure("struct_time", "time", "struct_time", int, str, NoneType)
_structure("struct_passwd", "pwd", "struct_passwd", int, str, NoneType)
_structure("struct_group", "grp", "struct_group", int, str, NoneType, list)
_structure("struct_rusage", "resource", "struct_rusage", int, float)


# Records.

builds(BUILDERS, "disk_usage", int, int, int)(shutil._ntuple_diskusage)


@builds(BUILDERS, "platform_uname", str, str, str, str, str, str)
def _uname(*parts: str) -> object:
    result = platform.uname_result(*parts[:5])
    # Where it is missing, asking for it would start a program on this machine.
    vars(result)["processor"] = parts[5]
    return result


@builds(
    BUILDERS,
    "CompletedProcess",
    ANY,
    OPTIONAL_INT,
    (bytes, str, NoneType),
    (bytes, str, NoneType),
)
def _completed(args: Any, status: Any, out: Any, err: Any) -> object:
    return subprocess.CompletedProcess(args, status, out, err)


# Enumerations: by the names of their members, as their numbers differ between systems.

_ENUMS: dict[str, type[enum.Enum]] = {
    "signal.Handlers": signal.Handlers,
    "signal.Signals": signal.Signals,
    "socket.AddressFamily": socket.AddressFamily,
    "socket.SocketKind": socket.SocketKind,
    "ssl.TLSVersion": ssl.TLSVersion,
    "uuid.SafeUUID": uuid.SafeUUID,
}
if sys.version_info >= (3, 11):
    _ENUMS["http.HTTPMethod"] = http.HTTPMethod
_FLAGS: dict[str, type[enum.IntFlag]] = {
    "re.RegexFlag": re.RegexFlag,
    "socket.AddressInfo": socket.AddressInfo,
    "socket.MsgFlag": socket.MsgFlag,
}


def _member(cls: str, name: str) -> Any:
    require(cls in _ENUMS, "the enumeration isn't known here")
    require(name in _ENUMS[cls].__members__, "the member isn't known here")
    return _ENUMS[cls].__members__[name]


builds(BUILDERS, "enum", str, str)(_member)


@builds(BUILDERS, "HTTPStatus", int)
def _status(code: int) -> object:
    require(100 <= code < 600, "there is no such status")
    return http.HTTPStatus(code)


@builds(BUILDERS, "flags", str, tuple)
def _flags(cls: str, names: tuple[str, ...]) -> object:
    require(cls in _FLAGS, "the flags aren't known here")
    check_items(names, str)
    flags = _FLAGS[cls](0)
    for name in names:
        require(name in _FLAGS[cls].__members__, "a flag isn't known here")
        flags |= _FLAGS[cls].__members__[name]
    return flags


# Paths: those of the other system come back pure.

_POSIX = os.name == "posix"
builds(BUILDERS, "PurePosixPath", str)(pathlib.PurePosixPath)
builds(BUILDERS, "PureWindowsPath", str)(pathlib.PureWindowsPath)
builds(BUILDERS, "PosixPath", str)(pathlib.Path if _POSIX else pathlib.PurePosixPath)
builds(BUILDERS, "WindowsPath", str)(pathlib.PureWindowsPath if _POSIX else pathlib.Path)


# Addresses.


def _addresses(*kinds: Any) -> None:
    """Enter classes of addresses, which are made from what ``str`` says of them."""
    for cls in kinds:

        @builds(BUILDERS, cls.__name__, str)
        def build(text: str, cls: Any = cls) -> object:
            # Their parsers turn numbers of any length into ints.
            require(len(text) <= ADDRESS_LENGTH, "the text is too long")
            return cls(text)


_addresses(ipaddress.IPv4Address, ipaddress.IPv4Interface, ipaddress.IPv4Network)
_addresses(ipaddress.IPv6Address, ipaddress.IPv6Interface, ipaddress.IPv6Network)


def _urls(item: type, *kinds: Any) -> None:
    """Enter the classes of `urllib.parse`, made from parts that are all of one type."""
    for cls in kinds:
        builds(BUILDERS, cls.__name__, *[item] * len(cls._fields))(cls)


_urls(str, urllib.parse.ParseResult, urllib.parse.SplitResult)
_urls(str, urllib.parse.DefragResult)
_urls(bytes, urllib.parse.ParseResultBytes, urllib.parse.SplitResultBytes)
_urls(bytes, urllib.parse.DefragResultBytes)

BUILDERS.update(kinds_arrays.BUILDERS)
BUILDERS.update(kinds_random.BUILDERS)
