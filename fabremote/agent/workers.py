"""The supervisor's side of one worker: its pipes, its windows, its end."""

import _signal  # type: ignore[import-not-found]
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
# What a worker waits for that has logged: an answer of no bytes.
NOTED = bundle.TOTAL.pack(bundle.TOTAL.size) + bundle.TOTAL.pack(0)


def widen(fd):
    """Let a pipe hold more, where the system allows it."""
    try:
        fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE)
    except OSError:
        pass


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
        self.number = self.missing = self.cancelled = self.status = self.pack = None
        self.queues = {self.payload: [], self.stdin: []}
        self.window = wire.WINDOW
        self.answer = b""
        # Whether it has asked or streamed; how much of a stream's message is still to come.
        self.asked, self.streaming, self.item = False, False, 0
        self.doomed = self.dozing = self.noted = self.stdin_ends = self.ending = False
        self.relayed = 0.0
        # How many bytes went into the payload's pipe, and how many of them nobody will read.
        self.poured, self.unread = 0, -1
        # The blobs that it has: those of the forker, from birth, and a lasting process's.
        self.given = set(supervisor.compiling.told) if supervisor.compiling else set()
        # A lasting process's own number, its last call and those that wait.
        self.home, self.turn, self.turns = None, None, []

    def born(self, pid):
        """The worker's process is there."""
        self.pid = pid
        if self.doomed:
            self.doomed = False
            self.cancel()

    def begin(self, number, flags, blobs):
        """Bind the worker to its call; of its ``blobs`` (digest, pieces) it gets what it lacks."""
        self.number = number
        self.pack = wire.packer(flags)
        if flags & wire.LASTING:
            self.home = number
        # Whether each call in it is typed to by itself, on the process's terminal.
        self.anew = flags & (wire.HAS_PTY | wire.HAS_STDIN) == wire.HAS_PTY
        if not flags & (wire.HAS_PTY | wire.HAS_STDIN):
            self.drop(self.stdin)
        blobs = [blob for blob in blobs if blob[0] not in self.given]
        if blobs:
            self.queues[self.payload] = bundle.blob_message(blobs)
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
        elif kind == wire.END:
            self.ending = True
            self.advance()
        elif kind == wire.NUDGE:
            try:
                # Ignored by those that don't await it.
                os.kill(self.pid, _signal.SIGURG)
            except (OSError, TypeError):
                # It has ended, or isn't there yet.
                pass

    def put(self, fd, *pieces):
        if fd in self.fds and pieces:
            self.queues[fd] += pieces
            self.pour(fd)

    def pour(self, fd):
        """Write to a pipe of the worker's what it takes now."""
        queue = self.queues[fd]
        try:
            taken = wire.write(fd, queue)
            self.poured += taken if fd == self.payload else 0
        except OSError:
            self.fate(0)
            taken = sum(map(len, queue))
            del queue[:]
            self.drop(fd)
        if fd == self.stdin and taken:
            self.supervisor.send(wire.TAKEN, self.number, wire.NUMBER.pack(taken))
        if queue and fd not in self.supervisor.handlers:
            widen(fd)
            self.supervisor.watch(fd, lambda: self.pour(fd), select.POLLOUT)
        elif not queue and fd in self.fds:
            self.supervisor.unwatch(fd)
            if fd == self.stdin and self.stdin_ends:
                self.drop(fd)
        if fd == self.payload and (queue or self.supervisor.behind):
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
            heard = self.window > 0 and not self.dozing
            if fd == self.reply:
                # What was printed before an item goes ahead of it.
                heard = self.window > 0 or not self.streaming
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
        view = memoryview(data)
        for start in range(0, len(data), wire.MAX_DATA):
            framed = kind, view[start : start + wire.MAX_DATA]
            if kind == wire.REPLY and self.pack:
                framed = self.pack(*framed)
            self.supervisor.send(framed[0], self.number, framed[1])

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
        """Forward what the worker wrote; return whether there was anything."""
        if self.missing is None:
            size = max(wire.MAX_DATA, min(PIPE, self.item))
        else:
            size = min(PIPE, self.missing)
        data = self.read(self.reply, size)
        if not data:
            return False
        if self.missing is None:
            # The length may come in pieces; forward it with what follows.
            self.answer = self.forward_messages(self.answer + data)
            if len(self.answer) < worker.TOTAL.size or is_request(self.answer):
                return True
            data, self.answer = self.answer, b""
            self.missing = worker.TOTAL.size + worker.TOTAL.unpack_from(data)[0]
            if self.missing > wire.MAX_DATA:
                widen(self.reply)
        self.missing -= len(data)
        self.forward(wire.REPLY, data)
        if self.missing == 0 and self.cancelled is None:
            self.finish()
        return True

    def forward_messages(self, data):
        """Send on the requests and items that ``data`` begins with; return the rest."""
        data = self.forward_items(data)
        while len(data) >= worker.TOTAL.size and is_request(data):
            size = worker.TOTAL.unpack_from(data)[0] - bundle.ASKING
            record = size & bundle.RECORD
            size -= record
            end = worker.TOTAL.size + size
            if size > (wire.MAX_DATA if record else bundle.REQUEST):
                # Not written by us: this call can't answer any more.
                self.drop(self.reply)
                return b""
            if len(data) < end:
                break
            self.asked = True
            self.note(data[8:end]) if record else self.forward(wire.ASK, data[8:end])
            data = self.forward_items(data[end:])
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

    def forward_items(self, data):
        """Send on the streams' messages in ``data``, after what was printed; return the rest."""
        at, size = 0, len(data)
        while at < size:
            if not self.item:
                if size - at < worker.TOTAL.size:
                    break
                total = worker.TOTAL.unpack_from(data, at)[0] - bundle.STREAMED
                if not 0 <= total < bundle.STREAMED:
                    break
                self.item = worker.TOTAL.size + total
            step = min(self.item, size - at)
            at += step
            self.item -= step
        if at:
            self.asked = self.streaming = True
            for fd in set(self.outputs) & self.fds:
                self.relay(fd)
            self.forward(wire.ITEM, data[:at])
        return data[at:]

    # The end

    def ended(self, status):
        """The worker's process has ended: forward what it left, unless all is said."""
        self.status = status
        while self.reply in self.fds and self.missing != 0:
            if not self.read_reply():
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
            self.supervisor.rouse()
        elif self.cancelled is None:
            self.cancelled = processes.Group(self.pid, True, self.finish)
            self.supervisor.dying.append(self.cancelled)

    def finish(self):
        """Relay the last output, say that the call is done, and close, or take the next one."""
        supervisor = self.supervisor
        self.drain()
        self.say_done(self.number, self.missing == 0)
        if self.home is not None:
            self.answer, self.missing, self.window = b"", None, wire.WINDOW
            if self.cancelled is None and self.status is None:
                self.number = self.home
                self.advance()
                supervisor.flush()
                return
            for turn in self.turns:
                turn.say_unbegun(self.status or 0)
            if self.number != self.home:
                self.say_done(self.home, False)
        supervisor.flush()
        self.close()

    def say_done(self, number, answered):
        """Say that a call, or a lasting process, has ended, and how."""
        fate = 0 if answered else self.fate(0)
        status = wire.pack_status(answered, self.cancelled is not None, self.status or 0, fate)
        self.supervisor.calls.pop(number, None)
        if self.supervisor.behind:
            self.supervisor.rest_stdin()
        self.supervisor.send(wire.DONE, number, status)

    def fate(self, patience=1000):
        """Return `UNBEGUN` if the worker has ended, within so many ms, and read nothing, or 0."""
        if self.payload in self.fds:
            self.unread = processes.unread(self.payload, patience)
        return wire.UNBEGUN * (self.unread == self.poured)

    def advance(self):
        """If a lasting process is free, begin the next call in it, or let it end."""
        if self.number != self.home:
            return
        if self.turns:
            self.turns.pop(0).begin()
        elif self.ending:
            self.drop(self.payload)

    def numbers(self):
        """Return the numbers of all calls that are the worker's."""
        return {self.number, self.home or self.number, *[turn.number for turn in self.turns]}

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
