"""The supervisor's side of one worker: its pipes, its windows, its end."""

import _signal  # type: ignore[import-not-found]
import os
import select

from . import processes, wire, worker

# The most that is read from a pipe once its call has answered, in bytes: what
# a process that holds the pipe writes after that belongs to no call.
LAST = 1 << 20
# Above this many bytes waiting for the connection, the workers' pipes rest.
BACKLOG = 8 * wire.MAX_DATA


class Worker:
    """A forked process, waiting for a call or running it."""

    def __init__(self, supervisor, pid, pipes):
        self.supervisor = supervisor
        self.pid = pid
        payload, reply, stdin, stdout, stderr = pipes
        for fd in (payload[0], reply[1], stdin[0], stdout[1], stderr[1]):
            os.close(fd)
        self.payload, self.reply, self.stdin = payload[1], reply[0], stdin[1]
        self.outputs = {stdout[0]: wire.STDOUT, stderr[0]: wire.STDERR}
        self.fds = {self.payload, self.reply, self.stdin} | set(self.outputs)
        for fd in self.fds:
            os.set_blocking(fd, False)
        supervisor.own_fds |= self.fds
        self.number = None
        self.queues = {self.payload: [], self.stdin: []}
        self.stdin_ends = False
        self.window = wire.WINDOW
        self.answer = b""
        self.missing = None
        self.cancelled = None
        self.status = None

    def begin(self, number, has_stdin):
        """Bind the worker to its call."""
        self.number = number
        if not has_stdin:
            self.drop(self.stdin)
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
            self.listen()
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
                count = os.write(fd, queue[0])
                taken += count
                queue[0] = queue[0][count:]
                if queue[0]:
                    break
                del queue[0]
        except BlockingIOError:
            pass
        except OSError:
            taken += sum(map(len, queue))
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
            open_ = not supervisor.resting and (fd == self.reply or self.window > 0)
            if open_ and fd not in supervisor.handlers:
                supervisor.watch(fd, lambda fd=fd: self.on_readable(fd))
            elif not open_:
                supervisor.unwatch(fd)

    def on_readable(self, fd):
        if fd == self.reply:
            self.read_reply()
        else:
            self.relay(fd)
        if self.status is None and self.number in self.supervisor.calls:
            self.listen()

    def relay(self, fd, limit=wire.MAX_DATA):
        """Send on what the worker printed; return how many bytes."""
        data = self.read(fd, min(limit, wire.MAX_DATA))
        if data:
            self.window -= len(data)
            self.supervisor.send(self.outputs[fd], self.number, data)
        return len(data or b"")

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
        size = wire.MAX_DATA if self.missing is None else min(wire.MAX_DATA, self.missing)
        data = self.read(self.reply, size)
        if not data:
            return
        if self.missing is None:
            # The length may come in pieces; forward it with what follows.
            self.answer += data
            if len(self.answer) < worker.TOTAL.size:
                return
            data, self.answer = self.answer, b""
            self.missing = worker.TOTAL.size + worker.TOTAL.unpack_from(data)[0]
        self.missing -= len(data)
        for start in range(0, len(data), wire.MAX_DATA):
            self.supervisor.send(wire.REPLY, self.number, data[start : start + wire.MAX_DATA])
        if self.missing == 0 and self.cancelled is None:
            self.finish()

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
        elif self.number in self.supervisor.calls:
            self.finish()

    def cancel(self):
        """Kill the call and all that it started; it is done once they are gone."""
        if self.cancelled is None:
            self.cancelled = processes.Group(self.pid, True, self.finish)
            self.supervisor.dying.append(self.cancelled)

    def finish(self):
        """Relay the last output, end what is left of the group, and say so."""
        supervisor = self.supervisor
        for fd in list(self.outputs):
            left = LAST
            while fd in self.fds and left > 0:
                count = self.relay(fd, left)
                if not count:
                    break
                left -= count
        answered = self.missing == 0
        status = wire.pack_status(answered, self.cancelled is not None, self.status or 0)
        supervisor.calls.pop(self.number, None)
        supervisor.send(wire.DONE, self.number, status)
        supervisor.flush()
        self.close()
        if self.cancelled is None:
            # The worker has nothing left to do; what it left behind must go.
            supervisor.dying.append(processes.Group(self.pid, False))

    def kill(self):
        """End a worker that has no call."""
        try:
            os.kill(self.pid, _signal.SIGKILL)
        except OSError:
            pass
        self.close()

    def drop(self, fd):
        """Close one of our ends."""
        if fd in self.fds:
            self.supervisor.unwatch(fd)
            self.supervisor.own_fds.discard(fd)
            self.fds.discard(fd)
            os.close(fd)

    def close(self):
        for fd in list(self.fds):
            self.drop(fd)
