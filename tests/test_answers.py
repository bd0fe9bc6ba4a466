"""What comes back from a call: values of the standard kinds, exceptions, and refusals."""

from __future__ import annotations

import asyncio
import binascii
import collections
import concurrent.futures.process
import configparser
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import gzip
import http
import http.client
import importlib.metadata
import ipaddress
import json
import os
import pathlib
import pickle
import re
import signal
import smtplib
import sqlite3
import ssl
import subprocess
import sys
import threading
import traceback
import types
import urllib.parse
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from invoke.context import Context
from packaging.version import Version

from fabremote import (
    Connection,
    RemoteError,
    RemoteException,
    RemoteTraceback,
    ResultError,
    UntrustedResult,
    wrap,
)

GROUPS = pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
NOTES = pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with 3.11")
ESCAPES = "\x1b[31mred\x1b]0;title\x07\r\x9b1m\u202e"


@pytest.fixture(scope="module")
def here() -> Iterator[Any]:
    """This machine, with python() to choose options."""
    context = wrap(Context())
    context.python(python=sys.executable).call(abs, -1)
    yield context
    context.close()


@pytest.fixture
def local(here: Any) -> Any:
    """An interpreter of this machine."""
    return here.python(python=sys.executable)


# Values

VALUES: list[Any] = [
    *(None, True, 0, -(10**50), 2.5, float("inf"), 1 + 2j, "ä\udcff", "", b"\0\xff", b""),
    *([], [1, [2]], (), (1, (2,)), {}, {"a": {1: None}}, set(), {1, 2}, frozenset([1])),
    *(bytearray(b"ab"), range(1, 9, 3), slice(1, None, 2), ..., NotImplemented),
    {(1, "a"): [b"x"], None: {frozenset([1])}},
    datetime.datetime(2024, 2, 29, 1, 2, 3, 4, datetime.timezone.utc, fold=1),
    *(datetime.date(1, 1, 1), datetime.time(23, 59), datetime.timedelta(-1, 5, 6)),
    *(decimal.Decimal("1.50"), decimal.Decimal("-Infinity"), fractions.Fraction(1, 3)),
    *(uuid.UUID(int=5), pathlib.PurePosixPath("a/b"), pathlib.Path("/x")),
    collections.OrderedDict(b=1, a=2),
    collections.Counter("aab"),
    collections.deque([1, 2], 5),
    collections.defaultdict(list, a=[1]),
    types.SimpleNamespace(a=1, b=[2]),
    types.MappingProxyType({"a": 1}),
    *(ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8")),
    urllib.parse.urlsplit("http://a/b?c#d"),
    subprocess.CompletedProcess(["a"], 0, b"out", None),
    *(signal.SIGTERM, http.HTTPStatus.NOT_FOUND, re.IGNORECASE | re.DOTALL),
    os.stat("/"),
    [[decimal.Decimal(1)], {"k": (uuid.UUID(int=1), {2: pathlib.Path("x")})}],
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
def test_a_value_comes_back_as_it_was(local: Any, value: Any) -> None:
    result = local.call(lambda: value)
    assert type(result) is type(value)
    assert repr(result) == repr(value)


def test_values_come_back_over_ssh(conn: Connection) -> None:
    assert repr(conn.call(lambda: VALUES)) == repr(VALUES)


def test_nan_comes_back(local: Any) -> None:
    value = local.call(lambda: [float("nan"), decimal.Decimal("NaN")])
    assert all(number != number for number in value)


def test_one_object_in_two_places_comes_back_as_one(local: Any) -> None:
    def make() -> list[Any]:
        one, path = [1], pathlib.Path("x")
        return [one, one, path, {"p": path}]

    first, second, path, table = local.call(make)
    assert first is second
    assert path is table["p"]


def test_a_list_in_itself_comes_back(local: Any) -> None:
    def make() -> list[Any]:
        loop: list[Any] = [decimal.Decimal(1)]
        loop.append({"loop": loop})
        return loop

    loop = local.call(make)
    assert loop[1]["loop"] is loop


def test_a_deep_value_comes_back_or_is_refused(local: Any) -> None:
    def deep(levels: int) -> list[Any]:
        made: list[Any] = []
        for _ in range(levels):
            made = [made]
        return made

    made = local.call(deep, 150)
    for _ in range(150):
        made = made[0]
    assert made == []
    with pytest.raises(ResultError, match="nested too deeply"):
        local.call(deep, 100_000)


@pytest.mark.parametrize("size", [0, 1, 60_000, 65_536, 5_000_000])
def test_large_values_come_back_whole(conn: Connection, size: int) -> None:
    assert (
        conn.call(lambda n: bytes(range(256)) * (n // 256 + 1), size)[:size]
        == ((bytes(range(256)) * (size // 256 + 1))[:size])
    )


# Exceptions


class Failure(Exception):
    """Takes other arguments than Exception's ``args``."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"failed with {code}: {detail}")
        self.code = code
        self.detail = detail


class Keyed(KeyError):
    def __str__(self) -> str:
        return "no key " + repr(self.args[0])


class Slotted(Exception):
    __slots__ = ("code",)


class NoArguments(Exception):
    def __init__(self) -> None:
        super().__init__("made without any")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class WithReduce(Exception):
    """As many libraries do, to survive pickling."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b

    def __reduce__(self) -> Any:
        return type(self), (self.a, self.b)


class OwnOSError(OSError):
    def __init__(self, errno: int, text: str, extra: str) -> None:
        super().__init__(errno, text)
        self.extra = extra


@dataclasses.dataclass
class Reason(Exception):
    code: int
    tags: list[str]


def fail(error: BaseException) -> None:
    raise error


def caught(python: Any, fn: Callable[..., Any], *args: Any) -> Any:
    """What a call raises."""
    with pytest.raises(BaseException) as found:  # noqa: PT011
        python.call(fn, *args)
    return found.value


def last_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


BUILTIN: list[Callable[[], BaseException]] = [
    lambda: ValueError("a", 2),
    lambda: ValueError(),
    lambda: KeyError("k"),
    lambda: IndexError("i"),
    lambda: ZeroDivisionError("z"),
    lambda: AssertionError("a"),
    lambda: NotImplementedError("n"),
    lambda: RecursionError("r"),
    lambda: MemoryError("m"),
    lambda: StopIteration(4),
    lambda: StopAsyncIteration(5),
    lambda: GeneratorExit("g"),
    lambda: SystemExit(3),
    lambda: SystemExit(),
    lambda: SystemExit("bye"),
    lambda: KeyboardInterrupt("k"),
    lambda: BaseException("b"),
    lambda: UnicodeDecodeError("utf-8", b"ab\xff", 2, 3, "invalid start byte"),
    lambda: UnicodeEncodeError("ascii", "ä", 0, 1, "no"),
    lambda: OSError("only text"),
    lambda: FileNotFoundError(2, "No such file", "/x"),
    lambda: PermissionError(13, "Permission denied", b"/y"),
    lambda: OSError(18, "Cross-device link", "a", None, "b"),
    lambda: BlockingIOError(11, "again", 5),
    lambda: TimeoutError("t"),
    lambda: ConnectionResetError(104, "reset"),
    lambda: ImportError("i", name="n", path="p"),
    lambda: ModuleNotFoundError("m", name="m"),
    lambda: NameError("n", name="n"),
    lambda: AttributeError("a", name="n"),
    lambda: SyntaxError("bad", ("f.py", 1, 2, "te xt", 1, 3)),
    lambda: UserWarning("w"),
    lambda: json.JSONDecodeError("Expecting value", "{x", 1),
    lambda: subprocess.CalledProcessError(3, ["cmd"], b"out", b"err"),
    lambda: decimal.InvalidOperation("d"),
    lambda: binascii.Error("Incorrect padding"),
    lambda: importlib.metadata.PackageNotFoundError("flask"),
    lambda: http.client.RemoteDisconnected("closed without an answer"),
    lambda: http.client.IncompleteRead(b"x", 3),
    lambda: sqlite3.DatabaseError("file is not a database"),
    lambda: ssl.SSLCertVerificationError(1, "certificate verify failed"),
    lambda: configparser.DuplicateSectionError("web", "x.ini", 3),
    lambda: zoneinfo.ZoneInfoNotFoundError("No time zone found with key Mars"),
    lambda: gzip.BadGzipFile("Not a gzipped file"),
    lambda: smtplib.SMTPServerDisconnected("Connection unexpectedly closed"),
    lambda: asyncio.IncompleteReadError(b"x", 3),
    lambda: pickle.UnpicklingError("invalid load key"),
    lambda: concurrent.futures.process.BrokenProcessPool("a child died"),
]


def seen(error: BaseException) -> dict[str, Any]:
    """What a handler may look at."""
    names = ("args", "code", "errno", "strerror", "filename", "filename2", "name", "path", "value")
    names += ("encoding", "object", "start", "end", "reason", "msg", "lineno", "offset", "text")
    names += ("characters_written", "doc", "pos", "colno", "cmd", "returncode", "output", "stderr")
    found = {name: getattr(error, name) for name in names if hasattr(error, name)}
    return {**found, "text": str(error), "repr": repr(error)}


@pytest.mark.parametrize("make", BUILTIN, ids=lambda make: repr(make())[:30])
def test_a_standard_exception_comes_back_as_itself(local: Any, make: Any) -> None:
    error = make()
    found = caught(local, lambda: fail(make()))
    assert type(found) is type(error)
    assert seen(found) == seen(error)
    assert isinstance(found.__cause__, RemoteTraceback)


def test_exceptions_come_back_over_ssh(conn: Connection) -> None:
    for make in BUILTIN:
        error, found = make(), caught(conn, lambda make=make: fail(make()))
        assert (type(found), seen(found)) == (type(error), seen(error))


OWN: list[Callable[[], BaseException]] = [
    lambda: Failure(3, detail="x"),
    lambda: Keyed("k"),
    lambda: NoArguments(),
    lambda: WithReduce(1, 2),
    lambda: OwnOSError(5, "text", "more"),
    lambda: Reason(1, ["a"]),
]


@pytest.mark.parametrize("make", OWN, ids=lambda make: type(make()).__name__)
def test_an_exception_of_the_callers_class_keeps_its_attributes(local: Any, make: Any) -> None:
    error, found = make(), caught(local, lambda: fail(make()))
    assert type(found) is type(error)
    assert seen(found) == seen(error)
    assert vars(found) == vars(error)


def test_an_exception_made_there_has_its_attributes(conn: Connection) -> None:
    def raising() -> None:
        raise Failure(7, detail="there")

    found = caught(conn, raising)
    assert type(found) is Failure
    assert (found.code, found.detail, found.args) == (7, "there", ("failed with 7: there",))


def test_an_exceptions_slots_come_back(local: Any) -> None:
    def raising() -> None:
        error = Slotted("s")
        error.code = [5]
        raise error

    found = caught(local, raising)
    assert (type(found), found.code) == (Slotted, [5])


def test_the_initialiser_of_an_exception_does_not_run_here(local: Any) -> None:
    made: list[int] = []

    class Counting(Exception):
        def __init__(self, n: int) -> None:
            super().__init__(n)
            made.append(n)

    def raising() -> None:
        raise Counting(1)

    assert type(caught(local, raising)) is Counting
    assert made == []


def test_attributes_given_to_a_builtin_exception_come_back(local: Any) -> None:
    def raising() -> None:
        error = ValueError("a")
        error.hint = {"k": [1]}  # type: ignore[attr-defined]
        raise error

    assert caught(local, raising).hint == {"k": [1]}


def test_an_exceptions_arguments_may_be_objects(local: Any) -> None:
    def raising() -> None:
        raise ValueError(pathlib.Path("x"), Failure(1, detail="inner"))

    path, inner = caught(local, raising).args
    assert path == pathlib.Path("x")
    assert (type(inner), inner.code) == (Failure, 1)


# Chains


def test_a_cause_comes_back_with_its_exception(local: Any) -> None:
    def raising() -> None:
        try:
            {}["k"]
        except KeyError as error:
            raise Failure(1, detail="d") from error

    found = caught(local, raising)
    assert type(found.__cause__) is KeyError
    assert found.__cause__.args == ("k",)
    assert found.__context__ is found.__cause__
    assert found.__suppress_context__
    assert isinstance(found.__cause__.__cause__, RemoteTraceback)


def test_a_context_comes_back_with_its_exception(local: Any) -> None:
    def raising() -> None:
        try:
            {}["k"]
        except KeyError:
            raise Failure(1, detail="d")  # noqa: B904

    found = caught(local, raising)
    assert type(found.__context__) is KeyError
    assert isinstance(found.__cause__, RemoteTraceback)
    assert "During handling of the above exception" in str(found.__cause__)
    assert "KeyError: 'k'" in str(found.__cause__)


def test_a_context_that_was_set_aside_stays_so(local: Any) -> None:
    def raising() -> None:
        try:
            {}["k"]
        except KeyError:
            raise Failure(1, detail="d") from None

    found = caught(local, raising)
    assert type(found.__context__) is KeyError
    assert isinstance(found.__cause__, RemoteTraceback)
    assert "KeyError" not in str(found.__cause__)


def test_a_long_chain_comes_back(local: Any) -> None:
    def chained(n: int) -> None:
        try:
            if n:
                chained(n - 1)
        except ValueError as error:
            raise ValueError(n) from error
        raise ValueError(n)

    error = caught(local, chained, 10)
    numbers = []
    while not isinstance(error, RemoteTraceback):
        numbers.append(error.args[0])
        error = error.__cause__
    assert numbers == list(range(10, -1, -1))


def test_an_endless_chain_is_cut(local: Any) -> None:
    def raising() -> None:
        first, second = ValueError(1), ValueError(2)
        first.__cause__, second.__cause__ = second, first
        raise first

    assert caught(local, raising).args == (1,)

    def chained() -> None:
        error = ValueError(0)
        for n in range(1, 1000):
            outer = ValueError(n)
            outer.__cause__ = error
            error = outer
        raise error

    assert caught(local, chained).args == (999,)


@NOTES
def test_notes_come_back(local: Any) -> None:
    def raising() -> None:
        error = ValueError("v")
        error.add_note("first")  # type: ignore[attr-defined]
        error.add_note("second")  # type: ignore[attr-defined]
        raise error

    found = caught(local, raising)
    assert found.__notes__ == ["first", "second"]
    assert "first\nsecond" in str(found.__cause__)


@GROUPS
def test_groups_come_back_with_their_members(local: Any) -> None:
    def raising() -> None:
        inner = ExceptionGroup("inner", [Failure(1, detail="a"), KeyError("k")])  # noqa: F821
        inner.hint = 5  # type: ignore[attr-defined]
        raise ExceptionGroup("outer", [inner, ValueError("v")])  # noqa: F821

    found = caught(local, raising)
    assert type(found).__name__ == "ExceptionGroup"
    assert found.message == "outer"
    inner, value = found.exceptions
    assert (type(value), value.args) == (ValueError, ("v",))
    assert inner.hint == 5
    assert [type(error) for error in inner.exceptions] == [Failure, KeyError]
    assert inner.exceptions[0].code == 1
    matched, rest = found.split(KeyError)
    assert (len(matched.exceptions), len(rest.exceptions)) == (1, 2)
    for text in ("outer (2 sub-exceptions)", "failed with 1: a", "KeyError: 'k'"):
        assert text in str(last_cause(found))


@GROUPS
def test_a_group_of_the_callers_own_class_comes_back(local: Any) -> None:
    class Many(ExceptionGroup):  # type: ignore[name-defined,misc]  # noqa: F821
        def derive(self, errors: Any) -> Any:
            return Many(self.message, errors)

    def raising() -> None:
        raise Many("own", [ValueError(1), OSError(2, "x")])

    found = caught(local, raising)
    assert type(found) is Many
    assert [type(error) for error in found.exceptions] == [ValueError, FileNotFoundError]
    with pytest.raises(Many):
        raise found.split(ValueError)[0]


@GROUPS
def test_a_group_with_base_exceptions_comes_back(local: Any) -> None:
    def raising() -> None:
        raise BaseExceptionGroup("b", [KeyboardInterrupt(), ValueError()])  # noqa: F821

    found = caught(local, raising)
    assert type(found).__name__ == "BaseExceptionGroup"
    assert [type(error) for error in found.exceptions] == [KeyboardInterrupt, ValueError]


# What can't come back as itself


def of_the_host(name: str, **members: Any) -> Any:
    """A class of an exception that only the far side has."""
    return type(name, (Exception,), {"__module__": "only.there", **members})


def test_an_unknown_exception_is_a_remote_error(conn: Connection) -> None:
    def raising() -> None:
        raise of_the_host("Weird")("boom", 3)

    found = caught(conn, raising)
    assert type(found) is RemoteError
    assert isinstance(found, RemoteException)
    assert found.type_name == "only.there.Weird"
    assert found.args_repr == ("'boom'", "3")
    assert str(found) == "only.there.Weird: ('boom', 3)"
    assert "raise of_the_host" in found.traceback
    assert found.traceback.rstrip().endswith("only.there.Weird: ('boom', 3)")


def test_an_unknown_exception_keeps_its_known_cause(local: Any) -> None:
    def raising() -> None:
        try:
            raise Failure(2, detail="inner")
        except Failure as error:
            raise of_the_host("Weird")("outer") from error

    found = caught(local, raising)
    assert type(found) is RemoteError
    assert (type(found.__cause__), found.__cause__.code) == (Failure, 2)


def test_an_unknown_exception_is_rebuilt_where_its_class_is_trusted(here: Any) -> None:
    from packaging.version import InvalidVersion

    def raising() -> None:
        Version("no version")

    assert type(caught(here.python(python=sys.executable), raising)) is RemoteError
    trusting = here.python(python=sys.executable, trust=[InvalidVersion])
    found = caught(trusting, raising)
    assert type(found) is InvalidVersion
    assert "no version" in str(found)


def test_an_exception_whose_text_raises_still_comes_back(local: Any) -> None:
    def raising() -> None:
        raise Unprintable(5)

    found = caught(local, raising)
    assert (type(found), found.args) == (Unprintable, (5,))
    assert "ZeroDivisionError" in str(found.__cause__)


def test_an_unknown_exception_whose_text_raises_is_a_remote_error(local: Any) -> None:
    def text(self: Any) -> str:
        raise ZeroDivisionError

    def raising() -> None:
        raise of_the_host("Mute", __str__=text, __repr__=text)(of_the_host("Arg", __repr__=text)())

    found = caught(local, raising)
    assert type(found) is RemoteError
    assert found.type_name == "only.there.Mute"
    assert "ZeroDivisionError" in str(found)
    assert "ZeroDivisionError" in found.args_repr[0]


def test_an_exception_whose_arguments_cannot_travel_is_a_remote_error(local: Any) -> None:
    def raising() -> None:
        raise ValueError("a", threading.Lock())

    found = caught(local, raising)
    assert type(found) is RemoteError
    assert found.type_name == "ValueError"
    assert found.args_repr[0] == "'a'"
    assert "_thread.lock" in found.args_repr[1]


def test_an_attribute_that_cannot_travel_is_left_out(local: Any) -> None:
    def raising() -> None:
        error = Failure(4, detail="d")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    found = caught(local, raising)
    assert type(found) is Failure
    assert not hasattr(found, "lock")
    assert (found.code, found.detail) == (4, "d")


def test_a_huge_exception_text_is_no_trouble(local: Any) -> None:
    assert len(str(caught(local, lambda: fail(ValueError("x" * 1_000_000))))) == 1_000_000


# Exceptions that are returned, not raised


def test_exceptions_are_values_too(local: Any) -> None:
    def make() -> Any:
        return [ValueError("a", 1), {"k": Failure(5, detail="d")}, FileNotFoundError(2, "x", "f")]

    value, table, missing = local.call(make)
    assert (type(value), value.args) == (ValueError, ("a", 1))
    assert (type(table["k"]), table["k"].code) == (Failure, 5)
    assert (type(missing), missing.filename) == (FileNotFoundError, "f")


def test_an_unknown_exception_as_a_value_is_refused(local: Any) -> None:
    with pytest.raises(ResultError, match="Weird") as found:
        local.call(lambda: [of_the_host("Weird")()])
    assert "only.there.Weird" in str(found.value)


# Tracebacks


def outer_step(n: int) -> float:
    return inner_step(n) + 1


def inner_step(n: int) -> float:
    return 1 / n  # the line that fails


def test_the_remote_traceback_shows_the_callers_source(conn: Connection) -> None:
    found = caught(conn, outer_step, 0)
    assert type(found) is ZeroDivisionError
    trace = last_cause(found)
    assert isinstance(trace, RemoteTraceback)
    text = str(trace)
    code = inner_step.__code__
    assert f'File "{__file__}", line {code.co_firstlineno + 1}, in inner_step' in text
    assert "return 1 / n  # the line that fails" in text
    assert (
        f'File "{__file__}", line {outer_step.__code__.co_firstlineno + 1}, in outer_step' in text
    )
    assert text.rstrip('"\n').endswith("ZeroDivisionError: division by zero")
    assert f"Traceback on {conn.host}" in text
    assert "fabremote" not in text.replace(__file__, "")


def test_a_printed_traceback_shows_the_remote_part_too(local: Any) -> None:
    printed = "".join(traceback.format_exception(caught(local, outer_step, 0)))
    assert "in inner_step" in printed
    assert "The above exception was the direct cause" in printed
    assert "1 / n" in printed


def test_the_remote_traceback_shows_the_hosts_library(local: Any) -> None:
    text = str(last_cause(caught(local, lambda: json.loads("{x"))))
    assert "json/decoder.py" in text
    assert "self.scan_once(s, idx)" in text


def test_a_deep_recursion_has_a_readable_traceback(local: Any) -> None:
    def endless(n: int) -> int:
        return endless(n + 1)

    found = caught(local, endless, 0)
    assert type(found) is RecursionError
    assert len(str(found.__cause__)) < 50_000


# Refused results


def refused(python: Any, fn: Callable[..., Any]) -> Any:
    with pytest.raises(ResultError) as found:
        python.call(fn)
    assert isinstance(found.value, TypeError)
    assert isinstance(found.value, RemoteException)
    assert python.call(abs, -1) == 1
    return found.value


def a_function() -> None:
    pass


class AClass:
    pass


CODE: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: a_function, "function", ""),
    (lambda: [1, {"k": lambda: 1}], "function", "[1]['k']"),
    (lambda: [json.dumps], "function", "[0]"),
    (lambda: {"k": (len,)}, "builtin_function_or_method", "['k'][0]"),
    (lambda: [AClass], "type", "[0]"),
    (lambda: (0, int), "type", "[1]"),
    (lambda: [decimal.Decimal], "type", "[0]"),
    (lambda: AClass().__init__, "method", ""),
    (lambda: [sys], "module", "[0]"),
    (lambda: {"k": (n for n in "ab")}, "generator", "['k']"),
    (lambda: [open("/dev/null")], "TextIOWrapper", "[0]"),  # noqa: SIM115
    (lambda: [threading.Lock()], "lock", "[0]"),
    (lambda: [iter([1])], "list_iterator", "[0]"),
    (lambda: [object()], "object", "[0]"),
]


@pytest.mark.parametrize(("fn", "kind", "path"), CODE, ids=[kind for _, kind, _ in CODE])
def test_what_is_not_data_is_refused_with_its_place(
    local: Any, fn: Any, kind: str, path: str
) -> None:
    text = str(refused(local, fn))
    assert re.search(rf"returned a \S*{kind}\b", text)
    assert f"at result{path}" in text or not path


@pytest.mark.parametrize(("fn", "kind", "path"), CODE, ids=[kind for _, kind, _ in CODE])
def test_trust_is_not_advised_where_it_would_not_help(
    local: Any, fn: Any, kind: str, path: str
) -> None:
    assert "trust=" not in str(refused(local, fn))


def test_what_is_not_data_is_refused_over_ssh(conn: Connection) -> None:
    assert "generator at result['k']" in str(refused(conn, CODE[9][0]))


def test_an_object_of_a_library_needs_trust(here: Any, local: Any) -> None:
    def make() -> Any:
        return {"v": [1, Version("1.2")]}

    error = refused(local, make)
    assert type(error) is UntrustedResult
    assert error.type_name.endswith("Version")
    assert error.path == "['v'][1]"
    assert "packaging.version.Version at result['v'][1]" in str(error)
    assert "trust=[Version]" in str(error)
    result = here.python(python=sys.executable, trust=[Version]).call(make)
    assert result == make()
    assert type(result["v"][1]) is Version


def test_trust_is_by_exact_class(here: Any) -> None:
    class Mine(Version):
        pass

    python = here.python(python=sys.executable, trust=[AClass])
    assert type(refused(python, lambda: Version("1"))) is UntrustedResult
    python = here.python(python=sys.executable, trust=[Mine])
    assert type(refused(python, lambda: Version("1"))) is UntrustedResult


class WithReduction:
    def __init__(self, x: Any) -> None:
        self.x = x

    def __reduce__(self) -> Any:
        return type(self), (self.x,)


class WithSetState:
    def __init__(self, x: Any) -> None:
        self.x = x

    def __getstate__(self) -> Any:
        return {"doubled": self.x * 2}

    def __setstate__(self, state: Any) -> None:
        self.x = state["doubled"] // 2


class WithGetAttr:
    def __init__(self, x: Any) -> None:
        self.x = x

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class WithSetAttr:
    def __init__(self, x: Any) -> None:
        self.x = x

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


class WithDel:
    def __init__(self, x: Any) -> None:
        self.x = x

    def __del__(self) -> None:
        pass


class InheritsIt(WithSetState):
    pass


OWN_CODE = [WithReduction, WithSetState, WithGetAttr, WithSetAttr, WithDel, InheritsIt]


@pytest.mark.parametrize("cls", OWN_CODE)
def test_a_class_whose_code_would_run_needs_trust(here: Any, local: Any, cls: Any) -> None:
    def make() -> Any:
        return [cls(1)]

    error = refused(local, make)
    assert type(error) is UntrustedResult
    assert error.type_name == f"{cls.__module__}.{cls.__qualname__}"
    assert error.path == "[0]"
    assert f"trust=[{cls.__name__}]" in str(error)
    assert re.search(r"defines __\w+__", str(error))
    for trust in ([cls], True):
        (result,) = here.python(python=sys.executable, trust=trust).call(make)
        assert type(result) is cls
        assert result.x == 1


def test_a_trusted_object_may_be_in_a_cycle(here: Any) -> None:
    def make() -> Any:
        made = WithGetAttr([])
        made.x.append(made)
        return made

    result = here.python(python=sys.executable, trust=[WithGetAttr]).call(make)
    assert result.x[0] is result


def test_an_object_that_raises_as_it_is_taken_apart_is_refused(local: Any) -> None:
    class Broken:
        def __getattribute__(self, name: str) -> Any:
            raise ZeroDivisionError(name)

    with pytest.raises(ResultError):
        local.call(lambda: [Broken()])


def test_full_trust_unpickles_what_comes(here: Any) -> None:
    python = here.python(python=sys.executable, trust=True)
    made = python.call(lambda: [re.compile("a+"), functools.partial(int, base=2), json.dumps, int])
    assert made[0].match("aa")
    assert made[1]("11") == 3
    assert made[2:] == [json.dumps, int]


def test_full_trust_keeps_the_callers_own_classes(here: Any) -> None:
    class Mode(enum.Enum):
        ON = 1

    made = here.python(python=sys.executable, trust=True).call(lambda: [AClass(), Mode.ON, AClass])
    assert type(made[0]) is AClass
    assert made[1] is Mode.ON
    assert made[2] is AClass


def test_a_result_of_broken_full_trust_is_a_result_error(here: Any) -> None:
    python = here.python(python=sys.executable, trust=True)
    for fn in (lambda: threading.Lock(), lambda: lambda: 1):
        with pytest.raises(ResultError):
            python.call(fn)


class Watchful(Exception):
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@pytest.mark.parametrize(
    ("make", "type_name"),
    [
        (lambda: {"a": [Watchful("x")]}, "Watchful"),
        (lambda: {"a": [WithSetState(1)]}, "WithSetState"),
        (lambda: {"a": [Version("1.2")]}, "Version"),
    ],
)
def test_a_refusal_names_type_path_and_what_allows_it(
    local: Any, make: Any, type_name: str
) -> None:
    with pytest.raises(UntrustedResult) as found:
        local.call(make)
    assert found.value.type_name.endswith(type_name)
    assert found.value.path == "['a'][0]"
    assert f"trust=[{type_name}]" in str(found.value)


# Limits and texts


def test_a_result_beyond_the_limit_is_refused(here: Any) -> None:
    python = here.python(python=sys.executable, max_result=1000)
    with pytest.raises(ResultError, match="limit is 1000") as found:
        python.call(bytes, 10_000)
    assert "max_result=" in str(found.value)
    assert re.search(r"returned 10\d\d\d bytes", str(found.value))
    assert python.call(bytes, 900) == bytes(900)


def test_a_result_beyond_the_limit_is_refused_over_ssh(conn: Connection) -> None:
    python = conn.python(max_result=100_000)
    with pytest.raises(ResultError, match="max_result="):
        python.call(bytes, 5_000_000)
    assert len(python.call(bytes, 90_000)) == 90_000


def check_harmless(text: str) -> None:
    assert "red" in text
    assert all(char in "\n\t" or char.isprintable() for char in text), ascii(text)


def test_control_characters_in_tracebacks_are_shown_not_obeyed(local: Any) -> None:
    found = caught(local, fail, ValueError(ESCAPES))
    assert found.args == (ESCAPES,)
    check_harmless(str(found.__cause__))


def test_control_characters_in_remote_errors_are_shown_not_obeyed(local: Any) -> None:
    def raising() -> None:
        raise of_the_host("We" + ESCAPES, __module__="mo" + ESCAPES)(ESCAPES)

    found = caught(local, raising)
    assert type(found) is RemoteError
    for text in (str(found), found.type_name, found.traceback, *found.args_repr):
        check_harmless(text)


def test_control_characters_in_refusals_are_shown_not_obeyed(local: Any) -> None:
    error = refused(local, lambda: {ESCAPES: [type(ESCAPES, (), {"__module__": "m"})()]})
    check_harmless(str(error))
    check_harmless(error.type_name)
    check_harmless(error.path)


@NOTES
def test_control_characters_in_notes_are_shown_not_obeyed(local: Any) -> None:
    def raising() -> None:
        error = ValueError("v")
        error.add_note(ESCAPES)  # type: ignore[attr-defined]
        raise error

    found = caught(local, raising)
    check_harmless(found.__notes__[0])
    check_harmless(str(found.__cause__))
