"""RemoteExecutor and group.map: work on whichever host is free."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
)
from pathlib import Path
from typing import Any

import pytest

from fabremote import (
    Connection,
    NoHostsLeft,
    RemoteCancelled,
    RemoteConnectionLost,
    RemoteConnectionRefused,
    RemoteException,
    RemoteExecutor,
    RemoteProcessDied,
    ShippingError,
    ThreadingGroup,
)
from fabremote.demo.openssh import OpenSSHServer, find_sshd
from fabremote.demo.server import Server
from tests.conftest import served
from tests.faults import settled
from tests.test_groups import address, connections


@pytest.fixture
def hosts(openssh: Server) -> Iterator[list[Connection]]:
    """Connections to three hosts."""
    made = connections(openssh, openssh.hosts)
    yield made
    for one in made:
        one.close()


@pytest.fixture
def mortal(
    tmp_path_factory: pytest.TempPathFactory, remote_env: dict[str, str]
) -> Iterator[OpenSSHServer]:
    """A server that a test may stop."""
    if find_sshd() is None:
        pytest.skip("no sshd on this machine")
    yield from served(OpenSSHServer(tmp_path_factory.mktemp("mortal"), env=remote_env))


def meet(folder: str, count: int) -> str:
    """Wait until as many calls as ``count`` have come here, and return the host's address."""
    Path(folder, str(os.getpid())).touch()
    deadline = time.monotonic() + 30
    while len(os.listdir(folder)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return address()


def no_executors() -> bool:
    return not [one for one in threading.enumerate() if "fabremote-executor" in one.name]


# An Executor


def test_work_goes_to_all_hosts_and_slots(hosts: list[Connection], tmp_path: Path) -> None:
    with RemoteExecutor(hosts, per_host=2) as executor:
        assert isinstance(executor, Executor)
        futures = [executor.submit(meet, str(tmp_path), 6) for _ in range(6)]
        assert Counter(one.result() for one in futures) == dict.fromkeys(
            [c.host for c in hosts], 2
        )
        assert executor.hosts == hosts
    assert no_executors()
    assert all(one.is_connected for one in hosts)


def test_results_come_in_order_or_as_completed(hosts: list[Connection]) -> None:
    async def later(n: int) -> int:
        return -n

    with RemoteExecutor(hosts, per_host=2) as executor:
        assert list(executor.map(pow, range(50), itertools.repeat(2))) == [
            n * n for n in range(50)
        ]
        assert list(executor.map(later, range(7), chunksize=3)) == [-n for n in range(7)]
        futures = {executor.submit(pow, n, 3): n for n in range(20)}
        assert {futures[one]: one.result() for one in as_completed(futures)} == {
            n: n**3 for n in range(20)
        }
        assert executor.submit(int, "ff", base=16).result() == 255
        assert list(executor.map(str)) == []


def test_a_slow_hosts_share_is_done_by_the_others(hosts: list[Connection], tmp_path: Path) -> None:
    begun, gate = tmp_path / "begun", tmp_path / "gate"

    def work(n: int) -> str:
        slow = address().endswith(".1")
        if slow:
            begun.touch()
        # The others don't do it all before it is connected.
        while not (gate if slow else begun).exists():
            time.sleep(0.01)
        return address()

    with RemoteExecutor(hosts) as executor:
        futures = [executor.submit(work, n) for n in range(30)]
        for count, _ in enumerate(as_completed(futures, timeout=30), 1):
            if count == 29:
                gate.touch()
        assert Counter(one.result() for one in futures)["127.0.0.1"] == 1


def test_map_draws_no_more_than_it_needs(hosts: list[Connection]) -> None:
    drawn = []

    def numbers() -> Iterator[int]:
        for n in itertools.count():
            drawn.append(n)
            yield n

    group = ThreadingGroup(*hosts)
    results = group.map(abs, numbers(), chunksize=5, buffersize=4)
    assert len(drawn) == 20
    assert list(itertools.islice(results, 12)) == list(range(12))
    assert len(drawn) <= 35
    results.close()  # type: ignore[attr-defined]
    assert no_executors()
    dropped = group.python(hide=True).map(time.sleep, itertools.repeat(600))
    assert not no_executors()
    del dropped
    gc.collect()
    assert settled(no_executors)


def test_an_exception_is_raised_where_its_result_would_be(hosts: list[Connection]) -> None:
    def halve(n: int) -> int:
        if n % 2:
            raise ValueError(n)
        return n // 2

    def broken() -> Iterator[int]:
        yield from (2, 4)
        raise LookupError("no more")

    with RemoteExecutor(hosts) as executor:
        for numbers, kind in (((2, 4, 5, 6), ValueError), (broken(), LookupError)):
            halves = executor.map(halve, numbers)
            assert [next(halves), next(halves)] == [1, 2]
            with pytest.raises(kind):
                next(halves)
        with pytest.raises(ShippingError, match=r"halve\(\) can't be sent"):
            list(executor.map(halve, [threading.Lock()]))
        with pytest.raises(RemoteProcessDied, match=r"process of _exit\(\)"):
            list(executor.map(os._exit, [3]))
        with pytest.raises(TimeoutError):
            list(executor.map(time.sleep, [600], timeout=0.2))
        assert not executor.dropped


def test_bad_arguments_are_refused_at_once(hosts: list[Connection]) -> None:
    for given, match in (
        ("web1", "give it a group"),
        (["web1"], "'web1' is none"),
        (3, "give it a group"),
    ):
        with pytest.raises(TypeError, match=match):
            RemoteExecutor(given)  # type: ignore[arg-type]
    for options, error, match in (
        ({"per_host": 0}, ValueError, "per_host=0"),
        ({"retries": -1}, ValueError, "retries=-1"),
        ({"timeout": -1}, ValueError, "timeout=-1"),
        ({"perhost": 2}, TypeError, "Did you mean 'per_host'"),
    ):
        with pytest.raises(error, match=match):
            RemoteExecutor(hosts, **options)  # type: ignore[arg-type]
    with RemoteExecutor(hosts) as executor:
        for fn, how, error in ((3, {}, TypeError), (abs, {"chunksize": 0}, ValueError)):
            with pytest.raises(error):
                executor.map(fn, [1], **how)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="isn't callable"):
            executor.submit(3)  # type: ignore[call-overload]


def test_cancelling_kills_what_runs(hosts: list[Connection], openssh: Server) -> None:
    with RemoteExecutor(hosts) as executor:
        future = executor.submit(os.system, "exec sleep 611")
        assert settled(lambda: any("sleep 611" in one.command for one in openssh.processes()))
        assert future.running()
        assert future.cancel()
        with pytest.raises(RemoteCancelled):
            future.result()
        assert not future.running()
        assert executor.submit(abs, -1).result() == 1
    assert settled(lambda: not any("sleep 611" in one.command for one in openssh.processes()))


def test_shutdown_does_as_the_standard_says(hosts: list[Connection], tmp_path: Path) -> None:
    executor = RemoteExecutor(hosts[:1])
    first = executor.submit(meet, str(tmp_path), 2)
    others = [executor.submit(abs, -n) for n in range(5)]
    while not first.running():
        time.sleep(0.01)
    executor.shutdown(wait=False, cancel_futures=True)
    assert [one.cancelled() for one in others] == [True] * 5
    (tmp_path / "other").touch()
    assert first.result() == "127.0.0.1"
    for action in (lambda: executor.submit(abs, 1), lambda: executor.add(hosts[1])):
        with pytest.raises(RuntimeError, match="shut down"):
            action()
    executor.shutdown()
    # One that nobody refers to any more does what it has been given.
    assert RemoteExecutor(hosts[:1]).submit(abs, -3).result() == 3
    executor = RemoteExecutor(hosts)
    future = executor.submit(abs, -4)
    executor.shutdown()
    assert future.done()


def test_callbacks_and_threads_may_use_it(hosts: list[Connection]) -> None:
    second: Future[int] = Future()
    with RemoteExecutor(hosts, per_host=2) as executor:

        def go_on(done: Future[int]) -> None:
            executor.submit(abs, -done.result()).add_done_callback(
                lambda last: second.set_result(last.result())
            )

        executor.submit(abs, -5).add_done_callback(go_on)
        assert second.result(20) == 5
        with ThreadPoolExecutor(6) as threads:
            sums = threads.map(lambda n: sum(executor.map(abs, range(n))), range(8))
            assert list(sums) == [sum(range(n)) for n in range(8)]
        assert sum("fabremote-executor" in one.name for one in threading.enumerate()) <= 6


def test_asyncio_may_use_it(hosts: list[Connection]) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.run_in_executor(executor, time.sleep, 600), 0.5)
        return await asyncio.gather(*[loop.run_in_executor(executor, abs, -n) for n in range(5)])

    with RemoteExecutor(hosts) as executor:
        assert asyncio.run(main()) == list(range(5))


# Hosts that are lost


def kill_agent() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


def test_lost_work_fails_unless_it_may_be_repeated(
    hosts: list[Connection], tmp_path: Path
) -> None:
    def once() -> tuple[str, list[str]]:
        before = os.listdir(tmp_path)
        Path(tmp_path, address()).touch()
        if not before:
            kill_agent()
        return address(), before

    def raises() -> None:
        (tmp_path / str(time.monotonic_ns())).touch()
        raise RemoteConnectionLost("says the function")

    with RemoteExecutor(hosts) as executor, pytest.raises(RemoteConnectionLost):
        executor.submit(kill_agent).result()
    with RemoteExecutor(hosts, retries=1) as executor:
        second, first = executor.submit(once).result()
        assert [second] != first
        with pytest.raises(RemoteConnectionLost):
            executor.submit(kill_agent).result()
        # The hosts are still there, and so they are used.
        assert list(executor.map(abs, range(9))) == list(range(9))
        assert not executor.dropped
        # What the function itself raised is no loss.
        before = len(os.listdir(tmp_path))
        assert executor.submit(raises).exception() is not None
        assert len(os.listdir(tmp_path)) == before + 1


def test_hosts_that_cant_be_had_are_dropped_and_told_of(
    hosts: list[Connection], caplog: pytest.LogCaptureFixture
) -> None:
    missing = Connection("127.0.0.1", port=1)
    with RemoteExecutor([missing, *hosts]) as executor:
        assert list(executor.map(abs, range(20))) == list(range(20))
        while not executor.dropped:
            time.sleep(0.01)
        assert isinstance(executor.dropped[missing], RemoteConnectionRefused)
        assert executor.hosts == hosts
    assert [(one.name, one.levelno) for one in caplog.records if "fabremote" in one.name] == [
        ("fabremote.executor", logging.WARNING)
    ]
    assert "127.0.0.1:1 takes no more work: No SSH connection" in caplog.text


def note_and_sleep(folder: str) -> None:
    open(os.path.join(folder, str(os.getpid())), "w").close()
    time.sleep(60)


def test_a_connection_that_is_closed_here_is_dropped_without_a_warning(
    hosts: list[Connection], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with RemoteExecutor(hosts) as executor:
        # One on each: a host without work doesn't notice.
        waiting = [executor.submit(note_and_sleep, str(tmp_path)) for _ in hosts]
        assert settled(lambda: len(os.listdir(tmp_path)) == len(hosts))
        for one in hosts:
            one.close()
        assert settled(lambda: len(executor.dropped) == len(hosts))
        assert all(isinstance(one.exception(30), RemoteException) for one in waiting)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_work_survives_a_server_that_dies(
    hosts: list[Connection], mortal: OpenSSHServer, tmp_path: Path
) -> None:
    dying = connections(mortal, mortal.hosts[:2])
    with RemoteExecutor([*dying, *hosts], retries=2) as executor:
        # All five are at work, and only three of them can come to an end.
        stuck = [executor.submit(meet, str(tmp_path), 9) for _ in range(5)]
        more = [executor.submit(abs, -n) for n in range(20)]
        while len(os.listdir(tmp_path)) < 5:
            time.sleep(0.01)
        mortal.__exit__(None, None, None)
        for name in ("a", "b", "c", "d"):
            (tmp_path / name).touch()
        assert [one.result(30) for one in more] == list(range(20))
        assert len([one.result(30) for one in stuck]) == 5
        assert executor.hosts == hosts
        assert set(executor.dropped) == set(dying)


def test_no_host_left_is_a_clear_error_until_one_is_added(
    hosts: list[Connection], mortal: OpenSSHServer
) -> None:
    dying = connections(mortal, mortal.hosts[:2])
    with RemoteExecutor(dying, retries=9) as executor:
        futures = [executor.submit(time.sleep, 600) for _ in range(6)]
        while not futures[0].running():
            time.sleep(0.01)
        mortal.__exit__(None, None, None)
        errors = [one.exception(30) for one in futures]
        assert {type(one) for one in errors} == {NoHostsLeft}
        assert isinstance(errors[0], BrokenExecutor)
        assert isinstance(errors[0].__cause__, RemoteConnectionRefused)
        assert "None of the executor's 2 hosts is left to run sleep()" in str(errors[0])
        with pytest.raises(NoHostsLeft):
            executor.submit(abs, 1)
        executor.add(hosts[0])
        assert executor.submit(abs, -1).result() == 1


def test_hosts_can_be_added_while_work_runs(hosts: list[Connection], tmp_path: Path) -> None:
    with RemoteExecutor([]) as executor:
        with pytest.raises(NoHostsLeft, match=r"abs\(\) has no host to run on: add\(\) one"):
            executor.submit(abs, 1)
        executor.add(hosts[0])
        futures = [executor.submit(meet, str(tmp_path), 3) for _ in range(3)]
        while not futures[0].running():
            time.sleep(0.01)
        executor.add(ThreadingGroup(*hosts[1:]))
        assert sorted(one.result() for one in futures) == [c.host for c in hosts]


def test_shutdown_doesnt_wait_for_a_host_that_doesnt_answer(hosts: list[Connection]) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # and says nothing
        silent = Connection("127.0.0.1", port=listening.getsockname()[1], connect_timeout=50)
        begun = time.monotonic()
        with RemoteExecutor([silent, *hosts]) as executor:
            assert list(executor.map(abs, range(20))) == list(range(20))
        assert time.monotonic() - begun < 30
        assert no_executors()


def test_work_that_was_cancelled_waits_for_no_host() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # and says nothing
        port = listening.getsockname()[1]
        slow = {"banner_timeout": 50}
        executor = RemoteExecutor([Connection("127.0.0.1", port=port, connect_kwargs=slow)])
        futures = [executor.submit(abs, n) for n in range(3)]
        begun = time.monotonic()
        executor.shutdown(cancel_futures=True)
        assert time.monotonic() - begun < 30
        assert all(one.cancelled() for one in futures)


def test_a_connection_that_is_closed_takes_no_more_work(
    hosts: list[Connection], tmp_path: Path
) -> None:
    with RemoteExecutor(hosts, retries=1) as executor:
        futures = [executor.submit(meet, str(tmp_path), 4) for _ in range(3)]
        while len(os.listdir(tmp_path)) < 3:
            time.sleep(0.01)
        hosts[1].close()
        (tmp_path / "more").touch()
        assert {one.result(30) for one in futures} <= {hosts[0].host, hosts[2].host}
        assert list(executor.dropped) == [hosts[1]]


# What a person sees


def test_lines_of_work_are_labelled(
    hosts: list[Connection], capfd: pytest.CaptureFixture[str]
) -> None:
    def say() -> str:
        print("from", address(), end="")
        return address()

    with RemoteExecutor(hosts) as executor:
        where = [one.result() for one in [executor.submit(say) for _ in range(9)]]
    assert sorted(capfd.readouterr().out.splitlines()) == sorted(
        f"[{one}] from {one}" for one in where
    )
    with RemoteExecutor(hosts[:1]) as executor:
        executor.submit(print, "alone").result()
    assert capfd.readouterr().out == "alone\n"


# Where an Executor is taken


def test_joblib_runs_on_it(hosts: list[Connection], tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    import fabremote.joblib  # noqa: F401

    def root(n: int) -> tuple[int, str]:
        (tmp_path / address()).touch()
        while len(os.listdir(tmp_path)) < 3:  # so that no host has it all done before another
            time.sleep(0.01)
        return n * n, address()

    def fail(n: int) -> None:
        raise ValueError(n)

    with (
        RemoteExecutor(hosts, per_host=2) as executor,
        joblib.parallel_config("fabremote", executor=executor),
    ):
        parallel = joblib.Parallel()
        found = parallel(joblib.delayed(root)(n) for n in range(60))
        assert [square for square, _ in found] == [n * n for n in range(60)]
        assert {where for _, where in found} == {c.host for c in hosts}
        assert joblib.effective_n_jobs(-1) == 6
        stream = joblib.Parallel(return_as="generator")(joblib.delayed(root)(n) for n in range(9))
        assert [square for square, _ in stream] == [n * n for n in range(9)]
        with pytest.raises(ValueError, match=r"^\d$"):
            joblib.Parallel()(joblib.delayed(fail)(n) for n in range(9))
    with pytest.raises(TypeError, match="needs an executor"):
        joblib.parallel_config("fabremote")


def test_dask_runs_on_it(hosts: list[Connection]) -> None:
    dask = pytest.importorskip("dask")

    @dask.delayed
    def add(one: int, other: int) -> int:
        assert "SSH_CONNECTION" in os.environ
        return one + other

    @dask.delayed
    def fail(value: Any) -> None:
        raise KeyError(value)

    with RemoteExecutor(hosts, python=sys.executable) as executor:
        total = add(add(1, 2), add(3, 4))
        assert dask.compute(total, scheduler=executor) == (10,)
        with pytest.raises(KeyError, match="10"):
            dask.compute(fail(total), scheduler=executor)
