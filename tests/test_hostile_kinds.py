"""What a hostile host might send as the arguments of a tag: refused, cheaply, in one line."""

from __future__ import annotations

import contextlib
import decimal
import time
import tracemalloc
from datetime import timedelta, timezone
from typing import Any

import pytest

from fabremote.shipping.builders import MESSAGE_LENGTH
from fabremote.shipping.kinds import BUILDERS

HUGE = 10**6_000
WIDE = "9" * 3_000_000
ZERO = (0,) * 10


class Text(str):
    """Not a plain str: it could answer differently each time it is asked."""


class Number(int):
    """Not a plain int."""


class Unhashable:
    __hash__ = None  # type: ignore[assignment]


STANDARD: list[tuple[Any, ...]] = [
    ("Ellipsis", 1),
    ("complex", "1+2j", 0.0),
    ("complex", 1, 2),
    ("bytearray", 10**15),
    ("bytearray", [1, 2]),
    ("range", 0, 10, 0),
    ("range", 0, 10),
    ("range", 0, 10.0, 1),
    ("range", True, 10, 1),
    ("range", 0, Number(10), 1),
    ("slice",),
    ("slice", 1, 2),
    ("MappingProxyType", [("a", 1)]),
    ("SimpleNamespace", {1: 2}),
    ("SimpleNamespace", {Text("a"): 2}),
    ("SimpleNamespace", {"a\nb": 1}, None),
    ("bytes", 10**15),
    ("list", "abc"),
    ("dict", [("a", 1)]),
    ("tuple", [1]),
    ("Decimal", "1.5.6"),
    ("Decimal", ""),
    ("Decimal", 1.5),
    ("Decimal", (0, (1,), 0)),
    ("Decimal", "1E+99999999999999999999999999"),
    ("Decimal", Text("1")),
    ("Fraction", 1, 0),
    ("Fraction", 1, -2),
    ("Fraction", "1/2", 1),
    ("Fraction", "1E+999999999", 1),
    ("Fraction", 1.0, 2),
    ("Fraction", HUGE**10, HUGE**10 + 1),
    ("UUID", b"123", "safe"),
    ("UUID", "0" * 32, "safe"),
    ("UUID", b"\0" * 16, "__class__"),
    ("date", 2024, 2, 30),
    ("date", HUGE, 1, 1),
    ("date", b"\x07\xe8\x01\x01"),
    ("date", 0, 1, 1),
    ("time", 24, 0, 0, 0, None, 0),
    ("time", 1, 0, 0, 0, "UTC", 0),
    ("time", 1, 0, 0, 0, None, 2),
    ("time", b"\0" * 6, 0, 0, 0, None, 0),
    ("datetime", 2024, 1, 1, 0, 0, 60, 0, None, 0),
    ("datetime", 2024, 1, 1, 0, 0, 0, 0, timezone, 0),
    ("datetime", 2024, 1, 1, 0, 0, 0, 0, None, HUGE),
    ("timedelta", HUGE, 0, 0),
    ("timedelta", 10**9, 0, 0),
    ("timedelta", 0, -1, 0),
    ("timedelta", 0, 0, 10**6),
    ("timedelta", 0.5, 0, 0),
    ("timezone", timedelta(days=1), None),
    ("timezone", 3600, None),
    ("timezone", timedelta(0), 5),
    ("ZoneInfo", "../../../etc/passwd"),
    ("ZoneInfo", "/etc/localtime"),
    ("ZoneInfo", "Europe/../Europe/Berlin"),
    ("ZoneInfo", "Europe/Berlin\0"),
    ("ZoneInfo", "Europe"),
    ("ZoneInfo", "Europe/Atlantis"),
    ("ZoneInfo", "__init__.py"),
    ("ZoneInfo", "zone.tab"),
    ("ZoneInfo", "A" * 1_000_000),
    ("ZoneInfo", ""),
    ("OrderedDict", [("a", 1)]),
    ("OrderedDict", [[[]]]),
    ("Counter", "abc"),
    ("deque", [1, 2], 1),
    ("deque", [], -1),
    ("deque", [], HUGE),
    ("deque", range(10**12), None),
    ("deque", [], True),
    ("defaultdict", "eval", {}),
    ("defaultdict", "os.system", {}),
    ("defaultdict", "__import__", {}),
    ("defaultdict", list, {}),
    ("defaultdict", "list", [(1, 2)]),
    ("array", "O", 8, "little", b""),
    ("array", "", 8, "little", b""),
    ("array", "bb", 1, "little", b""),
    ("array", "i", 3, "little", b"123"),
    ("array", "i", 4, "little", b"123"),
    ("array", "i", 4, "middle", b"1234"),
    ("array", "i", HUGE, "little", b"1234"),
    ("array", "i", 8, "little", b"\xff" * 7 + b"\1"),
    ("array", "i", 4, "little", "text"),
    ("array", "u", 4, "little", b"1234"),
    ("stat_result", (1,), {}),
    ("stat_result", (0,) * 19, {}),
    ("stat_result", ZERO, {"st_mtime_ns": []}),
    ("stat_result", ZERO, {1: 2}),
    ("stat_result", ZERO, None),
    ("stat_result", (HUGE, *ZERO[1:]), {}),
    ("stat_result", (Number(1), *ZERO[1:]), {}),
    ("statvfs_result", ("a", *ZERO[1:]), {}),
    ("times_result", (1, 2, 3, 4, 5), {}),
    ("uname_result", (b"a",) * 5, {}),
    ("struct_time", (0.5,) * 9, {}),
    ("struct_time", (0,) * 9, {"tm_zone": ["UTC"]}),
    ("struct_passwd", ({},) * 7, {}),
    ("struct_group", ("g", "x", 1, [1]), {}),
    ("struct_group", ("g", "x", 1, [Text("a")]), {}),
    ("disk_usage", 1, 2, "3"),
    ("platform_uname", *"abcde"),
    ("CompletedProcess", [], 0, ["out"], None),
    ("CompletedProcess", [], "0", None, None),
    ("enum", "os.system", "SIGTERM"),
    ("enum", "signal.Signals", "__class__"),
    ("enum", "signal.Signals", "_member_map_"),
    ("enum", "signal.Signals", 15),
    ("enum", "builtins.object", "__subclasses__"),
    ("enum", Text("signal.Signals"), "SIGTERM"),
    ("HTTPStatus", 99),
    ("HTTPStatus", 299),
    ("HTTPStatus", HUGE),
    ("HTTPStatus", "404"),
    ("flags", "re.RegexFlag", ("NOSUCH",)),
    ("flags", "re.RegexFlag", (Unhashable(),)),
    ("flags", "socket.AddressFamily", ("AF_INET",)),
    ("flags", "re.RegexFlag", "I"),
    ("PurePosixPath", b"a"),
    ("PosixPath", 1),
    ("PureWindowsPath", Text("a")),
    ("IPv4Address", 1),
    ("IPv4Address", "1.2.3"),
    ("IPv4Network", "1.0.0.0/" + WIDE),
    ("IPv4Network", "1.2.3.4/8"),
    ("IPv4Interface", "1.2.3.4/33"),
    ("IPv6Address", b"\0" * 16),
    ("IPv6Address", ":" * 1_000_000),
    ("IPv6Network", "::/129"),
    ("ParseResult", *"abcde"),
    ("SplitResult", "a", "b", "c", "d", b"e"),
    ("DefragResultBytes", "a", "b"),
]

NESTED: Any = "<i4"
for _ in range(40):
    NESTED = ((("a", NESTED, 0, ()),), 4)
LAUGHS: Any = "|u1"
for _size in (10, 100, 1000, 10**4, 10**5, 10**6, 10**7, 10**8):
    LAUGHS = (tuple((f"f{at}", LAUGHS, at * _size // 10, ()) for at in range(10)), _size)
OVERLAP = ((("a", "<i4", 0, ()), ("b", "|b1", 3, ())), 8)
TWICE = ((("a", "<i4", 0, ()), ("a", "<i4", 4, ())), 8)
BIG = ((("a", "|u1", 0, (1 << 30, 1 << 30)),), 1 << 60)

NUMPY: list[tuple[Any, ...]] = [
    ("numpy_dtype", "O8"),
    ("numpy_dtype", "|V8"),
    ("numpy_dtype", "i4,f8"),
    ("numpy_dtype", "os.system"),
    ("numpy_dtype", "<f16"),
    ("numpy_dtype", "|S0"),
    ("numpy_dtype", "<U99999999999"),
    ("numpy_dtype", "<M8[" + "9" * 500 + "s]"),
    ("numpy_dtype", "<M8[25fortnights]"),
    ("numpy_dtype", "<i4\n"),
    ("numpy_dtype", ((), 0)),
    ("numpy_dtype", NESTED),
    ("numpy_dtype", LAUGHS),
    ("numpy_dtype", OVERLAP),
    ("numpy_dtype", TWICE),
    ("numpy_dtype", BIG),
    ("numpy_dtype", ((("a", "<i4", -4, ()),), 8)),
    ("numpy_dtype", ((("a", "<i4", 6, ()),), 8)),
    ("numpy_dtype", ((("a", "|O", 0, ()),), 8)),
    ("numpy_dtype", ((("a", "<i4", 0, (-1,)),), 8)),
    ("numpy_dtype", ((("a", "<i4", 0),), 8)),
    ("numpy_dtype", ((("a", "<i4", 0, ()),), 1 << 40)),
    ("numpy_dtype", ((("a", "<i4", 0, ()),), HUGE)),
    ("numpy_scalar", "<i8", b"1234"),
    ("numpy_scalar", "|b1", b"\2"),
    ("numpy_scalar", "|O", b"\0" * 8),
    ("numpy_str", b"a"),
    ("numpy_bytes", 10**12),
    ("numpy_array", "<i8", (10**12,), "C", b"12345678"),
    ("numpy_array", "<i8", (-1,), "C", b"12345678"),
    ("numpy_array", "<i8", (True,), "C", b"12345678"),
    ("numpy_array", "<i8", (1,), "K", b"12345678"),
    ("numpy_array", "<i8", (1,) * 65, "C", b"12345678"),
    ("numpy_array", "<i8", (0, 1 << 62, 1 << 62), "C", b"1"),
    ("numpy_array", "<i8", (0, HUGE), "C", b""),
    ("numpy_array", "<i8", [1], "C", b"12345678"),
    ("numpy_array", "<i8", (1,), "C", "12345678"),
    ("numpy_array", "|O", (1,), "C", b"12345678"),
    ("numpy_array", "|b1", (3,), "C", b"\0\1\2"),
    ("numpy_array", ((("a", "|b1", 1, ()),), 2), (2,), "C", b"\5\1\5\3"),
    ("numpy_array", ((("a", "|b1", 0, (2,)),), 2), (1,), "C", b"\1\2"),
    ("numpy_array", "<U1", (1,), "C", b"\xff\xff\xff\x7f"),
    ("numpy_array", ">U1", (1,), "C", b"\x7f\xff\xff\xff"),
    ("numpy_array", ((("a", "<U1", 1, ()),), 5), (1,), "C", b"\0\xff\xff\xff\xff"),
]


def pandas_parts() -> list[tuple[Any, ...]]:
    """Scalars, dtypes and arrays, of which some need arrays and indexes as arguments."""
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    ints, columns = np.arange(3), pd.Index(["a"])
    far, table = pd.RangeIndex(10**12), np.zeros((2, 2))
    return [
        ("pandas_NaT", 1),
        ("pandas_Timestamp", -(2**63), "ns", None, 0),
        ("pandas_Timestamp", HUGE, "ns", None, 0),
        ("pandas_Timestamp", 0, "Y", None, 0),
        ("pandas_Timestamp", 0, "ns", "../etc/passwd", 0),
        ("pandas_Timestamp", 0, "ns", 5, 0),
        ("pandas_Timestamp", 0, "ns", None, 2),
        ("pandas_Timestamp", "2024", "ns", None, 0),
        ("pandas_Timedelta", -(2**63), "ns"),
        ("pandas_Timedelta", 1, "M"),
        ("pandas_dtype", "read_pickle"),
        ("pandas_dtype", "CategoricalDtype"),
        ("pandas_StringDtype", 1),
        ("pandas_CategoricalDtype", far, False),
        ("pandas_CategoricalDtype", [1, 2], False),
        ("pandas_DatetimeTZDtype", "ns", None),
        ("pandas_DatetimeArray", [1, 2], "ns", None),
        ("pandas_DatetimeArray", ints.astype(float), "ns", None),
        ("pandas_DatetimeArray", ints, "ns]; x[", None),
        ("pandas_DatetimeArray", table.astype(int), "ns", None),
        ("pandas_TimedeltaArray", ints, 1),
        ("pandas_Categorical", ints, columns, False),
        ("pandas_Categorical", ints, far, False),
        ("pandas_Categorical", ints, pd.Index(["a", "a", "b"]), False),
        ("pandas_Categorical", np.array([-2]), columns, False),
        ("pandas_Categorical", ints, None, False),
        ("pandas_StringArray", ["a", 1], False),
        ("pandas_StringArray", [Text("a")], False),
        ("pandas_IntegerArray", ints, ints),
        ("pandas_IntegerArray", ints, np.array([True])),
        ("pandas_BooleanArray", ints, np.array([True] * 3)),
        ("pandas_FloatingArray", [1.0], [False]),
    ]


def pandas_tables() -> list[tuple[Any, ...]]:
    """Indexes, series and tables."""
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    ints, index, columns = np.arange(3), pd.RangeIndex(3), pd.Index(["a"])
    far, table = pd.RangeIndex(10**12), np.zeros((2, 2))
    return [
        ("pandas_RangeIndex", 0, 10, 0, None),
        ("pandas_RangeIndex", 0, 10, 1, []),
        ("pandas_RangeIndex", 0, HUGE, 1, None),
        ("pandas_Index", "abc", None),
        ("pandas_Index", [1], Unhashable()),
        ("pandas_Index", table, None),
        ("pandas_Index", np.array(["a"]), None),
        ("pandas_DatetimeIndex", ints, None, "D"),
        ("pandas_DatetimeIndex", pd.DatetimeIndex([]).array, None, 5),
        ("pandas_TimedeltaIndex", pd.DatetimeIndex([]).array, None, None),
        ("pandas_MultiIndex", [columns], [ints], [None]),
        ("pandas_MultiIndex", [far], [ints], [None]),
        ("pandas_MultiIndex", [columns], [], [None]),
        ("pandas_MultiIndex", [], [], []),
        ("pandas_MultiIndex", [columns] * 2, [np.zeros(1, int)] * 2, [None] * 2),
        ("pandas_MultiIndex", [columns], [np.zeros(1, int)], [[]]),
        ("pandas_MultiIndex", [columns], [np.zeros(1, int)], ["a", "b"]),
        ("pandas_Series", ints, far, None),
        ("pandas_Series", ints, ints, None),
        ("pandas_Series", {"a": 1}, index, None),
        ("pandas_Series", 5, far, None),
        ("pandas_Series", pd.Series(ints), index, None),
        ("pandas_Series", ints, index, Unhashable()),
        ("pandas_DataFrame", [ints], columns, far),
        ("pandas_DataFrame", [ints], index, index),
        ("pandas_DataFrame", [ints, ints, ints], index, index),
        ("pandas_DataFrame", [5], columns, far),
        ("pandas_DataFrame", [table], columns, pd.RangeIndex(2)),
        ("pandas_DataFrame", {"a": ints}, columns, index),
        ("pandas_DataFrame", [], far, index),
        ("pandas_DataFrame", [ints], ["a"], index),
    ]


def check_refused(tag: str, *args: object) -> None:
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"^{tag}: .") as caught:
            BUILDERS[tag](*args)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert type(caught.value) is ValueError
    assert text.isprintable()
    assert len(text) < MESSAGE_LENGTH + 40
    assert peak < 8 << 20
    assert time.process_time() - started < 10


def label(case: tuple[Any, ...]) -> str:
    return str(case[0])


@pytest.mark.parametrize("case", STANDARD, ids=label)
def test_malformed_standard_objects_are_refused(case: tuple[Any, ...]) -> None:
    check_refused(*case)


@pytest.mark.parametrize("case", NUMPY, ids=label)
def test_malformed_objects_of_numpy_are_refused(case: tuple[Any, ...]) -> None:
    pytest.importorskip("numpy")
    check_refused(*case)


def test_malformed_objects_of_pandas_are_refused() -> None:
    for case in pandas_parts() + pandas_tables():
        check_refused(*case)


@pytest.mark.parametrize("tag", sorted(BUILDERS))
@pytest.mark.parametrize("args", [(None,) * 12, (object(),), ([],) * 3, ("",) * 2, (-1,) * 4])
def test_nothing_but_value_errors_comes_out(tag: str, args: tuple[object, ...]) -> None:
    if tag.startswith(("numpy_", "pandas_")):
        pytest.importorskip(tag.partition("_")[0])
    with contextlib.suppress(ValueError):
        BUILDERS[tag](*args)


def test_a_caller_with_a_lax_decimal_context_gets_no_nan() -> None:
    with decimal.localcontext() as context:
        context.traps[decimal.InvalidOperation] = False
        with pytest.raises(ValueError, match="Decimal: "):
            BUILDERS["Decimal"]("not a number")


def test_an_empty_frame_of_a_long_range_takes_nothing() -> None:
    pandas = pytest.importorskip("pandas")
    index = pandas.RangeIndex(10**15)
    frame: Any = BUILDERS["pandas_DataFrame"]([], pandas.Index([]), index)
    assert frame.shape == (10**15, 0)
