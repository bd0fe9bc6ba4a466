"""What can't be sent is refused here, before it is sent, by a message that says what and where."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import fabric
import pytest
from invoke.context import Context

from fabremote import (
    Connection,
    RemoteException,
    RemoteTraceback,
    ResultError,
    ShippingError,
    wrap,
)

LOCK = threading.Lock()
HOST = fabric.Connection("198.51.100.1", user="nobody")
OWN_HOST = Connection("198.51.100.2", user="nobody")
GROUP = fabric.SerialGroup("198.51.100.3", "198.51.100.4")
DEEP_LEVELS = 100_000


@pytest.fixture(scope="module")
def local() -> Iterator[Any]:
    """An interpreter of this machine."""
    context = wrap(Context())
    python = context.python(python=sys.executable)
    python.call(abs, -1)
    yield python
    context.close()


def refusal(python: Any, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The message with which a call is refused; calls after it still work."""
    with pytest.raises(ShippingError) as caught:
        python.call(fn, *args, **kwargs)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, RemoteException)
    assert python.call(abs, -2) == 2
    text = str(caught.value)
    assert len(text) < 1000
    return text


def ignore(*args: Any, **kwargs: Any) -> None:
    """Take anything."""


class Holder:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def method(self) -> None:
        pass


class Slotted:
    __slots__ = ("lock",)

    def __init__(self, lock: Any) -> None:
        self.lock = lock


class Broken:
    def __reduce__(self) -> Any:
        raise RuntimeError("no way")


class BrokenToo(Broken):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


# What isn't callable


@pytest.mark.parametrize("value", [None, 5, "print", [print], {"a": 1}, b"x", Holder()])
@pytest.mark.parametrize("method", ["call", "run", "submit"])
def test_what_is_not_callable_is_refused_before_connecting(
    conn_openssh: Connection, value: Any, method: str
) -> None:
    with pytest.raises(TypeError, match="isn't callable") as caught:
        getattr(conn_openssh.python(), method)(value)
    assert repr(value)[:50] in str(caught.value)
    assert not conn_openssh.is_connected


def test_what_is_not_callable_is_refused_by_the_connections_own_call(conn: Connection) -> None:
    with pytest.raises(TypeError, match=r"c\.call\(fn, 1, 2\)"):
        conn.call("print", 1)  # type: ignore[call-overload]
    assert not conn.is_connected


def test_a_call_without_a_function_is_a_type_error(conn_openssh: Connection) -> None:
    with pytest.raises(TypeError):
        conn_openssh.call()  # type: ignore[call-overload]
    assert not conn_openssh.is_connected


# The place of what can't be pickled


async def later() -> AsyncIterator[int]:
    yield 1


PLACES: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((LOCK,), {}, "argument 0 is a _thread.lock"),
    ((1, LOCK), {}, "argument 1 is a _thread.lock"),
    (([1, LOCK],), {}, "argument 0[1] is a _thread.lock"),
    (([1, 2, {"k": Holder(lock=LOCK)}],), {}, "argument 0[2]['k'].lock is a _thread.lock"),
    ((), {"state": {"deep": (0, [LOCK])}}, "argument state['deep'][1][0] is a _thread.lock"),
    ((Slotted(LOCK),), {}, "argument 0.lock is a _thread.lock"),
    ((Holder(a=Holder(b=Slotted(LOCK))),), {}, "argument 0.a.b.lock is a _thread.lock"),
    ((later(),), {}, "argument 0 is a async_generator"),
    (([later()],), {}, "argument 0[0] is a async_generator"),
    (({1: sys.stdout},), {}, "argument 0[1] is a"),
    ((Broken(),), {}, "argument 0 is a tests.test_shipping_errors.Broken"),
    (({"x": BrokenToo()},), {}, "argument 0['x'] is a tests.test_shipping_errors.BrokenToo"),
    ((Holder().method, Holder(lock=LOCK).method), {}, "argument 1.__self__.lock is a"),
    ((lambda: LOCK,), {}, "argument 0 -> global LOCK is a _thread.lock"),
]


@pytest.mark.parametrize(("args", "kwargs", "place"), PLACES, ids=[p[2] for p in PLACES])
def test_the_place_in_an_argument_is_named(
    local: Any, args: tuple[Any, ...], kwargs: dict[str, Any], place: str
) -> None:
    text = refusal(local, ignore, *args, **kwargs)
    assert "ignore() can't be sent: " + place in text


def test_the_place_is_named_over_ssh(conn: Connection) -> None:
    args, kwargs, place = PLACES[3]
    assert place in refusal(conn.python(), ignore, *args, **kwargs)


def test_a_lock_in_a_closure_is_named(local: Any) -> None:
    mine = threading.Lock()
    assert "-> variable mine is a _thread.lock" in refusal(local, lambda: mine)


def test_a_lock_in_a_nested_closure_is_named(local: Any) -> None:
    mine = threading.Lock()

    def inner() -> Any:
        return mine

    assert "-> variable inner -> variable mine is a _thread.lock" in refusal(
        local, lambda: inner()
    )


def test_a_lock_among_the_globals_is_named(local: Any) -> None:
    assert "-> global LOCK is a _thread.lock" in refusal(local, lambda: LOCK)


def test_a_lock_in_the_globals_of_another_function_is_named(local: Any) -> None:
    assert "-> global use_lock -> global LOCK is a _thread.lock" in refusal(
        local, lambda: use_lock()
    )


def use_lock() -> Any:
    return LOCK


def test_a_lock_as_a_default_is_named(local: Any) -> None:
    text = refusal(local, lambda lock=LOCK: lock)
    assert "default 0" in text
    assert "_thread.lock" in text


def test_a_lock_in_self_is_named(local: Any) -> None:
    assert ".__self__.lock is a _thread.lock" in refusal(local, Holder(lock=LOCK).method)


def test_a_lock_in_a_class_is_named(local: Any) -> None:
    class Guarded:
        lock = threading.Lock()

    assert "Guarded" in (text := refusal(local, Guarded))
    assert ".lock is a _thread.lock" in text


def test_a_socket_is_named(local: Any) -> None:
    with socket.socket() as mine:
        assert "argument 0[0] is a socket.socket" in refusal(local, ignore, [mine])


def test_an_open_file_is_named(local: Any, tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as mine:
        assert "argument 0 is a _io.TextIOWrapper" in refusal(local, ignore, mine)


def test_the_error_says_what_to_do_and_why(local: Any) -> None:
    text = refusal(local, ignore, LOCK)
    assert "cannot pickle '_thread.lock' object" in text
    assert "make such an object inside the function" in text


def test_the_original_error_is_the_cause(local: Any) -> None:
    with pytest.raises(ShippingError) as caught:
        local.call(ignore, Broken())
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert str(caught.value.__cause__) == "no way"


# Connections

CONNECTIONS = [HOST, OWN_HOST, GROUP, Context()]


@pytest.mark.parametrize("connection", CONNECTIONS, ids=lambda c: type(c).__name__)
def test_a_connection_in_a_closure_is_explained(local: Any, connection: Any) -> None:
    text = refusal(local, lambda: connection.run("true"))
    assert "-> variable connection is a" in text
    assert "is a live connection" in text
    assert "host name" in text


@pytest.mark.parametrize("connection", CONNECTIONS, ids=lambda c: type(c).__name__)
def test_a_connection_as_an_argument_is_explained(local: Any, connection: Any) -> None:
    text = refusal(local, ignore, 1, {"c": [connection]})
    assert "argument 1['c'][0] is a" in text
    assert "is a live connection" in text


@pytest.mark.parametrize("connection", CONNECTIONS, ids=lambda c: type(c).__name__)
def test_a_connection_in_self_is_explained(local: Any, connection: Any) -> None:
    text = refusal(local, Holder(connection=connection).method)
    assert ".__self__.connection is a" in text
    assert "is a live connection" in text


def test_a_connection_among_the_globals_is_explained(local: Any) -> None:
    text = refusal(local, lambda: HOST.run("true"))
    assert "-> global HOST is a fabric.connection.Connection" in text
    assert "is a live connection" in text
    assert "-> global OWN_HOST" in refusal(local, lambda: OWN_HOST.call(abs, 1))


def test_the_connection_of_the_call_is_explained(conn: Connection) -> None:
    text = refusal(conn.python(), lambda: conn.run("true"))
    assert "-> variable conn is a fabremote.connection.Connection" in text
    assert "is a live connection" in text


def test_the_connections_own_method_is_explained(conn_openssh: Connection) -> None:
    text = refusal(conn_openssh.python(), conn_openssh.run, "true")
    assert "is a live connection" in text


# Nesting


def nested(levels: int, wrapped: Callable[[Any], Any]) -> Any:
    made: Any = 0
    for _ in range(levels):
        made = wrapped(made)
    return made


@pytest.mark.parametrize(
    "wrapped",
    [lambda x: [x], lambda x: {"k": x}, lambda x: (x, 1, 2, 3), lambda x: Holder(x=x)],
    ids=["list", "dict", "tuple", "object"],
)
def test_an_argument_nested_too_deeply_is_refused(local: Any, wrapped: Any) -> None:
    deep = nested(DEEP_LEVELS, wrapped)
    text = refusal(local, ignore, deep)
    assert "argument 0" in text
    assert "nested too deeply" in text
    while not isinstance(deep, int):  # without recursion
        parts = deep if isinstance(deep, (list, tuple)) else getattr(deep, "__dict__", deep)
        deep = parts[0] if isinstance(parts, (list, tuple)) else next(iter(parts.values()))


def test_an_argument_nested_a_little_is_sent(local: Any) -> None:
    assert local.call(lambda x: x[0][0], nested(50, lambda x: [x])) == nested(48, lambda x: [x])


# Nothing runs, nothing is left behind


def touch(path: str, *rest: Any) -> None:
    Path(path).touch()


@pytest.mark.parametrize("bad", [LOCK, HOST, Broken()], ids=["lock", "connection", "broken"])
def test_a_refused_call_does_not_run(local: Any, tmp_path: Path, bad: Any) -> None:
    path = tmp_path / "made"
    refusal(local, touch, str(path), bad)
    assert not path.exists()
    local.call(touch, str(path))
    assert path.exists()


@pytest.mark.parametrize("method", ["call", "run", "submit"])
def test_every_way_to_call_refuses_alike(local: Any, method: str) -> None:
    with pytest.raises(ShippingError, match=r"argument 0 is a _thread\.lock"):
        getattr(local, method)(ignore, LOCK)


def test_a_refused_call_leaves_no_process_there(conn_openssh: Connection) -> None:
    for _ in range(20):
        with pytest.raises(ShippingError):
            conn_openssh.call(ignore, LOCK)
    assert conn_openssh.call(abs, -1) == 1


# Sent, but not loaded there


def test_what_is_not_installed_there_is_a_shipping_error(local: Any) -> None:
    import cloudpickle

    context = wrap(Context())
    bare = context.python(python=sys.executable, py_options="-S")
    try:
        with pytest.raises(ShippingError, match="No module named 'cloudpickle'") as caught:
            bare.call(cloudpickle.dumps, 1)
        assert "sent, but not loaded there" in str(caught.value)
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)
        assert caught.value.__cause__.name == "cloudpickle"
        assert isinstance(caught.value.__cause__.__cause__, RemoteTraceback)
        assert not isinstance(caught.value, ResultError)
    finally:
        context.close()


class Refusing:
    """Pickles well, and can't be loaded."""

    def __reduce__(self) -> Any:
        return int, ("not a number",)


def test_what_raises_as_it_is_loaded_is_a_shipping_error(local: Any) -> None:
    with pytest.raises(ShippingError, match="ValueError: invalid literal") as caught:
        local.call(ignore, Refusing())
    assert isinstance(caught.value.__cause__, ValueError)
