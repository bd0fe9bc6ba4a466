"""What Python 3.11 brought."""

import enum

from tests.corpus import add, case


@case([[1], ["b"]], since=(3, 11), why="except")
def groups():
    caught = [[], []]
    try:
        raise ExceptionGroup("both", [ValueError(1), KeyError("b")])
    except* ValueError as found:
        caught[0] = [error.args[0] for error in found.exceptions]
    except* KeyError as found:
        caught[1] = [error.args[0] for error in found.exceptions]
    return caught


@case([("a", "b"), {(0, 1): 5}[0, 1]])
def starred_index():
    class Grid:
        def __getitem__(self, key):
            return key

    inner = ["b"]
    table = {(0, 1): 5}
    rest = [1]
    return [Grid()["a", *inner], table[0, *rest]]


@case(1)
def starred_alone():
    key = ["k"]
    return {("k",): 1}[*key]


@case(6, 1, 2, 3)
def starred_annotation(*args: *tuple[int, ...]):
    def inner(*more: *tuple[int]):
        return sum(more)

    return inner(*args)


async def ticks(n):
    for i in range(n):
        yield i


@case([[0, 1], [0, 1]], since=(3, 11), why="asynchronous comprehension inside another")
async def async_comprehension_inside():
    return [[i async for i in ticks(2)] for _ in range(2)]


class Mode(enum.StrEnum):
    ON = enum.auto()
    OFF = enum.auto()


class Kept(enum.Flag, boundary=enum.KEEP):
    A = 1


add(
    "StrEnum",
    lambda mode: [mode, mode + "!"],
    [Mode.ON, "on!"],
    Mode.ON,
    since=(3, 11),
    why="enum.StrEnum isn't there",
)
add(
    "boundary",
    lambda flag: Kept(9).value,
    9,
    Kept.A,
    since=(3, 11),
    why="enum.FlagBoundary isn't there",
)
