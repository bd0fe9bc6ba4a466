"""The loopback servers, exercised by plain Fabric and paramiko."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fabric import Connection

from fabremote.demo import processes
from fabremote.demo import server as servers
from fabremote.demo.base import free_port
from fabremote.demo.server import Server, ServerError, serve
from tests.conftest import make_server
from tests.faults import settled
from tests.leaks import Snapshot

MEGABYTE = bytes(range(256)) * 4096

Connect = Callable[..., Connection]


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    opened: list[Connection] = []

    def _connect(host: str = server.hosts[0], **more: Any) -> Connection:
        opened.append(plain(server, host, **more))
        return opened[-1]

    yield _connect
    for connection in reversed(opened):
        connection.close()


def plain(server: Server, host: str, **more: Any) -> Connection:
    return Connection(
        host, user=server.user, port=server.port, connect_kwargs=server.connect_kwargs, **more
    )


def test_run_keeps_stdout_and_stderr_apart_and_reports_the_status(connect: Connect) -> None:
    result = connect().run("echo out; echo err >&2; exit 3", hide=True, warn=True, in_stream=False)
    assert (result.stdout, result.stderr, result.exited) == ("out\n", "err\n", 3)


def test_a_megabyte_travels_each_way_unharmed(connect: Connect) -> None:
    connection = connect()
    connection.open()
    channel = connection.transport.open_session()
    channel.exec_command("cat")
    writer = threading.Thread(target=_send, args=(channel, MEGABYTE))
    writer.start()
    assert channel.makefile("rb").read() == MEGABYTE
    writer.join()
    assert channel.recv_exit_status() == 0
    channel.close()


def _send(channel: Any, data: bytes) -> None:
    channel.sendall(memoryview(data))
    channel.shutdown_write()


def test_every_host_serves(server: Server, connect: Connect) -> None:
    for host in server.hosts:
        result = connect(host).run("echo $SSH_CONNECTION", hide=True, in_stream=False)
        assert result.stdout.split()[2:] == [host, str(server.port)]


def test_one_host_is_a_gateway_to_another(server: Server, connect: Connect) -> None:
    target = server.hosts[-1]
    result = connect(target, gateway=connect()).run(
        "echo $SSH_CONNECTION", hide=True, in_stream=False
    )
    assert result.stdout.split()[2] == target


def test_sessions_have_the_servers_environment(server: Server, connect: Connect) -> None:
    result = connect().run("echo $HOME; command -v python3", hide=True, in_stream=False)
    home, python = result.stdout.split()
    assert Path(home) == server.home
    assert python.endswith("/remote0/bin/python3")


def test_files_can_be_put_and_got(server: Server, connect: Connect) -> None:
    path = str(server.directory / "put")
    connection = connect()
    connection.put(io.BytesIO(MEGABYTE), path)
    copy = io.BytesIO()
    connection.get(path, copy)
    assert copy.getvalue() == MEGABYTE
    connection.sftp().close()


def test_the_end_of_the_channel_is_the_end_of_input(server: Server, connect: Connect) -> None:
    connection = connect()
    connection.open()
    channel = connection.transport.open_session()
    channel.exec_command("echo up; cat; echo seen > $HOME/seen")
    assert channel.recv(3) == b"up\n"
    channel.close()
    assert settled((server.home / "seen").exists)
    (server.home / "seen").unlink()


@pytest.mark.parametrize("kind", ["openssh", "asyncssh"])
def test_nothing_is_left_when_the_context_ends(kind: str, tmp_path: Path) -> None:
    server = make_server(kind, tmp_path, {})
    before = Snapshot([server])
    with server:
        connection = plain(server, server.hosts[0])
        connection.open()
        for command in ("sleep 1000", "setsid sleep 1000 & echo $!; exec sleep 1001"):
            channel = connection.transport.open_session()
            channel.exec_command(f"echo; {command}")
            channel.recv(1)
        expected = {"sleep 1000", "sleep 1001"}
        assert settled(lambda: {p.command for p in server.processes()} >= expected)
    connection.close()
    assert before.excess() == []


def test_a_stray_daemon_with_an_open_pipe_does_not_hold_up_the_embedded_server(
    tmp_path: Path,
) -> None:
    server = make_server("asyncssh", tmp_path, {})
    with server, plain(server, server.hosts[0]) as connection:
        connection.open()
        channel = connection.transport.open_session()
        channel.exec_command("env -i setsid sleep 100 & echo $! $$; kill -9 $$")
        daemon, shell = map(int, channel.makefile().readline().split())
        assert settled(lambda: shell not in processes.running())
        before = time.monotonic()
    try:
        assert time.monotonic() - before < 40
        assert daemon in processes.running()
    finally:
        os.kill(daemon, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["openssh", "asyncssh"])
def test_a_port_that_is_taken_meanwhile_is_given_up(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_server(kind, tmp_path, {})
    module = sys.modules[type(server).__module__]
    with socket.create_server((server.hosts[-1], 0)) as taken:
        ports = iter([taken.getsockname()[1], free_port(server.hosts)])
        monkeypatch.setattr(module, "free_port", lambda hosts: next(ports))
        with server, plain(server, server.hosts[-1]) as connection:
            assert connection.run("echo here", hide=True, in_stream=False).stdout == "here\n"
        assert server.port != taken.getsockname()[1]


@pytest.mark.parametrize("kind", ["openssh", "asyncssh"])
def test_another_shell_can_run_the_commands(kind: str, tmp_path: Path) -> None:
    server = make_server(kind, tmp_path, {})
    server.shell = str(tmp_path / "shell")
    (tmp_path / "shell").write_text('#!/bin/sh\necho "motd"\nexec /bin/sh "$@"\n')
    (tmp_path / "shell").chmod(0o755)
    with server, plain(server, server.hosts[0]) as connection:
        result = connection.run("echo 'a  b'", hide=True, in_stream=False)
    assert result.stdout == "motd\na  b\n"


def test_a_server_that_fails_to_start_says_why(tmp_path: Path) -> None:
    if servers.find_sshd() is None:
        pytest.skip("no sshd on this machine")
    server = servers.OpenSSHServer(tmp_path, options={"NoSuchOption": "yes"})
    with pytest.raises(ServerError, match="NoSuchOption"), server:
        pass


def test_serve_prefers_one_kind_and_takes_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("asyncssh")
    assert serve(tmp_path, prefer="asyncssh").kind == "asyncssh"
    monkeypatch.setattr(servers, "find_sshd", lambda: None)
    assert serve(tmp_path).kind == "asyncssh"
    monkeypatch.setattr(servers, "_embedded", lambda directory, settings: None)
    with pytest.raises(ServerError, match=r"openssh-server.*pip install 'fabremote\[demo\]'"):
        serve(tmp_path)
