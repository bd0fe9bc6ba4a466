"""What fabremote weighs: its upload to a host, and its import beside Fabric's."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile

from benchmarks.host import Host
from benchmarks.measure import Row, medians, milliseconds, take_turns
from fabremote.upload import runner

ROUNDS = 15
BUDGET = 24 << 10
CODE_BUDGET = 56 << 10


def measure(_: Host) -> list[Row]:
    """Return the rows of the upload's sizes and the import's time."""
    return [upload("source", BUDGET), upload("code", CODE_BUDGET), importing()]


def upload(kind: str, budget: int) -> Row:
    """Return the row of what a host is sent before its first call."""
    size = len(runner(coded=kind == "code"))
    what = f"upload to a host, as {kind}"
    return Row(what, f"{size} B", "budget", f"{budget} B", size / budget, at_most=1)


def importing() -> Row:
    """Return the row of ``import fabremote``, less what a bare interpreter takes."""
    codes = {"bare": "pass", "fabric": "import fabric", "fabremote": "import fabremote"}
    with tempfile.TemporaryDirectory() as bytecode:
        # As installed: compiled ahead, wherever the sources are and whatever was set.
        env = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        contenders = {
            name: functools.partial(
                subprocess.run, [sys.executable, "-c", code], check=True, env=env
            )
            for name, code in codes.items()
        }
        found = medians(take_turns(contenders, rounds=ROUNDS))
    ours, floor = found["fabremote"] - found["bare"], found["fabric"] - found["bare"]
    return Row(
        "import fabremote",
        milliseconds(ours),
        "import fabric",
        milliseconds(floor),
        ours / floor,
        at_most=1.25,
    )
