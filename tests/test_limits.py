"""What there is no room for at once waits: for sessions, logins, and places in an agent."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fabric
import pytest

from fabremote import (
    Connection,
    RemoteConnectionLost,
    RemoteConnectionRefused,
    RemoteProcessDied,
    RemoteTimeout,
    wrap,
)
from fabremote.demo.openssh import OpenSSHServer
from fabremote.demo.server import Server
from tests.faults import dial, host, settled, within

OPTIONS = ["-X a", "-X b", "-X c", "-X d", "-X e"]


def put(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


def nap(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number


@pytest.mark.parametrize("sessions", [1, 10])
def test_a_hundred_calls_queue_for_the_sessions_there_are(
    sessions: int, tmp_path: Path, remote_env: dict[str, str]
) -> None:
    """Of as many different interpreters as sessions and more, with Fabric's own amid them."""
    kinds = [f"-X a{n}" for n in range(2 if sessions == 1 else 14)]
    limit = {"MaxSessions": str(sessions)}
    with host(tmp_path / "s", env=remote_env, options=limit) as server, dial(server) as c:

        def one(number: int) -> int:
            if number % 10 == 9:
                return int(c.run(f"echo {number}", hide=True, in_stream=False).stdout)
            py = c.python(py_options=kinds[number * len(kinds) // 100])
            return py.call(nap, number, 0.01)

        with within(60), ThreadPoolExecutor(100) as pool:
            assert sorted(pool.map(one, range(100))) == list(range(100))


def test_files_and_commands_get_the_one_session_in_turn(
    tmp_path: Path, remote_env: dict[str, str]
) -> None:
    limit = {"MaxSessions": "1"}
    with host(tmp_path / "s", env=remote_env, options=limit) as server, dial(server) as c:
        assert c.call(max, 1, 2) == 2
        assert c.run("echo here", hide=True, in_stream=False).stdout == "here\n"
        assert c.python(py_options="-O").call(max, 3, 4) == 4
        c.put(io.BytesIO(b"content"), str(tmp_path / "file"))
        assert (tmp_path / "file").read_bytes() == b"content"
        c.sftp().close()
        assert c.call(max, 5, 6) == 6


def test_a_session_that_never_comes_free_is_told(
    tmp_path: Path, remote_env: dict[str, str]
) -> None:
    limit = {"MaxSessions": "1"}
    with (
        host(tmp_path / "s", env=remote_env, options=limit) as server,
        dial(server, start_timeout=1.0) as c,
    ):
        future = c.python(start_timeout=30).submit(time.sleep, 100)
        for begin in (c.python(py_options="-O").call, c.python(py_options="-O").submit):
            with within(15), pytest.raises(RemoteConnectionLost, match="MaxSessions") as caught:
                begin(max, 1, 2)
            assert not caught.value.begun
        future.cancel()
        assert c.python(py_options="-O", start_timeout=30).call(max, 1, 2) == 2


def test_a_host_without_any_session_is_told(tmp_path: Path, remote_env: dict[str, str]) -> None:
    limit = {"MaxSessions": "0"}
    with (
        host(tmp_path / "s", env=remote_env, options=limit) as server,
        dial(server) as c,
        within(15),
        pytest.raises(RemoteConnectionLost, match="MaxSessions"),
    ):
        c.call(max, 1, 2)


def test_logins_that_are_too_many_at_once_are_tried_again(
    tmp_path: Path, remote_env: dict[str, str]
) -> None:
    limit = {"MaxStartups": "2:50:4"}
    with host(tmp_path / "s", env=remote_env, options=limit) as server:
        gate = threading.Barrier(16)

        def one(number: int) -> int:
            with dial(server) as c:
                gate.wait(30)
                return c.call(nap, number, 0)

        with within(50), ThreadPoolExecutor(16) as pool:
            assert sorted(pool.map(one, range(16))) == list(range(16))
        assert "MaxStartups" in server.log.read_text()


@pytest.mark.faults
def test_a_wrapped_connection_is_tried_again_too(
    tmp_path: Path, remote_env: dict[str, str]
) -> None:
    limit = {"MaxStartups": "1"}
    with host(tmp_path / "s", env=remote_env, options=limit) as server, occupied(server, 0.5):
        plain = fabric.Connection(
            server.hosts[0],
            server.user,
            server.port,
            connect_kwargs=server.connect_kwargs,
        )
        with plain, within(20):
            wrapped = wrap(plain)
            assert wrapped.call(max, 1, 2) == 2
            wrapped.close()


@contextlib.contextmanager
def occupied(server: OpenSSHServer, seconds: float | None = None) -> Iterator[None]:
    """The server's one place for those that log in, taken for so long, or until the end."""

    def take() -> bool:
        held.append(socket.create_connection((server.hosts[0], server.port)))
        return held[-1].recv(100).startswith(b"SSH-")

    held: list[socket.socket] = []
    assert settled(take)
    timer = threading.Timer(seconds or 0, held[-1].close)
    if seconds:
        timer.start()
    try:
        yield
    finally:
        if seconds:
            timer.join()
        for sock in held:
            sock.close()


def test_a_host_that_turns_everybody_away_is_told_in_time(
    tmp_path: Path, remote_env: dict[str, str]
) -> None:
    limit = {"MaxStartups": "1"}
    with host(tmp_path / "s", env=remote_env, options=limit) as server, occupied(server):
        connection = Connection(
            server.hosts[0],
            server.user,
            server.port,
            connect_timeout=1,
            connect_kwargs=server.connect_kwargs,
        )
        with within(20), pytest.raises(RemoteConnectionRefused, match="MaxStartups"):
            connection.call(os.getpid)


@pytest.mark.faults
def test_closing_ends_the_attempts(tmp_path: Path, remote_env: dict[str, str]) -> None:
    limit = {"MaxStartups": "1"}
    with host(tmp_path / "s", env=remote_env, options=limit) as server, occupied(server, 2):
        connection = dial(server)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(connection.call, max, 1, 2)
            time.sleep(0.5)
            connection.close()
            with within(8), pytest.raises(RemoteConnectionRefused):
                future.result(10)


def test_waiting_for_others_counts_for_the_timeout(
    conn_openssh: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabremote.places.IN_FLIGHT", 2)
    others = [conn_openssh.python().submit(nap, number, 60) for number in range(2)]
    py = conn_openssh.python(timeout=0.5)
    with within(20), pytest.raises(RemoteTimeout, match=r"waited 0\.5 seconds.*not run") as caught:
        py.call((tmp_path / "run").touch)
    assert caught.value.timeout == 0.5
    with within(20), pytest.raises(RemoteTimeout, match=r"waited"):
        py.submit(max, 1, 2)
    with within(20), pytest.raises(RemoteTimeout, match=r"a with block.* waited"):
        py.__enter__()
    others[0].cancel()
    assert conn_openssh.call(nap, 3, 0) == 3
    assert not (tmp_path / "run").exists()
    others[1].cancel()


def test_what_waited_for_others_has_the_rest_of_its_timeout(
    conn_openssh: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabremote.places.IN_FLIGHT", 1)
    other = conn_openssh.python().submit(nap, 1, 3.0)
    with within(20), pytest.raises(RemoteTimeout, match="took longer than 6 seconds"):
        conn_openssh.python(timeout=6).call(nap, 2, 5.9)
    assert other.result() == 1


def test_waiting_for_an_agent_that_then_ends_counts_too(
    openssh: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabremote.places.IN_FLIGHT", 1)
    with dial(openssh) as c, within(30):
        forker = c.call(os.getppid)
        c.python().submit(nap, 1, 60)
        killing = threading.Timer(1.5, os.kill, (forker, 9))
        killing.start()
        with pytest.raises(RemoteTimeout):
            c.python(timeout=3).call(nap, 2, 2.9)
        killing.join()


def test_a_handlers_timeout_is_not_taken_for_that_of_the_wait(
    conn_openssh: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handle(number: int, frame: object) -> None:
        raise TimeoutError("the handler's")

    monkeypatch.setattr("fabremote.places.IN_FLIGHT", 1)
    other = conn_openssh.python().submit(nap, 1, 60)
    before = signal.signal(signal.SIGUSR1, handle)
    sending = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
    sending.start()
    try:
        with pytest.raises(TimeoutError, match=r"^the handler's$"):
            conn_openssh.call(nap, 2, 0)
    finally:
        sending.join()
        signal.signal(signal.SIGUSR1, before)
    other.cancel()
    assert conn_openssh.call(nap, 3, 0) == 3


def test_a_call_whose_turn_comes_too_late_is_not_run(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    with conn_openssh.python(timeout=3) as py, ThreadPoolExecutor(4) as pool, within(40):
        over = threading.Event()

        def keep_busy() -> None:
            while not over.is_set():
                py.call(time.sleep, 0.05)

        busy = [pool.submit(keep_busy) for _ in range(4)]
        # What is large goes only once no other waits there.
        late = py.submit(put, str(tmp_path / "file"), bytes(3 << 20))
        assert isinstance(late.exception(), RemoteTimeout)
        over.set()
        for each in busy:
            each.result()
        assert py.call(nap, 1, 0) == 1
        # Nothing is known against the process.
        pid = py.call(os.getpid)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RemoteProcessDied) as caught:
            py.call(nap, 1, 0)
        assert "timeout" not in str(caught.value)
    assert not (tmp_path / "file").exists()
