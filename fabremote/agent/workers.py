"""The supervisor's side of one worker: its pipes, its windows, its end."""

import fcntl
import os
import select
import time

from . import bundle, loader, processes, wire, worker

# The most that is read from a pipe once its call has answered, in bytes: what
# a process that holds the pipe writes after that belongs to no call.
LAST = 1 << 20
# Above this many bytes waiting for the connection, the workers' pipes rest.
BACKLOG = 8 * wire.MAX_DATA
# Output that comes in pieces smaller than this, in bytes, and faster than DOZE, in
# seconds, one after the other, is relayed only so often; a pipe then holds PIPE bytes.
SMALL = 16384
DOZE = 0.001
PIPE = 1 << 18
_F_SETPIPE_SZ = 1031
# The most pieces that one write may take.
PIECES = 64
# What a worker waits for that has logged: an answer of no bytes.
NOTED = bundle.TOTAL.pack(bundle.TOTAL.size) + bundle.TOTAL.pack(0)


def widen(fd):
    """Let a pipe hold more, where the system allows it."""
    try:
        fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE)
    except OSError:
        pass


def blob_message(blobs):
    """Return the pieces of a message to a worker with these (digest, pieces)."""
    pieces = [b""]
    for digest, data in blobs:
        pieces.append(digest + bundle.TOTAL.pack(sum(map(len, data))))
        pieces += data
    pieces[0] = bundle.TOTAL.pack(bundle.BLOBBED | sum(map(len, pieces)))
    return pieces


def is_request(data):
    """Return whether what a worker wrote begins with a request, not with its answer."""
    return bool(worker.TOTAL.unpack_from(data)[0] & bundle.ASKING)


class Worker:
    """A forked process, waiting for a call or running it."""

    def __init__(self, supervisor, payload, reply, stdin, outputs):
        self.supervisor = supervisor
        self.pid = None
        self.payload, self.reply, self.stdin = payload, reply, stdin
        kinds = {1: wire.STDOUT, 2: wire.STDERR}
        self.outputs = {fd: kinds[number] for fd, number in outputs.items()}
        self.fds = {payload, reply, stdin} | set(outputs)
        for fd in self.fds:
            os.set_blocking(fd, False)
        self.number = None
        self.queues = {self.payload: [], self.stdin: []}
        self.stdin_ends = False
        self.window = wire.WINDOW
        self.answer = b""
        self.missing = None
        self.cancelled = None
        self.status = None
        self.doomed = False
        self.dozing = False
        self.relayed = 0.0
        self.noted = False

    def born(self, pid):
        """The worker's process is there."""
        self.pid = pid
        if self.doomed:
            self.doomed = False
            self.cancel()

    def begin(self, number, has_stdin, blobs):
        """Bind the worker to its call, whose ``blobs`` (digest, pieces) go first."""
        self.number = number
        if not has_stdin:
            self.drop(self.stdin)
        if blobs:
            self.queues[self.payload] = blob_message(blobs)
            self.supervisor.watch(self.payload, lambda: self.pour(self.payload), select.POLLOUT)
        self.listen()

    # From the caller to the worker

    def take(self, kind, data):
        """Act on a frame of the caller's for this call."""
        if kind == wire.DATA:
            self.put(self.payload, data)
        elif kind == wire.STDIN:
            self.stdin_ends = self.stdin_ends or not data
            self.put(self.stdin, data)
        elif kind == wire.CREDIT:
            self.window += wire.NUMBER.unpack(data)[0]
            self.answer_note()
            self.listen()
        elif kind == wire.RESIZE:
            loader.part("terminal").resize(self, data)
        elif kind == wire.CANCEL:
            self.cancel()

    def put(self, fd, data):
        if fd in self.fds:
            queue = self.queues[fd]
            if not queue:
                self.supervisor.watch(fd, lambda: self.pour(fd), select.POLLOUT)
            queue.append(data)
            self.pour(fd)

    def pour(self, fd):
        """Write to a pipe of the worker's what it takes now."""
        queue, taken = self.queues[fd], 0
        try:
            while queue:
                count = os.writev(fd, queue[:PIECES])
                taken += count
                while queue and count >= len(queue[0]):
                    count -= len(queue[0])
                    del queue[0]
                if count:
                    queue[0] = memoryview(queue[0])[count:]
                    break
        except BlockingIOError:
            pass
        except OSError:
            taken += sum(map(len, queue))
            del queue[:]
            self.drop(fd)
        if fd == self.stdin and taken:
            self.supervisor.send(wire.TAKEN, self.number, wire.NUMBER.pack(taken))
        if not queue and fd in self.fds:
            self.supervisor.unwatch(fd)
            if fd == self.stdin and self.stdin_ends:
                self.drop(fd)
        if fd == self.payload:
            self.supervisor.rest_stdin()

    def pending(self):
        """Return how many bytes wait for the worker's pipes."""
        return sum(len(data) for queue in self.queues.values() for data in queue)

    # From the worker to the caller

    def listen(self):
        """Watch the pipes that may be read now: none, the answer's, or the outputs' too."""
        supervisor = self.supervisor
        if supervisor.backlog >= BACKLOG:
            supervisor.resting = True
        for fd in [self.reply] + list(self.outputs):
            if fd not in self.fds:
                continue
            heard = fd == self.reply or (self.window > 0 and not self.dozing)
            open_ = heard and not supervisor.resting
            if open_ and fd not in supervisor.handlers:
                supervisor.watch(fd, lambda fd=fd: self.on_readable(fd))
            elif not open_:
                supervisor.unwatch(fd)

    def on_readable(self, fd):
        if fd == self.reply:
            self.read_reply()
        else:
            self.relay_or_doze(fd)
        if self.status is None and self.number in self.supervisor.calls:
            self.listen()

    def relay_or_doze(self, fd):
        """Relay output; where it comes in a stream of small pieces, let it fill up a moment.

        A function that prints line by line otherwise spends its time waking us.
        """
        count = self.relay(fd)
        now = time.monotonic()
        if 0 < count < SMALL and now - self.relayed < DOZE and not self.dozing:
            self.dozing = True
            self.supervisor.dozing.append(self)
            widen(fd)
        self.relayed = now

    def doze_ends(self):
        self.dozing = False
        if self.number in self.supervisor.calls:
            self.listen()

    def relay(self, fd, limit=wire.WINDOW):
        """Send on what the worker printed; return how many bytes."""
        data = self.read(fd, min(limit, PIPE))
        self.window -= len(data)
        self.forward(self.outputs[fd], data)
        return len(data)

    def drain(self):
        """Relay what was printed so far: a terminal gives it in pieces."""
        for fd in list(self.outputs):
            left = LAST
            while fd in self.fds and left > 0:
                count = self.relay(fd, left)
                if not count:
                    break
                left -= count

    def forward(self, kind, data):
        """Send ``data`` in frames of the call's."""
        for start in range(0, len(data), wire.MAX_DATA):
            self.supervisor.send(kind, self.number, data[start : start + wire.MAX_DATA])

    def read(self, fd, size):
        """Return bytes from a pipe; b"" if it holds none now or never will again."""
        try:
            data = os.read(fd, size)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self.drop(fd)
        return data

    def read_reply(self):
        size = wire.MAX_DATA if self.missing is None else min(PIPE, self.missing)
        data = self.read(self.reply, size)
        if not data:
            return
        if self.missing is None:
            # The length may come in pieces; forward it with what follows.
            self.answer = self.forward_requests(self.answer + data)
            if len(self.answer) < worker.TOTAL.size or is_request(self.answer):
                return
            data, self.answer = self.answer, b""
            self.missing = worker.TOTAL.size + worker.TOTAL.unpack_from(data)[0]
            if self.missing > wire.MAX_DATA:
                widen(self.reply)
        self.missing -= len(data)
        self.forward(wire.REPLY, data)
        if self.missing == 0 and self.cancelled is None:
            self.finish()

    def forward_requests(self, data):
        """Send on the whole requests that ``data`` begins with; return the rest."""
        while len(data) >= worker.TOTAL.size and is_request(data):
            size = worker.TOTAL.unpack_from(data)[0] - bundle.ASKING
            record, size = divmod(size, bundle.RECORD)
            end = worker.TOTAL.size + size
            if size > (wire.MAX_DATA if record else bundle.REQUEST):
                # Not written by us: this call can't answer any more.
                self.drop(self.reply)
                return b""
            if len(data) < end:
                break
            self.note(data[8:end]) if record else self.forward(wire.ASK, data[8:end])
            data = data[end:]
        return data

    def note(self, data):
        """Send on a log record, after what was printed before it."""
        self.drain()
        self.window -= len(data)
        self.forward(wire.RECORD, data)
        self.noted = True
        self.answer_note()

    def answer_note(self):
        """Let a worker go on that has logged, once there is room for more."""
        if self.noted and self.window > 0:
            self.noted = False
            self.put(self.payload, NOTED)

    # The end

    def ended(self, status):
        """The worker's process has ended: forward what it left, unless all is said."""
        self.status = status
        while self.reply in self.fds and self.missing != 0:
            before = self.missing, self.answer
            self.read_reply()
            if (self.missing, self.answer) == before:
                break
        if self.cancelled is not None:
            self.cancelled.reaped = True
            return
        if self.number in self.supervisor.calls:
            self.finish()
        self.clean_up()

    def cancel(self):
        """Kill the call and all that it started; it is done once they are gone."""
        if self.pid is None:
            # As soon as there is a process to kill.
            self.doomed = True
        elif self.cancelled is None:
            self.cancelled = processes.Group(self.pid, True, self.finish)
            self.supervisor.dying.append(self.cancelled)

    def finish(self):
        """Relay the last output, end what is left of the group, and say so."""
        supervisor = self.supervisor
        self.drain()
        answered = self.missing == 0
        status = wire.pack_status(answered, self.cancelled is not None, self.status or 0)
        supervisor.calls.pop(self.number, None)
        supervisor.rest_stdin()
        supervisor.send(wire.DONE, self.number, status)
        supervisor.flush()
        self.close()

    def clean_up(self):
        """The worker has ended: what it left behind in its process group must go."""
        if processes.group_lives(self.pid):
            self.supervisor.dying.append(processes.Group(self.pid, False))

    def drop(self, fd):
        """Close one of our ends."""
        if fd in self.fds:
            self.supervisor.unwatch(fd)
            self.fds.discard(fd)
            os.close(fd)

    def close(self):
        for fd in list(self.fds):
            self.drop(fd)
