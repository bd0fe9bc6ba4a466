"""Dataclasses, named tuples and enums."""

import collections
import copy
import dataclasses
import enum
import typing

from tests.corpus import add, case

DATACLASS = {"since": (3, 7), "why": "No module named 'dataclasses'"}


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2
    tags: typing.List[str] = dataclasses.field(default_factory=list)
    limit: typing.ClassVar[int] = 9

    def norm(self):
        return abs(self.x) + abs(self.y)


@dataclasses.dataclass
class Point3(Point):
    z: int = 3

    def norm(self):
        return super().norm() + self.z


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int
    inner: object = None


@dataclasses.dataclass(frozen=True, order=True)
class Ordered(Frozen):
    y: int = 0


@dataclasses.dataclass(slots=True)
class Slotted:
    x: int
    y: list = dataclasses.field(default_factory=list)

    def total(self):
        return self.x + sum(self.y)


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlotted:
    x: int
    y: int = 1


@dataclasses.dataclass(kw_only=True)
class Keywords:
    x: int = 1
    y: int
    made: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class SomeKeywords:
    a: int
    b: int = dataclasses.field(default=2, kw_only=True)
    c: int = 3
    _: dataclasses.KW_ONLY
    d: int
    e: dataclasses.InitVar[int] = 5

    def __post_init__(self, e):
        self.a += e


@dataclasses.dataclass
class Checked:
    x: int
    made: list = dataclasses.field(default_factory=list, init=False)
    scale: dataclasses.InitVar[int] = 1

    def __post_init__(self, scale):
        self.made.append(self.x * scale)


@dataclasses.dataclass(eq=False, repr=False)
class Bare:
    x: int = dataclasses.field(default=1, metadata={"unit": "m"})


@dataclasses.dataclass(unsafe_hash=True)
class Hashed:
    x: int
    y: int = dataclasses.field(default=0, compare=False, repr=False, hash=False)


@dataclasses.dataclass
class OwnMethods:
    x: int

    def __repr__(self):
        return f"own {self.x}"

    def __eq__(self, other):
        return self.x % 10 == other.x % 10

    def __hash__(self):
        return 7


@dataclasses.dataclass
class Referring:
    kids: list = dataclasses.field(default_factory=lambda: [Child()])

    def grown(self):
        return Child([], 5).norm()


@dataclasses.dataclass
class Child(Referring):
    age: int = 1

    def norm(self):
        return self.age


Made = dataclasses.make_dataclass("Made", [("x", int), ("y", int, 3)])


@case([5, 9, 9, 9], **DATACLASS)
def methods_of_dataclasses():
    return [Point(-3).norm(), Point.limit, Point3.limit, Point3(-4).norm()]


@case("FrozenInstanceError", **DATACLASS)
def frozen():
    try:
        Frozen(1).x = 2
    except dataclasses.FrozenInstanceError as error:
        return type(error).__name__


@case(
    [["x", "y", "tags", "z"], {"x": 1, "y": 2, "tags": []}, "Point(x=1, y=2, tags=[])"],
    **DATACLASS,
)
def tools():
    return [
        [f.name for f in dataclasses.fields(Point3)],
        dataclasses.asdict(Point(1)),
        repr(Point(1)),
    ]


@case([True, True, False, 7, True, "Hashed(x=1)", "own 3"], **DATACLASS)
def equality():
    return [
        hash(Hashed(1)) == hash(Hashed(1, 5)),
        OwnMethods(1) == OwnMethods(11),
        Bare() == Bare(),
        hash(OwnMethods(1)),
        Point.__hash__ is None,
        repr(Hashed(1)),
        repr(OwnMethods(3)),
    ]


@case([[1, 2, []], "TypeError", "TypeError"], **DATACLASS)
def keywords():
    found = Keywords(y=2)
    errors = []
    for attempt in (lambda: Keywords(1, 2), lambda: Keywords(x=1)):
        try:
            attempt()
        except TypeError as error:
            errors.append(type(error).__name__)
    return [[found.x, found.y, found.made], *errors]


@case([6, 2, 3, 4], **DATACLASS)
def some_keywords():
    made = SomeKeywords(1, d=4)
    return [made.a, made.b, made.c, made.d]


@case([True, True, {"unit": "m"}, True], **DATACLASS)
def copies():
    one = FrozenSlotted(1)
    metadata = dict(dataclasses.fields(Bare)[0].metadata)
    return [
        copy.copy(one) == one,
        copy.deepcopy(Slotted(1)) == Slotted(1),
        metadata,
        Slotted.__slots__ == ("x", "y"),
    ]


Pair = collections.namedtuple("Pair", "first second", defaults=[7])
Renamed = collections.namedtuple("Renamed", "a class a", rename=True)


class Row(typing.NamedTuple):
    """A row."""

    name: str
    size: int = 0

    def label(self):
        return f"{self.name}:{self.size}"

    @property
    def big(self):
        return self.size > 10

    def __str__(self):
        return "row " + self.name


class Wide(collections.namedtuple("Base", "x y")):
    __slots__ = ()

    def moved(self):
        return Wide(self.x + 1, self.y)

    def __add__(self, other):
        return self._replace(x=self.x + other.x)


@case([["a:0", False, "row a"], ("name", "size"), {"size": 0}, "Row(name='a', size=0)", "A row."])
def rows():
    row = Row("a")
    return [
        [row.label(), row.big, str(row)],
        Row._fields,
        Row._field_defaults,
        repr(row),
        Row.__doc__,
    ]


@case([(1, 7), {"first": 1, "second": 2}, (1, 3), ("a", "_1", "_2")])
def pairs():
    return [
        tuple(Pair(1)),
        dict(Pair(1, 2)._asdict()),
        tuple(Pair(1, 2)._replace(second=3)),
        Renamed._fields,
    ]


class Colour(enum.Enum):
    """A colour."""

    RED = 1
    GREEN = 2
    CRIMSON = 1

    def shout(self):
        return self.name + "!"

    @classmethod
    def first(cls):
        return cls.RED

    @property
    def low(self):
        return self.name.lower()

    def __str__(self):
        return "colour " + self.name


class Planet(enum.Enum):
    EARTH = (5.97, 6.37)
    MARS = (0.64, 3.39)

    def __init__(self, mass, radius):
        self.mass = mass
        self.radius = radius


class Coordinate(bytes, enum.Enum):
    PX = (0, "P.X")
    PY = (1, "P.Y")

    def __new__(cls, value, label):
        made = bytes.__new__(cls, [value])
        made._value_ = value
        made.label = label
        return made


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2

    def more(self):
        return Level(self + 1)


class Word(str, enum.Enum):
    YES = "yes"
    NO = "no"


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    EXECUTE = enum.auto()
    BOTH = READ | WRITE


class Bits(enum.IntFlag):
    A = 1
    B = 2


class Named(enum.Enum):
    def _generate_next_value_(name, start, count, last_values):
        return name.lower()

    ONE = enum.auto()
    TWO = enum.auto()

    @classmethod
    def _missing_(cls, value):
        return cls.ONE if value == "uno" else None


class Calls(enum.Enum):
    @staticmethod
    def helper(x):
        return x + 1

    ADD = "add"

    def run(self, x):
        return self.helper(x)


Functional = enum.Enum("Functional", "ONE TWO", module=__name__)


@case([["RED", "GREEN"], True, "GREEN!", "colour RED", "red", "A colour."])
def colours():
    return [
        [member.name for member in Colour],
        Colour["CRIMSON"] is Colour.RED and Colour(1) is Colour.RED,
        Colour(2).shout(),
        str(Colour.RED),
        Colour.RED.low,
        Colour.__doc__,
    ]


@case([3.39, True, "yes!", True, True, True, 3, "one", True, 3])
def other_enums():
    return [
        Planet.MARS.radius,
        Level.HIGH > Level.LOW,
        Word.YES + "!",
        Access.WRITE in (Access.READ | Access.WRITE),
        (Bits.A | Bits.B) == 3,
        Access.READ | Access.WRITE is Access.BOTH or Access.BOTH.value == 3,
        Access.BOTH.value,
        Named.ONE.value,
        Named("uno") is Named.ONE,
        Calls.ADD.run(2),
    ]


OBJECTS = [
    Point(1),
    Point3(1, z=5),
    Frozen(1, Frozen(2)),
    Ordered(1, y=4),
    Slotted(1, [2]),
    FrozenSlotted(1),
]
OBJECTS += [Checked(3, 4), Hashed(1, 2), Made(1), Keywords(y=1), SomeKeywords(1, d=2)]
for each in OBJECTS:
    add(f"instance of {type(each).__name__}", lambda obj: obj, each, each, **DATACLASS)
    add(f"made there: {type(each).__name__}", lambda obj: copy.copy(obj), each, each, **DATACLASS)
for each in [Pair(1), Row("a", 3), Wide(1, 2), Renamed(1, 2, 3)]:
    add(f"instance of {type(each).__name__}", lambda obj: obj._replace(), each, each)
for each in [
    Colour.RED,
    Planet.MARS,
    Coordinate.PY,
    Level.HIGH,
    Word.NO,
    Access.READ,
    Access.BOTH,
]:
    add(f"member {type(each).__name__}.{each.name}", lambda member: member, each, each)
for each in [Access.READ | Access.EXECUTE, Access(0), Bits.A | Bits.B, Functional.TWO, Named.TWO]:
    add(
        f"member {type(each).__name__}.{each.name}",
        lambda member: [member, {member: 1}],
        [each, {each: 1}],
        each,
    )
add("a dataclass is called", Point, Point(1, 5), 1, 5, **DATACLASS)
add("order", lambda: sorted([Ordered(2), Ordered(1)]), [Ordered(1), Ordered(2)], **DATACLASS)
add("replace", lambda: dataclasses.replace(Frozen(3), x=4), Frozen(4), **DATACLASS)
add("post_init", lambda: Checked(3, 5), Checked(3, 5), **DATACLASS)
add("slotted methods", Slotted(1, [2]).total, 3, **DATACLASS)
add("a cycle of dataclasses", Referring([]).grown, 5, **DATACLASS)
add("make_dataclass", lambda: Made(1), Made(1), **DATACLASS)
add("named tuple's method", Wide(1, 2).moved, Wide(2, 2))
add("named tuple's operator", lambda: Wide(1, 2) + Wide(1, 2), Wide(2, 2))
add("a row is called", Row, Row("a"), "a")
add("enum's class method", Colour.first, Colour.RED)
add("enum's method", Level.LOW.more, Level.HIGH)
add("enum with its own __new__", lambda: [Coordinate.PY.label, Coordinate.PY.value], ["P.Y", 1])
