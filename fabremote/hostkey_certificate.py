"""Host certificates: the word of a certificate authority that a key is a host's."""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Iterable

import paramiko
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)

from fabremote.known_hosts import CA, Line

SUFFIX = "-cert-v01@openssh.com"
# ssh-rsa, with SHA-1, isn't among OpenSSH's CASignatureAlgorithms either.
_RSA_SIGNATURES = (b"rsa-sha2-512", b"rsa-sha2-256")


class Certificate:
    """The certificate that came with a host's key.

    ``authority``: the public key of the authority that signed it, b"" if it
    can't be told. ``unreadable``: why it can't be read, or "".
    """

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self.authority, self.unreadable = b"", ""
        try:
            self._read()
        except (ValueError, UnsupportedAlgorithm, struct.error) as error:
            self.unreadable = f"it can't be read: {error}"

    def _read(self) -> None:
        size = struct.unpack_from(">I", self._blob)[0]
        name = self._blob[4 : 4 + size]
        found = load_ssh_public_identity(name + b" " + base64.b64encode(self._blob))
        if not isinstance(found, SSHCertificate):
            raise ValueError("it is a plain key")
        self._certificate = found
        self.authority = _blob_of(found.signature_key())

    def convinces(self, trusted: Iterable[Line], name: str, key: paramiko.PKey) -> bool:
        """Return whether one of the ``trusted`` authorities says that ``key`` is ``name``'s."""
        known = any(line.key == self.authority for line in trusted)
        return known and not self.flaw(name, key)

    def flaw(self, name: str, key: paramiko.PKey) -> str:
        """Return why the certificate doesn't make ``key`` the host ``name``'s, or ""."""
        if self.unreadable:
            return self.unreadable
        found, now = self._certificate, time.time()
        names = [x.decode(errors="replace") for x in found.valid_principals]
        if found.type is not SSHCertificateType.HOST:
            return "it is a user's"
        if _blob_of(found.public_key()) != key.asbytes():
            return "it is for another key"
        if not self._is_signed():
            return "its signature is not the authority's, or made with SHA-1"
        if not found.valid_after <= now < found.valid_before:
            return f"it is valid {_period(found)} only"
        if found.critical_options:
            return "it has critical options, of which none is known for hosts"
        if names and name.lower() not in names:
            return f"it is for {', '.join(names)} only"
        return ""

    def _is_signed(self) -> bool:
        authority = self._certificate.signature_key()
        try:
            self._certificate.verify_cert_signature()
        except (InvalidSignature, ValueError, UnsupportedAlgorithm):
            return False
        if not isinstance(authority, RSAPublicKey):
            return True
        # The certificate ends in its signature: the algorithm's name, and as many
        # bytes as the key has.
        head = self._blob[: -4 - (authority.key_size + 7) // 8]
        return head.endswith(tuple(struct.pack(">I", len(x)) + x for x in _RSA_SIGNATURES))


def certificate_of(key: paramiko.PKey) -> Certificate | None:
    """Return the certificate with which a host presented its key, if it did."""
    blob = key.public_blob
    return None if blob is None else Certificate(bytes(blob.key_blob))


def authorities(lines: Iterable[Line]) -> list[Line]:
    """Return the lines that name certificate authorities."""
    return [line for line in lines if line.marker == CA]


def explain(key: paramiko.PKey, name: str, trusted: list[Line]) -> str:
    """Return why no authority's word was enough, or "" where none is ``trusted``."""
    if not trusted:
        return ""
    places = " and ".join(line.place for line in trusted)
    certificate = certificate_of(key)
    if certificate is None:
        why = "the host presented no certificate"
    elif certificate.unreadable:
        why = f"of the host's certificate, {certificate.unreadable}"
    elif all(line.key != certificate.authority for line in trusted):
        why = "the host's certificate is another one's"
    else:
        why = f"of the host's certificate, {certificate.flaw(name, key)}"
    return f" There is a certificate authority for it ({places}), but {why}."


def _blob_of(key: object) -> bytes:
    text: bytes = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)  # type: ignore[attr-defined]
    return base64.b64decode(text.split()[1])


def _period(certificate: SSHCertificate) -> str:
    def shown(seconds: int) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(min(seconds, 253402300799)))

    return f"from {shown(certificate.valid_after)} to {shown(certificate.valid_before)}"


__all__ = ["SUFFIX", "Certificate", "authorities", "certificate_of", "explain"]
