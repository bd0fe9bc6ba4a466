"""Search the logs of many hosts at once; matches are shown as they are found.

Run it in this folder, on any hosts that you can log in to::

    fab -c logs search --hosts web1,web2,web3 --pattern "error|fatal" --path "/var/log/*.log*"
    fab -c logs search --hosts web1,web2 --pattern timeout --path /var/log/syslog --follow

The searching is done on the hosts: only what matches travels. Files that end in .gz are read, too.
With ``--follow`` what is added is searched until Ctrl-C.
"""

import concurrent.futures
import contextlib
import glob
import gzip
import re
import sys
import threading
import time

from fabric import Connection
from invoke import Exit

from fabremote import task, wrap


def grep(pattern, path, follow):
    """Print the lines that match, with their files; return how many. This runs on the hosts."""
    wanted, files, count = re.compile(pattern), sorted(glob.glob(path)), 0
    if not files:
        raise FileNotFoundError(f"no file {path}")
    with contextlib.ExitStack() as stack:
        opened = []
        for name in files:
            opener = gzip.open if name.endswith(".gz") else open
            opened.append((name, stack.enter_context(opener(name, "rt", errors="replace"))))
        while True:
            for name, file in opened:
                for line in file:
                    if wanted.search(line):
                        count += 1
                        print(f"{name}: {line.rstrip()}", flush=True)
            if not follow:
                return count
            time.sleep(0.2)


class Labelled:
    """A file that puts a host's name before each line, and never mixes two."""

    lock = threading.Lock()

    def __init__(self, host):
        self.host, self.rest = host, ""

    def write(self, text):
        *lines, self.rest = (self.rest + text).split("\n")
        with self.lock:
            sys.stdout.writelines(f"{self.host}: {line}\n" for line in lines)

    def flush(self):
        sys.stdout.flush()


@task(
    help={
        "hosts": "names with commas between",
        "pattern": "a regular expression of Python's",
        "path": "a file, or several with * in the name",
        "follow": "until Ctrl-C",
    }
)
def search(c, hosts, pattern, path, follow=False):
    """Show the lines of logs that match, from all hosts at once."""
    names = [host.strip() for host in hosts.split(",") if host.strip()]
    if not names:
        raise Exit("--hosts names no host", 1)
    failed = total = 0
    # At Ctrl-C the connections are closed first, which ends the calls that the threads wait for.
    with (
        concurrent.futures.ThreadPoolExecutor(len(names)) as pool,
        contextlib.ExitStack() as open_,
    ):
        futures = {}
        for host in names:
            py = wrap(open_.enter_context(Connection(host))).python(out_stream=Labelled(host))
            futures[pool.submit(py.call, grep, pattern, path, follow)] = host
        for future in concurrent.futures.as_completed(futures):
            try:
                total += future.result()
            except Exception as error:
                failed += 1
                print(f"{futures[future]}: {error}", file=sys.stderr)
    print(f"{total} lines match")
    if failed:
        raise Exit(code=1)
