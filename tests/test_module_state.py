# ruff: noqa: F811
"""What is loaded here runs there, also when it isn't what its file says any more."""

from __future__ import annotations

import importlib
import sys
from typing import Any
from unittest import mock

import pytest

from fabremote import ShippingError, explain
from fabremote.shipping.modules import Modules
from tests.test_modules import Project, local, project, sent  # noqa: F401

STATE = '''
    """Settings and what uses them."""
    import functools
    from dataclasses import dataclass

    DEBUG = False
    LEVEL: int = 1
    NAMES = []
    TABLE = {"a": (1, 2)}
    FILLED = []
    FILLED.append("at load")
    KINDS = {}
    COMPUTED = len("abc")
    __hidden = 1
    _lazy = None
    if DEBUG:
        MORE = 1
    else:
        MORE = 2

    def kind(fn):
        KINDS[fn.__name__] = fn
        return fn

    @kind
    def small(): return 1

    def state(): return DEBUG, LEVEL, NAMES, TABLE

    def lazy():
        global _lazy
        if _lazy is None:
            _lazy = open(__file__) if DEBUG else object()
        return 1

    def configure(level):
        global LEVEL
        LEVEL = level

    @functools.lru_cache
    def cached(): return DEBUG

    class Plain:
        LIMIT = 1
        __secret = 2
        __slots__ = ("x",)
        def __new__(cls): return object.__new__(cls)
        def __init_subclass__(cls): pass
        def limit(self): return self.LIMIT
        def __private(self): return 1
        @property
        def secret(self): return self.__secret
        class Inner:
            DEEP = 1
            def deep(self): return self.DEEP

    @dataclass
    class Point:
        x: int = 0
        def twice(self): return 2 * self.x

    @dataclass(slots=True)
    class Slotted:
        x: int = 0
        def twice(self): return 2 * self.x
'''
MORE = """
    import enum, typing, abc
    class Colour(enum.Enum):
        RED = 1
        def shown(self): return self.name
    class Pair(typing.NamedTuple):
        a: int = 1
        def total(self): return self.a
    class Base(abc.ABC):
        KIND = "k"
        @abc.abstractmethod
        def go(self): ...
    class Can(typing.Protocol):
        def go(self): ...
    class Typed(typing.TypedDict):
        a: int
    async def later(): return 1
    def make():
        yield 1
    x = y = 1
    for i in range(2): pass
    def outer():
        def inner(): return 1
        return inner
"""


@pytest.fixture
def state(project: Project) -> Any:
    project.write("state.py", STATE)
    return importlib.import_module("state")


def reason(name: str) -> str | None:
    return Modules(()).why_by_value(name)


def test_a_module_as_it_was_loaded_goes_by_reference(project: Project, state: Any) -> None:
    project.write("more.py", MORE)
    importlib.import_module("more")
    for _ in range(2):
        assert reason("state") is None
        assert reason("more") is None
    state.small()
    state.lazy()
    assert reason("state") is None
    assert sent(state.state) == {"state"}


def change(state: Any, what: str) -> Any:
    exec(what, {"state": state})


CHANGES = {
    "state.DEBUG = True": "DEBUG",
    "state.DEBUG = 0": "DEBUG",
    "del state.DEBUG": "DEBUG",
    "state.configure(3)": "LEVEL",
    "state.NAMES.append(1)": "NAMES",
    "state.TABLE['b'] = 1": "TABLE",
    "state.state = len": "state",
    "state.state = lambda: 1": "state",
    "state.state.__code__ = (lambda: 1).__code__": "state",
    "state.Plain.LIMIT = 2": "Plain.LIMIT",
    "state.Plain.limit = lambda self: 5": "Plain.limit",
    "state.Plain._Plain__secret = 5": "Plain._Plain__secret",
    "state.Plain._Plain__private = lambda self: 5": "Plain._Plain__private",
    "state.Plain.Inner.DEEP = 2": "Plain.Inner.DEEP",
    "state.Plain = int": "Plain.LIMIT",
    "state.Plain = None": "Plain",
    "state.Point.twice = lambda self: 5": "Point.twice",
    "state.Slotted.twice = lambda self: 5": "Slotted.twice",
}


@pytest.mark.parametrize("looked", [True, False])
@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_here_is_named(state: Any, what: str, looked: bool) -> None:
    if looked:
        assert reason("state") is None
    change(state, what)
    for _ in range(2):
        assert reason("state") == (
            f"state.{CHANGES[what]} was changed here since state was loaded"
        )


def test_a_module_that_was_changed_back_goes_by_reference_again(state: Any) -> None:
    with mock.patch.object(state, "state"), mock.patch.object(state, "LEVEL", 2):
        assert reason("state") is not None
    assert reason("state") is None
    state.NAMES.append(1)
    assert reason("state") is not None
    state.NAMES.clear()
    assert reason("state") is None


def test_what_was_changed_here_is_what_runs_there(local: Any, state: Any) -> None:
    assert local.call(state.state) == (False, 1, [], {"a": (1, 2)})
    state.DEBUG = True
    state.NAMES.append(1)
    state.configure(7)
    assert local.call(state.state) == (True, 7, [1], {"a": (1, 2)})
    assert local.call(lambda: (state.DEBUG, state.NAMES)) == (True, [1])
    state.Plain.limit = lambda self: 5
    assert local.call(lambda p: p.limit(), state.Plain()) == 5
    with mock.patch.object(state, "LEVEL", 9), mock.patch("state.small", state.configure):
        assert local.call(state.state)[1] == 9
        assert local.call(lambda: state.small(8)) is None
    items = explain(state.state).items
    assert "was changed here since state was loaded" in items[0].why


def test_what_uses_a_changed_module_goes_by_value_with_it(
    local: Any,
    project: Project,
    state: Any,
) -> None:
    project.write(
        "uses.py", "import state\nfrom state import LEVEL\ndef use(): return state.LEVEL\n"
    )
    uses: Any = importlib.import_module("uses")
    assert local.call(uses.use) == 1
    state.LEVEL = 4
    assert local.call(uses.use) == 4


def test_functions_that_were_patched_in_place_go_with_their_new_source(
    local: Any,
    project: Project,
) -> None:
    """As IPython's autoreload does."""
    path = project.write("patched.py", "def f(): return 1\n")
    patched: Any = importlib.import_module("patched")
    assert local.call(patched.f) == 1
    project.write("patched.py", "def f(): return 1 + len('a')\n")
    made: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), made)
    patched.f.__code__ = made["f"].__code__
    assert local.call(patched.f) == 2


@pytest.mark.parametrize("bytecode", [True, False])
def test_a_constant_that_was_edited_is_that_of_here(
    local: Any,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    bytecode: bool,
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", not bytecode)
    project.write("limits.py", "LIMIT = 1\ndef limit(): return LIMIT\n")
    limits: Any = importlib.import_module("limits")
    project.write("limits.py", "LIMIT = 2\ndef limit(): return LIMIT\n")
    assert local.call(limits.limit) == 1


@pytest.mark.parametrize("bytecode", [True, False])
def test_a_reload_may_remove_a_function(
    local: Any, project: Project, monkeypatch: pytest.MonkeyPatch, bytecode: bool
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", not bytecode)
    project.write("fewer.py", "def f(): return 1\ndef gone(): return 2\n")
    fewer: Any = importlib.import_module("fewer")

    def use() -> Any:
        import fewer  # type: ignore[import-not-found]

        return fewer.f()

    assert local.call(use) == 1
    project.write("fewer.py", "def f(): return 10\n")
    importlib.reload(fewer)
    assert local.call(use) == 10


def test_an_own_module_with_the_name_of_a_standard_one_is_not_taken_for_that(
    local: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    project.write("this.py", "LIMIT = 1\ndef mine(): return 'mine', LIMIT\n")
    project.write("uses_this.py", "import this\ndef use(): return this.mine()\n")
    this: Any = importlib.import_module("this")
    uses: Any = importlib.import_module("uses_this")
    assert local.call(this.mine) == local.call(uses.use) == ("mine", 1)
    assert "has the name of a standard module" in explain(this.mine).items[0].why

    def inside() -> Any:
        import this

        return this.mine()  # type: ignore[attr-defined]

    with pytest.raises(ShippingError, match=r"this.py has the name of a standard module.*Rename"):
        local.call(inside)
