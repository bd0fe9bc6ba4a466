"""Finds, makes and removes environments on the host: virtual ones, with packages.

Runs there under the interpreter that they are made of. In the cache folder::

    environments/<key>/         complete once COMPLETE is in it, written last
    environments/<key>.lock     held by whoever makes or removes it, and by its installer
    environments/*.gone         being removed
    wheels/<sha256>/<name>      wheels that callers sent
"""

import json
import os
import shutil
import sys
import time

from . import folders, installers

COMPLETE = "fabremote.json"
# What a key means; another number and no old environment is found.
FORMAT = 1
# How often an environment's last use is noted, in seconds.
NOTED = 3600


def provide(wanted):
    """Return the interpreter of an environment, making it if it isn't there.

    ``wanted``: a dict of ``requirements``, ``constraints`` and ``options``, lines
    of a requirements file; ``cache_dir``, or None; and ``wheels``: None, to have
    them from the index, or [(sha256, name)], or "local" to be told first.

    ("ready", path), ("wheels",) if it needs wheels, or ("failed", why, log).
    """
    try:
        home = folders.folder(wanted["cache_dir"], "environments")
        path = os.path.join(home, key_of(wanted))
        python = ready(path)
        if python is None and wanted["wheels"] == "local":
            return ("wheels",)
        return "ready", python or make(wanted, home, path)
    except folders.Failed as error:
        return ("failed",) + error.args
    except OSError as error:
        return "failed", str(error), ""


def key_of(wanted):
    """Return the name of an environment: a digest of all that it depends on."""
    import hashlib
    import sysconfig

    parts = [FORMAT, os.path.realpath(sys.executable), sys.version, sys.implementation.name]
    parts += [sys.implementation.cache_tag, sysconfig.get_platform()]
    parts += [wanted["requirements"], wanted["constraints"], wanted["options"]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def ready(path):
    """Return the interpreter of a complete environment, or None."""
    python, note = os.path.join(path, "bin", "python"), os.path.join(path, COMPLETE)
    try:
        noted = os.stat(note).st_mtime
    except OSError:
        return None
    folders.check_private(os.path.dirname(path))
    folders.check_owner(path)
    if not os.access(python, os.X_OK):
        return None
    if time.time() - noted > NOTED:
        try:
            os.utime(note)
        except OSError:
            pass
    return python


def make(wanted, home, path):
    """Make an environment, unless another process has meanwhile; return its interpreter."""
    if not sys.executable:
        raise folders.Failed("its interpreter doesn't know its own path. Name it with python=", "")
    folders.make_private(home)
    held = folders.lock(path)
    try:
        python = ready(path)
        if python is None:
            sweep(home)
            folders.discard(path)
            try:
                python = fill(wanted, path, held)
            except BaseException:
                folders.discard(path)
                raise
    finally:
        folders.release(path, held)
    return python


def fill(wanted, path, held):
    """Make the environment, and note that it is complete."""
    # What is shown and noted has no passwords.
    lines = [folders.masked(line) for line in wanted["requirements"]]
    listed = ", ".join(lines) or "no packages"
    folders.say("making an environment in %s, of %s, with %s" % (path, sys.executable, listed))
    started = time.time()
    python = installers.install(wanted, path, held)
    note = os.path.join(path, COMPLETE)
    with open(note + ".new", "w") as stream:
        json.dump({"requirements": lines, "python": sys.version}, stream)
    os.rename(note + ".new", note)
    folders.say("made in %.1f s" % (time.time() - started))
    return python


def sweep(home):
    """Remove what was left half removed."""
    for name in os.listdir(home):
        if name.endswith(".gone"):
            shutil.rmtree(os.path.join(home, name), ignore_errors=True)


def clean(cache_dir, age):
    """Remove what hasn't been used for ``age`` seconds; return the names of environments gone.

    What is being made stays, and so do wheels that may be waiting for that.
    """
    home = folders.folder(cache_dir, "environments")
    found = os.listdir(home) if os.path.isdir(home) else []
    removed = []
    # A builder that was killed leaves its lock.
    for name in sorted({each[:-5] if each.endswith(".lock") else each for each in found}):
        path = os.path.join(home, name)
        there = os.path.isdir(path)
        if name.endswith(".gone"):
            shutil.rmtree(path, ignore_errors=True)
        elif not there or idle(path, COMPLETE) >= age:
            held = folders.lock(path, wait=False)
            if held is not None:
                folders.discard(path)
                folders.release(path, held)
                removed += [name] * there
    stored = folders.folder(cache_dir, "wheels")
    for name in sorted(os.listdir(stored)) if os.path.isdir(stored) else []:
        path = os.path.join(stored, name)
        if idle(path) >= max(age, NOTED):
            shutil.rmtree(path, ignore_errors=True)
    return removed


def idle(path, *names):
    """Return for how many seconds a folder hasn't been used, by a file in it or by itself.

    -1 if another process has removed it meanwhile.
    """
    for each in [os.path.join(path, name) for name in names] + [path]:
        try:
            return time.time() - os.stat(each).st_mtime
        except FileNotFoundError:
            pass
    return -1
