"""An SSH server that lies about its channels: what it sends, how much it takes, when they end."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import paramiko
from paramiko import Message, ServerInterface, Transport
from paramiko import common as ssh

from fabremote import Connection
from fabremote.connection import Config

CHUNK = 1 << 15
OWNER = "nobody"


class Session:
    """A client's session on the server, and the means to say anything about it."""

    def __init__(self, server: LyingServer, transport: Transport, channel: Any) -> None:
        self._server, self._transport, self._channel = server, transport, channel
        self.number = server.sessions = server.sessions + 1

    def say(self, kind: bytes, *values: Any) -> None:
        """Send a message about the channel, whatever state that is in."""
        # paramiko drops in silence what is said on a closed connection: a lie would never end.
        if not self._transport.is_active():
            raise EOFError
        message = Message()
        message.add_byte(kind)
        message.add_int(self._channel.remote_chanid)
        for value in values:
            if isinstance(value, bool):
                message.add_boolean(value)
            elif isinstance(value, int):
                message.add_int(value)
            else:
                message.add_string(value)
        self._transport._send_user_message(message)  # type: ignore[attr-defined]

    def data(self, data: bytes) -> None:
        self.say(ssh.cMSG_CHANNEL_DATA, data)

    def extended(self, code: int, data: bytes) -> None:
        self.say(ssh.cMSG_CHANNEL_EXTENDED_DATA, code, data)

    def adjust(self, count: int) -> None:
        self.say(ssh.cMSG_CHANNEL_WINDOW_ADJUST, count)

    def accept(self) -> None:
        self.say(ssh.cMSG_CHANNEL_SUCCESS)

    def eof(self) -> None:
        self.say(ssh.cMSG_CHANNEL_EOF)

    def close(self) -> None:
        self.say(ssh.cMSG_CHANNEL_CLOSE)

    def status(self, number: int) -> None:
        self.say(ssh.cMSG_CHANNEL_REQUEST, b"exit-status", False, number)

    def request(self, name: bytes) -> None:
        """Make a request that wants a reply."""
        self.say(ssh.cMSG_CHANNEL_REQUEST, name, True)

    def run(self, command: bytes, send: Callable[[bytes], None]) -> None:
        """Run the command as an honest server does, its output by way of ``send``."""
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PATH": os.path.dirname(sys.executable) + ":/usr/bin:/bin"},
            bufsize=0,
        )
        self._server.processes.append(process)
        self._server.begin(self._feed, process)
        assert process.stdout is not None
        with process.stdout:
            while data := process.stdout.read(CHUNK):
                send(data)
        process.wait()

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError), process.stdin:
            while data := self._channel.recv(CHUNK):
                while data:
                    data = data[process.stdin.write(data) :]

    def wait(self) -> None:
        """Wait until the client has closed the session, or the connection is gone."""
        while self._channel.recv(CHUNK):
            pass
        self._channel.status_event.wait()


Lie = Callable[[Session, bytes], None]


class _Policy(ServerInterface):
    def __init__(self, server: LyingServer, transport: Transport) -> None:
        self._server, self._transport = server, transport

    def execute(self, channel: Any, command: bytes) -> None:
        self._server.begin(self._lie, Session(self._server, self._transport, channel), command)

    def _lie(self, session: Session, command: bytes) -> None:
        # Where the client has closed the connection, nothing can be said.
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._server.lie(session, command)

    def check_auth_none(self, username: str) -> int:
        return ssh.AUTH_SUCCESSFUL

    def check_auth_publickey(self, username: str, key: Any) -> int:
        return ssh.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return ssh.OPEN_SUCCEEDED


def _answer_request(channel: Any, message: Message) -> None:
    """What paramiko would answer by itself is left to the lie."""
    if message.get_text() == "exec":
        message.get_boolean()
        channel.transport.server_object.execute(channel, message.get_string())


class _Transport(Transport):
    _channel_handler_table: ClassVar[dict[int, Any]] = {
        **Transport._channel_handler_table,  # type: ignore[attr-defined]
        ssh.MSG_CHANNEL_REQUEST: _answer_request,
        ssh.MSG_CHANNEL_FAILURE: lambda channel, message: None,
    }


class LyingServer:
    """Serves connections; each session's command is answered by ``lie``.

    ``window`` and ``packet``: the sizes that it says it takes as a session opens.
    """

    def __init__(self, lie: Lie, window: int = 1 << 21, packet: int = 1 << 15) -> None:
        self.lie, self._window, self._packet = lie, window, packet
        self.sessions = 0
        self.processes: list[subprocess.Popen[bytes]] = []
        self._key = paramiko.ECDSAKey.generate()
        self._threads: list[threading.Thread] = []
        self._transports: list[Transport] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.begin(self._accept)

    def begin(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            transport = _Transport(
                sock, default_window_size=self._window, default_max_packet_size=self._packet
            )
            self._transports.append(transport)
            transport.add_server_key(self._key)
            with contextlib.suppress(EOFError, paramiko.SSHException):
                transport.start_server(server=_Policy(self, transport))

    def close(self) -> None:
        """Stop serving; what the sessions ran must end by itself."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        try:
            for process in self.processes:
                process.wait(30)
        finally:
            for transport in self._transports:
                transport.close()
            for thread in self._threads:
                thread.join(30)


@contextlib.contextmanager
def lying(lie: Lie, settings: dict[str, Any] | None = None, **sizes: int) -> Iterator[Connection]:
    """A connection to a `LyingServer`, with settings of ours."""
    server = LyingServer(lie, **sizes)
    keys = {"look_for_keys": False, "allow_agent": False, "pkey": paramiko.ECDSAKey.generate()}
    remotely = {"python": sys.executable, **(settings or {})}
    config = Config(overrides={"remotely": remotely})
    connection = Connection("127.0.0.1", OWNER, server.port, config=config, connect_kwargs=keys)
    try:
        with connection:
            yield connection
    finally:
        server.close()
