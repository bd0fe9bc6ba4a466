"""A connection that lives on after a fault is as it was: nothing of the call is left to it.

The host allows one session: whatever kept its channel would keep out the next command.
"""

from __future__ import annotations

import gc
import io
import itertools
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fabremote import (
    Connection,
    RemoteCancelled,
    RemoteConnectionLost,
    RemoteInterpreterMissing,
    RemoteProcessDied,
    RemoteTimeout,
    ResultError,
    ShippingError,
    UntrustedResult,
)
from fabremote.demo import processes
from fabremote.demo.openssh import OpenSSHServer
from fabremote.demo.server import Server
from tests.faults import dial, each, host, program, relayed, settled, within
from tests.lying import lying_python
from tests.test_life import ignore_signals, note, pids_in

# What befalls a call


class Failing(io.StringIO):
    """A stream that can't be written, nor read."""

    def write(self, text: str) -> int:
        raise OSError("no more")

    def read(self, size: int | None = -1) -> str:
        raise OSError("no more")


def die(number: int) -> None:
    print("last words")
    os.kill(os.getpid(), number)
    time.sleep(60)


def kill_the_agent(which: str) -> None:
    """Kill the forker, the supervisor, or sshd's process of this session."""
    victim = os.getppid()
    for _ in range(("forker", "supervisor", "session").index(which)):
        with open(f"/proc/{victim}/stat") as stream:
            victim = int(stream.read().rpartition(")")[2].split()[1])
    os.kill(victim, signal.SIGKILL)
    time.sleep(60)


def count() -> Iterator[int]:
    print("counting")
    yield from itertools.count()


def print_much() -> None:
    for _ in range(1000):
        os.write(1, b"x" * 65536)


def cancelled(c: Connection, folder: Path) -> None:
    future = c.python().submit(ignore_signals, str(folder / "pids"))
    pids_in(folder / "pids")
    future.cancel()
    future.result(20)


def interrupted(c: Connection, folder: Path) -> None:
    def interrupt() -> None:
        pids_in(folder / "pids")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        c.call(ignore_signals, str(folder / "pids"))
    finally:
        thread.join()


def left_half_way(c: Connection, folder: Path) -> None:
    assert next(c.call(count)) == 0
    gc.collect()


def block_that_dies(c: Connection, folder: Path) -> None:
    with c.python(hide=True) as py:
        py.call(max, 1, 2)
        py.call(die, signal.SIGKILL)


def block_left_amid_a_call(c: Connection, folder: Path) -> None:
    with c.python(hide=True) as py:
        py.submit(ignore_signals, str(folder / "pids"))
        pids_in(folder / "pids")
        raise KeyboardInterrupt


def forgotten(c: Connection, folder: Path) -> None:
    c.python().submit(note, str(folder / "pids"), [1])
    pids_in(folder / "pids")


def lied_to(c: Connection, folder: Path) -> None:
    liar = lying_python(folder, [(b"Segmentation fault\n", 1)])
    c.python(python=liar, hide=True).call(max, 1, 2)


def hanging(c: Connection, folder: Path) -> None:
    path = program(folder / "hangs", "#!/bin/sh\nexec cat > /dev/null\n")
    c.python(python=str(path), start_timeout=0.5).call(max, 1, 2)


def calling(fn: Callable[..., Any], *args: Any, **options: Any) -> Callable[..., Any]:
    return lambda c, folder: c.python(**{"hide": True, **options}).call(fn, *args)


# What is done, and the exact type of what comes of it: None for a value.
MAIN: dict[str, tuple[Callable[..., Any], type[BaseException] | None]] = {
    "a death": (calling(die, signal.SIGKILL), RemoteProcessDied),
    "a timeout": (calling(time.sleep, 60, timeout=0.2), RemoteTimeout),
    "a cancelled call": (cancelled, RemoteCancelled),
    "Ctrl-C": (interrupted, KeyboardInterrupt),
    "the supervisor's death": (calling(kill_the_agent, "supervisor"), RemoteConnectionLost),
    "no protocol": (lied_to, RemoteConnectionLost),
    "a generator left half-way": (left_half_way, None),
}
MORE: dict[str, tuple[Callable[..., Any], type[BaseException] | None]] = {
    "an exception": (calling(divmod, 1, 0), ZeroDivisionError),
    "no interpreter": (calling(max, 1, 2, python="python0"), RemoteInterpreterMissing),
    "a result beyond the limit": (calling(bytes, 1 << 20, max_result=1000), ResultError),
    "an exit": (calling(os._exit, 0), RemoteProcessDied),
    "a death at a terminal": (calling(die, signal.SIGSEGV, pty=True), RemoteProcessDied),
    "a timeout at a terminal": (calling(time.sleep, 60, timeout=0.5, pty=True), RemoteTimeout),
    "the forker's death": (calling(kill_the_agent, "forker"), RemoteConnectionLost),
    "the session's death": (calling(kill_the_agent, "session"), RemoteConnectionLost),
    "an argument that can't travel": (calling(len, [threading.Lock()]), ShippingError),
    "a result that can't travel": (calling(threading.Lock), UntrustedResult),
    "an interpreter that hangs": (hanging, RemoteInterpreterMissing),
    "a stream that fails": (calling(print_much, hide=False, out_stream=Failing()), OSError),
    "input that fails": (calling(input, in_stream=Failing()), OSError),
    "a block's death": (block_that_dies, RemoteProcessDied),
    "a block left amid a call": (block_left_amid_a_call, KeyboardInterrupt),
    "a call that nobody waits for": (forgotten, None),
}


# What there is besides


def files(*folders: Path) -> set[str]:
    return {str(path) for folder in folders for path in folder.rglob("*")}


class Belongings:
    """What a connection with one idle agent has: it may have no more after a fault."""

    def __init__(self, server: OpenSSHServer, c: Connection, folders: list[Path]) -> None:
        self._server, self._connection, self._folders = server, c, folders
        self._files = files(*folders)
        self._before = self._counts()

    def _counts(self) -> dict[str, int]:
        gc.collect()  # paramiko's objects refer to each other in circles
        channels = self._connection.transport._channels
        return {
            "channels": len(channels),
            "threads": threading.active_count(),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "processes": len(self._server.processes()),
        }

    def check(self) -> None:
        """Wait until there is no more than before."""
        now: dict[str, int] = {}

        def settles() -> bool:
            now.update(self._counts())
            return all(now[name] <= count for name, count in self._before.items())

        assert settled(settles, 20), f"{self._before} came to be {now}"
        assert files(*self._folders) == self._files


@pytest.mark.skipif(not processes.PROC.is_dir(), reason="needs /proc")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("cases", [MAIN, pytest.param(MORE, marks=pytest.mark.faults)])
def test_a_connection_keeps_nothing_of_a_call_that_failed(
    cases: dict[str, Any],
    tmp_path: Path,
    remote_env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    numbers = itertools.count()
    env = {**remote_env, "TMPDIR": str(there), "XDG_CACHE_HOME": str(there)}
    limit = {"MaxSessions": "1"}
    with host(tmp_path / "s", env=env, options=limit) as server, dial(server) as c:

        def check(case: tuple[Callable[..., Any], type[BaseException] | None]) -> None:
            act, kind = case
            folder = tmp_path / str(next(numbers))
            folder.mkdir()
            found: type[BaseException] | None = None
            with within(40):
                try:
                    act(c, folder)
                except BaseException as error:
                    found = type(error)
                assert found is kind, found
                # This takes the one session there is, and the call has it after that.
                assert c.run("echo here", hide=True, in_stream=False).stdout == "here\n"
                assert c.call(max, 1, 2) == 2
                belongings.check()

        assert c.call(max, 1, 2) == 2
        assert c.run("echo here", hide=True, in_stream=False).stdout == "here\n"
        assert c.call(max, 1, 2) == 2
        belongings = Belongings(server, c, [here, there, server.home, Path.home()])
        each(cases, check)


def test_fabrics_own_work_goes_on_over_a_connection_that_was_lost(
    tmp_path: Path, remote_env: dict[str, str]
) -> None:
    path = tmp_path / "file"
    with host(tmp_path / "s", env=remote_env) as server, dial(server) as c:
        for number in range(4):
            c.put(io.BytesIO(b"%d" % number), str(path))
            assert path.read_bytes() == b"%d" % number
            with within(20), pytest.raises(RemoteConnectionLost):
                c.call(kill_the_agent, "session")
            # paramiko's own thread may not know it yet.
            if number % 2:
                assert c.run("echo here", hide=True, in_stream=False).stdout == "here\n"


def test_fabrics_own_work_goes_on_over_a_connection_that_is_reset(
    openssh: Server, tmp_path: Path
) -> None:
    with relayed(openssh) as relay, dial(openssh, relay.port) as c:
        c.open()
        for work in (
            lambda: c.run("echo here", hide=True, in_stream=False).stdout,
            lambda: c.put(io.BytesIO(b"here"), str(tmp_path / "file")).remote,
        ):
            # What asks for the session gets no further.
            relay.hold(1)
            with ThreadPoolExecutor(1) as pool:
                future = pool.submit(work)
                assert settled(lambda: relay.holds)
                relay.reset()
                assert future.result(20) in ("here\n", str(tmp_path / "file"))


def test_an_sftp_session_that_ended_is_replaced(conn_openssh: Connection, tmp_path: Path) -> None:
    path = tmp_path / "file"
    conn_openssh.put(io.BytesIO(b"one"), str(path))
    first = conn_openssh.sftp()
    assert conn_openssh.sftp() is first
    first.close()
    conn_openssh.put(io.BytesIO(b"two"), str(path))
    assert path.read_bytes() == b"two"
