"""The calls in a lasting process, which run one after another: the supervisor's side.

Sent before the first such process starts. What a call has left unread on its process's
pipe stands before the next one: a message that was not sent to its end is filled up,
and where there were streams, `END` tells the process what is no more theirs.
"""

from . import bundle, loader, wire

END = bundle.TOTAL.pack(bundle.STREAMED | len(bundle.LAST)) + bundle.LAST
FILLING = bytes(wire.MAX_DATA)


class Turn:
    """A call in a lasting process, which runs one after another."""

    def __init__(self, supervisor, process, number, flags, blobs):
        self.pack = wire.packer(flags)
        self.supervisor, self.process, self.number = supervisor, process, number
        self.blobs, self.pieces, self.typed = blobs, [], []
        # The first bytes of a message under way, and how many more it has.
        self.head, self.missing = b"", 0
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
            if kind == wire.DATA and process.asked:
                self.follow(data)
            process.take(kind, data)
        elif kind == wire.STDIN:
            self.typed.append(data)
        elif kind == wire.DATA:
            self.pieces.append(data)
        elif kind in (wire.CANCEL, wire.SKIP):
            process.turns.remove(self)
            self.say_unbegun(0)

    def begin(self):
        """Have the process run it, which is free."""
        process = self.process
        before = process.turn.left() if process.turn is not None else []
        process.turn = self
        process.number, process.window, process.pack = self.number, wire.WINDOW, self.pack
        process.asked = process.streaming = False
        blobs = [blob for blob in self.blobs if blob[0] not in process.given]
        process.given.update([blob[0] for blob in blobs])
        if process.anew:
            loader.part("terminal").clear(process)
        named = bundle.blob_message(blobs) if blobs else []
        process.put(process.payload, *(before + named + self.pieces))
        process.put(process.stdin, *self.typed)
        process.listen()

    def follow(self, data):
        """Note how far the messages go that the process has asked for: all but the payload."""
        at, size = 0, len(data)
        while at < size:
            if not self.missing:
                step = bundle.TOTAL.size - len(self.head)
                self.head += bytes(data[at : at + step])
                at += step
                if len(self.head) == bundle.TOTAL.size:
                    self.missing = self.announced()
                    self.head = b""
            else:
                step = min(self.missing, size - at)
                self.missing -= step
                at += step

    def announced(self):
        """Return how many bytes a message has after its total."""
        total = self.head + bytes(bundle.TOTAL.size - len(self.head))
        return bundle.TOTAL.unpack(total)[0] & (bundle.STREAMED - 1)

    def left(self):
        """Return what has the process come to the end of this call, which has ended."""
        missing, pieces = self.missing, []
        if self.head:
            pieces.append(bytes(bundle.TOTAL.size - len(self.head)))
            missing = self.announced()
        pieces += [FILLING] * (missing // len(FILLING)) + [FILLING[: missing % len(FILLING)]]
        return pieces + [END] if self.process.streaming else pieces

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
