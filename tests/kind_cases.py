"""Values of every kind that travels as data, for `tests.test_kinds`: sources that make them."""

from __future__ import annotations

from typing import NamedTuple

# What the sources of cases may use, where it exists.
PRELUDE = """
import array, collections, datetime, decimal, fractions, http, ipaddress, os, pathlib, platform
import re, shutil, signal, socket, ssl, subprocess, sys, time, types, urllib.parse, uuid
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
import grp, pwd, resource
try:
    import zoneinfo
except ImportError:
    pass
try:
    import numpy as np
    import pandas as pd
except ImportError:
    pass
def names_of(x):
    return sorted(n for n in dir(x) if n[0] in "abcdefghijklmnopqrstuvwxyz")
def fields_of(x):
    return [(n, getattr(x, n)) for n in names_of(x) if not callable(getattr(x, n))]
def dtypes_of(x):
    return [str(t) for t in x.dtypes] + [str(x.columns.dtype), str(x.index.dtype)]
"""


class Case(NamedTuple):
    """A value ``x``, as ``source`` makes it from the names of `PRELUDE`.

    ``detail``: what of it has the same ``repr`` where it is made and where it is rebuilt.
    ``same``: made again here, it is equal. ``type_name``: of the rebuilt one, if another.
    ``since``: the first Python that can make it.
    """

    tag: str
    source: str
    detail: str = "x"
    same: bool = True
    type_name: str = ""
    since: tuple[int, int] = (3, 6)


WHEN = "datetime.datetime(2024, 10, 27, 2, 30, 5, 7"
STANDARD = [
    Case("Ellipsis", "..."),
    Case("NotImplemented", "NotImplemented"),
    Case("complex", "complex(-0.0, -2.5)"),
    Case("complex", "complex('nan-infj')", same=False),
    Case("bytearray", "bytearray(b'a\\0b')"),
    Case("bytearray", "bytearray()"),
    Case("range", "range(10, -4, -3)"),
    Case("range", "range(10**30, 10**31)"),
    Case("slice", "slice(None, 5, -1)"),
    Case("slice", "slice('a', date(2024, 1, 2))", "x.start, x.stop.day, x.step"),
    Case("MappingProxyType", "types.MappingProxyType({'b': 1, 'a': [2]})", "list(x.items())"),
    Case("SimpleNamespace", "types.SimpleNamespace(b=1, self=[2])", "sorted(vars(x).items())"),
    Case("bytes", "memoryview(b'abcd')[::2]", "bytes(x)", type_name="bytes"),
    Case("list", "{'a': 1, 'b': 2}.keys()", "list(x)", False, "list"),
    Case("list", "{'a': 1, 'b': 2}.values()", "list(x)", False, "list"),
    Case("list", "{'a': 1, 'b': 2}.items()", "list(x)", False, "list"),
    Case("list", "OrderedDict(b=1).keys()", "list(x)", False, "list"),
    Case("dict", "os.environ", "dict(x)", False, "dict"),
    Case("tuple", "sys.version_info", "tuple(x)", False, "tuple"),
    *(
        Case("Decimal", f"Decimal('{text}')", "str(x), x.as_tuple().exponent", same)
        for same, texts in (
            (True, ["1.50", "-0", "-0E+7", "Infinity", "-Infinity", "1E+999999999999999999"]),
            (True, ["1E-999999999999999999", "123456789012345678901234567890.123", "0E-19"]),
            (False, ["NaN", "-NaN12", "sNaN", "sNaN345"]),
        )
        for text in texts
    ),
    Case("Fraction", "Fraction(-6, 4)", "(x.numerator, x.denominator)"),
    Case("Fraction", "Fraction(10**4000, 3)", "(x.numerator % 97, x.denominator)"),
    Case("UUID", "uuid.UUID(int=5)", "x.hex"),
    Case("date", "date(1, 2, 3)", "x.isoformat()"),
    Case("time", "datetime.time(1, 2, 3, 4, fold=1)", "x.isoformat(), x.fold"),
    Case("time", "datetime.time(1, 2, tzinfo=timezone.utc)", "x.isoformat(), x.tzname()"),
    Case("datetime", f"{WHEN}, fold=1)", "x.isoformat(), x.fold"),
    Case("datetime", f"{WHEN}, timezone.utc)", "x.isoformat(), x.tzinfo is timezone.utc"),
    Case(
        "datetime",
        f"{WHEN}, zoneinfo.ZoneInfo('Europe/Berlin'), fold=1)",
        "x.isoformat(), x.fold, x.tzname(), x.tzinfo.key",
        since=(3, 9),
    ),
    Case("timedelta", "timedelta(-1, 5, 7)", "(x.days, x.seconds, x.microseconds)"),
    Case("timedelta", "timedelta.max", "(x.days, x.seconds, x.microseconds)"),
    Case("timezone", "timezone(timedelta(minutes=-90), 'HERE')", "x.tzname(None)"),
    Case("timezone", "timezone(timedelta(hours=14))", "x.tzname(None)"),
    Case("ZoneInfo", "zoneinfo.ZoneInfo('America/Argentina/Ushuaia')", "x.key", since=(3, 9)),
    Case("OrderedDict", "OrderedDict([('b', 1), ('a', 2)])", "list(x.items())"),
    Case("Counter", "Counter('abcab')", "sorted(x.items())"),
    Case("Counter", "Counter({'a': -1, 'b': 0})", "sorted(x.items())"),
    Case("deque", "deque([1, 2, 3], maxlen=2)", "list(x), x.maxlen"),
    Case("deque", "deque([date(2024, 1, 2)])", "len(x), x.maxlen"),
    Case("deque", "deque(maxlen=0)", "list(x), x.maxlen"),
    *(
        Case("defaultdict", f"defaultdict({factory}, a=1)", "x.default_factory, x['a']")
        for factory in (
            *("None", "list", "dict", "set", "int", "str", "float", "tuple", "bool", "bytes"),
            *("frozenset", "OrderedDict", "Counter", "deque"),
        )
    ),
    *(
        Case("array", f"array.array('{code}', [0, 1, 127])", "x.typecode, x.itemsize, list(x)")
        for code in "bBhHiIlLqQfd"
    ),
    Case("stat_result", "os.stat('/')", "tuple(x), fields_of(x)", False),
    Case("statvfs_result", "os.statvfs('/')", "tuple(x)[:5]", False),
    Case("terminal_size", "os.terminal_size((80, 24))", "x.columns, x.lines"),
    Case("times_result", "os.times()", "tuple(x), x.elapsed", False),
    Case("uname_result", "os.uname()", "tuple(x), x.nodename"),
    Case("struct_time", "time.gmtime(0)", "tuple(x), x.tm_zone, x.tm_gmtoff"),
    Case("struct_time", "time.struct_time(range(9))", "tuple(x), x.tm_zone, x.tm_gmtoff"),
    Case("struct_passwd", "pwd.getpwuid(0)", "tuple(x), x.pw_dir"),
    Case("struct_group", "grp.getgrgid(0)", "tuple(x), x.gr_name"),
    Case("struct_group", "grp.struct_group(('g', 'x', 1, ['a', 'b']))", "tuple(x), x.gr_mem"),
    Case("struct_rusage", "resource.getrusage(0)", "tuple(x), x.ru_maxrss", False),
    Case("disk_usage", "shutil.disk_usage('/')", "tuple(x), x.total", False),
    Case("platform_uname", "platform.uname()", "tuple(x), x.processor", False),
    Case(
        "platform_uname",
        "platform.uname_result(*'abcdef'[:5 if sys.version_info >= (3, 9) else 6])",
        "tuple(x)[:5], x.processor, x.machine",
        same=False,
    ),
    Case(
        "CompletedProcess",
        "subprocess.CompletedProcess(['ls', b'x'], -9, b'out', 'err')",
        "x.args, x.returncode, x.stdout, x.stderr",
        same=False,
    ),
    *(Case("enum", f"signal.{name}", "x.name, int(x)") for name in ("SIGTERM", "SIGRTMIN")),
    Case("enum", "signal.SIG_IGN", "x.name, int(x)"),
    Case("enum", "socket.AF_INET6", "x.name, int(x)"),
    Case("enum", "socket.SOCK_STREAM", "x.name, int(x)"),
    Case("enum", "ssl.TLSVersion.TLSv1_2", "x.name", since=(3, 7)),
    Case("enum", "uuid.SafeUUID.safe", "x.name", since=(3, 7)),
    Case("enum", "http.HTTPMethod.POST", "x.name", since=(3, 11)),
    Case("HTTPStatus", "http.HTTPStatus.NOT_FOUND", "x.phrase"),
    Case("HTTPStatus", "http.HTTPStatus(413)", "int(x)"),
    Case("flags", "re.I | re.X | re.ASCII", "int(x)"),
    Case("flags", "re.RegexFlag(0)", "int(x)"),
    Case("flags", "socket.MSG_PEEK | socket.MSG_DONTWAIT", "int(x)"),
    Case("flags", "socket.AI_PASSIVE", "int(x)"),
    *(
        Case(name, f"pathlib.{name}({text!r})", "str(x), x.parts")
        for name in ("PurePosixPath", "PureWindowsPath", "PosixPath")
        for text in ("", "/", "a/b/../c", "//srv/x/y", "é\udcff\n", "c:\\x y\\z.t")
    ),
    *(
        Case(f"IPv{version}{name}", f"ipaddress.IPv{version}{name}('{text}')", "str(x)")
        for name, four, six in (
            ("Address", "255.0.1.2", "2001:db8::1"),
            ("Interface", "10.1.2.3/8", "fe80::1/10"),
            ("Network", "10.0.0.0/8", "::/0"),
        )
        for version, text in ((4, four), (6, six))
    ),
    Case("IPv6Address", "ipaddress.IPv6Address('fe80::1%eth0')", "x.scope_id", since=(3, 9)),
    Case("IPv6Address", "ipaddress.IPv6Address('::ffff:1.2.3.4')", "int(x)"),
    *(
        Case(f"{name}{suffix}", f"urllib.parse.{function}({kind}'https://u@h:1/p;q?a=b#f')")
        for name, function in (
            ("ParseResult", "urlparse"),
            ("SplitResult", "urlsplit"),
            ("DefragResult", "urldefrag"),
        )
        for kind, suffix in (("", ""), ("b", "Bytes"))
    ),
    Case("OrderedDict", "OrderedDict(a=deque([Decimal(1), {Fraction(1, 2): ...}]))", "len(x)"),
]

ARRAY = "(x.dtype.str, x.shape, x.flags.c_contiguous, x.flags.f_contiguous, x.flags.writeable)"
DTYPES = ["?", "i1", "u1", "<i2", ">u4", "<i8", "f2", "f4", ">f8", "c8", "c16"]
STRUCTURED = "[('a', '>i2'), ('b', [('c', '?', (2, 3)), ('d', 'U2')]), ('when', 'M8[ms]')]"
PADDED = "{'names': ['a', 'b'], 'formats': ['u1', 'f8'], 'offsets': [9, 0], 'itemsize': 24}"
NUMPY = [
    *(Case("numpy_array", f"np.arange(2).astype('{kind}')", ARRAY) for kind in DTYPES),
    Case("numpy_array", "np.array([-0.0, float('nan')])", "x.tobytes()", same=False),
    Case("numpy_array", "np.arange(6).reshape(2, 3)", ARRAY),
    Case("numpy_array", "np.arange(6).reshape(2, 3).T", ARRAY),
    Case("numpy_array", "np.arange(24).reshape(2, 3, 4)[:, ::2, ::-1]", "x.tolist()"),
    Case("numpy_array", "np.array(5.5)", ARRAY),
    Case("numpy_array", "np.empty((0, 3), '>i4')", ARRAY),
    Case("numpy_array", "np.array(['a', '', 'é\\U0001f600'])", ARRAY),
    Case("numpy_array", "np.array(['ab', 'c']).astype('>U3')", ARRAY),
    Case("numpy_array", "np.array([b'a', b'bcd'])", ARRAY),
    Case("numpy_array", "np.array(['2024-01-02', 'NaT'], 'M8[s]')", ARRAY + ", x.tolist()", False),
    Case("numpy_array", "np.array([1, 2], 'm8[25us]')", ARRAY),
    Case("numpy_array", "np.array([1, 2], '>m8[s]')", ARRAY),
    Case("numpy_array", f"np.zeros(3, {STRUCTURED})", "x.dtype, x.tolist()"),
    Case("numpy_array", f"np.ones((2, 2), {PADDED})", "x.dtype, x.tolist()"),
    *(
        Case("numpy_scalar", f"np.{text}", "x.dtype.str, x.tolist()", type_name=name)
        for text, name in (
            *(("float64(-0.0)", ""), ("int8(-5)", ""), ("bool_(True)", ""), ("uint64(2**63)", "")),
            *(("longlong(5)", "int64"), ("float16(0.5)", ""), ("complex64(1 + 2j)", "")),
            *(("datetime64('2024-01-02T03', 'h')", ""), ("timedelta64(5, 'D')", "")),
            ("array([(1, 2.5)], 'i4,f8')[0]", ""),
        )
    ),
    Case("numpy_str", "np.str_('a\\0é')", "x.tolist()"),
    Case("numpy_str", "np.str_('')", "x.tolist()"),
    Case("numpy_bytes", "np.bytes_(b'a\\0')", "x.tolist()"),
    *(
        Case("numpy_bit_generator", f"np.random.{name}({seed})", "x.random_raw(3)", same=False)
        for name in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
        for seed in ("7", "np.random.SeedSequence(1, spawn_key=(2, 3))")
    ),
    Case("numpy_generator", "np.random.default_rng([1, 2])", "x.random(3)", False),
    Case("numpy_random_state", "np.random.RandomState(3)", "x.randn(3)", False),
    Case(
        "numpy_seed_sequence",
        "np.random.SeedSequence(10**30)",
        "x.spawn(2)[1].generate_state(3)",
        False,
    ),
    *(Case("numpy_dtype", f"np.dtype({kind!r})", "x.str") for kind in (*DTYPES, "O", "U5")),
    Case("numpy_dtype", f"np.dtype({STRUCTURED})", "x.descr"),
    Case("numpy_dtype", f"np.dtype({PADDED})", "x.itemsize, x.fields"),
]

TABLE = """pd.DataFrame({
    'i': [3, 1, 2], 'f': [0.5, None, -0.0], 'u': np.arange(3, dtype='u1'),
    'b': [True, False, True],
    's': ['x', None, ''], 'o': [1, 'a', [2, (3,)]], 't': pd.to_datetime(['2024-03-31'] * 3),
    'z': pd.date_range('2024-10-26', periods=3, tz='Europe/Berlin'),
    'd': pd.to_timedelta([1, None, 3], 's'), 'c': pd.Categorical(['p', None, 'q'], ['q', 'p']),
    'n': pd.array([1, None, 3], 'Int16'), 'N': pd.array([1.5, None, 3], 'Float32'),
    'B': pd.array([True, None, False], 'boolean'), 'S': pd.array(['a', None, 'c'], 'string'),
}, index=pd.Index([10.5, 2.5, 3.5], name='at'))"""
FRAME = "dtypes_of(x), x.index.name, x.columns.name"
INDEX = "type(x).__name__, str(x.dtype), x.name"
TIMES = INDEX + ", x.freqstr, str(getattr(x, 'tz', None)), x.tolist()"
PANDAS = [
    Case("pandas_NaT", "pd.NaT", same=False),
    Case("pandas_NA", "pd.NA", same=False),
    *(
        Case("pandas_Timestamp", f"pd.Timestamp({args})", "str(x), x.unit, x.fold, str(x.tz)")
        for args in (
            *(
                "'2024-01-02 03:04:05.678901234'",
                "year=2024, month=10, day=27, fold=1",
                "0, unit='s'",
            ),
            *("'2024-01-02', tz='UTC'", "'2024-01-02 03:04+05:30'", "'9999-12-31'"),
            *("1729990800, unit='s', tz='Europe/Berlin'",),
            *("1729994400, unit='s', tz='Europe/Berlin'",),
        )
    ),
    Case("pandas_Timedelta", "pd.Timedelta(-5, 'ns')", "x.value, x.unit"),
    Case("pandas_Timedelta", "pd.Timedelta(5, 's')", "str(x), x.unit"),
    *(
        Case("pandas_dtype", f"pd.{name}Dtype()", "str(x)")
        for name in ("Int8", "UInt64", "Float32", "Boolean")
    ),
    Case("pandas_StringDtype", "pd.StringDtype()", "str(x)"),
    Case("pandas_CategoricalDtype", "pd.CategoricalDtype(['b', 'a'], True)", "x.ordered"),
    Case("pandas_CategoricalDtype", "pd.CategoricalDtype()", "str(x)"),
    Case("pandas_DatetimeTZDtype", "pd.DatetimeTZDtype('ms', 'Asia/Tokyo')", "str(x)"),
    Case("pandas_RangeIndex", "pd.RangeIndex(5, -3, -2, name=('a', 1))", INDEX),
    Case("pandas_Index", "pd.Index([1, 2], name='n')", INDEX),
    Case("pandas_Index", "pd.Index(['a', 'b'])", INDEX),
    Case("pandas_Index", "pd.Index([(1, 2), 'x', None], tupleize_cols=False)", INDEX),
    Case("pandas_Index", "pd.Index([True, False])", INDEX),
    Case("pandas_Index", "pd.Index(pd.array([1, 2], 'Int64'))", INDEX),
    Case("pandas_Index", "pd.CategoricalIndex(['b', 'a', 'b'], name=3)", INDEX),
    *(
        Case("pandas_DatetimeIndex", f"pd.{text}", TIMES)
        for text in (
            *("date_range('2024', periods=3, freq='MS', name='m')", "DatetimeIndex([])"),
            *("date_range('2024', periods=3, freq='2h', tz='Asia/Tokyo')",),
            *("date_range('2024', periods=3, freq='W-TUE')", "date_range('2024', periods=2)"),
            *("DatetimeIndex(['2024-01-02', '2024-01-05'], tz='UTC')",),
        )
    ),
    Case("pandas_TimedeltaIndex", "pd.timedelta_range('1h', periods=3, freq='h')", TIMES),
    Case("pandas_TimedeltaIndex", "pd.to_timedelta([1, 5], 's')", TIMES),
    Case(
        "pandas_MultiIndex",
        "pd.MultiIndex.from_product([range(2), ['b', 'a']], names=['n', None])",
        "list(x.names), x.tolist()",
    ),
    Case(
        "pandas_Series", "pd.Series([1.5, 2], index=['a', 'b'], name='s')", "str(x.dtype), x.name"
    ),
    Case("pandas_Series", "pd.Series([[1, 2], [3, 4], ()])", "x.tolist()"),
    Case("pandas_Series", "pd.Series([], dtype='f4')", "str(x.dtype)"),
    Case("pandas_Series", "pd.Series(['a', 'b'], dtype=object)", "str(x.dtype)"),
    Case("pandas_Series", TABLE + ".dtypes", "[str(t) for t in x]"),
    Case("pandas_DataFrame", TABLE, FRAME),
    Case("pandas_DataFrame", TABLE + ".describe()", FRAME),
    Case("pandas_DataFrame", TABLE + ".groupby(['b', 'i'])[['f', 'u']].sum()", FRAME),
    Case("pandas_DataFrame", "pd.DataFrame(np.eye(3), columns=['a', 'a', 'b'])", FRAME),
    Case("pandas_DataFrame", "pd.DataFrame()", FRAME),
    Case("pandas_DataFrame", "pd.DataFrame(index=range(3))", FRAME),
    Case("pandas_DataFrame", "pd.DataFrame({'a': []}, dtype='i8')", FRAME),
]

GROUPS = {"standard": STANDARD, "numpy": NUMPY, "pandas": PANDAS}
