"""What a worker and its caller say to each other beside the call: blobs, and requests.

A worker has *blobs*, constant parts of payloads named by their digests. The one
that the payload's header names lists others: the first of them holds the
top-level names of the caller's own modules, each other one module; `importing`
makes them importable. What is imported below one of those names and wasn't sent
is asked for, as are the packages' data files: the request goes out on the
reply's pipe, the result comes in on the payload's, and the importing thread
waits. So do log records, see `records`, which the supervisor answers.

A forked child has no part in that: both would read the same pipe.
"""

import _thread
import marshal
import os
import struct
import sys

from . import loader, wire

TOTAL = struct.Struct(">Q")
# In the total of a message: to a worker, of blobs; from it, of a request, and if that is
# a record; of a stream's.
BLOBBED = ASKING = 1 << 63
STREAMED = 1 << 62
RECORD = 1 << 61
# To a lasting process: nothing more comes of the streams of the call that has ended.
LAST = b"\xff" * 5
DIGEST = 16
# The most bytes of a request.
REQUEST = 4096
# The request for the next part of an answer.
MORE = b"more"
# What is read at once of a message, in bytes; most calls are smaller.
FIRST = 16384
# The most that is read at once, in bytes.
READ = 1 << 18

MODULE, PACKAGE, NAMESPACE, MIXED = range(4)

# Modules whose source came from the caller: name -> (text, file, kind).
BUNDLE = {}  # type: dict[str, tuple[str, str, int]]
# Those that could not be loaded.
FAILED = []  # type: list[str]
# The code that the forker compiled ahead, by digest.
CODES = {}  # type: dict[bytes, object]
# The pipes and the process that may use them; None while nothing can be asked.
CHANNEL = None  # type: tuple[int, int, int] | None
_TURN = _thread.allocate_lock()
_WRITING = _thread.allocate_lock()


# Messages


def receive(fd, ahead=b""):
    """Return (total, body, what was read beyond) of a message, or None if there is none."""
    data = ahead
    while len(data) < TOTAL.size:
        piece = os.read(fd, FIRST)
        if not piece:
            return None
        data += piece
    total = TOTAL.unpack_from(data)[0]
    size = total & (STREAMED - 1)
    # Arrays that are read from it must be writable.
    if len(data) == TOTAL.size + size:
        return total, bytearray(data[TOTAL.size :]), b""
    room = wire.Room(size << 2)
    ahead = fill(room, fd, data[TOTAL.size :])
    return None if ahead is None else (total, room.take(), ahead)


def fill(room, fd, ahead):
    """Fill a `wire.Room`; return what was read beyond, or None if there is too little.

    ``ahead``: what has been read already.
    """
    ahead = room.add(ahead)
    while room.left:
        piece = os.read(fd, min(room.left, READ))
        if not piece:
            return None
        room.add(piece)
    return ahead


def blob_message(blobs):
    """Return the pieces of a message to a worker with these (digest, pieces)."""
    pieces = [b""]
    for digest, data in blobs:
        pieces.append(digest + TOTAL.pack(sum(map(len, data))))
        pieces += data
    pieces[0] = TOTAL.pack(BLOBBED | sum(map(len, pieces)))
    return pieces


def read_blobs(body):
    """Keep the blobs of a message: digest, 8 bytes of size and the bytes of each."""
    at = 0
    while at < len(body):
        start = at + DIGEST + TOTAL.size
        at_end = start + TOTAL.unpack_from(body, at + DIGEST)[0]
        loader.BLOBS[bytes(body[at : at + DIGEST])] = bytes(body[start:at_end])
        at = at_end


# Requests


# What takes in the caller's answers; `streaming` puts its own there.
RECEIVE = [receive]


def connect(payload_fd, reply_fd):
    """From now on this process may ask."""
    global CHANNEL
    CHANNEL = payload_fd, reply_fd, os.getpid()


def disconnect():
    """Ask nothing more: the answer follows."""
    global CHANNEL
    with _WRITING:
        CHANNEL = None


def ask(*words):
    """Return what the caller says to a request, or None where none can be made."""
    request = "\0".join(words).encode("utf-8", "surrogateescape")
    parts = send(request) if len(request) <= REQUEST else None
    return marshal.loads(b"".join(parts)) if parts else None


def send(request, flags=ASKING):
    """Return the parts of what is said to a request, or None where none can be made."""
    if CHANNEL is None or CHANNEL[2] != os.getpid():
        return None
    parts, given_up, done = [], [], _thread.allocate_lock()
    done.acquire()
    work = exchange, (request, flags, parts, given_up, done)
    try:
        _thread.start_new_thread(*work)
    except RuntimeError:
        exchange(*work[1])
    try:
        done.acquire()
    except BaseException:
        given_up.append(True)
        raise
    return parts


def exchange(request, flags, parts, given_up, done):
    """Make a request and gather its answer.

    In a thread of its own: what a signal handler raises must not end it halfway,
    or the next request would get the rest of this one's answer.
    """
    try:
        with _TURN:
            left = 1
            while left and not given_up:
                with _WRITING:
                    if CHANNEL is None:
                        break
                    payload_fd, reply_fd, _ = CHANNEL
                    data = TOTAL.pack(flags | len(request)) + request
                    while data:
                        data = data[os.write(reply_fd, data) :]
                received = RECEIVE[0](payload_fd)
                if received is None:
                    break
                left = TOTAL.unpack_from(received[1])[0]
                parts.append(received[1][TOTAL.size :])
                request = MORE
            if left:
                del parts[:]
    finally:
        done.release()


def fetch(name):
    """Have a module of the agent's own sent, and add it."""
    sys.modules[__package__].add(name, ask("agent", name))


loader.FETCH.append(fetch)


# Modules


def compiled(name, text, file):
    """Return a module's code."""
    return compile(text, file or "<%s>" % name, "exec", 0, True)
