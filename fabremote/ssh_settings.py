"""What a connection needs to know of its ``ssh_options``."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
import socket
from dataclasses import dataclass
from typing import Literal

from fabremote.hostkeys import HostKeySettings
from fabremote.ssh_values import LOGINS, Tokens, expand


@dataclass(frozen=True)
class SSHSettings:
    """The meaning of ``ssh_options``; unset ones are None or what fabremote does anyway.

    Each is named for its option; docs/ssh_options.md tells what they do.
    ``proxy_jump`` and ``proxy_command`` are "" for none, even if ~/.ssh/config
    names one. Empty tuples of algorithms stand for paramiko's own; those of
    files for none, as None stands for the usual ones.
    """

    hostname: str | None = None
    port: int | None = None
    user: str | None = None
    proxy_jump: str | None = None
    proxy_command: str | None = None

    connect_timeout: int | None = None
    connection_attempts: int = 1
    address_family: int = socket.AF_UNSPEC
    bind_address: str | None = None
    bind_interface: str | None = None
    tcp_keepalive: bool = True
    ip_service: int | None = None

    kex: tuple[str, ...] = ()
    ciphers: tuple[str, ...] = ()
    macs: tuple[str, ...] = ()
    pubkeys: tuple[str, ...] = ()
    compress: bool = False
    rekey_bytes: int | None = None
    version_addendum: str | None = None
    log_level: int | None = None
    server_alive_interval: int | None = None
    server_alive_count: int = 3

    identity_files: tuple[str, ...] | None = None
    certificate_files: tuple[str, ...] | None = None
    identities_only: bool = False
    identity_agent: str | None = None
    forward_agent: bool | None = None
    required_rsa_size: int = 1024
    preferred_logins: tuple[str, ...] = LOGINS
    pubkey_authentication: bool = True
    password_authentication: bool = True
    kbd_interactive_authentication: bool = True
    kbd_interactive_devices: str = ""
    prompts: int = 0
    batch: bool = False

    set_env: tuple[tuple[str, str], ...] = ()
    send_env: tuple[str, ...] = ()
    host_keys: HostKeySettings = dataclasses.field(default_factory=HostKeySettings)

    @property
    def gateway(self) -> str | Literal[False] | None:
        """The text of ProxyJump or ProxyCommand; False for none at all, None if not given."""
        if self.proxy_jump is None and self.proxy_command is None:
            return None
        return self.proxy_jump or self.proxy_command or False

    @property
    def env(self) -> dict[str, str]:
        """The variables for each call, as the local environment is now."""
        sent = {name: value for name, value in os.environ.items() if self._sends(name)}
        return {**sent, **dict(self.set_env)}

    def _sends(self, name: str) -> bool:
        sent = False
        for pattern in self.send_env:
            if fnmatch.fnmatchcase(name, pattern.removeprefix("-")):
                sent = not pattern.startswith("-")
        return sent

    @property
    def logins(self) -> tuple[str, ...]:
        """The login methods that may be used, in order."""
        allowed = {
            "publickey": self.pubkey_authentication,
            "password": self.password_authentication,
            "keyboard-interactive": self.kbd_interactive_authentication,
        }
        return tuple(method for method in self.preferred_logins if allowed[method])

    def for_host(
        self, host: str, user: str, port: int = 22, original: str | None = None
    ) -> SSHSettings:
        """Return these settings with every token and variable in them replaced.

        ``host``: as the user gave it, or else ``original`` is what was given;
        HostName, User and Port of these settings win over what is passed. Raises
        ValueError for a variable that isn't set.
        """
        port, user = self.port or port, self.user or user
        # Of the tokens, HostName has %h and %% only, and %h is the name given there.
        name = expand(self.hostname, {"%": "%", "h": host}, False) if self.hostname else host
        tokens = Tokens(name, original or host, port, user, self.host_keys.alias)

        def path(text: str) -> str:
            return os.path.expanduser(expand(text, tokens))

        def paths(texts: tuple[str, ...] | None) -> tuple[str, ...] | None:
            return None if texts is None else tuple(map(path, texts))

        keys = self.host_keys
        return dataclasses.replace(
            self,
            hostname=name,
            port=port,
            user=user,
            proxy_jump=self.proxy_jump and expand(self.proxy_jump, tokens, False),
            proxy_command=self.proxy_command and expand(self.proxy_command, tokens, False),
            identity_files=paths(self.identity_files),
            certificate_files=paths(self.certificate_files),
            identity_agent=_agent(self.identity_agent, tokens),
            host_keys=dataclasses.replace(
                keys,
                user_files=tuple(_with_names(file, tokens) for file in keys.user_files),
                global_files=tuple(_with_names(file, tokens) for file in keys.global_files),
                revoked=keys.revoked and _with_names(keys.revoked, tokens),
            ),
        )


def _agent(given: str | None, tokens: Tokens) -> str | None:
    """Return the socket's path; "" for none, None for that of SSH_AUTH_SOCK."""
    if given is None or given == "SSH_AUTH_SOCK":
        return None
    if given.lower() == "none":
        return ""
    if given.startswith("$") and not given.startswith("${"):
        return expand("${" + given[1:] + "}", tokens)
    return os.path.expanduser(expand(given, tokens))


def _with_names(file: str, tokens: Tokens) -> str:
    """Replace the names that the host key's check doesn't know; its own tokens stay."""

    def replace(match: re.Match[str]) -> str:
        return tokens[match[1]].replace("%", "%%") if match[1] in "nkr" else match[0]

    return re.sub("%(.)", replace, file)


__all__ = ["SSHSettings"]
