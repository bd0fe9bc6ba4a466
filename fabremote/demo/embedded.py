"""An SSH server inside this process, by asyncssh, for machines without an sshd.

One thread runs an event loop; each session runs its command as a real subprocess::

    client --channel--> _Session --pipes--> /bin/sh -c COMMAND
    client <--channel-- _Session <--pipes--

Reads wait for the other side's writes, both ways, so that a slow reader slows the writer and
memory stays bounded. As with sshd, the command leads a process group of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

import asyncssh

from fabremote.demo import processes
from fabremote.demo.base import Server, ServerError, free_port
from fabremote.threads import start_thread

CHUNK = 1 << 18
START_TIMEOUT = 15.0
ATTEMPTS = 5

Channel = asyncssh.SSHServerProcess[bytes]


class EmbeddedServer(Server):
    """An asyncssh server in a background thread.

    ``grace`` is how many seconds a command may outlive its channel, after the end of its input,
    before it is killed.
    """

    kind = "asyncssh"

    def __init__(
        self,
        directory: Path,
        *,
        env: Mapping[str, str] | None = None,
        shell: str | None = None,
        grace: float = 5.0,
    ) -> None:
        super().__init__(directory, env=env, shell=shell)
        self.grace = grace
        self.sessions: set[_Session] = set()
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._quit = asyncio.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def session_environment(self) -> dict[str, str]:
        """What login would have set, and the server's own."""
        login = {"USER": self.user, "LOGNAME": self.user, "SHELL": self.shell or "/bin/sh"}
        return {**login, **self._environment()}

    def _roots(self) -> list[int]:
        return [session.pid for session in list(self.sessions) if session.pid is not None]

    def _start(self) -> None:
        self._thread = start_thread("fabremote-embedded-server", self._run)
        started = self._ready.wait(START_TIMEOUT)
        if self._failure is not None or not started:
            raise ServerError("the embedded SSH server didn't start") from self._failure

    def _stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._quit.set)
        thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._quit = asyncio.Event()
        listeners = await self._listen()
        self._ready.set()
        try:
            await self._quit.wait()
        finally:
            await self._close(listeners)

    async def _listen(self) -> list[asyncssh.SSHAcceptor]:
        host_key, client_key = self._keys()
        for _ in range(ATTEMPTS):
            self.port = free_port(self.hosts)
            listeners: list[asyncssh.SSHAcceptor] = []
            try:
                for host in self.hosts:
                    listeners.append(await self._listen_on(host, host_key, client_key))
            except OSError:  # the port was taken since we chose it
                await self._close(listeners)
            else:
                return listeners
        raise ServerError(f"no port to be had in {ATTEMPTS} attempts")

    async def _listen_on(
        self, host: str, host_key: asyncssh.SSHKey, client_key: str
    ) -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            host,
            self.port,
            server_factory=lambda: _Policy(self),
            process_factory=self._session,
            server_host_keys=[host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(client_key),
            encoding=None,
            sftp_factory=True,
            allow_pty=False,
            agent_forwarding=False,
            backlog=200,
        )

    def _keys(self) -> tuple[asyncssh.SSHKey, str]:
        """The server's key, and the client's public one; the client's private key is a file."""
        client = asyncssh.generate_private_key("ssh-ed25519")
        path = Path(self.key)
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        client.write_private_key(path)
        return asyncssh.generate_private_key("ssh-ed25519"), client.export_public_key().decode()

    async def _session(self, channel: Channel) -> None:
        await _Session(self, channel).run()

    async def _close(self, listeners: list[asyncssh.SSHAcceptor]) -> None:
        for listener in listeners:
            listener.close()
        family = self._family()
        connections = list(self.connections)
        for connection in connections:
            connection.abort()
        await asyncio.to_thread(lambda: processes.end([*family, *self._family()]))
        await asyncio.gather(*(connection.wait_closed() for connection in connections))
        await asyncio.gather(*(listener.wait_closed() for listener in listeners))
        await self._finish_sessions()

    async def _finish_sessions(self) -> None:
        """Wait for the sessions to notice; drop those whose pipes an unknown process holds."""
        tasks = [session.task for session in self.sessions if session.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=2.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Policy(asyncssh.SSHServer):
    """Who may do what: the one key opens sessions and forwards, as gateways need."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._server.connections.discard(self._connection)

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool:
        return True


class _Session:
    """One command: its subprocess, and the pumps between its pipes and the channel."""

    def __init__(self, server: EmbeddedServer, channel: Channel) -> None:
        self._server = server
        self._channel = channel
        self.task: asyncio.Task[None] | None = None
        self.pid: int | None = None

    async def run(self) -> None:
        # A task of our own: asyncssh cancels its tasks when the connection goes, and the
        # process has to be seen off after that.
        self.task = asyncio.ensure_future(self._run())
        await asyncio.shield(self.task)

    async def _run(self) -> None:
        self._server.sessions.add(self)
        try:
            process = await self._spawn()
            self.pid = process.pid
            try:
                await self._accompany(process)
            finally:
                # No public way leads to the pipes, which a stray daemon may have kept open.
                process._transport.close()  # type: ignore[attr-defined]
        finally:
            self._server.sessions.discard(self)

    async def _accompany(self, process: asyncio.subprocess.Process) -> None:
        """Carry the streams until the process has ended, then report how."""
        guard = asyncio.ensure_future(self._guard(process))
        feed = asyncio.ensure_future(self._feed(process))
        try:
            await asyncio.gather(
                self._drain(process.stdout, self._channel.stdout),
                self._drain(process.stderr, self._channel.stderr),
                process.wait(),
            )
        finally:
            guard.cancel()
            feed.cancel()
            await asyncio.gather(guard, feed, return_exceptions=True)
        self._report(await process.wait())

    async def _spawn(self) -> asyncio.subprocess.Process:
        shell = self._server.shell or "/bin/sh"
        command = self._channel.command
        return await asyncio.create_subprocess_exec(
            shell,
            *(["-c", command] if command else []),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._server.home,
            env={**self._locale(), **self._server.session_environment(), **self._addresses()},
            start_new_session=True,
            limit=CHUNK,
        )

    def _locale(self) -> dict[str, str]:
        """What the client may set, as with Debian's sshd."""
        sent = self._channel.env.items()
        return {str(k): str(v) for k, v in sent if k == "LANG" or str(k).startswith("LC_")}

    def _addresses(self) -> dict[str, str]:
        peer = self._channel.get_extra_info("peername")
        here = self._channel.get_extra_info("sockname")
        return {"SSH_CONNECTION": f"{peer[0]} {peer[1]} {here[0]} {here[1]}"}

    async def _feed(self, process: asyncio.subprocess.Process) -> None:
        """Channel to the process's input, until either side has had enough."""
        stdin = process.stdin
        assert stdin is not None
        try:
            while chunk := await self._read(process.pid):
                stdin.write(chunk)
                await stdin.drain()
        except (OSError, asyncssh.Error):
            pass  # the process closed its input or the connection is gone: the end, both ways
        finally:
            stdin.close()

    async def _read(self, pid: int) -> bytes:
        while True:
            try:
                return await self._channel.stdin.read(CHUNK)
            except asyncssh.SignalReceived as request:
                _signal_group(pid, getattr(signal, f"SIG{request.signal}", signal.SIGTERM))
            except (asyncssh.BreakReceived, asyncssh.TerminalSizeChanged):
                pass  # of terminals, which there are none

    async def _drain(
        self, pipe: asyncio.StreamReader | None, channel: asyncssh.SSHWriter[bytes]
    ) -> None:
        """The process's output to the channel; to nowhere once that is gone."""
        assert pipe is not None
        gone = False
        while chunk := await pipe.read(CHUNK):
            if gone:
                continue
            try:
                channel.write(chunk)
                await channel.drain()
            except (OSError, asyncssh.Error):
                gone = True

    async def _guard(self, process: asyncio.subprocess.Process) -> None:
        """See the process off when its channel has closed before it ended."""
        await self._channel.channel.wait_closed()
        if process.stdin is not None:
            process.stdin.close()
        await asyncio.sleep(self._server.grace)
        _signal_group(process.pid, signal.SIGKILL)

    def _report(self, status: int) -> None:
        try:
            if status < 0:
                name = signal.Signals(-status).name.removeprefix("SIG")
                self._channel.exit_with_signal(name)
            else:
                self._channel.exit(status)
        except (OSError, asyncssh.Error):
            pass  # nobody is left to be told


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended meanwhile
        os.killpg(pid, number)
