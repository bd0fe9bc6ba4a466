"""Objects of the caller's own classes, rebuilt from a host's data without their code.

An instance is made by the ``__new__`` of its built-in base and its attributes
are put into its ``__dict__`` and slots directly. A class whose own methods take
part in that (`needs_trust`) is refused unless it is trusted.
"""

from __future__ import annotations

import builtins
import collections
import dataclasses
import enum
import sys
from typing import Any, TypeAlias

from fabremote.exceptions import UntrustedResult
from fabremote.shipping.nodes import shown

Slots: TypeAlias = dict[str, Any]
_BASES: dict[Any, type] = {
    None: object,
    **{
        kind.__name__: kind
        for kind in (int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset)
    },
}
# Where the position in a UnicodeError's arguments begins.
_POSITIONS = (
    (UnicodeEncodeError, 2),
    (UnicodeDecodeError, 2),
    (UnicodeTranslateError, 1),
)
# The most columns of a SyntaxError's line: Python marks as many as there are said to be.
_COLUMNS = 1 << 16
_LINES = 1 << 31
# The bases whose objects can exist before their content.
EARLY = (None, "list", "dict", "set")
# Methods that would run, or be run around, as an instance is rebuilt or dropped.
_METHODS = ("__setstate__", "__reduce__", "__reduce_ex__", "__del__", "__setattr__", "__getattr__")
_MORE_METHODS = ("__getattribute__", "__delattr__")
# Exceptions are rebuilt from their arguments, so that these never run.
_UNUSED_BY_EXCEPTIONS = ("__reduce__", "__reduce_ex__", "__setstate__", "__setattr__")

_STANDARD_EXCEPTIONS: dict[str, str] = {
    "argparse": "ArgumentError ArgumentTypeError",
    "asyncio.exceptions": (
        "BrokenBarrierError CancelledError IncompleteReadError InvalidStateError "
        "LimitOverrunError TimeoutError"
    ),
    "asyncio.queues": "QueueEmpty QueueFull",
    "binascii": "Error Incomplete",
    "concurrent.futures._base": "CancelledError TimeoutError",
    "concurrent.futures.process": "BrokenProcessPool",
    "concurrent.futures.thread": "BrokenThreadPool",
    "configparser": (
        "DuplicateOptionError DuplicateSectionError Error InterpolationError "
        "InterpolationMissingOptionError InterpolationSyntaxError MissingSectionHeaderError "
        "NoOptionError NoSectionError ParsingError"
    ),
    "copy": "Error",
    "_csv": "Error",
    "csv": "Error",
    "dataclasses": "FrozenInstanceError",
    "decimal": "DivisionByZero DivisionUndefined FloatOperation Inexact InvalidOperation Overflow",
    "ftplib": "Error error_perm error_proto error_reply error_temp",
    "getopt": "GetoptError",
    "graphlib": "CycleError",
    "gzip": "BadGzipFile",
    "http.client": (
        "BadStatusLine CannotSendRequest HTTPException IncompleteRead InvalidURL "
        "RemoteDisconnected ResponseNotReady"
    ),
    "importlib.metadata": "PackageNotFoundError",
    "ipaddress": "AddressValueError NetmaskValueError",
    "json.decoder": "JSONDecodeError",
    "locale": "Error",
    "_lzma": "LZMAError",
    "multiprocessing.context": "AuthenticationError BufferTooShort ProcessError TimeoutError",
    "netrc": "NetrcParseError",
    "_pickle": "PickleError PicklingError UnpicklingError",
    "plistlib": "InvalidFileException",
    "_queue": "Empty",
    "queue": "Empty Full",
    "re": "PatternError error",
    "shutil": "Error ExecError ReadError RegistryError SameFileError SpecialFileError",
    "smtplib": "SMTPException SMTPNotSupportedError SMTPServerDisconnected",
    "socket": "gaierror herror",
    "sqlite3": (
        "DataError DatabaseError Error IntegrityError InterfaceError InternalError "
        "NotSupportedError OperationalError ProgrammingError Warning"
    ),
    "ssl": (
        "SSLCertVerificationError SSLEOFError SSLError SSLSyscallError SSLWantReadError "
        "SSLWantWriteError SSLZeroReturnError"
    ),
    "statistics": "StatisticsError",
    "struct": "error",
    "subprocess": "CalledProcessError SubprocessError TimeoutExpired",
    "tarfile": (
        "AbsoluteLinkError AbsolutePathError CompressionError ExtractError FilterError "
        "HeaderError LinkOutsideDestinationError OutsideDestinationError ReadError "
        "SpecialFileError StreamError TarError"
    ),
    "termios": "error",
    "threading": "BrokenBarrierError",
    "tomllib": "TOMLDecodeError",
    "unittest.case": "SkipTest",
    "urllib.error": "ContentTooShortError HTTPError URLError",
    "xml.etree.ElementTree": "ParseError",
    "xml.parsers.expat": "ExpatError",
    "zipfile": "BadZipFile LargeZipFile",
    "zlib": "error",
    "zoneinfo._common": "ZoneInfoNotFoundError",
}


def full_name(cls: type) -> str:
    """Return a class's module and qualified name."""
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")


def needs_trust(cls: type) -> str | None:
    """Return the method because of which rebuilding ``cls`` would run its code, or None."""
    if issubclass(cls, (collections.defaultdict, collections.deque)):
        return "state that only its own code can restore"
    for base in cls.__mro__:
        if base.__module__ not in ("builtins", "collections"):
            for name in _METHODS + _MORE_METHODS:
                if name in vars(base) and not _is_generated(base, name):
                    return name
    return None


class Facts:
    """What of a class decides how its instances are rebuilt; good for one answer.

    ``reason``: see `needs_trust`. ``slots``: the descriptors of its slots by name.
    """

    def __init__(self, cls: type) -> None:
        self.reason = needs_trust(cls)
        self.slots = {
            name: member
            for base in cls.__mro__
            for name, member in vars(base).items()
            if type(member).__name__ == "member_descriptor" and base.__module__ != "builtins"
        }


def _is_generated(cls: type, name: str) -> bool:
    """Whether a method is one that dataclasses or Python itself made, and so harmless."""
    if name in ("__setattr__", "__delattr__", "__setstate__", "__reduce__"):
        parameters = getattr(cls, "__dataclass_params__", None)
        if parameters is not None and "__dataclass_fields__" in vars(cls):
            function = vars(cls)[name]
            code = getattr(function, "__code__", None)
            made = code is not None and code.co_filename in ("<string>", dataclasses.__file__)
            return made
    return False


def is_name(ref: Any) -> bool:
    """Whether a reference to a class is by (module, qualified name)."""
    return type(ref) is tuple and len(ref) == 2 and type(ref[0]) is type(ref[1]) is str


def find_class(module: Any, name: Any) -> type | None:
    """Return a class of an own, already imported module, without importing anything."""
    found: Any = sys.modules.get(module) if type(module) is str else None
    if found is None or type(name) is not str:
        return None
    for part in name.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) and found.__module__ == module else None


def create(cls: type, base: Any, value: Any) -> Any:
    """Return a new instance of ``cls`` with the built-in ``base``'s value."""
    if type(base) not in (str, type(None)) or base not in _BASES:
        raise ValueError(f"an unknown base {shown(base)}")
    kind = _BASES[base]
    if not issubclass(cls, kind) or (value is not None and type(value) is not kind):
        raise ValueError(f"a {full_name(cls)} that isn't made of a {kind.__name__}")
    ordered = issubclass(cls, collections.OrderedDict)
    new: Any = collections.OrderedDict.__new__ if ordered else kind.__new__
    if value is None or base in EARLY:
        return new(cls)
    made: Any = new(cls, value)
    if base == "bytearray":
        kind.extend(made, value)  # type: ignore[attr-defined]
    return made


def fill(obj: Any, args: tuple[Any, ...], state: tuple[Any, ...], slots: Slots) -> None:
    """Put content and attributes into an instance that `create` made.

    ``slots``: its class's, see `Facts`.
    """
    base = args[1]
    if len(state) != 2 or type(state[0]) is not dict:
        raise ValueError("a state that isn't a dict")
    if base == "list":
        list.extend(obj, _exactly(state[1], list))
    elif base == "dict":
        ordered = isinstance(obj, collections.OrderedDict)
        kind = collections.OrderedDict if ordered else dict
        for key, value in _exactly(state[1], dict).items():
            kind.__setitem__(obj, key, value)
    elif base == "set":
        set.update(obj, _exactly(state[1], set))
    if state[0]:
        set_attributes(obj, state[0], slots)


def _exactly(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"content that isn't a {kind.__name__}")
    return value


def set_attributes(obj: Any, state: dict[Any, Any], slots: Slots) -> None:
    """Set attributes in the instance's ``__dict__`` and slots, past the class's own code."""
    for name in state:
        if type(name) is not str or (name[:2] == "__" and name[-2:] == "__"):
            raise ValueError(f"an attribute called {shown(name)}")
    others = state
    if slots:
        others = {name: value for name, value in state.items() if name not in slots}
        for name, value in state.items():
            if name in slots:
                slots[name].__set__(obj, value)
    if not others:
        return
    try:
        attributes = object.__getattribute__(obj, "__dict__")
    except AttributeError:
        raise ValueError(f"no attribute {shown(next(iter(others)))}") from None
    attributes.update(others)


def member(cls: type, name: Any, *value: Any) -> Any:
    """Return an enum's member by name, or a Flag's combination by its integer value."""
    if not isinstance(cls, enum.EnumMeta):
        raise ValueError(f"{full_name(cls)} is no enum")
    if type(name) is str and name in cls.__members__:
        return cls.__members__[name]
    if name is None and len(value) == 1 and type(value[0]) is int and issubclass(cls, enum.Flag):
        if any("_missing_" in vars(base) for base in cls.__mro__ if base.__module__ != "enum"):
            raise UntrustedResult("its class defines _missing_", full_name(cls))
        return enum.EnumMeta.__call__(cls, value[0])
    raise ValueError(f"{full_name(cls)} has no member {shown(name)}")


def create_trusted(cls: type, how: Any, args: tuple[Any, ...]) -> Any:
    """Return an object of a trusted class, by its own code."""
    if how == "call":
        return cls(*args)
    if how == "new":
        return cls.__new__(cls, *args)
    if how == "new_ex" and len(args) == 2 and type(args[1]) is dict:
        return cls.__new__(cls, *args[0], **args[1])
    raise ValueError(f"an unknown way {shown(how)} to make a trusted object")


def set_trusted_state(obj: Any, state: Any, items: Any, pairs: Any) -> None:
    """Give a trusted object its state, as unpickling does."""
    if state is not None:
        if hasattr(obj, "__setstate__"):
            obj.__setstate__(state)
        else:
            values = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
            for part in values:
                for name, value in dict(part or {}).items():
                    object.__setattr__(obj, name, value)
    for item in items or ():
        obj.append(item)
    for key, value in pairs or ():
        obj[key] = value


def standard_exception(module: Any, name: Any) -> type[BaseException] | None:
    """Return a built-in or a listed standard exception class, or None."""
    if type(module) is not str or type(name) is not str:
        return None
    if module != "builtins" and name not in _STANDARD_EXCEPTIONS.get(module, "").split():
        return None
    if module.partition(".")[0] not in sys.stdlib_module_names:
        # Of a later Python than this one: whatever is found by that name here is another's.
        return None
    found: Any = builtins if module == "builtins" else sys.modules.get(module)
    if found is None:
        found = __import__(module, fromlist=["_"])
    cls = vars(found).get(name)
    return cls if isinstance(cls, type) and issubclass(cls, BaseException) else None


def create_exception(cls: type, args: Any, state: Any) -> BaseException:
    """Return an exception with these arguments and attributes; its own __init__ doesn't run."""
    if not issubclass(cls, BaseException) or type(args) is not tuple or type(state) is not dict:
        raise ValueError("an exception that isn't one")
    reason = needs_trust(cls)
    if reason is not None and reason not in _UNUSED_BY_EXCEPTIONS:
        raise UntrustedResult(f"its class defines {reason}", full_name(cls))
    base = next(kind for kind in cls.__mro__ if kind.__module__ == "builtins")
    _check_arguments(base, args)
    made: BaseException = base.__new__(cls, *args)
    base.__init__(made, *args)  # type: ignore[misc]
    plain = dict(state)
    for name in ("name", "path"):
        # Kept in C by these, not in the instance's __dict__.
        if name in plain and hasattr(base, name):
            # A property of the class may be in the way, as in PackageNotFoundError.
            getattr(base, name).__set__(made, plain.pop(name))
    set_attributes(made, plain, Facts(cls).slots)
    return made


def _check_arguments(base: type, args: tuple[Any, ...]) -> None:
    """Raise ValueError for arguments on which Python itself would stumble as it shows them."""
    for kind, at in _POSITIONS:
        if issubclass(base, kind):
            # Python 3.13 is the first to check them; others read what is there in memory.
            start, end = args[at : at + 2]
            if not 0 <= start <= end < _LINES:
                raise ValueError("its position is outside of what it is in")
    if issubclass(base, SyntaxError) and len(args) > 1:
        _, line, column, _, *more = tuple(args[1])
        end_line, end_column = (more or [None, None])[:2]
        for number, limit in (
            *((line, _LINES), (end_line, _LINES)),
            *((column, _COLUMNS), (end_column, _COLUMNS)),
        ):
            if number is not None and not (type(number) is int and -1 <= number < limit):
                raise ValueError("its place in the source can't be one")
