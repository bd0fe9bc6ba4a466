"""Tasks that run Python on the hosts they are given.

Run them in this folder, on any hosts that you can log in to::

    fab --list
    fab -H web1,web2 facts
    fab -H web1 disk --path /var
    fab -H web1 tail-log --path /var/log/syslog --lines 5
    fab -H web1 tail-log --follow        (until Ctrl-C)

The hosts need a Python, 3.6 or newer.
"""

import os
import platform
import shutil
import sys
import time
from collections import deque

from fabric import Connection, task

from fabremote import wrap


def system_facts():
    """Return what a host says of itself."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def print_tail(path, lines, follow):
    """Print a file's last lines; with ``follow``, what is added to it too, for ever."""
    with open(path, errors="replace") as file:
        sys.stdout.writelines(deque(file, lines))
        while follow:
            sys.stdout.write(file.read())
            sys.stdout.flush()
            time.sleep(0.2)


def name_of(c):
    """Return the host's name; without ``-H`` tasks run here."""
    return getattr(c, "original_host", "here")


@task
def facts(c: Connection):
    """Show the system, Python, processors and load of each host."""
    found = wrap(c).call(system_facts)
    print(f"{name_of(c)}:")
    for name, value in found.items():
        print(f"  {name:<8}{value}")


@task(help={"path": "where to look", "least": "fail if less than this percentage is free"})
def disk(c: Connection, path="/", least=0):
    """Show how much room a file system has."""
    try:
        usage = wrap(c).call(shutil.disk_usage, path)
    except OSError as error:
        raise SystemExit(f"{name_of(c)}: {error}") from None
    percent = 100 * usage.free // usage.total
    print(f"{name_of(c)}: {usage.free / 1e9:.1f} GB ({percent} %) of {path} is free")
    if percent < least:
        raise SystemExit(f"{name_of(c)}: less than {least} % of {path} is free")


@task(help={"path": "the file", "lines": "how many of its last lines", "follow": "until Ctrl-C"})
def tail_log(c: Connection, path="/var/log/syslog", lines=10, follow=False):
    """Show the end of a log, and what is added to it."""
    try:
        wrap(c).call(print_tail, path, lines, follow)
    except OSError as error:
        raise SystemExit(f"{name_of(c)}: {error}") from None
