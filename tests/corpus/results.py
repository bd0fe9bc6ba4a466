"""Exceptions of the caller's own, and results of the library's types."""

import collections
import datetime
import decimal
import pathlib
import re

from tests.corpus import add, case


class Broken(Exception):
    pass


class Detailed(Broken):
    def __init__(self, what, why):
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why

    def __str__(self):
        return f"detailed {self.what}"


class Odd(KeyError, Broken):
    pass


def raises(error):
    raise error


@case("detailed a")
def caught_there():
    try:
        raise Detailed("a", "b")
    except Broken as error:
        return str(error)


@case(None, exception=Detailed)
def raised():
    raise Detailed("a", "b")


@case(None, exception=ZeroDivisionError)
def divided():
    return 1 / 0


@case(None, exception=Broken)
def from_another():
    try:
        {}["x"]
    except KeyError as error:
        raise Broken("outer") from error


@case([True, "KeyError"])
def context():
    try:
        try:
            {}["x"]
        except KeyError:
            raise Broken("outer")
    except Broken as error:
        return [error.__cause__ is None, type(error.__context__).__name__]


VALUES = [
    datetime.datetime(2024, 2, 29, 1, 2, 3),
    datetime.timedelta(days=1),
    decimal.Decimal("1.5"),
    pathlib.PurePosixPath("/a/b"),
    collections.OrderedDict(a=1),
    collections.Counter("aab"),
    collections.deque([1, 2], 5),
    {1: {2, 3}, "x": frozenset([4])},
    range(3),
    b"\x00\xff",
    2**100,
]
for each in VALUES:
    add(f"a {type(each).__name__}", lambda value: value, each, each)
add("a pattern", lambda pattern: pattern.findall("aab"), ["aa"], re.compile("a+"))
add("an exception given", raises, None, Odd(1), exception=Odd)
add("a path made there", lambda: pathlib.PurePosixPath("/a") / "b", pathlib.PurePosixPath("/a/b"))
