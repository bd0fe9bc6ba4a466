"""Text from a host, made fit for messages."""

from __future__ import annotations

import re

# What a line of more characters keeps of them.
LONG = 240
# Compiled at its first use.
_PASSWORD = r"(?<=//)[^/\s:]*:[^/\s]*@|(?<=http://|ttps://)[^/\s]*@"


def printable(text: str) -> str:
    """Return a host's text for a message, its control characters shown, not obeyed."""
    if text.isprintable():
        return text
    return "".join(
        char if char in "\n\t" or (char.isprintable() and char != "\x7f") else _escaped(char)
        for char in text
    )


def clipped(text: str) -> str:
    """Return a text with the middle of its long lines left out."""
    return "\n".join(
        line if len(line) <= LONG else f"{line[: LONG // 2]}[...]{line[-LONG // 2 :]}"
        for line in text.split("\n")
    )


def folded(text: str) -> str:
    """Return a host's text for a log: `printable`, its further lines indented by four spaces.

    So none of them can pass for another record, of another host.
    """
    return printable(text).replace("\n", "\n    ")


def masked(text: str) -> str:
    """Return a text with the passwords in its URLs masked; a lone name counts for HTTP only."""
    return re.sub(_PASSWORD, "****@", text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


__all__ = ["clipped", "folded", "masked", "printable"]
