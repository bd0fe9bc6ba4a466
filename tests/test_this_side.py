"""Names of fabremote's, Fabric's and Invoke's in code that travels to hosts without these."""

from __future__ import annotations

import abc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fabric
import invoke
import pytest
from fabric import Connection as FabricConnection
from fabric import task
from invoke.context import Context
from invoke.exceptions import UnexpectedExit

import fabremote
from fabremote import Connection, RemoteError, ShippingError, explain, wrap
from tests import interpreters

OLDEST = next(iter(version for version in interpreters.found() if version != "2.7"))


@pytest.fixture(scope="module")
def bare() -> Iterator[Any]:
    """A host with nothing but the oldest Python."""
    with wrap(Context()) as made:
        python = made.python(python=interpreters.found()[OLDEST])
        python.call(abs, -1)
        yield python


@pytest.fixture(scope="module")
def same() -> Iterator[Any]:
    """A host that has what is installed here."""
    with wrap(Context()) as made:
        python = made.python(python=sys.executable)
        python.call(abs, -1)
        yield python


@pytest.fixture(scope="module")
def hosts(bare: Any, same: Any) -> dict[str, Any]:
    """Both, by name."""
    return {"bare": bare, "same": same}


class OutOfSpace(RemoteError):
    """An exception of the user's own, of one of fabremote's."""


class Web(FabricConnection, abc.ABC):  # type: ignore[misc]
    """A class that only this side can make objects of."""

    @staticmethod
    def port() -> int:
        return 443


class Deployment:
    """What fabfiles hold: methods for both sides."""

    quiet = RemoteError

    def __init__(self, host: str) -> None:
        self.host = host

    def push(self, how: str) -> Any:
        if how == "fabric":
            return fabric.Connection(self.host)
        if how == "invoke":
            return invoke.run("true")
        if how == "fabremote":
            return fabremote.ThreadingGroup(self.host)
        if how == "nested":
            return fabric.exceptions.GroupException(self.host)
        if how == "subclass":
            return Web(self.host)
        return Connection(self.host)

    def free(self, text: str) -> int:
        try:
            return int(text)
        except (RemoteError, UnexpectedExit, fabric.exceptions.GroupException):
            return -1
        except ValueError:
            return -2

    def full(self) -> None:
        raise OutOfSpace("no space", type_name="full")

    def is_connection(self, value: Any) -> bool:
        return isinstance(value, (Connection, fabric.Connection))


@task
def deploy(c: Any) -> None:
    Deployment(c.host).push("")


def size(text: str) -> int:
    if not text:
        deploy(None)
    return len(text) + Web.port()


@pytest.mark.parametrize("host", ["bare", "same"])
def test_code_that_refers_to_this_sides_libraries_travels(
    host: str, hosts: dict[str, Any]
) -> None:
    python, web = hosts[host], Deployment("web1")
    assert python.call(web.free, "3") == 3
    assert python.call(web.free, "x") == -2
    assert python.call(web.is_connection, 3) is False
    assert python.call(size, "abc") == 446
    with pytest.raises(OutOfSpace) as caught:
        python.call(web.full)
    assert caught.value.type_name == "full"


USES = {
    "": "fabremote.Connection",
    "fabric": "fabric.Connection",
    "invoke": "invoke.run",
    "fabremote": "fabremote.ThreadingGroup",
    "nested": "fabric.exceptions.GroupException",
    "subclass": "fabric.Connection",
}


@pytest.mark.parametrize("how", USES)
def test_what_is_not_there_says_so_when_it_is_used(how: str, bare: Any) -> None:
    name = USES[how]
    with pytest.raises(ModuleNotFoundError) as caught:
        bare.call(Deployment("web1").push, how)
    top = name.partition(".")[0]
    assert str(caught.value) == (
        f"{name} can't be used here: No module named {top!r} on localhost. The function runs on "
        f"the host: use this in the code that calls it, or install it there, as with "
        f'requires=["{top}"].'
    )


def test_a_task_is_one_where_it_can_be(bare: Any, same: Any) -> None:
    def name() -> str:
        return str(deploy.body.__name__)

    assert (bare.call(name), same.call(name)) == ("deploy", "deploy")
    assert same.call(lambda: deploy.name) == "deploy"
    with pytest.raises(ModuleNotFoundError, match=r"fabric\.Task\.name can't be used"):
        bare.call(lambda: deploy.name)
    with pytest.raises(ModuleNotFoundError, match=r"fabric\.Task\.__call__ can't be used"):
        bare.call(size, "")
    with pytest.raises(TypeError, match="expected a"):
        same.call(size, "")


def test_the_real_ones_are_used_where_they_are(same: Any) -> None:
    assert same.call(lambda: fabric.Connection("web1").host) == "web1"
    assert same.call(lambda: Connection("web1").host) == "web1"


def test_a_module_that_imports_them_goes_by_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: Any
) -> None:
    text = "from fabremote import Connection\nBASE = 3\ndef add(x): return x + BASE\n"
    (tmp_path / "with_a_connection.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    module: Any = __import__("with_a_connection")
    assert bare.call(module.add, 4) == 7
    assert bare.call(lambda: module.add(5)) == 8

    def late() -> Any:
        import with_a_connection  # type: ignore[import-not-found]

        return with_a_connection.BASE

    with pytest.raises(ModuleNotFoundError, match="No module named 'fabremote' on localhost"):
        bare.call(late)


def test_explain_tells_that_such_a_name_is_looked_up_there() -> None:
    found = {item.name: item for item in explain(Deployment("web1").push, "").items}
    assert found["fabric.Connection"].kind == "imported"
    assert "stand-in" in found["fabric.Connection"].why
    assert "fabremote" not in {item.name for item in found.values() if item.kind == "module"}


def test_a_live_connection_stays_refused(bare: Any) -> None:
    connection = FabricConnection("web1")
    with pytest.raises(ShippingError, match="is a live connection"):
        bare.call(lambda: connection.host)
