"""What ~/.ssh/config says about host keys, which Fabric leaves to OpenSSH."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

_FILES = ("UserKnownHostsFile", "GlobalKnownHostsFile")
_OPTIONS = (
    *_FILES,
    "StrictHostKeyChecking",
    "HostKeyAlias",
    "HostKeyAlgorithms",
    "HashKnownHosts",
    "RevokedHostKeys",
    "KnownHostsCommand",
    "CheckHostIP",
    "BatchMode",
)
_ROOTS = ("/", "~", "%d", "${", "none")


def from_config(
    config: Mapping[str, Any], given: Iterable[str] = (), proxied: bool = False
) -> dict[str, Any]:
    """Return the host-key options of a host's ~/.ssh/config, less those ``given``.

    ``proxied``: whether the host isn't connected to from here, where CheckHostIP
    means nothing.
    """
    without = {name.lower() for name in given} | ({"checkhostip"} if proxied else set())
    return {
        name: files(config[name.lower()]) if name in _FILES else config[name.lower()]
        for name in _OPTIONS
        if name.lower() in config and name.lower() not in without
    }


def files(text: str) -> tuple[str, ...]:
    """Return the file names in a value that paramiko has read.

    Of a value that begins and ends with a quote it takes away both, as if they
    belonged together.
    """
    if re.search(r'^[^"]*[^\s"]"', text):
        text = f'"{text}"'
    try:
        words = tuple(shlex.split(text))
    except ValueError:
        return (text,)
    begun = [word.startswith(_ROOTS) for word in words]
    if words == tuple(text.split()) and any(begun[:1]) and not all(begun):
        # No path begins like that: it is the rest of one with a space in it, quoted before.
        return (text,)
    return words


__all__ = ["files", "from_config"]
