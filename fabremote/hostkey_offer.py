"""A host key as presented to the user: questions about it, and refusals with their remedies."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import shlex
import sys
from collections.abc import Sequence

import paramiko

from fabremote import known_hosts
from fabremote.exceptions import RemoteHostKeyRejected
from fabremote.known_hosts import Line


class Offer:
    """The key that a host presented, and what there is to say about it.

    ``name``: the host in known_hosts files; ``files``: those looked in;
    ``target``: the one to store the key in, or None. ``shortfall``: why no
    certificate authority's word was enough, or "".
    """

    shortfall = ""

    def __init__(
        self,
        host: str,
        port: int,
        name: str,
        key: paramiko.PKey,
        files: Sequence[str],
        target: str | None,
        alias: str | None,
    ) -> None:
        self._name, self._files, self._target = name, files, target
        self._type = key.get_name()
        self._key = key.asbytes()
        self.fingerprint = _fingerprint(self._key)
        self._host = f"{host}, port {port}" + (f", known as {alias}" if alias else "")

    def introduction(self) -> str:
        """What to say before asking about an unknown key."""
        return (
            f"The host {self._host}, is not known yet.{self.shortfall}\n"
            f"Its {self._type} key has the fingerprint {self.fingerprint}."
        )

    def unknown(self, reason: str) -> RemoteHostKeyRejected:
        """Nothing is known about the host."""
        files = " and ".join(self._files) or "no file, as none is set"
        return _rejection(
            f"The {self._type} host key of {self._host}, is not known, and {reason}. Its "
            f"fingerprint is {self.fingerprint}; looked for {self._name} in {files}."
            f"{self.shortfall} If that is the host's own fingerprint, store the key with:",
            self._storing(),
        )

    def changed(self, lines: list[Line]) -> RemoteHostKeyRejected:
        """Other keys are known for the host."""
        known = "; ".join(f"{x.place}: {x.type} {_fingerprint(x.key)}" for x in lines)
        replaced = [x for x in lines if x.type == self._type]
        return _rejection(
            f"The host key of {self._host}, is not the one known for it: it presented the "
            f"{self._type} key {self.fingerprint}, known is {known}. Somebody may be in between, "
            f"or the host has another key now.{self.shortfall} If that is the host's own "
            f"fingerprint, {'replace' if replaced else 'store'} the key with:",
            [*_forgetting(self._name, replaced), *self._storing()],
        )

    def misplaced(self, lines: list[Line], name: str) -> RemoteHostKeyRejected:
        """Other keys are known for the host's address, ``name``."""
        return _rejection(
            f"{self.elsewhere(lines)} CheckHostIP wants both to agree. If the address is the "
            "host's now, forget the other key with:",
            _forgetting(name, lines),
        )

    def revoked(self, lines: list[Line]) -> RemoteHostKeyRejected:
        """The key must not be used."""
        places = " and ".join(x.place for x in lines)
        return _rejection(
            f"The {self._type} host key of {self._host}, fingerprint {self.fingerprint}, is "
            f"marked as revoked in {places}, and never accepted. Give the host a new key; "
            "or if it is the mark that is wrong, take it away with:",
            _deleting(lines),
        )

    def unchecked(self, file: str, reason: str) -> RemoteHostKeyRejected:
        """The file of revoked keys can't be read."""
        return RemoteHostKeyRejected(
            f"Whether the {self._type} host key of {self._host}, is revoked can't be told, so it "
            f"is not accepted: RevokedHostKeys names {file} ({reason}). Make that a text "
            "file with one public key on each line, or set RevokedHostKeys to none."
        )

    def elsewhere(self, lines: list[Line]) -> str:
        """Other keys are known for the host's address."""
        places = " and ".join(x.place for x in lines)
        return (
            f"The {self._type} key {self.fingerprint} of {self._host}, is not the one that "
            f"{places} has for its address."
        )

    def _storing(self) -> list[str]:
        if self._target is None:
            return ["# UserKnownHostsFile is none: set it to a file, such as ~/.ssh/known_hosts"]
        target = shlex.quote(self._target)
        directory = os.path.dirname(self._target)
        made = os.path.isdir(directory or ".")
        make = [] if made else [f"mkdir -m 700 -p {shlex.quote(directory)}"]
        line = known_hosts.key_line(self._name, self._type, self._key)
        return [*make, f"printf '%s\\n' {shlex.quote(line)} >> {target}"]


def _rejection(text: str, remedies: list[str]) -> RemoteHostKeyRejected:
    return RemoteHostKeyRejected("\n  ".join([text, *remedies]))


def _forgetting(name: str, lines: list[Line]) -> list[str]:
    files = dict.fromkeys(x.file for x in lines if x.one_host)
    commands = [f"ssh-keygen -R {shlex.quote(name)} -f {shlex.quote(x)}" for x in files]
    # Patterns are left alone by ssh-keygen. They go first, by number, as it changes the numbers.
    return [*_deleting([x for x in lines if not x.one_host]), *commands]


def _deleting(lines: list[Line]) -> list[str]:
    # From the end, so that the other numbers stay true.
    ordered = sorted(lines, key=lambda x: (x.file, -x.number))
    return [f"sed -i.old {x.number}d {shlex.quote(x.file)}" for x in ordered]


def _fingerprint(key: bytes) -> str:
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode()
    return "SHA256:" + digest.rstrip("=")


def ask(question: str) -> str:
    """Ask on the terminal and return the answer; raise EOFError if there is none."""
    with contextlib.suppress(OSError):
        descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        with io.FileIO(descriptor, "r+") as terminal:
            terminal.write(question.encode(errors="replace"))
            return _answer(terminal.readline().decode(errors="replace"))
    if sys.stdin is None or not sys.stdin.isatty():
        raise EOFError
    sys.stderr.write(question)
    sys.stderr.flush()
    return _answer(sys.stdin.readline())


def _answer(line: str) -> str:
    if not line:
        raise EOFError
    return line


__all__ = ["Offer", "ask"]
