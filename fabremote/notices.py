"""What reaches a call beside its frames: notices of this side's own, which no frame's kind is."""

from __future__ import annotations

from fabremote.exceptions import (
    RemoteConnectionLost,
    RemoteProcessDied,
    RemoteTimeout,
    ended_how,
    signal_name,
)
from fabremote.printing import printable

# The session's own notice to a call that the link is gone; not on the wire.
LOST = -1
# Likewise, and the agent has said that it knows nothing of the call.
UNBEGUN = -7
# The local notices to a call that runs on the session's service thread.
CANCELLED = -2
FLOODED = -4
FAULT = -5
PROGRESS = -6
EXPIRED = -3
WANTED = -8
RESIZED = -9
# How long the far side may take to say that a killed call has ended, in seconds.
LAST_WORD = 3.0


def lost(name: str, label: str, reason: str, begun: bool) -> RemoteConnectionLost:
    """Return the error for a call whose link is gone; ``begun``: whether it may have."""
    if begun:
        what = f"during {name}: {reason}. Whether the call ran to its end is not known."
    else:
        what = f"before {name} had begun there: {reason}."
    return RemoteConnectionLost(f"The link to {label} broke {what}", begun)


def crowded(name: str, label: str, timeout: float, most: int) -> RemoteTimeout:
    """Return the error for a call that found no place in time where ``most`` run at once."""
    return RemoteTimeout(
        f"{name} on {label} waited {timeout:g} seconds for one of the {most} calls that run there "
        "at once to end, and was not run. Raise timeout=, or make fewer calls at once.",
        timeout,
    )


def died(
    what: str, status: tuple[int, int], stream: str, text: str, begun: bool
) -> RemoteProcessDied:
    """Return the error for a call, ``what``, whose process ended without an answer.

    ``status``: the number of the signal that ended it, or 0, and its exit status.
    ``text``: the last of what it printed to ``stream``.
    """
    number, exited = status
    name = signal_name(number) if number else None
    message = f"The process of {what} {ended_how(exited, name)} without an answer."
    if text.strip():
        message += f" The last of its {stream}: {printable(text.strip())}"
    return RemoteProcessDied(message, None if name else exited, name, text, begun)


__all__ = [
    "CANCELLED",
    "EXPIRED",
    "FAULT",
    "FLOODED",
    "LAST_WORD",
    "LOST",
    "PROGRESS",
    "RESIZED",
    "UNBEGUN",
    "WANTED",
    "crowded",
    "died",
    "lost",
]
