"""How calls, agents and connections begin and end, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import contextlib
import ctypes
import inspect
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fabric
import invoke
import pytest

from fabremote import (
    Connection,
    RemoteCancelled,
    RemoteConnectionLost,
    RemoteConnectionRefused,
    RemoteInterpreterMissing,
    RemoteProcessDied,
    RemoteTimeout,
    wrap,
)
from fabremote.demo import processes
from fabremote.demo.server import Server
from tests.conftest import connect
from tests.faults import program, settled, within

PLACES = ["openssh", "asyncssh", "gateway", "local"]
LOCAL = {"remotely": {"python": sys.executable}}


@pytest.fixture(scope="session", params=PLACES)
def ground(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """The kind of a place and the server that it needs, started before anything is counted."""
    if request.param == "local":
        return request.param, None
    name = "asyncssh_server" if request.param == "asyncssh" else "openssh"
    return request.param, request.getfixturevalue(name)


@pytest.fixture
def place(ground: tuple[str, Any]) -> Iterator[Any]:
    """Whatever runs calls: either server, a host behind a gateway, and this machine."""
    kind, server = ground
    if kind == "local":
        with wrap(invoke.Context(invoke.Config(overrides=LOCAL))) as context:
            yield context
        return
    with connect(server) as connection:
        if kind != "gateway":
            yield connection
            return
        host, keys = server.hosts[-1], server.connect_kwargs
        with Connection(
            host, server.user, server.port, gateway=connection, connect_kwargs=keys
        ) as behind:
            yield behind


def plain(server: Server, **more: Any) -> fabric.Connection:
    """Fabric's own connection."""
    return fabric.Connection(
        server.hosts[0],
        user=server.user,
        port=server.port,
        connect_kwargs=server.connect_kwargs,
        **more,
    )


# Processes that a call leaves, and how they are watched


def note(path: str, pids: list[int]) -> None:
    with open(path + ".part", "w") as stream:
        stream.write(" ".join(map(str, pids)))
    os.rename(path + ".part", path)


def leave_daemon() -> int:
    """Leave a properly made daemon, which still holds the call's descriptors."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        daemon = os.fork()
        if daemon:
            os.write(write_end, b"%d\n" % daemon)
            os._exit(0)
        os.execlp("sleep", "sleep", "100")
    os.waitpid(child, 0)
    daemon = int(os.read(read_end, 100))
    os.close(read_end)
    os.close(write_end)
    return daemon


def busy(path: str) -> None:
    """Start what is hard to be rid of, note the pids, and go on for long."""
    stubborn = "trap '' TERM HUP INT; while :; do sleep 0.05; done"
    started = [
        subprocess.Popen(["sleep", "100"]),
        subprocess.Popen(["sleep", "100"], start_new_session=True),
        subprocess.Popen(["sh", "-c", stubborn]),
        subprocess.Popen(["sh", "-c", stubborn], start_new_session=True),
    ]
    note(path, [os.getpid(), leave_daemon()] + [child.pid for child in started])
    time.sleep(100)


def ignore_signals(path: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    note(path, [os.getpid()])
    time.sleep(100)


def swallow_exceptions(path: str) -> None:
    note(path, [os.getpid()])
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(100)


HARD = [busy, ignore_signals, swallow_exceptions]


def pids_in(path: Path) -> list[int]:
    """The noted pids, once they are."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, "nothing was started"
        time.sleep(0.005)
    return [int(word) for word in path.read_text().split()]


def left_of(pids: list[int], seconds: float = 20) -> list[str]:
    """Those processes that are still there after so many seconds, described."""
    deadline = time.monotonic() + seconds
    while True:
        now = processes.running()
        left = [f"{pid}: {now[pid].command}" for pid in pids if pid in now]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)


def started(place: Any) -> float:
    """Start an agent; return a timeout by which a function has long begun, as fast as this is."""
    before = time.monotonic()
    place.call(max, 1, 2)
    return max(0.7, round(3 * (time.monotonic() - before), 1))


# Timeouts


@pytest.mark.parametrize("fn", HARD)
def test_a_timeout_kills_all_that_the_call_started(
    place: Any, fn: Callable[[str], None], tmp_path: Path
) -> None:
    timeout = started(place)
    before = time.monotonic()
    with pytest.raises(RemoteTimeout, match=f"took longer than {timeout:g} seconds") as caught:
        place.python(timeout=timeout).call(fn, str(tmp_path / "pids"))
    assert timeout - 0.1 < time.monotonic() - before < timeout + 20
    assert left_of(pids_in(tmp_path / "pids")) == []
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.timeout == timeout
    assert place.call(max, 1, 2) == 2


def test_a_submitted_call_has_its_timeout_too(conn_openssh: Connection, tmp_path: Path) -> None:
    py = conn_openssh.python(timeout=2 * started(conn_openssh))
    futures = [py.submit(busy, str(tmp_path / str(number))) for number in range(3)]
    for number, future in enumerate(futures):
        with pytest.raises(RemoteTimeout):
            future.result(30)
        assert left_of(pids_in(tmp_path / str(number))) == []


def test_timeouts_do_not_use_up_the_hosts_sessions(conn_openssh: Connection) -> None:
    for _ in range(25):
        with pytest.raises(RemoteTimeout):
            conn_openssh.python(timeout=0.02).call(time.sleep, 100)
    assert conn_openssh.call(max, 1, 2) == 2


def test_a_call_that_is_quick_enough_has_no_timeout(conn_openssh: Connection) -> None:
    py = conn_openssh.python(timeout=30)
    assert {py.call(max, number, 0) for number in range(100)} == set(range(100))


# Ctrl-C, and the end of the local process

SCRIPT = """
import os, signal, subprocess, sys, time
from fabremote import Connection
{functions}
def dial(host, user, port, key):
    keys = {{"key_filename": key, "look_for_keys": False, "allow_agent": False}}
    return Connection(host, user, int(port), connect_kwargs=keys)
path, *where = sys.argv[1:]
c = dial(*where)
{body}
"""

INTERRUPTED = """
try:
    c.call(busy, path)
except KeyboardInterrupt:
    assert c.call(max, 1, 2) == 2
    print("interrupted")
c.close()
"""


@contextlib.contextmanager
def script(server: Server, path: Path, body: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process of its own that calls functions on ``server``."""
    functions = "\n".join(map(inspect.getsource, (note, leave_daemon, busy)))
    where = [server.hosts[0], server.user, str(server.port), server.key]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(functions=functions, body=body), str(path), *where],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_ends_the_call_and_what_it_started(openssh: Server, tmp_path: Path) -> None:
    with script(openssh, tmp_path / "pids", INTERRUPTED) as process:
        pids = pids_in(tmp_path / "pids")
        process.send_signal(signal.SIGINT)
        assert left_of(pids) == []
        out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)


def test_ctrl_c_ends_the_wait_for_a_future(openssh: Server, tmp_path: Path) -> None:
    body = (
        "f = c.python().submit(busy, path)\ntry: f.result()\nexcept KeyboardInterrupt: c.close()\n"
    )
    with script(openssh, tmp_path / "pids", body) as process:
        pids = pids_in(tmp_path / "pids")
        process.send_signal(signal.SIGINT)
        assert left_of(pids) == []
        assert process.communicate(timeout=30) == ("", "")


def test_nothing_is_left_when_the_local_process_is_killed(openssh: Server, tmp_path: Path) -> None:
    with script(openssh, tmp_path / "pids", "c.call(busy, path)") as process:
        pids = pids_in(tmp_path / "pids")
        process.kill()
        assert left_of(pids) == []


@pytest.mark.parametrize(
    "body",
    [
        "c.call(max, 1, 2)",
        "c.python().submit(max, 1, 2).result()",
        "f = c.python().submit(busy, path)\nwhile not os.path.exists(path): time.sleep(0.01)",
    ],
)
def test_a_process_ends_without_having_closed_its_connection(
    openssh: Server, tmp_path: Path, body: str
) -> None:
    others = {process.pid for process in openssh.processes()}
    with script(openssh, tmp_path / "pids", body) as process:
        assert process.communicate(timeout=40) == ("", "")
        assert process.returncode == 0
    left = [process.pid for process in openssh.processes() if process.pid not in others]
    assert left_of(left) == []


# Closing


@pytest.mark.parametrize("way", ["call", "submit"])
def test_closing_ends_the_calls_that_run(place: Any, way: str, tmp_path: Path) -> None:
    py = place.python()
    with ThreadPoolExecutor(1) as pool:
        begin = py.submit if way == "submit" else lambda *args: pool.submit(py.call, *args)
        future = begin(busy, str(tmp_path / "pids"))
        pids = pids_in(tmp_path / "pids")
        place.close()
        assert left_of(pids) == []
        with pytest.raises(RemoteCancelled, match="closed from this side"):
            future.result(30)


def test_closing_ends_the_start_of_an_agent(openssh: Server) -> None:
    def begun() -> list[int]:
        return [p.pid for p in openssh.processes() if p.command.endswith("sleep 53")]

    connection = connect(openssh)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(connection.python(python="sh -c 'sleep 53; :' x").call, max, 1, 2)
        deadline = time.monotonic() + 30
        while not begun():
            assert time.monotonic() < deadline, future
            time.sleep(0.01)
        connection.close()
        with pytest.raises(RemoteCancelled, match="closed from this side"):
            future.result(20)
    assert not connection.is_connected
    for pid in begun():  # what hangs by itself is the host's own
        os.kill(pid, signal.SIGKILL)


def test_calls_that_wait_for_a_start_wait_once(conn_openssh: Connection) -> None:
    py = conn_openssh.python(python="sh -c 'sleep 53; :' x", start_timeout=1.5)
    with ThreadPoolExecutor(12) as pool, within(12):
        futures = [pool.submit(py.call, max, 1, 2) for _ in range(12)]
        for future in futures:
            with pytest.raises(RemoteInterpreterMissing, match=r"did not start within 1\.5 s"):
                future.result(60)
    assert conn_openssh.call(max, 1, 2) == 2


def test_a_call_that_gives_a_start_more_time_tries_it(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    text = f'#!/bin/sh\nmkdir {first} 2>/dev/null && sleep 53\nexec {sys.executable} "$@"\n'
    python = str(program(tmp_path / "py", text))
    with ThreadPoolExecutor(1) as pool:
        hasty = pool.submit(conn_openssh.python(python=python, start_timeout=1.5).call, max, 1, 2)
        assert settled(first.exists)
        assert conn_openssh.python(python=python, start_timeout=60).call(max, 1, 2) == 2
        with pytest.raises(RemoteInterpreterMissing):
            hasty.result(60)


def test_closing_does_not_wait_for_nothing(place: Any) -> None:
    place.call(max, 1, 2)
    before = time.monotonic()
    place.close()
    place.close()
    assert time.monotonic() - before < 10


def test_an_idle_connection_wakes_seldom(conn_openssh: Connection) -> None:
    conn_openssh.call(max, 1, 2)
    status = Path(f"/proc/self/task/{conn_openssh.transport.native_id}/status")
    if not status.exists():
        pytest.skip("no /proc to count its thread's wakings")

    def wakings() -> int:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["voluntary_ctxt_switches"])

    before = wakings()
    time.sleep(2)
    # paramiko's own thread wakes twenty times, and waits for Python's lock each time.
    assert wakings() - before < 15


def test_a_connection_opens_again_after_its_end(place: Any) -> None:
    first = place.call(os.getppid)
    place.close()
    assert place.call(os.getppid) != first
    assert place.call(max, 1, 2) == 2


def test_an_interpreter_outlives_its_connection(conn_openssh: Connection) -> None:
    py = conn_openssh.python(hide=True)
    assert py.call(max, 1, 2) == 2
    conn_openssh.close()
    assert py.call(max, 3, 4) == 4


@pytest.mark.parametrize("way", ["call", "submit"])
def test_fabrics_own_close_ends_the_calls_of_a_wrapped_connection(
    openssh: Server, way: str, tmp_path: Path
) -> None:
    connection = plain(openssh)
    py = wrap(connection).python()
    with ThreadPoolExecutor(1) as pool:
        begin = py.submit if way == "submit" else lambda *args: pool.submit(py.call, *args)
        future = begin(busy, str(tmp_path / "pids"))
        pids = pids_in(tmp_path / "pids")
        connection.close()
        assert left_of(pids) == []
        with pytest.raises((RemoteCancelled, RemoteConnectionLost)):
            future.result(30)


# The far side dies


def test_a_lost_link_is_told(conn_openssh: Connection, tmp_path: Path) -> None:
    forker = conn_openssh.call(os.getppid)
    supervisor = processes.running()[forker].parent
    session = processes.running()[processes.running()[supervisor].parent]
    assert session.is_sshd
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(conn_openssh.call, busy, str(tmp_path / "pids"))
        pids = pids_in(tmp_path / "pids")
        os.kill(session.pid, signal.SIGKILL)
        with pytest.raises(RemoteConnectionLost, match=r"busy.*not known"):
            future.result(30)
    assert left_of([*pids, forker, supervisor]) == []
    assert conn_openssh.call(max, 1, 2) == 2


@pytest.mark.parametrize("way", ["call", "submit"])
@pytest.mark.parametrize("which", ["supervisor", "forker"])
def test_a_killed_agent_is_told(place: Any, which: str, way: str, tmp_path: Path) -> None:
    victim = place.call(os.getppid)
    if which == "supervisor":
        victim = processes.running()[victim].parent
    py = place.python()
    with ThreadPoolExecutor(1) as pool:
        begin = py.submit if way == "submit" else lambda *args: pool.submit(py.call, *args)
        future = begin(ignore_signals, str(tmp_path / "pids"))
        pids = pids_in(tmp_path / "pids")
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(RemoteConnectionLost, match="ignore_signals"):
            future.result(30)
    assert left_of(pids) == []
    assert place.call(max, 1, 2) == 2


def kill_idle_workers() -> int:
    killed = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as stream:
                state, parent = stream.read().rpartition(")")[2].split()[:2]
                if state != "Z" and int(parent) == os.getppid():
                    os.kill(int(name), signal.SIGKILL)
                    # That of the call before may still be ending.
                    killed += state == "S"
    return killed


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_an_idle_worker_that_dies_is_replaced(conn_openssh: Connection) -> None:
    conn_openssh.call(max, 1, 2)
    time.sleep(0.05)
    for _ in range(5):
        assert conn_openssh.call(kill_idle_workers) <= 2
        time.sleep(0.05)
        assert conn_openssh.call(max, 1, 2) == 2


def die(how: str) -> None:
    print("last words", file=sys.stderr)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(3)
    elif how == "exit well":
        os._exit(0)
    else:
        os.abort()


@pytest.mark.parametrize(
    ("how", "exited", "number"),
    [
        ("kill", None, "SIGKILL"),
        ("segfault", None, "SIGSEGV"),
        ("abort", None, "SIGABRT"),
        ("exit", 3, None),
        ("exit well", 0, None),
    ],
)
def test_a_process_that_dies_is_told(
    place: Any, how: str, exited: int | None, number: str | None
) -> None:
    py = place.python(hide=True)
    for begin in (py.call, lambda *args: py.submit(*args).result()):
        with pytest.raises(RemoteProcessDied, match="last words") as caught:
            begin(die, how)
        assert (caught.value.exited, caught.value.signal) == (exited, number)
        assert caught.value.stderr.startswith("last words\n")
        assert str(number or f"status {exited}") in str(caught.value)
    assert place.call(max, 1, 2) == 2


@pytest.mark.parametrize("code", [0, 3, None, "a message"])
def test_sys_exit_is_system_exit(conn_openssh: Connection, code: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        conn_openssh.call(sys.exit, code)
    assert caught.value.code == code
    future = conn_openssh.python().submit(sys.exit, code)
    assert isinstance(future.exception(), SystemExit)


def test_a_process_that_dies_at_once_is_told_at_once(conn_openssh: Connection) -> None:
    py = conn_openssh.python(timeout=30)
    for _ in range(200):
        with pytest.raises(RemoteProcessDied):
            py.call(os._exit, 3)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_remote_keyboard_interrupt_is_one_here(conn_openssh: Connection) -> None:
    with pytest.raises(KeyboardInterrupt):
        conn_openssh.call(interrupt)
    assert conn_openssh.call(max, 1, 2) == 2


def return_twice() -> tuple[int, bool]:
    me = os.getpid()
    child = os.fork()
    if child:
        os.waitpid(child, 0)  # the child returns first
    print("parent" if child else "child")
    return me, me == os.getpid()


def test_a_function_that_forks_and_returns_twice_answers_once(place: Any) -> None:
    result = place.python(hide=True).run(return_twice)
    assert result.value[1] is True
    assert sorted(result.stdout.split()) == ["child", "parent"]


def close_standard_descriptors() -> str:
    print("before")
    for fd in (0, 1, 2):
        os.close(fd)
    return "still here"


def close_standard_files() -> str:
    print("before")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()
    return "still here"


@pytest.mark.parametrize("fn", [close_standard_descriptors, close_standard_files])
def test_a_function_that_closes_its_streams_answers(place: Any, fn: Callable[[], str]) -> None:
    result = place.python(hide=True).run(fn)
    assert (result.value, result.stdout) == ("still here", "before\n")


def close_everything() -> str:
    os.closerange(3, 256)
    return "still here"


def test_a_function_that_closes_every_descriptor_is_told(place: Any) -> None:
    # It has closed what its answer would have gone through.
    with pytest.raises(RemoteProcessDied, match="Bad file descriptor"):
        place.python(hide=True).call(close_everything)
    assert place.call(max, 1, 2) == 2


def close_everything_in_a_child() -> str:
    child = os.fork()
    if child == 0:
        os.closerange(0, 256)
        os._exit(0)
    os.waitpid(child, 0)
    return "still here"


def test_a_child_that_closes_every_descriptor_does_no_harm(conn_openssh: Connection) -> None:
    assert conn_openssh.call(close_everything_in_a_child) == "still here"


def put_default_signals() -> str:
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.setpgid(0, 0) if os.getpgrp() != os.getpid() else None
    signal.alarm(100)
    return "still here"


def test_a_function_may_set_signals(conn_openssh: Connection) -> None:
    assert conn_openssh.call(put_default_signals) == "still here"


# What a successful call leaves


def leave_both(path: str) -> int:
    child = subprocess.Popen(["sleep", "100"])
    child.returncode = 0  # no complaint that it still runs
    note(path, [leave_daemon(), child.pid])
    return os.getpid()


@pytest.mark.parametrize("way", ["call", "submit"])
def test_a_daemon_survives_and_a_background_child_does_not(
    place: Any, way: str, tmp_path: Path
) -> None:
    py = place.python(hide=True)
    place.call(max, 1, 2)
    before = time.monotonic()
    begin = py.call if way == "call" else lambda *args: py.submit(*args).result()
    worker = begin(leave_both, str(tmp_path / "pids"))
    assert time.monotonic() - before < 30
    daemon, child = pids_in(tmp_path / "pids")
    try:
        assert left_of([child, worker]) == []
        time.sleep(0.6)
        assert left_of([daemon], 0)
        place.close()
        time.sleep(0.2)
        assert left_of([daemon], 0)
    finally:
        os.kill(daemon, signal.SIGKILL)


# Futures


def square(number: int) -> int:
    time.sleep(0.02 * (number % 3))
    return number * number


def test_futures_are_of_the_standard_kind(place: Any) -> None:
    py = place.python()
    futures = {py.submit(square, number): number for number in range(12)}
    for future in concurrent.futures.as_completed(futures, timeout=40):
        assert future.result() == futures[future] ** 2
        assert future.done()
        assert not future.running()
        assert not future.cancelled()
        assert future.exception() is None
    more = [py.submit(square, number) for number in range(4)]
    done, not_done = concurrent.futures.wait(more, timeout=40)
    assert (len(done), len(not_done)) == (4, 0)


def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)


def test_a_future_runs_from_the_start_and_tells_its_callbacks(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    called = threading.Event()
    future = conn_openssh.python().submit(wait_for, str(tmp_path / "gate"))
    future.add_done_callback(lambda _: called.set())
    assert future.running()
    assert not future.done()
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0.05)
    assert not called.is_set()
    (tmp_path / "gate").touch()
    assert future.result(timeout=30) is None
    assert called.wait(30)


def test_exceptions_come_through_futures(conn_openssh: Connection) -> None:
    future = conn_openssh.python().submit(int, "three")
    assert isinstance(future.exception(30), ValueError)
    with pytest.raises(ValueError, match="three"):
        future.result()


@pytest.mark.parametrize("fn", [busy, swallow_exceptions])
def test_cancelling_kills_at_once(place: Any, fn: Callable[[str], None], tmp_path: Path) -> None:
    future = place.python().submit(fn, str(tmp_path / "pids"))
    pids = pids_in(tmp_path / "pids")
    assert future.cancel() is True
    assert left_of(pids) == []
    assert future.cancelled()
    assert future.done()
    for ask in (future.result, future.exception):
        with pytest.raises(RemoteCancelled, match="cancelled") as caught:
            ask()
        assert isinstance(caught.value, CancelledError)
    assert place.call(max, 1, 2) == 2


def test_cancelling_again_changes_nothing(conn_openssh: Connection) -> None:
    future = conn_openssh.python().submit(time.sleep, 100)
    assert future.cancel() is True
    assert future.cancel() is True
    assert future.cancelled()


def test_what_is_done_cannot_be_cancelled(conn_openssh: Connection) -> None:
    future = conn_openssh.python().submit(max, 1, 2)
    assert future.result(30) == 2
    assert future.cancel() is False
    assert future.result() == 2
    failed = conn_openssh.python().submit(int, "three")
    assert failed.exception(30)
    assert failed.cancel() is False


def test_one_cancelled_call_leaves_the_others_alone(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    py = conn_openssh.python()
    futures = [py.submit(wait_for, str(tmp_path / "gate")) for _ in range(6)]
    assert all(future.cancel() for future in futures[::2])
    (tmp_path / "gate").touch()
    done, _ = concurrent.futures.wait(futures, timeout=30)
    assert len(done) == 6
    assert [future.cancelled() for future in futures] == [True, False] * 3
    assert [future.result() for future in futures[1::2]] == [None] * 3


class Screen(io.StringIO):
    """An output stream that tells when something is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shows = threading.Event()

    def write(self, text: str) -> int:
        self.shows.set()
        return super().write(text)


def test_a_cancelled_call_shows_no_more_output(conn_openssh: Connection) -> None:
    screen = Screen()
    py = conn_openssh.python(out_stream=screen)
    future = py.submit(os.system, "while :; do echo on; sleep 0.01; done")
    assert screen.shows.wait(30)
    future.cancel()

    def quiet() -> bool:
        shown = screen.getvalue()
        time.sleep(0.2)
        return screen.getvalue() == shown

    assert settled(quiet)


def test_futures_can_be_awaited(conn_openssh: Connection, tmp_path: Path) -> None:
    py = conn_openssh.python()

    async def gather() -> list[int]:
        return await asyncio.gather(
            *(asyncio.wrap_future(py.submit(square, number)) for number in range(6))
        )

    async def give_up() -> None:
        future = asyncio.wrap_future(py.submit(busy, str(tmp_path / "pids")))
        await asyncio.get_running_loop().run_in_executor(None, pids_in, tmp_path / "pids")
        # On 3.10 asyncio's own is another one.
        with pytest.raises((builtins.TimeoutError, asyncio.TimeoutError)):
            await asyncio.wait_for(future, 0.05)

    assert asyncio.run(gather()) == [number * number for number in range(6)]
    asyncio.run(give_up())
    assert left_of(pids_in(tmp_path / "pids")) == []


def meet(folder: str) -> int:
    """Wait until eight are here."""
    Path(folder, str(os.getpid())).touch()
    while len(os.listdir(folder)) < 8:
        time.sleep(0.01)
    return os.getpid()


def test_eight_calls_run_at_once(place: Any, tmp_path: Path) -> None:
    futures = [place.python().submit(meet, str(tmp_path)) for _ in range(8)]
    assert len({future.result(40) for future in futures}) == 8


# Connections


def test_a_closed_port_is_refused(openssh: Server, closed_port: int) -> None:
    host = openssh.hosts[0]
    connection = Connection(host, openssh.user, closed_port)
    for begin in (connection.call, connection.python().run, connection.python().submit):
        with pytest.raises(RemoteConnectionRefused, match=f"{openssh.user}@{host}"):
            begin(max, 1, 2)


def test_an_unknown_host_is_refused() -> None:
    with pytest.raises(RemoteConnectionRefused, match=r"nowhere\.invalid"):
        Connection("nowhere.invalid").call(max, 1, 2)


def test_a_wrong_key_is_refused(server: Server, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    keys = {**server.connect_kwargs, "key_filename": str(key)}
    connection = Connection(server.hosts[0], server.user, server.port, connect_kwargs=keys)
    with connection, pytest.raises(RemoteConnectionRefused, match="Authentication"):
        connection.call(max, 1, 2)


def test_a_server_that_says_nothing_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = Connection(
            "127.0.0.1",
            "nobody",
            silent.getsockname()[1],
            connect_kwargs={"banner_timeout": 0.5, "allow_agent": False, "look_for_keys": False},
        )
        with pytest.raises(RemoteConnectionRefused):
            connection.call(max, 1, 2)


def test_a_gateway_that_refuses_is_told(openssh: Server, closed_port: int) -> None:
    host, keys = openssh.hosts[0], openssh.connect_kwargs
    nobody = Connection(host, openssh.user, closed_port, connect_kwargs=keys)
    behind = Connection(host, openssh.user, openssh.port, gateway=nobody, connect_kwargs=keys)
    with behind, pytest.raises(RemoteConnectionRefused):
        behind.call(max, 1, 2)


def test_a_host_that_refuses_its_gateway_is_told(openssh: Server, closed_port: int) -> None:
    host, keys = openssh.hosts[0], openssh.connect_kwargs
    gateway = connect(openssh)
    behind = Connection(host, openssh.user, closed_port, gateway=gateway, connect_kwargs=keys)
    with gateway, behind, pytest.raises(RemoteConnectionRefused, match=str(closed_port)):
        behind.call(max, 1, 2)


def test_closing_while_it_logs_in_is_told(openssh: Server, tmp_path: Path) -> None:
    """The key is read from a pipe, so that logging in waits for who writes it there."""
    pipe, key = tmp_path / "key", Path(openssh.key).read_bytes()
    os.mkfifo(pipe)
    keys = {"key_filename": str(pipe), "allow_agent": False, "look_for_keys": False}
    connection = Connection(openssh.hosts[0], openssh.user, openssh.port, connect_kwargs=keys)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(connection.call, max, 1, 2)
        with pipe.open("wb") as writing:
            connection.close()
            writing.write(key)
        while not future.done():
            # Each kind of key that paramiko tries, it reads anew; nobody may read by now.
            with contextlib.suppress(OSError):
                writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
                with open(writer, "wb") as writing:
                    writing.write(key)
            time.sleep(0.01)
        with pytest.raises(RemoteConnectionRefused, match="closed from this side"):
            future.result()
    connection.connect_kwargs["key_filename"] = openssh.key
    with connection:
        assert connection.call(max, 1, 2) == 2


def test_a_connection_may_be_opened_by_many_threads(openssh: Server) -> None:
    with connect(openssh) as connection, ThreadPoolExecutor(8) as pool:
        supervisors = set(pool.map(lambda _: connection.call(os.getppid), range(16)))
        assert len(supervisors) == 1


def test_the_callers_connect_kwargs_stay_as_they_are(openssh: Server) -> None:
    keys = openssh.connect_kwargs
    with Connection(
        openssh.hosts[0], openssh.user, openssh.port, connect_kwargs=keys
    ) as connection:
        assert connection.call(max, 1, 2) == 2
        assert keys == openssh.connect_kwargs
        assert "sock" not in connection.connect_kwargs


def test_a_wrapped_connection_shares_its_transport(server: Server) -> None:
    with plain(server) as connection:
        assert connection.run("echo one", hide=True, in_stream=False).stdout == "one\n"
        transport = connection.transport
        wrapped = wrap(connection)
        assert isinstance(wrapped, fabric.Connection)
        assert wrapped.call(max, 1, 2) == 2
        assert wrapped.transport is connection.transport is transport
        assert wrapped.run("echo two", hide=True, in_stream=False).stdout == "two\n"
        with wrapped.cd("/"):
            assert wrapped.call(os.getcwd) == "/"
        wrapped.close()
        assert not connection.is_connected


def test_a_connection_that_wrap_opens_is_open_for_fabric_too(openssh: Server) -> None:
    with plain(openssh) as connection:
        wrapped = wrap(connection)
        assert wrapped.call(max, 1, 2) == 2
        assert connection.is_connected
        wrapped.close()


def test_wrapping_again_gives_the_same_agents(openssh: Server) -> None:
    with plain(openssh) as connection:
        first = wrap(connection)
        assert first.call(os.getppid) == wrap(connection).call(os.getppid)
        assert wrap(first) is first
        first.close()


def test_wrap_refuses_what_it_cannot_use() -> None:
    with pytest.raises(TypeError, match=r"wrap\(\) takes .*'web1'"):
        wrap("web1")


@pytest.mark.parametrize("maker", [plain, connect])
def test_a_gateway_may_be_either_kind_of_connection(
    server: Server, maker: Callable[[Server], Any]
) -> None:
    host, keys = server.hosts[-1], server.connect_kwargs
    with maker(server) as gateway:
        for kind in (Connection, fabric.Connection):
            with kind(
                host, server.user, server.port, gateway=gateway, connect_kwargs=keys
            ) as connection:
                wrapped = wrap(connection)
                assert wrapped.call(os.getenv, "SSH_CONNECTION").split()[2] == host
                wrapped.close()


def test_a_plain_context_runs_calls_on_this_machine() -> None:
    context = invoke.Context()
    wrapped = wrap(context)
    py = wrapped.python(python=sys.executable)
    assert py.call(os.getpid) != os.getpid()
    assert py.call(socket.gethostname) == socket.gethostname()
    assert isinstance(wrapped, invoke.Context)
    assert wrap(context).python(python=sys.executable).call(os.getppid) == py.call(os.getppid)
    with wrapped.cd("/"):
        assert py.call(os.getcwd) == "/"
    wrapped.close()


# One call knows nothing of another


def soil() -> None:
    global SOILED
    SOILED = True
    sys.modules["fabremote_soil"] = sys
    os.__dict__["soil"] = True
    os.chdir("/")
    os.environ["FABREMOTE_SOIL"] = "1"
    os.umask(0)
    sys.path.append("/soil")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    sys.setrecursionlimit(5000)


def soiled() -> list[str]:
    found = {
        "globals": "SOILED" in globals(),
        "modules": "fabremote_soil" in sys.modules,
        "a module": hasattr(os, "soil"),
        "cwd": os.getcwd() == "/",
        "environ": "FABREMOTE_SOIL" in os.environ,
        "umask": os.umask(0) == 0,
        "path": "/soil" in sys.path,
        "signals": signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN,
        "recursion": sys.getrecursionlimit() == 5000,
    }
    return [name for name, seen in found.items() if seen]


def test_a_call_sees_nothing_of_another(place: Any) -> None:
    py = place.python(cwd="/tmp")
    for _ in range(3):
        py.call(soil)
        assert py.call(soiled) == []
        assert place.python(cwd="/tmp", env={"A": "1"}).call(soiled) == []


def process_id() -> int:
    time.sleep(0.005)
    return os.getpid()


def test_every_call_has_a_process_of_its_own(conn_openssh: Connection) -> None:
    pids = [conn_openssh.call(process_id) for _ in range(20)]
    futures = [conn_openssh.python().submit(process_id) for _ in range(20)]
    assert len({*pids, *(future.result(30) for future in futures)}) == 40
