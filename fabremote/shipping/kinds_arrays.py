"""Rebuilds the objects of NumPy and pandas that an answer describes.

The other half is ``fabremote.agent.kinds_arrays``, in the same order. The two
libraries are imported when a value of theirs arrives, and only then. Data that
would be unsound inside an array (a bool that is neither 0 nor 1, a character
beyond Unicode) is refused, as is whatever would grow in the rebuilding.
"""

from __future__ import annotations

import contextlib
import math
import re
import zoneinfo
from collections.abc import Callable
from datetime import timedelta, timezone, tzinfo
from typing import Any

from fabremote.shipping.builders import (
    ANY,
    OPTIONAL_STR,
    Builder,
    NoneType,
    builds,
    check_items,
    extra,
    require,
)
from fabremote.shipping.dtypes import read_dtype

BUILDERS: dict[str, Builder] = {}

# The patterns are compiled when first used: most programs never need them.
WORD = "[A-Za-z][A-Za-z0-9_+-]{0,63}"
ZONE = f"{WORD}(?:/{WORD}){{0,3}}"
MAX_DIMENSIONS = 32
# Those that pandas can compare with a whole index in little time.
FREQUENCY = r"-?[0-9]{0,9}(?:D|h|min|s|ms|us|ns)|-?[0-9]{0,2}[A-Z]{1,3}(?:-[A-Z]{3})?"
# What pandas called some of them before version 2.2.
OLD_FREQUENCY = "-?[0-9]{0,9}[HTSLUN]"
OLD_LETTERS = str.maketrans({"H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns"})
UNITS = ("s", "ms", "us", "ns")


def zone(key: str) -> tzinfo:
    """Return the time zone called ``key``, made of plain words."""
    # Keys become paths, of files and inside a package.
    require(re.fullmatch(ZONE, key) is not None, "the key isn't that of a time zone")
    return zoneinfo.ZoneInfo(key)


# NumPy


def _flat(data: bytes | bytearray, dtype: Any) -> Any:
    """Return a writable array of one dimension over ``data``, whose content is sound."""
    numpy = extra("numpy")
    if not data:
        return numpy.empty(0, dtype)
    flat = numpy.frombuffer(data, dtype)
    _check_content(flat, numpy)
    return flat.copy() if type(data) is bytes else flat


def _check_content(flat: Any, numpy: Any) -> None:
    """Raise ValueError for items on which NumPy's own code would rely in vain."""
    for name in flat.dtype.names or ():
        _check_content(flat[name], numpy)
    if flat.dtype.kind == "b":
        require(flat.view("u1").max() <= 1, "a bool is neither 0 nor 1")
    if flat.dtype.kind == "U":
        codes = numpy.ascontiguousarray(flat).view(flat.dtype.byteorder + "u4")
        require(codes.max() <= 0x10FFFF, "a character is beyond Unicode")


@builds(BUILDERS, "numpy_dtype", (str, tuple))
def _dtype_value(kind: object) -> object:
    return extra("numpy").dtype(object) if kind == "|O" else read_dtype(kind)


@builds(BUILDERS, "numpy_scalar", (str, tuple), bytes)
def _scalar(kind: object, data: bytes) -> object:
    dtype = read_dtype(kind)
    require(len(data) == dtype.itemsize, "the data doesn't fit the dtype")
    return _flat(data, dtype)[0]


@builds(BUILDERS, "numpy_str", str)
def _str(text: str) -> object:
    return extra("numpy").str_(text)


@builds(BUILDERS, "numpy_bytes", bytes)
def _bytes(data: bytes) -> object:
    return extra("numpy").bytes_(data)


@builds(BUILDERS, "numpy_array", (str, tuple), tuple, str, (bytes, bytearray))
def _array(kind: object, shape: tuple[int, ...], order: Any, data: bytes | bytearray) -> object:
    check_items(shape, int)
    require(len(shape) <= MAX_DIMENSIONS, "there are too many dimensions")
    require(all(0 <= length < 1 << 63 for length in shape), "a dimension is out of range")
    require(order in ("C", "F"), "the order isn't known")
    dtype = read_dtype(kind)
    require(math.prod(shape) * dtype.itemsize == len(data), "the data doesn't fit the shape")
    return _flat(data, dtype).reshape(shape, order=order)


# pandas


def _pandas() -> Any:
    return extra("pandas")


def _zone(given: Any) -> Any:
    """Return a time zone, or the key of one, for which pandas has classes of its own choice."""
    if type(given) is timedelta:
        return timezone(given)
    if type(given) is str:
        zone(given)
    else:
        require(given is None or isinstance(given, tzinfo), "the time zone isn't one")
    return given


def _unit(unit: str) -> str:
    require(unit in UNITS, "the unit isn't known")
    return unit


def _localized(value: Any, tz: object) -> Any:
    """Return the Timestamp or index ``value``, which is in UTC, in a time zone."""
    found = _zone(tz)
    return value if found is None else value.tz_localize("UTC").tz_convert(found)


def _is_of_pandas(value: object, kind: type) -> bool:
    return isinstance(value, kind) and type(value).__module__.split(".")[0] == "pandas"


def _values(values: Any) -> Any:
    """Return the array of what a Series or Index holds: one of NumPy or pandas, or a list."""
    numpy = extra("numpy")
    if type(values) is list:
        return numpy.fromiter(values, object, len(values))
    if type(values) is numpy.ndarray:
        require(values.ndim == 1, "the values don't have one dimension")
        require(values.dtype.kind in "biufcmM", "the values aren't of a known kind")
        return values
    array = _pandas().api.extensions.ExtensionArray
    require(_is_of_pandas(values, array), "the values aren't an array")
    return values


def _index(index: Any) -> Any:
    require(_is_of_pandas(index, _pandas().Index), "it isn't an index")
    return index


def _levels(levels: Any) -> Any:
    """Return an index of categories or levels, which is never a mere range."""
    if type(levels) is extra("numpy").ndarray:
        return _pandas().Index(_values(levels))
    require(type(levels) is not _pandas().RangeIndex, "a range can't be categories")
    return _index(levels)


def _integers(array: Any) -> Any:
    numpy = extra("numpy")
    require(type(array) is numpy.ndarray and array.ndim == 1, "the numbers aren't an array")
    require(array.dtype.kind == "i", "the numbers aren't ints")
    return array


def _named(name: object) -> object:
    hash(name)
    return name


def _distinct(items: list[Any]) -> None:
    # Pickles can repeat an object for a few bytes; a frame copies each time.
    require(len(set(map(id, items))) == len(items), "columns are repeated")


@builds(BUILDERS, "pandas_NaT")
def _nat() -> object:
    return _pandas().NaT


@builds(BUILDERS, "pandas_NA")
def _na() -> object:
    return _pandas().NA


@builds(BUILDERS, "pandas_Timestamp", int, str, ANY, int)
def _timestamp(value: int, unit: str, tz: object, fold: int) -> object:
    stamp = _localized(_pandas().Timestamp(extra("numpy").datetime64(value, _unit(unit))), tz)
    require(type(stamp) is _pandas().Timestamp and fold in (0, 1), "it isn't a time")
    # The hour that a zone repeats says by itself which of the two it is.
    return stamp.replace(fold=fold) if tz is None and fold else stamp


@builds(BUILDERS, "pandas_Timedelta", int, str)
def _timedelta(value: int, unit: str) -> object:
    delta = _pandas().Timedelta(extra("numpy").timedelta64(value, _unit(unit)))
    require(type(delta) is _pandas().Timedelta, "it isn't a duration")
    return delta


# Dtypes.

_DTYPES = (
    "BooleanDtype",
    *(f"{sign}Int{bits}Dtype" for sign in ("", "U") for bits in (8, 16, 32, 64)),
    *("Float32Dtype", "Float64Dtype"),
)


@builds(BUILDERS, "pandas_dtype", str)
def _masked_dtype(name: str) -> object:
    require(name in _DTYPES, "the dtype isn't a known one")
    return getattr(_pandas(), name)()


@builds(BUILDERS, "pandas_StringDtype", bool)
def _string_dtype(has_nan: bool) -> Any:
    if has_nan:
        # Before pandas 2.3 there is none whose missing value is NaN.
        with contextlib.suppress(TypeError):
            return _pandas().StringDtype(na_value=math.nan)
    return _pandas().StringDtype()


@builds(BUILDERS, "pandas_CategoricalDtype", ANY, bool)
def _category_dtype(levels: object, ordered: bool) -> Any:
    return _pandas().CategoricalDtype(None if levels is None else _levels(levels), ordered)


@builds(BUILDERS, "pandas_DatetimeTZDtype", str, ANY)
def _zoned_dtype(unit: str, tz: object) -> object:
    return _pandas().DatetimeTZDtype(_unit(unit), _zone(tz))


# Arrays, which are what a column holds.


@builds(BUILDERS, "pandas_DatetimeArray", ANY, str, ANY)
def _times(values: Any, unit: str, tz: object) -> object:
    values = _integers(values).view(f"M8[{_unit(unit)}]")
    return _localized(_pandas().DatetimeIndex(values), tz).array


@builds(BUILDERS, "pandas_TimedeltaArray", ANY, str)
def _durations(values: Any, unit: str) -> object:
    return _pandas().TimedeltaIndex(_integers(values).view(f"m8[{_unit(unit)}]")).array


@builds(BUILDERS, "pandas_Categorical", ANY, ANY, bool)
def _categorical(codes: Any, levels: object, ordered: bool) -> object:
    dtype = _category_dtype(_levels(levels), ordered)
    return _pandas().Categorical.from_codes(_integers(codes), dtype=dtype)


@builds(BUILDERS, "pandas_StringArray", list, bool)
def _strings(texts: list[str | None], has_nan: bool) -> object:
    check_items(texts, str, NoneType)
    return _pandas().array(texts, dtype=_string_dtype(has_nan))


def _masked(tag: str) -> None:
    """Enter an array with a mask: ``tag`` ends in the name of its class."""

    @builds(BUILDERS, tag, ANY, ANY)
    def build(values: Any, mask: Any) -> object:
        return getattr(_pandas().arrays, tag.partition("_")[2])(_values(values), _values(mask))


for _tag in ("pandas_IntegerArray", "pandas_FloatingArray", "pandas_BooleanArray"):
    _masked(_tag)


# Indexes.


@builds(BUILDERS, "pandas_RangeIndex", int, int, int, ANY)
def _range_index(start: int, stop: int, step: int, name: object) -> object:
    require(all(-(1 << 63) <= bound < 1 << 63 for bound in (start, stop, step)), "it is too long")
    return _pandas().RangeIndex(start, stop, step, name=_named(name))


@builds(BUILDERS, "pandas_Index", ANY, ANY)
def _plain_index(values: object, name: object) -> object:
    array = _values(values)
    return _pandas().Index(array, name=_named(name), tupleize_cols=False, **_kept(values))


def _kept(values: object) -> dict[str, Any]:
    # pandas would look for a better dtype than object.
    return {"dtype": object} if type(values) is list else {}


def _spaced(tag: str, index: Callable[[], Any], array: Callable[[], Any]) -> None:
    """Enter an index of times or durations, which may have a frequency."""

    @builds(BUILDERS, tag, ANY, ANY, OPTIONAL_STR)
    def build(values: object, name: object, frequency: str | None) -> object:
        require(type(values) is array(), "the values aren't of the index's kind")
        result = index()(values, name=_named(name))
        if frequency is not None and re.fullmatch(OLD_FREQUENCY, frequency):
            frequency = frequency.translate(OLD_LETTERS)
        if frequency is not None and re.fullmatch(FREQUENCY, frequency):
            # Versions differ in the names, and a custom calendar isn't in the name.
            with contextlib.suppress(Exception):
                result.freq = frequency
        return result


_spaced(
    "pandas_DatetimeIndex",
    lambda: _pandas().DatetimeIndex,
    lambda: _pandas().arrays.DatetimeArray,
)
_spaced(
    "pandas_TimedeltaIndex",
    lambda: _pandas().TimedeltaIndex,
    lambda: _pandas().arrays.TimedeltaArray,
)


@builds(BUILDERS, "pandas_MultiIndex", list, list, list)
def _multi_index(levels: list[object], codes: list[Any], names: list[object]) -> object:
    _distinct(codes)
    for name in names:
        hash(name)
    return _pandas().MultiIndex(
        [_levels(level) for level in levels], [_integers(code) for code in codes], names=names
    )


# Columns and tables.


@builds(BUILDERS, "pandas_Series", ANY, ANY, ANY)
def _series(values: object, index: Any, name: object) -> object:
    array = _values(values)
    require(len(array) == len(_index(index)), "the values don't fit the index")
    return _pandas().Series(array, index=index, name=_named(name), **_kept(values))


@builds(BUILDERS, "pandas_DataFrame", list, ANY, ANY)
def _frame(values: list[Any], columns: Any, index: Any) -> object:
    require(len(values) == len(_index(columns)), "the values don't fit the columns")
    _distinct(values)
    arrays = [_values(column) for column in values]
    require(all(len(array) == len(_index(index)) for array in arrays), "a column doesn't fit")
    series = _pandas().Series
    frame = _pandas().DataFrame(
        {
            at: series(array, index=index, **_kept(column))
            for at, (array, column) in enumerate(zip(arrays, values, strict=True))
        },
        index=_index(index),
    )
    frame.columns = columns
    return frame
