"""Links that carry nothing any more are noticed by both ends; those that carry little are not."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fabremote import RemoteCancelled, RemoteConnectionLost, RemoteTimeout
from fabremote.bootstrap import this_python
from fabremote.demo import processes
from fabremote.demo.server import Server
from fabremote.outbox import LIMIT
from fabremote.session import Session
from tests.faults import dial, relayed, settled, within
from tests.lying import LyingLink
from tests.test_life import busy, ignore_signals, left_of, note, pids_in, script

BEAT = 0.3  # seconds; a link is given up after three


# The link goes dead


@pytest.mark.parametrize("way", ["call", "submit"])
def test_a_dead_link_ends_the_call_on_both_sides(
    openssh: Server, way: str, tmp_path: Path
) -> None:
    with relayed(openssh) as relay, dial(openssh, relay.port, heartbeat=BEAT) as c:
        assert c.call(max, 1, 2) == 2
        py = c.python()
        with ThreadPoolExecutor(1) as pool:
            begin = py.submit if way == "submit" else lambda *args: pool.submit(py.call, *args)
            future = begin(busy, str(tmp_path / "pids"))
            pids = pids_in(tmp_path / "pids")
            relay.hold()
            with (
                within(15),
                pytest.raises(RemoteConnectionLost, match=r"heard from it for 0\.9 s"),
            ):
                future.result(20)
        assert left_of(pids, 10) == []
        relay.release()
        assert c.call(max, 1, 2) == 2


def test_an_idle_link_that_died_is_replaced(openssh: Server) -> None:
    with relayed(openssh) as relay, dial(openssh, relay.port, heartbeat=BEAT) as c:
        agent = c.call(os.getppid)
        relay.hold()
        assert left_of([agent], 10) == []
        assert settled(lambda: not c.is_connected)
        relay.release()
        assert c.call(os.getppid) != agent


def take(data: bytes) -> int:
    return len(data)


def give(path: str, count: int) -> bytes:
    note(path, [os.getpid()])
    return bytes(count)


@pytest.mark.parametrize("heartbeat", [BEAT, pytest.param(0, marks=pytest.mark.faults)])
def test_a_link_that_dies_during_an_upload_ends_the_call(
    openssh: Server, heartbeat: float
) -> None:
    data = bytes(64 << 20)
    with relayed(openssh) as relay, dial(openssh, relay.port, heartbeat=heartbeat) as c:
        assert c.call(max, 1, 2) == 2
        relay.hold(after=len(data) // 8)
        expected = RemoteConnectionLost if heartbeat else RemoteTimeout
        with within(20), pytest.raises(expected):
            c.python(timeout=None if heartbeat else 1.5).call(take, data)
        relay.release()
        assert c.call(max, 1, 2) == 2


@pytest.mark.faults
def test_a_link_that_dies_during_a_download_ends_the_call(openssh: Server, tmp_path: Path) -> None:
    with relayed(openssh) as relay, dial(openssh, relay.port, heartbeat=BEAT) as c:
        future = c.python().submit(give, str(tmp_path / "pids"), 64 << 20)
        pids = pids_in(tmp_path / "pids")
        time.sleep(0.05)
        relay.hold()
        with within(15), pytest.raises(RemoteConnectionLost):
            future.result(20)
        assert left_of(pids, 10) == []
        relay.release()
        assert c.call(max, 1, 2) == 2


def test_a_half_open_link_ends_the_call(openssh: Server, tmp_path: Path) -> None:
    with relayed(openssh) as relay, dial(openssh, relay.port, heartbeat=BEAT) as c:
        future = c.python().submit(ignore_signals, str(tmp_path / "pids"))
        pids = pids_in(tmp_path / "pids")
        relay.cut_behind()
        with within(15), pytest.raises(RemoteConnectionLost):
            future.result(20)
        assert left_of(pids, 10) == []
        relay.release()
        assert c.call(max, 1, 2) == 2


@pytest.mark.faults
def test_a_dead_link_can_be_closed_amid_an_upload(openssh: Server) -> None:
    with relayed(openssh) as relay, ThreadPoolExecutor(1) as pool:
        c = dial(openssh, relay.port, heartbeat=0)
        agent = c.call(os.getppid)
        relay.hold()
        future = pool.submit(c.call, take, bytes(64 << 20))
        time.sleep(0.3)
        with within(25):
            c.close()
            with pytest.raises((RemoteCancelled, RemoteConnectionLost)):
                future.result(20)
        relay.release()
        assert left_of([agent], 10) == []


# One end stands still


def test_an_agent_that_stands_still_is_given_up(openssh: Server, tmp_path: Path) -> None:
    with dial(openssh, heartbeat=BEAT) as c:
        forker = c.call(os.getppid)
        agent = processes.running()[forker].parent
        future = c.python().submit(busy, str(tmp_path / "pids"))
        pids = pids_in(tmp_path / "pids")
        os.kill(agent, signal.SIGSTOP)
        try:
            with within(15), pytest.raises(RemoteConnectionLost, match="nothing was heard"):
                future.result(20)
            assert c.call(max, 1, 2) == 2
        finally:
            os.kill(agent, signal.SIGCONT)
        assert left_of([agent, *pids], 10) == []


SUSPENDED = """
c.config.remotely.heartbeat = 0.2
print(c.call(max, 1, 2), flush=True)
future = c.python().submit(time.sleep, {seconds})
print(os.getpid(), flush=True)
sys.stdin.readline()
try:
    print(future.result(30))
except Exception as error:
    print(type(error).__name__)
print(c.call(max, 3, 4))
c.close()
"""


@pytest.mark.parametrize(
    ("stopped", "outcome"),
    [pytest.param(0.1, "None", marks=pytest.mark.faults), (2.0, "RemoteConnectionLost")],
)
def test_a_caller_that_was_suspended_ends_cleanly(
    openssh: Server, tmp_path: Path, stopped: float, outcome: str
) -> None:
    before = {process.pid for process in openssh.processes()}
    with script(openssh, tmp_path / "pids", SUSPENDED.format(seconds=1 + stopped)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "2\n"
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        time.sleep(stopped)
        if outcome != "None":
            # Meanwhile the host has ended what ran for it.
            others = [p.pid for p in openssh.processes() if p.pid not in before]
            assert left_of(others, 10) == []
        process.send_signal(signal.SIGCONT)
        with within(20):
            assert process.communicate(timeout=20) == (f"{outcome}\n4\n", "")


# Little, but not nothing


class Slow:
    """An out_stream that stands still for a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.count = 0

    def write(self, text: str) -> None:
        time.sleep(self._seconds)
        self._seconds = 0
        self.count += len(text)

    def flush(self) -> None:
        pass


def flood(count: int) -> int:
    for _ in range(count):
        os.write(1, b"x" * 65536)
    return count


def hold_the_interpreter(seconds: int) -> int:
    # Unlike CDLL, PyDLL keeps the GIL while it is away in C.
    ctypes.PyDLL(None).sleep(seconds)
    return seconds


def test_back_pressure_and_busy_ends_are_no_silence(openssh: Server) -> None:
    with dial(openssh, heartbeat=0.5) as c:
        agent = c.call(os.getppid)
        slow = Slow(2.5)
        futures: list[Any] = [
            c.python(out_stream=slow).submit(flood, 64),
            c.python().submit(hold_the_interpreter, 3),
            c.python().submit(time.sleep, 3),
        ]
        data = bytes(96 << 20)
        assert c.call(take, data) == len(data)
        assert c.call(bytes, len(data)) == data
        assert [future.result(20) for future in futures] == [64, 3, None]
        assert slow.count == 64 * 65536
        assert c.call(os.getppid) == agent


def test_without_a_heartbeat_there_is_none(openssh: Server) -> None:
    with dial(openssh, heartbeat=0) as c:
        assert c.call(max, 1, 2) == 2
        # It timed the start.
        assert settled(
            lambda: all(thread.name != "fabremote-heartbeat" for thread in threading.enumerate())
        )


@pytest.mark.parametrize("value", [-1, "soon", True, float("nan")])
def test_a_heartbeat_that_cannot_be_is_named(openssh: Server, value: Any) -> None:
    connection = dial(openssh, heartbeat=value)
    with pytest.raises(ValueError, match=r"remotely\.heartbeat: heartbeat="):
        connection.call(max, 1, 2)
    assert not connection.is_connected


# The clock


CLOCK_SET_BACK = """
real, ahead = time.time, [0.0]
time.time = lambda: real() + ahead[0]
assert c.python().submit(time.sleep, 0.1).result(10) is None
ahead[0] = -3600.0
begun = time.monotonic()
try:
    c.python(timeout=0.5).call(time.sleep, 60)
except Exception as error:
    print(type(error).__name__)
print(c.call(max, 1, 2), time.monotonic() - begun < 20)
c.close()
"""


def test_a_clock_set_back_holds_up_nothing(openssh: Server, tmp_path: Path) -> None:
    with script(openssh, tmp_path / "pids", CLOCK_SET_BACK) as process:
        assert process.communicate(timeout=30) == ("RemoteTimeout\n2 True\n", "")


class StuckLink(LyingLink):
    """Takes as long to be closed as one over which nothing can be sent any more."""

    def __init__(self) -> None:
        super().__init__(())
        self.gate = threading.Event()

    def close(self) -> None:
        self.gate.wait(30)
        super().close()


def test_the_clock_does_not_wait_for_a_link_to_be_closed() -> None:
    link = StuckLink()
    session = Session(link, "h", this_python(), b"")
    # More than may wait, for a host that reads nothing.
    posting = threading.Thread(target=session.post, args=(bytes(LIMIT + 1),))
    posting.start()
    posting.join(10)
    waits = posting.is_alive()
    link.gate.set()
    session.close()
    posting.join()
    assert not waits
    assert not session.alive


# Keys are renewed


@pytest.mark.parametrize("behind", [False, True], ids=["direct", "gateway"])
def test_calls_go_on_as_an_agent_ends_and_keys_are_renewed(openssh: Server, behind: bool) -> None:
    with (
        relayed(openssh) as relay,
        contextlib.ExitStack() as stack,
        ThreadPoolExecutor(1) as pool,
    ):
        c = dial(openssh, relay.port)
        if behind:
            c.gateway = stack.enter_context(dial(openssh))
        stack.enter_context(c)
        c.call(max, 1, 2)
        forker = c.python(py_options="-O").call(os.getppid)
        other = processes.running()[forker].parent
        transport: Any = c.transport
        relay.hold()
        os.kill(other, signal.SIGKILL)
        assert left_of([other], 10) == []
        # The host has closed the agent's channel; before that comes, this side renews keys.
        transport.packetizer.REKEY_BYTES = 1 << 16
        future = pool.submit(c.call, take, os.urandom(200_000))
        assert settled(lambda: transport.in_kex)
        relay.resume()
        with within(20):
            assert future.result(20) == 200_000
        assert settled(lambda: not transport.in_kex)


def test_keys_that_are_never_renewed_end_the_call(openssh: Server) -> None:
    with relayed(openssh) as relay, dial(openssh, relay.port) as c:
        c.call(max, 1, 2)
        transport: Any = c.transport
        transport.clear_to_send_timeout = 0.5
        transport.packetizer.REKEY_BYTES = 1 << 16
        relay.hold(after=1 << 17)
        with within(20), pytest.raises(RemoteConnectionLost):
            c.call(take, os.urandom(1 << 20))
        relay.release()
        assert c.call(max, 1, 2) == 2


# Put before the C library: the clock goes an hour ahead until there is a file.
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long ahead(void)
{
    const char *path = getenv("CLOCK_SET_BACK");
    return path && access(path, F_OK) == 0 ? 0 : 3600;
}

int clock_gettime(clockid_t id, struct timespec *now)
{
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, now);
    if (!failed && id == CLOCK_REALTIME)
        now->tv_sec += ahead();
    return failed;
}

time_t time(time_t *into)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into)
        *into = now.tv_sec;
    return now.tv_sec;
}
"""

BOTH_CLOCKS = """
c.config.remotely.heartbeat = 2
python = "env LD_PRELOAD=%s CLOCK_SET_BACK=%s %s" % (
    os.environ["LD_PRELOAD"], path, sys.executable)
py = c.python(python=python)
agent, here, there = py.call(os.getppid), time.time(), py.call(time.time)
future = py.submit(time.sleep, 1)
open(path, "w").close()
assert time.time() < here - 3000 and py.call(time.time) < there - 3000
begun = time.monotonic()
try:
    c.python(python=python, timeout=0.5).call(time.sleep, 60)
except Exception as error:
    print(type(error).__name__)
print(future.result(20), py.call(os.getppid) == agent, time.monotonic() - begun < 20)
print(c.run("echo here", hide=True, in_stream=False).stdout, end="")
c.close()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="preloading is tried on Linux")
def test_clocks_set_back_on_both_sides_hold_up_nothing(
    openssh: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    library = tmp_path / "clock.so"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", library, "-ldl"]
    subprocess.run(command, input=CLOCK, text=True, check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("CLOCK_SET_BACK", str(tmp_path / "back"))
    with script(openssh, tmp_path / "back", BOTH_CLOCKS) as process:
        expected = "RemoteTimeout\nNone True True\nhere\n"
        assert process.communicate(timeout=40) == (expected, "")
