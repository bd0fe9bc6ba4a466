"""Ask many hosts at once what they are, and print a table.

Run it with the names of hosts that you can log in to::

    python facts.py web1 web2 web3

The hosts need a Python, 3.6 or newer. The exit status is 1 if a host could not be asked.
"""

import os
import platform
import shutil
import sys
from contextlib import ExitStack

from fabremote import Connection, RemoteException

COLUMNS = ("host", "system", "python", "cpus", "load", "free on /")


def facts():
    """Return what a host says of itself; this runs there."""
    usage = shutil.disk_usage("/")
    return (
        platform.system(),
        platform.python_version(),
        os.cpu_count(),
        f"{os.getloadavg()[0]:.2f}",
        f"{100 * usage.free // usage.total} %",
    )


def ask(hosts):
    """Return a row or an error for each host, all of them asked at once."""
    futures, answers = {}, {}
    with ExitStack() as stack:
        for host in hosts:
            connection = stack.enter_context(Connection(host, connect_timeout=10))
            try:
                futures[host] = connection.python(timeout=30).submit(facts)
            except RemoteException as error:
                answers[host] = error
        for host, future in futures.items():
            try:
                answers[host] = future.result()
            except Exception as error:
                answers[host] = error
    return {host: answers[host] for host in hosts}


def table(rows):
    """Return rows as text, in columns as wide as they need."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell!s:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def main(hosts):
    """Print the table, and what went wrong; return the exit status."""
    if not hosts:
        print(__doc__, file=sys.stderr)
        return 2
    answers = ask(hosts)
    errors = {host: answer for host, answer in answers.items() if isinstance(answer, Exception)}
    rows = [(host, *answer) for host, answer in answers.items() if host not in errors]
    print(table([COLUMNS, *rows]))
    for host, error in errors.items():
        print(f"{host}: {type(error).__name__}: {error}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
