"""The values of ``ssh_options``: each reader takes one as text and returns what it means.

A reader raises ValueError; its text, if any, says more than the table's list of
what is allowed.
"""

from __future__ import annotations

import fnmatch
import getpass
import logging
import os
import re
import shlex
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from paramiko import Transport

T = TypeVar("T")

# One value, or those of a list; then each is taken literally, spaces included.
Given = str | tuple[str, ...]
Reader = Callable[[Given], Any]

TRUE = ("yes", "true")
FALSE = ("no", "false")
LOGLEVELS = {
    "quiet": logging.CRITICAL + 10,
    "fatal": logging.CRITICAL,
    "error": logging.ERROR,
    "info": logging.INFO,
    "verbose": logging.INFO,
    "debug": logging.DEBUG,
    "debug1": logging.DEBUG,
    "debug2": logging.DEBUG,
    "debug3": logging.DEBUG,
}
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
SERVICES = {
    **{f"af{c}{d}": c << 5 | d << 3 for c in (1, 2, 3, 4) for d in (1, 2, 3)},
    **{f"cs{c}": c << 5 for c in range(8)},
    "ef": 0xB8,
    "le": 0x04,
    "lowdelay": 0x10,
    "throughput": 0x08,
    "reliability": 0x04,
    "none": None,
}
LOGINS = ("publickey", "password", "keyboard-interactive")
OTHER_LOGINS = ("gssapi-with-mic", "gssapi-keyex", "hostbased", "none")
CERTIFICATE = "-cert-v01@openssh.com"
_AGENT_ONLY = ("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com")


def one(parse: Callable[[str], T]) -> Reader:
    """Return a reader of exactly one value that is not empty."""

    def read(given: Given) -> T:
        values = (given,) if isinstance(given, str) else given
        if len(values) != 1:
            raise ValueError("it takes one value")
        text = values[0].strip()
        if not text or "\n" in text or "\0" in text:
            raise ValueError
        return parse(text)

    return read


def several(given: Given) -> tuple[str, ...]:
    """Read values separated by white space, with a shell's quotes; a list as it is."""
    values = tuple(shlex.split(given)) if isinstance(given, str) else given
    if not all(values):
        raise ValueError
    return values


def files(given: Given) -> tuple[str, ...]:
    """Read file names; ``none`` alone is no file."""
    values = several(given)
    if not values:
        raise ValueError
    if values == ("none",):
        return ()
    for value in values:
        check_tokens(value)
    return values


def each(given: Given) -> tuple[str, ...]:
    """Read file names, one in a text and several in a list; ``none`` alone is no file."""
    return files((given,) if isinstance(given, str) else given)


def printable(text: str) -> str:
    """Read a text that can be part of the protocol's version line."""
    if not text.isascii() or not text.isprintable():
        raise ValueError
    return text


def boolean(text: str) -> bool:
    """Read yes or no."""
    if text.lower() not in TRUE + FALSE:
        raise ValueError
    return text.lower() in TRUE


def integer(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """Return a reader of whole numbers between two."""

    def read(text: str) -> int:
        if not re.fullmatch("[0-9]{1,10}", text) or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return read


def choice(choices: Mapping[str, T]) -> Callable[[str], T]:
    """Return a reader of one of these words, in either case."""

    def read(text: str) -> T:
        if text.lower() not in choices:
            raise ValueError
        return choices[text.lower()]

    return read


def name(text: str) -> str:
    """Read one word."""
    if re.search(r"\s", text):
        raise ValueError
    return text


def seconds(text: str) -> int | None:
    """Read a time such as 90, 90s or 1m30s; none and 0 mean no limit."""
    if text.lower() == "none":
        return None
    if not re.fullmatch("([0-9]+[smhdw]?)+", text.lower()):
        raise ValueError
    parts = re.findall("([0-9]+)([smhdw]?)", text.lower())
    return sum(int(number) * UNITS[unit] for number, unit in parts) or None


def interval(text: str) -> int:
    """Read a time; 0 and none mean never."""
    return seconds(text) or 0


def rekey(given: Given) -> int | None:
    """Read a number of bytes, or ``default``; paramiko has no limit of time."""
    amount, *times = several(given) or ("",)
    if times and [word.lower() for word in times] != ["none"]:
        raise ValueError(
            "paramiko renews keys by amount only: leave the time out. Allowed is an amount of "
            "bytes such as 512M, or default"
        )
    if amount.lower() in ("default", "none"):
        return None
    match = re.fullmatch("([0-9]{1,12})([kmg]?)", amount.lower())
    if not match:
        raise ValueError
    size = int(match[1]) * SIZES[match[2]]
    if size and size < 16:
        raise ValueError
    return size or None


def service(given: Given) -> int | None:
    """Read one or two classes of service; the second is for what is not interactive: us."""
    words = several(given)
    if len(words) not in (1, 2):
        raise ValueError
    values = [_service(word.lower()) for word in words]
    return values[-1]


def _service(word: str) -> int | None:
    if word in SERVICES:
        return SERVICES[word]
    if not re.fullmatch("[0-9]{1,3}|0x[0-9a-f]{1,2}", word) or int(word, 0) > 255:
        raise ValueError
    return int(word, 0)


def logins(text: str) -> tuple[str, ...]:
    """Read an order of login methods."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in LOGINS + OTHER_LOGINS:
            raise ValueError
    known = tuple(dict.fromkeys(word for word in words if word in LOGINS))
    if not known:
        raise ValueError(f"paramiko can log in by none of these, but by {', '.join(LOGINS)}")
    return known


def variables(given: Given) -> tuple[tuple[str, str], ...]:
    """Read NAME=VALUE pairs."""
    pairs = [word.partition("=") for word in several(given)]
    if not pairs or not all(re.fullmatch(r"[^\s=\0]+", key) and sep for key, sep, _ in pairs):
        raise ValueError
    return tuple((key, value) for key, _, value in pairs)


def patterns(given: Given) -> tuple[str, ...]:
    """Read names of variables, with wildcards."""
    words = several(given)
    if not words or any("=" in word or word == "-" for word in words):
        raise ValueError
    return words


# Tokens ------------------------------------------------------------------------------------

TOKENS = "%dhikLlnpru"
_TOKEN = re.compile(r"%(.?)|\$\{([^}]*)\}", re.DOTALL)


def check_tokens(text: str, allowed: str = TOKENS) -> str:
    """Return ``text``; raise ValueError if a ``%`` in it is followed by anything but a token."""
    for match in _TOKEN.finditer(text):
        if match[2] is None and match[1] not in tuple(allowed):
            known = " ".join(f"%{token}" for token in allowed)
            raise ValueError(f"%{match[1]} is no token here; there are {known}")
    return text


def tokens(allowed: str) -> Callable[[str], str]:
    """Return a reader of text with these tokens."""
    return lambda text: check_tokens(text, allowed)


def expand(text: str, tokens: Mapping[str, str], variables: bool = True) -> str:
    """Return ``text`` with its ``%`` tokens and, if wanted, ``${NAME}`` replaced.

    Raises ValueError for a variable that isn't set.
    """

    def replace(match: re.Match[str]) -> str:
        if match[2] is None:
            return tokens[match[1]]
        if not variables:
            return match[0]
        if match[2] not in os.environ:
            raise ValueError(f"the environment has no {match[2]} for {text!r}")
        return os.environ[match[2]]

    return _TOKEN.sub(replace, text)


class Tokens(dict[str, str]):
    """What each token stands for; those that cost a look-up are found when asked for."""

    def __init__(self, host: str, original: str, port: int, user: str, alias: str | None) -> None:
        home = os.path.expanduser("~")
        super().__init__({"%": "%", "d": home, "h": host, "n": original, "p": str(port)})
        self.update(r=user, k=alias or original)

    def __missing__(self, key: str) -> str:
        find: dict[str, Callable[[], str]] = {
            "L": lambda: socket.gethostname().partition(".")[0],
            "l": socket.getfqdn,
            "u": getpass.getuser,
            "i": lambda: str(os.getuid()),
        }
        return self.setdefault(key, find[key]())


# Algorithms --------------------------------------------------------------------------------


def _of_paramiko(kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what paramiko offers unless told otherwise, and all that it has."""
    offered = tuple(getattr(Transport, f"_preferred_{kind}"))
    if kind == "keys":
        every = (*(name + CERTIFICATE for name in offered), *offered)
        return every, every
    if kind == "pubkeys":
        plain = offered + _AGENT_ONLY
        certified = tuple(a.removesuffix("@openssh.com") + CERTIFICATE for a in plain)
        return (*certified, *plain), (*certified, *plain)
    table = {"kex": "_kex_info", "ciphers": "_cipher_info", "macs": "_mac_info"}[kind]
    return offered, tuple(getattr(Transport, table))


# What OpenSSH has, or had, and paramiko has not: lists that name them stay usable.
_ELSEWHERE = {
    "kex": """diffie-hellman-group1-sha1 diffie-hellman-group14-sha1
        diffie-hellman-group18-sha512 diffie-hellman-group-exchange-sha1 curve25519-sha256
        sntrup761x25519-sha512 sntrup761x25519-sha512@openssh.com mlkem768x25519-sha256
        curve25519-sha256@libssh.org""",
    "ciphers": """chacha20-poly1305@openssh.com aes128-gcm@openssh.com aes256-gcm@openssh.com
        rijndael-cbc@lysator.liu.se 3des-cbc arcfour arcfour128 arcfour256 blowfish-cbc
        cast128-cbc""",
    "macs": """umac-64@openssh.com umac-128@openssh.com hmac-sha1-etm@openssh.com
        hmac-sha1-96-etm@openssh.com hmac-md5-etm@openssh.com hmac-md5-96-etm@openssh.com
        umac-64-etm@openssh.com umac-128-etm@openssh.com hmac-ripemd160 hmac-md5 hmac-md5-96
        hmac-ripemd160@openssh.com hmac-ripemd160-etm@openssh.com""",
    "keys": """ssh-rsa ssh-dss ssh-rsa-cert-v01@openssh.com ssh-dss-cert-v01@openssh.com
        sk-ssh-ed25519@openssh.com sk-ssh-ed25519-cert-v01@openssh.com
        sk-ecdsa-sha2-nistp256@openssh.com sk-ecdsa-sha2-nistp256-cert-v01@openssh.com
        ssh-ed25519-cert-v01@openssh.com ecdsa-sha2-nistp256-cert-v01@openssh.com
        ecdsa-sha2-nistp384-cert-v01@openssh.com ecdsa-sha2-nistp521-cert-v01@openssh.com
        rsa-sha2-512-cert-v01@openssh.com rsa-sha2-256-cert-v01@openssh.com
        webauthn-sk-ecdsa-sha2-nistp256@openssh.com""",
    "pubkeys": """ssh-rsa ssh-dss ssh-rsa-cert-v01@openssh.com ssh-dss-cert-v01@openssh.com
        webauthn-sk-ecdsa-sha2-nistp256@openssh.com""",
}
_SAME = {"curve25519-sha256": "curve25519-sha256@libssh.org"}


def algorithms(kind: str) -> Reader:
    """Return a reader of a list of algorithms with OpenSSH's ``+``, ``-``, ``^`` and wildcards.

    ``kind``: kex, ciphers, macs, keys (the host's) or pubkeys (ours). Names that
    OpenSSH has and paramiko has not are left out, as long as others remain:
    after ``+`` and ``^`` those offered always do.
    """

    def read(given: Given) -> tuple[str, ...]:
        text = given if isinstance(given, str) else ",".join(given)
        mode = text[:1] if text[:1] in tuple("+-^") else ""
        offered, available = _of_paramiko(kind)
        named: dict[str, None] = {}
        for word in text[len(mode) :].split(","):
            named.update(dict.fromkeys(_matching(word.strip(), kind, available)))
        if mode == "-":
            result = tuple(a for a in offered if a not in named)
        elif mode == "+":
            result = tuple(dict.fromkeys((*offered, *named)))
        else:
            result = tuple(dict.fromkeys((*named, *(offered if mode else ()))))
        if not result:
            raise ValueError(f"that leaves nothing of what paramiko has: {', '.join(available)}")
        return result

    return read


def host_key_algorithms(given: Given) -> tuple[str, ...]:
    """Read a list as `algorithms` does, but return it as it is, for `Verifier` to apply."""
    algorithms("keys")(given)
    text = given if isinstance(given, str) else ",".join(given)
    return tuple(word.strip() for word in text.split(","))


def _matching(word: str, kind: str, available: tuple[str, ...]) -> list[str]:
    found = [a for a in available if fnmatch.fnmatchcase(a, _SAME.get(word, word))]
    elsewhere = fnmatch.filter(_ELSEWHERE[kind].split(), word)
    if not word or not (found or elsewhere):
        raise ValueError(
            f"{word!r} is no algorithm known here; paramiko has {', '.join(available)}"
        )
    return found
