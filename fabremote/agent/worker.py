"""One call in its own process: read the payload, run it, answer, end.

The worker is forked ahead of its call and waits for the payload on a pipe:
8 bytes of length, 4 bytes of header length, the header (marshal: a dict, see
``fabremote.shipping.payload``) and the pickle; then the buffers that it refers to. Blobs
that it needs come before it, and answers to requests after it, see `bundle`. The answer
goes out on another pipe as 8 bytes of total length, one letter, and the rest:

``V`` the value's pickle; ``E`` raised: the records of `raising`, pickled; ``L``
the same, from loading the payload; ``M`` likewise, where modules of the caller's
failed: 2 bytes of size and their names, NUL between them, go before; ``R`` the
result was refused: (why, type, path, whether ``trust=`` could allow it).
``B`` goes before a letter whose pickle has buffers, which end the answer: their
number (4 bytes) and what `wire.Room` takes of each (8 bytes).
"""

import atexit
import gc
import io
import marshal
import os
import struct
import sys
from _pickle import dumps

from . import answers, bundle, loader, processes, raising, wire

TOTAL = bundle.TOTAL
LENGTH = struct.Struct(">I")
FFLUSH = processes.c_function("fflush")
# What a child that the function forked exits with, if it came back by an exception.
STATUS = 0


def payload(header, data):
    """Return the bytes of a payload without their total length, as the caller makes them."""
    front = marshal.dumps(header, 2)
    return LENGTH.pack(len(front)) + front + data


REHEARSAL = payload(
    {"env": {}, "cwd": None, "encoding": "utf-8", "beside": ()}, dumps((len, ("",), {}, ()), 4)
)
REHEARSAL = TOTAL.pack(len(REHEARSAL)) + REHEARSAL
# What is there as it is called is never collected, so that workers share its pages.
freeze = getattr(gc, "freeze", gc.isenabled)
# From so many runs on Python adapts code no further; what workers don't adapt they share.
WARM = 24


def serve(payload_fd, reply_fd):
    """Run the call that arrives on ``payload_fd``; never returns."""
    me = os.getpid()
    received = read_payload(payload_fd)
    if received is None:
        os._exit(0)
    if "lasting" in received[0]:
        loader.part("lasting").serve(payload_fd, reply_fd, received)
    bundle.connect(payload_fd, reply_fd)
    pieces = respond(received)
    if os.getpid() != me:
        # The function forked and both sides came back; one answer is enough.
        flush()
        os._exit(0 if pieces[0][:1] in b"BV" else STATUS)
    end()
    bundle.disconnect()
    if os.getpid() == me:
        write_all(reply_fd, pieces)
    os._exit(0)


def rehearse():
    """Run what every call runs, while there is no call yet.

    A forked process copies each page at its first write to it, which makes up
    most of what a small call costs; here nobody waits for it.
    """
    received = read_payload(-1, REHEARSAL)
    bundle.connect(-1, -1)
    respond(received)
    flush()
    bundle.disconnect()


def settle():
    """Make in the supervisor, once, what each worker starts with.

    Descriptors 0 to 2 are pipes meanwhile, as they will be in the worker: a file
    object asks what it stands on, and remembers.
    """
    reading, writing = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    for fd, target in ((reading, 0), (writing, 1), (writing, 2)):
        os.dup2(fd, target)
    open_streams("utf-8")
    for _ in range(WARM):
        rehearse()
    for target in (0, 1, 2):
        os.dup2(null, target)
    for fd in (reading, writing, null):
        os.close(fd)
    sys.modules["__main__"] = loader.Module("__main__")
    sys.argv[:] = [""]


def read_payload(fd, ahead=b""):
    """Return [header, pickle, rooms of buffers] read from ``fd``, or None if it ends first."""
    received = bundle.receive(fd, ahead)
    while received is not None and received[0] & bundle.STREAMED and received[0] < bundle.BLOBBED:
        # Of a stream that has ended before.
        received = bundle.receive(fd, received[2])
    while received is not None and received[0] & bundle.BLOBBED:
        bundle.read_blobs(received[1])
        received = bundle.receive(fd, received[2])
    if received is None:
        return None
    _, body, ahead = received
    header, data = parse(body)
    rooms = [wire.Room(code) for code in header["beside"]]
    for room in rooms:
        ahead = bundle.fill(room, fd, ahead)
        if ahead is None:
            return None
    return [header, data, rooms]


def parse(body):
    """Return (header, pickle) of a payload."""
    view = memoryview(body)
    start = LENGTH.size + LENGTH.unpack_from(body)[0]
    return marshal.loads(bytes(view[LENGTH.size : start])), view[start:]


def write_all(fd, pieces, flag=0):
    """Write the answer, or another message: its total length, then its pieces."""
    size = sum(map(len, pieces))
    pieces = [TOTAL.pack(flag | size)] + pieces
    if size <= 65536:
        pieces = [b"".join(pieces)]
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[os.write(fd, view) :]


def respond(received):
    """Run the call that `read_payload` returned; return the answer's pieces."""
    header, data, rooms = received
    # What was sent lives as long as the function keeps it.
    del received[:]
    try:
        prepare(header)
    except BaseException as error:
        return failed(b"E", error, answers.Encoder())
    try:
        if "bundle" in header:
            loader.part("importing").install(header["bundle"])
        fn, args, kwargs, trust = loader.load(data, [room.take for room in rooms])
        del data
    except BaseException as error:
        error.__notes__ = list(getattr(error, "__notes__", ())) + loader.libraries()
        pieces = failed(b"L", error, answers.Encoder())
        if not bundle.FAILED:
            return pieces
        names = "\0".join(bundle.FAILED).encode()[:65535]
        return [b"M", struct.pack(">H", len(names)), names] + pieces[1:]
    limit = sys.getrecursionlimit()
    try:
        value = finished(fn(*args, **kwargs))
        del args, kwargs
        if is_stream(value):
            return loader.part("streaming").respond(value, answers.Encoder(trust))
    except BaseException as error:
        # Before anything is called: it may be so low that nothing can be.
        sys.setrecursionlimit(limit)
        return failed(b"E", error, answers.Encoder(trust))
    if sys.getrecursionlimit() < limit:
        sys.setrecursionlimit(limit)
    kind = type(value)
    # By identity: a metaclass has its own idea of what is equal.
    if kind is str or kind is bytes:
        plain = len(value) < wire.LARGE
    else:
        plain = value is None or kind is int or kind is float or kind is bool
    if plain:
        return [b"V", dumps(value, 4)]
    return succeeded(value, answers.Encoder(trust), [])


def succeeded(value, encoder, beside=None):
    """Return the pieces of an answer that is a value, or says that it can't be sent.

    ``beside``: a list, if what is large may go beside the pickle.
    """
    try:
        return encoder.encode(value, beside).message(b"V")
    except answers.Refused as refusal:
        return [b"R", dumps(describe_refusal(refusal, encoder), 4)]
    except BaseException as error:
        # The object's own __reduce__ or properties raised while it was encoded.
        why = "raised %s: %s as it was encoded" % (type(error).__name__, raising.text_of(error))
        return [b"R", dumps((why, raising.name_of(type(value)), "", False), 4)]


def describe_refusal(refusal, encoder):
    """Return (why, type name, path, could trust= allow it) of a `Refused`."""
    why, culprit, path = refusal.args
    return why, raising.name_of(type(culprit)), path or "", encoder.could_be_trusted(culprit)


def prepare(header):
    """Put the process into the state that the call's options ask for."""
    env = header["env"]
    if env:
        # As bytes: a Python 3.6 in the C locale takes only ASCII otherwise.
        os.environb.update({encoded(key): encoded(value) for key, value in env.items()})
        if "TZ" in env and hasattr(__import__("time"), "tzset"):
            __import__("time").tzset()
        if "PYTHONPATH" in env:
            sys.path[:0] = [entry for entry in env["PYTHONPATH"].split(os.pathsep) if entry]
    if header["cwd"]:
        enter(os.path.expanduser(encoded(header["cwd"])))
    if header["encoding"] != sys.stdout.encoding:
        open_streams(header["encoding"])
    for name, given in header.get("parts", ()):
        loader.part(name).install(given)


def enter(folder):
    """Make a folder, given as bytes, the working directory."""
    try:
        os.chdir(folder)
    except OSError as error:
        name = folder.decode("utf-8", "surrogateescape")
        # By its number, Python picks FileNotFoundError and its kin.
        raise OSError(error.errno, error.strerror + ", the call's cwd", name) from None


def encoded(text):
    """Return text as the operating system's bytes, whatever the locale is."""
    return text.encode("utf-8", "surrogateescape")


def open_streams(encoding):
    """Put text files over descriptors 0 to 2, live and in the caller's encoding."""
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "rb", False)), encoding)
    for fd, name, errors in ((1, "stdout", "surrogateescape"), (2, "stderr", "backslashreplace")):
        raw = io.BufferedWriter(io.FileIO(fd, "wb", False))
        stream = io.TextIOWrapper(raw, encoding, errors, "\n", True)
        stream.mode = "w"
        setattr(sys, name, stream)
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, "__%s__" % name, getattr(sys, name))


# The attribute in which an exception of a method brings the instance back.
CARRIED = "_fabremote_instance"


def carry(*args, **kwargs):
    """Call a method, ``args[0]``; return (value, instance), for the caller to take its state."""
    fn, instance = args[:2]
    try:
        value = finished(fn(*args[1:], **kwargs))
    except BaseException as error:
        vars(error)[CARRIED] = instance
        raise
    return value, instance


def each(calls):
    """Return the values of several calls in their order: of (function, args, kwargs)."""
    return [finished(fn(*args, **kwargs)) for fn, args, kwargs in calls]


def is_stream(value):
    """Return whether ``value`` goes item by item: a generator, or what map() and its like make."""
    cls = type(value)
    known = cls.__module__ in ("builtins", "itertools") and hasattr(cls, "__next__")
    return known or (cls.__name__ == "async_generator" and hasattr(value, "ag_frame"))


def finished(value):
    """Return a value, or if it is what an async function returns when called, its result."""
    if type(value).__name__ != "coroutine" or not hasattr(value, "cr_frame"):
        return value
    return run_coroutine(value)


def run_coroutine(coroutine):
    """Run a coroutine to its end and return its value."""
    import asyncio

    if hasattr(asyncio, "run"):
        return asyncio.run(coroutine)
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


def failed(letter, error, encoder):
    """Return the pieces of an answer that says what was raised."""
    global STATUS
    code = error.code if isinstance(error, SystemExit) else 1
    STATUS = code if isinstance(code, int) else 0 if code is None else 1
    return [letter, dumps(raising.raised(error, encoder), 4)]


def end():
    """End as a process does: join threads, run exit handlers, flush what was printed."""
    threading = sys.modules.get("threading")
    for finish in (getattr(threading, "_shutdown", None), atexit._run_exitfuncs):
        try:
            if finish is not None:
                finish()
        except BaseException as error:
            complain(error)
    flush()


def complain(error):
    """Print an error that nobody can catch any more."""
    try:
        sys.stderr.write("%s: %s\n" % (raising.name_of(type(error)), raising.text_of(error)))
    except Exception:
        pass


def flush():
    """Flush Python's and C's buffers of what was printed."""
    for stream in {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}:
        try:
            stream.flush()
        except Exception:
            pass
    FFLUSH(None)
