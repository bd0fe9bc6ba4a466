"""Whatever is killed, cancelled or closed at any stage of a call: it is told, nothing is left."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fabremote import (
    Connection,
    RemoteCancelled,
    RemoteConnectionLost,
    RemoteConnectionRefused,
    RemoteInterpreterMissing,
    RemoteProcessDied,
)
from fabremote.demo.openssh import OpenSSHServer
from tests.faults import dial, host, within

DATA = os.urandom(1 << 20) * 6
# Connecting, starting an agent, sending, running and answering take about so long, in seconds.
SPAN = 0.7
TIMES = 25


def work(data: bytes) -> bytes:
    os.write(1, b"x" * 300_000)
    time.sleep(0.05)
    return data[::-1]


def kill_one(server: OpenSSHServer, c: Connection, future: Future[bytes], dice: Any) -> None:
    """Kill a process of the session, if there is any: of sshd's, the agent's, or a worker."""
    assert server._sshd is not None
    victims = [each.pid for each in server._family() if each.pid != server._sshd.pid]
    if victims:
        try:
            os.kill(dice.choice(victims), signal.SIGKILL)
        except ProcessLookupError:
            return


def cancel(server: OpenSSHServer, c: Connection, future: Future[bytes], dice: Any) -> None:
    future.cancel()


def close(server: OpenSSHServer, c: Connection, future: Future[bytes], dice: Any) -> None:
    c.close()


Act = Callable[[OpenSSHServer, Connection, "Future[bytes]", Any], None]
DEATHS = RemoteConnectionLost, RemoteConnectionRefused, RemoteInterpreterMissing, RemoteProcessDied
ENDS: dict[Act, tuple[type[Exception], ...]] = {
    kill_one: DEATHS,
    cancel: (RemoteCancelled,),
    close: (RemoteCancelled, RemoteConnectionRefused),
}


@pytest.mark.parametrize("act", ENDS, ids=lambda act: act.__name__)
@pytest.mark.faults
@pytest.mark.timeout(240)
def test_it_is_told_whenever_it_happens(
    act: Act, tmp_path: Path, remote_env: dict[str, str]
) -> None:
    seed = random.randrange(1 << 32)
    print("the seed is", seed)
    dice = random.Random(seed)
    with host(tmp_path / "s", env=remote_env) as server, ThreadPoolExecutor(1) as pool:
        for number in range(TIMES):
            with dial(server) as c, within(60):
                py = c.python(hide=True)
                if act is cancel:
                    # A future is there once the call has been sent.
                    future: Future[bytes] = py.submit(work, DATA)
                else:
                    future = pool.submit(py.call, work, DATA)
                time.sleep(SPAN * (number + dice.random()) / TIMES)
                act(server, c, future, dice)
                try:
                    assert future.result(50) == DATA[::-1]
                except ENDS[act]:
                    pass
                else:
                    if act is kill_one:
                        # The connection's end may be told only now, so that it is in doubt.
                        with contextlib.suppress(RemoteConnectionLost):
                            assert c.call(max, 1, 2) == 2
                assert c.call(max, 1, 2) == 2
