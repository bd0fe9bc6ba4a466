"""What fabremote raises.

::

    RemoteException(Exception)            anything not better named
     +- RemoteConnectionRefused           no SSH connection could be had
     |   +- RemoteHostKeyRejected
     +- RemoteInterpreterMissing          no such interpreter, or not a usable one
     +- RemoteSudoRefused                 sudo does not let in
     |   +- RemoteAuthFailure             also invoke's AuthFailure: the wrong password
     +- EnvironmentBuildError             the packages required can't be had there
     +- RemoteConnectionLost              the link broke during a call
     +- NoHostsLeft                       also a concurrent.futures.BrokenExecutor
     +- RemoteProcessDied                 the worker ended without an answer
     +- RemoteTimeout                     also a TimeoutError
     +- RemoteCancelled                   also a concurrent.futures.CancelledError
     +- ShippingError                     also a TypeError
     +- ResultError                       also a TypeError
     |   +- UntrustedResult
     +- RemoteError                       raised there, of a type unknown here

An exception that the function raised comes back as its own type wherever it is
a built-in one or one of the caller's own classes; its remote traceback is the
`RemoteTraceback` at the end of its ``__cause__`` chain.
"""

from __future__ import annotations

import concurrent.futures
import signal

from invoke.exceptions import AuthFailure
from invoke.runners import Result


class RemoteException(Exception):
    """Base of all that fabremote raises."""


class RemoteConnectionRefused(RemoteException):
    """There is no SSH connection: refused, unknown host, timeout, login or gateway."""


class RemoteHostKeyRejected(RemoteConnectionRefused):
    """The host's key is unknown or not the one expected."""


class RemoteInterpreterMissing(RemoteException):
    """The host has no such interpreter, or what it has can't be used.

    Attributes: ``interpreter``, what was asked for or found last (str);
    ``tried``, the commands tried, in order (tuple of str); ``begun``, False if nothing of
    the call has run there, True if that is not known.
    """

    def __init__(
        self,
        message: str,
        interpreter: str = "",
        tried: tuple[str, ...] = (),
        begun: bool = False,
    ) -> None:
        super().__init__(message)
        self.interpreter = interpreter
        self.tried = tried
        self.begun = begun


class RemoteSudoRefused(RemoteException):
    """sudo on the host does not let the login's user run what ``sudo=True`` asks for."""


class RemoteAuthFailure(RemoteSudoRefused, AuthFailure):
    """sudo did not take the password.

    Attributes, as of invoke's AuthFailure: ``result``, a Result without an exit
    status whose ``stdout`` is what sudo said; ``prompt`` (str).
    """

    def __init__(self, message: str, result: Result, prompt: str) -> None:
        AuthFailure.__init__(self, result, prompt)
        self.args = (message,)

    def __str__(self) -> str:
        return str(self.args[0])


class EnvironmentBuildError(RemoteException):
    """What ``requires=`` asks for can't be had: no environment could be made, and none is left.

    Attribute: ``log``, the last of what the installer printed (str).
    """

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class RemoteConnectionLost(RemoteException):
    """The link to the host broke, or none could be had for a call.

    Attribute: ``begun``, False if nothing of the call has run there, True if that is not known.
    """

    def __init__(self, message: str, begun: bool = True) -> None:
        super().__init__(message)
        self.begun = begun


class NoHostsLeft(RemoteException, concurrent.futures.BrokenExecutor):
    """None of an executor's hosts can be reached any more, so that nothing can run its work.

    The last host's failure is its ``__cause__``.
    """


class RemoteProcessDied(RemoteException):
    """The function's process ended without an answer.

    Attributes: ``exited``, its exit status (int), or None if a signal ended it;
    ``signal``, that signal's name such as ``"SIGSEGV"``, or None; ``stderr``,
    the last of what it printed there (str); ``begun``, False if nothing of the
    call has run there, True if that is not known.
    """

    def __init__(
        self,
        message: str,
        exited: int | None = None,
        signal: str | None = None,
        stderr: str = "",
        begun: bool = True,
    ) -> None:
        super().__init__(message)
        self.begun = begun
        self.exited = exited
        self.signal = signal
        self.stderr = stderr


def ended_how(exited: int | None, name: str | None) -> str:
    """Return how a process ended: by a signal of this name, or with this status."""
    return f"exited with status {exited}" if name is None else f"was killed by {name}"


def signal_name(number: int) -> str:
    """Return a signal's name, or what there is of it where this system has no name for it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class RemoteTimeout(RemoteException, TimeoutError):
    """The call took longer than ``timeout`` seconds; its process, if it had one, was killed."""

    def __init__(self, message: str, timeout: float | None = None) -> None:
        super().__init__(message)
        self.timeout = timeout


class RemoteCancelled(RemoteException, concurrent.futures.CancelledError):
    """The call was cancelled from this side; its process was killed."""


class ShippingError(RemoteException, TypeError):
    """The function or an argument can't be sent, or not loaded there."""


class ResultError(RemoteException, TypeError):
    """The result can't be pickled there, or can't be rebuilt here."""


class UntrustedResult(ResultError):
    """The result holds an object of a type that is not rebuilt unless it is trusted.

    Attributes: ``type_name``, that type's full name (str); ``path``, its place
    inside the result, such as ``[0].owner`` (str).
    """

    def __init__(self, message: str, type_name: str = "", path: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.path = path


class RemoteError(RemoteException):
    """The function raised an exception whose type can't be rebuilt here.

    Attributes: ``type_name`` (str); ``args_repr``, the texts of its arguments
    (tuple of str); ``traceback``, the remote traceback's text (str).
    """

    def __init__(
        self,
        message: str,
        type_name: str = "",
        args_repr: tuple[str, ...] = (),
        traceback: str = "",
    ) -> None:
        super().__init__(message)
        self.type_name = type_name
        self.args_repr = args_repr
        self.traceback = traceback


class RemoteTraceback(Exception):
    """The text of a traceback from the far side, shown as the cause of what was raised there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return '\n"""\n' + self.text + '"""'


def raised_there(error: BaseException) -> bool:
    """Return whether a function on a host raised ``error``, rather than this side."""
    seen: set[int] = set()
    while error.__cause__ is not None and id(error) not in seen:
        seen.add(id(error))
        error = error.__cause__
    return isinstance(error, RemoteTraceback)


__all__ = [
    "EnvironmentBuildError",
    "NoHostsLeft",
    "RemoteAuthFailure",
    "RemoteCancelled",
    "RemoteConnectionLost",
    "RemoteConnectionRefused",
    "RemoteError",
    "RemoteException",
    "RemoteHostKeyRejected",
    "RemoteInterpreterMissing",
    "RemoteProcessDied",
    "RemoteSudoRefused",
    "RemoteTimeout",
    "RemoteTraceback",
    "ResultError",
    "ShippingError",
    "UntrustedResult",
    "raised_there",
]
