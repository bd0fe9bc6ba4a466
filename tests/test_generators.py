"""Generators over there are generators here, and iterators here are iterators there."""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from fabremote import (
    Interpreter,
    RemoteCancelled,
    RemoteProcessDied,
    RemoteTimeout,
    RemoteTraceback,
    ResultError,
    ShippingError,
    ThreadingGroup,
    UntrustedResult,
    ahead,
    remotely,
    wrap,
)
from fabremote.agent import bundle, streaming
from fabremote.calls import Call
from fabremote.demo.server import Server
from fabremote.generators import RemoteGenerator
from fabremote.items import Items
from fabremote.options import Bound
from tests import interpreters
from tests.conftest import connect


@pytest.fixture(scope="module", params=["3.6", "3.8", "3.13"])
def py(request: pytest.FixtureRequest) -> Iterator[Interpreter]:
    """An interpreter of some versions in turn."""
    if request.param not in interpreters.found():
        pytest.skip(f"no Python {request.param} on this machine")
    with wrap(Context()) as context:
        made = context.python(python=interpreters.found()[request.param])
        made.call(count, 1).close()
        yield made


@pytest.fixture(scope="module")
def here() -> Iterator[Any]:
    """This machine, with an agent running."""
    with wrap(Context()) as context:
        local(context).call(count, 1).close()
        yield context


@pytest.fixture
def own() -> Iterator[Any]:
    """The same, with threads of its own."""
    with wrap(Context()) as context:
        yield context


def local(here: Any, **options: Any) -> Interpreter:
    python: Interpreter = here.python(python=sys.executable, **options)
    return python


class Missing(Exception):
    def __init__(self, item: str) -> None:
        super().__init__(item)
        self.item = item


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


def count(n: int) -> Generator[int, None, str]:
    yield from range(n)
    return "counted"


def echo() -> Generator[Any, Any, None]:
    answer = None
    while True:
        try:
            answer = yield answer
        except Missing as error:
            answer = error.item


def failing() -> Iterator[int]:
    yield 1
    raise Missing("second")


def stuck() -> Iterator[int]:
    try:
        yield 1
        time.sleep(600)
    finally:
        print("closed there")


def consume(items: Iterable[Any]) -> list[Any]:
    found = []
    try:
        for item in items:
            found.append(item.x if isinstance(item, Point) else item)
    except Missing as error:
        found.append(error.item)
    return found


def pieces(number: int, size: int) -> Iterator[bytes]:
    for _ in range(number):
        yield bytes(size)


def interrupt_once_in(function: Any) -> None:
    """Interrupt the main thread as soon as it is at work in this function."""
    main = threading.main_thread().ident
    assert main is not None
    while True:
        frame = sys._current_frames().get(main)
        while frame is not None:
            if frame.f_code is function.__code__:
                return signal.pthread_kill(main, signal.SIGINT)
            frame = frame.f_back
        time.sleep(0.05)


# Everywhere


def test_items_come_in_order_and_the_value_at_the_end(py: Interpreter) -> None:
    items = py.call(count, 1000)
    assert [next(items) for _ in range(1000)] == list(range(1000))
    with pytest.raises(StopIteration) as stopped:
        next(items)
    assert stopped.value.value == "counted"
    assert list(items) == []


def test_values_and_exceptions_are_sent_to_it(py: Interpreter) -> None:
    items = py.call(echo)
    with pytest.raises(TypeError, match="just-started"):
        items.send(1)
    assert next(items) is None
    assert [items.send(each) for each in ("a", [2], 3.0)] == ["a", [2], 3.0]
    assert items.throw(Missing("thrown")) == "thrown"
    point = Point(7)
    assert items.send(point).x == 7
    with pytest.raises(KeyError) as caught:
        items.throw(KeyError("not caught there"))
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert list(items) == []


def test_what_it_raises_midway_has_its_type_and_traceback(py: Interpreter) -> None:
    items = py.call(failing)
    assert next(items) == 1
    with pytest.raises(Missing) as caught:
        next(items)
    assert caught.value.item == "second"
    assert "in failing" in str(caught.value.__cause__)
    with pytest.raises(StopIteration):
        next(items)


def test_closing_runs_its_finally_blocks_even_while_it_is_at_work(py: Interpreter) -> None:
    shown = io.StringIO()
    given = {**py._bound.given, "out_stream": shown}
    items = Interpreter(py._host, Bound(py._host.context, given)).call(stuck)
    # By the second of a window it runs ahead, into its sleep.
    assert next(items) == 1
    waiting = threading.Thread(target=interrupt_once_in, args=(Call._drain,))
    waiting.start()
    with pytest.raises(KeyboardInterrupt):
        next(items)
    waiting.join()
    assert shown.getvalue() == "closed there\n"
    items.close()  # has ended


def test_an_iterator_is_asked_for_items_as_they_are_needed(py: Interpreter) -> None:
    taken = []
    closed = []

    def numbers() -> Iterator[int]:
        try:
            for n in itertools.count():
                taken.append(n)
                yield n
        finally:
            closed.append(True)

    assert py.call(lambda items: [next(items), next(items)], numbers()) == [0, 1]
    assert taken == [0, 1]
    assert closed
    assert py.call(consume, (Point(n) for n in range(3))) == [0, 1, 2]
    assert py.call(consume, failing()) == [1, "second"]
    # Several, and inside others.
    pairs = py.call(lambda a, b: [(x, next(b["b"][0])) for x in a], count(2), {"b": [count(3)]})
    assert pairs == [(0, 0), (1, 1)]


def test_the_end_of_an_iterator_has_its_value(py: Interpreter) -> None:
    def passed_on(items: Generator[int, None, str]) -> Generator[int, None, str]:
        return (yield from items)

    items = py.call(passed_on, count(2))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(StopIteration, match="counted"):
        next(items)
    assert py.call(sum, py.call(count, 5)) == 10


def test_items_may_go_ahead(py: Interpreter) -> None:
    assert py.call(consume, ahead(range(300), 50)) == list(range(300))
    # Larger than what may lie about unread.
    total = py.call(lambda items: sum(map(len, items)), ahead((bytes(1 << 20),) * 3, 3))
    assert total == 3 << 20


def test_a_function_that_returns_a_generator_streams_too(py: Interpreter) -> None:
    assert list(py.call(lambda: (n * n for n in range(4)))) == [0, 1, 4, 9]
    assert list(py.call(map, str, [1, 2])) == ["1", "2"]


def test_an_asynchronous_generator(py: Interpreter) -> None:
    async def letters() -> Any:
        import asyncio

        got = "a"
        try:
            while True:
                await asyncio.sleep(0)
                try:
                    got = (yield got) or "z"
                except KeyError:
                    got = "caught"
        finally:
            await asyncio.sleep(0)
            print("closed there")

    async def use(python: Interpreter) -> list[Any]:
        made = python.call(letters)
        found = [await made.__anext__(), await made.asend("b"), await made.athrow(KeyError())]
        async for each in made:
            found.append(each)
            break
        await made.aclose()
        found += [each async for each in made]
        return found

    shown = io.StringIO()
    with wrap(Context()) as own:
        python = own.python(python=py._bound.given["python"], out_stream=shown)
        assert asyncio.run(use(python)) == ["a", "b", "caught", "z"]
    assert shown.getvalue() == "closed there\n"


# How far it runs ahead


def test_it_runs_ahead_no_further_than_its_consumer_has_shown_need(here: Any) -> None:
    def noting() -> Iterator[int]:
        for n in itertools.count():
            print(n, flush=True)
            yield n

    shown = io.StringIO()
    items = local(here, out_stream=shown).call(noting)
    time.sleep(0.1)
    assert shown.getvalue() == ""
    for n in range(3):
        assert next(items) == n
        assert len(shown.getvalue().splitlines()) <= 2 * (n + 1)
    for _ in range(3000):
        last = next(items)
    assert len(shown.getvalue().splitlines()) <= last + 1024 + 1
    items.close()


def test_it_waits_where_it_uses_what_yield_returns(here: Any) -> None:
    def mixed() -> Generator[Any, Any, None]:
        for n in range(200):
            yield -n
        got = yield "which?"
        yield from [got] * 3

    items = local(here).call(mixed)
    assert [next(items) for _ in range(201)][-1] == "which?"
    assert items.send("this") == "this"
    assert list(items) == ["this"] * 2


def test_what_it_printed_comes_before_its_item(here: Any) -> None:
    def printing() -> Iterator[int]:
        for n in range(100):
            print(n, "x" * 50_000, end=" ")
            yield n

    shown = io.StringIO()
    for n in local(here, out_stream=shown).call(printing):
        assert f"{n} x" in shown.getvalue()


# What may befall it


def test_a_process_that_dies_gives_its_items_first(here: Any) -> None:
    def dying() -> Iterator[int]:
        yield 1
        yield 2
        os._exit(3)

    items = local(here).call(dying)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(RemoteProcessDied) as caught:
        next(items)
    assert caught.value.exited == 3


def test_the_timeout_counts_while_nobody_asks(own: Any) -> None:
    assert list(local(own, timeout=60).call(count, 2)) == [0, 1]
    shown = io.StringIO()
    items = local(own, timeout=2, out_stream=shown).call(count, 5000)
    assert next(items) == 0
    time.sleep(2.2)
    with pytest.raises(RemoteTimeout):
        list(items)


def test_an_item_that_is_no_data_ends_it(here: Any) -> None:
    def opened() -> Iterator[Any]:
        try:
            yield sys.stdout
        finally:
            print("closed there")

    shown = io.StringIO()
    with pytest.raises(UntrustedResult, match="opened"):
        next(local(here, out_stream=shown).call(opened))
    assert shown.getvalue() == "closed there\n"
    with pytest.raises(ResultError, match=r"item of .* limit is 1000"):
        list(local(here, max_result=1000).call(lambda: (bytes(size) for size in (10, 2000))))


def test_one_that_is_dropped_is_closed(here: Any) -> None:
    shown = io.StringIO()
    with wrap(Context()) as own:
        for _ in local(own, out_stream=shown).call(stuck):
            break
        gc.collect()
    assert shown.getvalue() == "closed there\n"


def test_one_outlives_its_connection_only_as_an_error(here: Any) -> None:
    with wrap(Context()) as own:
        items = local(own).call(count, 5000)
        assert next(items) == 0
    with pytest.raises(RemoteCancelled):
        list(items)
    items.close()


def test_a_task_that_is_cancelled_closes_it(here: Any) -> None:
    async def stuck_async() -> AsyncIterator[int]:
        import asyncio

        try:
            yield 1
            await asyncio.sleep(600)
        finally:
            print("closed there")

    async def use(python: Interpreter) -> None:
        items = python.call(stuck_async)
        assert await items.__anext__() == 1
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(items.__anext__(), 0.2)
        with pytest.raises(StopAsyncIteration):
            await items.__anext__()

    shown = io.StringIO()
    with wrap(Context()) as own:
        asyncio.run(use(local(own, out_stream=shown)))
    assert shown.getvalue() == "closed there\n"


def test_no_stream_has_a_thread_of_its_own(own: Any) -> None:
    async def later() -> AsyncIterator[int]:
        for n in range(2):
            yield n

    python = local(own)
    open_ones: list[Any] = [python.call(count, 3) for _ in range(12)]
    assert [next(each) for each in open_ones] == [0] * 12
    before = threading.active_count()

    async def use() -> None:
        many = [python.call(later) for _ in range(12)]
        assert [await each.__anext__() for each in many] == [0] * 12
        # Those of the service, however many town are.
        assert threading.active_count() <= before + 9
        for each in many:
            await each.aclose()

    asyncio.run(use())
    for each in open_ones:
        each.close()


def test_what_cannot_be_an_item_of_an_iterator_is_named(own: Any) -> None:
    with pytest.raises(ShippingError, match=r"item 2 of the iterator .*<genexpr>\(\)"):
        local(own).call(consume, (each for each in (1, sys.stdout)))
    with pytest.raises(ValueError, match="1 to 10000"):
        ahead([], 0)

    class Odd(Exception):
        def __init__(self) -> None:
            self.held = threading.Lock()

    def odd() -> Iterator[int]:
        yield 1
        raise Odd

    with pytest.raises(RuntimeError, match=r"item 2 of the iterator .* raised .*Odd"):
        local(own).call(list, odd())


def test_an_iterator_interrupted_there_loses_no_item(here: Any, tmp_path: Path) -> None:
    def slow() -> Iterator[int]:
        for n in range(4):
            while not (tmp_path / str(n)).exists():
                time.sleep(0.005)
            yield n

    def interrupting(items: Iterator[int], folder: str) -> list[Any]:
        def stop(number: int, frame: Any) -> None:
            if frame.f_code is own:  # it doesn't wait yet
                signal.setitimer(signal.ITIMER_REAL, 0.01)
            else:
                raise InterruptedError

        own = sys._getframe().f_code
        signal.signal(signal.SIGALRM, stop)
        found: list[Any] = []
        for n in range(4):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                found.append(next(items))
            except InterruptedError:
                found.append("interrupted")
            open(os.path.join(folder, str(n)), "w").close()
            found.append(next(items))
        return [*found, *items]

    found = local(here).call(interrupting, slow(), str(tmp_path))
    assert found[::2] == ["interrupted"] * 4
    assert found[1::2] == [0, 1, 2, 3]


# Other ways in


def test_submit_and_run(own: Any) -> None:
    future = local(own).submit(count, 3)
    assert list(future.result()) == [0, 1, 2]
    with pytest.raises(TypeError, match=r"run\(\) can't return the Result of count\(\)"):
        local(own).run(count, 3)
    with pytest.raises(TypeError, match=r"run\(\) can't"):
        local(own).run(lambda: (n for n in range(2)))
    failed = local(own).submit(failing).result()
    assert next(failed) == 1
    with pytest.raises(Missing):
        next(failed)


def test_groups_and_decorators(openssh: Server) -> None:
    hosts = ThreadingGroup.from_connections([connect(openssh), connect(openssh)])
    with hosts as group:
        assert [list(items) for items in group.call(count, 2).values()] == [[0, 1]] * 2
        with pytest.raises(TypeError, match="to a group"):
            group.call(consume, count(2))
    with connect(openssh) as c:
        assert list(remotely(c)(count)(2)) == [0, 1]
        assert sum(map(len, c.call(pieces, 3, 1 << 20))) == 3 << 20
        assert c.call(consume, count(3)) == [0, 1, 2]


# A host that lies


def message(body: bytes, size: int | None = None) -> bytes:
    return bundle.TOTAL.pack(bundle.STREAMED | (len(body) if size is None else size)) + body


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_messages_are_cut_out_of_any_pieces(step: int) -> None:
    items = Items(1000)
    pull = streaming.PULL.pack(b"N"[0], 1, 2, True)
    parts = [b"Gs", b"Y\0first", pull, b"Y\1" + b"x" * 900]
    stream = b"".join(map(message, parts))
    wanted = []
    for start in range(0, len(stream), step):
        wanted += items.feed(stream[start : start + step])
    assert wanted == [(1, 2, True)]
    assert items.kind == "s"
    assert [bytes(items.take()), bytes(items.take())] == [b"first", b"x" * 900]
    assert items.waits


@pytest.mark.parametrize(
    "lie",
    [
        message(b"Gs") + message(b"Y\0", 1 << 40),
        message(b"Gs") * 2,
        message(b"Y\0before it began"),
        message(b"N\0"),
        message(b"?"),
        bundle.TOTAL.pack(5) + b"Y\0abc",
        message(b"Gs") + message(b"Y\0") * 100_000,
    ],
    ids=["large", "twice", "early", "short", "unknown", "unmarked", "many"],
)
def test_what_no_agent_sends_is_refused(lie: bytes) -> None:
    items = Items(1000)
    with pytest.raises(ResultError):
        items.feed(lie)


def test_frames_that_nobody_handles_are_bounded() -> None:
    items = Items(1000)
    assert not all(items.admit(1) for _ in range(100_000))


def test_a_stream_can_not_leave_this_process(here: Any) -> None:
    items = local(here).call(count, 1)
    assert isinstance(items, RemoteGenerator)
    assert "count() on localhost" in repr(items)
    with pytest.raises(TypeError, match="live call"):
        items.__reduce__()
    items.close()


def credit(order: bytes | None) -> int:
    items: int = streaming.CREDIT.unpack(order[-streaming.CREDIT.size :])[0] if order else 0
    return items


def test_a_consumer_that_finds_nothing_says_so_seldom() -> None:
    items = Items(1000)
    items.feed(message(b"Gs"))
    granted, said = 0, []
    for number in range(3000):
        said.append(items.go_on())
        granted += credit(said[-1])
        assert granted > number
        items.feed(message(b"Y\0N."))
        items.take()
        said.append(items.more())
        granted += credit(said[-1])
        assert granted <= number + 1 + 1024
    assert sum(order is not None for order in said) < 60


def take_what_comes(items: Iterator[int], where: str) -> tuple[list[int], int]:
    """Take all items, but a handler raises as the second is there, or is waited for."""

    def profile(frame: Any, event: str, arg: Any) -> None:
        waiter = hasattr(frame.f_locals.get("self"), "queues") and frame.f_code.co_name == "get"
        got = event == "return" and arg is not None
        if waiter and (got if where == "got" else event == "call"):
            sys.setprofile(None)
            raise InterruptedError

    taken, raised = [next(items)], 0
    sys.setprofile(profile)
    while True:
        try:
            taken.append(next(items))
        except InterruptedError:
            raised += 1
        except StopIteration:
            return taken, raised


@pytest.mark.parametrize(("where", "left"), [("got", [0, 2, 3]), ("waited for", [0, 1, 2, 3])])
@pytest.mark.parametrize("way", [iter, ahead], ids=["one by one", "ahead"])
def test_what_a_signals_handler_raises_at_an_item_keeps_no_others_back(
    py: Interpreter, where: str, left: list[int], way: Any
) -> None:
    assert py.call(take_what_comes, way(n for n in range(4)), where) == (left, 1)
