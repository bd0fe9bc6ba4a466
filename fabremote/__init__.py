"""Run local Python functions on remote hosts, from inside Fabric and Invoke.

::

    from fabremote import Connection

    c = Connection("web1")
    c.call(fn, *args)                    # runs there, returns fn's value
    c.python(timeout=30).run(fn, *args)  # Fabric's Result, with .value

How a call travels::

    connection  Connection, wrap: Fabric's side
        |
    interpreter options bound to a host; call, run, submit
        |-- options     what python() takes
        |-- shipping    functions to bytes, answers to values
        |
    session     one live agent, shared by an interpreter's calls
        |-- calls, streams   one call's frames, output and outcome
        |-- links            the SSH channel or local process below
        |-- bootstrap        the agent's way to the host
        |
    agent       what runs there; sent as source
"""

from fabremote.connection import Connection, wrap
from fabremote.exceptions import (
    RemoteCancelled,
    RemoteConnectionLost,
    RemoteConnectionRefused,
    RemoteError,
    RemoteException,
    RemoteHostKeyRejected,
    RemoteInterpreterMissing,
    RemoteProcessDied,
    RemoteTimeout,
    RemoteTraceback,
    ResultError,
    ShippingError,
    UntrustedResult,
)
from fabremote.interpreter import Interpreter, RemoteFuture, Result

__all__ = [
    "Connection",
    "Interpreter",
    "RemoteCancelled",
    "RemoteConnectionLost",
    "RemoteConnectionRefused",
    "RemoteError",
    "RemoteException",
    "RemoteFuture",
    "RemoteHostKeyRejected",
    "RemoteInterpreterMissing",
    "RemoteProcessDied",
    "RemoteTimeout",
    "RemoteTraceback",
    "Result",
    "ResultError",
    "ShippingError",
    "UntrustedResult",
    "wrap",
]
