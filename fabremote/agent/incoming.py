"""Iterators of the caller's, as the function has them: items are asked for and come in.

Sent, after `streaming`, with the calls that have one among their arguments.
"""

import os
import threading

from . import streaming


def incoming(channel, ahead):
    """Return an iterator over one of the caller's."""
    return Incoming(channel, ahead)


class Incoming:
    """An iterator over the caller's: each item is asked for as it is needed, or ``ahead``."""

    def __init__(self, channel, ahead):
        self.channel, self.ahead, self.call = channel, ahead, streaming.CALLS[0]
        self.asked = 0
        self.ended = False
        self.turn = threading.Lock()

    def __iter__(self):
        return self

    def __next__(self):
        with self.turn:
            if self.ended:
                raise StopIteration
            source = streaming.inbox() if self.call == streaming.CALLS[0] else None
            if source is None:
                raise self.gone()
            if os.getpid() != source.pid:
                raise RuntimeError("an iterator of the caller's can't be used by a forked process")
            with source.lock:
                waits = not source.queues[self.channel]
                # Not counted one by one here: a signal's handler may raise before that.
                owed = self.asked - source.arrived[self.channel]
                owed += len(source.queues[self.channel])
            more = max(0, self.ahead - owed)
            if owed <= 0 or more >= self.ahead // 2 or waits:
                if not streaming.put([streaming.PULL.pack(b"N"[0], self.channel, more, waits)]):
                    raise self.gone()
                self.asked += more
            message = source.get(self.channel)
            if message is None:
                raise self.gone()
            letter, data = message
            if letter == b"I"[0]:
                return streaming.value_of(data)
            self.ended = True
            value = streaming.value_of(data)
        if letter == b"R"[0]:
            raise StopIteration(value)
        raise value

    def gone(self):
        self.ended = True
        return RuntimeError("the caller's iterator is gone")

    def close(self):
        """Ask for no more."""
        self.ended = True
