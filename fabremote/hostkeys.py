"""OpenSSH's host-key rules for paramiko's client.

`Verifier` goes into an `SSHClient` at two places::

    connect(transport_factory=v.transport_factory)   # asks for the key types known for the host
      -> key exchange
      -> v.policy.missing_host_key(client, name, key)   # accepts, or closes and raises
      -> login

The client's own stores of host keys stay empty, so that the policy is asked
each time, before anything is sent that only the right host may see.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import logging
import os
import pwd
import re
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from fabremote import known_hosts
from fabremote.hostkey_certificate import SUFFIX, authorities, certificate_of, explain
from fabremote.hostkey_offer import Offer, ask
from fabremote.known_hosts import REVOKED, Line
from fabremote.transports import RenewingTransport

log = logging.getLogger("fabremote")

STRICT = ("yes", "no", "off", "accept-new", "ask")
_asking = threading.Lock()


@dataclass(frozen=True)
class HostKeySettings:
    """What ssh_config says about host keys.

    strict: StrictHostKeyChecking: yes, no, off, accept-new or ask.
    user_files, global_files: UserKnownHostsFile and GlobalKnownHostsFile, one
        path each, with ``~``, the tokens %%, %d, %h, %i, %k, %L, %l, %n, %p and
        %u, and ``${VARIABLE}``. New keys go to the first of user_files.
    alias: HostKeyAlias, looked up and stored in place of the host's name and port.
    algorithms: HostKeyAlgorithms, in order. If the first begins with ``+``,
        ``-`` or ``^``, the list changes paramiko's as it would OpenSSH's own.
        What paramiko doesn't have is left out.
    hash_new: HashKnownHosts, store names hashed.
    batch: BatchMode, never ask.
    check_ip: CheckHostIP, expect and store the key for the host's address too.
    revoked: RevokedHostKeys, a file of public keys never to accept; a path as
        those above.
    """

    strict: str = "ask"
    user_files: tuple[str, ...] = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
    global_files: tuple[str, ...] = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
    alias: str | None = None
    algorithms: tuple[str, ...] = ()
    hash_new: bool = False
    batch: bool = False
    check_ip: bool = False
    revoked: str | None = None


class Verifier:
    """The check of one host's key, for any number of connections to it.

    ``prompt`` shows a text and returns the answer, raising EOFError if nobody
    can be asked; the default asks on the terminal. Raises ValueError for a
    setting that means nothing.
    """

    def __init__(
        self,
        host: str,
        port: int = 22,
        settings: HostKeySettings | None = None,
        *,
        prompt: Callable[[str], str] | None = None,
    ) -> None:
        self.settings = settings = settings or HostKeySettings()
        if settings.strict not in STRICT:
            raise ValueError(
                f"StrictHostKeyChecking is one of {', '.join(STRICT)}, not {settings.strict!r}."
            )
        self.host, self.port = host, port
        self.name = settings.alias or known_hosts.named(host, port)
        # Looked up if nothing is known with the port.
        self.plain_name = "" if settings.alias or self.name == host else host
        self.algorithms = _algorithms(settings.algorithms)
        self.prompt = prompt or ask
        self.user_files = [self._expand(file) for file in settings.user_files]
        self.global_files = [self._expand(file) for file in settings.global_files]
        self.revoked_file = settings.revoked and self._expand(settings.revoked)
        self.policy: paramiko.MissingHostKeyPolicy = _Policy(self)

    def transport_factory(self, sock: Any, **options: Any) -> paramiko.Transport:
        """Return a transport that asks for keys of the types known for the host first."""
        transport = _VerifiedTransport(sock, **options)
        transport.get_security_options().key_types = self._ordered()
        return transport

    def check(self, key: paramiko.PKey, address: str | None = None) -> None:
        """Return if ``key`` is the host's, after storing it if it is new and welcome.

        ``address``: the IP address connected to, if CheckHostIP applies to it.
        Raises RemoteHostKeyRejected otherwise.
        """
        offer, blob = self._offer(key), key.asbytes()
        address_name = known_hosts.named(address, self.port) if address else ""
        lines, plain_lines, at_address = known_hosts.find(
            self.files, self.name, self.plain_name, address_name
        )
        every = dict.fromkeys([*lines, *plain_lines, *at_address])
        certificate = certificate_of(key)
        barred = (blob, certificate.authority) if certificate else (blob,)
        revoked = [line for line in every if line.marker == REVOKED and line.key in barred]
        revoked += [line for line in self._listed(offer) if line.key in barred]
        if revoked:
            raise offer.revoked(revoked)
        trusted = authorities(dict.fromkeys([*lines, *plain_lines]))
        if certificate and certificate.convinces(trusted, self.certified_name, key):
            return
        offer.shortfall = explain(key, self.certified_name, trusted)
        stored = self._is_known(offer, blob, lines, plain_lines)
        new = [] if stored else [self.name]
        if address and not self._is_known_at(offer, blob, at_address, address_name):
            new.append(address_name)
        self._store(offer, new, key)

    def check_open(self, transport: paramiko.Transport) -> None:
        """Do as `check` with the key of a transport that was opened without us."""
        self.check(transport.get_remote_server_key(), self.address_of(transport))
        transport.fabremote_verified = True  # type: ignore[attr-defined]

    def address_of(self, transport: paramiko.Transport | None) -> str | None:
        """Return the IP address to check beside the name, if CheckHostIP says so."""
        return address_to_check(transport, self.host) if self.settings.check_ip else None

    def _listed(self, offer: Offer) -> list[Line]:
        """Return the lines of RevokedHostKeys; raise if they can't be read."""
        try:
            return self.revoked_lines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise offer.unchecked(str(self.revoked_file), str(reason)) from None

    def revoked_lines(self) -> list[Line]:
        """Return what RevokedHostKeys names; raise OSError or ValueError if it can't be read."""
        if self.revoked_file is None or self.revoked_file in known_hosts.NOWHERE:
            return []
        return known_hosts.listed(self.revoked_file)

    def _offer(self, key: paramiko.PKey) -> Offer:
        return Offer(
            self.host, self.port, self.name, key, self.files, self.storage, self.settings.alias
        )

    def _is_known(
        self, offer: Offer, key: bytes, lines: list[Line], plain_lines: list[Line]
    ) -> bool:
        """Whether nothing is to be stored for the host; raise if ``key`` isn't accepted."""
        expected = _plain(lines)
        if expected:
            if all(line.key != key for line in expected):
                raise offer.changed(expected)
            return True
        if any(line.key == key for line in _plain(plain_lines)):
            return True
        self._admit(offer)
        return False

    def _is_known_at(self, offer: Offer, key: bytes, lines: list[Line], name: str) -> bool:
        """Whether nothing is to be stored for the host's address, likewise."""
        others = _plain(lines)
        if others and all(line.key != key for line in others):
            if self.settings.strict in ("no", "off"):
                log.warning("%s", offer.elsewhere(others))
            elif self.settings.strict != "ask" or self._ask(offer.elsewhere(others), offer):
                raise offer.misplaced(others, name)
        return bool(others)

    def _admit(self, offer: Offer) -> None:
        strict = self.settings.strict
        if strict == "yes":
            raise offer.unknown("StrictHostKeyChecking is yes")
        if strict == "ask":
            reason = self._ask(offer.introduction(), offer)
            if reason:
                raise offer.unknown(reason)

    def _ask(self, text: str, offer: Offer) -> str:
        """Ask whether to go on; return why not, or ""."""
        if self.settings.batch:
            return "BatchMode is on, so that nobody is asked"
        question = f"{text}\nAre you sure you want to continue connecting"
        question += " (yes/no/[fingerprint])? "
        try:
            with _asking:
                while True:
                    answer = self.prompt(question).strip()
                    if answer.lower() == "yes" or answer == offer.fingerprint:
                        return ""
                    if answer.lower() in ("", "no"):
                        return "the answer was no"
                    question = "Please answer yes, no or the fingerprint: "
        except EOFError:
            return "there is no terminal to ask on"

    def _store(self, offer: Offer, names: list[str], key: paramiko.PKey) -> None:
        file = self.storage
        if not names or file is None:
            return
        hashed = self.settings.hash_new
        try:
            known_hosts.append(file, names, key.get_name(), key.asbytes(), hashed=hashed)
        except known_hosts.Conflict as conflict:
            raise offer.changed(conflict.lines) from None
        except OSError as error:
            reason = error.strerror or error
            if Path(file).is_symlink():
                reason = "it is a symbolic link"
            log.warning("The host key of %s can't be stored in %s: %s.", self.name, file, reason)
        else:
            log.info("Stored the %s key of %s in %s.", key.get_name(), " and ".join(names), file)

    @property
    def certified_name(self) -> str:
        """The name that a host certificate must be for."""
        return self.settings.alias or self.host

    @property
    def storage(self) -> str | None:
        """The file to which new keys are added, if any."""
        if not self.user_files or self.user_files[0] in known_hosts.NOWHERE:
            return None
        return self.user_files[0]

    @property
    def files(self) -> list[str]:
        """The files that are read, the user's first."""
        every = [*self.user_files, *self.global_files]
        return [file for file in every if file not in known_hosts.NOWHERE]

    def _ordered(self) -> Sequence[str]:
        if self.settings.algorithms and self.settings.algorithms[0][:1] not in "+-":
            return self.algorithms
        lines, plain_lines = known_hosts.find(self.files, self.name, self.plain_name)
        revoked = {line.key for line in lines if line.marker == REVOKED}
        known = {line.type for line in _plain(lines) if line.key not in revoked}
        certified = [x for x in self.algorithms if x.endswith(SUFFIX)]
        plain = [x for x in self.algorithms if x not in certified]
        plain.sort(key=lambda name: _key_type(name) not in known)
        # A certificate is worth nothing where no authority is known.
        return [*certified, *plain] if authorities([*lines, *plain_lines]) or not plain else plain

    def _expand(self, file: str) -> str:
        """Return a path with its tokens, variables and tilde replaced."""

        def replaced(match: re.Match[str]) -> str:
            token, variable = match.groups()
            found = os.environ.get(variable) if variable else self._token(token)
            if found is None:
                raise ValueError(f"{match.group()} in the path {file!r} means nothing here.")
            return found

        return os.path.expanduser(re.sub(r"%(.?)|\$\{(\w+)\}", replaced, file))

    def _token(self, token: str) -> str | None:
        local = socket.gethostname()
        values: dict[str, Callable[[], str]] = {
            "%": lambda: "%",
            "d": lambda: os.path.expanduser("~"),
            "h": lambda: self.host,
            "i": lambda: str(os.getuid()),
            "k": lambda: self.settings.alias or self.host,
            "L": lambda: local.partition(".")[0],
            "l": lambda: local,
            "n": lambda: self.host,
            "p": lambda: str(self.port),
            "u": lambda: pwd.getpwuid(os.getuid()).pw_name,
        }
        return values[token]() if token in values else None


class _Policy(paramiko.MissingHostKeyPolicy):
    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        verifier, transport = self._verifier, client.get_transport()
        try:
            verifier.check(key, verifier.address_of(transport))
            transport.fabremote_verified = True  # type: ignore[union-attr]
        except BaseException:
            client.close()
            raise


class _VerifiedTransport(RenewingTransport):
    """A transport that asks for just the kinds of host key that it is told to.

    paramiko's own asks for a certificate with each of them, too.
    """

    @property
    def preferred_keys(self) -> Sequence[str]:
        disabled = (self.disabled_algorithms or {}).get("keys", ())
        return tuple(x for x in self.get_security_options().key_types if x not in disabled)


def is_verified(transport: paramiko.Transport) -> bool:
    """Return whether a `Verifier` has accepted the key that this open transport's host has."""
    return getattr(transport, "fabremote_verified", False)


def address_to_check(transport: paramiko.Transport | None, host: str) -> str | None:
    """Return the address connected to, unless it is local, ``host`` itself or behind a proxy."""
    sock = transport.sock if transport else None
    if not isinstance(sock, socket.socket) or sock.family not in (
        socket.AF_INET,
        socket.AF_INET6,
    ):
        return None
    address = str(sock.getpeername()[0])
    local = ipaddress.ip_address(address.partition("%")[0]).is_loopback
    return None if local or address == host else address


def _plain(lines: list[Line]) -> list[Line]:
    return [line for line in lines if not line.marker]


def _key_type(algorithm: str) -> str:
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def _algorithms(asked: tuple[str, ...]) -> list[str]:
    """Return the key algorithms to negotiate, as HostKeyAlgorithms asks for them."""
    # A class attribute, public only as SecurityOptions.key_types of an open transport.
    plain: list[str] = list(paramiko.Transport._preferred_keys)  # type: ignore[attr-defined]
    ours = [*(x + SUFFIX for x in plain), *plain]
    if not asked:
        return ours
    sign, names = asked[0][:1], [asked[0].lstrip("+-^"), *asked[1:]]
    named = list(
        dict.fromkeys(x for pattern in names for x in ours if fnmatch.fnmatchcase(x, pattern))
    )
    rest = [x for x in ours if x not in named]
    changed = {"+": ours, "-": rest, "^": [*named, *rest]}.get(sign, named)
    if not changed:
        raise ValueError(
            f"HostKeyAlgorithms {','.join(asked)} leaves none of those there are: "
            f"{', '.join(ours)}."
        )
    return changed


__all__ = ["HostKeySettings", "Verifier", "is_verified"]
