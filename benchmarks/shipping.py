"""What functions and modules take to ship, first and repeated: against a warm call of ``len``."""

from __future__ import annotations

import functools
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.host import Host
from benchmarks.measure import Row, times_row
from fabremote.links import ChannelLink

ROUNDS = 5
REPEATS = 30
# Calls until an agent is settled: what is used again has been compiled ahead.
SETTLING = 8
MODULES = 200
HELPERS = 50
# What the repeat of a trivial call may send, in bytes.
REPEATED = 1024

HELPER = '''
def helper{n}(x, y=3):
    """Do something."""
    if x > y:
        return [x * n for n in range(y)]
    result = dict(a=x, b=y)
    for key, value in sorted(result.items()):
        result[key] = value + {n}
    return result
'''


def measure(host: Host) -> list[Row]:
    """Return the rows of each kind of function: times and bytes."""
    with tempfile.TemporaryDirectory() as folder:
        package = make_package(Path(folder))
        subjects: dict[str, Callable[..., Any]] = {
            "a trivial function": trivial,
            f"a function with {HELPERS} helpers": with_helpers(),
            f"a package of {MODULES} modules": package.use,
        }
        return [row for name, fn in subjects.items() for row in rows(host, name, fn)]


def trivial(x: int = 1) -> int:
    """Return twice ``x``."""
    return 2 * x


def with_helpers() -> Callable[[], Any]:
    """Return a function of no module that uses many others."""
    calls = ", ".join(f"helper{n}({n})" for n in range(HELPERS))
    text = "".join(HELPER.format(n=n) for n in range(HELPERS))
    values: dict[str, Any] = {"__name__": "helpers_of_nowhere"}
    exec(f"{text}\ndef use():\n    return len([{calls}])\n", values)
    return values["use"]  # type: ignore[no-any-return]


def make_package(folder: Path) -> Any:
    """Return a package of the user's own, which imports all its modules."""
    inside = folder / "benchmarked"
    inside.mkdir()
    body = "import os, sys\n" + "".join(HELPER.format(n=n) for n in range(12))
    for number in range(MODULES):
        (inside / f"part{number}.py").write_text(body)
    imports = "".join(f"from . import part{number}\n" for number in range(MODULES))
    (inside / "__init__.py").write_text(imports + "def use(): return part7.helper3(1)\n")
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    return importlib.import_module("benchmarked")


def rows(host: Host, name: str, fn: Callable[..., Any]) -> Iterator[Row]:
    """Yield the rows of one function: bytes, then times."""
    first, repeated, floors = [], [], []
    with counting() as sent:
        for _ in range(ROUNDS):
            with host.connection() as conn:
                call = conn.python(python=sys.executable).call
                floors.append(median(functools.partial(call, len, "abc")))
                sent.clear()
                first.append(timed(functools.partial(call, fn)))
                first_bytes = sum(sent)
                for _ in range(SETTLING):
                    call(fn)
                sent.clear()
                call(fn)
                repeated_bytes = sum(sent)
                repeated.append(median(functools.partial(call, fn)))
    most = REPEATED if fn is trivial else first_bytes
    floor = "budget" if fn is trivial else "sent at first"
    yield Row(
        f"{name}: sent again",
        f"{repeated_bytes} B",
        floor,
        f"{most} B",
        repeated_bytes / most,
        at_most=1 if fn is trivial else None,
    )
    warm = statistics.median(floors)
    yield times_row(f"{name}: first", statistics.median(first), "warm call of len", warm)
    yield times_row(f"{name}: again", statistics.median(repeated), "warm call of len", warm)


@contextmanager
def counting() -> Iterator[list[int]]:
    """Count what channels are given to send, in bytes."""
    sent: list[int] = []
    send = ChannelLink.send

    def counted(self: ChannelLink, data: bytes) -> None:
        sent.append(len(data))
        send(self, data)

    with mock.patch.object(ChannelLink, "send", counted):
        yield sent


def timed(call: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def median(call: Callable[[], object]) -> float:
    """Return the median of many calls, in seconds; the first don't count."""
    return statistics.median([timed(call) for _ in range(REPEATS + SETTLING)][SETTLING:])
