"""Which functions run on the far side, with what surroundings, and what their objects become."""

from __future__ import annotations

import abc
import asyncio
import collections
import contextlib
import dataclasses
import datetime
import enum
import functools
import json
import math
import operator
import os
import platform
import re
import subprocess
import sys
import textwrap
import xml.dom.minidom
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import pytest
from invoke.context import Context

from fabremote import Connection, ShippingError, wrap
from tests import interpreters
from tests.labels import label

HERE = "{}.{}".format(*sys.version_info)
T = TypeVar("T")


@pytest.fixture(scope="module")
def local() -> Iterator[Any]:
    """An interpreter of this machine: fresh processes without the price of SSH."""
    context = wrap(Context())
    python = context.python(python=sys.executable)
    python.call(abs, -1)
    yield python
    context.close()


# Functions

FACTOR = 3
STATE = {"count": 0}
COUNT = 10


def double(x: int) -> int:
    return 2 * x


def scaled(x: int) -> int:
    return double(x) * FACTOR


def factorial(n: int) -> int:
    return 1 if n == 0 else n * factorial(n - 1)


def is_even(n: int) -> bool:
    return n == 0 or is_odd(n - 1)


def is_odd(n: int) -> bool:
    return n != 0 and is_even(n - 1)


def adder(n: int) -> Callable[[int], int]:
    return lambda x: x + n


def nested(n: int) -> list[int]:
    def square(x: int) -> int:
        def times(y: int) -> int:
            return x * y

        return times(x)

    return [square(x) for x in range(n)]


def with_defaults(a: int, b: int = 2, *rest: int, c: int = 4, **more: int) -> list[Any]:
    return [a, b, rest, c, more]


def with_option_names(
    *args: Any, timeout: Any = 0, env: Any = 0, fn: Any = 0, self: Any = 0, **kwargs: Any
) -> list[Any]:
    return [args, timeout, env, fn, self, kwargs]


async def later(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


def traced(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> list[Any]:
        return ["traced", wrapper.__name__, fn(*args, **kwargs)]

    return wrapper


@traced
def tripled(x: int) -> int:
    """Three times."""
    return 3 * x


@functools.lru_cache(maxsize=7)
def cached(x: int) -> int:
    return x * 100


@contextlib.contextmanager
def bracketed(log: list[str]) -> Iterator[str]:
    log.append("in")
    yield "middle"
    log.append("out")


def use_bracketed() -> list[str]:
    log: list[str] = []
    with bracketed(log) as text:
        log.append(text)
    return log


class Meter:
    """Methods of every kind."""

    unit = "m"
    __hidden = 5

    def __init__(self, start: int) -> None:
        self.start = start

    def plus(self, x: int) -> int:
        return self.start + x

    def hidden(self) -> int:
        return self.__hidden

    @property
    def doubled(self) -> int:
        return double(self.start)

    @functools.cached_property
    def tripled(self) -> int:
        return 3 * self.start

    @classmethod
    def named(cls, x: int) -> str:
        return f"{x} {cls.unit} {cls.__name__}"

    @staticmethod
    def negated(x: int) -> int:
        return -x

    def __call__(self, x: int) -> int:
        return self.start * x


class LongMeter(Meter):
    unit = "km"

    def plus(self, x: int) -> int:
        return 1000 * super().plus(x)


def use_properties(meter: Meter) -> list[int]:
    return [meter.doubled, meter.tripled, meter.tripled]


# Several on one line, of which the right one must travel.
ONE_LINE = [lambda x: x + 1, lambda x: x + 2, lambda x: x * 10]

CORE: list[tuple[str, Callable[..., Any], tuple[Any, ...], Any]] = [
    ("a function", double, (4,), 8),
    ("one that calls others and reads globals", scaled, (5,), 30),
    ("a lambda", lambda x: x + FACTOR, (1,), 4),
    ("the second lambda of a line", ONE_LINE[1], (1,), 3),
    ("the third lambda of a line", ONE_LINE[2], (1,), 10),
    ("a closure", adder(7), (1,), 8),
    ("nested functions", nested, (4,), [0, 1, 4, 9]),
    ("a recursive one", factorial, (10,), 3628800),
    ("mutually recursive ones", is_even, (11,), False),
    ("defaults", with_defaults, (1,), [1, 2, (), 4, {}]),
    ("an async function", later, (1,), 2),
    ("a bound method", Meter(3).plus, (4,), 7),
    ("a method that calls super", LongMeter(3).plus, (4,), 7000),
    ("a method with a private name", Meter(3).hidden, (), 5),
    ("a class method", LongMeter.named, (4,), "4 km LongMeter"),
    ("a class method of an instance", LongMeter(1).named, (4,), "4 km LongMeter"),
    ("a static method", Meter.negated, (4,), -4),
    ("a callable instance", Meter(3), (4,), 12),
    ("properties", use_properties, (Meter(3),), [6, 9, 9]),
    ("a partial", functools.partial(with_defaults, 1, c=5), (7,), [1, 7, (), 5, {}]),
    ("a partial of a method", functools.partial(Meter(3).plus, 4), (), 7),
    ("a decorated function", tripled, (2,), ["traced", "tripled", 6]),
    ("a cached function", cached, (2,), 200),
    ("a context manager inside", use_bracketed, (), ["in", "middle", "out"]),
]


@pytest.mark.parametrize(
    ("fn", "args", "expected"), [case[1:] for case in CORE], ids=[case[0] for case in CORE]
)
def test_functions_run_there(local: Any, fn: Any, args: tuple[Any, ...], expected: Any) -> None:
    assert local.call(fn, *args) == expected


def test_every_kind_of_function_runs_over_ssh(conn: Connection) -> None:
    for name, fn, args, expected in CORE:
        assert conn.call(fn, *args) == expected, name


def test_a_function_runs_in_another_process(conn: Connection) -> None:
    pids = {os.getpid(), conn.call(os.getpid), conn.call(lambda: os.getpid())}
    assert len(pids) == 3


def test_arguments_reach_the_function_whatever_their_names(local: Any) -> None:
    assert local.call(with_option_names, 1, timeout=2, env=3, fn=4, self=5, python=6) == [
        (1,),
        2,
        3,
        4,
        5,
        {"python": 6},
    ]


def test_defaults_and_keywords_are_kept(local: Any) -> None:
    assert local.call(with_defaults, 1, 3, 5, 6, c=7, d=8) == [1, 3, (5, 6), 7, {"d": 8}]


def test_a_default_may_be_any_object(local: Any) -> None:
    def reading(meter: Meter = Meter(6), *, scale: Any = ONE_LINE[2]) -> Any:  # noqa: B008
        return scale(meter.start)

    assert local.call(reading) == 60


@pytest.mark.parametrize("index", range(3))
def test_each_lambda_of_a_line_is_itself(local: Any, index: int) -> None:
    assert local.call(ONE_LINE[index], 5) == [6, 7, 50][index]


def test_globals_are_those_of_the_moment_of_the_call(
    local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STATE, "count", 41)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 100)
    assert local.call(lambda: [STATE["count"], FACTOR]) == [41, 100]
    monkeypatch.setitem(STATE, "count", 42)
    assert local.call(lambda: STATE["count"]) == 42


def test_globals_that_a_function_changes_there_stay_as_they_are_here(local: Any) -> None:
    def count() -> list[int]:
        global COUNT
        COUNT += 1
        STATE["count"] += 1
        return [COUNT, STATE["count"], read_count()]

    assert local.call(count) == [11, 1, 11]
    assert local.call(count) == [11, 1, 11]
    assert (COUNT, STATE) == (10, {"count": 0})


def read_count() -> int:
    return COUNT


def test_a_global_made_there_is_a_global_there(local: Any) -> None:
    def make() -> int:
        global MADE_THERE
        MADE_THERE = 5
        return globals()["MADE_THERE"] + MADE_THERE

    assert local.call(make) == 10
    assert "MADE_THERE" not in globals()


def test_a_global_that_nobody_has_is_a_name_error(local: Any) -> None:
    with pytest.raises(NameError, match="no_such_name"):
        local.call(lambda: no_such_name)  # type: ignore[name-defined]  # noqa: F821


def test_closures_share_a_variable(local: Any) -> None:
    count = 0

    def up() -> None:
        nonlocal count
        count += 1

    def read() -> int:
        return count

    def both(first: Callable[[], None], second: Callable[[], int]) -> list[int]:
        first()
        first()
        return [second()]

    assert local.call(both, up, read) == [2]
    assert count == 0


def test_a_nested_function_may_call_itself(local: Any) -> None:
    def fib(n: int) -> int:
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert local.call(fib, 10) == 55


def test_nested_functions_may_call_each_other(local: Any) -> None:
    def ping(n: int) -> str:
        return "ping " + pong(n - 1) if n else ""

    def pong(n: int) -> str:
        return "pong " + ping(n - 1) if n else ""

    assert local.call(ping, 3) == "ping pong ping "


def test_a_variable_that_is_not_set_yet_is_a_name_error(local: Any) -> None:
    def reading() -> int:
        return unset

    with pytest.raises(NameError, match="unset"):
        local.call(reading)
    unset = 1
    assert local.call(reading) == unset


def test_a_module_in_a_closure_is_imported_there(local: Any) -> None:
    module, path = math, os.path
    assert local.call(lambda: [module.floor(2.5), path.join("a", "b")]) == [2, "a/b"]


def test_a_submodule_reached_as_an_attribute_is_imported_there(local: Any) -> None:
    assert local.call(lambda: xml.etree.ElementTree.fromstring("<a/>").tag) == "a"


def test_a_submodule_of_a_closures_module_is_imported_there(local: Any) -> None:
    package = xml
    assert local.call(lambda: package.dom.minidom.parseString("<b/>").firstChild.tagName) == "b"


def test_function_attributes_and_names_travel(local: Any) -> None:
    def labelled() -> list[Any]:
        me = labelled
        return [me.__name__, me.__doc__, me.label, me.__qualname__]  # type: ignore[attr-defined]

    labelled.__doc__ = "A doc."
    labelled.label = "x"  # type: ignore[attr-defined]
    assert local.call(labelled) == ["labelled", "A doc.", "x", labelled.__qualname__]


def test_a_decorated_function_keeps_what_wraps_gave_it(local: Any) -> None:
    assert local.call(lambda fn: [fn.__name__, fn.__doc__, fn.__wrapped__(2)], tripled) == [
        "tripled",
        "Three times.",
        6,
    ]


def test_a_cached_function_keeps_its_settings_but_not_its_content(local: Any) -> None:
    def look() -> list[Any]:
        cached(1)
        cached(1)
        info = cached.cache_info()
        return [info.hits, info.misses, info.maxsize]

    cached(1)
    assert local.call(look) == [1, 1, 7]


def test_functions_travel_as_arguments(local: Any) -> None:
    fns = [double, str, ONE_LINE[0]]
    assert local.call(lambda fns, x: [fn(x) for fn in fns], fns, 3) == [6, "3", 4]


def test_a_generator_function_runs_inside_another(local: Any) -> None:
    def numbers(n: int) -> Iterator[int]:
        yield from range(n)

    assert local.call(lambda: list(numbers(3))) == [0, 1, 2]


def test_an_async_function_may_use_others(local: Any) -> None:
    async def several() -> list[int]:
        return list(await asyncio.gather(*(later(n) for n in range(3))))

    assert local.call(several) == [1, 2, 3]


def test_an_async_method_and_a_partial_of_one_are_run(local: Any) -> None:
    class Clock:
        async def tick(self, n: int) -> int:
            return await later(n)

    assert local.call(Clock().tick, 1) == 2
    assert local.call(functools.partial(Clock().tick, 2)) == 3


def test_code_made_by_exec_travels_without_its_source(local: Any) -> None:
    names: dict[str, Any] = {}
    exec("K = 2\ndef made(x): return helper(x) * K\ndef helper(x): return x + 1", names)
    assert local.call(names["made"], 3) == 8


BY_NAME: list[tuple[Callable[..., Any], tuple[Any, ...], Any]] = [
    (len, ([1, 2],), 2),
    (sorted, ([2, 1],), [1, 2]),
    (math.sqrt, (16,), 4.0),
    (json.dumps, ({"a": 1},), '{"a": 1}'),
    (os.path.join, ("a", "b"), "a/b"),
    (operator.itemgetter(1), ("ab",), "b"),
    (operator.attrgetter("real"), (3,), 3),
    (str.upper, ("a",), "A"),
    ("a-b".split, ("-",), ["a", "b"]),
    ([3, 1].index, (1,), 1),
    (dict.fromkeys, ("ab", 1), {"a": 1, "b": 1}),
    (int, ("12",), 12),
    (collections.Counter, ("aab",), collections.Counter("aab")),
    (datetime.date, (2024, 2, 29), datetime.date(2024, 2, 29)),
    (datetime.date.fromordinal, (5,), datetime.date(1, 1, 5)),
    (functools.partial(int, base=2), ("101",), 5),
    (functools.reduce, (operator.add, [1, 2, 3]), 6),
    (re.sub, ("a", "b", "aa"), "bb"),
    (re.compile("a+").findall, ("aabaaa",), ["aa", "aaa"]),
    (textwrap.dedent, ("  a",), "a"),
    (platform.python_implementation, (), "CPython"),
]


@pytest.mark.parametrize(("fn", "args", "expected"), BY_NAME, ids=label)
def test_builtin_and_library_functions_run_there(
    local: Any, fn: Any, args: tuple[Any, ...], expected: Any
) -> None:
    result = local.call(fn, *args)
    assert result == expected
    assert type(result) is type(expected)


# Other versions of Python

OTHERS = [version for version in interpreters.found() if version not in ("2.7", HERE)]


@pytest.mark.parametrize("version", OTHERS)
def test_library_functions_run_on_any_version(conn_openssh: Connection, version: str) -> None:
    py = conn_openssh.python(python=f"python{version}")
    assert py.call(platform.python_version).startswith(version + ".")
    assert py.call(functools.reduce, operator.add, [[1], [2]]) == [1, 2]


@pytest.mark.parametrize("version", OTHERS)
def test_every_kind_of_function_runs_on_any_version(
    conn_openssh: Connection, version: str
) -> None:
    py = conn_openssh.python(python=f"python{version}")
    for name, fn, args, expected in CORE:
        assert py.call(fn, *args) == expected, name


@pytest.mark.parametrize("version", OTHERS)
def test_objects_come_back_as_themselves_from_any_version(
    conn_openssh: Connection, version: str
) -> None:
    py = conn_openssh.python(python=f"python{version}")
    objects = [obj for obj in INSTANCES if version != "3.6" or not dataclasses.is_dataclass(obj)]
    results = py.call(identity, objects)
    assert [type(result) for result in results] == [type(obj) for obj in objects]
    assert expanded(results) == expanded(objects)
    assert all(py.call(identity, member) is member for member in MEMBERS)


# Classes


class Plain:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class Child(Plain):
    kind = "child"


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: Any) -> None:
        self.a = a


class MoreSlots(Slotted):
    __slots__ = ("c",)


class SlotsAndDict(Slotted):
    pass


class PrivateSlot:
    __slots__ = ("__secret",)

    def __init__(self, secret: Any) -> None:
        self.__secret = secret

    def tell(self) -> Any:
        return self.__secret


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2
    tags: list[str] = dataclasses.field(default_factory=list)
    limit: ClassVar[int] = 9

    def norm(self) -> int:
        return abs(self.x) + abs(self.y)


@dataclasses.dataclass
class Point3(Point):
    z: int = 3


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int
    inner: Any = None


@dataclasses.dataclass(frozen=True, order=True)
class FrozenChild(Frozen):
    y: int = 0


@dataclasses.dataclass(slots=True)
class SlottedData:
    x: int
    y: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlotted:
    x: int


@dataclasses.dataclass
class Checked:
    x: int
    made: list[int] = dataclasses.field(default_factory=list, init=False)
    scale: dataclasses.InitVar[int] = 1

    def __post_init__(self, scale: int) -> None:
        self.made.append(self.x * scale)


Pair = collections.namedtuple("Pair", "first second")


class Row(NamedTuple):
    name: str
    size: int = 0

    def label(self) -> str:
        return f"{self.name}:{self.size}"


class Text(str):
    note: str


class Number(int):
    pass


class Real(float):
    pass


class Octets(bytes):
    pass


class Items(list[Any]):
    pass


class Table(dict[str, Any]):
    pass


class Several(set[Any]):
    pass


class Fixed(tuple[Any, ...]):
    pass


class Box(Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self) -> float: ...


class Square(Shape):
    def __init__(self, side: float) -> None:
        self.side = side

    def area(self) -> float:
        return self.side**2


class Meta(type):
    def __call__(cls, *args: Any) -> Any:
        made = super().__call__(*args)
        made.made_by = "Meta"
        return made


class WithMeta(metaclass=Meta):
    pass


class Outer:
    class Inner:
        def __init__(self, x: int) -> None:
            self.x = x

        class Innermost:
            y = 1


def with_note(text: Any, **values: Any) -> Any:
    text.__dict__.update(values)
    return text


def local_class() -> Any:
    base = 10

    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

        def total(self) -> int:
            return self.x + base

    return Local


def filled(obj: Any, **values: Any) -> Any:
    for name, value in values.items():
        setattr(obj, name, value)
    return obj


INSTANCES: list[Any] = [
    Plain(a=1, b=[2]),
    Plain(),
    Child(a=Plain(b=1)),
    Slotted(1),
    filled(Slotted([1]), b={2}),
    filled(MoreSlots(1), c=3),
    filled(SlotsAndDict(1), other=3),
    PrivateSlot(7),
    Point(1),
    Point(1, tags=["a"]),
    Point3(1, z=5),
    Frozen(1, (2, 3)),
    Frozen(1, Frozen(2)),
    FrozenChild(1, y=4),
    SlottedData(1, [2]),
    FrozenSlotted(1),
    Checked(3, 4),
    Pair(1, [2]),
    Row("a", 3),
    Row("b"),
    with_note(Text("abc"), note="x"),
    Text(""),
    with_note(Number(5), note="x"),
    Number(-(10**30)),
    Real(2.5),
    with_note(Octets(b"ab"), note=1),
    with_note(Items([1, Plain(a=1)]), note="x"),
    with_note(Table(a=1, b=Items()), note="x"),
    with_note(Several({1, 2}), note="x"),
    with_note(Fixed((1, (2,))), note="x"),
    Box([1]),
    Square(2.0),
    WithMeta(),
    Outer.Inner(3),
    Outer.Inner.Innermost(),
    local_class()(4),
]


def contents(obj: Any) -> list[Any]:
    """What an object holds: its attributes, and its own value if it has a built-in base."""
    found: list[Any] = [type(obj)]
    for base in (str, int, float, bytes, list, dict, set, tuple):
        if isinstance(obj, base):
            found.append(base(obj))
    found.append(dict(getattr(obj, "__dict__", {})))
    for cls in type(obj).__mro__:
        for name, member in vars(cls).items():
            if type(member).__name__ == "member_descriptor":
                with contextlib.suppress(AttributeError):
                    found.append((name, member.__get__(obj)))
    return found


def expanded(obj: Any) -> Any:
    """The same for objects inside others, comparable with ``==``."""
    if type(obj) in (list, tuple):
        return [expanded(item) for item in obj]
    if type(obj) is dict:
        return {key: expanded(value) for key, value in obj.items()}
    plain = (type(None), str, int, float, bytes, set, bool)
    if type(obj) in plain or isinstance(obj, type):
        return obj
    return [expanded(part) for part in contents(obj)]


def identity(obj: Any) -> Any:
    return obj


@pytest.mark.parametrize("obj", INSTANCES, ids=lambda obj: type(obj).__name__)
def test_an_instance_comes_back_of_its_own_class(local: Any, obj: Any) -> None:
    result = local.call(identity, obj)
    assert type(result) is type(obj)
    assert result is not obj
    assert expanded(result) == expanded(obj)


def test_instances_come_back_over_ssh(conn: Connection) -> None:
    results = conn.call(identity, INSTANCES)
    assert [type(result) for result in results] == [type(obj) for obj in INSTANCES]
    assert expanded(results) == expanded(INSTANCES)


MAKERS: list[tuple[Callable[[], Any], Any]] = [
    (lambda: Plain(a=1), Plain(a=1)),
    (lambda: Point(3, tags=["b"]), Point(3, tags=["b"])),
    (lambda: dataclasses.replace(Frozen(3), x=4), Frozen(4)),
    (lambda: FrozenSlotted(3), FrozenSlotted(3)),
    (lambda: SlottedData(3), SlottedData(3)),
    (lambda: Checked(3, 5), Checked(3, 5)),
    (lambda: Pair(1, 2)._replace(second=3), Pair(1, 3)),
    (lambda: Row(name="x"), Row("x")),
    (lambda: [Row("a").label(), Row._fields], ["a:0", ("name", "size")]),
    (lambda: [Point(-3).norm(), Point.limit, Point3.limit], [5, 9, 9]),
    (lambda: PrivateSlot(4).tell(), 4),
    (lambda: sorted([FrozenChild(2), FrozenChild(1)]), [FrozenChild(1), FrozenChild(2)]),
    (lambda: [field.name for field in dataclasses.fields(Point3)], ["x", "y", "tags", "z"]),
    (lambda: dataclasses.asdict(Point(1)), {"x": 1, "y": 2, "tags": []}),
    (lambda: repr(Point(1)), "Point(x=1, y=2, tags=[])"),
    (lambda: Square(3).area(), 9),
    (lambda: WithMeta().made_by, "Meta"),
    (lambda: Outer.Inner(5).x + Outer.Inner.Innermost.y, 6),
    (lambda: [Box[int](3).item, isinstance(Box(1), Box)], [3, True]),
    (lambda: isinstance(Child(), Plain) and issubclass(Square, Shape), True),
    (lambda: Child.kind + Meter.unit, "childm"),
]


@pytest.mark.parametrize(("make", "expected"), MAKERS)
def test_classes_work_there(local: Any, make: Any, expected: Any) -> None:
    result = local.call(make)
    assert result == expected
    assert type(result) is type(expected)


def test_an_abstract_class_is_still_abstract_there(local: Any) -> None:
    with pytest.raises(TypeError, match="abstract"):
        local.call(lambda: Shape())  # type: ignore[abstract]


def test_a_class_may_be_called_itself(local: Any) -> None:
    assert local.call(Point, 1, y=5) == Point(1, 5)
    assert type(local.call(Row, "a")) is Row


def test_a_class_of_a_function_comes_back_as_itself(local: Any) -> None:
    cls = local_class()
    result = local.call(lambda x: cls(x), 5)
    assert type(result) is cls
    assert result.total() == 15
    assert local.call(cls(6).total) == 16


def test_a_class_that_refers_to_itself_travels(local: Any) -> None:
    class Tree:
        root: Any = None

        def __init__(self, *kids: Tree) -> None:
            self.kids = kids

        def copy(self) -> Tree:
            return Tree(*(kid.copy() for kid in self.kids))

    Tree.root = Tree()
    result = local.call(Tree(Tree(), Tree(Tree())).copy)
    assert type(result) is Tree
    assert [len(kid.kids) for kid in result.kids] == [0, 1]
    assert type(local.call(lambda: Tree.root)) is Tree


def test_class_attributes_are_a_snapshot(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Meter, "unit", "ft")
    assert local.call(Meter.named, 1) == "1 ft Meter"
    local.call(lambda: setattr(Meter, "unit", "changed"))
    assert Meter.unit == "ft"


def test_a_class_may_tell_its_subclasses_something(local: Any) -> None:
    class Registry:
        known: ClassVar[list[str]] = []

        def __init_subclass__(cls, key: str = "", **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            Registry.known.append(key)

    class First(Registry, key="one"):
        pass

    assert local.call(lambda: [First.known, isinstance(First(), Registry)]) == [["one"], True]


def test_a_class_whose_base_demands_a_keyword_travels(local: Any) -> None:
    class Demanding:
        def __init_subclass__(cls, *, key: str) -> None:
            cls.key = key  # type: ignore[attr-defined]

    class Given(Demanding, key="one"):
        pass

    assert local.call(lambda: Given.key) == "one"  # type: ignore[attr-defined]


def test_a_descriptor_that_knows_its_name_travels(local: Any) -> None:
    class Named:
        name: str

        def __set_name__(self, owner: type, name: str) -> None:
            self.name = name

        def __get__(self, obj: Any, owner: type) -> str:
            return self.name.upper()

    class Holder:
        field = Named()

    assert local.call(lambda: Holder().field) == "FIELD"


class Colour(enum.Enum):
    RED = 1
    GREEN = 2
    CRIMSON = 1

    def shout(self) -> str:
        return self.name + "!"

    @classmethod
    def first(cls) -> Colour:
        return cls.RED


class Planet(enum.Enum):
    EARTH = (5.97, 6.37)
    MARS = (0.64, 3.39)

    def __init__(self, mass: float, radius: float) -> None:
        self.mass = mass
        self.radius = radius


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(str, enum.Enum):
    YES = "yes"
    NO = "no"


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    EXECUTE = enum.auto()


class Bits(enum.IntFlag):
    A = 1
    B = 2


Functional = enum.Enum("Functional", "ONE TWO", module=__name__)

MEMBERS = [
    Colour.RED,
    Colour.CRIMSON,
    Planet.MARS,
    Level.HIGH,
    Word.NO,
    Access.READ,
    Access.READ | Access.EXECUTE,
    Access(0),
    ~Access.READ,
    Bits.A | Bits.B,
    Functional.TWO,
]


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_members_of_enums_are_the_same_objects(local: Any, member: enum.Enum) -> None:
    assert local.call(identity, member) is member
    assert local.call(lambda: [member, {member: 1}, (member,)]) == [member, {member: 1}, (member,)]


def test_enums_work_there(local: Any) -> None:
    def look() -> list[Any]:
        return [
            [member.name for member in Colour],
            Colour["CRIMSON"] is Colour.RED,
            Colour(2).shout(),
            Colour.first(),
            Planet.MARS.radius,
            Level.HIGH > Level.LOW,
            Word.YES + "!",
            Access.WRITE in (Access.READ | Access.WRITE),
            Bits.A | Bits.B == 3,
        ]

    assert local.call(look) == look()


def test_a_members_identity_is_kept_over_ssh(conn: Connection) -> None:
    for member in MEMBERS:
        assert conn.call(identity, member) is member


# Graphs of objects


def test_parents_and_children_refer_to_each_other(local: Any) -> None:
    def family(n: int) -> Any:
        parent = Plain(children=[])
        parent.children = [Plain(parent=parent, n=i) for i in range(n)]  # type: ignore[attr-defined]
        return parent

    result = local.call(family, 3)
    assert type(result) is Plain
    assert all(child.parent is result for child in result.children)  # type: ignore[attr-defined]
    back = local.call(lambda p: [c.parent is p for c in p.children], result)
    assert back == [True] * 3


def test_slots_dicts_and_lists_may_be_in_a_cycle(local: Any) -> None:
    def tie() -> list[Any]:
        slotted = Slotted(None)
        items, table = Items(), Table()
        slotted.a, table["items"] = items, items
        items.extend([slotted, table, items])
        return [slotted, items, table]

    slotted, items, table = local.call(tie)
    assert slotted.a is items
    assert items[0] is slotted
    assert items[1] is table
    assert items[2] is items
    assert table["items"] is items


def test_a_tuple_may_refer_to_itself_through_an_object(local: Any) -> None:
    def tie() -> Any:
        obj = Plain()
        obj.pair = (obj, obj)  # type: ignore[attr-defined]
        return obj.pair  # type: ignore[attr-defined]

    result = local.call(tie)
    assert result[0] is result[1]
    assert result[0].pair is result


def test_one_object_in_two_places_stays_one(local: Any) -> None:
    def shared() -> list[Any]:
        point, text = Point(1), Text("a")
        return [point, point, {"p": point}, text, (text,)]

    first, second, table, text, pair = local.call(shared)
    assert first is second is table["p"]
    assert text is pair[0]
    point = Point(1)
    assert local.call(lambda a, b, c: [a is b, a is c[0]], point, point, [point]) == [True, True]


def test_objects_are_keys_and_items_of_sets(local: Any) -> None:
    result = local.call(lambda: [{Frozen(1): Frozen(2)}, {Frozen(3)}, frozenset([Row("a")])])
    assert result == [{Frozen(1): Frozen(2)}, {Frozen(3)}, frozenset([Row("a")])]


# Modules of the user's own, in scripts that are run as they are

HEADER = """
import sys
from invoke import Context
from fabremote import wrap
py = wrap(Context()).python(python=sys.executable)
"""


def run_script(folder: Path, files: dict[str, str], *command: str) -> list[str]:
    """Write files, run ``main.py`` (or another command line) there, and return what it prints."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, *(command or ("main.py",))],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def main(text: str) -> dict[str, str]:
    return {"main.py": HEADER + textwrap.dedent(text)}


HELPERS = """
    import math
    from dataclasses import dataclass

    SCALE = 10

    def area(radius):
        return round(math.pi * radius ** 2) * SCALE

    @dataclass
    class Disk:
        radius: int

        def area(self):
            return area(self.radius)

    class Broken(Exception):
        def __init__(self, disk, why):
            super().__init__(why)
            self.disk = disk

    def broken(radius):
        raise Broken(Disk(radius), "it broke")
"""


def test_a_script_sends_its_own_functions_and_classes(tmp_path: Path) -> None:
    text = """
        import collections, enum

        LIMIT = 5

        class Colour(enum.Enum):
            RED = 1

        class Point(collections.namedtuple("Base", "x y")):
            def moved(self):
                return Point(self.x + LIMIT, self.y)

        def work(point):
            return [point.moved(), Colour.RED, __name__]

        if __name__ == "__main__":
            moved, red, name = py.call(work, Point(1, 2))
            print(type(moved) is Point, moved.x, red is Colour.RED, name)
            LIMIT = 6
            print(py.call(work, Point(1, 2))[0].x)
    """
    assert run_script(tmp_path, main(text)) == ["True 6 True __main__", "7"]


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("from helpers import area", "py.call(area, 2)"),
        ("from helpers import area", "py.call(lambda r: area(r), 2)"),
        ("from helpers import area as a", "py.call(lambda r: a(r), 2)"),
        ("from helpers import *", "py.call(lambda r: area(r), 2)"),
        ("import helpers", "py.call(helpers.area, 2)"),
        ("import helpers", "py.call(lambda r: helpers.area(r), 2)"),
        ("import helpers as h", "py.call(lambda r: h.area(r), 2)"),
        ("from helpers import Disk", "py.call(Disk(2).area)"),
        ("from helpers import Disk", "py.call(lambda: Disk(2).area())"),
    ],
)
def test_a_script_uses_a_module_of_its_folder(tmp_path: Path, imports: str, call: str) -> None:
    files = {"helpers.py": HELPERS, **main(f"{imports}\nprint({call})")}
    assert run_script(tmp_path, files) == ["130"]


def test_a_function_imports_a_module_of_its_folder(tmp_path: Path) -> None:
    text = """
        def first():
            import helpers
            return helpers.area(2)

        def second():
            from helpers import Disk
            return Disk(2).area()

        def third():
            from package import inner
            import package.other as other
            return [inner.VALUE, other.VALUE]

        print(py.call(first), py.call(second), py.call(third))
    """
    package = {
        "package/__init__.py": "",
        "package/inner.py": "VALUE = 1",
        "package/other.py": "VALUE = 2",
    }
    assert run_script(tmp_path, {"helpers.py": HELPERS, **package, **main(text)}) == [
        "130 130 [1, 2]"
    ]


PACKAGE = {
    "package/__init__.py": "from .inner import inside\nVERSION = '1'\n",
    "package/inner.py": """
        from . import other
        from .other import CONSTANT
        import package as myself

        def inside():
            from .deep.leaf import leaf
            return [CONSTANT, other.twice(2), leaf(), myself.VERSION]
    """,
    "package/other.py": "CONSTANT = 'c'\ndef twice(x): return 2 * x\n",
    "package/deep/__init__.py": "",
    "package/deep/leaf.py": "from ..other import twice\ndef leaf(): return twice(4)\n",
}


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("import package.inner", "py.call(package.inner.inside)"),
        ("import package.inner", "py.call(lambda: package.inner.inside())"),
        ("import package", "py.call(lambda: package.inside())"),
        ("from package import inside", "py.call(lambda: inside())"),
        ("from package import inner", "py.call(lambda: inner.inside())"),
        ("from package.inner import inside", "py.call(inside)"),
    ],
)
def test_a_script_uses_a_package_of_its_folder(tmp_path: Path, imports: str, call: str) -> None:
    files = {**PACKAGE, **main(f"{imports}\nprint({call})")}
    assert run_script(tmp_path, files) == ["['c', 4, 8, '1']"]


@pytest.mark.parametrize("init", [{}, {"package/__init__.py": ""}], ids=["namespace", "package"])
@pytest.mark.parametrize("use", ["package.module.twice", "lambda x: package.module.twice(x)"])
def test_a_submodule_that_its_package_does_not_import_is_used(
    tmp_path: Path, init: dict[str, str], use: str
) -> None:
    files = {"package/module.py": "def twice(x): return 2 * x", **init}
    text = f"import package.module\nprint(py.call({use}, 3))"
    assert run_script(tmp_path, {**files, **main(text)}) == ["6"]


def test_modules_that_import_each_other_are_used(tmp_path: Path) -> None:
    files = {
        "ping.py": "import pong\ndef ping(n): return n and 1 + pong.pong(n - 1)\n",
        "pong.py": "import ping\ndef pong(n): return n and 1 + ping.ping(n - 1)\n",
        **main("import ping\nprint(py.call(ping.ping, 5))"),
    }
    assert run_script(tmp_path, files) == ["5"]


def test_a_module_may_prefer_a_library_that_is_not_there(tmp_path: Path) -> None:
    helper = """
        try:
            import no_such_library
        except ImportError:
            no_such_library = None

        def has():
            return no_such_library is not None
    """
    files = {"helpers.py": helper, **main("import helpers\nprint(py.call(helpers.has))")}
    assert run_script(tmp_path, files) == ["False"]


# Where the far side has no site-packages, what imports Fabric can't be imported there.
BARE = 'bare = wrap(Context()).python(python=sys.executable, py_options="-S")\n'


def test_a_module_that_imports_an_installed_library_goes_by_value(tmp_path: Path) -> None:
    helper = """
        import fabric
        from fabric import Connection
        from other import OFFSET

        FACTOR = 2

        class Thing:
            def __init__(self, x):
                self.x = x

        def work(x):
            return Thing(x * FACTOR + OFFSET)

        def deploy(host):
            return Connection(host)
    """
    text = (
        BARE
        + """
import helpers, other
from helpers import work
print(bare.call(work, 4).x, type(bare.call(work, 4)) is helpers.Thing)
print(bare.call(lambda: helpers.work(5).x))
helpers.FACTOR = 3
print(bare.call(work, 4).x)
"""
    )
    files = {"helpers.py": helper, "other.py": "OFFSET = 1", "main.py": HEADER + text}
    assert run_script(tmp_path, files) == ["9 True", "11", "13"]


def test_a_class_of_a_module_that_went_along_comes_back_as_itself(tmp_path: Path) -> None:
    text = """
        import helpers
        from helpers import Disk, broken

        def make():
            return [Disk(1), {"k": helpers.Disk(2)}]

        first, table = py.call(make)
        print(type(first) is Disk, first, table)
        print(py.call(helpers.Disk, 3) == Disk(3))
        try:
            py.call(broken, 4)
        except helpers.Broken as error:
            print(type(error) is helpers.Broken, error, error.disk == Disk(4))
    """
    assert run_script(tmp_path, {"helpers.py": HELPERS, **main(text)}) == [
        "True Disk(radius=1) {'k': Disk(radius=2)}",
        "True",
        "True it broke True",
    ]


def test_an_enum_of_a_module_that_went_along_keeps_its_members(tmp_path: Path) -> None:
    helper = "import enum\nclass Mode(enum.Enum):\n    ON = 1\ndef mode(): return Mode.ON\n"
    text = "import modes\nprint(py.call(modes.mode) is modes.Mode.ON)"
    assert run_script(tmp_path, {"modes.py": helper, **main(text)}) == ["True"]


def test_a_module_registered_with_cloudpickle_goes_by_value(tmp_path: Path) -> None:
    text = """
        import cloudpickle, helpers

        def scale():
            return helpers.SCALE

        helpers.SCALE = 20
        cloudpickle.register_pickle_by_value(helpers)
        print(py.call(scale), py.call(helpers.area, 2))
        print(type(py.call(helpers.Disk, 1)) is helpers.Disk)
        cloudpickle.unregister_pickle_by_value(helpers)
        helpers.SCALE = 10
        print(py.call(scale), py.call(helpers.area, 2))
    """
    assert run_script(tmp_path, {"helpers.py": HELPERS, **main(text)}) == [
        "20 260",
        "True",
        "10 130",
    ]


def test_a_script_from_the_command_line_sends_its_functions(tmp_path: Path) -> None:
    code = HEADER + "def double(x): return 2 * x\nprint(py.call(double, 4), py.call(lambda: 5))"
    assert run_script(tmp_path, {}, "-c", code) == ["8 5"]


def test_a_module_run_with_m_sends_its_functions(tmp_path: Path) -> None:
    text = HEADER + "from .other import twice\nprint(py.call(lambda: twice(3)), __name__)\n"
    files = {
        "tool/__init__.py": "",
        "tool/__main__.py": text,
        "tool/other.py": "def twice(x): return 2 * x\n",
    }
    assert run_script(tmp_path, files, "-m", "tool") == ["6 __main__"]


def test_a_fabfile_sends_its_functions_and_helpers(tmp_path: Path) -> None:
    fabfile = """
        import sys
        from fabric import task
        from invoke import Context
        from fabremote import wrap
        import helpers
        from helpers import Disk

        RELEASE = "r1"

        def measure(radius):
            return [Disk(radius), helpers.area(radius), RELEASE]

        @task
        def deploy(c):
            bare = wrap(Context()).python(python=sys.executable, py_options="-S")
            disk, area, release = bare.call(measure, 2)
            print(type(disk) is Disk, area, release)
    """
    files = {"fabfile.py": fabfile, "helpers.py": HELPERS}
    assert run_script(tmp_path, files, "-m", "fabric", "deploy") == ["True 130 r1"]


ASSERTING = """
    def check(x):
        assert x, "falsy"
        return __debug__

    def outcome(python):
        try:
            return python.call(check, 0)
        except AssertionError as error:
            return f"AssertionError {error}"

    fast = wrap(Context()).python(python=sys.executable, py_options="-O")
    print(outcome(py))
    print(outcome(fast))
    print(fast.call(eval, "__debug__"))
"""


def test_asserts_are_dropped_where_the_interpreter_drops_them(tmp_path: Path) -> None:
    assert run_script(tmp_path, main(ASSERTING)) == ["AssertionError falsy", "False", "False"]


def test_asserts_stay_where_only_this_side_drops_them(tmp_path: Path) -> None:
    assert run_script(tmp_path, main(ASSERTING), "-O", "main.py") == [
        "AssertionError falsy",
        "False",
        "False",
    ]


def test_asserts_of_a_module_that_went_along_are_dropped_too(tmp_path: Path) -> None:
    text = ASSERTING.replace("def check", "from checks import check\n\n    def unused")
    files = {"checks.py": "def check(x):\n    assert x, 'falsy'\n    return __debug__\n"}
    assert run_script(tmp_path, {**files, **main(text)}) == [
        "AssertionError falsy",
        "False",
        "False",
    ]


def test_an_edited_file_does_not_change_a_function_that_is_loaded(tmp_path: Path) -> None:
    text = """
        import pathlib

        def answer():
            return "loaded"

        here = pathlib.Path(__file__)
        here.write_text(here.read_text().replace("loaded", "edited"))
        fast = wrap(Context()).python(python=sys.executable, py_options="-O")
        print(py.call(answer), fast.call(answer))
    """
    assert run_script(tmp_path, main(text)) == ["loaded loaded"]


# What every process has one of


environment = os.environ
search_path = sys.path
getenv = os.environ.get


def test_what_a_process_has_one_of_is_that_of_the_far_side(
    local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABREMOTE_SECRET", "kept here")

    def look(found: Any = os.environ) -> list[Any]:
        import os
        import sys

        out = sys.stdout
        environment["SET"] = "there"
        return [
            environment is os.environ is found,
            search_path is sys.path,
            os.environ["SET"],
            getenv("SET"),
            out is stream(),
        ]

    def stream() -> Any:
        return standard_output

    standard_output = sys.stdout
    started = local.call(os.getpid)  # The agent has this process's environment, from before.
    assert started != os.getpid()
    assert local.call(look) == [True, True, "there", "there", True]
    assert "SET" not in os.environ


def test_this_environment_is_no_argument(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FABREMOTE_SECRET", "kept here")
    with pytest.raises(ShippingError, match=r"argument 0 .* dict\(os\.environ\)") as caught:
        local.call(len, os.environ)
    assert "kept here" not in str(caught.value)
    assert local.call(len, dict(os.environ)) == len(os.environ)


def test_a_spawned_process_doesnt_run_the_callers_script_again(tmp_path: Path) -> None:
    script = """
        import multiprocessing, sys
        from invoke import Context
        from fabremote import wrap

        def spawned():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found = pool.map(abs, [-1, -2])
            return found, __file__

        with wrap(Context()) as c:
            print(c.python(python=sys.executable).call(spawned))
    """
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=50)
    assert done.stdout == f"([1, 2], {str(path)!r})\n", done.stderr
