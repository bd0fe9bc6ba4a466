"""The calls in a lasting process, which run one after another."""

from . import wire


class Turn:
    """A call in a lasting process, which runs one after another."""

    def __init__(self, supervisor, process, number, flags, blobs):
        self.pack = wire.packer(flags)
        self.supervisor, self.process, self.number = supervisor, process, number
        self.blobs, self.pieces, self.typed = blobs, [], []
        if process is None:
            self.say_unbegun(0)
        else:
            supervisor.calls[number] = self
            process.turns.append(self)
            process.advance()

    def take(self, kind, data):
        """Act on a frame of the caller's for this call."""
        process = self.process
        early = kind == wire.RESIZE or (kind == wire.STDIN and not process.anew)
        if process.number == self.number or early:
            process.take(kind, data)
        elif kind == wire.STDIN:
            self.typed.append(data)
        elif kind == wire.DATA:
            self.pieces.append(data)
        elif kind in (wire.CANCEL, wire.SKIP):
            process.turns.remove(self)
            self.say_unbegun(0)

    def say_unbegun(self, status):
        """Say that the call has ended before it began."""
        self.supervisor.calls.pop(self.number, None)
        status = wire.pack_status(False, False, status, wire.UNBEGUN)
        self.supervisor.send(wire.DONE, self.number, status)

    def fate(self):
        """Return `UNBEGUN` if it has not begun, or 0."""
        return wire.UNBEGUN * (self.process.number != self.number)

    def pending(self):
        """Return how many bytes wait for its turn."""
        return sum(map(len, self.pieces + self.typed))

    def listen(self):
        """Nothing of its own is heard: its process's is."""

    def cancel(self):
        """Nothing runs of its own: its process is cancelled."""
