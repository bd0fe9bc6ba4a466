"""Decorated functions and classes: what is called here runs there.

Run it with the names of hosts that you can log in to, as `ssh` knows them::

    python decorated.py web1 web2

Their host keys must be in ~/.ssh/known_hosts, and they need a Python, 3.6 or newer.
"""

import os
import platform
import sys

from fabremote import RemoteException, remotely


def describe():
    """Return what a machine is; a plain function, which runs wherever it is called."""
    return f"{platform.system()}, Python {platform.python_version()}"


def decorate(host):
    """Return a function and a class that run on ``host``; nothing is opened yet."""

    @remotely(host, timeout=30)
    def busy(share):
        """Return whether more than this share of the processors is busy, and what this is."""
        return os.getloadavg()[0] > share * os.cpu_count(), describe()

    @remotely(host, timeout=30)
    class Inventory:
        """What was found in folders: methods run there, the state is here."""

        def __init__(self):
            self.files = {}

        def look(self, folder):
            """Count the files of a folder there."""
            self.files[folder] = len(os.listdir(folder))
            return self

    return busy, Inventory


def main(hosts):
    """Ask each host; return the exit status."""
    if not hosts:
        print(__doc__, file=sys.stderr)
        return 2
    status = 0
    for host in hosts:
        busy, Inventory = decorate(host)
        try:
            loaded, what = busy(0.8)
            later = busy.submit(0.1)  # runs while the folders are looked at
            found = Inventory().look("/etc").look("/usr")
            print(f"{host}: {what}; {'busy' if loaded else 'idle'}; files: {found.files}")
            later.result()
        except RemoteException as error:
            print(f"{host}: {error}", file=sys.stderr)
            status = 1
        finally:
            busy.close()
    print(f"here: {describe()}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
