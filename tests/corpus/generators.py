"""Generators, coroutines, async generators and comprehensions."""

import asyncio
import itertools

from tests.corpus import add, case

OFFSET = 100


def numbers(n):
    yield from range(n)
    return "end"


def talks():
    got = yield "ask"
    yield ["got", got]


@case([[0, 1, 2], ["ask", ["got", 5]]])
def uses_generators():
    talk = talks()
    return [list(numbers(3)), [next(talk), talk.send(5)]]


@case("end")
def value_of_a_generator():
    def outer():
        return (yield from numbers(1))

    iterator = outer()
    next(iterator)
    try:
        next(iterator)
    except StopIteration as stop:
        return stop.value


@case("RuntimeError")
def stop_iteration_in_a_generator():
    def broken():
        yield 1
        raise StopIteration

    try:
        list(broken())
    except RuntimeError as error:
        return type(error).__name__


@case([[0, 1, 4], {0: 100, 1: 101}, [0, 1], [[0, 0], [0, 1]], 3], 3)
def comprehensions(n):
    return [
        [i * i for i in range(n)],
        {i: i + OFFSET for i in range(2)},
        sorted({i % 2 for i in range(n)}),
        [[i * j for i in range(2)] for j in range(2)],
        sum(i for i in range(n)),
    ]


@case([[5, 6], 11])
def comprehension_over_a_local():
    base = 5
    values = [base + i for i in range(2)]
    return [values, sum(base for _ in range(1)) + 6]


@case([0, 2])
def lambdas_in_a_comprehension():
    return [fn() for fn in [lambda i=i: 2 * i for i in range(2)]]


@case(2, 1)
async def later(x):
    await asyncio.sleep(0)
    return x + 1


@case([1, 2, 3])
async def several():
    return list(await asyncio.gather(*(later(n) for n in range(3))))


async def ticks(n):
    for i in range(n):
        yield i
        await asyncio.sleep(0)


@case([[0, 1, 2], [0, 1], {0: 0, 1: 1}])
async def uses_async_generators():
    found = []
    async for i in ticks(3):
        found.append(i)
    return [found, [i async for i in ticks(2)], {i: i async for i in ticks(2)}]


@case(["enter", "body", "exit"])
async def async_with():
    log = []

    class Manager:
        async def __aenter__(self):
            log.append("enter")

        async def __aexit__(self, *args):
            log.append("exit")

    async with Manager():
        log.append("body")
    return log


@case([3, 4])
async def awaits_in_a_comprehension():
    return [await later(i) for i in (2, 3)]


class Countdown:
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        n = self.n
        while n:
            yield n
            n -= 1

    async def wait(self):
        return await later(self.n)


add("a generator's values", lambda: list(numbers(2)), [0, 1])
add("an iterable class", lambda: list(Countdown(3)), [3, 2, 1])
add("an async method", Countdown(4).wait, 5)
add("chained", lambda: list(itertools.chain(numbers(1), numbers(2))), [0, 0, 1])
add("an async lambda's coroutine", lambda: later(6), 7)
