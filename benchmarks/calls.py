"""A call on an open connection, in a fresh process each: against a bare fork and a bare exec."""

from __future__ import annotations

import pickle
import struct
import sys
from collections.abc import Callable
from typing import Any

import paramiko

from benchmarks.far_side import FORK_PER_CALL, nothing
from benchmarks.host import Host, drain, read_exactly, run_raw
from benchmarks.measure import Row, medians, take_turns, times_row

ROUNDS = 30
EACH = 20
LENGTH = struct.Struct(">I")


def measure(host: Host) -> list[Row]:
    """Return the rows of warm calls."""
    # Of its own, as an agent has the modules that its calls used for those that follow, too.
    with host.connection() as conn, host.connection() as other, host.raw() as client:
        python, own = (one.python(python=sys.executable) for one in (conn, other))
        found = medians(
            take_turns(
                {
                    "bound": lambda: python.call(len, "abc"),
                    "unbound": lambda: conn.call(len, "abc"),
                    "own": lambda: own.call(nothing),
                    "fork": forking(client),
                    "exec": lambda: drain(run_raw(client, "pass")),
                },
                rounds=ROUNDS,
                each=EACH,
                warm=EACH,
            )
        )
    fork, spawn = "fork per call on a raw channel", "raw exec of python -c pass"
    return [
        times_row("call, options bound", found["bound"], fork, found["fork"], at_most=1.3),
        times_row("call, options bound", found["bound"], spawn, found["exec"], at_most=0.12),
        times_row("call, no options", found["unbound"], fork, found["fork"], at_most=1.3),
        times_row("call, no options", found["unbound"], spawn, found["exec"], at_most=0.12),
        times_row("call of an own module's function", found["own"], fork, found["fork"]),
    ]


def forking(client: paramiko.SSHClient) -> Callable[[], Any]:
    """Return the least that calls a function in a fresh process over a raw channel."""
    channel = run_raw(client, FORK_PER_CALL)
    return lambda: forked(channel)


def forked(channel: paramiko.Channel) -> Any:
    """Call a function in a fresh process of a channel that runs `FORK_PER_CALL`."""
    request = pickle.dumps((len, ("abc",)))
    channel.sendall(LENGTH.pack(len(request)) + request)
    (size,) = LENGTH.unpack(read_exactly(channel, LENGTH.size))
    return pickle.loads(read_exactly(channel, size))
