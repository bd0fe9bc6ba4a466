"""The agent's lasting process: has a worker forked per call, relays, kills.

It runs no code of the caller's. Everything waits in one poll: the connection's
stdin and stdout, each worker's pipes, and the forker's socket. End of file on
stdin means that the caller is gone; then all that was started is killed.
"""

import _signal  # type: ignore[import-not-found]
import gc
import os
import select

from . import forker, loader, processes, wire, worker
from .workers import BACKLOG, DOZE, Worker

# Above this many bytes waiting for workers' pipes, the connection rests.
PENDING = 64 * wire.MAX_DATA
# Read at once, in bytes: below what malloc() would map and unmap each time.
READ = 120000
# Workers that wait for calls: making one takes longer than a small call.
SPARES = 2
# How long dying processes are looked at between signals, in seconds.
TICK = 0.01


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
        # How many calls there were for each list of modules.
        self.uses = {}
        # The modules that the forker was given to compile: digest -> size; and its room.
        self.told = {}
        self.room = forker.KEPT
        self.spares = []
        self.dying = []
        self.dozing = []
        self.workers = {}
        # Whether a spare worker is wanted: not while the system refuses to fork.
        self.hungry = True
        self.closing = False
        self.terminated = False
        self.pid = os.getpid()
        os.set_blocking(stdin, False)
        os.set_blocking(stdout, False)
        self.forker = forker.start((stdin, stdout))
        # Asked for and not yet confirmed, in order; and what ended before it was.
        self.unborn = []
        self.heard = b""
        self.forker.setblocking(False)
        self.early = {}
        for number in (_signal.SIGTERM, _signal.SIGHUP):
            _signal.signal(number, self.terminate)
        self.watch(stdin, self.on_stdin)
        self.watch(self.forker.fileno(), self.on_forker)

    # The poll loop

    def watch(self, fd, handler, events=select.POLLIN):
        self.handlers[fd] = handler
        self.poll.register(fd, events)

    def unwatch(self, fd):
        if self.handlers.pop(fd, None) is not None:
            self.poll.unregister(fd)

    def run(self):
        """Serve calls until the caller is gone and nothing is left of them."""
        self.stock()
        while not (self.closing and not self.dying and not self.workers):
            for fd, _ in self.poll.poll(self.patience()):
                handler = self.handlers.get(fd)
                if handler is not None:
                    handler()
            if self.dozing:
                self.wake()
            if self.terminated and not self.closing:
                self.close()
            if self.dying:
                self.finish_dying()
            if self.outgoing:
                self.flush()
            if len(self.spares) < SPARES and not self.closing:
                self.stock()

    def patience(self):
        """Return how many milliseconds poll may wait, or None for as long as it takes."""
        if self.dozing:
            return DOZE * 1000
        return TICK * 1000 if self.dying else None

    def wake(self):
        """Watch again the outputs that were left to fill up for a moment."""
        dozing, self.dozing = self.dozing, []
        for call in dozing:
            call.doze_ends()

    def terminate(self, number, frame):
        self.terminated = True

    def send(self, kind, call, data=b""):
        """Queue one frame; what one round of the loop queues is written at once."""
        data = wire.frame(kind, call, data)
        self.outgoing.append(data)
        self.backlog += len(data)

    def write(self, data):
        """Write what the connection takes now; return how much that was."""
        try:
            return os.write(self.stdout, data)
        except BlockingIOError:
            return 0
        except OSError:
            # The caller is gone; stdin's end of file is what ends us.
            return len(data)

    def flush(self):
        """Write what is queued, as far as the connection takes it."""
        data = b"".join(self.outgoing)
        count = self.write(data)
        self.backlog -= count
        self.outgoing = [data[count:]] if count < len(data) else []
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
        for kind, number, piece in self.decoder.feed(data):
            if kind == wire.OPEN:
                self.open(number, bytes(piece))
            elif number in self.calls:
                self.calls[number].take(kind, piece)
            elif kind == wire.STORE:
                digest = bytes(piece[: wire.DIGEST])
                self.blobs.setdefault(digest, []).append(bytes(piece[wire.DIGEST :]))
            elif kind == wire.DROP:
                for digest in digests(piece):
                    del self.blobs[digest]
                    self.uses.pop(digest, None)
                    self.untell(digest)
            elif kind == wire.EXTEND:
                piece = bytes(piece)
                if piece.startswith(b"terminal"):
                    # Which works here, too.
                    forker.extend(piece)
                self.tell(forker.EXTEND + worker.LENGTH.pack(len(piece)) + piece)
                # The forker hears of it before it is asked for the next worker.
                self.renew()
        self.rest_stdin()

    def rest_stdin(self):
        """Stop reading the connection while workers are behind, and start again."""
        behind = any(call.pending() > PENDING for call in self.calls.values())
        if not self.closing:
            # Resting, it still shows its end.
            self.watch(self.stdin, self.on_stdin, 0 if behind else select.POLLIN)

    def open(self, number, data):
        blobs = self.needed(data) if len(data) > 1 else ()
        try:
            call = self.spares.pop(0) if self.spares else self.fork()
        except OSError as error:
            self.refuse(number, error)
            return
        self.hungry = True
        self.calls[number] = call
        if data[0] & wire.HAS_PTY:
            blobs = list(blobs) + [loader.part("terminal").lend(call)]
        call.begin(number, data[0] & wire.HAS_STDIN, blobs)

    def needed(self, data):
        """Return the (digest, pieces) of the blobs that OPEN's data names."""
        found = digests(data[1:])
        if data[0] & wire.HAS_LIST:
            listed = digests(b"".join(self.blobs[found[0]]))
            self.use(found[0], listed)
            found += listed
        return [(digest, self.blobs[digest]) for digest in found]

    def use(self, digest, listed):
        """Have modules compiled ahead of the calls to come, the second time that they are used."""
        self.uses[digest] = self.uses.get(digest, 0) + 1
        if self.uses[digest] == 2:
            # The first of a list is no module.
            for each in set(listed[1:]).difference(self.told):
                blob = each + b"".join(self.blobs[each])
                if len(blob) <= min(forker.LARGEST, self.room):
                    self.told[each] = len(blob)
                    self.room -= len(blob)
                    self.tell(forker.COMPILE + worker.LENGTH.pack(len(blob)) + blob)

    def untell(self, digest):
        """Have the code of a module forgotten that no later call needs."""
        if digest in self.told:
            self.room += self.told.pop(digest)
            self.tell(forker.FORGET + digest)

    def refuse(self, number, error):
        """Say that a call has no process to run in."""
        self.send(wire.STDERR, number, ("no process to run in: %s\n" % error).encode())
        self.send(wire.DONE, number, wire.pack_status(False, False, 71 << 8))

    def close(self):
        """The caller is gone: kill all that runs for it."""
        self.closing = True
        self.unwatch(self.stdin)
        for call in list(self.calls.values()):
            call.cancel()
        for spare in self.spares:
            spare.close()

    # Workers

    def fork(self):
        """Have a worker forked that waits for its call."""
        pipes = []
        try:
            for _ in range(5):
                pipes.append(os.pipe())
            payload, reply, stdin, stdout, stderr = pipes
            theirs = payload[0], reply[1], stdin[0], stdout[1], stderr[1]
            self.ask(theirs)
        except OSError:
            for fd in [fd for pair in pipes for fd in pair]:
                os.close(fd)
            raise
        for fd in theirs:
            os.close(fd)
        made = Worker(self, payload[1], reply[0], stdin[1], {stdout[0]: 1, stderr[0]: 2})
        self.unborn.append(made)
        return made

    def ask(self, fds):
        """Ask the forker for a worker."""
        while True:
            try:
                forker.ask(self.forker, fds)
                return
            except BlockingIOError:
                self.hear()

    def tell(self, data):
        """Send the forker bytes."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.forker.send(view) :]
            except BlockingIOError:
                self.hear()

    def hear(self):
        """While the forker's socket is full, hear what it says, or both would wait."""
        waiting = select.poll()
        waiting.register(self.forker.fileno(), select.POLLIN | select.POLLOUT)
        waiting.poll()
        self.on_forker()

    def stock(self):
        """Have the next calls' workers forked ahead of need; without one, a call asks."""
        try:
            while self.hungry and len(self.spares) < SPARES:
                made = self.fork()
                # Not before: as it waits for the forker, the spares may be renewed.
                self.spares.append(made)
        except OSError:
            self.hungry = False

    def on_forker(self):
        try:
            data = self.heard + self.forker.recv(100 * forker.MESSAGE.size)
        except BlockingIOError:
            return
        if data == self.heard:
            raise RuntimeError("the process that forks the workers has ended")
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
            del self.calls[made.number]
            self.rest_stdin()
            self.refuse(made.number, error)

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

    def finish_dying(self):
        self.dying = [group for group in self.dying if not group.gone()]


def digests(data):
    """Return the digests in ``data``."""
    return [bytes(data[n : n + wire.DIGEST]) for n in range(0, len(data), wire.DIGEST)]


def main(stdin, stdout):
    """Serve the connection on two descriptors until it ends, then exit."""
    supervisor = None
    try:
        worker.settle()
        if hasattr(gc, "freeze"):
            # What is there now is never collected, so that workers share its pages.
            gc.freeze()
        supervisor = Supervisor(stdin, stdout)
        supervisor.run()
    except BaseException as error:
        if supervisor is not None and os.getpid() == supervisor.pid:
            for pid in supervisor.workers:
                processes.kill_tree(pid)
            text = "%s: %s" % (type(error).__name__, error)
            os.set_blocking(stdout, True)
            supervisor.send(wire.CRASH, 0, text.encode("utf-8", "replace")[: wire.MAX_DATA])
            supervisor.flush()
        os._exit(1)
    os._exit(0)
