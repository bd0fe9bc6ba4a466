"""What a session's bytes travel on: an SSH channel, or a local process's pipes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from paramiko import Channel, Message, SSHException
from paramiko.common import cMSG_CHANNEL_WINDOW_ADJUST

from fabremote.agent import wire
from fabremote.bootstrap import COMMAND
from fabremote.heartbeat import CLOCK
from fabremote.outbox import Outbox
from fabremote.packets import Packets, Told
from fabremote.threads import start_thread

CHUNK = 1 << 18
# How long data may still come after the agent's exit status, in seconds.
LAST_DATA = 0.2
# How much of a command's stderr is kept for messages, in bytes.
KEPT_ERRORS = 1 << 14
# How long saying that a channel is closed may take, in seconds.
SAYING = 5.0
# How long a command that is run by the way is waited for, in seconds.
BY_THE_WAY = 10.0


class Unsent(OSError):
    """The link has not taken all; no other OSError, which a signal's handler may raise."""


class Link(Protocol):
    """A byte stream both ways to a started command."""

    # How many bytes are best sent at once.
    unit: int

    def send(self, data: bytes | memoryview) -> None:
        """Send all of ``data``; raise OSError if the far side is gone."""

    def ready(self, size: int) -> bool:
        """Return whether so many bytes can be sent without waiting for the far side to read."""

    def receive(self) -> bytes:
        """Return what has come, waiting for it; b"" at the end."""

    def finish(self) -> None:
        """Tell the far side that nothing more will be sent."""

    def status(self, timeout: float) -> int | None:
        """Return the command's exit status, or None if it is not known after ``timeout`` s."""

    def ended(self) -> bool:
        """Return whether the command has ended, or nothing connects to it any more."""

    def errors(self) -> bytes:
        """Return the last of what the command printed to stderr, where that comes apart."""

    def attend(self, take: Callable[[bytes], None], end: Callable[[], None], label: str) -> None:
        """From now on call ``take`` with what comes, and ``end`` after the last of it.

        In the thread that receives it, which must go on at once; nothing else receives any more.
        """

    def close(self) -> None:
        """Close at once; `receive` then returns b"" in whatever thread it waits."""

    def abandon(self, seconds: float) -> None:
        """Close it, and what it runs over if nothing was heard there either for so long."""


class ChannelLink:
    """A session channel of an open SSH connection.

    sshd has ``limit`` seconds to answer; SSHException is raised if it doesn't.
    """

    def __init__(self, channel: Channel, label: str, limit: float) -> None:
        self._channel = channel
        channel.in_buffer, channel.in_stderr_buffer = Packets(), Packets()
        channel.status_event = Told(self._has_exited)
        self._packets: Packets = channel.in_buffer
        self._transport: Any = channel.get_transport()
        self._exited = self._attended = False
        self._credits = Outbox(label, self._give_credit)
        # Apart: between the hello and the frames it would come amid them.
        self._errors, self._errors_end = b"", threading.Event()
        channel.in_stderr_buffer.push(self._take_error, self._errors_end.set)
        self._limit, self._late = limit, False
        self._begin()
        # Whole packets, of which paramiko keeps some bytes for itself.
        packet = channel.out_max_packet_size - 64
        self.unit = max(1, wire.MAX_DATA // packet) * packet

    def _begin(self) -> None:
        # paramiko waits for ever, even where the link is dead.
        CLOCK.add(self, self._limit)
        try:
            self._channel.exec_command(COMMAND)
        except BaseException as error:
            self.close()
            if self._late:
                text = f"its sshd did not answer in {self._limit:g} seconds"
                raise SSHException(text) from error
            raise
        finally:
            CLOCK.remove(self)

    def tick(self) -> None:
        """The time for sshd to answer is up."""
        CLOCK.remove(self)
        self._late = True
        # Not the connection: others may run over it, who notice by themselves if it is dead.
        start_thread("fabremote-link", self.close)

    def send(self, data: bytes | memoryview) -> None:
        # sendall() re-slices bytes at every packet; a memoryview costs nothing.
        try:
            self._channel.sendall(memoryview(data))  # type: ignore[arg-type]
        except (EOFError, SSHException) as error:
            # What paramiko makes of a broken connection, and of keys that aren't renewed in time.
            raise ConnectionResetError("the SSH connection is broken") from error

    def ready(self, size: int) -> bool:
        return self._channel.out_window_size >= size

    def receive(self) -> bytes:
        try:
            return self._channel.recv(CHUNK)
        except (OSError, EOFError, SSHException):
            return b""

    def finish(self) -> None:
        self._say(self._channel.shutdown_write)

    def status(self, timeout: float) -> int | None:
        if not self._channel.status_event.wait(timeout):
            return None
        status = self._channel.exit_status
        return None if status < 0 else status

    def ended(self) -> bool:
        return self._exited or self._channel.closed

    def attend(self, take: Callable[[bytes], None], end: Callable[[], None], label: str) -> None:
        def take_packet(data: bytes) -> None:
            take(data)
            self._taken(len(data))

        self._packets.push(take_packet, end)
        self._attended = True
        if self._exited:
            self._close_soon()

    def _taken(self, count: int) -> None:
        """Let sshd send as much again, once it is worth saying."""
        credit = self._channel._check_add_window(count)  # type: ignore[attr-defined]
        if credit:
            # By another thread: this one receives, and sending waits while keys are exchanged.
            self._credits.post(wire.NUMBER.pack(credit))

    def _give_credit(self, data: bytes) -> None:
        message = Message()
        message.add_byte(cMSG_CHANNEL_WINDOW_ADJUST)
        message.add_int(self._channel.remote_chanid)
        message.add_int(wire.NUMBER.unpack(data)[0])
        with contextlib.suppress(EOFError, SSHException):
            self._transport._send_user_message(message)

    def errors(self) -> bytes:
        self._errors_end.wait(LAST_DATA)
        return self._errors

    def _take_error(self, data: bytes) -> None:
        # What a login shell's leftovers print would else use up the window.
        self._errors = (self._errors + data)[-KEPT_ERRORS:]
        self._taken(len(data))

    def _has_exited(self) -> None:
        self._exited = True
        if self._attended:
            self._close_soon()

    def _close_soon(self) -> None:
        # Whatever else holds the session's streams, without its agent it is of no use.
        if not self._channel.closed:
            closing = threading.Timer(LAST_DATA, self._channel.close)
            closing.name, closing.daemon = "fabremote-link", True
            closing.start()

    def close(self) -> None:
        self._credits.close()
        if not self._channel.closed:
            self._say(self._channel.close)

    def _say(self, what: Callable[[], object]) -> None:
        """Tell sshd something; end the connection if it takes nothing any more."""

        def say() -> None:
            with contextlib.suppress(OSError, EOFError, SSHException):
                what()

        saying = start_thread("fabremote-link", say)
        saying.join(SAYING)
        if saying.is_alive():
            self._transport.close()

    def abandon(self, seconds: float) -> None:
        # Unknown of a socket that is not ours.
        heard = getattr(self._transport.sock, "heard", 0.0)
        if time.monotonic() - heard >= seconds:
            self._transport.close()
        self.close()


class ProcessLink:
    """A process on this machine, for a plain Invoke context."""

    unit = wire.MAX_DATA

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            ["/bin/sh", "-c", COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            # Ctrl-C on the terminal is for this side, which then cancels.
            start_new_session=True,
        )
        self._lock = threading.Lock()

    def send(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        stdin = self._process.stdin
        if stdin is None or stdin.closed:
            raise BrokenPipeError("the local interpreter is closed")
        while view:
            view = view[os.write(stdin.fileno(), view) :]

    def ready(self, size: int) -> bool:
        stdin = self._process.stdin
        if size > select.PIPE_BUF or stdin is None or stdin.closed:
            return False
        return bool(select.select([], [stdin], [], 0)[1])

    def receive(self) -> bytes:
        stdout = self._process.stdout
        try:
            return os.read(stdout.fileno(), CHUNK) if stdout is not None else b""
        except (OSError, ValueError):
            return b""

    def finish(self) -> None:
        with self._lock:
            if self._process.stdin is not None:
                self._process.stdin.close()

    def status(self, timeout: float) -> int | None:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def ended(self) -> bool:
        return self._process.poll() is not None

    def errors(self) -> bytes:
        return b""

    def attend(self, take: Callable[[bytes], None], end: Callable[[], None], label: str) -> None:
        read_on(self, take, end, label)

    def close(self) -> None:
        self.finish()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            # It leads a session of its own; what it started may hold its stdout.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def abandon(self, seconds: float) -> None:
        self.close()

    def release(self) -> None:
        """Close what `receive` reads from, once nobody reads any more."""
        if self._process.stdout is not None:
            self._process.stdout.close()


def read_on(
    link: Link, take: Callable[[bytes], None], end: Callable[[], None], label: str
) -> None:
    """Attend to a link by receiving from it in a thread."""

    def read() -> None:
        while data := link.receive():
            take(data)
        end()

    start_thread(f"fabremote-reader-{label}", read)


def parts(link: Link, piece: bytes | memoryview) -> Iterator[memoryview]:
    """Yield a piece of a payload in parts that fill the link's packets, each in a frame."""
    view = memoryview(piece)
    step = min(link.unit - wire.HEADER.size, wire.MAX_DATA)
    for start in range(0, len(view), step):
        yield view[start : start + step]


def order(open_channel: Callable[[], Channel], command: str) -> None:
    """Have a command run, and wait for its end, unless that takes long."""

    def run() -> None:
        with contextlib.suppress(OSError, SSHException, EOFError):
            channel = open_channel()
            channel.exec_command(command)
            # A login shell that does not run it, but reads what comes, ends by that.
            channel.shutdown_write()
            channel.status_event.wait(BY_THE_WAY)
            channel.close()

    # paramiko waits for ever where the host says nothing.
    start_thread("fabremote-link", run).join(BY_THE_WAY)


def release(link: Any) -> None:
    """Let go of what a link still holds after its reader has ended."""
    if isinstance(link, ProcessLink):
        link.release()


def discard(link: Any) -> None:
    """Close a link that nobody reads from, and let go of it."""
    link.close()
    release(link)


__all__ = [
    "ChannelLink",
    "Link",
    "ProcessLink",
    "Unsent",
    "discard",
    "order",
    "parts",
    "read_on",
    "release",
]
