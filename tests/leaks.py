"""What a test must not leave behind: remote processes, local threads, file descriptors."""

from __future__ import annotations

import gc
import os
import re
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fabremote.demo.processes import Process
from fabremote.demo.server import Server
from fabremote.session import Session

PATIENCE = 20.0
_OF_SESSION = re.compile(r"fabremote-(?:outbox|service)-(.*?)(?:_\d+|-clock)?$")
SERVING = "fabremote-embedded-server"  # a server that a test asked for late serves the session


# Those of this process.
SESSIONS: weakref.WeakSet[Session] = weakref.WeakSet()


def _noted(self: Session, *args: Any, _begin: Callable[..., None] = Session.__init__) -> None:
    SESSIONS.add(self)
    _begin(self, *args)


Session.__init__ = _noted  # type: ignore[method-assign]


class Snapshot:
    """What there is before a test; ``excess`` is what has come since."""

    def __init__(self, servers: list[Server]) -> None:
        self._servers = servers
        self._processes = {(p.pid, p.started) for p in self._running()}
        self._threads = set(threading.enumerate())
        self._sessions = {session for session in SESSIONS if session.alive}
        self._descriptors = _descriptors()

    def excess(self) -> list[str]:
        """What is left over after ``PATIENCE`` seconds, described."""
        checks = (self._more_processes, self._more_threads, self._more_descriptors)
        deadline = time.monotonic() + PATIENCE
        return [text for check in checks for text in _settle(check, deadline)]

    def _running(self) -> list[Process]:
        return [process for server in self._servers for process in server.processes()]

    def _more_processes(self) -> list[str]:
        left = (p for p in self._running() if (p.pid, p.started) not in self._processes)
        return [f"remote process {p.pid}: {p.command}" for p in left]

    def _more_threads(self) -> list[str]:
        left = set(threading.enumerate()) - self._threads
        # asyncio before Python 3.12 waits for each process of the embedded server in a thread.
        return [
            f"thread {thread.name}{_place(thread)}"
            for thread in left
            if thread.name != SERVING
            and not thread.name.startswith("waitpid-")
            and not self._is_of_before(thread)
        ]

    def _is_of_before(self, thread: threading.Thread) -> bool:
        """Whether an agent that there was before has begun to send in a thread of its own."""
        found = _OF_SESSION.match(thread.name)
        labels = {session.label for session in self._sessions if session.alive}
        return found is not None and found[1] in labels

    def _more_descriptors(self) -> list[str]:
        now = _descriptors()
        if len(now) <= len(self._descriptors):
            return []
        new = now.items() - self._descriptors.items()
        return [f"file descriptor {number}: {target}" for number, target in sorted(new)]


def _place(thread: threading.Thread) -> str:
    """Where a thread stands."""
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(["\n", *traceback.format_stack(frame)[-4:]]) if frame is not None else ""


def _settle(check: Callable[[], list[str]], deadline: float) -> list[str]:
    left = check()
    while left and time.monotonic() < deadline:
        gc.collect()  # paramiko's objects refer to each other in circles
        time.sleep(0.02)
        left = check()
    return left


def _descriptors() -> dict[int, str]:
    """The open file descriptors and what they are; empty where the system doesn't tell."""
    found = {}
    for entry in os.listdir("/proc/self/fd") if Path("/proc/self/fd").is_dir() else []:
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue  # the one that listed them
    return found
