"""A tree of two levels: a call on many hosts, carried by a few hosts before them.

Run it with ``python -m benchmarks.tree [HOSTS [GATEWAYS]]``. All hosts, the gateways too, are
addresses of one sshd on this machine, so that a tree can be no faster here than without: what it
shows is that it works, what it costs, and what it takes off this process.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabremote
from benchmarks.far_side import nothing
from benchmarks.measure import Row, table
from benchmarks.scale import HOSTS, Watch, WideServer, raise_limits

GATEWAYS = 10
ROUNDS = 3


def relay(
    addresses: list[str], login: dict[str, Any], fn: Callable[..., Any], *args: Any
) -> list[Any]:
    """Call ``fn`` on hosts; this runs on a gateway, whose Python has fabremote."""
    from fabremote import ThreadingGroup

    with ThreadingGroup(*addresses, **login) as group:
        return list(group.call(fn, *args).values())


def flat(addresses: list[str], gateways: list[str], login: dict[str, Any]) -> int:
    """Call on every host from here; return how many answered."""
    with fabremote.ThreadingGroup(*addresses, **login) as group:
        return len(group.call(nothing))


def tree(addresses: list[str], gateways: list[str], login: dict[str, Any]) -> int:
    """Call on every host by way of the gateways; return how many answered."""
    with fabremote.ThreadingGroup(*gateways, **login) as group:
        count = len(group)
        futures = [
            fabremote.wrap(one)
            .python(python=sys.executable)
            .submit(relay, addresses[number::count], login, nothing)
            for number, one in enumerate(group)
        ]
        return sum(len(future.result()) for future in futures)


def one(name: str, addresses: list[str], *others: Any) -> dict[str, float]:
    """Do one of the two; return what it took."""
    raise_limits()
    before = resource.getrusage(resource.RUSAGE_SELF)
    with Watch() as watch:
        began = time.perf_counter()
        assert {"flat": flat, "tree": tree}[name](addresses, *others) == len(addresses)
        wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {
        "wall": wall,
        "processor": processor,
        "threads": watch.threads,
        "megabytes": watch.megabytes,
    }


def spawn(*given: Any) -> dict[str, float]:
    """Do `one` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tree", "--one"],
        input=json.dumps(given),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(hosts: int = HOSTS, gateways: int = GATEWAYS) -> list[Row]:
    """Return the rows of the tree beside the same without it."""
    raise_limits()
    with tempfile.TemporaryDirectory() as folder, WideServer(Path(folder), hosts) as server:
        addresses = [server.address(number) for number in range(hosts)]
        before = [server.address(hosts + number) for number in range(gateways)]
        login = {
            "user": server.user,
            "port": server.port,
            "connect_kwargs": server.connect_kwargs,
        }
        found: dict[str, list[dict[str, float]]] = {"flat": [], "tree": []}
        for turn in range(ROUNDS):
            for name in sorted(found, reverse=bool(turn % 2)):
                found[name].append(spawn(name, addresses, before, login))
    middle = {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    units = {"wall": " s", "processor": " s", "threads": "", "megabytes": " MB"}
    return [
        Row(
            f"{key}, {hosts} hosts by {gateways}",
            f"{middle['tree'][key]:.2f}{unit}",
            "without the tree",
            f"{middle['flat'][key]:.2f}{unit}",
            middle["tree"][key] / middle["flat"][key],
        )
        for key, unit in units.items()
    ]


def main() -> None:
    """Measure and print, or be one contender."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tree", description=__doc__)
    parser.add_argument("hosts", nargs="?", type=int, default=HOSTS)
    parser.add_argument("gateways", nargs="?", type=int, default=GATEWAYS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(one(*json.load(sys.stdin))))
        return
    print(table(measure(chosen.hosts, chosen.gateways)))


if __name__ == "__main__":
    main()
