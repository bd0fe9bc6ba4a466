"""Syntax that older versions lack: rewritten where there is an older spelling."""

import contextlib

from tests.corpus import add, case

WALRUS = {"since": (3, 8), "why": "assignment expression"}


@case([3, 3], **WALRUS)
def walrus():
    if (n := len("abc")) > 2:
        return [n, n]


@case([0, 2, 4], **WALRUS)
def walrus_in_a_comprehension():
    return [y for x in range(3) if (y := 2 * x) >= 0]


@case([1, 2, 3], since=(3, 8), why="positional-only")
def positional_only(a=1, b=2, /, c=3):
    return [a, b, c]


@case("list 2", since=(3, 10), why="match statement")
def matches():
    match [1, 2]:
        case [1, x]:
            return f"list {x}"
        case {"a": y}:
            return y
        case _:
            return None


class Point:
    __match_args__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y


@case([1, 2], since=(3, 10), why="match statement")
def matches_a_class():
    match Point(1, 2):
        case Point(x, y=2):
            return [x, 2]


@case([["enter a", "enter b"], "ab"])
def parenthesised_with():
    log = []

    @contextlib.contextmanager
    def step(name):
        log.append("enter " + name)
        yield name

    with (
        step("a") as first,  # a comment (
        step(
            "b"
        ) as second,
    ):
        return [log, first + second]


@case(["a", "b", 3, "plain"])
def other_withs():
    step = contextlib.nullcontext if hasattr(contextlib, "nullcontext") else None
    if step is None:

        @contextlib.contextmanager
        def step(x):
            yield x

    with step("a") as a, step("b") as b:
        pass
    with step("a"), step("b"):
        pass
    with step([1, 2]) as [c, d]:
        found = c + d
    with step("plain") as plain:
        return [a, b, found, plain]


@case("x=5 y = 'a' z=3.14   a=[1]")
def self_documenting():
    x, y, z, a = 5, "a", 3.14159, [1]
    return f"{x=} {y = } {z=:.2f}   {a=!r}"


@case(["len('ab')=2", "x.y=1", "{}x=1"])
def more_of_them():
    class x:
        y = 1

    found = [f"{len('ab')=}", f"{x.y=}"]
    x = 1
    return [*found, f"{{}}{x=}"]


@case("w=3 |  a|")
def with_a_nested_format():
    w = 3
    return (
        f"{w=} "
        "|"
        f"{'a':>{w}}|"
    )


@case([(1, 2, 3), (0, 1, 2)])
def starred_return():
    rest = [2, 3]

    def gen():
        yield 0, *[1, 2]

    def inner():
        return 1, *rest

    return [inner(), next(gen())]


@case([1, 2, 3])
def starred_loop():
    found = []
    for x in *[1, 2], 3:
        found.append(x)
    return found


@case([1, 3])
def continue_elsewhere():
    found = []
    for x in (1, 2, 3):
        try:
            if x == 2:
                continue
            found.append(x)
        finally:
            pass
    return found


@case([1, 2], since=(3, 8), why="continue in a finally clause")
def continue_in_finally():
    found = []
    for x in (1, 2):
        try:
            found.append(x)
        finally:
            continue
    return found


FUNCTIONS = [lambda fn: fn]


@case(4, since=(3, 9), why="decorator")
def any_decorator():
    @FUNCTIONS[0]
    def inner():
        return 4

    return inner()


@(lambda fn: fn)
def decorated_by_a_lambda():
    return 5


@case(-3)
def line_numbers():
    import sys
    import traceback

    rest = [2]
    with (
        contextlib.ExitStack() as a,
        contextlib.ExitStack() as b,
    ):
        def fail(x: list[int] | None = None) -> dict[str,
                                                    int]:
            y = f"{rest=}"
            return int(y), *rest

        try:
            fail()
        except ValueError:
            lines = [each[1] for each in traceback.extract_tb(sys.exc_info()[2])]
            return lines[1] - lines[0]


add("a decorator that was a lambda", decorated_by_a_lambda, 5)
add("lambda with a walrus", lambda: (x := 3) + x, 6, **WALRUS)
add("lambda with a positional-only", lambda x, /: x, 1, 1, since=(3, 8), why="positional-only")
add("lambda that shows itself", lambda x: f"{x=}", "x=1", 1)
