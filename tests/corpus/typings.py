"""What typing makes of classes and functions."""

import typing

from tests.corpus import add, case

T = typing.TypeVar("T")
N = typing.TypeVar("N", int, float)
P = typing.ParamSpec("P")
UserId = typing.NewType("UserId", int)


class Box(typing.Generic[T]):
    def __init__(self, item: T):
        self.item = item

    def get(self) -> T:
        return self.item

    def __eq__(self, other):
        return type(other) is type(self) and other.item == self.item

    __hash__ = None


class NumberBox(Box[N], typing.Generic[N]):
    pass


class IntBox(Box[int]):
    pass


class Both(typing.Generic[T, N]):
    pass


class Bag(typing.List[int]):
    def total(self):
        return sum(self)


class Bag39(list[int]):
    def total(self):
        return sum(self)


class Movie(typing.TypedDict):
    name: str
    year: int


class Rated(Movie, total=False):
    stars: int


class Sized(typing.Protocol):
    def size(self) -> int: ...


@typing.runtime_checkable
class Closes(typing.Protocol):
    name: str

    def close(self) -> None: ...


class File:
    name = "f"

    def size(self):
        return 3

    def close(self):
        pass


class Impl(Sized):
    def size(self):
        return 4


@case([3, True, True])
def generics():
    return [Box[int](3).get(), isinstance(Box(1), Box), issubclass(IntBox, Box)]


@case(["int", "typing.Any"])
def inner_annotations():
    def inner(x: int) -> "typing.Any":
        return x

    return [inner.__annotations__["x"].__name__, inner.__annotations__["return"]]


@case(3)
def newer_annotations():
    def inner(x: list[int] | None = None, *rest: dict[str, int]) -> tuple[int, ...]:
        return 3

    class Made:
        items: list[int] = []
        other: int | None = None

        def method(self, x: "int | None") -> int | str:
            return x

    y: list[int] | None = None
    return inner(y) + len(Made.items)


@case(8, 4)
def own_annotations(x: list[int] | None, y: dict[str, int] = {}) -> tuple[int, ...]:
    return 2 * x


@case([True, False], since=(3, 8), why="typing.Protocol isn't there")
def protocols():
    return [isinstance(File(), Closes), isinstance(1, Closes)]


@case(
    [{"name": "x", "year": 1}, ["name", "year"]], since=(3, 8), why="typing.TypedDict isn't there"
)
def typed_dicts():
    movie: Movie = Movie(name="x", year=1)
    rated = Rated(name="x", year=1)
    return [dict(rated), sorted(movie)]


@case(5)
def cast():
    return typing.cast("int", 5)


def with_typevar(x: T) -> T:
    return [x, T.__name__]


add("a generic instance", lambda box: box, Box(3), Box(3))
add("of a subclass", lambda: IntBox(3).get(), 3)
add("with constraints", lambda: NumberBox(3).get(), 3)
add("two variables", lambda: type(Both()).__name__, "Both")
add("a subclass of typing.List", Bag([1, 2]).total, 3)
add("a subclass of list[int]", Bag39([1, 2]).total, 3)
add("a protocol's implementation", Impl().size, 4, since=(3, 8), why="typing.Protocol isn't there")
add("a type variable", with_typevar, [1, "T"], 1)
add("a NewType", lambda: UserId(5), 5)
add("a ParamSpec", lambda: P.__name__, "P", since=(3, 10), why="typing.ParamSpec isn't there")
add(
    "Union in a value",
    lambda u: str(u).replace("typing.", "")[:3] in ("Uni", "Opt", "int"),
    True,
    int | None,
)
add("a generic alias in a value", lambda a: a.__origin__ in (list, typing.List), True, list[int])
