"""What `explain` says of a call, against what the call then sends."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from fabremote import Connection, explain, wrap
from fabremote.links import ProcessLink
from fabremote.shipping.explain import Explanation, Item

LIMITS = [1, 2, 3]
LOCK = threading.Lock()


class Scale:
    """A class that goes by value."""

    def up(self, x: int) -> int:
        return x * LIMITS[1]


def helper(x: int) -> str:
    return json.dumps([x, *LIMITS])


def work(x: int, text: str = "t" * 500) -> Any:
    return helper(x), Scale().up(x), text


def counting(start: int) -> Callable[[int], int]:
    return lambda x: x + start


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "tool.py").write_text(
        "import mine.other\ndef use():\n    return mine.other.VALUE\n"
    )
    (tmp_path / "mine" / "other.py").write_text("VALUE = 5\n")
    (tmp_path / "theirs.py").write_text("import pytest\nVALUE = 6\ndef use(): return VALUE\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module
    for name in ("mine", "mine.tool", "mine.other", "theirs"):
        sys.modules.pop(name, None)


def item(found: Explanation, kind: str, name: str) -> Item:
    (only,) = [each for each in found.items if (each.kind, each.name) == (kind, name)]
    return only


def test_code_globals_and_arguments_have_sizes_and_reasons() -> None:
    found = explain(work, 3)
    assert found.refused is None
    assert item(found, "code", "work()").size > 100
    assert item(found, "code", "work()").why.startswith("of tests.test_explain, which goes by val")
    assert "imports fabremote, which may not be there" in item(found, "code", "helper()").why
    assert 10 < item(found, "default", "work()").size - 500 < 60
    assert item(found, "class", "Scale").size > 100
    assert {each.why for each in found.items if each.name == "LIMITS"} == {
        "used by helper()",
        "used by Scale.up()",
    }
    assert item(found, "imported", "json").why == "of the standard library"
    assert item(found, "argument", "0") == Item("argument", "0", 5, "of type int")
    assert item(explain(work, text="abc"), "argument", "text").size > 3


def test_a_closures_variables_are_named() -> None:
    found = explain(counting(7), 1)
    assert item(found, "variable", "start").why == "used by counting.<locals>.<lambda>()"


def test_modules_are_listed_with_reasons(own: Any) -> None:
    tool = own("mine.tool")
    found = explain(tool.use)
    assert item(found, "module", "mine.tool").why == "used by the call"
    assert item(found, "module", "mine.other").why == "imported by mine.tool"
    assert item(found, "module", "mine").why == "the package of mine.tool"
    assert item(found, "module", "mine.tool").size > 50
    by_value = explain(own("theirs").use)
    why = "of theirs, which goes by value: theirs imports pytest, which may not be there"
    assert item(by_value, "code", "use()").why == why
    assert item(explain(lambda: pytest), "imported", "pytest").why == (
        "installed here, and must be there"
    )


def test_options_of_an_interpreter_count_and_nothing_is_started(
    own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(ProcessLink, "__init__", refused)
    monkeypatch.setattr(Connection, "open", refused)
    tool = own("mine.tool")
    for place in (wrap(Context()), Connection("nowhere.invalid")):
        found = explain(tool.use, python=place.python(modules=["-mine"]))
        assert not [each for each in found.items if each.kind == "module"]
        why = "kept from going by modules=, so it must be installed there"
        assert item(found, "imported", "mine.tool").why == why
        sent = explain(len, "", python=place.python(modules=["mine"]))
        assert item(sent, "module", "mine.other").why == "sent by modules="
        assert item(sent, "module", "mine.tool").why == "sent by modules="


def test_sizes_are_those_that_travel(own: Any, sent: list[int]) -> None:
    tool = own("mine.tool")
    for fn, args in ((work, (1,)), (tool.use, ()), (len, ("abc",))):
        with wrap(Context()) as context:
            python = context.python(python=sys.executable)
            python.call(abs, -1)
            found = explain(fn, *args, python=python)
            assert str(found.python).startswith("Python 3.")
            sent.clear()
            python.call(fn, *args)
            python.call(fn, *args)
            # Beside them, headers of frames and digests.
            assert 0 < sent[0] - found.first < 400
            assert 0 < sent[1] - found.repeated < 200


def test_the_items_make_up_the_whole(own: Any) -> None:
    found = explain(own("mine.tool").use)
    assert any(each.kind == "fabremote" for each in found.items)
    # Beside them, what holds them together.
    assert 0 <= found.first - sum(each.size for each in found.items) < 600


def test_an_interpreters_name_is_none() -> None:
    with pytest.raises(TypeError, match=r"python='python3\.8' .*conn\.python"):
        explain(len, "abc", python="python3.8")  # type: ignore[arg-type]


def test_why_a_call_cannot_be_sent() -> None:
    found = explain(lambda: LOCK)
    assert found.refused is not None
    assert "global LOCK is a _thread.lock" in found.refused
    assert item(found, "global", "LOCK").why.endswith("it can't be sent")
    assert (found.first, found.repeated) == (0, 0)
    assert str(found).endswith(found.refused)
    with pytest.raises(TypeError, match="isn't callable"):
        explain(7)  # type: ignore[arg-type]


def test_the_text_is_a_table() -> None:
    lines = str(explain(counting(7), 1)).splitlines()
    assert lines[0].startswith("counting.<locals>.<lambda>() for Python 3.")
    assert lines[0].endswith("when called again")
    assert lines[1].split() == ["what", "name", "bytes", "why"]
    assert lines[-1].split() == ["argument", "0", "5", "of", "type", "int"]
    assert str(explain(len, "\x1b[31m")).count("\x1b") == 0
