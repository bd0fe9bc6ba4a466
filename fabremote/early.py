"""A first call that goes to an agent as it starts, ahead of its hello: a round trip less.

::

    script, marker, runner, the call ──> stub ──> agent: hello, the call's answer
                                          └── not the kind of Python that it is for: dropped

It is made for a Python like this one. One of another kind drops it before it says
hello, as does whatever else is started, so that it is made and sent anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from fabremote.agent import wire
from fabremote.options import Options
from fabremote.store import Parcel, Store

if TYPE_CHECKING:
    from fabremote.calls import Call
    from fabremote.session import Session

# The number of a session's first call.
FIRST = 1
# The most that goes ahead, in bytes: it may be dropped.
LIMIT = wire.MAX_DATA


class Early:
    """A call that may go ahead.

    ``parcel``: what it sends to a Python like this one. ``open_call`` makes it the
    first one of a session, which its number is taken from.
    """

    def __init__(self, parcel: Parcel, flags: int, open_call: Callable[[Session], Call]) -> None:
        self._parcel, self._flags, self._open_call = parcel, flags, open_call
        # What the agent has once it has the call.
        self.store = Store(coded=True)
        # The call, once it is that of a session.
        self.call: Call | None = None

    @functools.cached_property
    def frames(self) -> bytes:
        """What is sent: the call, and ahead of it what an agent that has nothing lacks."""
        parcel = self._parcel
        frames = self.store.sending(parcel.needed, parcel.extras)
        frames.append(wire.frame(wire.OPEN, FIRST, parcel.opening(self._flags)))
        frames.append(wire.frame(wire.DATA, FIRST, bytes(parcel.pieces[0])))
        return b"".join(frames)

    def accept(self, session: Session) -> Call:
        """Return the call as that of the session whose agent it was sent to."""
        self.call = self._open_call(session)
        size = self._parcel.size
        self.call.report("up", size, size)
        return self.call

    def drop(self, error: BaseException) -> None:
        """End the call, if it is one: nobody will wait for it."""
        if self.call is not None:
            self.call.abort(error)
            self.call.finish()


def early(options: Options, parcel: Parcel, open_call: Callable[[Session], Call]) -> Early | None:
    """Return the call with these options as one that may go ahead, or None for it must not.

    What is large waits, as does what a terminal, input or another user comes into.
    """
    waits = options.pty or options.watchers or options.sudo or options.requires is not None
    if waits or options.in_stream not in (None, False) or len(parcel.pieces) > 1:
        return None
    if parcel.size + sum(len(blob.data) for blob in parcel.needed) > LIMIT:
        return None
    return Early(parcel, wire.PACKS if options.compress else 0, open_call)


__all__ = ["Early", "early"]
