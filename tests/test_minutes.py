"""What takes a minute as it is: the usual heartbeat, C code that keeps the GIL, a gigabyte."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import pytest

from fabremote import Connection, RemoteConnectionLost
from fabremote.demo import processes
from fabremote.demo.server import Server
from tests.faults import dial, relayed, within
from tests.test_life import busy, left_of, pids_in

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

# Three signs of life that don't come, 15 seconds apart; what noticing may take beyond that;
# and what a machine with other work may.
SILENCE, NOTICING, LOAD = 45.0, 2.0, 3.0


def test_a_dead_link_is_given_up_by_both_ends_at_the_usual_heartbeat(
    openssh: Server, tmp_path: Path
) -> None:
    with relayed(openssh) as relay, dial(openssh, relay.port) as c:
        assert c.config.remotely.heartbeat == 15
        agent = c.call(os.getppid)
        future = c.python().submit(busy, str(tmp_path / "pids"))
        pids = pids_in(tmp_path / "pids")
        began = time.monotonic()
        relay.hold()
        here = there = 0.0
        while not (here and there):
            passed = time.monotonic() - began
            assert passed < SILENCE + 30
            here = here or (passed if future.done() else 0.0)
            there = there or (passed if not left_of([*pids, agent], 0) else 0.0)
            time.sleep(0.05)
        assert type(future.exception()) is RemoteConnectionLost
        # The last sign of life may have come up to an interval before.
        for passed in (here, there):
            assert SILENCE - 15 - 1 < passed < SILENCE + NOTICING + LOAD
        relay.release()
        assert c.call(max, 1, 2) == 2


def hold_the_interpreter(seconds: int) -> int:
    # Unlike CDLL, PyDLL keeps the GIL while it is away in C.
    ctypes.PyDLL(None).sleep(seconds)
    return seconds


def test_a_function_may_keep_the_gil_for_a_minute(conn_openssh: Connection) -> None:
    agent = conn_openssh.call(os.getppid)
    py = conn_openssh.python()
    with within(120):
        future = py.submit(hold_the_interpreter, 60)
        while not future.done():
            # Others don't wait for it.
            with within(15):
                assert conn_openssh.call(os.getppid) == agent
            time.sleep(1)
        assert future.result() == 60
    assert conn_openssh.call(os.getppid) == agent


GIGABYTE = 1 << 30
# What either side's processes may grow by meanwhile, in bytes.
GROWTH = 100 << 20


class Count:
    """An out_stream that keeps nothing, and notes the most memory that this process takes."""

    def __init__(self) -> None:
        self.count = 0
        self.most = 0

    def write(self, text: str) -> None:
        self.count += len(text)
        self.most = max(self.most, memory_of("self"))

    def flush(self) -> None:
        pass


def memory_of(pid: object) -> int:
    """What a process holds in memory now, in bytes."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def peak_of(pid: int) -> int:
    """The most that a process has held, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def print_a_gigabyte() -> int:
    piece = b"x" * 65536
    for _ in range(GIGABYTE // len(piece)):
        view = memoryview(piece)
        while view:
            view = view[os.write(1, view) :]
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) << 10 for line in stream if line.startswith("VmHWM:"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_gigabyte_of_output_takes_little_memory(conn_openssh: Connection) -> None:
    forker = conn_openssh.call(os.getppid)
    supervisor = processes.running()[forker].parent
    shown = Count()
    before = memory_of("self")
    with within(300):
        peak = conn_openssh.python(out_stream=shown).call(print_a_gigabyte)
    assert shown.count == GIGABYTE
    assert shown.most - before < GROWTH
    assert max(peak, peak_of(supervisor), peak_of(forker)) < GROWTH
    assert conn_openssh.call(os.getppid) == forker
