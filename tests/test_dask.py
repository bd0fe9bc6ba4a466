"""Dask clusters on real hosts: they compute, grow, shrink, mend and end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fabric
import pytest

from fabremote import Connection, RemoteException, ThreadingGroup
from fabremote.demo.server import Server
from tests import sudo_users
from tests.conftest import connect

distributed = pytest.importorskip("distributed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fabremote.dask import FabricCluster
    from fabremote.dask_way import HEARING, Way

PATIENCE = 30.0
pytestmark = [
    pytest.mark.timeout(90),
    # What distributed's own threads do as they end is not ours.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module", autouse=True)
def no_leaks(openssh: Server) -> Iterator[None]:
    """No process is left once the clusters are closed; distributed's threads are its own."""
    before = {process.pid for process in openssh.processes()}
    yield
    wait_for(lambda: {process.pid for process in openssh.processes()} <= before)


@pytest.fixture(scope="module")
def group(openssh: Server) -> Iterator[ThreadingGroup]:
    kwargs = openssh.connect_kwargs
    hosts = openssh.hosts
    with ThreadingGroup(
        *hosts, user=openssh.user, port=openssh.port, connect_kwargs=kwargs
    ) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(group: ThreadingGroup) -> Iterator[Any]:
    with FabricCluster(
        group, n_workers=2, python=sys.executable, worker_options={"nthreads": 1}
    ) as made:
        yield made


@pytest.fixture(scope="module")
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster) as made:
        yield made


def inc(number: int) -> int:
    print("adding to", number)
    return number + 1


def test_it_computes_on_several_hosts(client: Any, cluster: Any, openssh: Server) -> None:
    pids = set(client.run(os.getpid).values())
    assert len(pids) == 2
    assert pids <= {process.pid for process in openssh.processes()}
    assert client.gather(client.map(inc, range(10))) == list(range(1, 11))
    total = client.submit(sum, client.map(inc, range(100)))
    assert total.result() == 5050
    places = [spec["options"]["place"].host for spec in cluster.worker_spec.values()]
    assert places == openssh.hosts[:2]
    assert cluster.scheduler_address.startswith(f"tls://{openssh.hosts[0]}:")


def test_logs_and_output_are_at_hand(client: Any, cluster: Any) -> None:
    client.submit(inc, 12345, pure=False).result()
    wait_for(lambda: any("adding to 12345" in text for text in cluster.output().values()))
    assert set(cluster.output()) >= {"scheduler", 0, 1}
    logs = cluster.get_logs()
    assert "Scheduler at" in logs["Scheduler"]
    assert len(logs) == 4


def test_it_scales_up_and_down_and_loses_no_data(client: Any, cluster: Any) -> None:
    cluster.scale(3)
    client.wait_for_workers(3, timeout=PATIENCE)
    hosts = [spec["options"]["place"].host for spec in cluster.worker_spec.values()]
    assert len(set(hosts)) == len(set(cluster._places))
    held = client.map(inc, range(20), pure=False)
    distributed.wait(held)
    cluster.scale(2)
    wait_for(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 2)
    assert client.gather(held) == list(range(1, 21))


def test_the_nanny_starts_a_dead_worker_again(client: Any) -> None:
    before = set(client.run(os.getpid).values())
    os.kill(min(before), signal.SIGKILL)
    wait_for(lambda: len(found := pids_of(client)) == 2 and min(before) not in found)
    assert client.submit(inc, 1, pure=False).result() == 2


def workers(client: Any) -> dict[str, Any]:
    found: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return found


def pids_of(client: Any) -> set[int]:
    with contextlib.suppress(OSError):
        return set(client.run(os.getpid).values())
    return set()


def feeding() -> int:
    return sum(one.name == "fabremote-stdin" for one in threading.enumerate())


def test_a_worker_lost_with_its_nanny_is_replaced_by_adapt(client: Any, cluster: Any) -> None:
    nannies = client.run(os.getppid)
    lost = {worker["name"]: address for address, worker in workers(client).items()}
    name, before = max(lost), feeding()
    os.kill(nannies[lost[name]], signal.SIGKILL)
    wait_for(lambda: name not in cluster.workers)
    # Nor does a thread here wait to feed its stdin.
    wait_for(lambda: feeding() < before)
    assert "SIGKILL" in log_of(cluster)
    cluster.adapt(minimum=2, maximum=2, interval="100ms")
    wait_for(lambda: lost[name] not in workers(client) and len(workers(client)) == 2)
    assert client.submit(inc, 1, pure=False).result() == 2
    cluster._adaptive.stop()


def test_the_way_may_be_forwarded_and_lead_to_root(openssh: Server) -> None:
    sudo = {} if sudo_users.why_not() else {"sudo": True}
    before = {process.pid for process in openssh.processes()}

    async def compute() -> tuple[str, int]:
        c = connect(openssh)
        try:
            async with (
                FabricCluster(
                    [c],
                    python=sys.executable,
                    forward=True,
                    security=False,
                    worker_class="distributed.Worker",
                    asynchronous=True,
                    **sudo,  # type: ignore[arg-type]
                ) as cluster,
                distributed.Client(cluster, asynchronous=True) as client,
            ):
                return client.scheduler.address, await client.submit(inc, 1)
        finally:
            c.close()

    address, value = asyncio.run(compute())
    assert value == 2
    assert address.startswith("tcp://127.0.0.1:")
    wait_for(lambda: {process.pid for process in openssh.processes()} <= before)


def test_it_works_over_a_gateway_and_knows_what_has_ended(openssh: Server) -> None:
    before = {process.pid for process in openssh.processes()}
    login = {"user": openssh.user, "port": openssh.port, "connect_kwargs": openssh.connect_kwargs}
    with fabric.Connection(openssh.hosts[0], **login) as gateway:
        there = fabric.Connection(openssh.hosts[1], gateway=gateway, **login)
        nowhere = Connection("127.0.0.1", port=1)
        with FabricCluster(
            [there, nowhere],
            n_workers=1,
            python=sys.executable,
            worker_class="distributed.Worker",
        ) as cluster:
            with distributed.Client(cluster) as client:
                # By default the way there leads through SSH.
                assert client.scheduler.address.startswith("tls://127.0.0.1:")
                assert client.submit(inc, 1).result() == 2
                # Where none can be started, the next one goes elsewhere.
                cluster.scale(2)
                wait_for(lambda: "127.0.0.1:1" in log_of(cluster))
                wait_for(lambda: len(cluster.worker_spec) == 1)
                cluster.scale(2)
                client.wait_for_workers(2, timeout=PATIENCE)
                scheduler = client.run_on_scheduler(os.getpid)
            os.kill(scheduler, signal.SIGKILL)
            wait_for(lambda: cluster.status == distributed.Status.failed)
            assert re.search(r"The scheduler on .* ended: .*SIGKILL", log_of(cluster))
            with pytest.raises(RuntimeError, match="scheduler has ended"):
                cluster.scale(3)
            begun = time.monotonic()
        # Dask would wait half a minute for a scheduler that isn't there.
        assert time.monotonic() - begun < 25
        there.close()
    wait_for(lambda: {process.pid for process in openssh.processes()} <= before)


def all_of(one: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size and (piece := one.recv(1 << 16)):
        found += piece
    return bytes(found)


def test_the_way_to_a_scheduler_outlives_a_refusal(openssh: Server) -> None:
    sent = random.Random(1).randbytes(1_000_000)
    with connect(openssh) as c, socket.socket() as server:
        c.open()
        server.bind(("127.0.0.1", 0))
        way = Way(c, *server.getsockname())
        here = ("127.0.0.1", way.port)
        # Nobody listens yet: who connects is disconnected.
        with socket.create_connection(here, PATIENCE) as one:
            began = time.monotonic()
            assert one.recv(1) == b""
            # But not before it could begin TLS.
            assert time.monotonic() - began > 0.9 * HEARING
        server.listen()
        with socket.create_connection(here, PATIENCE) as one:
            there = server.accept()[0]
            with there:
                one.sendall(sent)
                assert all_of(there, len(sent)) == sent
                there.sendall(sent[::-1])
                assert all_of(one, len(sent)) == sent[::-1]
            # Its end is passed on, and so is that of the way.
            assert one.recv(1) == b""
        with socket.create_connection(here, PATIENCE) as one, server.accept()[0]:
            way.close()
            assert one.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(here, PATIENCE)
        wait_for(
            lambda: not any(t.name.startswith("fabremote-way") for t in threading.enumerate())
        )


def log_of(cluster: Any) -> str:
    return str(cluster.get_logs(scheduler=False, workers=False)["Cluster"])


def test_an_interpreter_without_dask_is_refused(group: ThreadingGroup, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")]
    subprocess.run(command, check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    with pytest.raises(RuntimeError, match=r"has no (dask|distributed).*requires=\['distributed="):
        FabricCluster(group, python=python)


def test_what_means_nothing_is_refused(group: ThreadingGroup) -> None:
    with pytest.raises(TypeError, match="no use for timeout="):
        FabricCluster(group, timeout=3)
    with pytest.raises(TypeError, match="give a group"):
        FabricCluster("web1")
    with pytest.raises(ValueError, match="no hosts"):
        FabricCluster([])
    with pytest.raises(TypeError, match="host names, not 3"):
        FabricCluster([3])


def test_a_host_that_cannot_be_reached_ends_the_start(openssh: Server) -> None:
    dead = Connection("127.0.0.1", port=1, connect_timeout=5)
    c = connect(openssh)
    try:
        with pytest.raises(RemoteException, match=r"127\.0\.0\.1:1"):
            FabricCluster([c, dead], python=sys.executable)
    finally:
        c.close()
