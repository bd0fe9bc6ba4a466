"""Decorators: wraps, with parameters, of classes; the standard library's own."""

import asyncio
import contextlib
import functools

from tests.corpus import add, case

LOG = []


def traced(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return ["traced", wrapper.__name__, fn(*args, **kwargs)]

    return wrapper


def repeated(times, *, label=""):
    def decorate(fn):
        @functools.wraps(fn)
        def wrapper(*args):
            return [label] + [fn(*args) for _ in range(times)]

        return wrapper

    return decorate


class Counting:
    def __init__(self, fn):
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.count = 0

    def __call__(self, *args):
        self.count += 1
        return [self.count, self.fn(*args)]


class Labelled:
    def __init__(self, label):
        self.label = label

    def __call__(self, fn):
        def wrapper(*args):
            return [self.label, fn(*args)]

        return wrapper


@case(["traced", "tripled", 6], 2)
@traced
def tripled(x):
    """Three times."""
    return 3 * x


@traced
@repeated(2, label="twice")
@traced
def stacked(x):
    return x


@repeated(
    3,
    label="lines",
)
def over_lines(x):
    return x


@Counting
def counting(x):
    return x


@Labelled("L")
def labelled(x):
    return x


@functools.lru_cache(maxsize=None)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


@functools.lru_cache(maxsize=7)
def cached(x):
    return x * 100


@case([1, 1, 7])
def looks_at_a_cache():
    cached(1)
    cached(1)
    info = cached.cache_info()
    return [info.hits, info.misses, info.maxsize]


@functools.singledispatch
def described(value):
    return "any"


@described.register(int)
def _(value):
    return "int"


@described.register(list)
def of_list(value):
    return [described(item) for item in value]


@contextlib.contextmanager
def bracketed(log):
    log.append("in")
    try:
        yield "middle"
    finally:
        log.append("out")


@case(["in", "middle", "out"])
def uses_bracketed():
    log = []
    with bracketed(log) as text:
        log.append(text)
    return log


@bracketed([])
def inside_bracketed():
    return "inside"


@contextlib.asynccontextmanager
async def abracketed(log):
    log.append("in")
    yield "middle"
    log.append("out")


@case(["in", "middle", "out"], since=(3, 7), why="asynccontextmanager")
async def uses_abracketed():
    log = []
    async with abracketed(log) as text:
        log.append(text)
    await asyncio.sleep(0)
    return log


@case(["Three times.", 6])
def unwrapped():
    return [tripled.__doc__, tripled.__wrapped__(2)]


def attributed():
    return attributed.label


attributed.label = "label"


def decorated_inside():
    @traced
    def inner(x):
        return x

    return inner


@case([["traced", "own", 4]])
def decorates_inside():
    @traced
    def own(x):
        return x

    return [own(4)]


class WithDispatch:
    @functools.singledispatchmethod
    def show(self, value):
        return "any"

    @show.register(int)
    def _(self, value):
        return "int"

    part = functools.partialmethod(show, 5)


class Early:
    def method(self):
        return 1

    half = functools.partialmethod(method)


add("stacked", stacked, ["traced", "stacked", ["twice", *[["traced", "stacked", 1]] * 2]], 1)
add("decorator over lines", over_lines, ["lines", 1, 1, 1], 1)
add("a class as a decorator", counting, [1, 5], 5)
add("an instance as a decorator", labelled, ["L", 5], 5)
add("lru_cache, recursive", fib, 6765, 20)
add("lru_cache", cached, 200, 2)
add("singledispatch", described, ["int", "any", ["int"]], [1, "a", [2]])
add("an implementation of it", of_list, ["int"], [1])
add("contextmanager as a decorator", inside_bracketed, "inside")
add("an attribute of its own", attributed, "label")
add("decorated inside", decorated_inside(), ["traced", "inner", 1], 1)
add(
    "singledispatchmethod", WithDispatch().show, "int", 1, since=(3, 8), why="singledispatchmethod"
)
add("partialmethod", Early().half, 1)
