"""From nothing to the first result: against paramiko's connect and one command, and Fabric's."""

from __future__ import annotations

import sys
from contextlib import ExitStack

import fabric

from benchmarks.host import Host, drain, run_raw
from benchmarks.measure import Row, medians, take_turns, times_row

ROUNDS = 15


def measure(host: Host) -> list[Row]:
    """Return the rows of connecting."""
    opened = ExitStack()
    server = host.server

    def ours() -> None:
        conn = opened.enter_context(host.connection())
        conn.python(python=sys.executable).call(len, "abc")

    def raw(prompt: bool) -> None:
        client = opened.enter_context(host.raw(prompt))
        drain(run_raw(client, "print(1)"))

    def fabrics() -> None:
        conn = fabric.Connection(
            server.hosts[0], server.user, server.port, connect_kwargs=server.connect_kwargs
        )
        opened.enter_context(conn).run(f"{sys.executable} -c 'print(1)'", hide=True)

    contenders = {
        "ours": ours,
        "raw": lambda: raw(False),
        "prompt": lambda: raw(True),
        "fabric": fabrics,
    }
    found = medians(take_turns(contenders, rounds=ROUNDS, after=opened.close))
    what = "connect and first result"
    return [
        times_row(what, found["ours"], "raw connect and exec", found["raw"], at_most=1.25),
        times_row(what, found["ours"], "the same, acknowledging at once", found["prompt"]),
        times_row(what, found["ours"], "Fabric's connect and run", found["fabric"], at_most=0.5),
    ]
