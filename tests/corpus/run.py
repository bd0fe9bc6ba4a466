"""Send every case to interpreters, as ``python -m tests.corpus.run <interpreter>...``.

Prints one JSON object: interpreter to {"cases": count, "right": count, "refused": count,
"wrong": [(case, what came instead)]}.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import cloudpickle
from invoke.context import Context

from fabremote import ShippingError, wrap
from tests.corpus import CASES, Case

MODULES = ["functions", "decorated", "generators", "future", "classes", "records", "typings"]
MODULES += ["spellings", "results"]
MODULES += [f"newer3{minor}" for minor in (11, 12, 13) if sys.version_info >= (3, minor)]


def load() -> None:
    """Import the corpus, to be sent by value as a script is."""
    for name in MODULES:
        module = importlib.import_module(f"tests.corpus.{name}")
        cloudpickle.register_pickle_by_value(module)


def outcome(python: Any, version: tuple[int, int], case: Case) -> Any:
    """What is wrong with a case's answer, or None; "refused" if it is refused as it must be."""
    try:
        value = python.call(case.fn, *case.args)
    except ShippingError as error:
        wanted = version < case.since and case.why in str(error)
        return "refused" if wanted else f"{type(error).__name__}: {error}"
    except Exception as error:
        wanted = case.exception is type(error)
        return None if wanted else f"{type(error).__name__}: {error}"
    if version < case.since:
        return f"not refused, but {value!r}"
    if case.exception is not None or value != case.value or not same_type(value, case.value):
        return f"{value!r} of {type(value)}"
    return None


def same_type(value: Any, wanted: Any) -> bool:
    """Whether two equal values are of the same types, all the way down."""
    if type(value) is not type(wanted):
        return False
    if type(value) in (list, tuple):
        return all(map(same_type, value, wanted))
    return True


def _version() -> tuple[int, int]:
    import sys

    return tuple(sys.version_info[:2])


def run(paths: list[str]) -> dict[str, Any]:
    """Return what came of all cases, by interpreter."""
    found: dict[str, Any] = {}
    context = wrap(Context())
    for path in paths:
        python = context.python(python=path)
        version = python.call(_version)
        results = [(case.name, outcome(python, version, case)) for case in CASES]
        found[path] = {
            "cases": len(CASES),
            "right": sum(result is None for _, result in results),
            "refused": sum(result == "refused" for _, result in results),
            "wrong": [pair for pair in results if pair[1] not in (None, "refused")],
        }
    context.close()
    return found


if __name__ == "__main__":
    load()
    print(json.dumps(run(sys.argv[1:])))
