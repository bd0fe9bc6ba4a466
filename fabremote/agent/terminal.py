"""A call's terminal, with ``pty=True``: its streams, and the caller's keyboard and window.

The supervisor makes a pair for the call, or for a lasting process. Our end of it is
relayed like the pipes, as the call's stdout and stdin, whatever the function does
meanwhile; the other end is opened by the worker, whose controlling terminal it becomes,
by the name that comes as one of the call's blobs. Frames never go over it.

Sent with the first call that has a terminal, see `wire.HAS_PTY`.
"""

import _signal  # type: ignore[import-not-found]
import atexit
import fcntl
import marshal
import os
import struct
import termios

from . import loader, wire, worker

KEY = b"terminal".ljust(wire.DIGEST, b"\0")
SIZE = struct.Struct(">HH")
# Backspace takes a whole character; termios has no name for it.
IUTF8 = 0x4000


# In the supervisor


def lend(call):
    """Give a call's `Worker` a terminal; return the blob that tells its name, or what failed."""
    try:
        name = pair(call)
    except OSError as error:
        return KEY, [marshal.dumps((None, error.errno, os.strerror(error.errno)), 2)]
    return KEY, [marshal.dumps((name, 0, ""), 2)]


def pair(call):
    """Make the pair and have our end relayed; return the other's name."""
    made = list(os.openpty())
    try:
        name = os.ttyname(made[1])
        # To be watched by itself for room to write.
        made.append(os.dup(made[0]))
    except OSError:
        for fd in made:
            os.close(fd)
        raise
    # The other end is held as long as the call runs: it hangs up with ours, not before.
    ours, _, writing = made
    os.set_blocking(ours, False)
    call.drop(call.stdin)
    call.stdin = writing
    call.queues[writing] = []
    call.outputs[ours] = wire.STDOUT
    call.fds.update(made)
    return name


def resize(call, data):
    """Give the terminal its size: rows and columns. Whoever runs in it is told."""
    rows, columns = SIZE.unpack(data)
    for fd in call.fds.intersection(call.outputs):
        if os.isatty(fd):
            fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def clear(call):
    """Throw away what was typed to a lasting process's last call and never read."""
    del call.queues[call.stdin][:]
    for fd in call.fds.difference(call.outputs):
        if os.isatty(fd):
            # On our end that is what is on its way to the other, on that what has arrived.
            termios.tcflush(fd, termios.TCOFLUSH if fd in call.queues else termios.TCIFLUSH)


# In the worker

# Whether this process has it.
HELD = []  # type: list[int]


def install(given):
    """Take the terminal: as descriptors 0 to 2, and as what Ctrl-C is typed on.

    ``given``: the encoding, and the names of the variables that the caller gave.
    """
    encoding, variables = given
    if HELD:
        return
    name, number, why = marshal.loads(loader.BLOBS[KEY])
    if name is None:
        text = why + ": the host has no terminal for pty=True; all may be in use (kernel.pty.max)"
        raise OSError(number, text)
    fd = os.open(name, os.O_RDWR)
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
    HELD.append(fd)
    if encoding.replace("_", "-").lower() in ("utf-8", "utf8"):
        modes = termios.tcgetattr(fd)
        modes[0] |= IUTF8
        termios.tcsetattr(fd, termios.TCSANOW, modes)
    for target in (0, 1, 2):
        os.dup2(fd, target)
    os.close(fd)
    worker.open_streams(encoding)
    for variable in ("COLUMNS", "LINES"):
        # Of another terminal; and they would be believed before this one's size.
        if variable not in variables:
            os.environ.pop(variable, None)
    atexit.register(leave)


def leave():
    """Let go of the terminal, after all exit handlers.

    Else it would be hung up at this process's end, and what the supervisor hasn't
    read yet be lost; and a Ctrl-C would take the answer with it.
    """
    for number in (_signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT):
        _signal.signal(number, _signal.SIG_IGN)
    try:
        with open("/dev/tty", "rb", 0) as tty:
            fcntl.ioctl(tty, termios.TIOCNOTTY)
    except OSError:
        pass  # The function has done so.
