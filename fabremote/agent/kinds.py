"""Says which objects of the standard library are data, and what they consist of.

The other half is ``fabremote.shipping.kinds``, in the same order: each tag here
is the name of a constructor there, which takes the arguments named here. Types
are known by their names, so that no module is imported for them, and exactly:
an object of a subclass is not described.
"""

import sys

from . import kinds_arrays

# Fractions past this many bits cost too much to reduce where they are rebuilt.
FRACTION_BITS = 1 << 14

# The types met so far: type -> (tag, function from an object to its arguments).
_known = {}  # type: ignore[var-annotated]


def describe(obj):
    """Return ``(tag, arguments)`` of ``obj``, or None if it isn't of the start set.

    The arguments are a tuple of primitives, and of containers and objects that
    are to be described in turn.
    """
    cls = type(obj)
    kind = _known.get(cls) or _find(cls)
    if kind is None:
        return None
    args = kind[1](obj)
    return None if args is None else (kind[0], args)


def _find(cls):
    name = "%s.%s" % (cls.__module__, cls.__qualname__)
    kind = _KINDS.get(name) or kinds_arrays.find(name)
    if kind is not None:
        _known[cls] = kind
    return kind


def _list(obj):
    return (list(obj),)


def _dict(obj):
    return (dict(obj.items()),)


def _text(obj):
    return (str(obj),)


def _none(obj):
    return ()


def _struct(obj):
    # The visible fields in order, and those known by name only.
    return obj.__reduce__()[1]


def _fraction(obj):
    args = (obj.numerator, obj.denominator)
    return args if max(map(int.bit_length, args)) <= FRACTION_BITS else None


def _time(obj):
    return (obj.hour, obj.minute, obj.second, obj.microsecond, obj.tzinfo, obj.fold)


def _timezone(obj):
    return (obj.__getinitargs__() + (None,))[:2]


def _zone(obj):
    return None if obj.key is None else (obj.key,)


def _uuid(obj):
    safety = getattr(obj, "is_safe", None)
    return (obj.bytes, "unknown" if safety is None else safety.name)


def _defaultdict(obj):
    factory = obj.default_factory
    if factory is None:
        return (None, dict(obj))
    if type(factory) is not type or factory.__module__ not in ("builtins", "collections"):
        return None
    name = factory.__qualname__
    return (name, dict(obj)) if name in _FACTORIES else None


def _array(obj):
    data = obj.tounicode() if obj.typecode in "uw" else obj.tobytes()
    return (obj.typecode, obj.itemsize, sys.byteorder, data)


def _uname(obj):
    # The processor is looked up when first asked for, which has to be here.
    return (obj.system, obj.node, obj.release, obj.version, obj.machine, obj.processor)


def _member(obj):
    cls = type(obj)
    return ("%s.%s" % (cls.__module__, cls.__qualname__), obj.name)


def _flags(obj):
    # By names, as the numbers of most differ between systems.
    cls = type(obj)
    rest = int(obj)
    names = []
    for name, member in cls.__members__.items():
        bits = int(member)
        if rest > 0 and bits > 0 and rest & bits == bits:
            names.append(name)
            rest -= bits
    return ("%s.%s" % (cls.__module__, cls.__qualname__), tuple(names)) if not rest else None


_FACTORIES = (
    "bool",
    "bytes",
    "dict",
    "float",
    "frozenset",
    "int",
    "list",
    "set",
    "str",
    "tuple",
    "Counter",
    "OrderedDict",
    "deque",
)

# Type -> (tag, function from an object to the arguments of the tag's constructor).
_KINDS = {
    # Built-in ones.
    "builtins.ellipsis": ("Ellipsis", _none),
    "builtins.NotImplementedType": ("NotImplemented", _none),
    "builtins.complex": ("complex", lambda obj: (obj.real, obj.imag)),
    "builtins.bytearray": ("bytearray", lambda obj: (bytes(obj),)),
    "builtins.range": ("range", lambda obj: (obj.start, obj.stop, obj.step)),
    "builtins.slice": ("slice", lambda obj: (obj.start, obj.stop, obj.step)),
    "builtins.mappingproxy": ("MappingProxyType", _dict),
    "types.SimpleNamespace": ("SimpleNamespace", lambda obj: (dict(obj.__dict__),)),
    # Those that come back as plain values: their likes can't be made, or shouldn't.
    "builtins.memoryview": ("bytes", lambda obj: (obj.tobytes(),)),
    "builtins.dict_keys": ("list", _list),
    "builtins.dict_values": ("list", _list),
    "builtins.dict_items": ("list", _list),
    "builtins.odict_keys": ("list", _list),
    "builtins.odict_values": ("list", _list),
    "builtins.odict_items": ("list", _list),
    "os._Environ": ("dict", _dict),
    "sys.version_info": ("tuple", lambda obj: (tuple(obj),)),
    # Numbers.
    "decimal.Decimal": ("Decimal", _text),
    "fractions.Fraction": ("Fraction", _fraction),
    "uuid.UUID": ("UUID", _uuid),
    # Dates and times.
    "datetime.date": ("date", lambda obj: (obj.year, obj.month, obj.day)),
    "datetime.time": ("time", _time),
    "datetime.datetime": (
        "datetime",
        lambda obj: (obj.year, obj.month, obj.day) + _time(obj),
    ),
    "datetime.timedelta": (
        "timedelta",
        lambda obj: (obj.days, obj.seconds, obj.microseconds),
    ),
    "datetime.timezone": ("timezone", _timezone),
    "zoneinfo.ZoneInfo": ("ZoneInfo", _zone),
    "backports.zoneinfo.ZoneInfo": ("ZoneInfo", _zone),
    # Collections.
    "collections.OrderedDict": ("OrderedDict", _dict),
    "collections.Counter": ("Counter", _dict),
    "collections.deque": ("deque", lambda obj: (list(obj), obj.maxlen)),
    "collections.defaultdict": ("defaultdict", _defaultdict),
    "array.array": ("array", _array),
    # Structures of the system.
    "os.stat_result": ("stat_result", _struct),
    "os.statvfs_result": ("statvfs_result", _struct),
    "os.terminal_size": ("terminal_size", _struct),
    "posix.times_result": ("times_result", _struct),
    "nt.times_result": ("times_result", _struct),
    "posix.uname_result": ("uname_result", _struct),
    "time.struct_time": ("struct_time", _struct),
    "pwd.struct_passwd": ("struct_passwd", _struct),
    "grp.struct_group": ("struct_group", _struct),
    "resource.struct_rusage": ("struct_rusage", _struct),
    # Records.
    "shutil.usage": ("disk_usage", tuple),
    "platform.uname_result": ("platform_uname", _uname),
    "subprocess.CompletedProcess": (
        "CompletedProcess",
        lambda obj: (obj.args, obj.returncode, obj.stdout, obj.stderr),
    ),
    # Enumerations.
    "http.HTTPStatus": ("HTTPStatus", lambda obj: (obj.value,)),
    "http.HTTPMethod": ("enum", _member),
    "signal.Handlers": ("enum", _member),
    "signal.Signals": ("enum", _member),
    "socket.AddressFamily": ("enum", _member),
    "socket.SocketKind": ("enum", _member),
    "ssl.TLSVersion": ("enum", _member),
    "uuid.SafeUUID": ("enum", _member),
    "re.RegexFlag": ("flags", _flags),
    "socket.AddressInfo": ("flags", _flags),
    "socket.MsgFlag": ("flags", _flags),
}
for _name in ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath"):
    _KINDS["pathlib." + _name] = _KINDS["pathlib._local." + _name] = (_name, _text)
for _name in ("Address", "Interface", "Network"):
    _KINDS["ipaddress.IPv4" + _name] = ("IPv4" + _name, _text)
    _KINDS["ipaddress.IPv6" + _name] = ("IPv6" + _name, _text)
for _name in ("ParseResult", "SplitResult", "DefragResult"):
    _KINDS["urllib.parse." + _name] = (_name, tuple)
    _KINDS["urllib.parse." + _name + "Bytes"] = (_name + "Bytes", tuple)
