"""Private keys in files."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from paramiko import ECDSAKey, Ed25519Key, PKey, RSAKey, SSHException
from paramiko.pkey import UnknownKeyType

_KINDS: dict[type, type[PKey]] = {
    RSAPrivateKey: RSAKey,
    Ed25519PrivateKey: Ed25519Key,
    EllipticCurvePrivateKey: ECDSAKey,
}


def check_private(file: str) -> None:
    """Raise SSHException, as ssh does, for a key of the user's own that others may read."""
    try:
        found = os.stat(file.removesuffix("-cert.pub"))
    except OSError:
        return
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid == os.getuid() and mode & 0o077 and not file.endswith(".pub"):
        raise SSHException(
            f"not used, as its permissions {mode:04o} are too open: run chmod 600 {file}"
        )


def load_key(file: str, passphrase: str | None = None) -> PKey:
    """Return a file's private key; raise OSError or SSHException, saying what is wrong."""
    try:
        key = _load(file, passphrase)
    except UnknownKeyType as error:
        raise SSHException("a kind of key that paramiko can't use") from error
    except TypeError as error:  # says cryptography of an encrypted one
        raise SSHException("it needs a passphrase") from error
    except ValueError as error:
        wrong = " or the passphrase is wrong" if passphrase is not None else ""
        raise SSHException(f"it holds no private key{wrong}") from error
    return key


def _load(file: str, passphrase: str | None) -> PKey:
    data = Path(file.removesuffix("-cert.pub")).expanduser().read_bytes()
    try:
        return _parse(data, None)
    except TypeError:
        if passphrase is None:
            raise
        return _parse(data, passphrase.encode())


def _parse(data: bytes, passphrase: bytes | None) -> PKey:
    """Do what PKey.from_path() does, but without the certificate beside the file.

    That is added where it is wanted, and may be broken.
    """
    try:
        found: object = serialization.load_ssh_private_key(data, passphrase)
    except ValueError:
        found = serialization.load_pem_private_key(data, passphrase)
    for kind, made in _KINDS.items():
        if isinstance(found, kind):
            text = io.StringIO(data.decode())
            return made.from_private_key(text, passphrase)  # type: ignore[arg-type]
    raise UnknownKeyType(key_type=type(found).__name__, key_bytes=data)


__all__ = ["check_private", "load_key"]
