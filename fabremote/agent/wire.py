"""Frames on the agent's stdin and stdout, the same at both ends.

A frame is a kind (1 byte), a call's number (4 bytes), a length (4 bytes), all
big-endian, and that many bytes. Call 0 is the connection itself. Frames carry
at most MAX_DATA bytes; what is larger travels as several.
"""

import os
import struct
import zlib
from _io import BytesIO

HEADER = struct.Struct(">BII")
MAX_DATA = 65536

# The most bytes of stdout and stderr that a call may have on the way to a
# local side that has not yet consumed them; stdin the other way alike.
WINDOW = 1 << 20

# Each side looks once a tick whether it has heard the other, gives a sign of life itself
# every BEAT ticks, and gives the other up after SILENCE of them. A tick is the caller's choice.
BEAT = 8
SILENCE = 3 * BEAT

# From the caller to the agent.
OPEN = 1  # a call begins; data: flags (1 byte), and the digests of the blobs that it needs
DATA = 2  # a piece of its payload
STDIN = 3  # a piece of its standard input; empty: end of file
CREDIT = 4  # this many bytes of its output were consumed (8 bytes)
CANCEL = 5  # kill it and all it started
STORE = 6  # call 0: a piece of a blob to keep; data: its digest, and the piece
DROP = 7  # call 0: the digests of blobs that no later call needs
EXTEND = 8  # call 0: a module of the agent's; data: its name, NUL, its marshalled source or code
END = 9  # a lasting process is to end, once the calls in it have
SKIP = 10  # of a call in a lasting process: drop it unless it has begun
# Call 0: a sign of life, both ways; to the agent with a tick in milliseconds (8 bytes).
PING = 11
RESIZE = 12  # its terminal has so many rows and columns (2 bytes each)
NUDGE = 13  # what its stream's generator does now is to end: the stream is being closed

# From the agent to the caller.
STDOUT = 16
STDERR = 17
REPLY = 18  # a piece of its answer
TAKEN = 19  # this many bytes of its standard input were written (8 bytes)
DONE = 20  # the last frame of a call; data: how it ended, see pack_status
CRASH = 21  # call 0: the supervisor itself failed; data: text. Empty: no call is open any more
ASK = 22  # the function needs a module or a data file; answered by DATA
ITEM = 23  # a piece of a message of its streams, see `streaming`
RECORD = 24  # the function has logged; data: see `records`

# Their data is part of a stream: it is passed on as it comes, not frame by frame.
STREAMED = frozenset([DATA, STDIN, STDOUT, STDERR, REPLY])

# Added to the kind of a frame whose data is compressed.
PACKED = 128

# Flags of OPEN: its stdin stays open; its first blob lists others, which it needs, too;
# it is no call but a lasting process; it is a call in the one whose number (4 bytes) follows;
# its answer is to be compressed; it has a terminal.
HAS_STDIN = 1
HAS_LIST = 2
LASTING = 4
INSIDE = 8
PACKS = 16
HAS_PTY = 32
PROCESS = struct.Struct(">I")
DIGEST = 16

NUMBER = struct.Struct(">Q")
STATUS = struct.Struct(">BBB")


def frame(kind, call, data=b""):
    """Return the bytes of one frame."""
    return HEADER.pack(kind, call, len(data)) + data


def digests(data):
    """Return the digests in ``data``."""
    return [bytes(data[n : n + DIGEST]) for n in range(0, len(data), DIGEST)]


# Of DONE: the call has not begun, nor will it: its process ended before.
UNBEGUN = 4


def pack_status(answered, cancelled, waitstatus, flags=0):
    """Return DONE's data: was there an answer, a cancel, and how the worker exited."""
    signal = waitstatus & 0x7F
    flags |= (1 if answered else 0) | (2 if cancelled else 0)
    return STATUS.pack(flags, signal, waitstatus >> 8)


def unpack_status(data):
    """Return (answered, cancelled, signal number or 0, exit status) of DONE's data."""
    flags, signal, exited = STATUS.unpack(data)
    return bool(flags & 1), bool(flags & 2), signal, exited


class ProtocolError(Exception):
    """The peer sent bytes that are not the protocol's."""


class Decoder:
    """Cuts a byte stream into frames, whatever pieces it comes in."""

    def __init__(self):
        self._rest = b""
        # The frame whose data is under way, and how much of that is still to come.
        self._kind = self._call = self._missing = 0

    def feed(self, data):
        """Take bytes in; return a list of (kind, call, data).

        Of the kinds that are `STREAMED` a frame may come as several, none of
        them empty unless it was. The data are views of the bytes taken in, not copies.
        """
        buffer = memoryview(self._rest + data if self._rest else data)
        frames = []
        start = 0
        size = len(buffer)
        while True:
            end = min(start + self._missing, size)
            if end > start:
                frames.append((self._kind, self._call, buffer[start:end]))
                self._missing -= end - start
                start = end
            if size - start < HEADER.size:
                break
            kind, call, length = HEADER.unpack_from(buffer, start)
            if length > MAX_DATA:
                raise ProtocolError("a frame of %d bytes; the limit is %d" % (length, MAX_DATA))
            end = start + HEADER.size + length
            if end <= size:
                data = buffer[start + HEADER.size : end]
                if kind & PACKED:
                    kind, data = kind - PACKED, unpacked(data)
                frames.append((kind, call, data))
                start = end
            elif kind in STREAMED:
                start += HEADER.size
                self._kind, self._call, self._missing = kind, call, length
            else:
                break
        self._rest = bytes(buffer[start:])
        return frames


def unpacked(data):
    """Return a view of what a compressed frame holds."""
    engine = zlib.decompressobj()
    try:
        found = engine.decompress(data, MAX_DATA)
    except zlib.error:
        pass
    if not engine.eof:
        raise ProtocolError("a frame that can't be decompressed")
    return memoryview(found)


class Packer:
    """Compresses one payload, piece by piece, where a sample says that it pays."""

    def __init__(self):
        self.skip = 0

    def pack(self, kind, data):
        """Return the kind and data of the frame for ``data``."""
        if self.skip:
            self.skip -= 1
        elif len(data) > 1024:
            for part in data[:4096], data:
                packed = zlib.compress(part, 1)
                if len(packed) > 0.9 * len(part):
                    # What follows is likely to be of the same kind.
                    self.skip = 15
                    return kind, data
            return kind | PACKED, packed
        return kind, data


def packer(flags):
    """Return what compresses an answer for a call with these flags, or None."""
    return Packer().pack if flags & PACKS else None


# The most pieces that one write may take.
PIECES = 64


def write(fd, pieces):
    """Write a list of pieces as far as the descriptor takes them; return how many bytes.

    What was written is taken from the list.
    """
    total = 0
    try:
        while pieces:
            count = os.writev(fd, pieces[:PIECES])
            total += count
            whole = 0
            while whole < len(pieces) and count >= len(pieces[whole]):
                count -= len(pieces[whole])
                whole += 1
            del pieces[:whole]
            if count:
                pieces[0] = memoryview(pieces[0])[count:]
                break
    except BlockingIOError:
        pass
    return total


# From this size on, bytes go beside the pickle, not in it, so that nobody copies them.
LARGE = 1 << 16
# What they become.
BYTEARRAY, BYTES, TEXT = range(3)


class Room:
    """Takes in bytes that come in pieces; what there is, grows with them.

    ``code``: how many, times 4, and what they become; but for text, it is not copied.
    """

    def __init__(self, code):
        self.kind, self.left = code & 3, code >> 2
        self.made = BytesIO() if self.kind else bytearray()

    def add(self, data):
        """Take in as much of ``data`` as there is room for; return what is left of it."""
        piece = data[: self.left]
        self.left -= len(piece)
        if self.kind:
            self.made.write(piece)
        else:
            self.made += piece
        return data[len(piece) :]

    def take(self):
        """Return, once, what was taken in."""
        made, self.made = self.made, None
        if self.kind == TEXT:
            return made.getvalue().decode("utf-8", "surrogatepass")
        return made.getvalue() if self.kind else made
