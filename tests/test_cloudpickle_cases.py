"""What cloudpickle documents that it can do holds through a call, without cloudpickle there."""

from __future__ import annotations

import abc
import collections
import importlib
import logging
import subprocess
import sys
import textwrap
import types
import typing
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from invoke.context import Context

from fabremote import ShippingError, wrap
from tests import interpreters

PYTHONS = {version: path for version, path in interpreters.found().items() if version != "2.7"}
FOUND = [*PYTHONS]
HERE = "{}.{}".format(*sys.version_info)
VERSIONS = list(dict.fromkeys([FOUND[0], HERE, FOUND[-1]]))


@pytest.fixture(scope="module", params=VERSIONS)
def remote(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Calls a function under one version of Python, without what is installed there."""
    with wrap(Context()) as context:
        call = context.python(python=PYTHONS[request.param], py_options="-S").call
        call(abs, -1)
        yield call


CONSTANT = 42


def test_a_lambda(remote: Callable[..., Any]) -> None:
    squared = lambda x: x**2  # noqa: E731
    assert remote(squared, 2) == 4


def test_a_function_that_uses_a_global_of_its_module(remote: Callable[..., Any]) -> None:
    def my_function(data: int) -> int:
        return data + CONSTANT

    assert remote(my_function, 43) == 85


def test_a_function_as_an_argument(remote: Callable[..., Any]) -> None:
    def apply(function: Callable[[int], int], value: int) -> int:
        return function(value)

    assert remote(apply, lambda x: x + CONSTANT, 1) == 43


SESSION = """
from invoke import Context
from fabremote import wrap

CONSTANT = 42
squared = lambda x: x ** 2

def my_function(data: int) -> int:
    return data + CONSTANT

class Model:
    def fit(self):
        return Model().twice(CONSTANT)
    def twice(self, number):
        return number * 2

with wrap(Context()) as c:
    call = c.python(python={python!r}).call
    print(call(squared, 2), call(my_function, 43), call(Model().fit), type(call(Model)) is Model)
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_defined_in_the_main_module(version: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SESSION.format(python=PYTHONS[version]))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50)
    assert done.stdout == "4 85 84 True\n", done.stderr


@pytest.fixture
def my_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "my_module.py").write_text(
        textwrap.dedent(
            """
            VALUE = 7

            def my_function(number):
                return helper(number) + VALUE

            def helper(number):
                return number * 10
            """
        )
    )
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module("my_module")
    del sys.modules["my_module"]


def test_a_module_registered_to_go_by_value(
    remote: Callable[..., Any], my_module: types.ModuleType
) -> None:
    with pytest.raises(ShippingError, match="my_module"):
        remote(my_module.my_function, 1)
    cloudpickle.register_pickle_by_value(my_module)
    try:
        assert remote(my_module.my_function, 1) == 17
        my_module.VALUE = 8  # type: ignore[attr-defined]
        assert remote(my_module.my_function, 1) == 18
    finally:
        cloudpickle.unregister_pickle_by_value(my_module)
    with pytest.raises(ShippingError, match="my_module"):
        remote(my_module.my_function, 1)


def test_functions_of_one_module_share_its_globals(remote: Callable[..., Any]) -> None:
    def both() -> list[int]:
        count(1)
        count(2)
        return COUNTED

    def count(number: int) -> None:
        COUNTED.append(number)

    assert remote(both) == [1, 2]
    assert remote(both) == [1, 2]
    assert COUNTED == []


COUNTED: list[int] = []


def test_a_class_made_at_run_time(remote: Callable[..., Any]) -> None:
    def method(self: Any) -> int:
        return int(self.value) + CONSTANT

    made = type("Made", (), {"value": 1, "method": method, "__slots__": ("more",)})
    assert remote(made().method) == 43
    assert type(remote(made)) is made


def test_a_class_with_a_closure_and_super(remote: Callable[..., Any]) -> None:
    added = 5

    class Base:
        def value(self) -> int:
            return added

    class Derived(Base):
        def value(self) -> int:
            return super().value() + 1

    assert remote(Derived().value) == 6


def test_an_abstract_class(remote: Callable[..., Any]) -> None:
    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self) -> int: ...

    class Square(Shape):
        def area(self) -> int:
            return 4

    def instantiable(cls: type) -> bool:
        try:
            cls()
        except TypeError:
            return False
        return True

    assert remote(Square().area) == 4
    assert not remote(instantiable, Shape)
    assert remote(isinstance, Square(), Shape)


def test_a_weak_set_of_a_class(remote: Callable[..., Any]) -> None:
    class Node:
        known: typing.ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

        def __init__(self) -> None:
            self.known.add(self)

    def count() -> int:
        kept = [Node() for _ in range(3)]
        return len(Node.known) - len(kept)

    assert remote(count) == 0


def test_views_and_buffers(remote: Callable[..., Any]) -> None:
    table = {"a": 1, "b": 2}
    assert remote(sorted, table.keys()) == ["a", "b"]
    assert remote(sum, table.values()) == 3
    assert remote(dict, table.items()) == table
    assert remote(bytes, memoryview(b"abc")[1:]) == b"bc"


def test_a_dynamic_module(remote: Callable[..., Any]) -> None:
    made = types.ModuleType("made_at_run_time")
    made.VALUE = 3  # type: ignore[attr-defined]
    assert remote(lambda: made.VALUE) == 3


def test_recursion_through_a_closure(remote: Callable[..., Any]) -> None:
    def factorial(n: int) -> int:
        return 1 if n == 0 else n * factorial(n - 1)

    assert remote(factorial, 10) == 3628800


def test_nested_functions_share_a_cell(remote: Callable[..., Any]) -> None:
    total = 0

    def add() -> None:
        nonlocal total
        total += 1

    def run() -> int:
        add()
        add()
        return total

    assert remote(run) == 2
    assert total == 0


def test_named_tuples_and_type_variables(remote: Callable[..., Any]) -> None:
    pair = collections.namedtuple("pair", "a b")
    variable = typing.TypeVar("variable")
    assert remote(lambda: pair(1, 2)._replace(b=3)) == pair(1, 3)
    assert remote(lambda: variable.__name__) == "variable"


def test_a_logger_is_that_of_its_name(remote: Callable[..., Any]) -> None:
    logger = logging.getLogger("fabremote.tests.there")
    assert remote(lambda: logger.name) == "fabremote.tests.there"


def test_methods_properties_and_partial_functions(remote: Callable[..., Any]) -> None:
    import functools

    class Thing:
        @property
        def half(self) -> int:
            return 21

        @classmethod
        def name(cls) -> str:
            return cls.__name__

        @staticmethod
        def three() -> int:
            return 3

    assert remote(lambda: Thing().half) == 21
    assert remote(Thing.name) == "Thing"
    assert remote(Thing.three) == 3
    assert remote(functools.partial(pow, 2), 5) == 32


def test_code_without_source_goes_between_equal_versions() -> None:
    values: dict[str, Any] = {}
    exec("def doubled(x): return 2 * x", values)
    with wrap(Context()) as context:
        assert context.python(python=PYTHONS[HERE]).call(values["doubled"], 4) == 8
        others = [version for version in VERSIONS if version != HERE]
        if not others:
            pytest.skip("only one version of Python here")
        with pytest.raises(ShippingError, match="source isn't known"):
            context.python(python=PYTHONS[others[0]]).call(values["doubled"], 4)
