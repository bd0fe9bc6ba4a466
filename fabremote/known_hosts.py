"""known_hosts files: their lines, whom a line is about, and adding one.

Reading follows OpenSSH: a line that can't be understood doesn't count, names
compare without regard to case, and the first field is either one hashed name or
a list of patterns. Files are never rewritten; `append` adds whole lines under a
lock.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import fcntl
import hmac
import logging
import os
import re
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("fabremote")

CA = "@cert-authority"
REVOKED = "@revoked"
NOWHERE = ("none", os.devnull)
KRL = b"SSHKRL\n\0"
LOCK_TIMEOUT = 10.0
# A name that stands for nothing but itself on a line of its own.
PLAIN_NAME = re.compile(r"[^\s,*?!|@#][^\s,*?!|]*")
# Of how many strings a public key of each type consists, its type's name included.
KEY_PARTS = {
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
    "sk-ssh-ed25519@openssh.com": 3,
    "ssh-dss": 5,
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
}


@dataclass(frozen=True)
class Line:
    """A line about a host: its marker (or ""), names and public key."""

    file: str
    number: int
    marker: str
    names: bytes
    type: str
    key: bytes

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.file} line {self.number}"

    @property
    def one_host(self) -> bool:
        """Whether it is about plain names only, no patterns."""
        return self.names.startswith(b"|") or not re.search(rb"[*?!]", self.names)


def named(host: str, port: int) -> str:
    """Return the name under which known_hosts files have a host."""
    return host if port == 22 else f"[{host}]:{port}"


def find(files: Iterable[str], *names: str) -> list[list[Line]]:
    """Return for each of ``names`` the lines about it in all ``files``, in order.

    A file that doesn't exist counts as empty; so does one that can't be read,
    with a warning. Only regular files are read (through symbolic links too).
    Nothing is known about an empty name.
    """
    contents = {file: _content(file) for file in files}
    return [
        [line for file, content in contents.items() for line in _matching(content, file, name)]
        for name in names
    ]


def listed(file: str) -> list[Line]:
    """Return the lines of a file that has one public key on each, as RevokedHostKeys wants.

    As OpenSSH does, raise OSError or ValueError if any of it can't be read.
    """
    content = _read_file(file)
    if content.startswith(KRL):
        raise ValueError("it is a binary key revocation list")
    lines = []
    for number, text in enumerate(content.split(b"\n"), 1):
        kind, encoded = (*text.split(), b"", b"")[:2]
        if not kind or kind.startswith(b"#"):
            continue
        line = Line(file, number, REVOKED, b"", kind.decode(errors="replace"), _decode(encoded))
        if not _is_key(line.type, line.key):
            raise ValueError(f"line {number} is no public key")
        lines.append(line)
    return lines


def key_line(name: str, key_type: str, key: bytes, *, hashed: bool = False) -> str:
    """Return a line that makes ``key`` known for ``name``, without its newline."""
    shown = _hash(name) if hashed else _lower(name).decode(errors="surrogateescape")
    return f"{shown} {key_type} {base64.b64encode(key).decode()}"


def append(file: str, names: Sequence[str], key_type: str, key: bytes, *, hashed: bool) -> None:
    """Add ``key`` for each of ``names`` to ``file``, unless it is there by now.

    The file is made if it doesn't exist (mode 0600, in a ~/.ssh of mode 0700).
    Raises `Conflict` if another key has been added for one of the names, and
    OSError if the file can't be written or is a symbolic link, or if a name
    would mean something else there.
    """
    for name in names:
        if not PLAIN_NAME.fullmatch(name):
            raise OSError(errno.EINVAL, f"{name!r} can't stand for a host there")
    _make_user_directory(file)
    with _locked(file) as descriptor:
        content = _read_all(descriptor)
        missing = []
        for name in names:
            present = [x for x in _matching(content, file, name) if not x.marker]
            if not present:
                missing.append(key_line(name, key_type, key, hashed=hashed))
            elif all(line.key != key for line in present):
                raise Conflict(present)
        if missing:
            start = "\n" if content and not content.endswith(b"\n") else ""
            text = start + "\n".join(missing) + "\n"
            _write_once(descriptor, text.encode(errors="surrogateescape"))


class Conflict(Exception):
    """Another process has stored another key for the host; ``lines`` are where."""

    def __init__(self, lines: list[Line]) -> None:
        super().__init__(lines)
        self.lines = lines


def _matching(content: bytes, file: str, name: str) -> Iterator[Line]:
    if not name:
        return
    matches = _matcher(name)
    for number, text in enumerate(content.split(b"\n"), 1):
        fields = text.split()
        if not fields or fields[0].startswith(b"#"):
            continue
        marker = fields.pop(0).decode(errors="replace") if fields[0].startswith(b"@") else ""
        if marker not in ("", CA, REVOKED) or len(fields) < 3 or fields[0].startswith(b"@"):
            continue
        names, type_field, encoded = fields[:3]
        if matches(names):
            key_type = _key_type(type_field)
            key = _decode(encoded)
            if _is_key(key_type, key):
                yield Line(file, number, marker, names, key_type, key)


def _key_type(field: bytes) -> str:
    text = field.decode(errors="replace")
    return "ssh-rsa" if text in ("rsa-sha2-256", "rsa-sha2-512") else text


def _decode(encoded: bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return b""


def _is_key(key_type: str, key: bytes) -> bool:
    """Whether ``key`` is built as one of this type is, and whole."""
    parts = []
    while key:
        if len(key) < 4:
            return False
        (size,) = struct.unpack(">I", key[:4])
        if len(key) < 4 + size:
            return False
        parts.append(key[4 : 4 + size])
        key = key[4 + size :]
    return len(parts) == KEY_PARTS.get(key_type) and parts[0] == key_type.encode()


def _matcher(name: str) -> Callable[[bytes], bool]:
    host = _lower(name)

    def matches(names: bytes) -> bool:
        if names.startswith(b"|"):
            return _is_hash_of(host, names)
        found = False
        for pattern in names.lower().split(b","):
            negated = pattern.startswith(b"!")
            if _glob(pattern[negated:], host):
                if negated:
                    return False
                found = True
        return found

    return matches


def _glob(pattern: bytes, text: bytes) -> bool:
    if pattern == text:
        return True
    if b"*" not in pattern and b"?" not in pattern:
        return False
    quoted = re.escape(re.sub(rb"\*+", b"*", pattern))
    return bool(re.fullmatch(quoted.replace(rb"\*", b".*").replace(rb"\?", b"."), text, re.S))


def _lower(name: str) -> bytes:
    """ASCII letters only, as OpenSSH does."""
    return name.encode(errors="surrogateescape").lower()


def _hash(name: str) -> str:
    salt = os.urandom(20)
    digest = hmac.digest(salt, _lower(name), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def _is_hash_of(host: bytes, hashed: bytes) -> bool:
    fields = hashed.split(b"|")
    if len(fields) != 4 or fields[1] != b"1":
        return False
    salt = _decode(fields[2])
    return len(salt) == 20 and _decode(fields[3]) == hmac.digest(salt, host, "sha1")


def _content(file: str) -> bytes:
    try:
        return _read_file(file)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        log.warning("The host keys in %s can't be read: %s.", file, error.strerror or error)
        return b""


def _read_file(file: str) -> bytes:
    # Not to wait for a writer, should it be a named pipe.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return _read_all(descriptor)
    finally:
        os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    with open(descriptor, "rb", closefd=False) as stream:
        return stream.read()


def _make_user_directory(file: str) -> None:
    directory = Path(file).parent
    if directory == Path("~/.ssh").expanduser():
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)


@contextlib.contextmanager
def _locked(file: str) -> Iterator[int]:
    """Open ``file`` to read and append, as the only one who does; give its descriptor."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        descriptor = os.open(file, flags, 0o600)
        try:
            _lock(descriptor, deadline)
            # Others replace the file (ssh-keygen -R does): it may be another one by now.
            if _is_at(descriptor, file):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.005)


def _is_at(descriptor: int, file: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(file))
    except FileNotFoundError:
        return False


def _write_once(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


__all__ = [
    "CA",
    "NOWHERE",
    "REVOKED",
    "Conflict",
    "Line",
    "append",
    "find",
    "key_line",
    "listed",
    "named",
]
