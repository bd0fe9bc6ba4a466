"""Frames on the agent's stdin and stdout, the same at both ends.

A frame is a kind (1 byte), a call's number (4 bytes), a length (4 bytes), all
big-endian, and that many bytes. Call 0 is the connection itself. Frames carry
at most MAX_DATA bytes; what is larger travels as several.
"""

import struct

HEADER = struct.Struct(">BII")
MAX_DATA = 65536

# The most bytes of stdout and stderr that a call may have on the way to a
# local side that has not yet consumed them; stdin the other way alike.
WINDOW = 1 << 20

# From the caller to the agent.
OPEN = 1  # a call begins; data: flags (1 byte), and the digests of the blobs that it needs
DATA = 2  # a piece of its payload
STDIN = 3  # a piece of its standard input; empty: end of file
CREDIT = 4  # this many bytes of its output were consumed (8 bytes)
CANCEL = 5  # kill it and all it started
STORE = 6  # call 0: a piece of a blob to keep; data: its digest, and the piece
DROP = 7  # call 0: the digests of blobs that no later call needs
EXTEND = 8  # call 0: a module of the agent's; data: its name, NUL, and its source, compressed
RESIZE = 12  # its terminal has so many rows and columns (2 bytes each)

# From the agent to the caller.
STDOUT = 16
STDERR = 17
REPLY = 18  # a piece of its answer
TAKEN = 19  # this many bytes of its standard input were written (8 bytes)
DONE = 20  # the last frame of a call; data: how it ended, see pack_status
CRASH = 21  # call 0: the supervisor itself failed; data: text
ASK = 22  # the function needs a module or a data file; answered by DATA
RECORD = 23  # the function has logged; data: see `records`

# Flags of OPEN: its stdin stays open; its first blob lists others, which it needs, too; it
# has a terminal.
HAS_STDIN = 1
HAS_LIST = 2
HAS_PTY = 32
DIGEST = 16

NUMBER = struct.Struct(">Q")
STATUS = struct.Struct(">BBB")


def frame(kind, call, data=b""):
    """Return the bytes of one frame."""
    return HEADER.pack(kind, call, len(data)) + data


def pack_status(answered, cancelled, waitstatus):
    """Return DONE's data: was there an answer, a cancel, and how the worker exited."""
    signal = waitstatus & 0x7F
    return STATUS.pack((1 if answered else 0) | (2 if cancelled else 0), signal, waitstatus >> 8)


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

    def feed(self, data):
        """Take bytes in; return a list of the (kind, call, data) now complete.

        The data are views of the bytes taken in, not copies.
        """
        buffer = memoryview(self._rest + data if self._rest else data)
        frames = []
        start = 0
        size = len(buffer)
        while size - start >= HEADER.size:
            kind, call, length = HEADER.unpack_from(buffer, start)
            if length > MAX_DATA:
                raise ProtocolError("a frame of %d bytes; the limit is %d" % (length, MAX_DATA))
            end = start + HEADER.size + length
            if end > size:
                break
            frames.append((kind, call, buffer[start + HEADER.size : end]))
            start = end
        self._rest = bytes(buffer[start:])
        return frames
