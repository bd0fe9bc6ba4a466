"""How much memory a transfer takes at its peak: here, and in the agent's processes there."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fabremote import Interpreter

INTERVAL = 0.002


@dataclass
class Peaks:
    """The most bytes beyond what there was before: here; in a worker and the supervisor there."""

    here: int = 0
    worker: int = 0
    supervisor: int = 0

    def text(self, size: int) -> str:
        """Return them in payloads of ``size`` bytes."""
        return f"{self.here / size:.1f} here, {(self.worker + self.supervisor) / size:.1f} there"


def agent_pids() -> tuple[int, int]:
    """Return the pids of the process that forks workers, and of the supervisor, of this one."""
    forker = os.getppid()
    with open(f"/proc/{forker}/stat") as file:
        return forker, int(file.read().rsplit(")", 1)[1].split()[1])


def status(pid: int | str, name: str) -> int:
    """Return a figure of a process's memory in bytes, or 0 if it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) << 10
    return 0


@contextlib.contextmanager
def watched(python: Interpreter) -> Iterator[Peaks]:
    """Watch what the block takes; the peaks are there at its end. Zeros but on Linux."""
    peaks = Peaks()
    if not os.access("/proc/self/clear_refs", os.W_OK):
        yield peaks
        return
    forker, supervisor = python.call(agent_pids)
    for pid in ("self", supervisor):
        # Has the kernel forget the peak so far.
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = status("self", "VmRSS"), status(supervisor, "VmRSS")
    ended = threading.Event()
    watching = threading.Thread(target=_watch_workers, args=(forker, peaks, ended))
    watching.start()
    try:
        yield peaks
    finally:
        ended.set()
        watching.join()
        peaks.here = max(0, status("self", "VmHWM") - before[0])
        peaks.supervisor = max(0, status(supervisor, "VmHWM") - before[1])


def _watch_workers(forker: int, peaks: Peaks, ended: threading.Event) -> None:
    """Note the most that a worker has, less what one has that waits for a call."""
    children = Path(f"/proc/{forker}/task/{forker}/children")
    first = [status(pid, "VmHWM") for pid in children.read_text().split()]
    idle = min(first, default=0)
    while not ended.wait(INTERVAL):
        for pid in children.read_text().split():
            peaks.worker = max(peaks.worker, status(pid, "VmHWM") - idle)
