"""What the known_hosts files say about the key that a host presents."""

from __future__ import annotations

import contextlib
import socket

import paramiko

from fabremote import known_hosts
from fabremote.doctor_report import HostKey, KeyState, Report
from fabremote.hostkey_certificate import authorities, certificate_of
from fabremote.hostkeys import Verifier
from fabremote.known_hosts import REVOKED


class Witness(paramiko.MissingHostKeyPolicy):
    """Notes the host's key and address on their way to the verifier."""

    def __init__(self, verifier: Verifier, report: Report) -> None:
        self._verifier, self._report = verifier, report
        self._key: paramiko.PKey | None = None

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        transport = client.get_transport()
        sock = transport.sock if transport else None
        if isinstance(sock, socket.socket) and sock.family != socket.AF_UNIX:
            self._report.address = str(sock.getpeername()[0])
        self._key = key
        self._report.host_key = host_key(self._verifier, key)
        self._verifier.policy.missing_host_key(client, hostname, key)

    def look_again(self) -> None:
        """The key was accepted: an unknown one may be stored by now."""
        noted = self._report.host_key
        if noted is None or self._key is None or noted.state in ("known", "certified"):
            return
        now = host_key(self._verifier, self._key)
        noted.state = "stored" if now.state == "known" else "accepted"
        noted.places = now.places


def host_key(verifier: Verifier, key: paramiko.PKey) -> HostKey:
    """Return what known_hosts files say about a key that a host presented."""
    blob, certificate = key.asbytes(), certificate_of(key)
    lines, plain = known_hosts.find(verifier.files, verifier.name, verifier.plain_name)
    every = list(dict.fromkeys([*lines, *plain]))
    listed: list[known_hosts.Line] = []
    with contextlib.suppress(OSError, ValueError):  # the verifier tells that
        listed = verifier.revoked_lines()
    expected = [line for line in lines if not line.marker]
    barred, trusted = [blob], []
    if certificate is not None:
        barred.append(certificate.authority)
        if certificate.convinces(authorities(every), verifier.certified_name, key):
            trusted = [x for x in authorities(every) if x.key == certificate.authority]
    states: tuple[tuple[KeyState, list[known_hosts.Line]], ...] = (
        ("revoked", [x for x in [*every, *listed] if x.marker == REVOKED and x.key in barred]),
        ("certified", trusted),
        ("known", [x for x in expected if x.key == blob]),
        ("changed", expected),
        ("known", [x for x in plain if not x.marker and x.key == blob]),
    )
    state, found = next(((state, found) for state, found in states if found), ("unknown", []))
    places = [f"{line.file}:{line.number}" for line in found]
    return HostKey(key.get_name(), str(key.fingerprint), state, places)


__all__ = ["Witness", "host_key"]
