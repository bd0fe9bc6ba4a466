"""``ssh_options``: options of ssh_config(5) as a dictionary, and their effect on paramiko.

::

    parse({"Port": 2222, ...}) -> SSHSettings -> .for_host(host, user) -> tokens replaced
                                                       |
      fabric.Connection(settings.hostname, **connection_arguments(settings),
                        connect_kwargs=connect_arguments(settings, verifier, ...))
      open_socket(settings)             what to pass as ``sock``, unless through a jump host
      keep_alive(transport, settings)   once it is open
      settings.env                      variables for each call

`parse` raises ValueError for whatever can't be honoured, before anything is
opened. ``python -m fabremote.ssh_page`` prints docs/ssh_options.md.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from paramiko import PKey, SSHException, Transport
from paramiko.util import get_logger

from fabremote import sockets
from fabremote.hostkeys import HostKeySettings, Verifier
from fabremote.ssh_config_file import from_config
from fabremote.ssh_login import Login
from fabremote.ssh_reference import TABLE
from fabremote.ssh_refusals import ALIASES
from fabremote.ssh_settings import SSHSettings
from fabremote.ssh_table import Option
from fabremote.ssh_values import LOGLEVELS, Given, algorithms
from fabremote.threads import start_thread
from fabremote.transports import RenewingTransport

_ALIASES = {old.lower(): new for old, new in ALIASES.items()}


class Hop(NamedTuple):
    """A host to jump through; user and port are None if not given."""

    user: str | None
    host: str
    port: int | None


def parse(options: Mapping[str, Any]) -> SSHSettings:
    """Return what ``options`` mean.

    Raises ValueError for an unknown option, one that can't be honoured, and a
    value that means nothing, naming it and saying what to do.
    """
    if not isinstance(options, Mapping):
        raise TypeError(
            f"ssh_options={options!r:.100} must be a dict, such as {{'Compression': True}}."
        )
    fields: dict[str, Any] = {}
    given: dict[str, str] = {}
    for name, value in options.items():
        option = _find(name)
        if option.name in given:
            raise ValueError(
                f"ssh_options has {given[option.name]} and {name}, which are the same: give one."
            )
        given[option.name] = name
        read = _read(name, option, value)
        if option.field:
            fields[option.field] = read
    _check_together(fields)
    keys = {
        field.removeprefix("host_keys."): fields.pop(field)
        for field in list(fields)
        if field.startswith("host_keys.")
    }
    keys["batch"] = fields.get("batch", False)
    return SSHSettings(**fields, host_keys=HostKeySettings(**keys))


def host_keys_of(connection: Any) -> HostKeySettings:
    """Return what ~/.ssh/config says about the host keys of a Fabric connection's host."""
    found = parse(from_config(connection.ssh_config))
    port, name = int(connection.port), connection.original_host
    return found.for_host(connection.host, connection.user, port, name).host_keys


def _find(name: object) -> Option:
    if not isinstance(name, str):
        raise ValueError(f"ssh_options has the key {name!r}: the names of options are str.")
    found = TABLE.get(_ALIASES.get(name.lower(), name).lower())
    if found is None:
        known = {**{key: option.name for key, option in TABLE.items()}}
        known.update((old.lower(), old) for old in ALIASES)
        close = difflib.get_close_matches(name.lower(), known, 1, 0.5)
        hint = f"Did you mean {known[close[0]]}?" if close else "See docs/ssh_options.md."
        raise ValueError(f"ssh_options has an unknown option {name!r}. {hint}")
    return found


def _read(name: str, option: Option, value: object) -> Any:
    said = f"ssh_options: {name}={value!r} is not possible"
    if option.status == "refused":
        raise ValueError(f"{said}, whatever the value. {option.note}")
    try:
        given = _text(option, value)
        if option.read:
            return option.read(given)
        if given in option.values or str(given).lower() in option.values:
            return None
        if str(given).lower() in ("true", "false"):
            return _read(name, option, str(given).lower() == "true")
    except ValueError as error:
        detail = str(error).rstrip(".")
        raise ValueError(f"{said}: {detail or 'allowed is ' + option.allowed}.") from None
    raise ValueError(f"{said}, only {option.allowed} is. {option.note}")


def _text(option: Option, value: object) -> Given:
    """Return a value as text, a list or a path as a tuple of texts."""
    if isinstance(value, Mapping) and option.name == "SetEnv":
        return tuple(f"{key}={text}" for key, text in value.items())
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, (bool, list, tuple)) or item is None for item in value):
            raise ValueError
        return tuple(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, os.PathLike):
        return (os.fspath(value),)
    if value is None:
        raise ValueError(f"leave it out to have it unset; allowed is {option.allowed}")
    if isinstance(value, (bytes, Mapping, set, frozenset)):
        raise ValueError(f"a {type(value).__name__} is no value; allowed is {option.allowed}")
    return str(value)


def _check_together(fields: dict[str, Any]) -> None:
    """Refuse combinations of which one part would have no effect."""
    for proxy in ("proxy_jump", "proxy_command"):
        if str(fields.get(proxy)).lower() == "none" and proxy in fields:
            fields[proxy] = ""
    jump, command = fields.get("proxy_jump"), fields.get("proxy_command")
    if jump:
        parse_jump(jump)
    if jump and command:
        raise ValueError("ssh_options: ProxyJump and ProxyCommand exclude each other: give one.")
    if str(fields.get("version_addendum")).lower() == "none":
        fields["version_addendum"] = None
    if "server_alive_count" in fields and not fields.get("server_alive_interval"):
        raise ValueError(
            "ssh_options: ServerAliveCountMax counts intervals: give ServerAliveInterval, too."
        )
    if fields.get("bind_address") and fields.get("bind_interface"):
        raise ValueError(
            "ssh_options: BindAddress and BindInterface exclude each other: give one."
        )
    if fields.get("bind_interface") and not sys.platform.startswith("linux"):
        raise ValueError("ssh_options: BindInterface works on Linux only: use BindAddress.")
    agent = fields.get("identity_agent")
    if fields.get("forward_agent") and agent not in (None, "SSH_AUTH_SOCK", "$SSH_AUTH_SOCK"):
        raise ValueError(
            "ssh_options: ForwardAgent would forward SSH_AUTH_SOCK's agent and not that of "
            "IdentityAgent: set SSH_AUTH_SOCK instead of IdentityAgent, or leave one out."
        )
    if jump or command:
        _check_proxied(fields)


# What concerns the TCP connection that we make, which with a proxy is none to the host.
_TCP = {
    "address_family": "AddressFamily",
    "bind_address": "BindAddress",
    "bind_interface": "BindInterface",
    "connection_attempts": "ConnectionAttempts",
    "ip_service": "IPQoS",
    "tcp_keepalive": "TCPKeepAlive",
    "host_keys.check_ip": "CheckHostIP",
}


def _check_proxied(fields: dict[str, Any]) -> None:
    usual = {"host_keys.check_ip": False}
    for field, name in _TCP.items():
        default = usual.get(field, getattr(SSHSettings, field, None))
        if field in fields and fields[field] != default:
            raise ValueError(
                f"ssh_options: {name} has no effect behind ProxyJump or ProxyCommand, as the "
                "host is not connected to from here: give it for the first host of the way."
            )


def parse_jump(text: str) -> list[Hop]:
    """Return the hosts of a ProxyJump's value, in order; raise ValueError if it has no meaning."""
    return [_hop(part.strip(), text) for part in text.split(",")] if text else []


_HOP = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>[^\s@:/\[\]]+))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


def _hop(part: str, text: str) -> Hop:
    match = _HOP.fullmatch(part.removeprefix("ssh://").rstrip("/") if "://" in part else part)
    port = int(match["port"]) if match and match["port"] else None
    if not match or (port is not None and not 1 <= port <= 65535):
        raise ValueError(
            f"ssh_options: ProxyJump={text!r} is not possible: {part!r} is neither "
            "[user@]host[:port] nor ssh://[user@]host[:port]; IPv6 addresses are in brackets."
        )
    return Hop(match["user"], match["v6"] or match["host"], port)


# Effects -----------------------------------------------------------------------------------


def connection_arguments(settings: SSHSettings) -> dict[str, Any]:
    """Return arguments for `fabric.Connection`, besides the host and ``connect_kwargs``.

    A gateway is among them only as False, if there shall be none: jump hosts are
    the caller's to open, see `parse_jump`, and `open_socket` runs ProxyCommand.
    """
    arguments = {
        "user": settings.user,
        "port": settings.port,
        "connect_timeout": settings.connect_timeout,
        "forward_agent": settings.forward_agent,
        "gateway": None if settings.proxy_jump or settings.gateway is None else False,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def connect_arguments(
    settings: SSHSettings,
    verifier: Verifier | None = None,
    *,
    user: str | None = None,
    password: str | None = None,
    passphrase: str | None = None,
    pkey: PKey | None = None,
    key_filename: str | Sequence[str] = (),
    allow_agent: bool = True,
    look_for_keys: bool = True,
    compress: bool = False,
    **others: Any,
) -> dict[str, Any]:
    """Return arguments for `SSHClient.connect`, which are Fabric's ``connect_kwargs``.

    ``settings``: those that `SSHSettings.for_host` returned. The others are what
    paramiko would be given for the login; `Login` uses them within the limits
    that the settings set. With a ``verifier``, its policy is to be the client's.
    ``others`` are passed on.
    """
    for taken in ("auth_strategy", "transport_factory"):
        if taken in others:
            raise ValueError(
                f"connect_kwargs has {taken}, which a connection to a host name has of its own: "
                "make the connection with fabremote.Connection instead."
            )
    files = [key_filename] if isinstance(key_filename, str) else list(key_filename)
    name = user or settings.user
    if not name:
        raise ValueError("connect_arguments() needs a user: use what for_host() returns.")
    login = Login(
        settings,
        name,
        password=password,
        passphrase=passphrase,
        pkey=pkey,
        key_filename=files,
        allow_agent=allow_agent,
        look_for_keys=look_for_keys,
    )
    return {
        **others,
        "auth_strategy": login,
        "compress": settings.compress or compress,
        "transport_factory": make_transport_factory(settings, verifier),
    }


def make_transport_factory(
    settings: SSHSettings, verifier: Verifier | None = None
) -> Callable[..., Transport]:
    """Return what makes transports with these settings, over the verifier's own if given."""
    make: Callable[..., Transport] = verifier.transport_factory if verifier else RenewingTransport

    def factory(sock: Any, **options: Any) -> Transport:
        transport = make(sock, **options)
        _negotiate(transport, settings)
        if verifier is None and settings.host_keys.algorithms:
            kinds = algorithms("keys")(settings.host_keys.algorithms)
            transport.get_security_options().key_types = kinds
        if settings.rekey_bytes:
            transport.packetizer.REKEY_BYTES = settings.rekey_bytes
        if settings.version_addendum:
            transport.local_version += f" {settings.version_addendum}"
        if settings.connect_timeout:
            transport.banner_timeout = settings.connect_timeout
            transport.handshake_timeout = settings.connect_timeout
        if settings.log_level is not None:
            transport.set_log_channel(_log_channel(settings.log_level))
        return transport

    return factory


def _negotiate(transport: Transport, settings: SSHSettings) -> None:
    offered = transport.get_security_options()
    if settings.kex:
        offered.kex = settings.kex
    if settings.ciphers:
        offered.ciphers = settings.ciphers
    if settings.macs:
        offered.digests = settings.macs


def _log_channel(level: int) -> str:
    """Return the name of the logger of this level; connections of one level share it."""
    word = next(word for word, value in LOGLEVELS.items() if value == level)
    channel = f"paramiko.transport.{word}"
    get_logger(channel).setLevel(level)
    return channel


def open_socket(
    settings: SSHSettings, host: str | None = None, port: int | None = None
) -> socket.socket:
    """Return what leads to the host: a TCP connection, or the proxy command's pipe.

    ``settings``: those that `SSHSettings.for_host` returned. Raises OSError.
    """
    if settings.proxy_command:
        return sockets.proxy(settings.proxy_command)
    return sockets.connect(
        host or settings.hostname or "",
        port or settings.port or 22,
        settings.connect_timeout,
        family=settings.address_family,
        source=settings.bind_address,
        interface=settings.bind_interface,
        attempts=settings.connection_attempts,
        keepalive=settings.tcp_keepalive,
        service=settings.ip_service,
    )


def keep_alive(transport: Transport, settings: SSHSettings) -> None:
    """Ask the host for a sign of life as the settings say; without any, close the transport."""
    interval = settings.server_alive_interval
    if interval is None:
        return
    transport.set_keepalive(0)
    if interval:
        patience = interval * settings.server_alive_count
        start_thread("fabremote-alive", _watch, transport, interval, patience)


def _watch(transport: Transport, interval: int, patience: int) -> None:
    while True:
        transport.join(interval)  # ends at once when the transport does
        if not transport.is_active():
            return
        asked = time.monotonic()
        try:
            # paramiko's keepalive asks for no answer. A channel of no known kind must be
            # answered, and unlike a global request's the answer can't be taken for another's.
            transport.open_channel("keepalive@fabremote", timeout=patience).close()
        except (SSHException, EOFError, OSError):
            heard = getattr(transport.sock, "heard", 0.0) > asked
            if not heard and time.monotonic() - asked >= patience:
                with contextlib.suppress(SSHException, EOFError, OSError):
                    transport.close()  # The gateway below it may be gone, too.
                return


__all__ = [
    "Hop",
    "SSHSettings",
    "connect_arguments",
    "connection_arguments",
    "keep_alive",
    "make_transport_factory",
    "open_socket",
    "parse",
    "parse_jump",
]
