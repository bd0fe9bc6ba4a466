"""Why there is no SSH connection, in words that say what to try."""

from __future__ import annotations

import socket
from typing import Any

import fabric
from paramiko import (
    AuthenticationException,
    BadHostKeyException,
    ChannelException,
    PasswordRequiredException,
    SSHException,
)

from fabremote import sockets
from fabremote.exceptions import RemoteConnectionRefused, RemoteHostKeyRejected
from fabremote.persistence import BUSY

# What paramiko says, or doesn't, when the handshake comes to nothing.
_WORDS = {
    "No existing session": "the SSH handshake did not end in time",
    "EOFError": "the link was closed during the SSH handshake",
}


def refused(connection: Any, error: BaseException) -> RemoteConnectionRefused:
    """Return the error for a Fabric connection that could not be opened because of ``error``."""
    if isinstance(error, RemoteConnectionRefused):
        return error
    where = _address(connection)
    hop = failing_hop(connection)
    if hop is not connection:
        where += f", as its gateway {_address(hop)} can't be reached"
        connection = hop
    said = str(error) or type(error).__name__
    why = _WORDS.get(said, said)
    kind = RemoteConnectionRefused
    if isinstance(error, BadHostKeyException):
        kind = RemoteHostKeyRejected
    return kind(f"No SSH connection to {where}: {why.rstrip('.')}. {_advice(connection, error)}")


def _keys(connection: Any) -> str:
    files = connection.connect_kwargs.get("key_filename") or []
    return ", ".join([files] if isinstance(files, str) else map(str, files))


def _address(connection: Any) -> str:
    return f"{connection.user}@{connection.host}:{connection.port}"


def failing_hop(connection: Any) -> Any:
    """Return the connection that failed to open: this one, or one of its gateways."""
    gateway = connection.gateway
    if isinstance(gateway, fabric.Connection) and not gateway.is_connected:
        return failing_hop(gateway)
    return connection


def _advice(connection: Any, error: BaseException) -> str:
    host, port, user = connection.host, connection.port, connection.user
    if getattr(vars(connection).get("_fabremote_socket"), "aborted", False):
        return "It was closed from this side while it was being opened."
    if isinstance(error, sockets.Hindrance):
        return error.remedy
    if isinstance(error, ChannelException):
        return (
            f"The gateway could not reach it: check from there that {host} answers on port {port}."
        )
    if proxy_command(connection) and not _is_login(error):
        return _advice_on_proxy(connection)
    if isinstance(error, (socket.gaierror, UnicodeError)):  # the latter: it can't be a name
        return f"Nothing is known by the name {host!r}: check its spelling, or give an address."
    if isinstance(error, ConnectionRefusedError) or "Unable to connect" in str(error):
        return f"Nothing listens there: check the port, {port}, and that sshd runs on {host}."
    if isinstance(error, TimeoutError) or "timed out" in str(error).lower():
        return (
            f"{host} did not answer in time: check that it is up and that no firewall is in "
            "between, or raise connect_timeout."
        )
    if isinstance(error, FileNotFoundError) and connection.gateway is None:
        return f"There is no file {error.filename!r}: name one that exists."
    if isinstance(error, PasswordRequiredException):
        return (
            f"The private key {_keys(connection)} is encrypted: give its passphrase, or load it "
            "into an SSH agent."
        )
    if "private key file" in str(error):
        return f"Check the private key {_keys(connection)}."
    if _is_login(error):
        return (
            f"{user} could not log in: check the user, and that one of its keys (key=, "
            "IdentityFile, an SSH agent) or its password= is accepted there."
        )
    text = str(error).lower()
    if "banner" in text or "no existing session" in text or isinstance(error, EOFError):
        return _advice_on_greeting(connection)
    if isinstance(error, SSHException):
        return f"`ssh -v -p {port} {user}@{host}` may tell more."
    return f"Check that {host} can be reached from here."


def _advice_on_greeting(connection: Any) -> str:
    sock = vars(connection).get("_fabremote_socket")
    said = getattr(sock, "greeting", b"")
    if said.startswith(BUSY):
        return (
            f"sshd on {connection.host} said {said.decode('ascii', 'replace').strip()!r}: have "
            "fewer connections log in at once, or raise MaxStartups in its sshd_config."
        )
    port = connection.port
    return f"What answers on port {port} is no SSH server, or refuses us: check the port."


def _is_login(error: BaseException) -> bool:
    """Whether the host was reached, and it is the login that failed."""
    words = ("authentication methods", "private key file")
    return isinstance(error, AuthenticationException) or any(x in str(error) for x in words)


def proxy_command(connection: Any) -> str:
    """Return the ProxyCommand that leads to a connection's host, or ""."""
    settings = getattr(connection, "settings", None)
    found = getattr(settings, "proxy_command", None) or connection.gateway
    return found if isinstance(found, str) else ""


def _advice_on_proxy(connection: Any) -> str:
    status = vars(connection).get("_fabremote_proxy_status")
    ended = "" if status is None else f" ended with exit status {status} and"
    return (
        f"ProxyCommand {proxy_command(connection)!r}{ended} did not lead to an SSH server: run it "
        f"by itself, and check that it relays to {connection.host}, port {connection.port}."
    )


__all__ = ["refused"]
