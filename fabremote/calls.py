"""One call as this side sees it: its frames in, its outcome out."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fabremote import terminals
from fabremote.agent import wire
from fabremote.agent.bundle import REQUEST
from fabremote.exceptions import (
    RemoteCancelled,
    RemoteProcessDied,
    RemoteTimeout,
    ResultError,
)
from fabremote.options import Options
from fabremote.printing import printable
from fabremote.stdin import Stdin
from fabremote.streams import open_outputs

if TYPE_CHECKING:
    from fabremote.session import Session

# The session's own notice to a call that the link is gone; not on the wire.
LOST = -1
# The local notices to a call that runs on the session's service thread.
CANCELLED = -2
FLOODED = -4
UNANSWERABLE = -5
UNREADABLE = -6
RESIZED = -7
# The most that a call's frames may hold before they are handled, in bytes, an answer's
# aside: the agent sends less, see wire.WINDOW.
UNHANDLED = 8 * wire.WINDOW
# Requests under way: one whose answer's last bytes are being sent, and the next.
ASKED = 2
# How long the far side may take to say that a killed call has ended, in seconds.
LAST_WORD = 3.0
TOTAL = 8


Data = bytes | memoryview


@dataclass
class Outcome:
    """How a call ended: its answer's bytes, or the error that stands for it."""

    answer: memoryview | None = None
    error: BaseException | None = None
    stdout: str = ""
    stderr: str = ""


@dataclass
class Answer:
    """An answer's bytes as they come: 8 bytes of length, then the rest, in one buffer."""

    limit: int
    head: bytes = b""
    body: bytearray | None = None
    filled: int = 0
    refused: int = 0

    def add(self, data: Data) -> None:
        if self.refused:
            return
        if self.body is None:
            self.head += bytes(data)
            if len(self.head) < TOTAL:
                return
            size = int.from_bytes(self.head[:TOTAL], "big")
            if size > self.limit:
                self.refused, self.head = size, b""
                return
            self.body, data, self.head = bytearray(size), self.head[TOTAL:], b""
        end = self.filled + len(data)
        if end > len(self.body):
            raise wire.ProtocolError("more bytes of an answer than it has")
        self.body[self.filled : end] = data
        self.filled = end

    def complete(self) -> memoryview | None:
        if self.body is None or self.filled != len(self.body):
            return None
        return memoryview(self.body)


class Call:
    """A started call: fed frames by its session, it shows output and gathers the answer.

    Every frame is handled in one thread: the caller's, in `wait`, or the
    session's service thread for a submitted call. ``provide`` answers what the
    function asks for while it runs, see ``shipping.forwarding``.
    """

    def __init__(
        self,
        session: Session,
        number: int,
        name: str,
        options: Options,
        keep: bool,
        provide: Callable[[bytes], bytes] | None = None,
        record: Callable[[Data], None] | None = None,
    ) -> None:
        self.session = session
        self._provide, self._record = provide, record
        self._requests: deque[bytes] = deque()
        self._answering = threading.Lock()
        # What was admitted of the far side's frames, by the reader, and of that handled.
        self._admitted = self._handled = self._replied = 0
        self._flooded = self._ended = False
        self._unanswerable: BaseException | None = None
        self._stream_error: Exception | None = None
        self.number = number
        self.name = name
        self.timeout = options.timeout
        self.deadline = time.monotonic() + options.timeout if options.timeout else None
        self.inbox: queue.SimpleQueue[tuple[int, Data]] = queue.SimpleQueue()
        self.deliver: Callable[[int, Data], None] = self._to_inbox
        self.done = False
        self._answer = Answer(options.max_result)
        self._consumed = 0
        self._failure: BaseException | None = None
        self._outputs = open_outputs(options, keep, self._respond)
        self.stdin = Stdin(options, self._send_stdin, self._unreadable)
        self._options = options

    def start_stdin(self) -> None:
        """Begin to forward ``in_stream``, if there is one, once the call is sent."""
        self.stdin.start()

    def admit(self, kind: int, data: Data) -> None:
        """Take a frame from the link: no more than an agent sends."""
        if self._ended:
            return
        self._ended = kind == wire.DONE
        if self._flooded and not self._ended:
            return
        if kind == wire.REPLY:
            # Of more than that, its length tells.
            if self._replied <= self._options.max_result + TOTAL:
                self._replied += len(data)
                self.deliver(kind, data)
            return
        self._admitted += max(1, len(data))
        if self._admitted - self._handled > UNHANDLED and not self._ended:
            self._flooded = True
            kind, data = FLOODED, b""
        self.deliver(kind, data)

    def _to_inbox(self, kind: int, data: Data) -> None:
        self.inbox.put((kind, data))

    def _respond(self, text: str) -> None:
        data = text.encode(self._options.encoding)
        for start in range(0, len(data), wire.MAX_DATA):
            piece = data[start : start + wire.MAX_DATA]
            self.session.post(wire.frame(wire.STDIN, self.number, piece))

    def _send_stdin(self, data: bytes) -> None:
        self.session.send(wire.frame(wire.STDIN, self.number, data))

    def _unreadable(self, error: Exception) -> None:
        self._stream_error = error
        self.deliver(UNREADABLE, b"")

    # What the function asks for

    def _request(self, request: bytes) -> None:
        """Have a request answered, in a thread of its own: this one minds the deadline."""
        if len(request) > REQUEST:
            raise self._flood()
        with self._answering:
            self._requests.append(request)
            count = len(self._requests)
        if count > ASKED:
            raise self._flood()
        if count == 1:
            name = f"fabremote-answers-{self.number}"
            threading.Thread(target=self._answer_requests, name=name, daemon=True).start()

    def _answer_requests(self) -> None:
        while self._requests and self._provide is not None:
            try:
                if not self.done and self._failure is None:
                    self._send_data(self._provide(self._requests[0]))
            except OSError:
                pass  # The reader sees the broken link too.
            except BaseException as error:
                self._unanswerable = error
                self.deliver(UNANSWERABLE, b"")
            with self._answering:
                self._requests.popleft()
                if not self._requests:
                    return

    def _flood(self) -> ResultError:
        return ResultError(
            f"{self.name} on {self.session.label} was killed: the host sent more than its agent "
            "does. Look whether it can be trusted."
        )

    def _send_data(self, data: bytes) -> None:
        """Send the far side what it asked for."""
        view = memoryview(wire.NUMBER.pack(len(data)) + data)
        for start in range(0, len(view), wire.MAX_DATA):
            if self.done or self._failure is not None:
                return
            piece = bytes(view[start : start + wire.MAX_DATA])
            self.session.send(wire.frame(wire.DATA, self.number, piece))

    # Frames

    def handle(self, kind: int, data: Data) -> None:
        """Act on one frame; afterwards ``done`` says whether it was the last."""
        if kind > 0 and kind != wire.REPLY:
            self._handled += max(1, len(data))
        try:
            self._handle(kind, data)
        except BaseException as error:
            self.abort(error)
            if kind in (wire.DONE, LOST):
                self.finish()

    def _handle(self, kind: int, data: Data) -> None:
        if kind in self._outputs:
            self._consume(data)
            self._outputs[kind].write(data)
        elif kind == wire.RECORD and self._record is not None:
            self._consume(data)
            if not self.killed:
                self._record(data)
        elif kind == wire.REPLY:
            self._answer.add(data)
            if self._answer.refused:
                self.abort(self._too_large())
        elif kind == wire.TAKEN:
            self.stdin.taken(wire.NUMBER.unpack(data)[0])
        elif kind == wire.ASK and self._provide is not None:
            self._request(bytes(data))
        elif kind == UNANSWERABLE and self._unanswerable is not None:
            self.abort(self._unanswerable)
        elif kind == UNREADABLE and self._stream_error is not None:
            self.abort(self._stream_error)
        elif kind == RESIZED and not self.killed:
            self.session.post(wire.frame(wire.RESIZE, self.number, terminals.size()))
        elif kind == FLOODED:
            self.abort(self._flood())
        elif kind == wire.DONE:
            for output in self._outputs.values():
                output.write(b"", True)
            if self._failure is None:
                self._failure = self._judge(data)
            self.finish()
        elif kind == LOST:
            # A call that was being killed keeps its own reason.
            if self._failure is None:
                self._failure = self.session.loss(self.name)
            self.session.unheard()
            self.finish()
        elif kind == CANCELLED:
            self.abort(RemoteCancelled(f"{self.name} on {self.session.label} was cancelled."))

    def _consume(self, data: Data) -> None:
        """Let the far side send as much again."""
        self._consumed += len(data)
        if self._consumed >= wire.WINDOW // 4:
            credit = wire.NUMBER.pack(self._consumed)
            self._consumed = 0
            self.session.post(wire.frame(wire.CREDIT, self.number, credit))

    def _judge(self, data: Data) -> BaseException | None:
        """Return the error that DONE's data stands for, or None if there is an answer."""
        answered, cancelled, number, exited = wire.unpack_status(data)
        if cancelled:
            # Not by this call: the agent was told to end.
            return self.session.loss(self.name)
        if answered and self._answer.complete() is not None:
            return None
        # A terminal has one stream.
        kind, what = wire.STDERR, "stderr"
        if self._options.pty:
            kind, what = wire.STDOUT, "output"
        stderr = self._outputs[kind].text()[-2000:]
        name = _signal_name(number) if number else None
        how = f"was killed by {name}" if name else f"exited with status {exited}"
        message = f"The process of {self.name} on {self.session.label} {how} without an answer."
        if stderr.strip():
            message += f" The last of its {what}: {printable(stderr.strip())}"
        return RemoteProcessDied(message, None if name else exited, name, stderr)

    def _too_large(self) -> ResultError:
        return ResultError(
            f"{self.name} on {self.session.label} returned {self._answer.refused} bytes; "
            f"the limit is {self._answer.limit}. Return less, or raise it: max_result=."
        )

    @property
    def killed(self) -> bool:
        """Whether the call ends by this side's decision."""
        return self._failure is not None

    def abort(self, error: BaseException) -> None:
        """Have the call killed because of ``error``, which becomes its outcome."""
        if self._failure is None:
            self._failure = error
        for output in self._outputs.values():
            output.mute()
        self.kill()

    def kill(self) -> None:
        """Tell the far side to kill the call and what it started."""
        if not self.done:
            self.session.post(wire.frame(wire.CANCEL, self.number))

    def expire(self) -> None:
        """The deadline has passed."""
        timeout = self.timeout or 0.0
        self.abort(
            RemoteTimeout(
                f"{self.name} on {self.session.label} took longer than {timeout:g} seconds "
                "and was killed. Raise timeout=, or make it quicker.",
                timeout,
            )
        )

    def finish(self) -> None:
        """The call has ended: let go of what served it."""
        if self.done:
            return
        self.done = True
        self.session.forget(self.number)
        self.stdin.stop()

    def outcome(self) -> Outcome:
        """Return how the call ended."""
        stdout, stderr = (self._outputs[kind].text() for kind in (wire.STDOUT, wire.STDERR))
        return Outcome(self._answer.complete(), self._failure, stdout, stderr)

    def wait(self) -> Outcome:
        """Handle the call's frames in this thread until it has ended."""
        if not self._options.pty:
            return self._wait()
        with terminals.following(lambda: self.inbox.put((RESIZED, b""))):
            return self._wait()

    def _wait(self) -> Outcome:
        try:
            self._drain(self.deadline, lambda: self.done or self.killed)
            if not self.done and self._failure is None:
                self.expire()
        except BaseException as error:
            # Ctrl-C, or another exception thrown into this thread.
            self.abort(error)
        try:
            self._drain(time.monotonic() + LAST_WORD, lambda: self.done)
        finally:
            if not self.done:
                self.session.unheard()
                self.finish()
        return self.outcome()

    def _drain(self, deadline: float | None, ended: Callable[[], bool]) -> None:
        while not ended():
            try:
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return
                kind, data = self.inbox.get(timeout=remaining)
            except queue.Empty:
                return
            self.handle(kind, data)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


__all__ = ["CANCELLED", "LOST", "Call", "Outcome"]
