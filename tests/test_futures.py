"""Many calls at once: ``map``, and calls that are awaited."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest
from invoke.context import Context

from fabremote import (
    Connection,
    Interpreter,
    RemoteCancelled,
    RemoteExecutor,
    RemoteTimeout,
    ShippingError,
    ThreadingGroup,
    wrap,
)
from fabremote.calls import Call
from fabremote.demo.server import Server
from fabremote.session import Session
from tests.faults import settled, within


@pytest.fixture
def py() -> Iterator[Interpreter]:
    """An interpreter on this machine."""
    with wrap(Context()) as context:
        yield context.python(python=sys.executable)


def square(number: int) -> int:
    return number * number


def mark(folder: str, name: Any) -> Any:
    (Path(folder) / str(name)).touch()
    return name


# map


def test_map_gives_values_in_order(conn_openssh: Connection) -> None:
    py = conn_openssh.python()
    assert list(py.map(lambda n, s: time.sleep(s) or n, range(4), [0.3, 0.2, 0.1, 0])) == [
        0,
        1,
        2,
        3,
    ]
    assert list(py.map(pow, [2, 3, 4], [2, 2])) == [4, 9]


def test_map_reads_no_further_than_it_may(py: Interpreter) -> None:
    read: list[int] = []
    found = py.map(square, (read.append(n) or n for n in itertools.count()), in_flight=3)  # type: ignore[func-returns-value]
    assert read == []
    assert next(found) == 0
    assert read == [0, 1, 2]
    assert next(found) == 1
    assert read == [0, 1, 2, 3]


def test_map_runs_its_calls_at_once(py: Interpreter, tmp_path: Path) -> None:
    def meet(folder: str, name: int) -> int:
        mark(folder, name)
        while len(os.listdir(folder)) < 4:
            time.sleep(0.01)
        return name

    assert list(py.map(meet, [str(tmp_path)] * 4, range(4), in_flight=4)) == [0, 1, 2, 3]


def test_an_error_comes_at_its_place_and_ends_the_rest(py: Interpreter, tmp_path: Path) -> None:
    def work(folder: str, number: int) -> int:
        if number > 1:
            time.sleep(60)
        mark(folder, number)
        return 1 // number

    found = py.map(work, [str(tmp_path)] * 9, [1, 0, 2, 3], in_flight=4)
    assert next(found) == 1
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert list(found) == []


def test_a_closed_map_kills_what_runs(conn_openssh: Connection) -> None:
    # The guard against leaks sees whether they are gone.
    found = conn_openssh.python().map(time.sleep, [0, 60, 60], in_flight=3)
    assert next(found) is None
    found.close()  # type: ignore[attr-defined]


def test_in_a_block_a_closed_map_drops_what_waits(py: Interpreter, tmp_path: Path) -> None:
    with py:
        pid = py.call(os.getpid)
        found = py.map(mark, [str(tmp_path)] * 9, [0, "one", *range(2, 9)], in_flight=9)
        py.submit(time.sleep, 0)
        assert next(found) == 0
        found.close()  # type: ignore[attr-defined]
        assert py.call(os.getpid) == pid


def test_what_map_cannot_use_is_refused_at_once(py: Interpreter) -> None:
    with pytest.raises(TypeError, match="isn't callable"):
        py.map(3, [1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="in_flight=0"):
        py.map(square, [1], in_flight=0)


# asyncio


def wait_for(path: str) -> bool:
    """Note that it runs, and tell whether there comes to be such a file."""
    Path(path + " is waited for").touch()
    deadline = time.monotonic() + 30
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


async def begun(path: Path) -> None:
    """Return once it is waited for."""
    while not os.path.exists(f"{path} is waited for"):
        await asyncio.sleep(0.01)


def test_acall_leaves_the_event_loop_free(conn_openssh: Connection, tmp_path: Path) -> None:
    async def beat() -> None:
        await begun(tmp_path / "gate")
        for _ in range(10):
            await asyncio.sleep(0.01)
        (tmp_path / "gate").touch()

    async def main() -> list[Any]:
        py = conn_openssh.python()
        found = await asyncio.gather(*(py.acall(square, n) for n in range(20)))
        beating = asyncio.create_task(beat())
        assert await py.acall(wait_for, str(tmp_path / "gate"))
        await beating
        return found

    assert asyncio.run(main()) == [n * n for n in range(20)]


def test_a_context_closed_while_python_starts_runs_nothing(tmp_path: Path) -> None:
    python = tmp_path / "python"
    wait = "touch started; until [ -e go ]; do sleep 0.01; done"
    python.write_text(f'#!/bin/sh\ncd {tmp_path}; {wait}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    context = wrap(Context())
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        called = pool.submit(context.python(python=str(python)).call, time.sleep, 600)
        assert settled((tmp_path / "started").exists, 60)
        context.close()
        (tmp_path / "go").touch()
        try:
            with pytest.raises(RemoteCancelled, match="closed from this side"):
                called.result(60)
        finally:
            context.close()


@pytest.fixture
def silent() -> Iterator[Callable[[], Connection]]:
    """Makes connections to a server that says nothing, so that none gets on within 15 seconds."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        made: list[Connection] = []

        def connection() -> Connection:
            made.append(Connection("127.0.0.1", port=server.getsockname()[1]))
            return made[-1]

        yield connection
        for one in made:
            one.close()


def test_acall_to_one_host_waits_for_no_other_to_connect(
    conn_openssh: Connection, silent: Callable[[], Connection]
) -> None:
    async def main() -> None:
        # More than the threads that an event loop has for all that is asked of it.
        others = [asyncio.create_task(silent().python().acall(abs, 1)) for _ in range(33)]
        await asyncio.sleep(0.1)
        assert await conn_openssh.python().acall(abs, -2) == 2
        assert not any(other.done() for other in others)
        for other in others:
            other.cancel()

    asyncio.run(main())


def test_the_end_of_an_event_loop_waits_for_no_host(silent: Callable[[], Connection]) -> None:
    async def main() -> None:
        await asyncio.wait_for(silent().python().acall(abs, 1), 0.1)

    since = time.monotonic()
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(main())
    assert time.monotonic() - since < 10


def test_acall_has_no_thread_per_call(py: Interpreter) -> None:
    async def main() -> int:
        await py.acall(abs, 1)
        calls = [asyncio.create_task(py.acall(time.sleep, 0.5)) for _ in range(60)]
        await asyncio.sleep(0.3)
        count = threading.active_count()
        await asyncio.gather(*calls)
        return count

    before = threading.active_count()
    # Of asyncio's own, which are shared and up to 32, and of the session's.
    assert asyncio.run(main()) - before < 50


def test_a_connection_has_few_threads(conn_openssh: Connection) -> None:
    before = set(threading.enumerate())
    conn_openssh.call(abs, -1)
    # All agents share the clock; paramiko's own has no name of ours.
    names = [thread.name for thread in set(threading.enumerate()) - before]
    ours = {name for name in names if name.startswith("fabremote") and "heartbeat" not in name}
    assert (ours, len(names) <= 2) == (set(), True)
    python = conn_openssh.python()
    futures = [python.submit(bytes, 1 << 16) for _ in range(30)]
    assert {len(future.result()) for future in futures} == {1 << 16}
    # Those that handle what was submitted, the clock, paramiko's, and one that sends.
    assert len(set(threading.enumerate()) - before) <= 8 + 3


def test_acall_runs_async_functions_and_raises(py: Interpreter) -> None:
    async def there(number: int) -> float:
        await asyncio.sleep(0)
        return 1 / number

    async def main() -> None:
        assert await py.acall(there, 2) == 0.5
        with pytest.raises(ZeroDivisionError):
            await py.acall(there, 0)
        with pytest.raises(ShippingError):
            await py.acall(len, threading.Lock())  # type: ignore[arg-type]

    asyncio.run(main())


@pytest.mark.parametrize("when", ["at once", "once it runs"])
def test_cancelling_the_task_kills_the_process(py: Interpreter, when: str, tmp_path: Path) -> None:
    async def main() -> None:
        task = asyncio.create_task(py.acall(wait_for, str(tmp_path / "gate")))
        await (asyncio.sleep(0) if when == "at once" else begun(tmp_path / "gate"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_timeout_of_asyncio_kills_the_process(conn_openssh: Connection) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(conn_openssh.python().acall(time.sleep, 60), 0.5)

    asyncio.run(main())


def test_closing_the_connection_is_told_to_who_awaits(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    async def main() -> None:
        gate = tmp_path / "gate"
        task = asyncio.create_task(conn_openssh.python().acall(wait_for, str(gate)))
        await begun(gate)
        await asyncio.to_thread(conn_openssh.close)
        with pytest.raises(RemoteCancelled, match="closed from this side"):
            await task

    asyncio.run(main())


def test_a_block_serves_asyncio_too(py: Interpreter) -> None:
    async def main() -> None:
        pids = await asyncio.gather(*(py.acall(os.getpid) for _ in range(5)))
        assert len(set(pids)) == 1

    with py:
        asyncio.run(main())


# What a call leaves, and in which threads what is the user's runs

THREADS: list[str] = []


class Dying:
    """An argument that tells in which thread it was let go."""

    def __del__(self) -> None:
        THREADS.append(threading.current_thread().name)


def test_nothing_of_the_users_runs_in_the_thread_that_receives(conn_openssh: Connection) -> None:
    THREADS.clear()
    py = conn_openssh.python()
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    for _ in range(20):
        called_back = py.submit(len, "abc")
        called_back.add_done_callback(lambda _: told.put(threading.current_thread().name))
        assert py.submit(lambda _: 3, Dying()).result() == called_back.result() == 3
    threads = [told.get(timeout=60) for _ in range(20)]
    wait_until(lambda: len(THREADS) == 20)
    receiving = [one.name for one in threading.enumerate() if isinstance(one, paramiko.Transport)]
    assert receiving
    assert set(receiving).isdisjoint(threads + THREADS)


def test_callbacks_may_close_each_others_connections(openssh: Server, tmp_path: Path) -> None:
    gate, both = tmp_path / "gate", threading.Barrier(2)
    closed: queue.SimpleQueue[str] = queue.SimpleQueue()

    def close(other: Connection) -> None:
        both.wait(60)
        other.close()
        closed.put(other.host)

    # Of two names, as two hosts have.
    hosts = openssh.hosts[0], "localhost"
    first, second = (
        Connection(host, openssh.user, openssh.port, connect_kwargs=openssh.connect_kwargs)
        for host in hosts
    )
    with first, second:
        for one, other in ((first, second), (second, first)):
            future = one.python().submit(wait_for, str(gate))
            future.add_done_callback(lambda _, other=other: close(other))
        gate.touch()
        assert {closed.get(timeout=60) for _ in hosts} == set(hosts)


def test_a_callback_may_close_its_group(openssh: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    closed: queue.SimpleQueue[bool] = queue.SimpleQueue()
    login = {"port": openssh.port, "connect_kwargs": openssh.connect_kwargs}
    with ThreadingGroup(openssh.hosts[0], "localhost", user=openssh.user, **login) as group:
        futures = group.python().submit(wait_for, str(gate))
        for future in futures:
            future.add_done_callback(lambda _: closed.put(group.close() is None))
        gate.touch()
        assert all(closed.get(timeout=60) for _ in futures)


def test_a_callback_may_cancel_its_own_future(conn_openssh: Connection) -> None:
    with within(30):
        future = conn_openssh.python().submit(time.sleep, 60)
        heard: list[bool] = []
        future.add_done_callback(lambda done: heard.append(done.cancel()))
        assert future.cancel()
        assert heard == [True]


def test_a_callback_is_called_whenever_it_is_added(conn_openssh: Connection) -> None:
    with conn_openssh.python() as py:
        told: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(200):
            future = py.submit(square, number)
            future.add_done_callback(lambda done: told.put(done.result()))
        assert sorted(told.get(timeout=60) for _ in range(200)) == [n * n for n in range(200)]


def test_a_call_that_is_cancelled_as_it_ends_has_one_outcome(conn_openssh: Connection) -> None:
    py = conn_openssh.python()
    for _ in range(50):
        future = py.submit(len, "abc")
        threading.Thread(target=future.cancel).start()
        try:
            assert future.result(60) == 3
            assert not future.cancelled()
        except RemoteCancelled:
            assert future.cancelled()
        assert future.done()
    assert py.call(len, "abc") == 3


def test_a_call_leaves_nothing_to_the_garbage_collector(conn_openssh: Connection) -> None:
    fresh, lasting = conn_openssh.python(), conn_openssh.python()
    made = [
        lambda: fresh.call(square, 3),
        lambda: fresh.submit(square, 3).result(),
        lambda: lasting.call(square, 3),
        lambda: lasting.submit(square, 3).result(),
        lambda: lasting.submit(print, "printed").result(),
        lambda: list(lasting.map(square, [3])),
    ]
    with lasting:
        for call in made:
            call()
        gc.collect()
        gc.disable()
        try:
            before = count(Call)
            for call in made * 5:
                call()
            # The last one's other thread may still be at it.
            wait_until(lambda: count(Call) <= before)
        finally:
            gc.enable()


def count(cls: type) -> int:
    return sum(type(each) is cls for each in gc.get_objects())


def wait_until(what: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.01)


def slow(way: str, done: int, total: int) -> None:
    """Have what goes up take a minute or more."""
    if way == "up":
        time.sleep(0.05)


def keep(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


LARGE = bytes(64 << 20)


def test_a_timeout_comes_amid_an_upload_and_harms_no_other_call(conn_openssh: Connection) -> None:
    agent = conn_openssh.call(os.getppid)
    other = conn_openssh.python().submit(time.sleep, 8)
    ways: list[Callable[[Interpreter], object]] = [
        lambda py: py.call(len, LARGE),
        lambda py: py.submit(len, LARGE).result(),
    ]
    for way in ways:
        since = time.monotonic()
        with pytest.raises(RemoteTimeout):
            way(conn_openssh.python(timeout=0.5, progress=slow))
        # Before it would be given up as one that the host does not read.
        assert time.monotonic() - since < 3.4
    assert other.result() is None
    assert conn_openssh.call(os.getppid) == agent


def given_up(begin: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Give a call of asyncio's up after a moment; the event loop ends at once then."""

    async def main() -> None:
        await asyncio.wait_for(begin(), 0.5)

    since = time.monotonic()
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(main())
    assert time.monotonic() - since < 20


def test_acall_sends_no_more_once_it_is_cancelled(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    conn_openssh.call(max, 1, 2)
    path = str(tmp_path / "file")
    given_up(lambda: conn_openssh.python(progress=slow).acall(keep, path, LARGE))
    assert conn_openssh.call(max, 1, 2) == 2
    assert not os.path.exists(path)


def test_acall_is_not_begun_once_it_is_cancelled(
    conn_openssh: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabremote.places.IN_FLIGHT", 1)
    other = conn_openssh.python().submit(time.sleep, 60)
    given_up(lambda: conn_openssh.python().acall(keep, str(tmp_path / "file"), b""))
    other.cancel()
    assert conn_openssh.call(max, 1, 2) == 2
    assert not (tmp_path / "file").exists()


def test_acall_waits_for_no_turn_once_it_is_cancelled(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    with conn_openssh.python() as py:
        first = py.submit(wait_for, str(tmp_path / "gate"))
        # Of what is large, one at a time.
        given_up(lambda: py.acall(keep, str(tmp_path / "file"), bytes(3 << 20)))
        (tmp_path / "gate").touch()
        assert first.result()
        assert py.call(max, 1, 2) == 2
    assert not (tmp_path / "file").exists()


def test_an_executor_sends_no_more_of_what_is_cancelled(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    since = time.monotonic()
    with RemoteExecutor([conn_openssh], progress=slow) as executor:
        future = executor.submit(keep, str(tmp_path / "file"), LARGE)
        assert settled(future.running, 20)
        time.sleep(1)
        assert future.cancel()
    assert time.monotonic() - since < 20
    assert conn_openssh.call(max, 1, 2) == 2
    assert not (tmp_path / "file").exists()


class Slow:
    """Takes a second to pickle."""

    def __reduce__(self) -> Any:
        time.sleep(1)
        return Slow, ()


def test_acall_sends_nothing_that_is_cancelled_before(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    conn_openssh.call(max, 1, 2)
    path = str(tmp_path / "file")
    given_up(lambda: conn_openssh.python().acall(lambda *_: keep(path, b""), Slow(), LARGE))
    assert conn_openssh.call(max, 1, 2) == 2
    assert not os.path.exists(path)


def large_item() -> Iterator[bytes]:
    yield LARGE


def test_a_timeout_comes_amid_a_large_item(
    conn_openssh: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = conn_openssh.call(os.getppid)
    other = conn_openssh.python().submit(time.sleep, 8)
    send = Session.send

    def send_slowly(self: Session, data: Any, deadline: float | None = None) -> None:
        time.sleep(0.05 if len(data) > 1000 else 0)
        send(self, data, deadline)

    monkeypatch.setattr(Session, "send", send_slowly)
    since = time.monotonic()
    with pytest.raises(RemoteTimeout):
        conn_openssh.python(timeout=0.5).call(list, large_item())
    assert time.monotonic() - since < 3.4
    assert other.result() is None
    assert conn_openssh.call(os.getppid) == agent
