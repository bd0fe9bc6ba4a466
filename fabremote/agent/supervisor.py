"""The agent's lasting process: has a worker forked per call, relays, kills.

It runs no code of the caller's. Everything waits in one poll: the connection's
stdin and stdout, each worker's pipes, and the forker's socket. End of file on
stdin means that the caller is gone; then all that was started is killed.
"""

import _signal  # type: ignore[import-not-found]
import os
import select
import time

from . import forker, loader, processes, wire, worker
from .workers import BACKLOG, DOZE, Worker, widen

# Above this many bytes waiting for workers' pipes, the connection rests.
PENDING = 64 * wire.MAX_DATA
# Read at once, in bytes: below what malloc() would map and unmap each time.
READ = 120000
# Workers that wait for calls: making one takes longer than a small call.
SPARES = 2
# How long dying processes are looked at between signals, in seconds.
TICK = 0.01
ORPHANED = RuntimeError("the process that forks the workers has ended")


class Supervisor:
    """One agent: the connection's two descriptors and the calls running now."""

    def __init__(self, stdin, stdout):
        self.stdin, self.stdout = stdin, stdout
        self.poll = select.poll()
        self.handlers = {}
        self.decoder = wire.Decoder()
        self.outgoing = []
        self.backlog = 0
        self.resting = False
        self.calls = {}
        # What the caller says to keep: digest -> pieces. It counts how much that is.
        self.blobs = {}
        # See `importing`, which is there before the first call that has modules.
        self.compiling = None
        self.spares, self.dying, self.dozing, self.workers = [], [], [], {}
        # Whether a spare worker is wanted: not while the system refuses to fork.
        self.hungry = True
        self.closing = False
        # Seconds between ticks, the next's time; how many there were, and of silence.
        self.pace = self.due = self.ticks = self.silent = self.behind = 0
        self.terminated = False
        self.pid = os.getpid()
        for fd in (stdin, stdout):
            os.set_blocking(fd, False)
            widen(fd)
        self.forker = self.forker_pid = None
        # Asked for and not yet confirmed, in order; what of it was heard; what ended before.
        self.unborn, self.heard, self.early = [], b"", {}
        for number in (_signal.SIGTERM, _signal.SIGHUP):
            _signal.signal(number, self.terminate)
        self.watch(stdin, self.on_stdin)

    def watch(self, fd, handler, events=select.POLLIN):
        self.handlers[fd] = handler
        self.poll.register(fd, events)

    def unwatch(self, fd):
        if self.handlers.pop(fd, None) is not None:
            self.poll.unregister(fd)

    def run(self):
        """Serve calls until the caller is gone and nothing is left of them."""
        self.forker_pid, self.forker = forker.start((self.stdin, self.stdout))
        self.forker.setblocking(False)
        self.watch(self.forker.fileno(), self.on_forker)
        while not (self.closing and not self.dying and not self.workers):
            # With nothing else to do: what comes first may have them made anew.
            lacking = self.hungry and len(self.spares) < SPARES and not self.closing
            ready = self.poll.poll(0 if lacking else self.patience())
            if lacking and not ready:
                self.stock()
            for fd, _ in ready:
                handler = self.handlers.get(fd)
                # Told to end, it begins nothing more, which then goes to another.
                if handler is not None and not (self.terminated and fd == self.stdin):
                    handler()
            if self.terminated and not self.closing:
                raise RuntimeError("a signal ended it")
            if self.dozing:
                self.wake()
            if self.dying:
                self.finish_dying()
            if self.pace:
                self.tick()
            if self.outgoing:
                self.flush()

    def patience(self):
        """Return how many milliseconds poll may wait, or None for as long as it takes."""
        if self.dozing:
            return DOZE * 1000
        rest = max(0, self.due - time.monotonic()) * 1000 if self.pace else None
        return TICK * 1000 if self.dying else rest

    def tick(self):
        """Give a sign of life now and then; end once the caller gives none.

        Ticks are counted, not time: while we stood still, nothing could be heard.
        """
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + self.pace
        if self.unborn:
            self.rouse()
        self.ticks += 1
        if self.ticks % wire.BEAT == 0:
            self.send(wire.PING, 0)
        self.silent = 0 if self.behind else self.silent + 1  # Behind, we don't listen.
        if self.silent > wire.SILENCE:
            self.send(wire.CRASH, 0, b"nothing heard from the caller")
            self.close()

    def wake(self):
        """Watch again the outputs that were left to fill up for a moment."""
        dozing, self.dozing = self.dozing, []
        for call in dozing:
            call.doze_ends()

    def terminate(self, number, frame):
        self.terminated = True

    def send(self, kind, call, data=b""):
        """Queue one frame; what one round of the loop queues is written at once."""
        self.outgoing += wire.HEADER.pack(kind, call, len(data)), data
        self.backlog += wire.HEADER.size + len(data)

    def flush(self):
        """Write what is queued, as far as the connection takes it."""
        try:
            self.backlog -= wire.write(self.stdout, self.outgoing)
        except OSError:
            # The caller is gone; stdin's end of file is what ends us.
            self.outgoing, self.backlog = [], 0
        if self.outgoing and self.stdout not in self.handlers:
            self.watch(self.stdout, self.flush, select.POLLOUT)
        elif not self.outgoing:
            self.unwatch(self.stdout)
        if self.resting and self.backlog < BACKLOG:
            self.resting = False
            for call in self.calls.values():
                call.listen()

    # From the caller

    def on_stdin(self):
        try:
            data = os.read(self.stdin, READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.silent = 0
        for kind, number, piece in self.decoder.feed(data):
            if kind == wire.OPEN:
                self.open(number, bytes(piece))
            elif number in self.calls:
                self.calls[number].take(kind, piece)
            elif kind == wire.STORE:
                digest = bytes(piece[: wire.DIGEST])
                self.blobs.setdefault(digest, []).append(bytes(piece[wire.DIGEST :]))
            elif kind == wire.DROP:
                for digest in wire.digests(piece):
                    del self.blobs[digest]
                    if self.compiling:
                        self.compiling.drop(digest)
            elif kind == wire.PING:
                self.pace = wire.NUMBER.unpack(piece)[0] / 1000
            elif kind == wire.EXTEND:
                piece = bytes(piece)
                if piece.startswith((b"importing", b"terminal", b"turns")):
                    # Which work here, too.
                    forker.extend(piece)
                self.tell(forker.EXTEND + worker.LENGTH.pack(len(piece)) + piece)
                # The forker hears of it before it is asked for the next worker.
                self.renew()
        self.rest_stdin()

    def rest_stdin(self):
        """Stop reading the connection while workers are behind, and start again."""
        self.behind = any(call.pending() > PENDING for call in self.calls.values())
        if not self.closing:
            # Resting, it still shows its end.
            self.watch(self.stdin, self.on_stdin, 0 if self.behind else select.POLLIN)

    def open(self, number, data):
        flags, named = data[0], data[1:]
        process = None
        if flags & wire.INSIDE:
            process = self.calls.get(wire.PROCESS.unpack_from(named)[0])
            named = named[wire.PROCESS.size :]
        blobs = self.needed(flags, named) if named else ()
        if flags & wire.INSIDE:
            loader.part("turns").Turn(self, process, number, flags, blobs)
            return
        try:
            call = self.spares.pop(0) if self.spares else self.fork()
        except OSError as error:
            self.refuse(number, error)
            return
        self.hungry = True
        self.calls[number] = call
        if flags & wire.HAS_PTY:
            blobs = list(blobs) + [loader.part("terminal").lend(call)]
        call.begin(number, flags, blobs)

    def needed(self, flags, named):
        """Return the (digest, pieces) of the blobs that OPEN names."""
        found = wire.digests(named)
        if flags & wire.HAS_LIST:
            listed = wire.digests(b"".join(self.blobs[found[0]]))
            self.compiling = self.compiling or loader.part("importing").Compiling(self)
            self.compiling.use(found[0], listed)
            found += listed
        return [(digest, self.blobs[digest]) for digest in found]

    def refuse(self, number, error):
        """Say that a call has no process to run in."""
        self.send(wire.STDERR, number, ("no process to run in: %s\n" % error).encode())
        self.send(wire.DONE, number, wire.pack_status(False, False, 71 << 8))

    def close(self):
        """The caller is gone: kill all that runs for it."""
        self.closing = True
        self.pace = 0
        self.unwatch(self.stdin)
        self.rouse()
        for call in list(self.calls.values()):
            call.cancel()
        for spare in self.spares:
            spare.close()

    # Workers

    def rouse(self):
        """Have the forker go on if a call has stopped it: it tells that workers have ended."""
        os.kill(self.forker_pid, _signal.SIGCONT)

    def fork(self, request=forker.URGENT):
        """Have a worker forked that waits for its call, or whose call waits."""
        pipes = []
        try:
            for _ in range(5):
                pipes.append(os.pipe())
            payload, reply, stdin, stdout, stderr = pipes
            theirs = payload[0], reply[1], stdin[0], stdout[1], stderr[1]
            self.push(forker.ask, self.forker, request, theirs)
        except OSError:
            for fd in [fd for pair in pipes for fd in pair]:
                os.close(fd)
            raise
        for fd in theirs:
            os.close(fd)
        made = Worker(self, payload[1], reply[0], stdin[1], {stdout[0]: 1, stderr[0]: 2})
        self.unborn.append(made)
        return made

    def tell(self, data):
        """Send the forker bytes."""
        view = memoryview(data)
        while view:
            view = view[self.push(self.forker.send, view) :]

    def push(self, send, *args):
        """Send to the forker; while its socket is full, hear what it says, or both would wait."""
        while True:
            try:
                return send(*args)
            except BlockingIOError:
                waiting = select.poll()
                waiting.register(self.forker.fileno(), select.POLLIN | select.POLLOUT)
                waiting.poll()
                self.on_forker()
            except ConnectionError:
                raise ORPHANED

    def stock(self):
        """Have the next calls' workers forked ahead of need; without one, a call asks."""
        try:
            while self.hungry and len(self.spares) < SPARES:
                made = self.fork(forker.FORK)
                # Not before: as it waits for the forker, the spares may be renewed.
                self.spares.append(made)
        except OSError:
            self.hungry = False

    def on_forker(self):
        try:
            data = self.heard + self.forker.recv(100 * forker.MESSAGE.size)
        except BlockingIOError:
            return
        except ConnectionError:
            data = self.heard
        if data == self.heard:
            raise ORPHANED
        whole = len(data) - len(data) % forker.MESSAGE.size
        data, self.heard = data[:whole], data[whole:]
        for kind, pid, number in forker.MESSAGE.iter_unpack(data):
            if kind == forker.ENDED:
                self.ended(pid, number)
            elif kind == forker.FORKED:
                made = self.unborn.pop(0)
                self.workers[pid] = made
                made.born(pid)
                if pid in self.early:
                    self.ended(pid, self.early.pop(pid))
            elif kind == forker.COMPILED:
                self.renew()
            else:
                self.stillborn(self.unborn.pop(0), OSError(number, os.strerror(number)))

    def renew(self):
        """Let the spare workers go, for others that have the modules compiled."""
        for spare in self.spares:
            spare.close()
        self.spares = []

    def stillborn(self, made, error):
        """No process could be forked for a worker; its call, if it has one, can't run."""
        made.close()
        if made in self.spares:
            self.spares.remove(made)
            self.hungry = False
        elif made.number in self.calls:
            for number in made.numbers():
                self.calls.pop(number, None)
                self.refuse(number, error)
            self.rest_stdin()

    def ended(self, pid, status):
        """A worker's process has ended."""
        made = self.workers.pop(pid, None)
        if made is None:
            self.early[pid] = status
        elif made in self.spares:
            # Whatever ends it would end the next one too; a call asks again.
            made.close()
            self.spares.remove(made)
            self.hungry = False
        else:
            made.ended(status)

    def crash(self, error):
        """Say why all ends, and of each call that it does."""
        for pid in self.workers:
            processes.kill_tree(pid)
        for group in self.dying:
            group.signal(_signal.SIGKILL)
        if self.forker_pid:
            self.rouse()
        text = "%s: %s" % (type(error).__name__, error)
        self.send(wire.CRASH, 0, text.encode("utf-8", "replace")[: wire.MAX_DATA])
        for number, call in self.calls.items():
            self.send(wire.DONE, number, wire.pack_status(False, True, 0, call.fate()))
        self.send(wire.CRASH, 0)
        _signal.alarm(2)  # Nobody may be there to read it.
        os.set_blocking(self.stdout, True)
        self.flush()

    def finish_dying(self):
        self.dying = [group for group in self.dying if not group.gone()]


def main(stdin, stdout):
    """Serve the connection on two descriptors until it ends, then exit."""
    supervisor = Supervisor(stdin, stdout)
    try:
        worker.settle()
        worker.freeze()
        supervisor.run()
    except BaseException as error:
        if os.getpid() == supervisor.pid:
            supervisor.crash(error)
        os._exit(1)
    os._exit(0)
