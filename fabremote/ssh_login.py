"""Logging in by the methods and with the keys that ``ssh_options`` allow, in their order."""

from __future__ import annotations

import base64
import copy
import getpass
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

from paramiko import (
    Agent,
    AuthenticationException,
    BadAuthenticationType,
    Message,
    PKey,
    SSHException,
    Transport,
)
from paramiko.agent import AgentKey
from paramiko.auth_strategy import AuthStrategy
from paramiko.pkey import PublicBlob

from fabremote.ssh_keys import check_private, load_key
from fabremote.ssh_settings import SSHSettings
from fabremote.ssh_values import CERTIFICATE

DEFAULT_FILES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
ASKING_TIMEOUT = 120  # seconds for a person to answer, as long as sshd waits
RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256")


class Attempt(NamedTuple):
    """One thing to try: what it is called, and how; it returns the methods still required."""

    label: str
    run: Callable[[], Sequence[str]]


class SocketAgent(Agent):
    """The keys of the agent behind a socket, SSH_AUTH_SOCK's unless a path is given."""

    def __init__(self, path: str | None) -> None:
        if path is None:
            super().__init__()
            return
        super(Agent, self).__init__()
        if path:
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(path)
                self._connect(link)  # type: ignore[attr-defined]
            except BaseException:
                link.close()
                raise


class Login(AuthStrategy):
    """The login to a host, as paramiko's ``auth_strategy``; usable again and again.

    ``settings``: those `SSHSettings.for_host` returned. ``pkey`` and
    ``key_filename`` come before the agent's keys; ``password`` is also tried as
    the passphrase of key files if there is no ``passphrase``. Without
    ``allow_agent`` no agent is used, without ``look_for_keys`` no file of
    ~/.ssh that isn't named.
    """

    def __init__(
        self,
        settings: SSHSettings,
        user: str,
        *,
        password: str | None = None,
        passphrase: str | None = None,
        pkey: PKey | None = None,
        key_filename: Sequence[str] = (),
        allow_agent: bool = True,
        look_for_keys: bool = True,
    ) -> None:
        super().__init__(ssh_config=None)  # type: ignore[arg-type]
        self.settings = settings
        self.user = user
        self.password = password
        self.passphrase = passphrase if passphrase is not None else password
        self.pkey = pkey
        self.agent = settings.identity_agent if allow_agent else ""
        self.usual_files = DEFAULT_FILES if look_for_keys else ()
        self.key_files = (*(settings.identity_files or ()), *key_filename)

    def authenticate(self, transport: Transport) -> Any:
        """Log in; raise AuthenticationException, which tells all that was tried, if refused."""
        self._check_host(transport)
        if self._may_ask():
            transport.auth_timeout = ASKING_TIMEOUT
        tried: dict[str, str] = {}
        try:
            agent = SocketAgent(self.agent)
        except (OSError, SSHException) as error:
            tried["agent"] = f"can't be used: {error}"
            agent = SocketAgent("")
        with closing(agent):
            required: Sequence[str] | None = None
            while True:
                required = self._step(transport, agent, required, tried)
                if not required:
                    return list(tried)

    def get_sources(self) -> Any:
        """Nothing: the order depends on the host's answers, so `authenticate` decides."""
        return iter(())

    def _check_host(self, transport: Transport) -> None:
        """The host key has just been verified; nothing has been sent yet."""
        key = transport.get_remote_server_key()
        least = self.settings.required_rsa_size
        if key.get_name() == "ssh-rsa" and key.get_bits() < least:
            raise SSHException(
                f"the host's RSA key has {key.get_bits()} bits, and RequiredRSASize is {least}"
            )

    def _step(
        self,
        transport: Transport,
        agent: Agent,
        required: Sequence[str] | None,
        tried: dict[str, str],
    ) -> Sequence[str]:
        """Return what the host still requires after one success: nothing once logged in."""
        for method in self.settings.logins:
            if required is not None and method not in required:
                continue
            for attempt in self._attempts(method, transport, agent, tried):
                if attempt.label in tried:
                    continue
                try:
                    left = attempt.run()
                except BadAuthenticationType as error:
                    tried[attempt.label] = "not allowed by the host"
                    required = error.allowed_types
                    break
                except (SSHException, OSError, ValueError) as error:
                    tried[attempt.label] = _reason(error)
                    if not transport.is_active():
                        raise self._failure(tried) from error
                else:
                    tried[attempt.label] = "accepted"
                    return left
        raise self._failure(tried, required)

    def _failure(
        self, tried: dict[str, str], required: Sequence[str] | None = None
    ) -> AuthenticationException:
        text = "; ".join(f"{what}: {how}" for what, how in tried.items())
        allowed = f" The host allows {', '.join(required)}." if required else ""
        nothing = f"nothing to log in with for {', '.join(self.settings.logins) or 'any method'}"
        return AuthenticationException(f"Login of {self.user} failed: {text or nothing}.{allowed}")

    def _attempts(
        self, method: str, transport: Transport, agent: Agent, tried: dict[str, str]
    ) -> Iterator[Attempt]:
        if method == "publickey":
            for label, key in self._keys(agent, tried):
                fit = self._signatures(key)
                if fit is None:
                    tried[f"key {label}"] = "not among PubkeyAcceptedAlgorithms"
                elif "rsa" in key.get_name() and key.get_bits() < self.settings.required_rsa_size:
                    tried[f"key {label}"] = f"shorter than {self.settings.required_rsa_size} bits"
                else:
                    yield Attempt(f"key {label}", partial(self._sign, transport, key, fit))
        elif method == "password":
            for label, password in self._passwords():
                yield Attempt(label, partial(self._send, transport, password))
        else:
            yield from self._interviews(transport)

    # Keys ----------------------------------------------------------------------------------

    def _keys(self, agent: Agent, tried: dict[str, str]) -> Iterator[tuple[str, PKey]]:
        """Yield each key to offer, with its certificate first; note those that can't be."""
        if self.pkey is not None:
            yield from self._certified("given", self.pkey, "", tried)
        held = {key.asbytes(): key for key in agent.get_keys()}
        files = self.key_files
        if not files and self.settings.identity_files is None and self.pkey is None:
            files = tuple(filter(os.path.exists, map(os.path.expanduser, self.usual_files)))
        unnamed = dict(held)
        early, late = (files, ()) if self.key_files else ((), files)
        public = {file: _public_part(file) for file in files}
        if self.settings.identities_only:
            unnamed = {blob: key for blob, key in held.items() if blob in public.values()}
        for file in early:
            unnamed.pop(public[file] or b"", None)
            yield from self._from_file(file, held.get(public[file] or b""), tried)
        for key in unnamed.values():
            label = f"{key.comment or key.get_name()} of the agent"
            yield from self._certified(label, key, "", tried)
        for file in late:
            if public[file] not in unnamed:
                yield from self._from_file(file, None, tried)

    def _from_file(
        self, file: str, held: PKey | None, tried: dict[str, str]
    ) -> Iterator[tuple[str, PKey]]:
        key = held
        if key is None:
            try:
                check_private(file)
                key = load_key(file, self.passphrase)
            except (OSError, SSHException, ValueError) as error:
                tried[f"key {file}"] = _reason(error)
                return
        yield from self._certified(file, key, file.removesuffix(".pub"), tried)

    def _certified(
        self, label: str, key: PKey, file: str, tried: dict[str, str]
    ) -> Iterator[tuple[str, PKey]]:
        named = self.settings.certificate_files
        beside = (f"{file}-cert.pub",) if file and os.path.exists(f"{file}-cert.pub") else ()
        for certificate in beside if named is None else named:
            if not os.path.exists(certificate):
                tried[f"certificate {certificate}"] = "no such file"
                continue
            try:
                blob = PublicBlob.from_file(certificate)
            except (OSError, ValueError, SSHException) as error:
                tried[f"certificate {certificate}"] = f"can't be read: {_reason(error)}"
                continue
            if _is_about(blob.key_blob, key):
                tried.pop(f"certificate {certificate}", None)
                certified = _copied(key)
                certified.public_blob = blob
                yield f"{label} with {certificate}", certified
            elif not any(certificate in what for what in tried):
                tried[f"certificate {certificate}"] = "belongs to none of the keys"
        yield label, key

    def _signatures(self, key: PKey) -> tuple[str, ...] | None:
        """Return which RSA signatures to make, none for other keys; None if not accepted."""
        kind = str(key.public_blob.key_type if key.public_blob else key.get_name())
        plain = kind.removesuffix(CERTIFICATE)
        names = RSA_SIGNATURES if plain == "ssh-rsa" else (plain,)
        if plain.startswith("sk-") and plain == kind.removesuffix("@openssh.com"):
            names = (kind,)
        rsa = plain == "ssh-rsa"
        wanted = self.settings.pubkeys
        if not wanted:
            return names if rsa else ()
        suffix = CERTIFICATE if kind.endswith(CERTIFICATE) else ""
        fit = [a for a in wanted if a in {name + suffix for name in names}]
        if not fit:
            return None
        return tuple(a.removesuffix(CERTIFICATE) for a in fit) if rsa else ()

    def _sign(self, transport: Transport, key: PKey, signatures: Sequence[str]) -> Sequence[str]:
        if signatures:
            # No public setting: paramiko takes the first of these that the host likes, for RSA.
            transport._preferred_pubkeys = tuple(signatures)  # type: ignore[attr-defined]
        return transport.auth_publickey(self.user, key)

    # Passwords -----------------------------------------------------------------------------

    def _passwords(self) -> Iterator[tuple[str, Callable[[], str]]]:
        if self.password is not None:
            known = self.password
            yield "password", lambda: known
        elif self._may_ask():
            for number in range(1, self.settings.prompts + 1):
                yield f"password asked for ({number})", self._ask

    def _send(self, transport: Transport, password: Callable[[], str]) -> Sequence[str]:
        return transport.auth_password(self.user, password(), fallback=False)

    def _interviews(self, transport: Transport) -> Iterator[Attempt]:
        devices = self.settings.kbd_interactive_devices
        rounds = self.settings.prompts if self.password is None and self._may_ask() else 1
        if self.password is None and not self._may_ask():
            return
        for number in range(1, rounds + 1):
            label = "keyboard-interactive" + (f" ({number})" if rounds > 1 else "")
            yield Attempt(
                label, lambda: transport.auth_interactive(self.user, self._answer, devices)
            )

    def _answer(self, title: str, text: str, questions: Sequence[tuple[str, bool]]) -> list[str]:
        if not questions:
            return []
        if self.password is not None and len(questions) == 1 and not questions[0][1]:
            return [self.password]
        if not self._may_ask():
            raise SSHException(f"the host asks {[question for question, _ in questions]}")
        return [getpass.getpass(question) for question, _ in questions]

    def _ask(self) -> str:
        return getpass.getpass(f"{self.user}@{self.settings.hostname}'s password: ")

    def _may_ask(self) -> bool:
        if self.settings.batch or not self.settings.prompts:
            return False
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            return False
        return True


def _public_part(file: str) -> bytes | None:
    """Return the public key of a file or of the .pub beside it, if there is one."""
    try:
        with open(file if file.endswith(".pub") else f"{file}.pub") as lines:
            return base64.b64decode(lines.read().split()[1])
    except (OSError, IndexError, ValueError):
        return None


def _copied(key: PKey) -> PKey:
    # An agent's key looks up what it lacks elsewhere, which copy() can't cope with.
    return (
        AgentKey(key.agent, key.blob, key.comment) if isinstance(key, AgentKey) else copy.copy(key)
    )


def _is_about(certificate: bytes, key: PKey) -> bool:
    """Whether a certificate is for this key: after type and nonce, it holds the same numbers."""
    theirs, ours = Message(certificate), Message(key.asbytes())
    theirs.get_string(), theirs.get_string(), ours.get_string()
    return theirs.get_remainder().startswith(ours.get_remainder())


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if type(error) is AuthenticationException and str(error) == "Authentication failed.":
        return "refused"
    return str(error) or type(error).__name__


__all__ = ["Login", "SocketAgent", "load_key"]
