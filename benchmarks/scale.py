"""Many connections in one group: a call on each, against Fabric's ``ThreadingGroup.run("true")``.

Run it with ``python -m benchmarks.scale [HOSTS]``. All hosts are addresses of one sshd on this
machine, 127.0.x.y. Each contender has processes of its own, which take turns: in each the group
connects and runs once (cold), and then several times more (warm). The third contender has Fabric
start a Python on each host, which a call can't do without the first time.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabric

import fabremote
from benchmarks.host import same_python
from benchmarks.measure import Row, table
from fabremote.demo.openssh import OpenSSHServer

HOSTS = 500
ROUNDS = 3
WARM = 5
# What one host may have at once, besides what it has anyway.
DESCRIPTORS = 65536


class WideServer(OpenSSHServer):
    """An sshd that is all of 127.0.0.0/8, and lets as many in as come."""

    def __init__(self, directory: Path, hosts: int) -> None:
        options = {"MaxStartups": str(2 * hosts + 10), "LoginGraceTime": "0"}
        super().__init__(directory, env=same_python(directory), options=options)
        self.hosts = ["0.0.0.0"]

    def address(self, number: int) -> str:
        """Return the address of a host."""
        return f"127.0.{1 + number // 200}.{1 + number % 200}"


def raise_limits() -> None:
    """Allow this process, and those it starts, as many descriptors as the system lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Watch:
    """The most threads and memory that this process has while the block runs."""

    def __enter__(self) -> Watch:
        self.threads, self.megabytes = 0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self.threads = max(self.threads, threading.active_count() - 1)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.megabytes = max(self.megabytes, pages * resource.getpagesize() / 1e6)


def one(name: str, addresses: list[str], login: dict[str, Any]) -> dict[str, Any]:
    """Connect and run, cold and warm; return the seconds, and what it took here."""
    raise_limits()
    module: Any = fabremote if name == "fabremote" else fabric
    group = module.ThreadingGroup(*addresses, **login)
    command = (
        "true"
        if name == "fabric"
        else f"python{sys.version_info[0]}.{sys.version_info[1]} -c pass"
    )
    action: Callable[[], Any] = (
        (lambda: group.call(len, "abc"))
        if name == "fabremote"
        else (lambda: group.run(command, hide=True, in_stream=False))
    )
    with Watch() as watch:
        began = time.perf_counter()
        assert len(action()) == len(addresses)
        cold = time.perf_counter() - began
        threads, megabytes = watch.threads, watch.megabytes
        warm = []
        for _ in range(WARM):
            began = time.perf_counter()
            assert len(action()) == len(addresses)
            warm.append(time.perf_counter() - began)
    began = time.perf_counter()
    group.close()
    closing = time.perf_counter() - began
    return {
        "cold": cold,
        "warm": statistics.median(warm),
        "closing": closing,
        "cold_threads": threads,
        "threads": watch.threads,
        "cold_megabytes": megabytes,
        "megabytes": watch.megabytes,
    }


def spawn(name: str, addresses: list[str], login: dict[str, Any]) -> dict[str, Any]:
    """Do `one` in a process of its own."""
    given = json.dumps([name, addresses, login])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--one"],
        input=given,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(hosts: int = HOSTS) -> list[Row]:
    """Return the rows of cold, warm, threads and memory."""
    raise_limits()
    with tempfile.TemporaryDirectory() as folder, WideServer(Path(folder), hosts) as server:
        addresses = [server.address(number) for number in range(hosts)]
        login = {
            "user": server.user,
            "port": server.port,
            "connect_kwargs": server.connect_kwargs,
        }
        found: dict[str, list[dict[str, Any]]] = {"fabric": [], "fabremote": [], "python": []}
        for turn in range(ROUNDS):
            for name in sorted(found, reverse=bool(turn % 2)):
                found[name].append(spawn(name, addresses, login))
                print(f"# {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    middle = {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    return rows(hosts, middle)


def rows(hosts: int, middle: dict[str, dict[str, float]]) -> list[Row]:
    """Return the table's rows."""

    def row(what: str, key: str, unit: str, other: str = "fabric", **target: Any) -> Row:
        mine, theirs = middle["fabremote"][key], middle[other][key]
        floor = f"Fabric's run({'true' if other == 'fabric' else 'python3 -c pass'})"
        text = "{:.2f}{}" if unit == " s" else "{:.0f}{}"
        return Row(
            f"{what}, {hosts} hosts",
            text.format(mine, unit),
            floor,
            text.format(theirs, unit),
            mine / theirs,
            **target,
        )

    return [
        row("group call, cold", "cold", " s", at_most=1.2),
        row("group call, cold", "cold", " s", "python"),
        row("group call, warm", "warm", " s", at_most=0.5),
        row("group call, warm", "warm", " s", "python"),
        row("closing", "closing", " s"),
        row("threads at most", "threads", ""),
        row("memory at most", "megabytes", " MB"),
    ]


def main() -> None:
    """Measure and print, or be one contender."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("hosts", nargs="?", type=int, default=HOSTS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(one(*json.load(sys.stdin))))
        return
    print(table(measure(chosen.hosts)))


if __name__ == "__main__":
    main()
