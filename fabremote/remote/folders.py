"""Folders of the user's own on the host, which no other user can have put anything into."""

import fcntl
import os
import re
import shutil
import stat
import sys
import time


class Failed(Exception):
    """There can be no environment: (why, log)."""


def folder(cache_dir, name):
    """Return a folder of the cache, which need not exist yet."""
    home = os.path.expanduser("~")
    if cache_dir:
        root = os.path.expanduser(cache_dir)
    else:
        cache = os.environ.get("XDG_CACHE_HOME", "")
        root = os.path.join(cache if cache.startswith("/") else home + "/.cache", "fabremote")
    if not root.startswith("/"):
        raise nowhere(root, "the user has no home folder")
    return os.path.join(root, name)


def nowhere(path, why):
    """Return the error for a folder that can't be used."""
    return Failed(
        "%s can't hold environments: %s. Name another folder there with cache_dir=, or with "
        "remotely.cache_dir in the configuration" % (path, why),
        "",
    )


def make_private(path):
    """Make a folder of the user's own, and those above it; refuse anybody else's."""
    above = path
    while not os.path.exists(above):
        above = os.path.dirname(above)
    owner = os.stat(above).st_uid
    home = os.path.expanduser("~").rstrip("/") or "no home"
    # As root with a user's HOME, what is made there would be in that user's way.
    if (above + "/").startswith(home + "/") and owner != os.geteuid():
        raise nowhere(path, "%s belongs to user %d, not to %d" % (above, owner, os.geteuid()))
    try:
        # In two steps, as the mode is that of the last one.
        for each in (os.path.dirname(path), path):
            os.makedirs(each, 0o700, exist_ok=True)
    except OSError as error:
        raise nowhere(path, error.strerror)
    check_private(path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise nowhere(path, "it can't be written to")


def check_private(path):
    """Refuse a folder of the cache if others could have filled or replaced it."""
    check_owner(os.path.dirname(path))
    check_owner(path)


def check_owner(path):
    """Refuse a folder in which others could have put code, and a link that they made."""
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        if found.st_uid not in (0, os.geteuid()):
            raise nowhere(path, "it is a link that belongs to user %d" % found.st_uid)
        found = os.stat(path)
    if found.st_uid not in (0, os.geteuid()):
        raise nowhere(path, "it belongs to user %d" % found.st_uid)
    if found.st_mode & 0o022:
        raise nowhere(path, "others may write to it (chmod go-w would change that)")


def discard(path):
    """Remove a folder, at one stroke for whoever looks for it."""
    gone = "%s.%d.%d.gone" % (path, os.getpid(), time.time() * 1e6)
    try:
        os.rename(path, gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def lock(path, wait=True):
    """Return a descriptor that holds the lock of an environment; None if ``wait`` isn't wanted.

    Whoever held it before has removed it, so that it may be of a file that is gone.
    """
    told = False
    while True:
        fd = os.open(path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not locked(fd):
                if not wait:
                    os.close(fd)
                    return None
                if not told:
                    say("another process is at work on this environment; waiting for it")
                told = True
                fcntl.flock(fd, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(fd), os.stat(path + ".lock")):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def locked(fd):
    """Take a lock; return whether it could be had."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def release(path, fd):
    """Give a lock back."""
    os.unlink(path + ".lock")
    os.close(fd)


def masked(text):
    """Return text with the passwords in its URLs masked."""
    return re.sub(r"(?<=//)[^/\s:]*:[^/\s]*@|(?<=http://|ttps://)[^/\s]*@", "****@", text)


def say(text):
    """Tell the caller, on stderr: stdout is the function's."""
    sys.stderr.write("fabremote: %s\n" % text)
    sys.stderr.flush()
