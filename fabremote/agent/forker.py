"""Forks the workers, in a process of its own beside the supervisor.

A fork makes its parent copy each page that it next writes to. The forker
writes to few; in the supervisor those copies would fall between a call's
answer and its relay (measured: a quarter of a call's time).

Requests come over a socket: one byte, with the worker's ends of its five pipes
as ancillary data. Messages go back: `FORKED` with a pid or an error number, in
the order of the requests, and `ENDED` with a pid and its wait status. End of
file on either side ends the forker, and with it its children.

Modules that calls use again are compiled here, while there is nothing else to
do, for later workers to have them from birth (measured: 200 modules take each
call 150 ms). They come as `COMPILE`, a size and a blob after its digest;
`COMPILED` goes back once all are done. `FORGET` and a digest drops one. A large one
would hold up the forks meanwhile, and isn't compiled here. `EXTEND`, a size, and
a module of the agent's own have later workers born with that, too.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import marshal
import os
import select
import struct
import sys
import zlib

from . import bundle, processes, worker

MESSAGE = struct.Struct(">Bii")
FORKED = 1
FAILED = 2
ENDED = 3
COMPILED = 4

FORK = b"f"
COMPILE = b"c"
FORGET = b"g"
EXTEND = b"e"
# The most source whose code is kept, and of one module, in bytes.
KEPT = 1 << 24
LARGEST = 100000

# The workers that have not ended.
ALIVE = set()  # type: set[int]

_FDS = struct.Struct("5i")
_FLAGS = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)


def start(connection):
    """Fork the forker, which lets go of the connection; return our end of its socket."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    if os.fork() == 0:
        try:
            ours.close()
            for fd in connection:
                os.close(fd)
            run(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return ours


def ask(sock, fds):
    """Ask for a worker on these five descriptors."""
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _FDS.pack(*fds))]
    sock.sendmsg([FORK], ancillary)


def run(sock):
    """Fork a worker for each request until the supervisor is gone."""
    me = os.getpid()
    # What a killed worker leaves is reaped at once, whatever process 1 is here.
    processes.adopt()
    reading, writing = os.pipe()
    for fd in (reading, writing):
        os.set_blocking(fd, False)
    # A signal between two instructions would else wait for the next request.
    _signal.set_wakeup_fd(writing)
    _signal.signal(_signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    poll.register(reading, select.POLLIN)
    for number in (_signal.SIGTERM, _signal.SIGHUP, _signal.SIGINT):
        # Ours to end is the supervisor's decision.
        _signal.signal(number, _signal.SIG_IGN)
    waiting = []
    while True:
        ready = [fd for fd, _ in poll.poll(0 if waiting else None)]
        if waiting and not ready:
            compile_one(*waiting.pop())
            if not waiting:
                sock.send(MESSAGE.pack(COMPILED, 0, 0))
        if reading in ready:
            os.read(reading, 4096)
            tell_ends(sock)
        if sock.fileno() in ready and not serve_one(sock, me, (reading, writing), waiting):
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
    request, ancillary, _, _ = sock.recvmsg(1, _socket.CMSG_SPACE(_FDS.size), _FLAGS)
    if request == FORK:
        fork_one(sock, me, own, _FDS.unpack(ancillary[0][2]))
    elif request in (COMPILE, EXTEND):
        size = receive(sock, worker.LENGTH.size)
        blob = size and receive(sock, worker.LENGTH.unpack(size)[0])
        if not blob:
            return False
        if request == EXTEND:
            extend(blob)
        else:
            waiting.append((blob[: bundle.DIGEST], blob[bundle.DIGEST :]))
    elif request == FORGET:
        gone = receive(sock, bundle.DIGEST)
        waiting[:] = [each for each in waiting if each[0] != gone]
        bundle.CODES.pop(gone, None)
    return bool(request)


def extend(blob):
    """Have a module of the agent's here: its name, NUL, and its source or code, compressed."""
    name, _, source = blob.partition(b"\0")
    sys.modules[__package__].add(name.decode(), marshal.loads(zlib.decompress(source)))


def receive(sock, size):
    """Return so many bytes from the supervisor, or None at the end of file."""
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data), _socket.MSG_WAITALL)
        if not piece:
            return None
        data += piece
    return data


def compile_one(digest, blob):
    """Keep the code of a module; a worker finds out what is wrong with another."""
    name, text, file, _ = marshal.loads(blob)
    try:
        bundle.CODES[digest] = bundle.compiled(name, text, file)
    except Exception:
        pass


def fork_one(sock, me, own, fds):
    """Fork a worker on these descriptors."""
    try:
        pid = os.fork()
    except OSError as error:
        sock.send(MESSAGE.pack(FAILED, 0, error.errno or 0))
    else:
        if pid == 0:
            become_worker(me, sock, own, fds)
        ALIVE.add(pid)
        sock.send(MESSAGE.pack(FORKED, pid, 0))
    for fd in fds:
        os.close(fd)


def become_worker(forker, sock, own, fds):
    """In the child: let go of the forker's descriptors, take the pipes, and serve."""
    try:
        _signal.set_wakeup_fd(-1)
        processes.isolate(forker)
        sock.close()
        for fd in own:
            os.close(fd)
        payload, reply, stdin, stdout, stderr = fds
        for fd, target in ((stdin, 0), (stdout, 1), (stderr, 2)):
            os.dup2(fd, target)
            os.close(fd)
        for fd in (payload, reply):
            os.set_inheritable(fd, False)
        worker.serve(payload, reply)
    except BaseException as error:
        worker.complain(error)
    finally:
        os._exit(70)
