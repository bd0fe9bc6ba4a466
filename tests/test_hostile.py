"""What a host that was broken into might answer: refused or harmless, and no code runs here."""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import io
import marshal
import os
import pickle
import pickletools
import random
import subprocess
import sys
import time
import traceback
import tracemalloc
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fabremote import ResultError
from fabremote.calls import Outcome
from fabremote.shipping import answers, nodes, raised
from fabremote.shipping.answers import Decoder
from fabremote.shipping.kinds import BUILDERS

RAN: list[str] = []


def ran(name: str) -> Any:
    """Note that code of this side ran because of an answer."""
    RAN.append(name)
    return None


class Sentinel:
    """The caller's own class, each method of which tells that it ran."""

    label = "untouched"

    def __init__(self, *args: Any) -> None:
        ran("__init__")

    def __new__(cls, *args: Any) -> Any:
        ran("__new__")
        return object.__new__(cls)

    def __call__(self, *args: Any) -> None:
        ran("__call__")

    def __eq__(self, other: object) -> bool:
        ran("__eq__")
        return self is other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        ran("__repr__")
        return "sentinel"

    def __iter__(self) -> Any:
        ran("__iter__")
        return iter(())

    def __len__(self) -> int:
        ran("__len__")
        return 0

    def __bool__(self) -> bool:
        ran("__bool__")
        return True

    def __getitem__(self, key: Any) -> None:
        ran("__getitem__")

    def __setitem__(self, key: Any, value: Any) -> None:
        ran("__setitem__")

    def append(self, item: Any) -> None:
        ran("append")

    def extend(self, items: Any) -> None:
        ran("extend")

    @property
    def watched(self) -> Any:
        return ran("getter")

    @watched.setter
    def watched(self, value: Any) -> None:
        ran("setter")


class WithSlots:
    __slots__ = ("a", "b")

    @property
    def watched(self) -> Any:
        return ran("getter")

    @watched.setter
    def watched(self, value: Any) -> None:
        ran("setter")


class Descriptor:
    def __get__(self, obj: Any, owner: Any = None) -> Any:
        return ran("__get__")

    def __set__(self, obj: Any, value: Any) -> None:
        ran("__set__")


class Described:
    field = Descriptor()


class Guarded:
    """Its own code would take part in the rebuilding."""

    def __setstate__(self, state: Any) -> None:
        ran("__setstate__")


class GuardedAttr:
    def __setattr__(self, name: str, value: Any) -> None:
        ran("__setattr__")


class OwnList(list[Any]):
    def append(self, item: Any) -> None:
        ran("append")

    def extend(self, items: Any) -> None:
        ran("extend")

    def __init__(self, *args: Any) -> None:
        ran("__init__")


class OwnDict(dict[Any, Any]):
    def __setitem__(self, key: Any, value: Any) -> None:
        ran("__setitem__")

    def update(self, *args: Any) -> None:
        ran("update")


class OwnStr(str):
    def __new__(cls, *args: Any) -> Any:
        ran("__new__")
        return str.__new__(cls, *args)


class OwnInt(int):
    def __new__(cls, *args: Any) -> Any:
        ran("__new__")
        return int.__new__(cls, *args)


class OwnTuple(tuple[Any, ...]):
    def __new__(cls, *args: Any) -> Any:
        ran("__new__")
        return tuple.__new__(cls, *args)


class OwnError(Exception):
    def __init__(self, *args: Any) -> None:
        ran("__init__")

    def __setstate__(self, state: Any) -> None:
        ran("__setstate__")

    def __str__(self) -> str:
        ran("__str__")
        return "own"


class Colour(enum.Enum):
    RED = 1

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return ran("_missing_")


class Bits(enum.Flag):
    A = 1
    B = 2


class Lenient(enum.Flag):
    A = 1
    B = 2

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return ran("_missing_")


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int = 0

    def __post_init__(self) -> None:
        ran("__post_init__")


class Meta(type):
    def __call__(cls, *args: Any) -> Any:
        return ran("metaclass")


class WithMeta(metaclass=Meta):
    pass


CLASSES: list[type] = [
    Sentinel,
    WithSlots,
    Described,
    Guarded,
    GuardedAttr,
    OwnList,
    OwnDict,
    OwnStr,
    OwnInt,
    OwnTuple,
    OwnError,
    Colour,
    Bits,
    Lenient,
    Frozen,
    WithMeta,
]
NUMBER = {cls: number for number, cls in enumerate(CLASSES)}
MODULE = __name__.encode()


# Pickles, written out


def short(data: bytes) -> bytes:
    """A text, as short as it may be."""
    if len(data) > 255:
        return b"X" + le(len(data), 4) + data
    return b"\x8c" + bytes([len(data)]) + data


def value(obj: Any) -> bytes:
    """Opcodes that push a plain value, as an agent writes it but for the memo and frames."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, 4)
    pickler.fast = True
    pickler.dump(obj)
    data = stream.getvalue()[2:-1]  # without PROTO and STOP
    return data[9:] if data[:1] == b"\x95" else data


def tag(name: str) -> bytes:
    return short(b"_fabremote") + short(name.encode()) + b"\x93"


def call(name: str, *args: bytes, state: bytes | None = None) -> bytes:
    """Opcodes that call a tag with arguments, which are opcodes too."""
    made = tag(name) + b"(" + b"".join(args) + b"tR"
    return made if state is None else made + state + b"b"


def instance(cls: Any, base: Any, content: Any, attributes: Any) -> bytes:
    """Opcodes of an instance, as an agent would write it of a class with this built-in base."""
    number = NUMBER[cls] if isinstance(cls, type) else cls
    late = base in ("list", "dict", "set")
    args = [value(number), value(base), value(None if late else content)]
    return call("instance", *args, state=value((attributes, content if late else None)))


def le(number: int, size: int) -> bytes:
    return number.to_bytes(size, "little")


GLOBALS = [
    (b"os", b"system"),
    (b"posix", b"system"),
    (b"builtins", b"eval"),
    (b"builtins", b"exec"),
    (b"builtins", b"getattr"),
    (b"builtins", b"object"),
    (b"builtins", b"type"),
    (b"builtins", b"__import__"),
    (b"__builtin__", b"eval"),
    (b"subprocess", b"Popen"),
    (b"collections", b"OrderedDict"),
    (b"copyreg", b"_reconstructor"),
    (b"_fabremote", b"eval"),
    (b"_fabremote", b"__class__"),
    (b"_fabremote", b"instance.__class__"),
    (b"_fabremote", b"Decimal.__init__.__globals__"),
    (b"_fabremote", b""),
    (b"_fabremote.kinds", b"Decimal"),
    (b"fabremote.shipping.nodes", b"Node"),
    (b"fabremote.agent.loader", b"imported"),
    (b"", b""),
    (b"__main__", b"x"),
    (MODULE, b"ran"),
    (MODULE, b"Sentinel"),
    (MODULE, b"Sentinel.label"),
]


def global_pickles() -> Iterator[tuple[str, bytes]]:
    """Every way to name something, and every opcode that would use it."""
    for module, name in GLOBALS:
        text = f"{module.decode()}.{name.decode()}"
        plain = b"c" + module + b"\n" + name + b"\n"
        stacked = short(module) + short(name) + b"\x93"
        argument = b"(" + value("RAN.append('x')") + b"t"
        yield f"GLOBAL {text}", plain + b"."
        yield f"STACK_GLOBAL {text}", b"\x80\x04" + stacked + b"."
        yield f"REDUCE {text}", plain + argument + b"R."
        yield f"STACK REDUCE {text}", b"\x80\x04" + stacked + argument + b"R."
        yield f"NEWOBJ {text}", b"\x80\x02" + plain + argument + b"\x81."
        yield f"NEWOBJ_EX {text}", b"\x80\x04" + stacked + argument + b"}\x92."
        yield f"INST {text}", b"(" + value("x") + b"i" + module + b"\n" + name + b"\n."
        yield f"OBJ {text}", b"(" + plain + value("x") + b"o."


DECIMAL = call("Decimal", value("1"))
STATEFUL = instance(WithSlots, None, None, {"a": 1})

OPCODES: list[tuple[str, bytes]] = [
    ("STACK_GLOBAL of numbers", b"\x80\x04K\x01K\x02\x93."),
    ("STACK_GLOBAL of tags", b"\x80\x04" + tag("Decimal") * 2 + b"\x93."),
    ("STACK_GLOBAL of a node", b"\x80\x04" + DECIMAL + short(b"x") + b"\x93."),
    ("REDUCE of a value", value([1]) + b"(tR."),
    ("REDUCE of a text", value("eval") + b"(tR."),
    ("REDUCE of a node", DECIMAL + b"(tR."),
    ("REDUCE without a tuple", tag("Decimal") + b"]R."),
    ("REDUCE with a text", tag("Decimal") + value("1") + b"R."),
    ("REDUCE twice", tag("Decimal") + b"(tR(tR."),
    ("NEWOBJ of a tag", b"\x80\x02" + tag("Decimal") + b"(" + value("1") + b"t\x81."),
    ("NEWOBJ of a node", b"\x80\x02" + DECIMAL + b")\x81."),
    ("NEWOBJ of a value", b"\x80\x02" + value(5) + b")\x81."),
    ("NEWOBJ_EX of a tag", b"\x80\x04" + tag("Decimal") + b")}\x92."),
    ("OBJ of a tag", b"(" + tag("Decimal") + value("1") + b"o."),
    ("INST of a tag", b"(" + value("1") + b"i_fabremote\nDecimal\n."),
    ("INST of a tag without arguments", b"(i_fabremote\nEllipsis\n."),
    ("BUILD on a tag", tag("Decimal") + b"(" + value(1) + b"tb."),
    ("BUILD on a tag by a dict", tag("Decimal") + value({"_name": "eval"}) + b"b."),
    ("BUILD on a node by a dict", DECIMAL + value({"name": "trusted"}) + b"b."),
    ("BUILD on a node by slots", DECIMAL + value((None, {"name": "trusted"})) + b"b."),
    ("BUILD on a node by a list", DECIMAL + b"]b."),
    ("BUILD on a node by None", DECIMAL + b"Nb."),
    ("BUILD on a node twice", STATEFUL + value(({"a": 2}, None)) + b"b."),
    ("BUILD on a node by itself", DECIMAL + b"2b."),
    ("BUILD on a list", b"]" + value({"append": 1}) + b"b."),
    ("BUILD on a dict", b"}" + value({"x": 1}) + b"b."),
    ("BUILD on a number", b"K\x01" + value({"x": 1}) + b"b."),
    ("BUILD on a text", value("a") + value((None, {"x": 1})) + b"b."),
    ("BUILD on a set", b"\x80\x04\x8f" + value({"x": 1}) + b"b."),
    ("BUILD on None", b"N}b."),
    ("BUILD __class__ on a list", b"]" + value({"__class__": 1}) + b"b."),
    ("EXT1", b"\x80\x02\x82\xf0."),
    ("EXT2", b"\x80\x02\x83\xf0\xf0."),
    ("EXT4", b"\x80\x02\x84\xf0\xf0\xf0\x00."),
    ("EXT1 called", b"\x80\x02\x82\xf0(" + value("x") + b"tR."),
    ("EXT2 called", b"\x80\x02\x83\xf0\xf0(" + value("x") + b"tR."),
    ("EXT4 called", b"\x80\x02\x84\xf0\xf0\xf0\x00(" + value("x") + b"tR."),
    ("EXT1 NEWOBJ", b"\x80\x02\x82\xf0)\x81."),
    ("EXT1 unknown", b"\x80\x02\x82\x07."),
    ("EXT1 zero", b"\x80\x02\x82\x00."),
    ("EXT4 negative", b"\x80\x02\x84\xff\xff\xff\xff."),
    ("PERSID", b"P0\n."),
    ("PERSID of nothing", b"P\n."),
    ("BINPERSID", b"K\x00Q."),
    ("BINPERSID of a tag", tag("Decimal") + b"Q."),
    ("NEXT_BUFFER", b"\x80\x05\x97."),
    ("NEXT_BUFFER twice", b"\x80\x05\x97\x97."),
    ("READONLY_BUFFER", b"\x80\x05\x98."),
    ("READONLY_BUFFER of bytes", b"\x80\x05" + b"C\x01x" + b"\x98."),
    ("READONLY_BUFFER of a node", b"\x80\x05" + DECIMAL + b"\x98."),
    ("APPEND on a node", DECIMAL + b"K\x01a."),
    ("APPENDS on a node", DECIMAL + b"(K\x01K\x02e."),
    ("APPEND on a tag", tag("Decimal") + b"K\x01a."),
    ("APPENDS on a tag", tag("Decimal") + b"(K\x01K\x02e."),
    ("APPENDS on a tuple", b")(K\x01e."),
    ("APPENDS on a dict", b"}(K\x01e."),
    ("APPENDS on bytes", b"C\x01x(K\x01e."),
    ("APPENDS on a bytearray", b"\x80\x05\x96" + le(1, 8) + b"x(K\x01e."),
    ("APPENDS on a bytearray of nodes", b"\x80\x05\x96" + le(1, 8) + b"x(" + DECIMAL + b"e."),
    ("SETITEM on a node", DECIMAL + b"K\x01K\x02s."),
    ("SETITEMS on a node", DECIMAL + b"(K\x01K\x02u."),
    ("SETITEMS on a tag", tag("Decimal") + b"(K\x01K\x02u."),
    ("SETITEMS on a list", b"](K\x00K\x02u."),
    ("SETITEMS on a list by a slice", b"](" + call("slice", *[b"N"] * 3) + b"]u."),
    ("SETITEMS on a bytearray", b"\x80\x05\x96" + le(1, 8) + b"x(K\x00K\x02u."),
    ("SETITEMS with an odd number", b"}(K\x01u."),
    ("SETITEMS with a list as a key", b"}(]K\x01u."),
    ("ADDITEMS on a node", b"\x80\x04" + DECIMAL + b"(K\x01\x90."),
    ("ADDITEMS on a tag", b"\x80\x04" + tag("Decimal") + b"(K\x01\x90."),
    ("ADDITEMS on a list", b"\x80\x04](K\x01\x90."),
    ("ADDITEMS of a list", b"\x80\x04\x8f(]\x90."),
    ("FROZENSET of a list", b"\x80\x04(]\x91."),
    ("DICT of an odd number", b"(K\x01d."),
    ("a tag as a value", tag("Decimal") + b"."),
    ("a tag in a list", b"](" + tag("Decimal") + b"e."),
    ("a tag as an argument", call("slice", tag("Decimal"), b"N", b"N") + b"."),
    ("a tag as a key", b"}" + tag("Decimal") + b"Ns."),
    ("a tag in a set", b"\x80\x04\x8f(" + tag("Decimal") + b"\x90."),
    ("a tag as a state", call("instance", b"K\x01NN", state=tag("Decimal")) + b"."),
    ("a tag in a state", call("instance", b"K\x01NN", state=tag("Decimal") + b"N\x86") + b"."),
    ("a node in a state", call("instance", b"K\x01NN", state=DECIMAL + b"N\x86") + b"."),
    ("a list as a node's key", b"}" + call("list", value([1])) + b"Ns."),
    ("unhashable nodes in a set", b"\x80\x04\x8f(" + call("list", value([1])) + b"\x90."),
    ("a cycle of tuples", b"(]q\x00h\x00a(h\x00tq\x01h\x01tR."),
    ("a tuple in itself through a node", b"]q\x00(" + call("tuple", b"h\x00t") + b"a."),
    ("a node in its own arguments", b"]q\x00" + call("list", b"h\x00") + b"q\x01a0h\x01."),
    ("a node in its own state", STATEFUL + b"q\x00(}" + value("b") + b"h\x00stb."),
    ("protocol 255", b"\x80\xffN."),
    ("protocol 6", b"\x80\x06N."),
    ("an unknown opcode", b"\xffN."),
    ("a memo that is not there", b"h\x05."),
    ("a long memo that is not there", b"j\xff\xff\xff\xff."),
    ("a text memo that is not there", b"g99999999999\n."),
    ("a negative memo", b"Np-1\n."),
    ("a memo that is no number", b"Npx\n."),
    ("nothing on the stack", b"."),
    ("POP of nothing", b"0."),
    ("POP_MARK without a mark", b"1."),
    ("DUP of nothing", b"2."),
    ("TUPLE without a mark", b"t."),
    ("TUPLE3 of one", b"\x80\x02N\x87."),
    ("MEMOIZE of nothing", b"\x80\x04\x94."),
    ("a mark that is left", b"N(."),
    ("an int that is none", b"Iabc\n."),
    ("an int that goes on", b"I" + b"9" * 100_000 + b"\n."),
    ("a long that goes on", b"L" + b"9" * 100_000 + b"L\n."),
    ("a float that is none", b"Fabc\n."),
    ("a string without quotes", b"Sabc\n."),
    ("a string with an escape", b"S'\\xzz'\n."),
    ("a unicode line with an escape", b"V\\u12\n."),
    ("text that is not UTF-8", b"X" + le(2, 4) + b"\xff\xfe."),
    ("short text that is not UTF-8", b"\x80\x04\x8c\x02\xff\xfe."),
    ("a negative LONG4", b"\x80\x02\x8b\xff\xff\xff\xff."),
    ("a negative BINSTRING", b"T\xff\xff\xff\xff."),
    ("bytes after the end", b"N.N."),
    ("empty", b""),
    ("one zero", b"\0"),
    ("not a pickle", b"GET / HTTP/1.1\r\n\r\n"),
    ("marshal", marshal.dumps(compile("1", "x", "eval"))),
    ("a class by the stock pickler", pickle.dumps(Sentinel)),
    ("a function by the stock pickler", pickle.dumps(ran, 0)),
    ("a counter by the stock pickler", pickle.dumps(types.SimpleNamespace(a=1))),
]

ODD: list[Any] = [
    None,
    -1,
    10**30,
    True,
    0.5,
    "",
    "x",
    b"x",
    [],
    {},
    (),
    ("builtins", "eval"),
    [1],
]


def own_tag_pickles() -> Iterator[tuple[str, bytes]]:
    """Calls of the tags of the caller's own classes with arguments that they don't take."""
    for name in ("instance", "member", "raised", "trusted"):
        for count in range(6):
            yield f"{name} of {count} Nones", call(name, *[b"N"] * count) + b"."
            yield (
                f"{name} of {count} Nones and a state",
                call(name, *[b"N"] * count, state=b")") + b".",
            )
        for odd in ODD:
            parts = [value(odd)] * 3
            yield f"{name} of 3 times {odd!r}", call(name, *parts) + b"."
            yield f"{name}(0, 2 times {odd!r})", call(name, b"K\x00", *parts[1:]) + b"."
            yield (
                f"{name} with state {odd!r}",
                (call(name, b"K\x00", b"N", b"N", state=value((odd,))) + b"."),
            )
    for name in sorted(BUILDERS):
        yield f"{name} without arguments, with a state", call(name, state=value(({},))) + b"."


BASES = (None, "int", "float", "str", "bytes", "list", "tuple", "dict", "set", "type", "object")
CONTENTS: list[Any] = [None, 1, 0.5, "a", b"a", [1], (1,), {1: 2}, {1}]


def base_pickles() -> Iterator[tuple[str, bytes]]:
    """Every own class with the content of another one."""
    for cls in CLASSES:
        for base in BASES:
            content = CONTENTS[BASES.index(base) % len(CONTENTS)]
            yield f"a {cls.__name__} of {base}", instance(cls, base, content, {}) + b"."
            early = call("instance", *map(value, (NUMBER[cls], base, content)))
            yield f"a {cls.__name__} of {base} without a state", early + b"."
            late = call("instance", *map(value, (NUMBER[cls], base, None)), state=value(({}, 5)))
            yield f"a {cls.__name__} of {base} with 5", late + b"."


STATES: list[Any] = [
    {"__class__": 0},
    {"__dict__": {}},
    {"__init__": 1},
    {"__reduce__": 1},
    {"__slots__": 1},
    {"__weakref__": 1},
    {"__cause__": 1},
    {1: 2},
    {None: 2},
    {(): 2},
    {"": 1},
    {b"a": 1},
    {"watched": 1},
    {"field": 1},
    {"label": "touched"},
    {"append": 1},
    {"name": 1, "_name_": 2, "_value_": 3, "__objclass__": 4},
    {"args": 1},
    {"x": 5},
    {"a": 1, "c": 2},
    [],
    ("a", 1),
    None,
]


def state_pickles() -> Iterator[tuple[str, bytes]]:
    """Every own class with attributes that nobody should set."""
    for cls in CLASSES:
        for state in STATES:
            yield f"a {cls.__name__} with {state!r}", instance(cls, None, None, state) + b"."
            early = call("instance", value(NUMBER[cls]), b"N", b"N", state=value((state,)))
            yield f"a {cls.__name__} with only {state!r}", early + b"."


REFERENCES: list[Any] = [
    len(CLASSES),
    -1,
    1 << 70,
    0.0,
    True,
    "0",
    (__name__, "Sentinel"),
    ("builtins", "object"),
    ("builtins", "type"),
    ("subprocess", "Popen"),
    ("os", "stat_result"),
    ("tests.known", "os.system"),
    ("tests.known", "__class__"),
    ("tests.known", "Known.__class__"),
    ("tests.known", "Known.method"),
    ("tests.known", "Known.method.__globals__"),
    ("tests.known", "Sentinel"),
    ("tests.known", "imported"),
    ("tests.known", ""),
    ("tests.known", None),
    ("tests.known",),
    ("tests.known", "Known", "x"),
    ["tests.known", "Known"],
]


def reference_pickles() -> Iterator[tuple[str, bytes]]:
    """References to classes that are not part of the call."""
    for ref in REFERENCES:
        yield f"an instance of {ref!r}", instance(ref, None, None, {}) + b"."
        yield f"a member of {ref!r}", call("member", value(ref), value("RED")) + b"."
        yield f"an exception {ref!r}", call("raised", value(ref), b")", b"}") + b"."
        yield f"a trusted {ref!r}", call("trusted", value(ref), value("call"), b")") + b"."


MEMBERS: list[tuple[Any, ...]] = [
    (Colour, "__class__"),
    (Colour, "mro"),
    (Colour, "_member_map_"),
    (Colour, None, 5),
    (Colour, None, 1),
    (Colour, 1),
    (Colour, "RED", 1, 2),
    (Lenient, None, 3),
    (Lenient, None, 1 << 40),
    (Bits, None, "1"),
    (Bits, None, True),
    (Bits, None, 1 << 100),
    (Bits, None, -(1 << 100)),
    (Bits, None),
    (Sentinel, "label"),
    (WithMeta, "x"),
    (OwnError, "x"),
]

EXCEPTIONS: list[tuple[Any, ...]] = [
    (Sentinel, (), {}),
    (OwnError, (1,), {}),
    (OwnError, None, {}),
    (OwnError, (), None),
    (OwnError, [], {}),
    (OwnError, (), {"__class__": 1}),
    (OwnError, (), {"__cause__": 1}),
    (OwnError, (), {"__traceback__": 1}),
    (OwnError, (), {"__notes__": [1]}),
    (OwnError, (), {"args": 5}),
    (OwnError, (), {"with_traceback": 5}),
    (OwnError, (), {1: 5}),
    (OwnError, (), {"name": 5, "path": 6}),
    (("builtins", "eval"), ("1",), {}),
    (("builtins", "object"), (), {}),
    (("builtins", "ValueError.__init__"), (), {}),
    (("builtins", "__import__"), ("os",), {}),
    (("os", "error"), (), {}),
    (("subprocess", "Popen"), (["true"],), {}),
    (("json.decoder", "JSONDecoder"), (), {}),
    (("json.decoder", "JSONDecodeError"), (1, 2, 3), {}),
    (("urllib.error", "HTTPError"), (1,), {}),
    (("builtins", "UnicodeDecodeError"), (), {}),
    (("builtins", "UnicodeDecodeError"), ("utf-8", b"", 10**30, 1, "x"), {}),
    (("builtins", "UnicodeDecodeError"), ("utf-8", b"a", -5, 1 << 62, "x"), {}),
    (("builtins", "UnicodeDecodeError"), ("utf-8", b"a", -(1 << 40), -(1 << 40) + 1, "x"), {}),
    (("builtins", "UnicodeEncodeError"), ("utf-8", "a", -(1 << 40), -(1 << 40) + 1, "x"), {}),
    (("builtins", "UnicodeTranslateError"), ("a", -(1 << 40), -(1 << 40) + 1, "x"), {}),
    (("builtins", "SyntaxError"), ("a", ("f", 1, 1, "x", 1, 1 << 40)), {}),
    (("builtins", "SyntaxError"), ("a", ("f", 1, 1 << 40, "x", 1, 1 << 40)), {}),
    (("builtins", "SyntaxError"), ("a", (1,)), {}),
    (("builtins", "SyntaxError"), ("a", 5), {}),
    (("builtins", "OSError"), ([], {}, (), None, 5), {}),
    (("builtins", "BlockingIOError"), (1, "x", "y"), {}),
    (("builtins", "ExceptionGroup"), ("a", [1]), {}),
    (("builtins", "ExceptionGroup"), ("a",), {}),
    (("builtins", "BaseExceptionGroup"), (), {}),
    (("builtins", "ImportError"), ("a",), {"name": [1], "path": {}}),
    (("builtins", "AttributeError"), ("a",), {"obj": 5, "name": 5}),
    (("builtins", "StopIteration"), (), {"value": 5}),
    (("builtins", None), (), {}),
    (("builtins", b"ValueError"), (), {}),
    ((None, None), (), {}),
    ((["builtins"], "ValueError"), (), {}),
]

TRUSTED: list[tuple[Any, ...]] = [
    (0, "call", ()),
    (0, "new", ()),
    (0, "new_ex", ((), {})),
    (0, "eval", ()),
    (0, None, ()),
    (0, "new_ex", (5, 5)),
    (0, "call", None),
    (True, "call", ()),
    (-1, "call", ()),
]


def own_object_pickles() -> Iterator[tuple[str, bytes]]:
    """Members, exceptions and trusted objects that there are not."""
    for cls, *rest in MEMBERS:
        yield (
            f"a member {cls.__name__} {rest!r:.40}",
            (call("member", *map(value, [NUMBER[cls], *rest])) + b"."),
        )
    for ref, *rest in EXCEPTIONS:
        number = NUMBER[ref] if isinstance(ref, type) else ref
        yield (
            f"an exception {ref} {rest!r:.40}",
            call("raised", *map(value, [number, *rest])) + b".",
        )
    for args in TRUSTED:
        state = value(([1], [2], [(3, 4)]))
        yield f"a trusted {args}", call("trusted", *map(value, args)) + b"."
        yield (
            f"a trusted {args} with a state",
            call("trusted", *map(value, args), state=state) + b".",
        )


SAMPLE = pickle.dumps({"a": [1, 2.5, ("b", b"c")], "d": {1, 2}, "e": "f" * 300}, 4)


def damaged_pickles() -> Iterator[tuple[str, bytes]]:
    """Truncated, shuffled and invented ones."""
    good = [SAMPLE, STATEFUL + b".", b"(" + DECIMAL + b"t."]
    for number, data in enumerate(good):
        for size in range(0, len(data), max(1, len(data) // 25)):
            yield f"sample {number} cut to {size}", data[:size]
    dice = random.Random(5)
    for number in range(300):
        data = bytearray(dice.choice(good))
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(len(data))] = dice.choice(OPCODE_BYTES)
        yield f"damaged {number}", bytes(data)
    for number in range(200):
        yield f"garbage {number}", bytes(dice.choices(OPCODE_BYTES, k=dice.randint(1, 60)))
    for number in range(50):
        yield f"noise {number}", dice.randbytes(dice.randint(1, 200))


# LONG_BINPUT and PUT are tried apart, where memory is limited.
OPCODE_BYTES = [ord(op.code) for op in pickletools.opcodes if op.code not in "rp"] + [
    0,
    1,
    10,
    255,
]

ALL: list[tuple[str, bytes]] = [
    *global_pickles(),
    *OPCODES,
    *own_tag_pickles(),
    *base_pickles(),
    *state_pickles(),
    *reference_pickles(),
    *own_object_pickles(),
    *damaged_pickles(),
]


# Reading them


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of the caller's own that went along, and sentinels that have not run."""
    module = types.ModuleType("tests.known")
    exec(
        "class Known:\n    def method(self): pass\nimport os\nfrom os import stat_result",
        vars(module),
    )
    vars(module)["Sentinel"] = vars(module)["imported"] = Sentinel
    monkeypatch.setitem(sys.modules, "tests.known", module)
    RAN.clear()
    yield
    RAN.clear()


def decoder(trust: Any = ()) -> Decoder:
    return Decoder("f() on host", list(CLASSES), frozenset(["tests.known"]), trust)


def snapshot() -> list[Any]:
    """What of the caller's classes an answer must not change."""
    mine = [dict(vars(cls)) for cls in CLASSES]
    ours = [dict(vars(cls)) for cls in (nodes.Node, nodes.Tag, nodes.Builder, Decoder)]
    return [*mine, *ours, dict(BUILDERS), list(vars(Colour.RED).items()), sorted(sys.modules)]


HARMLESS = (type(None), bool, int, float, complex, str, bytes, bytearray, range, slice)


def check_harmless(obj: Any, seen: set[int]) -> None:
    """A value may hold data, the standard kinds, and bare instances of the caller's classes."""
    assert not isinstance(obj, (nodes.Node, nodes.Tag, types.FunctionType, type(len)))
    if id(obj) in seen or type(obj) in HARMLESS:
        return
    seen.add(id(obj))
    assert type(obj) in CLASSES or not isinstance(obj, type)
    if type(obj) in (list, tuple, set, frozenset):
        for item in obj:
            check_harmless(item, seen)
    elif type(obj) is dict:
        for pair in obj.items():
            check_harmless(pair, seen)


def check_message(text: str) -> None:
    """A message may quote the host only briefly, and obeys nothing that it says."""
    assert len(text) < 1000
    assert all(char in "\n\t" or char.isprintable() for char in text), ascii(text)


def check_refused_or_harmless(data: bytes, trust: Any = ()) -> Any:
    """Read an answer; it must be data or a ResultError, and must not run code or change any."""
    before = snapshot()
    started = time.process_time()
    tracemalloc.start()
    try:
        result = decoder(trust).value(memoryview(data))
    except ResultError as error:
        result = error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - started < 10
    assert peak < 50 << 20
    if isinstance(result, ResultError):
        check_message(str(result))
    if isinstance(result, Exception):
        # Nor does it harm to show it.
        assert len("".join(traceback.format_exception(result))) < 1 << 20
        RAN[:] = [name for name in RAN if name != "__str__"]
    assert RAN == []
    check_harmless(result, set())
    after = snapshot()
    for was, now in zip(before[:-1], after[:-1], strict=True):
        assert now == was if not isinstance(was, dict) else now.keys() == was.keys()
        if isinstance(was, dict):
            assert all(now[key] is was[key] for key in was)
    return result


def numbered(cases: list[tuple[str, bytes]]) -> list[Any]:
    return [pytest.param(data, id=f"{n}-{name[:60]!a}") for n, (name, data) in enumerate(cases)]


def test_there_are_enough_of_them() -> None:
    assert len({data for _, data in ALL}) > 1000


def test_every_opcode_that_calls_builds_or_extends_is_among_them() -> None:
    """Of those written by hand: each of these is read, not only in a text."""
    used = set()
    for _, data in [*global_pickles(), *OPCODES, *own_tag_pickles()]:
        try:
            used.update(opcode.name for opcode, _, _ in pickletools.genops(data))
        except Exception:
            continue  # not well formed from some place on
    calls = "REDUCE NEWOBJ NEWOBJ_EX INST OBJ BUILD GLOBAL STACK_GLOBAL EXT1 EXT2 EXT4 PERSID"
    fills = "BINPERSID APPEND APPENDS SETITEM SETITEMS ADDITEMS NEXT_BUFFER READONLY_BUFFER"
    assert used >= {*calls.split(), *fills.split()}


@pytest.mark.parametrize("data", numbered(ALL))
def test_a_hostile_value_is_refused_or_harmless(data: bytes) -> None:
    check_refused_or_harmless(data)


@pytest.mark.parametrize("data", numbered([*global_pickles()]))
def test_what_names_code_is_refused(data: bytes) -> None:
    assert isinstance(check_refused_or_harmless(data), ResultError)


def test_trusting_one_class_does_not_open_others() -> None:
    class Trusted:
        pass

    for name, data in ALL:
        if "trusted" not in name:
            check_refused_or_harmless(data, trust=(Trusted,))


def test_a_hostile_description_of_an_exception_is_refused() -> None:
    for name, data in ALL:
        with pytest.raises(ResultError):
            raised.records(memoryview(data))
        assert RAN == [], name


def test_plain_answers_hold_built_in_values_only() -> None:
    for name, data in ALL:
        try:
            found = answers.plain(memoryview(data))
        except ResultError:
            found = None
        check_harmless(found, set())
        assert RAN == [], name


# Extension codes, which bypass find_class once they are in copyreg's cache


@pytest.fixture
def extension() -> Iterator[None]:
    """A registered extension whose object is in the cache."""
    codes = (0xF0, 0xF0F0, 0xF0F0F0)
    names = ("Sentinel", "ran", "CLASSES")
    for code, name in zip(codes, names, strict=True):
        copyreg.add_extension(__name__, name, code)
    for opcode, code, size in (
        (b"\x82", codes[0], 1),
        (b"\x83", codes[1], 2),
        (b"\x84", codes[2], 4),
    ):
        pickle.loads(b"\x80\x02" + opcode + le(code, size) + b".")
    assert set(codes) <= set(copyreg._extension_cache)  # type: ignore[attr-defined]
    yield
    for code, name in zip(codes, names, strict=True):
        copyreg.remove_extension(__name__, name, code)
    assert not copyreg._extension_cache  # type: ignore[attr-defined]


EXTENSIONS = [(name, data) for name, data in OPCODES if name.startswith("EXT")]


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("data", numbered(EXTENSIONS))
def test_a_cached_extension_is_refused(data: bytes) -> None:
    assert isinstance(check_refused_or_harmless(data), ResultError)


@pytest.mark.usefixtures("extension")
def test_nothing_gets_through_the_reader_that_refuses_extensions() -> None:
    for _, data in ALL:
        check_refused_or_harmless(data)


@pytest.mark.usefixtures("extension")
def test_answers_are_still_read_beside_extensions() -> None:
    assert decoder().value(memoryview(SAMPLE)) == pickle.loads(SAMPLE)
    made = decoder().value(memoryview(b"\x80\x04" + STATEFUL + b"."))
    assert (type(made), made.a) == (WithSlots, 1)


# Setters and code of the caller's classes


@pytest.mark.parametrize(
    ("cls", "name"), [(Sentinel, "watched"), (WithSlots, "watched"), (Described, "field")]
)
def test_setters_never_run(cls: type, name: str) -> None:
    result = check_refused_or_harmless(instance(cls, None, None, {name: 5}) + b".")
    assert isinstance(result, ResultError) or vars(result) == {name: 5}


@pytest.mark.parametrize("cls", [Guarded, GuardedAttr])
def test_code_of_a_class_never_runs_without_trust(cls: type) -> None:
    result = check_refused_or_harmless(instance(cls, None, None, {"x": 5}) + b".")
    assert isinstance(result, ResultError)


@pytest.mark.parametrize(
    ("cls", "base", "content"),
    [
        (OwnList, "list", [1, 2]),
        (OwnDict, "dict", {1: 2}),
        (OwnStr, "str", "a"),
        (OwnInt, "int", 5),
        (OwnTuple, "tuple", (1, 2)),
        (Sentinel, None, None),
        (Frozen, None, None),
        (WithMeta, None, None),
    ],
)
def test_an_instance_is_made_without_its_code(cls: type, base: Any, content: Any) -> None:
    result = check_refused_or_harmless(instance(cls, base, content, {"x": [5]}) + b".")
    assert type(result) is cls
    assert vars(result) == {"x": [5]}


@pytest.mark.parametrize("name", ["__class__", "__dict__", "__init__", "__reduce__", "__slots__"])
@pytest.mark.parametrize("cls", [Sentinel, WithSlots, OwnList, Frozen])
def test_special_attributes_are_refused(cls: type, name: str) -> None:
    base = "list" if cls is OwnList else None
    data = instance(cls, base, [] if base else None, {name: 5}) + b"."
    assert isinstance(check_refused_or_harmless(data), ResultError)


def test_an_enum_takes_no_instances() -> None:
    for state in ({}, {"_name_": "X", "_value_": 9}):
        data = instance(Colour, None, None, state) + b"."
        assert isinstance(check_refused_or_harmless(data), ResultError)


def test_a_message_is_short_and_printable() -> None:
    names = [b"a" * 10_000, b"\x1b[31mred", "\u202e\x9b".encode(), b"x\ry"]
    for name in names:
        for data in (b"c" + name + b"\n" + name + b"\n.", b"Np" + name + b"\n."):
            assert isinstance(check_refused_or_harmless(data), ResultError)
        data = instance((name.decode(), "X"), None, None, {}) + b"."
        assert isinstance(check_refused_or_harmless(data), ResultError)
        for state in ({name.decode(): 1}, {(name.decode(),): 1}):
            check_refused_or_harmless(instance(WithSlots, None, None, state) + b".")
        for tagged in (call("member", value(NUMBER[Colour]), value(name.decode())),):
            assert isinstance(check_refused_or_harmless(tagged + b"."), ResultError)


# Descriptions of exceptions

GOOD: tuple[Any, ...] = (
    *("builtins", "ValueError", "text", ["'a'"], [], [("f.py", 3, "f", "line", False)]),
    *(None, None, False, None, None),
)


def described(*records: Any) -> memoryview:
    return memoryview(pickle.dumps(list(records), 4))


def changed(index: int, part: Any) -> tuple[Any, ...]:
    return (*GOOD[:index], part, *GOOD[index + 1 :])


RECORDS: list[Any] = [
    None,
    5,
    [],
    {},
    "abc",
    [None],
    [()],
    [GOOD[:-1]],
    [(*GOOD, 1)],
    [list(GOOD), 5],
    [GOOD] * 1000,
    *([changed(index, odd)] for index in range(11) for odd in (5, [5], {"a": 1}, (1,), "x", b"y")),
    [changed(5, [("f.py",)])],
    [changed(5, [("f.py", "3", "f", None, True)])],
    [changed(5, [("f.py", 3, "f", 5, True)])],
    [changed(5, [("f.py", 10**30, "f", None, True)])],
    [changed(5, [("/etc/passwd", 1, "f", None, True)])],
    [changed(6, 0)],
    [changed(6, -1)],
    [changed(7, 0)],
    [changed(6, 1), changed(6, 0)],
    [changed(9, [0])],
    [changed(9, [0] * 100_000)],
    [changed(9, [1, 1]), changed(9, [0, 0])],
    [changed(10, b"garbage")],
    [changed(10, pickle.dumps(("whole", 5), 4))],
    [changed(10, pickle.dumps(("parts", 1, 2, 3), 4))],
    [changed(10, pickle.dumps(("parts", ("builtins", "eval"), ("1",), {}), 4))],
    [changed(10, pickle.dumps(("parts", ("builtins", "SystemExit"), (1,), {}), 4))],
    [changed(10, pickle.dumps(("parts", NUMBER[Sentinel], (1,), {}), 4))],
    [changed(10, pickle.dumps(("parts", NUMBER[OwnError], (1,), {"__class__": 1}), 4))],
    [changed(10, pickle.dumps(("parts", 99, (1,), {}), 4))],
    [changed(10, pickle.dumps(("parts", [], (1,), {}), 4))],
    [changed(10, pickle.dumps(("parts", ([], {}), (1,), {}), 4))],
    [changed(10, pickle.dumps(("parts", ("builtins", "ExceptionGroup"), ("m",), {}), 4))],
]


@pytest.mark.parametrize("records", RECORDS, ids=lambda records: f"{records!r:.60}")
def test_hostile_records_give_an_exception_or_an_error(records: Any) -> None:
    before = snapshot()
    try:
        found = raised.records(memoryview(pickle.dumps(records, 4)))
        made: Any = raised.rebuild(found, decoder(), "host")
    except ResultError as error:
        made = error
    assert isinstance(made, BaseException)
    assert RAN == []
    assert [part.keys() for part in before[:10]] == [part.keys() for part in snapshot()[:10]]


def test_a_hosts_frames_do_not_read_files_of_this_machine(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret\n")
    record = changed(5, [(str(secret), 1, "f", None, True)])
    found = raised.records(described(record))
    assert "the secret" not in raised.render(found, 0, "host")


def test_a_hosts_frames_do_not_wait_for_files_of_this_machine(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    record = changed(5, [(str(pipe), 1, "f", None, True)])
    assert str(pipe) in raised.render(raised.records(described(record)), 0, "host")


# Bombs, read in a process of their own whose memory is limited

READ = """
import resource, sys
sys.path.insert(0, {root!r})
from fabremote import ResultError
from fabremote.shipping.answers import Decoder
class Own: pass
limit = 1 << 30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
data = sys.stdin.buffer.read()
decoder = Decoder("f() on host", [Own], frozenset(), ())
before = resource.getrusage(resource.RUSAGE_SELF)
try:
    value = decoder.value(memoryview(data))
except ResultError as error:
    value = None
    assert len(str(error)) < 1000, len(str(error))
after = resource.getrusage(resource.RUSAGE_SELF)
print(round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2))
print((after.ru_maxrss - before.ru_maxrss) >> 10)
del value
"""


def costs(data: bytes) -> tuple[float, int]:
    """CPU seconds and MB that reading an answer takes; it must be read or refused."""
    root = str(Path(answers.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", READ.format(root=root)],
        input=data,
        capture_output=True,
        timeout=40,
    )
    assert done.returncode == 0, done.stderr.decode()[-500:] or f"status {done.returncode}"
    seconds, megabytes = done.stdout.split()
    return float(seconds), int(megabytes)


def doubled(times: int, opcode: bytes = b"2\x86") -> bytes:
    """A tuple of a tuple twice, and so on: small here, endless if it is walked."""
    return b")" + opcode * times


BOMBS: list[tuple[str, bytes]] = [
    ("a long memo", b"\x80\x04Nr" + le(0x05FFFFFF, 4) + b"."),
    ("a longer memo", b"\x80\x04Nr" + le(0x3FFFFFFF, 4) + b"."),
    ("the longest memo", b"\x80\x04Nr" + le(0xFFFFFFFF, 4) + b"."),
    ("a long memo in text", b"Np50000000\n."),
    ("the longest memo in text", b"Np" + b"9" * 18 + b"\n."),
    ("BINBYTES8 of a terabyte", b"\x80\x04\x8e" + le(1 << 40, 8) + b"abc."),
    ("BINBYTES8 of all there is", b"\x80\x04\x8e" + le((1 << 63) - 1, 8) + b"abc."),
    ("BINBYTES8 of more", b"\x80\x04\x8e" + le((1 << 64) - 1, 8) + b"abc."),
    ("BINUNICODE8 of a terabyte", b"\x80\x04\x8d" + le(1 << 40, 8) + b"abc."),
    ("BYTEARRAY8 of a terabyte", b"\x80\x05\x96" + le(1 << 40, 8) + b"abc."),
    ("BYTEARRAY8 of half a gigabyte", b"\x80\x05\x96" + le(1 << 29, 8) + b"abc."),
    ("BINBYTES of four gigabytes", b"\x80\x03B" + le(0xFFFFFFFF, 4) + b"abc."),
    ("BINUNICODE of four gigabytes", b"\x80\x03X" + le(0xFFFFFFFF, 4) + b"abc."),
    ("LONG4 of two gigabytes", b"\x80\x03\x8b" + le(0x7FFFFFFF, 4) + b"abc."),
    ("FRAME of a terabyte", b"\x80\x04\x95" + le(1 << 40, 8) + b"N."),
    ("a hundred thousand lists", b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    ("a million lists", b"\x80\x04" + b"]" * 1_000_000 + b"a" * 999_999 + b"."),
    ("a million tuples", b"\x80\x04)" + b"\x85" * 1_000_000 + b"."),
    ("a million dicts", b"\x80\x04" + b"}N" * 1_000_000 + b"Ns" + b"s" * 999_998 + b"."),
    ("a million marks", b"\x80\x04" + b"(" * 1_000_000 + b"."),
    ("lists around an object", call("Ellipsis") + b"\x85" * 300_000 + b"."),
    (
        "objects around objects",
        tag("list") + b"q\x000" + b"h\x00](" * 100_000 + b"e\x85R" * 100_000 + b".",
    ),
    ("a doubled tuple", b"\x80\x04" + doubled(100) + b"."),
    ("a doubled tuple of objects", b"\x80\x04" + call("Ellipsis") + b"2\x86" * 100 + b"."),
    ("a doubled tuple as a reference", call("member", doubled(40), b"N") + b"."),
    (
        "a doubled tuple as a base",
        call("instance", b"K\x00", doubled(40), b"N", state=b"}N\x86") + b".",
    ),
    ("a doubled tuple as a name", call("member", b"K\x00", doubled(40)) + b"."),
    ("a doubled tuple as an exception", call("raised", doubled(40), b")", b"}") + b"."),
    ("a doubled tuple as a tag's argument", call("Decimal", doubled(40)) + b"."),
    ("a tuple of tuples as a key", b"\x80\x04})" + b"\x85" * 1_000_000 + b"Ns."),
    ("a tuple of tuples in a set", b"\x80\x04\x8f()" + b"\x85" * 1_000_000 + b"\x90."),
    ("a doubled tuple as a key", b"\x80\x04}" + doubled(40) + b"Ns."),
    ("a doubled tuple in a set", b"\x80\x04\x8f(" + doubled(40) + b"\x90."),
    (
        "an attribute called by a doubled tuple",
        call("instance", b"K\x00", b"N", b"N", state=b"}" + doubled(40) + b"NsN\x86") + b".",
    ),
    ("a key of nested objects", b"}" + call("tuple", b")" + b"\x85" * 200_000) + b"Ns."),
]


@pytest.mark.parametrize("data", numbered(BOMBS))
def test_a_bomb_costs_little(data: bytes) -> None:
    seconds, megabytes = costs(data)
    assert seconds < 15
    assert megabytes < 300


def test_keys_that_collide_cost_no_more_than_their_number_squared() -> None:
    step = (1 << 61) - 1  # the modulus of the hash of an int
    numbers = b"".join(b"\x8a\x0a" + le(n * step, 10) + b"N" for n in range(4000))
    seconds, megabytes = costs(b"\x80\x04}(" + numbers + b"u.")
    assert seconds < 10
    assert megabytes < 50


def test_a_large_honest_answer_costs_no_more_than_its_size() -> None:
    data = pickle.dumps([{"n": n, "t": (n, str(n))} for n in range(100_000)], 4)
    seconds, megabytes = costs(data)
    assert seconds < 10
    assert megabytes < 200


# Answers that are none


@pytest.mark.parametrize(
    "answer", [b"", b"X", b"Vgarbage", b"E", b"L", b"R", b"R\x80\x04N.", b"v"]
)
def test_an_answer_that_is_none_is_a_result_error(answer: bytes) -> None:
    from fabremote.outcomes import read_answer

    with pytest.raises(ResultError):
        read_answer(Outcome(memoryview(answer) if answer else None), decoder(), "host")


REFUSALS: list[Any] = [
    None,
    5,
    (),
    ("why", "type", "path"),
    (1, 2, 3, 4),
    ("why", "type", None, True),
    ("why", b"type", "path", True),
    (["why"], "type", "path", False),
    ("why", "type", "path", True, "more"),
]


@pytest.mark.parametrize("record", REFUSALS, ids=repr)
def test_a_malformed_refusal_is_a_result_error(record: Any) -> None:
    from fabremote.outcomes import read_answer

    with pytest.raises(ResultError):
        read_answer(Outcome(memoryview(b"R" + pickle.dumps(record, 4))), decoder(), "host")


def test_the_cases_themselves_bite() -> None:
    """The stock unpickler does run code for some of them, or these tests would prove nothing."""
    loads: Callable[[bytes], Any] = pickle.loads
    loads(b"c" + MODULE + b"\nran\n(" + value("x") + b"tR.")
    assert RAN == ["x"]
