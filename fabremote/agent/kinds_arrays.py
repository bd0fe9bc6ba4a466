"""Says which objects of NumPy and pandas are data, and what they consist of.

The other half is ``fabremote.shipping.kinds_arrays``, in the same order. Nothing
is imported: whoever has such an object has its library. Arrays of objects are
not data, but the columns of pandas that hold objects are, as lists.
"""

from . import wire

try:
    from _pickle import PickleBuffer
except ImportError:
    PickleBuffer = None  # type: ignore[assignment,misc]

# Long doubles look alike and differ between machines.
_WIDEST = {"f": 8, "c": 16}


def find(name):
    """Return ``(tag, function to its arguments)`` of a type's full name, or None."""
    package, _, rest = name.partition(".")
    if package == "numpy":
        # The class of each dtype: numpy.dtype, numpy.dtype[...] or numpy.dtypes....
        if rest == "dtype" or rest.startswith(("dtype[", "dtypes.")):
            return ("numpy_dtype", _dtype_value)
        # numpy.random keeps its classes in modules of their own.
        return _NUMPY.get(rest.rpartition(".")[2] if rest.startswith("random.") else rest)
    # pandas keeps its classes in modules that differ between its versions.
    return _PANDAS.get(rest.rpartition(".")[2]) if package == "pandas" else None


# NumPy


def _dtype(dtype):
    """Return what a dtype is: its short text, or its fields and size; None if refused.

    A field is (name, what it is, offset, shape).
    """
    if dtype.names is None:
        simple = dtype.kind in "biufcmMSU" and dtype.itemsize > 0
        return dtype.str if simple and dtype.itemsize <= _WIDEST.get(dtype.kind, 1 << 30) else None
    fields = []
    for name in dtype.names:
        inner, offset = dtype.fields[name][:2]
        base = _dtype(inner.base)
        if base is None or len(dtype.fields[name]) > 2:
            return None
        fields.append((name, base, offset, inner.shape))
    return (tuple(fields), dtype.itemsize) if fields else None


def _dtype_value(obj):
    kind = "|O" if obj.kind == "O" else None if obj.shape else _dtype(obj)
    return None if kind is None else (kind,)


def _scalar(obj):
    kind = _dtype(obj.dtype)
    return None if kind is None else (kind, obj.tobytes())


def _array(obj):
    kind = _dtype(obj.dtype)
    if kind is None:
        return None
    flags = obj.flags
    order = "F" if flags.f_contiguous and not flags.c_contiguous else "C"
    if PickleBuffer is None or obj.nbytes < wire.LARGE:
        return (kind, obj.shape, order, obj.tobytes(order))
    if not (flags.writeable and flags.forc):
        obj = obj.copy(order)
    return (kind, obj.shape, order, PickleBuffer(obj.ravel(order).view("u1")))


def _bit_generator(obj):
    seed = getattr(obj, "seed_seq", None) or getattr(obj, "_seed_seq", None)
    return (type(obj).__name__, seed, obj.state)


def _random_state(obj):
    state = obj.get_state(legacy=True)
    return state if type(state) is tuple else None


def _seeds(obj):
    return (obj.entropy, obj.spawn_key, obj.pool_size, obj.n_children_spawned)


_NUMPY = {
    "Generator": ("numpy_generator", lambda obj: (obj.bit_generator,)),
    "RandomState": ("numpy_random_state", _random_state),
    "SeedSequence": ("numpy_seed_sequence", _seeds),
    "ndarray": ("numpy_array", _array),
    "str_": ("numpy_str", lambda obj: (str(obj),)),
    "bytes_": ("numpy_bytes", lambda obj: (bytes(obj),)),
}
for _name in (
    *("bool", "bool_", "datetime64", "timedelta64", "void"),
    *("int8", "int16", "int32", "int64", "intc", "long", "longlong"),
    *("uint8", "uint16", "uint32", "uint64", "uintc", "ulong", "ulonglong"),
    *("float16", "float32", "float64", "complex64", "complex128"),
):
    _NUMPY[_name] = ("numpy_scalar", _scalar)
for _name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"):
    _NUMPY[_name] = ("numpy_bit_generator", _bit_generator)


# pandas


def _unit(obj):
    return getattr(obj, "unit", "ns")


def _zone(tz):
    # pytz, of older pandas, has a class for each zone: a key says it, or the distance to UTC.
    if type(tz).__module__.partition(".")[0] == "pytz":
        return tz.utcoffset(None) if tz.zone is None else tz.zone
    return tz


def _values(obj):
    """Return what a Series or Index holds: an array of NumPy or pandas, or a list of objects."""
    array = obj.array
    if type(array).__name__ not in ("PandasArray", "NumpyExtensionArray"):
        return array
    array = obj.to_numpy()
    return array.tolist() if array.dtype.kind == "O" else array


def _levels(index):
    # A range says little and can be as long as it likes: its values go instead.
    return index.to_numpy() if type(index).__name__ == "RangeIndex" else index


def _timestamp(obj):
    return (int(obj.asm8.view("i8")), _unit(obj), _zone(obj.tzinfo), obj.fold)


def _strings(obj):
    missing = obj.isna().tolist()
    texts = [None if gone else text for gone, text in zip(missing, obj)]
    return (texts, _has_nan(obj.dtype))


def _has_nan(dtype):
    return type(getattr(dtype, "na_value", None)) is float


def _masked(obj):
    return (obj.to_numpy(dtype=obj.dtype.numpy_dtype, na_value=0), obj.isna())


def _categories(obj):
    values = obj.categories
    return (None if values is None else _levels(values), bool(obj.ordered))


def _multi(obj):
    return ([_levels(level) for level in obj.levels], list(obj.codes), list(obj.names))


def _frame(obj):
    columns = [_values(obj.iloc[:, at]) for at in range(obj.shape[1])]
    return (columns, obj.columns, obj.index)


_NOTHING = lambda obj: ()  # noqa: E731
_INDEX = ("pandas_Index", lambda obj: (_values(obj), obj.name))
_TIMES = lambda obj: (obj.array, obj.name, obj.freqstr)  # noqa: E731

_PANDAS = {
    "NaTType": ("pandas_NaT", _NOTHING),
    "NAType": ("pandas_NA", _NOTHING),
    "Timestamp": ("pandas_Timestamp", _timestamp),
    "Timedelta": ("pandas_Timedelta", lambda obj: (int(obj.asm8.view("i8")), _unit(obj))),
    # Dtypes.
    "StringDtype": ("pandas_StringDtype", lambda obj: (_has_nan(obj),)),
    "CategoricalDtype": ("pandas_CategoricalDtype", _categories),
    "DatetimeTZDtype": ("pandas_DatetimeTZDtype", lambda obj: (obj.unit, _zone(obj.tz))),
    # Arrays, which are what a column holds.
    "DatetimeArray": ("pandas_DatetimeArray", lambda obj: (obj.asi8, _unit(obj), _zone(obj.tz))),
    "TimedeltaArray": ("pandas_TimedeltaArray", lambda obj: (obj.asi8, _unit(obj))),
    "Categorical": ("pandas_Categorical", lambda obj: (obj.codes,) + _categories(obj)),
    # Indexes.
    "RangeIndex": ("pandas_RangeIndex", lambda obj: (obj.start, obj.stop, obj.step, obj.name)),
    "Index": _INDEX,
    "CategoricalIndex": _INDEX,
    "Int64Index": _INDEX,
    "UInt64Index": _INDEX,
    "Float64Index": _INDEX,
    "DatetimeIndex": ("pandas_DatetimeIndex", _TIMES),
    "TimedeltaIndex": ("pandas_TimedeltaIndex", _TIMES),
    "MultiIndex": ("pandas_MultiIndex", _multi),
    # Columns and tables.
    "Series": ("pandas_Series", lambda obj: (_values(obj), obj.index, obj.name)),
    "DataFrame": ("pandas_DataFrame", _frame),
}
for _name in ("StringArray", "ArrowStringArray"):
    _PANDAS[_name] = _PANDAS[_name + "NumpySemantics"] = ("pandas_StringArray", _strings)
for _name in ("IntegerArray", "FloatingArray", "BooleanArray"):
    _PANDAS[_name] = ("pandas_" + _name, _masked)
for _name in ("Int", "UInt", "Float"):
    for _bits in "8", "16", "32", "64":
        _PANDAS[_name + _bits + "Dtype"] = ("pandas_dtype", lambda obj: (type(obj).__name__,))
_PANDAS["BooleanDtype"] = ("pandas_dtype", lambda obj: (type(obj).__name__,))
