"""One call as this side sees it: its frames in, its outcome out."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fabremote import notices, terminals
from fabremote.agent import wire
from fabremote.exceptions import (
    RemoteCancelled,
    RemoteTimeout,
    ResultError,
)
from fabremote.items import Items
from fabremote.messages import Messages, Process
from fabremote.options import Options
from fabremote.progress import Bar, reporter
from fabremote.receiving import Answer, Data, Outcome
from fabremote.stdin import Stdin
from fabremote.streams import Outputs
from fabremote.threads import at_a_time

if TYPE_CHECKING:
    from fabremote.session import Session
    from fabremote.shipping.feeds import Feeds

# The most that a call's frames may hold before they are handled, in bytes, an answer's
# aside: the agent sends less, see wire.WINDOW. In frames of a byte each they take 64 times that.
UNHANDLED = 2 * wire.WINDOW
# What these frames hold, in bytes.
SIZES = {wire.DONE: wire.STATUS.size, wire.TAKEN: wire.NUMBER.size}
# What DONE says first of a call that has answered, and was neither cancelled nor kept from it.
_ANSWERED = wire.pack_status(True, False, 0)[0]


class Call(Messages):
    """A started call: fed frames by its session, it shows output and gathers the answer.

    Every frame is handled in one thread: the caller's, in `wait`, or the
    session's service thread for a submitted call; but its answer's bytes are
    put in their place by the thread that receives, which has them in its hands.
    ``provide`` answers what the function asks for while it runs, see
    ``shipping.forwarding``. ``process``: the lasting process that it runs in, if
    it has no process of its own. A lasting process itself is a call too, with the
    flag for it. ``waited``: for how many seconds of its timeout it has.
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
        process: Process | None = None,
        flags: int = 0,
        record: Callable[[Data], None] | None = None,
        waited: float = 0.0,
    ) -> None:
        super().__init__(session, number, name, Items(options.max_result), provide, feeds)
        self._outcome: Outcome | None = None
        self._process = process
        self.inside = process.number if process is not None else None
        self.begun = True  # over there, as far as is known
        self._record = record
        # What was admitted of the frames, by the thread that receives, and of that handled.
        self._admitted = self._handled = 0
        self._flooded = self._ended = self._told = False
        # What the thread that receives, or that answers requests, has the call end with.
        self._fault: BaseException | None = None
        self.timeout = options.timeout
        self.deadline = time.monotonic() + options.timeout - waited if options.timeout else None
        self.done = False
        # Taken by whichever thread ends it.
        self._unfinished = threading.Lock()
        self._answer = Answer(options.max_result)
        self._consumed = 0
        self._failure: BaseException | None = None
        self._outputs = Outputs(options, keep)
        self.stdin = Stdin(options)
        self.flags = flags | (wire.HAS_STDIN if self.stdin.stays_open else 0)
        self.flags |= (wire.PACKS * bool(options.compress)) | (wire.HAS_PTY * bool(options.pty))
        self._progress = reporter(options.progress, name)
        self._options = options

    def start_stdin(self) -> None:
        """Begin to forward ``in_stream``, if there is one, once the call is sent."""
        try:
            self.stdin.start(self._send_stdin, self._end_with)
        except BaseException as error:
            self.abort(error)
            raise

    def admit(self, kind: int, data: Data) -> None:
        """Take a frame, in the thread that receives: no more than an agent sends."""
        if self._ended:
            return
        if len(data) != SIZES.get(kind, len(data)):
            raise wire.ProtocolError(f"a frame of kind {kind} with {len(data)} bytes")
        self._ended = kind == wire.DONE
        if kind == wire.REPLY:
            self._add_to_answer(data)
            return
        if self._flooded and not self._ended:
            return
        if kind == wire.ITEM and self.items.admit(len(data)):
            self.deliver(kind, bytes(data))
            return
        self._admitted += max(1, len(data))
        if self._admitted - self._handled > UNHANDLED and not self._ended:
            self._flooded = True
            kind, data = notices.FLOODED, b""
        # A copy: a view of little would keep all that came with it.
        self.deliver(kind, bytes(data))

    def _add_to_answer(self, data: Data) -> None:
        if self._fault is not None or self.killed:
            return
        try:
            self._answer.add(data)
        except MemoryError:
            self._end_with(self._too_large("there is not enough memory for it here. Return less."))
        if self._answer.refused:
            limit = f"the limit is {self._options.max_result}. Return less, or raise it"
            self._end_with(self._too_large(f"{limit}: max_result=."))
        if self._progress is not None and self._answer.total and not self._told:
            # Once, until the call's own thread has looked how much there is by then.
            self._told = True
            self.deliver(notices.PROGRESS, b"")

    def report(self, direction: str, done: int, total: int) -> None:
        """Tell the caller's ``progress`` how many bytes have gone "up" or come "down"."""
        if self._progress is not None and self._failure is None:
            try:
                self._progress(direction, done, total)
            except Exception as error:
                self._end_with(error)

    def _end_with(self, error: BaseException) -> None:
        """Have the call's own thread end it with an error that another thread met."""
        if self._fault is None:
            self._fault = error
            self.deliver(notices.FAULT, b"")

    # Frames

    def handle(self, kind: int, data: Data) -> None:
        """Act on one frame; afterwards ``done`` says whether it was the last."""
        if kind > 0 and kind != wire.ITEM:
            self._handled += max(1, len(data))
        try:
            self._handle(kind, data)
        except BaseException as error:
            self.abort(error)
            if kind in (wire.DONE, notices.LOST, notices.UNBEGUN):
                self.finish()
        self.changed()

    def _handle(self, kind: int, data: Data) -> None:
        if kind in (wire.STDOUT, wire.STDERR):
            self._consume(data)
            self._outputs.write(kind, data, self._respond)
        elif kind == wire.ITEM:
            self._take_messages(data)
        elif kind == notices.WANTED:
            self._send_wanted()
        elif kind == wire.RECORD:
            self._consume(data)
            if self._record is not None and not self.killed:
                self._record(data)
        elif kind == wire.TAKEN:
            self.taken(wire.NUMBER.unpack(data)[0])
        elif kind == wire.ASK and self._provide is not None:
            self._request(bytes(data))
        elif kind == notices.FAULT and self._fault is not None:
            self.abort(self._fault)
        elif kind == notices.RESIZED and not self.killed:
            self.session.post(wire.frame(wire.RESIZE, self.number, terminals.size()))
        elif kind == notices.PROGRESS:
            self._told = False
            self.report("down", self._answer.received, self._answer.total)
        elif kind == notices.FLOODED:
            self.abort(self._flood())
        elif kind == notices.EXPIRED:
            self.expire()
        elif kind == wire.DONE:
            self._outputs.complete(self._respond)
            self.begun = not data[0] & wire.UNBEGUN
            if self._failure is None:
                self._failure = self._fault or self._judge(data)
            self.finish()
        elif kind in (notices.LOST, notices.UNBEGUN):
            # A call that was being killed keeps its own reason.
            self.begun = self.begun and kind == notices.LOST
            if self._failure is None:
                self._failure = self.session.loss(self.name, self.begun)
            self.session.unheard()
            self.finish()
        elif kind == notices.CANCELLED:
            self.abort(RemoteCancelled(f"{self.name} on {self.session.label} was cancelled."))

    def taken(self, count: int) -> None:
        """Note that ``count`` bytes of stdin were written, which may be a lasting process's."""
        self.stdin.taken(count)
        if self._process is not None:
            self._process.taken(count)

    def _consume(self, data: Data) -> None:
        """Let the far side send as much again."""
        self._consumed += len(data)
        if self._consumed >= wire.WINDOW // 4:
            credit = wire.NUMBER.pack(self._consumed)
            self._consumed = 0
            self.session.post(wire.frame(wire.CREDIT, self.number, credit))

    def _judge(self, data: Data) -> BaseException | None:
        """Return the error that DONE's data stands for, or None if there is an answer."""
        if not self.begun and self._process is not None:
            return self._process.gone(self.name)
        answered, cancelled, number, exited = wire.unpack_status(data)
        if cancelled:
            # Not by this call: the agent was told to end.
            return self.session.loss(self.name, self.begun)
        if answered and self._answer.complete():
            return None
        # A terminal has one stream.
        pty = self._options.pty
        kind, stream = (wire.STDOUT, "output") if pty else (wire.STDERR, "stderr")
        text = self._outputs.text(kind)[-2000:]
        what = f"{self.name} on {self.session.label}"
        return notices.died(what, (number, exited), stream, text, self.begun)

    def answer_alone(self, data: Data) -> memoryview | None:
        """Return the pickle of a value if the call ends by that, having done nothing else.

        ``data``: DONE's. Then ending it shows nothing, and calls nobody.
        """
        plain = data[0] == _ANSWERED and self._failure is self._fault is None
        quiet = self._outputs.empty and not self.stdin.stays_open and not self.items.kind
        lone = self._progress is None and (self._feeds is None or self._feeds.empty)
        return self._answer.value if plain and quiet and lone else None

    def _too_large(self, why: str) -> ResultError:
        size = self._answer.refused or self._answer.total
        return ResultError(f"{self.name} on {self.session.label} returned {size} bytes; {why}")

    @property
    def failure(self) -> BaseException | None:
        """What ends the call instead of an answer, as far as is known."""
        return self._failure

    @property
    def killed(self) -> bool:
        """Whether the call ends by this side's decision."""
        return self._failure is not None

    def abort(self, error: BaseException) -> None:
        """Have the call killed because of ``error``, which becomes its outcome."""
        if self._failure is None:
            self._failure = error
        self._outputs.mute()
        self.kill()

    def cancel(self) -> None:
        """Have it killed, by whichever thread handles its frames; no more of it is sent."""
        self.unwanted = True
        if self._process is not None:
            self._process.wake()
        self.kill()
        self.deliver(notices.CANCELLED, b"")

    def cut_short(self, error: BaseException) -> None:
        """Close the generator there; whoever asks for more of it gets ``error``."""
        self.close_stream()
        if self._failure is None:
            self._failure = error

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
        if not self._unfinished.acquire(blocking=False):
            return
        self.done = True
        self.session.forget(self.number)
        if self._process is not None:
            self._process.left(self)
        self.stdin.stop()
        if isinstance(self._progress, Bar):
            self._progress.close()
        self._outputs.end()
        # Where nothing has run, the call may go again, with the same iterators.
        if getattr(self._failure, "begun", True) and self._answer.letter != b"M":
            self.close_feeds()

    def close_feeds(self) -> None:
        """Close the generators that the function was given: it is over."""
        if self._feeds is None:
            return
        try:
            self._feeds.close()
        except BaseException as error:
            if self._failure is None:
                self._failure = error

    def outcome(self) -> Outcome:
        """Return how the call ended."""
        if self._outcome is not None:
            return self._outcome
        stdout, stderr = self._outputs.text(wire.STDOUT), self._outputs.text(wire.STDERR)
        if self._failure is None and self._answer.complete():
            self._outcome = Outcome(*self._answer.take(), None, stdout, stderr)
        return self._outcome or Outcome(None, None, self._failure, stdout, stderr)

    def wait(self, enough: Callable[[], bool] = lambda: False) -> Outcome | None:
        """Handle the call's frames in this thread until it has ended, and return its outcome.

        Return None as soon as there is ``enough``.
        """
        if not self._options.pty:
            return self._wait(enough)
        with terminals.following(lambda: self.inbox.put((notices.RESIZED, b""))):
            return self._wait(enough)

    def _wait(self, enough: Callable[[], bool]) -> Outcome | None:
        try:
            self._drain(self.deadline, lambda: self.done or self.killed or enough())
            if not self.done and self._failure is None:
                if enough():
                    return None
                self.expire()
        except BaseException as error:  # Ctrl-C, or another one thrown into this thread.
            self._interrupt(error)
        try:
            self._drain(time.monotonic() + notices.LAST_WORD, lambda: self.done)
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
                self._drain(time.monotonic() + notices.LAST_WORD, lambda: self.done or self.killed)
                self._failure = error
            self.abort(error)
        except BaseException:  # Ctrl-C again: the call is killed now, and the first one raised.
            self.abort(error)

    def _drain(self, deadline: float | None, ended: Callable[[], bool]) -> None:
        while not ended():
            if self._wanted:
                # Not before what is there has been taken, see above.
                self.handle(notices.WANTED, b"")
                continue
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return
            try:
                frame = self.inbox.get(timeout=at_a_time(remaining))
            except queue.Empty:
                continue
            self.handle(*frame)


__all__ = ["Call", "Outcome"]
