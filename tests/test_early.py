"""The first call goes to its agent ahead of the hello: it runs once, or not at all.

Nothing of a call is to be done twice, whatever its interpreter turns out to be, and
what nobody can know of it is told as such.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context
from invoke.watchers import Responder

from fabremote import Connection, Interpreter, RemoteConnectionLost, RemoteInterpreterMissing
from fabremote.connection import RemoteHost
from fabremote.demo.server import Server
from fabremote.early import LIMIT, Early, early
from fabremote.options import Bound, Options
from fabremote.session import Session
from fabremote.store import Blob, BlobList, Parcel
from tests import interpreters
from tests.faults import Relay, dial, program, relayed, settled, within
from tests.test_leftovers import kill_the_agent

OURS, PYTHON = interpreters.running()
# More than opening a session and its command take, less than an agent does.
UPLOAD = 8192


def append(path: str) -> str:
    with open(path, "a") as stream:
        stream.write("x")
    return "appended"


def flags(path: str) -> tuple[str, int]:
    append(path)
    return "{}.{}".format(*sys.version_info), sys.flags.optimize


class Own:
    """A class of the caller's, for which an agent needs a module more."""

    def __init__(self, path: str) -> None:
        self.path = path


def give_own(path: str) -> Own:
    append(path)
    return Own(path)


def generate(path: str) -> Iterator[int]:
    append(path)
    return (number for number in (1, 2))


def consume(items: Any, path: str) -> list[int]:
    append(path)
    return list(items)


def written(path: Path) -> bool:
    return path.exists() and path.read_text() != ""


@pytest.fixture
def relay(openssh: Server) -> Iterator[Relay]:
    with relayed(openssh) as made:
        yield made


@contextlib.contextmanager
def deaf(
    openssh: Server, relay: Relay, work: Callable[[Connection], Any], answers: bool = True
) -> Iterator[Future[Any]]:
    """Do ``work`` on an open connection that hears nothing once the agent is sent."""
    with dial(openssh, relay.port) as c, ThreadPoolExecutor(1) as pool:
        c.open()
        relay.hold(UPLOAD, answers)
        try:
            yield pool.submit(work, c)
        finally:
            relay.resume()


# It runs


WAYS: dict[str, Callable[[Any, str], Any]] = {
    "call": lambda py, path: py.call(append, path) == "appended",
    "submit": lambda py, path: py.submit(append, path).result(60) == "appended",
    "class": lambda py, path: py.call(give_own, path).path == path,
    "generator": lambda py, path: list(py.call(generate, path)) == [1, 2],
    "iterator": lambda py, path: py.call(consume, iter([1, 2]), path) == [1, 2],
}


@pytest.mark.parametrize("way", WAYS)
def test_the_first_call_runs_before_its_agent_is_heard(
    openssh: Server, relay: Relay, tmp_path: Path, way: str
) -> None:
    path = tmp_path / "count"
    seen: list[tuple[str, int, int]] = []

    def work(c: Connection) -> bool:
        py = c.python(progress=lambda *args: seen.append(args), compress=True)
        assert WAYS[way](py, str(path))
        session: Any = py._host.live_session(py._prepare(len, (), {})._options)
        assert py.call(max, 1, 2) == 2
        # It had a place, and has given it back.
        return bool(session.retire())

    with deaf(openssh, relay, work) as future:
        assert settled(lambda: written(path) or future.done())
        assert not future.done(), future.result()
        relay.resume()
        assert future.result(60)
    assert path.read_text() == "x"
    direction, done, total = seen[0]
    assert direction == "up"
    assert 0 < done == total


# It is dropped, and runs once


@pytest.mark.parametrize(("version", "options"), [("3.6", ""), ("3.13", "-O"), (OURS, "-O")])
def test_another_python_gets_the_call_anew(
    openssh: Server, tmp_path: Path, version: str, options: str
) -> None:
    if version not in interpreters.found():
        pytest.skip(f"no Python {version} on this machine")
    # What it is doesn't show in its name.
    python = program(tmp_path / "py", f'#!/bin/sh\nexec {interpreters.found()[version]} "$@"\n')
    count = tmp_path / "count"
    for calls in (1, 2):
        with dial(openssh) as c:
            py = c.python(python=str(python), py_options=options)
            assert py.call(flags, str(count)) == (version, 1 if options else 0)
            assert py.call(max, 1, 2) == 2
        assert count.read_text() == "x" * calls


def test_an_environment_that_optimises_gets_the_call_anew(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    python = program(tmp_path / "py", f'#!/bin/sh\nPYTHONOPTIMIZE=2 exec {PYTHON} "$@"\n')
    py = conn_openssh.python(python=str(python))
    assert py.call(flags, str(tmp_path / "count")) == (OURS, 2)
    assert (tmp_path / "count").read_text() == "x"


# It can't run


STARTS = {
    "none": ("nothing-here", 30.0, False),
    "no Python": ("/bin/false", 30.0, False),
    "too old": (interpreters.found().get("2.7"), 30.0, False),
    # It might have said hello just then.
    "too late": (f"{PYTHON} -c 'import time; time.sleep(60)'", 0.5, True),
}


@pytest.mark.parametrize("start", STARTS)
def test_what_is_no_agent_runs_no_call(
    conn_openssh: Connection, tmp_path: Path, start: str
) -> None:
    python, limit, begun = STARTS[start]
    if python is None:
        pytest.skip(f"no such Python on this machine: {start}")
    path = tmp_path / "count"
    with pytest.raises(RemoteInterpreterMissing) as caught:
        conn_openssh.python(python=python, start_timeout=limit).call(append, str(path))
    assert caught.value.begun == begun
    assert not path.exists()
    assert conn_openssh.call(append, str(path)) == "appended"
    assert path.read_text() == "x"


# Nobody knows


@pytest.mark.parametrize(("way", "runs"), [("call", True), ("submit", True), ("call", False)])
def test_a_call_in_doubt_is_not_sent_again(
    openssh: Server, relay: Relay, tmp_path: Path, way: str, runs: bool
) -> None:
    path = tmp_path / "count"

    def work(c: Connection) -> Any:
        try:
            with within(60), pytest.raises(RemoteConnectionLost, match="is not known") as caught:
                WAYS[way](c.python(), str(path))
        finally:
            gone.append(True)
        assert c.call(max, 1, 2) == 2
        return caught.value.begun

    gone: list[bool] = []
    # Where it doesn't run, nothing of it reaches the host, which this side can't know.
    with deaf(openssh, relay, work, answers=runs) as future:
        assert settled(lambda: written(path) if runs else relay.holds)
        assert not gone
        relay.release()
        assert future.result(60) is True
    assert path.exists() == runs
    assert not runs or path.read_text() == "x"


def append_and_cut(path: str) -> str:
    append(path)
    kill_the_agent("session")
    return "never"


class SlowHost(RemoteHost):
    """A host whose agents have ended by the time that whoever asked for one goes on."""

    def session(self, options: Options, early: Early | None = None) -> Session:
        made = super().session(options, early)
        assert settled(lambda: not made.alive)
        return made


def test_a_first_call_whose_agent_has_ended_meanwhile_is_not_sent_again(
    openssh: Server, tmp_path: Path
) -> None:
    path = tmp_path / "count"
    with dial(openssh) as c:
        future = Interpreter(SlowHost(c), Bound(c, {})).submit(append_and_cut, str(path))
        with pytest.raises(RemoteConnectionLost, match="is not known") as caught:
            future.result(60)
        assert caught.value.begun
    assert path.read_text() == "x"


# What waits


SMALL = Parcel([b"call"])
LARGE = Blob(bytes(LIMIT))


@pytest.mark.parametrize(
    ("options", "parcel", "goes"),
    [
        ({}, SMALL, True),
        ({"in_stream": False, "py_options": "-O", "timeout": 3.0}, SMALL, True),
        ({"pty": True}, SMALL, False),
        ({"in_stream": sys.__stdin__}, SMALL, False),
        ({"watchers": [Responder("a", "b")]}, SMALL, False),
        ({"sudo": True}, SMALL, False),
        ({"requires": ["roman"]}, SMALL, False),
        ({}, Parcel([b"call", b"and more"]), False),
        ({}, Parcel([b"call"], (LARGE,)), False),
        ({}, Parcel([b"call"], listed=BlobList.of([LARGE])), False),
    ],
)
def test_what_is_large_or_has_more_to_it_waits_for_the_hello(
    options: dict[str, Any], parcel: Parcel, goes: bool
) -> None:
    found = early(Bound(Context(), options).options(), parcel, lambda session: None)  # type: ignore[arg-type,return-value]
    assert (found is not None) == goes
