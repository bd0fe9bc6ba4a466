"""Forks the workers, in a process of its own beside the supervisor.

A fork makes its parent copy each page that it next writes to. The forker
writes to few; in the supervisor those copies would fall between a call's
answer and its relay (measured: a quarter of a call's time).

Requests come over a socket: one byte, which says whether a call waits, with the
worker's ends of its five pipes as ancillary data. Messages go back: `FORKED`
with a pid or an error number, in the order of the requests, and `ENDED` with a
pid and its wait status. End of file on either side ends the forker, and with it
its children.

Modules that calls use again are kept here, for later workers to have them from birth,
and compiled while there is nothing else to do (measured: 200 modules take each
call 150 ms). They come as `COMPILE`, a size and a blob after its digest;
`COMPILED` goes back once all are done. What isn't to be compiled comes as `KEEP`: a
large one would hold up the forks meanwhile. `FORGET` and a digest drops one. `EXTEND`,
a size, and a module of the agent's own have later workers born with that, too.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import gc
import marshal
import os
import select
import struct
import sys
import zlib

from . import bundle, loader, processes, worker

MESSAGE = struct.Struct(">Bii")
FORKED = 1
FAILED = 2
ENDED = 3
COMPILED = 4

FORK = b"f"
URGENT = b"u"
COMPILE = b"c"
KEEP = b"k"
FORGET = b"g"
EXTEND = b"e"

# The workers that have not ended.
ALIVE = set()  # type: set[int]

_FDS = struct.Struct("5i")
_ROOM = _socket.CMSG_SPACE(_FDS.size)
_FLAGS = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)


def start(connection):
    """Fork the forker, which lets go of the connection; return its pid and our end of a socket."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            for fd in connection:
                os.close(fd)
            run(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return pid, ours


def ask(sock, request, fds):
    """Ask for a worker on these five descriptors: `FORK`, or `URGENT` if its call waits."""
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _FDS.pack(*fds))]
    sock.sendmsg([request], ancillary)


def run(sock):
    """Fork a worker for each request until the supervisor is gone."""
    me = os.getpid()
    os.setsid()
    # What was looked up here isn't looked up again, and kept anew, in each worker.
    for _ in range(2):
        begin(os.getppid(), (), [os.dup(fd) for fd in (0, 1, 2)])
    processes.disown()
    gc.disable()
    reading, writing = os.pipe()
    for fd in (reading, writing):
        os.set_blocking(fd, False)
    # A signal between two instructions would else wait for the next request.
    _signal.set_wakeup_fd(writing)
    _signal.signal(_signal.SIGCHLD, lambda *_: None)
    own = sock.fileno(), reading, writing
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    poll.register(reading, select.POLLIN)
    for number in (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGINT):
        # Ours to end is the supervisor's decision.
        _signal.signal(number, _signal.SIG_IGN)
    waiting = []
    while True:
        ready = dict(poll.poll(0 if waiting else None))
        if waiting and not ready:
            loader.part("importing").prepare(waiting.pop())
            if not waiting:
                sock.send(MESSAGE.pack(COMPILED, 0, 0))
        if reading in ready:
            os.read(reading, 4096)
            tell_ends(sock)
        if sock.fileno() in ready and not serve_one(sock, me, own, waiting):
            # Whatever ended the supervisor: nothing outlives it.
            for pid in ALIVE:
                processes.kill_tree(pid)
            return


def tell_ends(sock):
    """Tell of the workers that have ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid in ALIVE:
            ALIVE.discard(pid)
            sock.send(MESSAGE.pack(ENDED, pid, status))


def serve_one(sock, me, own, waiting):
    """Serve one request; return False at the end of file."""
    request, ancillary, _, _ = sock.recvmsg(1, _ROOM, _FLAGS)
    if ancillary:
        fork_one(sock, me, own, request == FORK, _FDS.unpack(ancillary[0][2]))
    elif request in (COMPILE, KEEP, EXTEND):
        size = receive(sock, worker.LENGTH.size)
        blob = size and receive(sock, worker.LENGTH.unpack(size)[0])
        if not blob:
            return False
        if request == EXTEND:
            extend(blob)
        else:
            digest = blob[: bundle.DIGEST]
            loader.BLOBS[digest] = blob[bundle.DIGEST :]
            if request == COMPILE:
                waiting.append(digest)
    elif request == FORGET:
        loader.part("importing").forget(receive(sock, bundle.DIGEST), waiting)
    return bool(request)


def extend(blob):
    """Have a module of the agent's here: its name, NUL, and its source or code, compressed."""
    name, _, source = blob.partition(b"\0")
    sys.modules[__package__].add(name.decode(), marshal.loads(zlib.decompress(source)))
    worker.freeze()


def receive(sock, size):
    """Return so many bytes from the supervisor, or None at the end of file."""
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data), _socket.MSG_WAITALL)
        if not piece:
            return None
        data += piece
    return data


def fork_one(sock, me, own, spare, fds):
    """Fork a worker on these descriptors."""
    try:
        pid = os.fork()
    except OSError as error:
        sock.send(MESSAGE.pack(FAILED, 0, error.errno or 0))
    else:
        if pid == 0:
            become_worker(me, own, spare, *fds)
        ALIVE.add(pid)
        sock.send(MESSAGE.pack(FORKED, pid, 0))
    for fd in fds:
        os.close(fd)


def become_worker(forker, unwanted, spare, payload, reply, *streams):
    """In the child: let go of the forker's descriptors, take the pipes, and serve."""
    try:
        os.setsid()
        begin(forker, unwanted, streams)
        for fd in () if _FLAGS else (payload, reply):
            os.set_inheritable(fd, False)
        if spare:
            worker.rehearse()
        worker.serve(payload, reply)
    except BaseException as error:
        worker.complain(error)
    finally:
        os._exit(70)


def begin(forker, unwanted, streams):
    """Become a worker's process; the forker does it too, first, in vain."""
    _signal.set_wakeup_fd(-1)
    processes.isolate(forker)
    gc.enable()
    for fd in unwanted:
        os.close(fd)
    for target, fd in enumerate(streams):
        os.dup2(fd, target)
        os.close(fd)
