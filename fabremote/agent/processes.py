"""Processes of a call: set apart at the start, found and killed at the end."""

import _signal  # type: ignore[import-not-found]
import fcntl
import os
import select
import time

# Between SIGTERM and SIGKILL, in seconds.
GRACE = 0.25

_PDEATHSIG = 1
_CHILD_SUBREAPER = 36


def c_function(name):
    """Return a caller of a C function, or one that does nothing where there is none.

    By _ctypes, as ctypes itself takes milliseconds to import.
    """
    try:
        import _ctypes

        address = _ctypes.dlsym(_ctypes.dlopen(None, 0), name)
        return lambda *args: _ctypes.call_function(address, args)
    except (ImportError, OSError, AttributeError):
        return lambda *args: None


_prctl = c_function("prctl")


def isolate(parent):
    """Set a new worker apart: its own session, default signals, dying with its parent.

    As its own subreaper it stays the ancestor of all that it starts, so that
    what a cancelled call left in other sessions is found too.
    """
    die_with(parent)
    _prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(number, _signal.SIG_DFL)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def disown():
    """Undo of `isolate` what only a worker is.

    The forker is a subreaper, too: what a killed worker leaves is reaped at once,
    whatever process 1 is here.
    """
    _prctl(_PDEATHSIG, 0, 0, 0, 0)


def die_with(parent):
    """Have this process killed when its parent ends, where Linux can do that."""
    _prctl(_PDEATHSIG, _signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def table():
    """Return {pid: (parent's pid, start time)} of the live processes, where /proc has them."""
    found = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return found
    for name in names:
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name, "rb") as stream:
                    fields = stream.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] not in (b"Z", b"X"):
                found[int(name)] = int(fields[1]), fields[19]
    return found


def descendants(root):
    """Return {pid: start time} of the processes below ``root``, itself left out."""
    processes = table()
    children = {}
    for pid, (parent, _) in processes.items():
        children.setdefault(parent, []).append(pid)
    found = {}
    queue = [root]
    for pid in queue:
        for child in children.get(pid, ()):
            if child not in found:
                found[child] = processes[child][1]
                queue.append(child)
    return found


def group_lives(leader):
    """Return whether any process is left in a process group."""
    try:
        os.killpg(leader, 0)
    except OSError:
        return False
    return True


def kill_tree(leader):
    """Kill at once a worker, its process group and its descendants."""
    for pid in [leader] + list(descendants(leader)):
        try:
            os.kill(pid, _signal.SIGKILL)
        except OSError:
            pass
    try:
        os.killpg(leader, _signal.SIGKILL)
    except OSError:
        pass


def unread(fd, patience):
    """Return how many bytes lie in a pipe that nobody can read any more.

    That is -1 if somebody still can after ``patience`` milliseconds, or if it isn't known.
    """
    ended = select.poll()
    ended.register(fd, 0)
    if ended.poll(patience):
        import termios

        return memoryview(fcntl.ioctl(fd, termios.FIONREAD, bytes(4))).cast("i")[0]
    return -1


class Group:
    """Processes told to end: a worker's process group and, if asked, its descendants.

    ``whole``: a cancelled call, so that daemons go too; else only what stayed
    in the group. ``then`` is called once all of it is gone.
    """

    def __init__(self, leader, whole, then=None):
        self.leader = leader
        self.whole = whole
        self.then = then
        self.others = descendants(leader) if whole else {}
        self.deadline = time.monotonic() + GRACE
        self.killed = False
        self.reaped = not whole
        self.signal(_signal.SIGTERM)

    def signal(self, number):
        try:
            os.killpg(self.leader, number)
        except OSError:
            pass
        for pid in self.living():
            try:
                os.kill(pid, number)
            except OSError:
                pass

    def living(self):
        """Return the descendants that still live, told from later ones of the same pid."""
        if not self.others:
            return []
        now = table()
        return [pid for pid, start in self.others.items() if now.get(pid, (0, None))[1] == start]

    def gone(self):
        """Return whether all have ended, killing what outlived the grace."""
        if group_lives(self.leader) or self.living():
            if time.monotonic() < self.deadline:
                return False
            if not self.killed:
                if self.whole:
                    for pid in [self.leader] + self.living():
                        self.others.update(descendants(pid))
                self.killed = True
                self.deadline += GRACE
                self.signal(_signal.SIGKILL)
                return False
        if not self.reaped and time.monotonic() < self.deadline:
            return False
        if self.then is not None:
            self.then()
        return True
