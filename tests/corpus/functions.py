"""Named, nested and recursive functions, lambdas, closures, defaults and globals."""

import functools
import json
import math
import operator
import os.path
import sys

from tests.corpus import add, case

FACTOR = 3
TABLE = {"a": 1}
COUNT = 10


@case(8, 4)
def double(x):
    return 2 * x


@case(30, 5)
def calls_another(x):
    return double(x) * FACTOR


@case(3628800, 10)
def factorial(n):
    return 1 if n == 0 else n * factorial(n - 1)


@case(False, 11)
def is_even(n):
    return n == 0 or is_odd(n - 1)


def is_odd(n):
    return n != 0 and is_even(n - 1)


@case([1, 2, (), 4, {}], 1)
def with_defaults(a, b=2, *rest, c=4, **more):
    return [a, b, rest, c, more]


@case([1, [2], 9])
def mutable_default(items=[1], *, more=[2], fn=lambda: 9):
    return [items[0], more, fn()]


@case(7)
def lambda_in_default(fn=lambda x=lambda: 7: x):
    return fn()()


@case([0, 1, 4, 9], 4)
def nested(n):
    def square(x):
        def times(y):
            return x * y

        return times(x)

    return [square(x) for x in range(n)]


@case("functions.named_inside.<locals>.inner")
def named_inside():
    def inner():
        pass

    return inner.__qualname__.rpartition("corpus.")[2] and "functions." + inner.__qualname__


@case(3)
def counted():
    count = 0

    def up():
        nonlocal count
        count += 1
        return count

    up(), up()
    return up()


@case([11, 11])
def changes_a_global():
    global COUNT
    COUNT += 1
    return [COUNT, reads_the_global()]


def reads_the_global():
    return COUNT


@case([2, {"a": 1}])
def local_import():
    import json as j
    from math import floor

    return [floor(2.5), j.loads('{"a": 1}')]


@case([3, "a/b", "[1]"])
def modules():
    return [math.ceil(2.5), os.path.join("a", "b"), json.dumps([1])]


@case(["Doc.", "documented", "documented"])
def documented():
    """Doc."""
    return [documented.__doc__, documented.__name__, documented.__qualname__]


@case({"x": "int", "return": "str"}, 1)
def annotated(x: "int") -> "str":
    return annotated.__annotations__


@case([1, 2, 3])
def deleted():
    x = 5
    del x
    items = [0, 1, 2, 3]
    del items[0]
    return items


@case("caught 5")
def handled():
    try:
        raise ValueError(5)
    except (KeyError, ValueError) as error:
        return f"caught {error}"
    finally:
        math.floor(1.5)


@case(["in", "body", "out"])
def with_statement():
    log = []

    class Manager:
        def __enter__(self):
            log.append("in")
            return "body"

        def __exit__(self, *args):
            log.append("out")

    with Manager() as text:
        log.append(text)
    return log


@case([[1, (2, 3)], 1, [2], 3, {"a": 1, "b": 2}])
def unpacking():
    first, *rest = 1, 2
    *_, last = [1, 2, 3]
    return [[1, (2, 3)], first, rest, last, {**TABLE, "b": 2}]


@case(["a", "é\n", b"\x00", 10**20, 1.5, 2j, 1_000, ..., None, True])
def constants():
    return ["a", "é\n", b"\x00", 10**20, 1.5, 2j, 1_000, ..., None, True]


@case("línea ñ 日本")
def not_ascii():
    texto = "línea"
    ñ = "ñ"
    return f"{texto} {ñ} 日本"


@case("x\n    y\n z")
def long_text():
    return """x
    y
 z"""


@case(["3.14", "  a", "a\\n", "{}", "'b'", "0x1f", "1,000"])
def f_strings():
    width, b = 3, "b"
    return [
        f"{3.14159:.2f}",
        f"{'a':>{width}}",
        rf"a\n",
        f"{{}}",
        f"{b!r}",
        f"{31:#x}",
        f"{1000:,}",
    ]


@case(True)
def system():
    return sys.maxsize > 100 and operator.add(1, 1) == 2


@case([3, 1])
def conditional_definition():
    if FACTOR > 2:

        def pick():
            return 3

    else:

        def pick():
            return 4

    return [pick(), 1]


@case(["while", "else", "for", "else"])
def loops():
    log = []
    while True:
        log.append("while")
        break
    for _ in ():
        pass
    else:
        log.append("else")
    for word in ("for",):
        log.append(word)
    else:
        log.append("else")
    return log


def one_line(x): return x + 1


def adder(n):
    return lambda x: x + n


def pair():
    state = [0]

    def put(x):
        state.append(x)

    def get():
        return list(state)

    return put, get


def uses_both(put, get):
    put(1)
    put(2)
    return get()


def shared():
    count = 0

    def up():
        nonlocal count
        count += 1

    def read():
        return count

    return up, read


def uses_shared(up, read):
    up()
    up()
    return read()


def recursive_inside():
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    return fib


def reversed_names():
    zeta, alpha, middle = 1, 20, 300

    def combined():
        return [middle, zeta, alpha]

    return combined


def shadowing(double):
    def inner():
        return double

    return inner


def in_branches(flag):
    if flag:
        for _ in range(1):
            with open(os.devnull):
                try:

                    def found():
                        return flag

                finally:
                    pass
    return found


for _ in range(1):
    if FACTOR:

        @functools.wraps(double)
        def in_a_block(x):
            import math

            return math.floor(x + FACTOR)

    try:
        class InABlock:
            def method(self):
                return __class__.__name__
    finally:
        pass


THREE = [lambda x: x + 1, lambda x: x + 2, lambda x: x * 10]
PER_LINE = {
    "a": lambda x: (
        x,
        [x, "a"],
    ),
    "b": lambda x: x
    + 2,
}
LATE = [lambda: i for i in range(3)]
EARLY = [lambda i=i: i for i in range(3)]
NESTED = lambda x: lambda y: lambda z: [x, y, z]
ALIKE = (lambda: 1, lambda: 1, lambda: 2)

add("one line", one_line, 4, 3)
add("closure", adder(7), 8, 1)
add("closure over a list", uses_both, [0, 1, 2], *pair())
add("closures share a variable", uses_shared, 2, *shared())
add("recursive inside", recursive_inside(), 55, 10)
add("free variables by name", reversed_names(), [300, 1, 20])
add("a free variable named as a global", shadowing(5), 5)
add("inside branches", in_branches(True), True)
add("first lambda of a line", THREE[0], 4, 3)
add("second lambda of a line", THREE[1], 5, 3)
add("third lambda of a line", THREE[2], 30, 3)
add("lambda of several lines", PER_LINE["a"], (1, [1, "a"]), 1)
add("another of them", PER_LINE["b"], 3, 1)
add("lambda of a comprehension", LATE[0], 2)
add("lambda with a default", EARLY[1], 1)
add("lambda in a lambda", NESTED(1)(2), [1, 2, 3], 3)
add("lambdas that are alike", ALIKE[2], 2)
add("lambda over globals", lambda x: x + FACTOR, 4, 1)
add("lambda with all parameters", lambda a, *b, c=3, **d: [a, b, c, d], [1, (2,), 3, {}], 1, 2)
add("a function as an argument", lambda fn: fn(2), 4, double)
add("functions in a list", lambda fns: [fn(3) for fn in fns], [6, 4], [double, THREE[0]])
add("partial", functools.partial(with_defaults, 1, c=5), [1, 7, (), 5, {}], 7)
add("partial of a partial", functools.partial(functools.partial(double), 4), 8)
add("partial of a lambda", functools.partial(lambda a, b: [a, b], b=2), [1, 2], 1)
add("builtin", len, 2, "ab")
add("method of a builtin", "a-b".split, ["a", "b"], "-")
add("in a block", in_a_block, 4, 1.5)
add("method of a class in a block", InABlock().method, "InABlock")
