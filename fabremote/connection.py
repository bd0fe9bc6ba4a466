"""`Connection`: Fabric's side of a call."""

from __future__ import annotations

import dataclasses
import functools
import getpass
import importlib
import time
from collections.abc import Callable, Coroutine, Hashable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import fabric
from invoke.context import Context
from paramiko import SSHException

from fabremote import option_values, sockets, verification
from fabremote.configuration import REMOTELY_DEFAULTS, check_tables, remotely
from fabremote.exceptions import RemoteCancelled, RemoteConnectionLost
from fabremote.interpreter import Interpreter
from fabremote.links import ChannelLink, Link, ProcessLink, order
from fabremote.options import Options, PythonOptions
from fabremote.persistence import persist
from fabremote.refusals import refused
from fabremote.sessions import bound, in_turn, is_refusal, renewed, renewed_sftp, sessions_of
from fabremote.ssh_log import told_by_errors
from fabremote.starting import start
from fabremote.sudo import Asker, enter, kill_by
from fabremote.transports import RenewingTransport

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fabremote.early import Early
    from fabremote.prepared import Host
    from fabremote.session import Session

P = ParamSpec("P")
T = TypeVar("T")

# paramiko waits an hour for a channel unless told otherwise; seconds.
CHANNEL_TIMEOUT = 60
KEEPALIVE = 15


class Config(fabric.Config):
    """Fabric's configuration with the ``remotely`` subtree's defaults."""

    @staticmethod
    def global_defaults() -> dict[str, Any]:
        """Return the lowest-priority settings."""
        defaults: dict[str, Any] = fabric.Config.global_defaults()
        defaults["remotely"] = dict(REMOTELY_DEFAULTS)
        return defaults

    def merge(self) -> None:
        """Merge the levels; raise ValueError for one that has no table where one must be."""
        check_tables(self)
        super().merge()


class Calls:
    """What fabremote adds to a connection or context: `call` and `python`."""

    @overload
    def call(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn(*args, **kwargs)`` there in a fresh process and return its value.

        Every argument is the function's own; options belong to `python`. See
        `Interpreter.call` for what is raised.
        """
        return self.python().call(fn, *args, **kwargs)

    def python(self, **options: Unpack[PythonOptions]) -> Interpreter:
        """Return an `Interpreter` with options bound; `Options` says what there is.

        Raises TypeError for an unknown option and ValueError for a bad value.
        """
        return Interpreter(self._calls_host(), bound(self, options))

    def call_env(self) -> dict[str, str]:
        """Return variables that every call gets, below those of ``env=``."""
        return {}

    def _calls_host(self) -> Any:
        raise NotImplementedError


def _in_environment(host: Host, options: Options) -> Options:
    """Return the options with ``python`` in the environment they require, made if need be."""
    if options.requires is None:
        return options
    # Imported where it is needed: few calls do.
    python = importlib.import_module("fabremote.environments").provide(host, options)
    sessions_of(host.context).provided(options, python)
    return dataclasses.replace(options, python=python, requires=None)


class RemoteHost:
    """A Fabric connection as the place of an interpreter."""

    def __init__(self, connection: fabric.Connection) -> None:
        self.context = connection
        self.label = str(connection.original_host)

    def live_session(self, options: Options) -> Session | None:
        """Return the agent for these options if the connection has a live one."""
        connection = self.context
        transport = connection.transport if connection.is_connected else None
        return sessions_of(connection).live(options, transport) if transport else None

    def session(self, options: Options, early: Early | None = None) -> Session:
        """Return the agent for these options, connecting and starting it if need be.

        ``early`` may go to it as it starts. A dead connection is opened once more.
        """
        options = _in_environment(self, options)
        sessions = sessions_of(self.context)
        closings = sessions.closings
        try:
            return self._session(options, early)
        except RemoteConnectionLost as error:
            if sessions.closings != closings:
                text = f"The connection to {self.label} was closed from this side."
                raise RemoteCancelled(text) from error
            if error.begun or self.context.is_connected:
                raise
            return self._session(options, early)

    def _session(self, options: Options, early: Early | None) -> Session:
        connection = self.context
        sessions = sessions_of(connection)
        with sessions.opening:
            transport = self._open(connection)
        opener = functools.partial(self._channel, transport, options.start_timeout)
        kill: Callable[[int], None] = self._kill
        if options.sudo:
            opener = functools.partial(enter, opener, options, self._asker())
            kill = functools.partial(kill_by, opener)
        begin = functools.partial(start, opener, self.label, options, kill, early)
        return sessions.get(options, transport, begin)

    def _kill(self, pid: int) -> None:
        if not self.context.is_connected:
            return
        # At once or not at all.
        begin = functools.partial(fabric.Connection.create_session, self.context)
        # It leads its session's processes, if a login shell didn't come in between.
        order(begin, f"kill -9 -{pid} || kill -9 {pid}")

    def _asker(self) -> Asker:
        batch = bool(getattr(vars(self.context).get("_fabremote_ssh"), "batch", False))
        return Asker(self.context, self.label, self.context.user, batch)

    def _open(self, connection: fabric.Connection) -> Any:
        fresh = not connection.is_connected
        verified = remotely(connection)["verify_host_keys"]
        try:
            if verified:
                verification.prepare(connection)
            with told_by_errors():
                if isinstance(connection, Connection):
                    connection.open()
                else:
                    persist(connection.open, connection.connect_timeout)
            if verified:
                verification.check(connection)
        except (OSError, SSHException, EOFError, UnicodeError) as error:
            raise refused(connection, error) from error
        transport = connection.transport
        if fresh or not getattr(transport, "fabremote_hurried", False):
            sockets.hurry(transport)
            transport.channel_timeout = CHANNEL_TIMEOUT
            transport.fabremote_hurried = True
        return transport

    def _channel(self, transport: Any, limit: float) -> Link:
        try:
            with told_by_errors():
                begin: Callable[[], Any] = self.context.create_session
                if isinstance(self.context, RemoteCalls):  # That may go on over another transport.
                    begin = super(RemoteCalls, self.context).create_session  # type: ignore[misc]
                link = ChannelLink(in_turn(self.context, begin), self.label, limit)
        except (OSError, SSHException, EOFError, UnicodeError) as error:
            if isinstance(error, (EOFError, UnicodeError)):
                transport.close()  # It is broken, though its own thread may not know yet.
            why = (str(error) or type(error).__name__).rstrip(".")
            text = f"No session could be opened on {self.label}: {why}."
            if is_refusal(error):
                text += " If all that its sshd allows at once are in use, "
                text += "raise MaxSessions in its sshd_config, have less run at once, or raise "
                text += "remotely.start_timeout to wait longer."
            raise RemoteConnectionLost(text, begun=False) from error
        sockets.calm(transport)
        return link


class LocalHost:
    """This machine as the place of an interpreter, for a plain Invoke context."""

    label = "localhost"

    def __init__(self, context: Context) -> None:
        self.context = context

    def live_session(self, options: Options) -> Session | None:
        """Return the agent for these options on this machine if there is a live one."""
        return sessions_of(self.context).live(options, None)

    def session(self, options: Options, early: Early | None = None) -> Session:
        """Return the agent for these options on this machine; ``early`` isn't sent ahead."""
        options = _in_environment(self, options)
        opener: Callable[[], Link] = ProcessLink
        # A process of ours that says nothing is killed by its link's close().
        kill: Callable[[int], None] = lambda pid: None  # noqa: E731
        if options.sudo:
            asker = Asker(self.context, self.label, getpass.getuser())
            opener = functools.partial(enter, opener, options, asker)
            kill = functools.partial(kill_by, opener)
        make = functools.partial(start, opener, self.label, options, kill)
        return sessions_of(self.context).get(options, None, make)


class RemoteCalls(Calls):
    """`Calls` on a `fabric.Connection`."""

    def _calls_host(self) -> RemoteHost:
        return RemoteHost(self)

    def close(self) -> None:
        """Close the connection; whatever still runs through it is killed there first."""
        sessions_of(self).close()
        super().close()  # type: ignore[misc]

    def create_session(self) -> Any:
        """Return a new session channel, as Fabric does; wait for one if sshd allows no more.

        A connection that turns out to be broken is opened again.
        """
        return renewed(self, super().create_session)  # type: ignore[misc]

    def sftp(self) -> Any:
        """Return the connection's SFTP client, as Fabric does, likewise; another if it ended."""
        return renewed_sftp(self, super().sftp)  # type: ignore[misc]


class LocalCalls(Calls):
    """`Calls` on a plain `invoke.Context`: in fresh processes of this machine."""

    def _calls_host(self) -> LocalHost:
        return LocalHost(self)  # type: ignore[arg-type]

    def close(self) -> None:
        """End the local interpreters and whatever still runs in them."""
        sessions_of(self).close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Connection(RemoteCalls, fabric.Connection):
    """A `fabric.Connection` that also runs Python functions: `call` and `python`."""

    def __init__(self, host: str, *args: Any, **kwargs: Any) -> None:
        # Fabric's order is host, user, port, config, ...
        if len(args) < 3 and kwargs.get("config") is None:
            kwargs["config"] = Config()
        if kwargs.get("connect_kwargs") is not None:
            # Fabric adds to them, which is no business of the caller's.
            kwargs["connect_kwargs"] = dict(kwargs["connect_kwargs"])
        super().__init__(option_values.host(host), *args, **kwargs)
        # One that ~/.ssh/config asked for is nobody's but ours to close.
        given = len(args) > 3 or kwargs.get("gateway") is not None
        self._set(_fabremote_own_gateway=not given)

    def close(self) -> None:
        """Close the connection and its own gateway; what runs through it is killed first.

        If another thread is still connecting, that fails there.
        """
        self._set(_fabremote_given_up=True)
        sock = vars(self).get("_fabremote_socket")
        if not self.is_connected and sock is not None:
            sockets.abort(sock)
            # The client is the thread's that connects, which lets go of it.
            transport = self.client.get_transport()
            if transport is not None:
                transport.close()
        super().close()
        if self._fabremote_own_gateway and isinstance(self.gateway, fabric.Connection):
            self.gateway.close()

    def open(self) -> Any:
        """Open the SSH connection, as Fabric does, on a socket without Nagle's delay.

        Safe to call from several threads. Raises what Fabric raises.
        """
        with sessions_of(self).opening, sockets.noting(self._note_socket):
            if self.is_connected:
                return None
            if remotely(self)["verify_host_keys"]:
                verification.prepare(self)
            direct = not self.gateway and "sock" not in self.connect_kwargs
            attempt = self._open_promptly if direct else self._open_over
            self._set(_fabremote_socket=None, _fabremote_given_up=False)
            with told_by_errors():
                result = persist(attempt, self.time_to_connect(), lambda: self._fabremote_socket)
            if isinstance(self.transport, RenewingTransport):
                self.transport.rest()
            self.stay_alive()
            return result

    def _open_promptly(self) -> Any:
        return self._open_over(self.make_socket())

    def _open_over(self, sock: Any = None) -> Any:
        """Open as Fabric does, over a socket if there is one."""
        given = self.connect_kwargs
        # Fabric has no way to pass them but these, which stay the caller's.
        made = {"transport_factory": RenewingTransport, **given}
        self._set(connect_kwargs=made if sock is None else {**made, "sock": sock})
        try:
            return super().open()
        except BaseException:
            if sock is not None:
                sock.close()
            # Through a gateway a channel would be left.
            sockets.let_go(self.client)
            self._set(_fabremote_proxy_status=getattr(sock, "status", None))
            raise
        finally:
            self._set(connect_kwargs=given)

    def open_gateway(self) -> Any:
        """Return a channel to the host through the gateway, as Fabric does, but wait no hour."""
        gateway, limit = self.gateway, self.time_to_connect() or CHANNEL_TIMEOUT
        if isinstance(gateway, fabric.Connection):
            gateway.open()
            gateway.transport.channel_timeout = limit
        before = time.monotonic()
        try:
            return super().open_gateway()
        except SSHException as error:
            if time.monotonic() - before < limit:
                raise
            raise TimeoutError(f"timed out after {limit:g} seconds") from error

    def time_to_connect(self) -> float | None:
        """Return how many seconds connecting may take, if there is a limit."""
        limit: float | None = self.connect_timeout or self.connect_kwargs.get("timeout")
        return limit

    def _note_socket(self, sock: Any) -> None:
        self._set(_fabremote_socket=sock)
        if self._fabremote_given_up:
            sockets.abort(sock)

    def make_socket(self) -> Any:
        """Return a new TCP connection to the host, as `open` needs it without a gateway."""
        return sockets.connect(self.host, int(self.port), self.time_to_connect())

    def stay_alive(self) -> None:
        """Have the open transport send something now and then."""
        self.transport.set_keepalive(KEEPALIVE)


def wrap_context(context: Any) -> Any:
    """Return a connection or Invoke context with `call` and `python`, sharing its state."""
    if isinstance(context, Calls):
        return context
    if isinstance(context, fabric.Connection):
        mixin: type = RemoteCalls
    elif isinstance(context, Context):
        mixin = LocalCalls
    else:
        raise TypeError(
            f"wrap() takes a connection, a group or an invoke.Context, not {context!r:.100}."
        )
    cls: Any = type(context)
    made: Any = object.__new__(_wrapped_class(cls, mixin))
    # One state under two classes: whatever either opens, sets or closes is the other's too.
    object.__setattr__(made, "__dict__", vars(context))
    return made


@functools.cache
def _wrapped_class(cls: Hashable, mixin: type) -> type:
    assert isinstance(cls, type)
    return type(f"Remote{cls.__name__}", (mixin, cls), {"__module__": __name__})


__all__ = ["Config", "Connection", "RemoteHost", "wrap_context"]
