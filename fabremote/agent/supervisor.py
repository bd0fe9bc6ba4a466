"""The agent's one lasting process: forks a worker per call, relays, kills.

It runs no code of the caller's. Everything waits in one poll: the connection's
stdin and stdout, each worker's pipes, and SIGCHLD through a wakeup pipe. End of
file on stdin means that the caller is gone; then all that was started is killed.
"""

import _signal  # type: ignore[import-not-found]
import os
import select

from . import processes, wire, worker
from .workers import BACKLOG, Worker

# Above this many bytes waiting for workers' pipes, the connection rests.
PENDING = 64 * wire.MAX_DATA
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
        self.spare = None
        self.dying = []
        self.closing = False
        self.terminated = False
        self.pid = os.getpid()
        os.set_blocking(stdin, False)
        os.set_blocking(stdout, False)
        self.wakeup, wakeup_write = os.pipe()
        os.set_blocking(self.wakeup, False)
        os.set_blocking(wakeup_write, False)
        self.own_fds = {stdin, stdout, self.wakeup, wakeup_write}
        _signal.set_wakeup_fd(wakeup_write)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        for number in (_signal.SIGTERM, _signal.SIGHUP):
            _signal.signal(number, self.terminate)
        self.watch(stdin, self.on_stdin)
        self.watch(self.wakeup, self.on_child)

    # The poll loop

    def watch(self, fd, handler, events=select.POLLIN):
        self.handlers[fd] = handler
        self.poll.register(fd, events)

    def unwatch(self, fd):
        if self.handlers.pop(fd, None) is not None:
            self.poll.unregister(fd)

    def run(self):
        """Serve calls until the caller is gone and nothing is left of them."""
        self.spare = self.spare_worker()
        while not (self.closing and not self.dying):
            timeout = TICK * 1000 if self.dying else None
            for fd, _ in self.poll.poll(timeout):
                handler = self.handlers.get(fd)
                if handler is not None:
                    handler()
            if self.terminated and not self.closing:
                self.close()
            if self.dying:
                self.finish_dying()
            if self.outgoing:
                self.flush()
            if self.spare is None and not self.closing:
                self.spare = self.spare_worker()

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
            data = os.read(self.stdin, 4 * wire.MAX_DATA)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for kind, number, piece in self.decoder.feed(data):
            if kind == wire.OPEN:
                self.open(number, piece == b"\1")
            elif number in self.calls:
                self.calls[number].take(kind, piece)
        self.rest_stdin()

    def rest_stdin(self):
        """Stop reading the connection while workers are behind, and start again."""
        behind = any(call.pending() > PENDING for call in self.calls.values())
        if behind and self.stdin in self.handlers:
            self.unwatch(self.stdin)
        elif not behind and self.stdin not in self.handlers and not self.closing:
            self.watch(self.stdin, self.on_stdin)

    def open(self, number, has_stdin):
        try:
            call, self.spare = self.spare or self.fork(), None
        except OSError as error:
            self.send(wire.STDERR, number, ("no process to run in: %s\n" % error).encode())
            self.send(wire.DONE, number, wire.pack_status(False, False, 71 << 8))
            return
        self.calls[number] = call
        call.begin(number, has_stdin)

    def close(self):
        """The caller is gone: kill all that runs for it."""
        self.closing = True
        self.unwatch(self.stdin)
        for call in list(self.calls.values()):
            call.cancel()
        if self.spare is not None:
            self.spare.kill()

    # Workers

    def fork(self):
        """Fork a worker that waits for its call."""
        pipes = []
        try:
            for _ in range(5):
                pipes.append(os.pipe())
            pid = os.fork()
        except OSError:
            for fd in [fd for pair in pipes for fd in pair]:
                os.close(fd)
            raise
        if pid == 0:
            self.become_worker(pipes)
        return Worker(self, pid, pipes)

    def spare_worker(self):
        """Fork the next call's worker ahead of need; without one, the call forks its own."""
        try:
            return self.fork()
        except OSError:
            return None

    def become_worker(self, pipes):
        """In the child: keep only the worker's ends of its pipes, and serve."""
        try:
            processes.isolate(self.pid)
            for fd in self.own_fds:
                os.close(fd)
            payload, reply, stdin, stdout, stderr = pipes
            for fd in (payload[1], reply[0], stdin[1], stdout[0], stderr[0]):
                os.close(fd)
            for fd, target in ((stdin[0], 0), (stdout[1], 1), (stderr[1], 2)):
                os.dup2(fd, target)
                os.close(fd)
            worker.serve(payload[0], reply[1])
        except BaseException as error:
            worker.complain(error)
        finally:
            os._exit(70)

    def on_child(self):
        try:
            os.read(self.wakeup, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.ended(pid, status)

    def ended(self, pid, status):
        for call in list(self.calls.values()):
            if call.pid == pid:
                call.ended(status)
                return
        if self.spare is not None and self.spare.pid == pid:
            self.spare.close()
            self.spare = None

    def finish_dying(self):
        self.dying = [group for group in self.dying if not group.gone()]


def main(stdin, stdout):
    """Serve the connection on two descriptors until it ends, then exit."""
    supervisor = None
    try:
        supervisor = Supervisor(stdin, stdout)
        supervisor.run()
    except BaseException as error:
        if supervisor is not None and os.getpid() == supervisor.pid:
            text = "%s: %s" % (type(error).__name__, error)
            os.set_blocking(stdout, True)
            supervisor.send(wire.CRASH, 0, text.encode("utf-8", "replace")[: wire.MAX_DATA])
            supervisor.flush()
        os._exit(1)
    os._exit(0)
