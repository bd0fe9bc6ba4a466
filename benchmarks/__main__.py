"""``python -m benchmarks [GROUP ...]``: measure, and print one table."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    bulk,
    calls,
    connecting,
    distance,
    faults,
    fleet,
    lasting,
    output,
    shipping,
    sizes,
    stdin,
    streams,
)
from benchmarks.host import Host, same_python
from benchmarks.measure import Row, table
from fabremote.demo.server import serve

GROUPS: dict[str, Callable[[Host], list[Row]]] = {
    "calls": calls.measure,
    "lasting": lasting.measure,
    "connecting": connecting.measure,
    "distance": distance.measure,
    "fleet": fleet.measure,
    "sizes": sizes.measure,
    "shipping": shipping.measure,
    "bulk": bulk.measure,
    "gigabyte": bulk.measure_gigabyte,
    "output": output.measure,
    "flood": output.measure_flood,
    "stdin": stdin.measure,
    "faults": faults.measure,
    "streams": streams.measure,
}
# Only where they are asked for: they take gigabytes of memory.
ASKED_FOR = ("gigabyte",)
LIBRARIES = ("fabremote", "fabric", "invoke", "paramiko", "cryptography", "cloudpickle")


def main() -> None:
    """Run the groups named on the command line, or all but those that must be asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    chosen = parser.parse_args().groups
    chosen = chosen or [name for name in GROUPS if name not in ASKED_FOR]
    for name in chosen:
        if name not in GROUPS:
            parser.error(f"no group {name!r}; there are {', '.join(GROUPS)}")
    print(machine(), end="\n\n", flush=True)
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as directory,
        serve(Path(directory), env=same_python(Path(directory))) as server,
    ):
        for name in chosen:
            rows += GROUPS[name](Host(server))
    print(table(rows))


def machine() -> str:
    """Return what the figures depend on, and the date."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"{datetime.date.today()}: {cores} cores, {platform.system()} {platform.machine()}, "
        f"{python}\n{libraries}"
    )


def version(name: str) -> str:
    """Return a library's version."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    main()
