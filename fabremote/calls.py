"""One call as this side sees it: its frames in, its outcome out."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fabremote.agent import wire
from fabremote.exceptions import (
    RemoteCancelled,
    RemoteProcessDied,
    RemoteTimeout,
    ResultError,
)
from fabremote.items import Items
from fabremote.messages import UNANSWERABLE, Messages
from fabremote.options import Options
from fabremote.outcomes import TOTAL, Answer, Data, Outcome, signal_name
from fabremote.printing import printable
from fabremote.streams import Feeder, Output, local_stream

if TYPE_CHECKING:
    from fabremote.session import Session
    from fabremote.shipping.feeds import Feeds

# The session's own notice to a call that the link is gone; not on the wire.
LOST = -1
# The local notices to a call that runs on the session's service thread.
CANCELLED = -2
FLOODED = -4
EXPIRED = -3
WANTED = -6
# The most that a call's frames may hold before they are handled, in bytes, an answer's
# aside: the agent sends less, see wire.WINDOW.
UNHANDLED = 8 * wire.WINDOW
# How long the far side may take to say that a killed call has ended, in seconds.
LAST_WORD = 3.0


class Call(Messages):
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
        feeds: Feeds | None = None,
    ) -> None:
        super().__init__(session, number, name, Items(options.max_result), provide, feeds)
        self._moving = threading.Lock()
        self._elsewhere: Callable[[int, Data], None] | None = None
        # What was admitted of the far side's frames, by the reader, and of that handled.
        self._admitted = self._handled = self._replied = 0
        self._flooded = self._ended = False
        self.timeout = options.timeout
        self.deadline = time.monotonic() + options.timeout if options.timeout else None
        self.inbox: queue.SimpleQueue[tuple[int, Data]] = queue.SimpleQueue()
        self.deliver: Callable[[int, Data], None] = self._to_inbox
        self.done = False
        self._answer = Answer(options.max_result)
        self._consumed = 0
        self._failure: BaseException | None = None
        self._outputs = self._open_outputs(options, keep)
        self._feeder: Feeder | None = None
        self._responding = bool(options.watchers)
        self.has_stdin = bool(options.in_stream) or self._responding
        self._options = options

    def _open_outputs(self, options: Options, keep: bool) -> dict[int, Output]:
        outputs = {}
        for kind, name, given in (
            (wire.STDOUT, "stdout", options.out_stream),
            (wire.STDERR, "stderr", options.err_stream),
        ):
            target = None if name in options.hide else local_stream(given, name)
            encoding, watchers = options.encoding, list(options.watchers)
            outputs[kind] = Output(target, encoding, keep, watchers, self._respond)
        return outputs

    def start_stdin(self) -> None:
        """Begin to forward ``in_stream``, if there is one, once the call is sent."""
        if self._options.in_stream:
            eof = not self._responding
            stream, encoding = self._options.in_stream, self._options.encoding
            self._feeder = Feeder(stream, encoding, self._send_stdin, eof)

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
        if kind == wire.ITEM and self.items.admit(len(data)):
            self.deliver(kind, data)
            return
        self._admitted += max(1, len(data))
        if self._admitted - self._handled > UNHANDLED and not self._ended:
            self._flooded = True
            kind, data = FLOODED, b""
        self.deliver(kind, data)

    def _to_inbox(self, kind: int, data: Data) -> None:
        self.inbox.put((kind, data))
        if self._elsewhere is not None:
            # Meanwhile.
            self._move_on(self._elsewhere)

    @property
    def inboxed(self) -> bool:
        """Whether the frames wait for `wait`."""
        return self._elsewhere is None

    def move(self, deliver: Callable[[int, Data], None]) -> None:
        """Have the frames handled elsewhere from now on, those that wait in the inbox first."""
        self._elsewhere = deliver
        self._move_on(deliver)
        self.deliver = deliver

    def _move_on(self, deliver: Callable[[int, Data], None]) -> None:
        with self._moving:
            while not self.inbox.empty():
                deliver(*self.inbox.get())

    def _respond(self, text: str) -> None:
        data = text.encode(self._options.encoding)
        for start in range(0, len(data), wire.MAX_DATA):
            piece = data[start : start + wire.MAX_DATA]
            self.session.post(wire.frame(wire.STDIN, self.number, piece))

    def _send_stdin(self, data: bytes) -> None:
        self.session.send(wire.frame(wire.STDIN, self.number, data))

    # Frames

    def handle(self, kind: int, data: Data) -> None:
        """Act on one frame; afterwards ``done`` says whether it was the last."""
        if kind > 0 and kind not in (wire.REPLY, wire.ITEM):
            self._handled += max(1, len(data))
        try:
            self._handle(kind, data)
        except BaseException as error:
            self.abort(error)
            if kind in (wire.DONE, LOST):
                self.finish()
        self.changed()

    def _handle(self, kind: int, data: Data) -> None:
        if kind in self._outputs:
            self._consumed += len(data)
            if self._consumed >= wire.WINDOW // 4:
                credit = wire.NUMBER.pack(self._consumed)
                self._consumed = 0
                self.session.post(wire.frame(wire.CREDIT, self.number, credit))
            self._outputs[kind].write(data)
        elif kind == wire.REPLY:
            self._answer.add(data)
            if self._answer.refused:
                self.abort(self._too_large())
        elif kind == wire.ITEM:
            self._take_messages(data)
        elif kind == WANTED:
            self._send_wanted()
        elif kind == wire.TAKEN and self._feeder is not None:
            self._feeder.taken(wire.NUMBER.unpack(data)[0])
        elif kind == wire.ASK and self._provide is not None:
            self._request(bytes(data))
        elif kind == UNANSWERABLE and self._unanswerable is not None:
            self.abort(self._unanswerable)
        elif kind == FLOODED:
            self.abort(self._flood())
        elif kind == EXPIRED:
            self.expire()
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

    def _judge(self, data: Data) -> BaseException | None:
        """Return the error that DONE's data stands for, or None if there is an answer."""
        answered, cancelled, number, exited = wire.unpack_status(data)
        if cancelled:
            # Not by this call: the agent was told to end.
            return self.session.loss(self.name)
        if answered and self._answer.complete() is not None:
            return None
        stderr = self._outputs[wire.STDERR].text()[-2000:]
        name = signal_name(number) if number else None
        how = f"was killed by {name}" if name else f"exited with status {exited}"
        message = f"The process of {self.name} on {self.session.label} {how} without an answer."
        if stderr.strip():
            message += " The last of its stderr: " + printable(stderr.strip())
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
        if self._feeder is not None:
            self._feeder.stop()
            self._feeder = None
        if self._feeds is not None:
            self._close_feeds(self._feeds)

    def _close_feeds(self, feeds: Feeds) -> None:
        answer = self._answer.complete()
        if answer is not None and bytes(answer[:1]) == b"M":
            # The function hasn't run: the call goes again, without its own modules.
            return
        try:
            feeds.close()
        except BaseException as error:
            if self._failure is None:
                self._failure = error

    def outcome(self) -> Outcome:
        """Return how the call ended."""
        stdout, stderr = (self._outputs[kind].text() for kind in (wire.STDOUT, wire.STDERR))
        return Outcome(self._answer.complete(), self._failure, stdout, stderr)

    def wait(self, enough: Callable[[], bool] = lambda: False) -> Outcome | None:
        """Handle the call's frames in this thread until it has ended, and return its outcome.

        Return None as soon as there is ``enough``.
        """
        try:
            self._drain(self.deadline, lambda: self.done or self.killed or enough())
            if not self.done and self._failure is None:
                if enough():
                    return None
                self.expire()
        except BaseException as error:
            # Ctrl-C, or another exception thrown into this thread.
            self._interrupt(error)
        try:
            self._drain(time.monotonic() + LAST_WORD, lambda: self.done)
        finally:
            if not self.done:
                self.session.unheard()
                self.finish()
        return self.outcome()

    def _interrupt(self, error: BaseException) -> None:
        """End the call because of ``error``; a generator may run its finally blocks."""
        try:
            if self.items.kind and self._failure is None:
                self.close_stream()
                self._drain(time.monotonic() + LAST_WORD, lambda: self.done or self.killed)
                self._failure = error
        finally:
            self.abort(error)

    def _drain(self, deadline: float | None, ended: Callable[[], bool]) -> None:
        while not ended():
            if self._wanted:
                # Not before what is there has been taken, see above.
                self.handle(WANTED, b"")
                continue
            try:
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return
                kind, data = self.inbox.get(timeout=remaining)
            except queue.Empty:
                return
            self.handle(kind, data)


__all__ = ["CANCELLED", "EXPIRED", "LOST", "Call"]
