"""Connections that sshd turns away, as too many log in at once, are tried again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from paramiko import SSHException

from fabremote.sockets import PromptSocket

# Seconds in all, and until the first time.
PERSISTENCE = 10.0
BLIND_PERSISTENCE = 3.0  # where what sshd said is not known
FIRST_PAUSE = 0.05
# What sshd says then, and in what paramiko says where nothing comes.
BUSY = (b"Exceeded MaxStartups", b"Not allowed at this time")
BANNER = "protocol banner"


def turned_away(sock: Any, error: BaseException) -> bool:
    """Return whether sshd closed a new connection because it has too many that log in.

    That is MaxStartups; it says so in plain text, or nothing at all. What was
    said is known of our own sockets only.
    """
    ended = isinstance(error.__context__, (EOFError, ConnectionError)) and BANNER in str(error)
    if not isinstance(sock, PromptSocket):
        return ended
    known = not sock.greeting or sock.greeting.startswith(BUSY)
    return ended and known and not sock.aborted


def persist(
    attempt: Callable[[], Any], limit: float | None, sock: Callable[[], Any] = lambda: None
) -> Any:
    """Connect by ``attempt``; if sshd turns it away, again, for some seconds at most.

    Nothing has been sent by then but a greeting. ``limit``: seconds that
    connecting may take, if less than usual. ``sock`` returns the attempt's socket.
    """
    begun, pause = time.monotonic(), FIRST_PAUSE
    while True:
        try:
            return attempt()
        except (OSError, SSHException, EOFError) as error:
            # At different times, as those who come at once are turned away at once.
            pause *= random.uniform(1.5, 2.5)
            usual = BLIND_PERSISTENCE if sock() is None else PERSISTENCE
            deadline = begun + min(limit or usual, usual)
            if not turned_away(sock(), error) or time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)
            if getattr(sock(), "aborted", False):
                raise


__all__ = ["BUSY", "persist", "turned_away"]
