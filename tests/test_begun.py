"""What has surely not begun goes again, once; what may have begun never does."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fabremote import Connection, RemoteConnectionLost, RemoteProcessDied, RemoteTimeout
from fabremote.demo import processes
from fabremote.demo.server import Server
from tests.faults import dial, settled, within
from tests.test_life import note, pids_in

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="functions look for their agent in /proc"
)

# What functions do to their agent


def spares_of(forker: int) -> list[int]:
    """The workers of an agent that wait for calls, once there are as many as there should be."""
    deadline = time.monotonic() + 30
    found: list[int] = []
    while len(found) != 2:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as stream:
                state, parent, _, session = stream.read().rpartition(")")[2].split()[:4]
                if (int(parent), state, session) == (forker, "S", name):
                    found.append(int(name))
    return found


def stop(pid: int) -> None:
    """Stop a process, and wait until it has."""
    os.kill(pid, signal.SIGSTOP)
    state = ""
    while state != "T":
        with open(f"/proc/{pid}/stat") as stream:
            state = stream.read().rpartition(")")[2].split()[0]


def stop_the_workers() -> None:
    """Have the agent's other workers read nothing any more, and no more of them made."""
    for pid in (*spares_of(os.getppid()), os.getppid()):
        stop(pid)


def kill_later(pid: int, path: str) -> None:
    """Have a process killed once there is a file, by another one, which outlives the call."""
    wait = 'n=0; until [ -e "$0" ] || [ $n -gt 5000 ]; do n=$((n + 1)); sleep 0.01; done'
    command = ["sh", "-c", f"{wait}; kill -9 {pid}", path]
    null = subprocess.DEVNULL
    process = subprocess.Popen(
        command, stdin=null, stdout=null, stderr=null, start_new_session=True
    )
    process.returncode = 0  # no complaint that it still runs


def kill_the_forker(path: str) -> str:
    """Leave to the calls that come workers that read nothing, and die once there is a file."""
    stop_the_workers()
    kill_later(os.getppid(), path)
    return "answered"


def kill_the_forker_at_once(path: str) -> str:
    Path(path).write_text(str(os.getppid()))
    os.kill(os.getppid(), signal.SIGKILL)
    return "answered"


def append(path: str) -> str:
    with open(path, "a") as stream:
        stream.write("x")
    return "appended"


def append_and_kill_the_forker(path: str) -> None:
    append(path)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(30)


# What has not begun


def items() -> Iterator[int]:
    yield from range(5)


BEGINNINGS: dict[str, Callable[[Any], Any]] = {
    "call": lambda py: py.call(sum, [10]),
    "of an iterator": lambda py: py.call(sum, items()),
    "submit": lambda py: py.submit(sum, items()).result(30),
    "large": lambda py: py.call(len, bytes(4 << 20)) - (4 << 20) + 10,
    "many": lambda py: sum(each.result(30) for each in [py.submit(int, "1") for _ in range(10)]),
    "stream": lambda py: sum(py.call(iter, [4, 6])),
}


@pytest.mark.parametrize(
    ("way", "seconds"),
    [
        *((way, 0.1) for way in BEGINNINGS),
        *(pytest.param(way, 0, marks=pytest.mark.faults) for way in BEGINNINGS),
    ],
)
def test_a_call_goes_again_if_its_agent_dies_before(
    conn_openssh: Connection, way: str, seconds: float, tmp_path: Path
) -> None:
    py = conn_openssh.python(hide=True)
    agent = conn_openssh.call(os.getppid)
    path = tmp_path / "now"
    assert conn_openssh.call(kill_the_forker, str(path)) == "answered"
    timer = threading.Timer(seconds, path.touch)
    timer.start()
    with within(25):
        assert BEGINNINGS[way](py) == 10
    timer.join()
    assert conn_openssh.call(os.getppid) != agent


@pytest.mark.parametrize("way", ["call", "submit"])
def test_a_call_goes_again_if_its_worker_dies_before(
    conn_openssh: Connection, way: str, tmp_path: Path
) -> None:
    py = conn_openssh.python(hide=True)
    begin = py.call if way == "call" else lambda *args: py.submit(*args).result(30)
    agent = conn_openssh.call(os.getppid)
    # The older one gets the next call.
    oldest = min(spares_of(agent))
    stop(oldest)
    with ThreadPoolExecutor(1) as pool, within(25):
        future = pool.submit(begin, append, str(tmp_path / "count"))
        # It was given that, and another was made in place of it.
        assert settled(lambda: len(workers_of(agent)) == 3 or future.done())
        os.kill(oldest, signal.SIGKILL)
        assert future.result(30) == "appended"
    assert (tmp_path / "count").read_text() == "x"
    assert conn_openssh.call(os.getppid) == agent


def workers_of(forker: int) -> list[int]:
    return [p.pid for p in processes.running().values() if p.parent == forker]


def test_a_call_goes_again_if_its_connection_was_broken(openssh: Server, tmp_path: Path) -> None:
    with dial(openssh) as c:
        agent = c.call(os.getppid)
        session = processes.running()[processes.running()[agent].parent].parent
        assert processes.running()[session].is_sshd
        # What this side sends fails, and the host says nothing of it.
        os.kill(session, signal.SIGSTOP)
        try:
            c.transport.sock.shutdown(socket.SHUT_WR)
            with within(25):
                assert c.call(append, str(tmp_path / "count")) == "appended"
        finally:
            os.kill(session, signal.SIGCONT)
        assert (tmp_path / "count").read_text() == "x"


class Typed(io.StringIO):
    """An in_stream that makes a file as it is read."""

    path: Path

    def read(self, size: int | None = -1) -> str:
        self.path.touch()
        return super().read(size)


def test_what_was_read_of_the_callers_input_is_not_lost(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    typed = Typed("one\ntwo\n")
    typed.path = tmp_path / "now"
    assert conn_openssh.call(kill_the_forker, str(typed.path)) == "answered"
    py = conn_openssh.python(in_stream=typed)
    given: Any = items()
    with within(25), pytest.raises(RemoteConnectionLost) as caught:
        py.call(lambda given: input(), given)
    assert not caught.value.begun
    assert given.gi_frame is None  # closed, as it is after every call
    assert conn_openssh.call(max, 1, 2) == 2


def test_calls_of_a_block_are_told_apart_as_its_agent_dies(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "pids"
    with conn_openssh.python() as py:
        forker = py.call(os.getppid)
        first = py.submit(note_and_sleep, str(path))
        queued = [py.submit(max, 1, 2) for _ in range(3)]
        pids_in(path)
        os.kill(forker, signal.SIGKILL)
        with within(25):
            lost = [each.exception(20) for each in (first, *queued)]
    assert [type(error) for error in lost] == [RemoteConnectionLost] * 4
    assert [getattr(error, "begun", None) for error in lost] == [True, False, False, False]
    assert conn_openssh.call(max, 1, 2) == 2


def note_and_sleep(path: str) -> None:
    note(path, [os.getpid()])
    time.sleep(60)


# What may have begun


@pytest.mark.parametrize("way", ["call", "submit"])
def test_a_call_that_has_begun_is_never_run_again(
    conn_openssh: Connection, way: str, tmp_path: Path
) -> None:
    py = conn_openssh.python(hide=True)
    begin = py.call if way == "call" else lambda *args: py.submit(*args).result(30)
    for number in range(1, 4):
        with within(25), pytest.raises(RemoteConnectionLost) as caught:
            begin(append_and_kill_the_forker, str(tmp_path / "count"))
        assert caught.value.begun
        assert conn_openssh.call(max, 1, 2) == 2
        assert len((tmp_path / "count").read_text()) == number


def test_a_process_that_died_as_it_ran_is_never_run_again(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    def append_and_die(path: str) -> None:
        append(path)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RemoteProcessDied) as caught:
        conn_openssh.call(append_and_die, str(tmp_path / "count"))
    assert caught.value.begun
    assert (tmp_path / "count").read_text() == "x"


def test_a_forker_that_is_killed_costs_no_call_but_those_in_doubt(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    """Its other workers live on for a moment, so that they may or may not run the next call."""
    path, pid = tmp_path / "count", tmp_path / "pid"
    done = doubtful = 0
    for _ in range(5):
        with contextlib.suppress(RemoteConnectionLost):
            assert conn_openssh.call(kill_the_forker_at_once, str(pid)) == "answered"
        with within(25):
            try:
                assert conn_openssh.call(append, str(path)) == "appended"
                done += 1
            except RemoteConnectionLost as error:
                doubtful += error.begun
    assert done + doubtful == 5
    assert done <= len(path.read_text()) <= done + doubtful
    # Until the last one has ended, the next call may be in doubt, too.
    assert settled(lambda: not is_running(int(pid.read_text())), 30)
    assert conn_openssh.call(max, 1, 2) == 2


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stream:
        return stream.read().rpartition(")")[2].split()[0] not in "ZX"
    return False


# A forker that stands still


def stop_the_forker() -> int:
    stop(os.getppid())
    return os.getppid()


@pytest.mark.parametrize("waiting", [False, True])
def test_nothing_is_left_where_a_call_stops_the_forker(openssh: Server, waiting: bool) -> None:
    with dial(openssh) as c:
        forker = c.call(stop_the_forker)
        if waiting:
            # As many as there are workers by then, and one more.
            with within(30):
                for _ in range(2):
                    c.python(timeout=60).submit(os.getpid)
                with pytest.raises(RemoteTimeout):
                    c.python(timeout=1).call(os.getpid)
            # That has had it go on.
            assert c.call(os.getppid) == forker
    assert settled(lambda: not Path(f"/proc/{forker}").exists(), 5)


def test_every_call_ends_though_one_has_stopped_the_forker(openssh: Server) -> None:
    with dial(openssh, heartbeat=1.0) as c, within(40):
        c.call(stop_the_forker)
        # More than there are workers by then.
        assert [c.call(max, 1, number) for number in range(5)] == [1, 1, 2, 3, 4]


# An agent that is told to end


def end_the_agent(number: int) -> str:
    with open(f"/proc/{os.getppid()}/stat") as stream:
        os.kill(int(stream.read().rpartition(")")[2].split()[1]), number)
    return "answered"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_agent_that_a_signal_ends_costs_no_later_call(
    conn_openssh: Connection, tmp_path: Path, number: int
) -> None:
    path = tmp_path / "count"
    for _ in range(5):
        # In doubt is that call itself, if the agent has ended before its answer came.
        with contextlib.suppress(RemoteConnectionLost):
            assert conn_openssh.call(end_the_agent, int(number)) == "answered"
        assert conn_openssh.call(append, str(path)) == "appended"
    assert path.read_text() == "xxxxx"


def test_an_agent_that_a_signal_ends_leaves_no_forker_that_stands_still(
    conn_openssh: Connection,
) -> None:
    forker = conn_openssh.call(stop_the_forker)
    with contextlib.suppress(RemoteConnectionLost):
        conn_openssh.call(end_the_agent, int(signal.SIGTERM))
    assert conn_openssh.call(max, 1, 2) == 2
    assert settled(lambda: not Path(f"/proc/{forker}").exists(), 10)
