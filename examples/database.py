"""Move a database from one host to another, streamed by way of this machine.

Run it in this folder, on any two hosts that you can log in to::

    fab -c database copy --source db1 --target db2 --path /srv/app.sqlite3

The dump is made on one host and read on the other as it comes: it is at no time in this machine's
memory or on its disk as a whole. The target's file is replaced once all is there, and not
touched otherwise. It is written for SQLite, which is everywhere; for another database
have ``dump`` and ``load`` start its own tools, such as pg_dump and psql.
"""

import contextlib
import os
import sqlite3
import sys
from concurrent.futures import wait

from fabric import Connection
from invoke import Exit

from fabremote import RemoteException, task, wrap

END = "-- the end of the dump"


def dump(path):
    """Print a database as SQL; return how many statements that is. This runs on the source."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"no database {path}")
    count = 0
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        for statement in database.iterdump():
            print(statement)
            count += 1
    print(END)
    return count


def load(path, end):
    """Make a database of the SQL on stdin, in place of any other. This runs on the target."""
    staged, statement, complete = f"{path}.{os.getpid()}", "", False
    database = sqlite3.connect(staged, isolation_level=None)
    try:
        for line in sys.stdin:
            complete = line.rstrip() == end
            statement += "" if complete else line
            if sqlite3.complete_statement(statement):
                database.execute(statement)
                statement = ""
        if not complete:
            raise EOFError("the dump broke off before its end")
        database.close()
        os.replace(staged, path)
    finally:
        database.close()
        if os.path.exists(staged):
            os.unlink(staged)
    return os.path.getsize(path)


@task(
    help={
        "source": "the host that has it",
        "target": "the host that gets it",
        "path": "the database's file on the source",
        "to": "its file on the target, if it isn't the same",
    }
)
def copy(c, source, target, path, to=None):
    """Copy a database from one host to another."""
    reader, writer = os.pipe()
    with (
        Connection(source) as source,
        Connection(target) as target,
        open(reader, encoding="utf-8") as coming,
    ):
        begun = []
        try:
            with (
                contextlib.suppress(BrokenPipeError),
                open(writer, "w", encoding="utf-8") as going,
            ):
                loading = wrap(target).python(in_stream=coming).submit(load, to or path, END)
                begun.append(loading)
                # If it fails, what is written meets a broken pipe, and not one that nobody reads.
                loading.add_done_callback(lambda future: coming.close())
                count = wrap(source).python(out_stream=going).call(dump, path)
            size = loading.result()
        except (OSError, EOFError, sqlite3.Error, RemoteException) as error:
            # What was begun there is cleared away by the end of its stdin.
            wait(begun, 10)
            raise Exit(f"nothing was copied: {error}", 1) from None
        print(f"{count} statements copied, {size} bytes on {target.original_host}")
