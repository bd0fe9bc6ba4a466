"""What functions do to their processes, and what befalls agents and callers: each is survived."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import io
import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fabremote import (
    Connection,
    RemoteCancelled,
    RemoteConnectionLost,
    RemoteError,
    RemoteProcessDied,
    RemoteTimeout,
    ResultError,
    ShippingError,
    UntrustedResult,
)
from fabremote.demo import processes
from fabremote.demo.server import Server
from tests.conftest import connect
from tests.faults import dial, each, host, relayed, settled, within
from tests.test_life import ignore_signals, left_of, note, pids_in, script


def ways(connection: Connection, **options: Any) -> dict[str, Callable[..., Any]]:
    """The two ways to make a call."""
    py = connection.python(hide=True, **options)
    return {"call": py.call, "submit": lambda *args: py.submit(*args).result(30)}


# In the function: what comes of it


def replace_streams() -> str:
    sys.stdout = io.StringIO()
    print("unseen")
    sys.stderr = None  # type: ignore[assignment]
    sys.stdin = 5  # type: ignore[assignment]
    return "still here"


class Hostile:
    def write(self, text: str) -> None:
        raise OSError("no")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def replace_streams_by_hostile_ones() -> str:
    sys.stdout = sys.stderr = sys.__stdout__ = Hostile()  # type: ignore[misc,assignment]
    return "still here"


def point_streams_elsewhere() -> str:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    print("unseen")
    return "still here"


def swap_streams() -> str:
    spare = os.dup(1)
    os.dup2(2, 1)
    os.dup2(spare, 2)
    os.set_blocking(1, False)
    return "still here"


def lower_the_recursion_limit() -> dict[str, Any]:
    try:  # which calls nothing, unlike contextlib.suppress
        for limit in range(200, 0, -1):
            sys.setrecursionlimit(limit)
    except RecursionError:
        pass
    return {"still": ["here", (1, 2), {"deep": [[[[[[[[[[1]]]]]]]]]]}]}


def lower_the_recursion_limit_and_raise() -> None:
    lower_the_recursion_limit()
    raise ValueError("still here")


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1) + 1


def recurse_in_c() -> None:
    sys.setrecursionlimit(10**6)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))

    def again(_: Any) -> None:
        list(map(again, [0]))

    again(0)


def use_up_memory() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))
    return len(bytearray(1 << 30))


def answer_with_little_memory() -> bytes:
    data = bytes(200 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))
    return data


def use_up_time() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
    while True:
        pass


def forbid_files() -> str:
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    return "still here"


def end_the_group() -> None:
    os.killpg(0, signal.SIGTERM)
    time.sleep(30)


def overwrite_every_descriptor() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(256):
        if fd != null:
            os.dup2(null, fd)


def write_into_every_descriptor() -> str:
    for fd in range(3, 64):
        with contextlib.suppress(OSError):
            os.set_blocking(fd, False)
            os.write(fd, b"\xff" * 40)
    return "still here"


def exit_in_a_thread() -> str:
    thread = threading.Thread(target=sys.exit, args=(3,))
    thread.start()
    thread.join()
    return "still here"


def die_in_a_thread() -> None:
    threading.Thread(target=os._exit, args=(3,)).start()
    time.sleep(30)


def run_pool(method: str) -> list[int]:
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(math.factorial, range(5))


def run_executor() -> list[int]:
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        return list(pool.map(math.factorial, range(5)))


def run_threads() -> int:
    with ThreadPoolExecutor(20) as pool:
        return sum(pool.map(len, ["x"] * 200))


async def run_tasks() -> list[int]:
    async def one(number: int) -> int:
        await asyncio.sleep(0.001)
        return number

    process = await asyncio.create_subprocess_exec("true")
    return [*await asyncio.gather(*map(one, range(5))), await process.wait()]


def run_loop() -> int:
    return asyncio.run(asyncio.sleep(0, 7))


def vfork_and_exec() -> int:
    return subprocess.run(["sh", "-c", "exit 5"], check=False).returncode


def bytes_of_every_kind() -> int:
    sys.stdout.flush()
    return os.write(1, bytes(range(256)) * 200 + b"\xff\xfe\0\x1b]0;x\7")


def run_reload() -> str:
    for name in list(sys.modules):
        if name not in ("sys", "builtins", "os", "__main__"):
            del sys.modules[name]
    return "still here"


def break_builtins() -> str:
    import builtins

    for name in ("len", "print", "isinstance", "sum", "map", "open", "getattr"):
        setattr(builtins, name, None)
    return "still here"


HERE = "still here"
FACTORIALS = [1, 1, 2, 6, 24]
DEEP = {"still": ["here", (1, 2), {"deep": [[[[[[[[[[1]]]]]]]]]]}]}
# The function, its arguments, and its value or the exact type of what is raised, or several.
OUTCOMES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]] = {
    "streams replaced": (replace_streams, (), HERE),
    "streams replaced by hostile ones": (replace_streams_by_hostile_ones, (), HERE),
    "streams elsewhere": (point_streams_elsewhere, (), HERE),
    "streams swapped": (swap_streams, (), HERE),
    "low recursion limit": (lower_the_recursion_limit, (), DEEP),
    "low recursion limit, raising": (lower_the_recursion_limit_and_raise, (), ValueError),
    "recursion": (recurse, (), RecursionError),
    "recursion in C": (recurse_in_c, (), (RemoteProcessDied, RecursionError, MemoryError)),
    "memory": (use_up_memory, (), MemoryError),
    "no files": (forbid_files, (), HERE),
    "own group": (end_the_group, (), RemoteProcessDied),
    "descriptors overwritten": (overwrite_every_descriptor, (), RemoteProcessDied),
    "descriptors written": (write_into_every_descriptor, (), (RemoteProcessDied, HERE)),
    "exit in a thread": (exit_in_a_thread, (), HERE),
    "death in a thread": (die_in_a_thread, (), RemoteProcessDied),
    "multiprocessing fork": (run_pool, ("fork",), FACTORIALS),
    "multiprocessing spawn": (run_pool, ("spawn",), FACTORIALS),
    "process pool": (run_executor, (), FACTORIALS),
    "threads": (run_threads, (), 200),
    "asyncio": (run_tasks, (), [0, 1, 2, 3, 4, 0]),
    "asyncio, own loop": (run_loop, (), 7),
    "exec": (vfork_and_exec, (), 5),
    "binary output": (bytes_of_every_kind, (), 256 * 200 + 9),
    "no modules": (run_reload, (), HERE),
    "no builtins": (break_builtins, (), RemoteProcessDied),
}


@pytest.mark.parametrize("way", ["call", pytest.param("submit", marks=pytest.mark.faults)])
def test_a_function_may_do_this_to_its_process(conn_openssh: Connection, way: str) -> None:
    begin = ways(conn_openssh)[way]

    def check(case: tuple[Callable[..., Any], tuple[Any, ...], Any]) -> None:
        fn, args, expected = case
        choices = expected if isinstance(expected, tuple) else (expected,)
        with within(25):
            try:
                found = begin(fn, *args)
            except BaseException as error:
                found = type(error)
        assert found in choices, found
        assert conn_openssh.call(max, 1, 2) == 2

    each(OUTCOMES, check)


@pytest.mark.faults
def test_a_function_may_use_up_its_time(conn_openssh: Connection) -> None:
    with within(55), pytest.raises(RemoteProcessDied) as caught:
        conn_openssh.call(use_up_time)
    assert caught.value.signal in ("SIGXCPU", "SIGKILL")
    assert conn_openssh.call(max, 1, 2) == 2


@pytest.mark.faults
def test_an_answer_for_which_memory_is_short_is_told(conn_openssh: Connection) -> None:
    with within(25):
        try:
            found: Any = len(conn_openssh.call(answer_with_little_memory))
        except Exception as error:
            found = type(error)
    assert found in (200 << 20, ResultError, RemoteProcessDied, MemoryError)
    assert conn_openssh.call(max, 1, 2) == 2


# In the function: what never ends by itself


def stop_yourself(path: str) -> None:
    note(path, [os.getpid()])
    os.kill(os.getpid(), signal.SIGSTOP)


def wait_in_an_exit_handler(path: str) -> str:
    import atexit

    note(path, [os.getpid()])
    atexit.register(time.sleep, 100)
    return "done"


def leave_a_thread(path: str) -> str:
    note(path, [os.getpid()])
    threading.Thread(target=time.sleep, args=(100,)).start()
    return "done"


def hold_the_gil(path: str) -> None:
    note(path, [os.getpid()])
    ctypes.PyDLL(None).sleep(100)


def flood_for_ever(path: str) -> None:
    note(path, [os.getpid()])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        os.write(1, b"x" * 65536)


def fork_for_long(path: str) -> None:
    note(path, [os.getpid()])
    while True:
        subprocess.run(["true"], check=False)


ENDLESS = [
    stop_yourself,
    wait_in_an_exit_handler,
    leave_a_thread,
    hold_the_gil,
    flood_for_ever,
    fork_for_long,
]


@pytest.mark.parametrize("way", ["timeout", "cancel"])
def test_what_does_not_end_is_ended_in_time(
    conn_openssh: Connection, way: str, tmp_path: Path
) -> None:
    """All at once, as each has a worker of its own."""
    conn_openssh.call(max, 1, 2)
    py = conn_openssh.python(timeout=3 if way == "timeout" else None, hide=True)
    paths = [tmp_path / fn.__name__ for fn in ENDLESS]
    futures = [py.submit(fn, str(path)) for fn, path in zip(ENDLESS, paths, strict=True)]
    pids = [pid for path in paths for pid in pids_in(path)]
    with within(20):
        for future in futures:
            if way == "cancel":
                future.cancel()
            with pytest.raises(RemoteTimeout if way == "timeout" else RemoteCancelled):
                future.result(15)
        assert left_of(pids, 15) == []
    assert conn_openssh.call(max, 1, 2) == 2


# Arguments, results and exceptions


class Picky(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__("picky")
        self.both = first, second


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Stuck(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


class Holding(Exception):
    def __init__(self) -> None:
        super().__init__("holding")
        self.lock = threading.Lock()


def nested(depth: int) -> Any:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def cycle() -> list[Any]:
    found: list[Any] = [1]
    found.append(found)
    return found


def throw(what: Callable[..., Any], *args: Any) -> None:
    raise what(*args)


def throw_group() -> None:
    error = ExceptionGroup("many", [ValueError(1), Picky(1, 2), Holding()])  # noqa: F821
    raise error


def throw_unknown() -> None:
    class Unknown(BaseException):
        pass

    raise Unknown(threading.Lock())


STUCK: dict[str, tuple[Callable[..., Any], tuple[Any, ...], type]] = {
    "unpicklable argument": (len, ([threading.Lock()],), ShippingError),
    "deep argument": (len, (nested(100_000),), ShippingError),
    "unpicklable result": (threading.Lock, (), UntrustedResult),
    "deep result": (nested, (100_000,), ResultError),
    "oversized result": (bytes, (2_000_000,), ResultError),
    "another __init__": (throw, (Picky, 1, 2), Picky),
    "__str__ raises": (throw, (Mute,), Mute),
    "__reduce__ raises": (throw, (Stuck, 1), Stuck),
    "unpicklable exception": (throw, (Holding,), Holding),
    "unknown exception": (throw_unknown, (), RemoteError),
}


@pytest.mark.parametrize("way", ["call", pytest.param("submit", marks=pytest.mark.faults)])
def test_what_cannot_travel_is_told_exactly(conn_openssh: Connection, way: str) -> None:
    begin = ways(conn_openssh, max_result=1_000_000)[way]

    def check(case: tuple[Callable[..., Any], tuple[Any, ...], type]) -> None:
        fn, args, kind = case
        with within(25), pytest.raises(kind) as caught:
            begin(fn, *args)
        assert caught.type is kind
        assert conn_openssh.call(max, 1, 2) == 2

    each(STUCK, check)


def test_what_is_deep_cyclic_or_large_travels(conn_openssh: Connection) -> None:
    for begin in ways(conn_openssh).values():
        assert begin(nested, 50) == nested(50)
        found = begin(cycle)
        assert found[1] is found
        assert begin(lambda given: given[1] is given, cycle()) is True
        assert begin(len, bytes(20 << 20)) == 20 << 20


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups are of 3.11")
def test_a_group_of_exceptions_comes_back_as_far_as_it_can(conn_openssh: Connection) -> None:
    for begin in ways(conn_openssh).values():
        with pytest.raises(ExceptionGroup) as caught:  # noqa: F821
            begin(throw_group)
        assert [type(one) for one in caught.value.exceptions] == [ValueError, Picky, Holding]


# The agent is killed


def kill_the_forker(path: str) -> None:
    note(path, [os.getpid()])
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(30)


def kill_the_supervisor(path: str) -> None:
    note(path, [os.getpid()])
    with open(f"/proc/{os.getppid()}/stat") as stream:
        supervisor = int(stream.read().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    time.sleep(30)


@pytest.mark.parametrize("fn", [kill_the_forker, kill_the_supervisor])
def test_a_function_that_kills_its_agent_is_told(
    conn_openssh: Connection, fn: Callable[[str], None], tmp_path: Path
) -> None:
    for number, begin in ways(conn_openssh).items():
        path = tmp_path / number
        with within(15), pytest.raises(RemoteConnectionLost, match=rf"during {fn.__name__}"):
            begin(fn, str(path))
        assert left_of(pids_in(path), 15) == []
        assert conn_openssh.call(max, 1, 2) == 2


def append(path: str) -> int:
    """Note that it ran; return the forker that it ran under."""
    with open(path, "a") as stream:
        stream.write("x")
    return os.getppid()


def have_the_forker_killed(path: str) -> int:
    """Return before it happens, at some time while other calls begin."""
    subprocess.Popen(
        ["sh", "-c", f"sleep 0.05; kill -9 {os.getppid()}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ).returncode = 0
    return append(path)


def test_no_call_runs_twice_or_is_lost_as_agents_die(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "count"
    py = conn_openssh.python()
    done = doubtful = 0
    for _ in range(4):
        first = last = conn_openssh.call(have_the_forker_killed, str(path))
        done += 1
        while last == first:  # until calls have another
            futures = [py.submit(append, str(path)) for _ in range(3)]
            for future in futures:
                try:
                    last = future.result(20)
                    done += 1
                except RemoteConnectionLost:
                    doubtful += 1
    assert done <= len(path.read_text()) <= done + doubtful
    assert doubtful <= 12


# The host goes away


def test_calls_go_on_as_sshd_is_restarted(tmp_path: Path, remote_env: dict[str, str]) -> None:
    with host(tmp_path / "s", env=remote_env) as server, connect(server) as c:
        future = c.python().submit(time.sleep, 0.5)
        sshd = server._sshd
        assert sshd is not None
        sshd.terminate()
        sshd.wait()
        # No new connection meanwhile, but the one there is lives.
        assert c.call(max, 1, 2) == 2
        command = list(map(os.fspath, sshd.args))  # type: ignore[arg-type,union-attr]
        with server.log.open("ab") as log:
            server._sshd = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        assert future.result(20) is None
        with within(20), connect(server) as another:
            assert settled(lambda: reaches(another))
            assert another.call(max, 1, 2) == 2


def reaches(connection: Connection) -> bool:
    with contextlib.suppress(Exception):
        connection.open()
    return bool(connection.is_connected)


def test_everything_of_sshd_is_killed(tmp_path: Path, remote_env: dict[str, str]) -> None:
    with host(tmp_path / "s", env=remote_env) as server, connect(server) as c:
        future = c.python().submit(ignore_signals, str(tmp_path / "pids"))
        pids = pids_in(tmp_path / "pids")
        sshd = server._sshd
        assert sshd is not None
        for process in server._family():
            if process.is_sshd and process.pid != sshd.pid:
                os.kill(process.pid, signal.SIGKILL)
        with within(15), pytest.raises(RemoteConnectionLost, match="not known"):
            future.result(20)
        assert left_of(pids, 15) == []
        assert c.call(max, 1, 2) == 2


# The caller goes away


def test_ctrl_c_as_a_session_opens_leaves_none(tmp_path: Path, remote_env: dict[str, str]) -> None:
    one = {"MaxSessions": "1"}
    with (
        host(tmp_path / "s", env=remote_env, options=one) as server,
        relayed(server) as relay,
        dial(server, relay.port) as c,
    ):
        c.open()
        transport: Any = c.transport
        relay.hold()

        def interrupt() -> None:
            assert settled(lambda: transport.channel_events)
            os.kill(os.getpid(), signal.SIGINT)

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            c.call(max, 1, 2)
        interrupting.join()
        relay.resume()
        assert c.call(max, 1, 2) == 2


TWICE = """
try:
    c.python().call(busy, path)
except KeyboardInterrupt:
    print("interrupted", flush=True)
c.close()
"""


def test_ctrl_c_twice_ends_the_caller_and_the_call(openssh: Server, tmp_path: Path) -> None:
    with script(openssh, tmp_path / "pids", TWICE) as process:
        pids = pids_in(tmp_path / "pids")
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        with within(15):
            process.communicate(timeout=15)
        assert left_of(pids, 15) == []


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGHUP, marks=pytest.mark.faults),
        pytest.param(signal.SIGQUIT, marks=pytest.mark.faults),
    ],
)
def test_a_caller_that_a_signal_ends_leaves_nothing(
    openssh: Server, tmp_path: Path, number: int
) -> None:
    # Whoever runs the tests in the background may have them ignore it.
    body = f"signal.signal({int(number)}, signal.SIG_DFL)\nc.call(busy, path)"
    with script(openssh, tmp_path / "pids", body) as process:
        pids = pids_in(tmp_path / "pids")
        process.send_signal(number)
        assert process.wait(20) == -number
        assert left_of(pids, 15) == []


LEAVES = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"


@pytest.mark.parametrize("start", ["", LEAVES], ids=["killed", "exits"])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param("c.call(busy, path)", id="call"),
        pytest.param("with c.python() as py: py.call(busy, path)", id="block"),
        pytest.param("c.python().submit(busy, path).result()", id="future"),
    ],
)
def test_a_caller_that_is_told_to_end_leaves_nothing(
    openssh: Server, tmp_path: Path, start: str, body: str
) -> None:
    with script(openssh, tmp_path / "pids", start + body) as process:
        pids = pids_in(tmp_path / "pids")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == (7 if start else -signal.SIGTERM)
        assert left_of(pids, 15) == []


@pytest.mark.parametrize("start", ["", LEAVES], ids=["killed", "exits"])
def test_a_caller_that_is_told_to_end_as_it_connects_leaves_nothing(
    tmp_path: Path, remote_env: dict[str, str], start: str
) -> None:
    # What it runs must not be left: the host of the test sees to that.
    begun = tmp_path / "begun"
    body = start + f"open({str(begun)!r}, 'w').close()\nc.call(busy, path)"
    with (
        host(tmp_path / "s", env=remote_env) as server,
        script(server, tmp_path / "pids", body) as process,
    ):
        # What was there first may be of the server's own start.
        assert settled(lambda: begun.exists() and len(server._family()) > 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == (7 if start else -signal.SIGTERM)


@pytest.mark.faults
def test_a_caller_that_exits_amid_calls_leaves_nothing(openssh: Server, tmp_path: Path) -> None:
    body = "f = c.python().submit(busy, path)\nwhile not os.path.exists(path): pass\nos._exit(3)"
    with script(openssh, tmp_path / "pids", body) as process:
        pids = pids_in(tmp_path / "pids")
        assert process.wait(10) == 3
        assert left_of(pids, 15) == []


@pytest.mark.faults
def test_an_interrupted_upload_leaves_a_connection_of_use(openssh: Server, tmp_path: Path) -> None:
    body = """
data = bytes(400 << 20)
c.call(max, 1, 2)
open(path, "w").write(str(os.getpid()))
try:
    c.call(len, data)
except KeyboardInterrupt:
    print("interrupted", c.call(max, 1, 2))
c.close()
"""
    with script(openssh, tmp_path / "pids", body) as process:
        assert settled(lambda: (tmp_path / "pids").exists(), 30)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        with within(20):
            assert process.communicate(timeout=20) == ("interrupted 2\n", "")


def test_hundreds_of_calls_are_in_flight_as_the_link_breaks(
    openssh: Server, tmp_path: Path
) -> None:
    with dial(openssh) as c:
        forker = c.call(os.getppid)
        supervisor = processes.running()[forker].parent
        sshd = processes.running()[supervisor].parent
        py = c.python()
        futures = [py.submit(time.sleep, 60) for _ in range(100)]
        os.kill(sshd, signal.SIGKILL)
        with within(25):
            for future in futures:
                assert type(future.exception(25)) is RemoteConnectionLost
        assert c.call(max, 1, 2) == 2
