"""What goes to a call's process while it runs: what it asks for, and its streams."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from fabremote.agent import wire
from fabremote.agent.bundle import REQUEST
from fabremote.exceptions import RemoteException, ResultError
from fabremote.inboxes import Inbox
from fabremote.items import Items, frames, order
from fabremote.links import Unsent
from fabremote.options import Options
from fabremote.receiving import Data
from fabremote.threads import apart, start_thread

if TYPE_CHECKING:
    from fabremote.calls import Call
    from fabremote.session import Session
    from fabremote.shipping.feeds import Feeds

# Requests under way: one whose answer's last bytes are being sent, and the next.
ASKED = 2


class Process(Protocol):
    """A lasting process, as a call in it sees it."""

    number: int

    def left(self, call: Call) -> None:
        """The call has ended."""

    def taken(self, count: int) -> None:
        """``count`` bytes of the process's stdin were written during the call."""

    def wake(self) -> None:
        """A call that may wait for its turn is not to be sent any more."""

    def gone(self, name: str) -> RemoteException:
        """Return the error for a call that the process's end kept from beginning."""


class Messages(Inbox):
    """The part of a call that answers its process, and hears of its streams."""

    done = False
    # Whether it was cancelled; that is handled later.
    unwanted = False
    deadline: float | None = None
    _failure: BaseException | None = None
    _options: Options

    def __init__(
        self,
        session: Session,
        number: int,
        name: str,
        items: Items,
        provide: Callable[[bytes], bytes] | None,
        feeds: Feeds | None,
    ) -> None:
        super().__init__()
        self.session, self.number, self.name, self.items = session, number, name, items
        self._provide, self._feeds = provide, feeds
        self._requests: deque[bytes] = deque()
        self._answering = threading.Lock()
        self._wanted: deque[tuple[int, int, bool]] = deque()
        # One message after the other.
        self._sending = threading.Lock()

    def _end_with(self, error: BaseException) -> None:
        """Have the call end with an error that another thread met."""
        raise NotImplementedError

    @property
    def stops(self) -> bool:
        """Whether no more of the call is to be sent."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return late or self.done or self.unwanted or self._failure is not None

    def kill(self) -> None:
        """Tell the far side to kill the call and what it started."""
        if not self.done:
            self.session.post(wire.frame(wire.CANCEL, self.number))

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
            start_thread(f"fabremote-answers-{self.number}", self._answer_requests)

    def _answer_requests(self) -> None:
        while self._requests and self._provide is not None:
            try:
                if not self.done and self._failure is None:
                    answer = self._provide(self._requests[0])
                    self.send_message([wire.NUMBER.pack(len(answer)) + answer])
            except BaseException as error:
                self._end_with(error)
            with self._answering:
                self._requests.popleft()
                if not self._requests:
                    return

    def send_message(self, pieces: Sequence[Data]) -> None:
        """Send the function's process a message, unless the call ends."""
        large = len(pieces) > 1
        with self._sending, self.session.watched(self.deadline, large):
            if large:
                apart(lambda: self._send_pieces(pieces))
            else:
                self._send_pieces(pieces)

    def _send_pieces(self, pieces: Sequence[Data]) -> None:
        for number, frame in enumerate(frames(self.number, pieces)):
            # What closes a stream goes, though it is late.
            if self.done or self._failure is not None or (number and self.stops):
                return
            # Whoever receives sees a broken link, too.
            with contextlib.suppress(Unsent):
                self.session.send(frame)

    def _flood(self) -> ResultError:
        return ResultError(
            f"{self.name} on {self.session.label} was killed: the host sent more than its agent "
            "does. Look whether it can be trusted."
        )

    def _respond(self, text: str) -> None:
        data = text.encode(self._options.encoding)
        for start in range(0, len(data), wire.MAX_DATA):
            piece = data[start : start + wire.MAX_DATA]
            self.session.post(wire.frame(wire.STDIN, self.number, piece))

    def _send_stdin(self, data: bytes) -> None:
        self.session.send(wire.frame(wire.STDIN, self.number, data))

    # Streams

    def _take_messages(self, data: Data) -> None:
        self._wanted.extend(self.items.feed(data))
        if self._wanted and not self.inboxed:
            # An iterator may wait for what its consumer does with an item that is here.
            self.changed()
            self._send_wanted()

    def _send_wanted(self) -> None:
        """Send the items that the function waits for: the next request's."""
        while self._wanted:
            wanted = self._wanted.popleft()
            for pieces in self._feeds.pull(*wanted) if self._feeds is not None else ():
                self.send_message(pieces)

    def close_stream(self) -> None:
        """Tell the generator there to close; what comes of it until then is for nobody."""
        self.items.close()
        if self._feeds is not None:
            self._feeds.end()
        self.send_message([order(b"X")])
        self.session.post(wire.frame(wire.NUDGE, self.number))


__all__ = ["Messages", "Process"]
