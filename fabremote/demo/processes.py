"""Which processes a loopback server started, and how to end them.

A process belongs to a server if it descends from one of the server's own processes, or if its
environment carries the server's mark: that finds daemons too, which have left the family tree.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Process(NamedTuple):
    """One running process; pid and start time together name it for good."""

    pid: int
    parent: int
    started: str
    command: str

    @property
    def is_sshd(self) -> bool:
        """Whether this is a process of OpenSSH's server rather than something it runs."""
        return os.path.basename(self.command.split(" ", 1)[0]).startswith("sshd")


def running() -> dict[int, Process]:
    """Every process of the machine, zombies left out."""
    if not (PROC / "self" / "stat").exists():
        return _running_by_ps()
    found = (_read(int(entry)) for entry in os.listdir(PROC) if entry.isdigit())
    return {process.pid: process for process in found if process is not None}


def family(roots: Iterable[int], mark: str) -> list[Process]:
    """The processes with these pids, their descendants, and all that carry ``mark``."""
    everything = running()
    children: dict[int, list[int]] = {}
    for process in everything.values():
        children.setdefault(process.parent, []).append(process.pid)
    pending = [*roots, *(pid for pid in everything if _carries(pid, mark))]
    members: set[int] = set()
    while pending:
        pid = pending.pop()
        if pid not in members and pid in everything:
            members.add(pid)
            pending.extend(children.get(pid, []))
    members.discard(os.getpid())
    return [everything[pid] for pid in sorted(members)]


def end(processes: Iterable[Process], grace: float = 0.5) -> None:
    """Ask the processes to end, kill those that remain after ``grace`` seconds, and wait."""
    left = list(processes)
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        left = _still(left)
        for process in left:
            _signal(process.pid, number)
        deadline = time.monotonic() + patience
        while left and time.monotonic() < deadline:
            time.sleep(0.01)
            left = _still(left)


def _still(processes: Iterable[Process]) -> list[Process]:
    now = running()
    return [
        process
        for process in processes
        if process.pid in now and now[process.pid].started == process.started
    ]


def _signal(pid: int, number: signal.Signals) -> None:
    # It may have ended meanwhile, or have become another user's.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _read(pid: int) -> Process | None:
    try:
        head, _, tail = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")
        command = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return None
    fields = tail.split()
    if fields[0] in "ZX":
        return None
    text = command.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return Process(pid, int(fields[1]), fields[19], text or head.partition("(")[2])


def _carries(pid: int, mark: str) -> bool:
    try:
        return os.fsencode(mark) in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _running_by_ps() -> dict[int, Process]:
    """The same without /proc, as on macOS and the BSDs."""
    columns = "pid=,ppid=,stat=,lstart=,command="
    output = subprocess.run(
        ["ps", "-axo", columns], stdout=subprocess.PIPE, text=True, errors="replace", check=True
    ).stdout
    found = {}
    for line in output.splitlines():
        pid, parent, state, *started, command = (line.split(None, 8) + [""] * 9)[:9]
        if pid and not state.startswith("Z"):
            found[int(pid)] = Process(int(pid), int(parent), " ".join(started), command)
    return found
