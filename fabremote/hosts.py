"""Connections made from a host name: the login, host keys and ssh_options of the ssh command."""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any, TypedDict

import fabric

from fabremote import ssh_arguments
from fabremote import ssh_options as options_of_ssh
from fabremote.connection import Connection
from fabremote.hostkeys import Verifier
from fabremote.ssh_arguments import check_port, find_key
from fabremote.ssh_config_file import from_config
from fabremote.ssh_settings import SSHSettings
from fabremote.verification import VERIFIES

# Whether what this thread logs of a connection is kept quiet.
_quiet: contextvars.ContextVar[bool] = contextvars.ContextVar("quiet", default=False)
logging.getLogger("fabremote").addFilter(lambda record: not _quiet.get())


class ConnectionArguments(TypedDict, total=False):
    """How to connect to a host name; `open_connection` says what each means."""

    port: int | None
    user: str | None
    key: str | os.PathLike[str] | None
    password: str | None
    compression: bool
    quiet: bool
    ssh_options: Mapping[str, Any] | None


class HostConnection(Connection):
    """A connection to a host name: it verifies the host's key, and honours ``ssh_options``.

    ~/.ssh/config applies as Fabric applies it, and its host-key options too.
    """

    host: Any
    connect_kwargs: Any

    def __init__(
        self,
        host: str,
        ssh_options: Mapping[str, Any] | None = None,
        login: Mapping[str, Any] | None = None,
        quiet: bool = False,
        **kwargs: Any,
    ) -> None:
        options = dict(ssh_options or {})
        given = options_of_ssh.parse(options)
        super().__init__(host, **{**options_of_ssh.connection_arguments(given), **kwargs})
        of_file = from_config(self.ssh_config, options, proxied=bool(given.gateway))
        given = options_of_ssh.parse({**of_file, **options})
        # What ~/.ssh/config calls this host is Fabric's to look up.
        name = self.host if given.hostname is None else self.original_host
        found = given.for_host(name, self.user, int(self.port), self.original_host)
        verifier = Verifier(found.hostname or self.host, found.port or 22, found.host_keys)
        passed = {**self.connect_kwargs, **(login or {})}
        if self.connect_timeout is not None:
            passed.pop("timeout", None)  # Fabric takes one of them only
        self._set(_fabremote_ssh=found, _fabremote_quiet=quiet, **{VERIFIES: True})
        self.host = found.hostname
        self.client.set_missing_host_key_policy(verifier.policy)
        self.connect_kwargs = options_of_ssh.connect_arguments(found, verifier, **passed)
        if found.proxy_jump:
            self.gateway = _way(found.proxy_jump, found.batch)
            self._set(_fabremote_own_gateway=True)
        elif isinstance(self.gateway, fabric.Connection):
            self.gateway = _verified(self.gateway, found.batch)
            self._set(_fabremote_own_gateway=True)

    @property
    def settings(self) -> SSHSettings:
        """The ``ssh_options`` in force, for this host."""
        found: SSHSettings = vars(self)["_fabremote_ssh"]
        return found

    def open(self) -> Any:
        """Open the SSH connection, as `Connection.open` does; without a word if it is quiet."""
        token = _quiet.set(self._fabremote_quiet)
        try:
            return super().open()
        finally:
            _quiet.reset(token)

    def call_env(self) -> dict[str, str]:
        """Return the variables that SetEnv and SendEnv give each call."""
        return self.settings.env

    def make_socket(self) -> Any:
        """Return what leads to the host: a TCP connection or a proxy command's pipe."""
        limit: Any = self.time_to_connect()
        return options_of_ssh.open_socket(
            dataclasses.replace(self.settings, connect_timeout=limit)
        )

    def time_to_connect(self) -> float | None:
        """Return how many seconds connecting may take, as ConnectTimeout says or Fabric does."""
        return self.settings.connect_timeout or super().time_to_connect()

    def stay_alive(self) -> None:
        """Watch the open link, as ServerAliveInterval says or as usual."""
        if self.settings.server_alive_interval is None:
            super().stay_alive()
        else:
            options_of_ssh.keep_alive(self.transport, self.settings)


def _way(jumps: str, batch: bool) -> HostConnection:
    """Return the connection to the last of ProxyJump's hosts, through those before it.

    ``batch``: whether nobody is to be asked anything on the way either.
    """
    gateway: HostConnection | None = None
    options = {"BatchMode": batch}
    for hop in options_of_ssh.parse_jump(jumps):
        # ~/.ssh/config's own ProxyJump for a hop holds only for the first.
        through = {} if gateway is None else {"gateway": gateway}
        gateway = HostConnection(hop.host, options, user=hop.user, port=hop.port, **through)
    if gateway is None:
        raise ValueError(f"ProxyJump={jumps!r} names no host.")
    return gateway


def _verified(gateway: fabric.Connection, batch: bool) -> HostConnection:
    """Return a gateway that Fabric made of ~/.ssh/config, with its host key verified."""
    if isinstance(gateway, HostConnection):
        return gateway
    through = {}
    if isinstance(gateway.gateway, fabric.Connection):
        through["gateway"] = _verified(gateway.gateway, batch)
    options, host = {"BatchMode": batch}, gateway.original_host
    return HostConnection(host, options, user=gateway.user, port=gateway.port, **through)


def open_connection(
    hostname: str,
    *,
    port: int | None = None,
    user: str | None = None,
    key: str | os.PathLike[str] | None = None,
    password: str | None = None,
    compression: bool = False,
    quiet: bool = False,
    ssh_options: Mapping[str, Any] | None = None,
) -> Connection:
    """Return a connection to a host name or address; it opens at its first use.

    ``hostname``: also as ``user@host:port`` or ``user@[IPv6 address]:port``.
    ``port``: 22 unless ~/.ssh/config says otherwise. ``user``: the current one,
    likewise. ``key``: a private key's file, as given or in ~/.ssh.
    ``password``: for the login, and for the key if it has a passphrase.
    ``quiet``: no warnings or log of the connection.
    ``ssh_options``: options of ssh_config, see docs/ssh_options.md.

    Raises ValueError for whatever can't be honoured, and for arguments and
    options that contradict each other.
    """
    settings = {
        "port": port,
        "user": user,
        "key": key,
        "password": password,
        "compression": compression,
        "quiet": quiet,
        "ssh_options": ssh_options,
    }
    way = ssh_arguments.read(hostname, settings)
    return HostConnection(way.host, way.options, way.login, quiet, **way.place)


__all__ = ["ConnectionArguments", "HostConnection", "check_port", "find_key", "open_connection"]
