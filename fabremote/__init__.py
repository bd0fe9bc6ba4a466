"""Run local Python functions on remote hosts, from inside Fabric and Invoke.

::

    from fabremote import Connection

    c = Connection("web1")
    c.call(fn, *args)                    # runs there, returns fn's value
    c.python(timeout=30).run(fn, *args)  # Fabric's Result, with .value

How a call travels::

    decorator, tasks, wrapping   @remotely, @task, wrap, install: ways in
        |-- hosts, ssh_options, hostkeys   connections made from a host name
        |-- group, executor                several hosts
    connection  Connection: Fabric's side
        |
    interpreter options bound to a host; call, run, submit
        |-- options     what python() takes
        |-- environments   requires=: packages, in a virtual environment there
        |-- shipping    functions to bytes, answers to values
        |
    session     one live agent, shared by an interpreter's calls
        |-- calls, streams   one call's frames, output and outcome
        |-- items, stream_sources   generators there, as generators here
        |-- links            the SSH channel or local process below
        |-- sudo             the way into another user's processes
        |-- bootstrap        the agent's way to the host
        |
    agent       what runs there; sent as source
"""

import importlib
from typing import TYPE_CHECKING, Any

from fabremote.connection import Connection
from fabremote.exceptions import (
    EnvironmentBuildError,
    NoHostsLeft,
    RemoteAuthFailure,
    RemoteCancelled,
    RemoteConnectionLost,
    RemoteConnectionRefused,
    RemoteError,
    RemoteException,
    RemoteHostKeyRejected,
    RemoteInterpreterMissing,
    RemoteProcessDied,
    RemoteSudoRefused,
    RemoteTimeout,
    RemoteTraceback,
    ResultError,
    ShippingError,
    UntrustedResult,
)
from fabremote.futures import RemoteFuture
from fabremote.interpreter import Interpreter

if TYPE_CHECKING:
    from fabremote.decorator import Remotely, remotely
    from fabremote.executor import RemoteExecutor
    from fabremote.generators import RemoteAsyncGenerator, RemoteGenerator
    from fabremote.group import GroupResult, SerialGroup, ThreadingGroup
    from fabremote.outcomes import Result
    from fabremote.shipping.explain import explain
    from fabremote.shipping.iterators import ahead
    from fabremote.tasks import task
    from fabremote.wrapping import install, wrap

__all__ = [
    "Connection",
    "EnvironmentBuildError",
    "GroupResult",
    "Interpreter",
    "NoHostsLeft",
    "RemoteAsyncGenerator",
    "RemoteAuthFailure",
    "RemoteCancelled",
    "RemoteConnectionLost",
    "RemoteConnectionRefused",
    "RemoteError",
    "RemoteException",
    "RemoteExecutor",
    "RemoteFuture",
    "RemoteGenerator",
    "RemoteHostKeyRejected",
    "RemoteInterpreterMissing",
    "RemoteProcessDied",
    "RemoteSudoRefused",
    "RemoteTimeout",
    "RemoteTraceback",
    "Remotely",
    "Result",
    "ResultError",
    "SerialGroup",
    "ShippingError",
    "ThreadingGroup",
    "UntrustedResult",
    "ahead",
    "explain",
    "install",
    "remotely",
    "task",
    "wrap",
]

# Imported at their first use. Not every script needs the decorators, which bring in all of
# ssh_options, or the groups, and a fabfile is often imported to run tasks that call nothing.
_LATE = {
    "RemoteAsyncGenerator": "fabremote.generators",
    "RemoteGenerator": "fabremote.generators",
    "Result": "fabremote.outcomes",
    "ahead": "fabremote.shipping.iterators",
    "GroupResult": "fabremote.group",
    "RemoteExecutor": "fabremote.executor",
    "Remotely": "fabremote.decorator",
    "SerialGroup": "fabremote.group",
    "ThreadingGroup": "fabremote.group",
    "explain": "fabremote.shipping.explain",
    "install": "fabremote.wrapping",
    "remotely": "fabremote.decorator",
    "task": "fabremote.tasks",
    "wrap": "fabremote.wrapping",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE} - {"TYPE_CHECKING", "Any", "importlib"})
