"""Own modules that the far side's Python can't load: what a call uses of them goes by value."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from fabremote import ShippingError, prepared, wrap
from tests import interpreters

OLDER = [v for v in ("3.8", "3.7", "3.9", "3.6") if v in interpreters.found()]
needs_older = pytest.mark.skipif(not OLDER, reason="no older Python here")

Make = Callable[[str, str], Any]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Writes and imports a module of the user's own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []

    def write(name: str, text: str) -> Any:
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        made.append(name)
        return importlib.import_module(name)

    yield write
    for name in made:
        del sys.modules[name]


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with wrap(Context()) as found:
        if OLDER:
            # Starts all threads that there will be.
            found.python(python=interpreters.found()[OLDER[0]]).submit(abs, -1).result(30)
        yield found


@pytest.fixture
def older(context: Any) -> Any:
    return context.python(python=interpreters.found()[OLDER[0]])


# It is there from its own start on.
LATER = "import sys\nif sys.version_info < (3, 10): raise ImportError('too old')\n"


@needs_older
@pytest.mark.parametrize("way", ["call", "run", "submit"])
def test_a_module_that_cannot_be_loaded_there_goes_by_value(
    older: Any, make: Make, way: str
) -> None:
    text = "BASE = 4\ndef f(n):\n    return g(n) + BASE\n\ndef g(n):\n    return n * 10\n"
    own = make(f"unloadable_{way}", LATER + text)
    begin = {
        "call": older.call,
        "run": lambda *args: older.run(*args).value,
        "submit": lambda *args: older.submit(*args).result(30),
    }[way]
    assert begin(own.f, 2) == 24
    assert begin(lambda: own.f(3)) == 34


@needs_older
def test_its_generators_wait_for_the_call_that_can_be_loaded(older: Any, make: Make) -> None:
    own = make(
        "unloadable_items", LATER + "def f(items):\n    for n in items:\n        yield -n\n"
    )
    assert list(older.call(own.f, (n for n in range(3)))) == [0, -1, -2]


@needs_older
def test_what_uses_the_module_goes_without_it_too(older: Any, make: Make) -> None:
    make("unloadable_below", f"{LATER}def f():\n    return 'below'\n")
    above = make("unloadable_above", "from unloadable_below import f\ndef h():\n    return f()\n")
    assert older.call(above.h) == "below"


@needs_older
def test_a_class_that_the_older_library_can_not_make_does(older: Any, make: Make) -> None:
    if OLDER[0] == "3.6":
        pytest.skip("no dataclasses in Python 3.6")
    text = (
        "from dataclasses import dataclass\n\n@dataclass(slots=True, kw_only=True)\n"
        "class Point:\n    x: int\n    y: int = 2\n\ndef make():\n    return Point(x=1)\n"
    )
    own = make("unloadable_points", text)
    found = older.call(own.make)
    assert type(found) is own.Point
    assert (found.x, found.y) == (1, 2)


@needs_older
def test_the_next_call_knows(
    older: Any, context: Any, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make("unloadable_known", f"{LATER}def f():\n    return 1\n")
    assert older.call(own.f) == 1
    attempts = []
    start = prepared.Prepared._start

    def counted(self: Any) -> Any:
        attempts.append(self)
        return start(self)

    monkeypatch.setattr(prepared.Prepared, "_start", counted)
    assert older.call(own.f) == 1
    assert len(attempts) == 1


@needs_older
def test_what_cannot_go_at_all_is_refused_as_before(older: Any, make: Make) -> None:
    own = make("unloadable_missing", "import tomllib\ndef f():\n    return tomllib.loads('')\n")
    if sys.version_info < (3, 11):
        pytest.skip("not here either")
    with pytest.raises(ShippingError, match=r"not loaded there: .*tomllib"):
        older.call(own.f)
    with pytest.raises(ShippingError, match=r"not loaded there: .*tomllib"):
        older.submit(own.f).result(30)
