"""What ``[user@]host[:port]`` names."""

from __future__ import annotations

import re
from typing import NamedTuple

from fabric.connection import derive_shorthand


class Target(NamedTuple):
    """A host, as given and in its parts; user and port are None if not given."""

    given: str
    host: str
    user: str | None
    port: int | None


def parse_target(text: str) -> Target:
    """Return what ``[user@]host[:port]`` names; IPv6 addresses with a port are in brackets.

    Raises ValueError if it names nothing.
    """
    bracketed = re.fullmatch(r"(?:(.+)@)?\[([0-9A-Fa-f:.]+(?:%\w+)?)\](?::(\d+))?", text)
    try:
        if bracketed:
            user, host, digits = bracketed.groups()
            found = Target(text, host, user, int(digits) if digits else None)
        else:
            found = Target(text, **derive_shorthand(text))
    except ValueError:
        raise ValueError(f"{text!r} has a port that is no number.") from None
    if not found.host or re.search(r"\s|^-", text):
        raise ValueError(f"{text!r} names no host. Give [user@]host[:port].")
    if found.port is not None and not 0 < found.port < 65536:
        raise ValueError(f"{text!r} has a port that is not between 1 and 65535.")
    return found


__all__ = ["Target", "parse_target"]
