"""What a signal's handler raises, at whatever instruction, leaves nothing locked."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import fabremote
from fabremote import Connection, RemoteExecutor, ThreadingGroup
from fabremote.calls import Call
from fabremote.heartbeat import Clock
from fabremote.links import ChannelLink
from fabremote.outbox import Outbox
from fabremote.packets import Packets
from fabremote.service import Service
from fabremote.session import Session
from fabremote.sessions import sessions_of
from fabremote.stdin import Stdin
from tests.faults import settled

ENTERING = threading.Condition.__enter__.__code__
OURS = str(Path(fabremote.__file__).parent), concurrent.futures.Future.result.__code__.co_filename


@contextlib.contextmanager
def profiled(profile: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    """Have ``profile`` called of this thread's calls and returns."""
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


def entering(act: Callable[[FrameType], None]) -> contextlib.AbstractContextManager[None]:
    """Have ``act`` called, in this thread, whenever ours, or a future, has locked a condition.

    There Python may call a signal's handler before the ``with`` statement has begun.
    """

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_return" and frame.f_code is ENTERING:
            caller = frame.f_back
            assert caller is not None
            if caller.f_code.co_filename.startswith(OURS):
                act(caller)

    return profiled(profile)


def interrupt(frame: FrameType) -> None:
    sys.setprofile(None)
    signal.raise_signal(signal.SIGINT)


class Ticked:
    """Notes that it was ticked for."""

    def __init__(self) -> None:
        self.ticks = threading.Event()

    def tick(self) -> None:
        self.ticks.set()


def test_what_is_received_goes_on_to_be_taken_after_an_interrupt() -> None:
    packets = Packets()
    packets.feed(b"one")
    with contextlib.suppress(KeyboardInterrupt), entering(interrupt):
        packets.read(3)
    feeding = threading.Thread(target=packets.feed, args=(b"two",), daemon=True)
    feeding.start()
    assert settled(lambda: packets.read_ready() and not feeding.is_alive(), 10)


def test_the_clock_ticks_on_after_an_interrupt() -> None:
    clock, one, another = Clock(), Ticked(), Ticked()
    clock.add(one, 0.01)
    with contextlib.suppress(KeyboardInterrupt), entering(interrupt):
        clock.add(another, 0.01)
    one.ticks.clear()
    assert one.ticks.wait(10)
    for each in (one, another):
        clock.remove(each)


def count(upto: int) -> Iterator[int]:
    yield from range(upto)


def read() -> str:
    return sys.stdin.read()


WAYS: dict[str, Callable[[Any], Any]] = {
    "call": lambda py: py.call(max, 1, 2),
    "submit": lambda py: py.submit(max, 1, 2).result(),
    "generator": lambda py: list(py.call(count, 3)),
    "submitted generator": lambda py: list(py.submit(count, 3).result()),
    "iterator": lambda py: py.call(list, iter("abc")),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_lock_can_be_left_by_an_interrupt(conn_openssh: Connection, way: str) -> None:
    places: list[str] = []

    def note(frame: FrameType) -> None:
        places.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")

    with entering(note):
        WAYS[way](conn_openssh.python(timeout=60))
        with conn_openssh.python() as py:
            WAYS[way](py)
        assert conn_openssh.python(in_stream=io.StringIO("text")).call(read) == "text"
    assert places == []


def wait_for(path: str) -> bool:
    while not Path(path).exists():
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("name", ["_condition", "_hearing"])
def test_a_future_that_is_held_here_holds_up_no_other_call(
    conn_openssh: Connection, tmp_path: Path, name: str
) -> None:
    # As a signal's handler holds it that comes amid what is asked of the future.
    with conn_openssh.python(timeout=60) as py, concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = py.submit(wait_for, str(tmp_path / "go"))
        with getattr(future, name):
            (tmp_path / "go").touch()
            # It comes after the other's answer.
            assert pool.submit(py.call, max, 1, 2).result(20) == 2
        assert future.result(20) is True


def interrupted(function: Any) -> contextlib.AbstractContextManager[None]:
    """Have Ctrl-C come in this thread as ``function`` is next entered."""

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code is function.__code__:
            interrupt(frame)

    return profiled(profile)


def stay(path: str) -> None:
    Path(f"{path}.begun").write_text(str(os.getpid()))
    Path(f"{path}.begun").rename(path)
    time.sleep(600)


def begun(path: Path) -> int:
    """Return the process that wrote ``path``."""
    assert settled(path.exists, 60)
    return int(path.read_text())


def gone(pid: int) -> bool:
    # Sooner than a sign of life would have what was left unsent go with it.
    return settled(lambda: not Path(f"/proc/{pid}").exists(), 10)


@pytest.mark.parametrize("place", [Outbox.post, threading.Thread.__init__, threading.Thread.start])
def test_what_is_cancelled_ends_though_ctrl_c_comes_amid_it(
    conn_openssh: Connection, tmp_path: Path, place: Any
) -> None:
    future = conn_openssh.python().submit(stay, str(tmp_path / "pid"))
    pid = begun(tmp_path / "pid")
    with interrupted(place), pytest.raises(KeyboardInterrupt):
        future.cancel()
    assert future.cancelled()
    assert gone(pid)


@contextlib.contextmanager
def pressing(path: Path, press: Callable[[], object]) -> Iterator[None]:
    """Have ``press`` called in another thread once a process has written ``path``."""

    def run() -> None:
        begun(path)
        press()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join()


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("place", [Call.abort, Call.kill, Outbox.post, Outbox._begin])
def test_a_second_ctrl_c_leaves_no_call_running(
    conn_openssh: Connection, tmp_path: Path, place: Any
) -> None:
    conn_openssh.call(max, 1, 2)
    path = tmp_path / "pid"
    with pressing(path, ctrl_c), interrupted(place), pytest.raises(KeyboardInterrupt):
        conn_openssh.call(stay, str(path))
    assert gone(begun(path))
    assert conn_openssh.call(max, 1, 2) == 2


def test_ctrl_c_in_map_leaves_no_call_running(conn_openssh: Connection, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pressing(path, ctrl_c), pytest.raises(KeyboardInterrupt):
        list(conn_openssh.python().map(stay, [str(path)]))
    assert gone(begun(path))
    assert conn_openssh.call(max, 1, 2) == 2


SUBMITTING = [
    Session.service,
    Service.adopt,
    Session.begin,
    Session._put,
    Call.report,
    Call.start_stdin,
    Stdin.start,
    concurrent.futures.Future.cancelled,
]


@pytest.mark.parametrize("place", SUBMITTING)
def test_ctrl_c_amid_a_submit_is_raised_there_and_ends_the_call(
    conn_openssh: Connection, tmp_path: Path, place: Any
) -> None:
    conn_openssh.call(max, 1, 2)
    path = tmp_path / "pid"
    with interrupted(place), pytest.raises(KeyboardInterrupt):
        conn_openssh.python().submit(stay, str(path))
    assert settled(lambda: idle(conn_openssh), 10)
    assert not path.exists() or gone(int(path.read_text()))
    assert conn_openssh.call(max, 1, 2) == 2


STARTING = [
    Session.service,
    Service.adopt,
    Session.begin,
    Session._put,
    Call.start_stdin,
    Stdin.start,
]


@pytest.mark.parametrize("place", STARTING)
def test_ctrl_c_amid_the_start_of_a_block_leaves_no_process(
    conn_openssh: Connection, place: Any
) -> None:
    conn_openssh.call(max, 1, 2)
    with interrupted(place), pytest.raises(KeyboardInterrupt):
        conn_openssh.python().__enter__()
    assert settled(lambda: idle(conn_openssh), 10)
    assert conn_openssh.call(max, 1, 2) == 2


def idle(conn: Connection) -> bool:
    """Whether no agent of a connection has a call."""
    return all(session.places._taken == 0 for session in sessions_of(conn)._live.values())


def append(path: str) -> None:
    with open(path, "a") as stream:
        stream.write("x")


@pytest.mark.parametrize("place", [ChannelLink.send, Call.report])
def test_a_handlers_timeout_amid_the_sending_is_raised_and_has_nothing_go_again(
    conn_openssh: Connection, tmp_path: Path, place: Any
) -> None:
    def handle(number: int, frame: object) -> None:
        raise TimeoutError("the handler's")

    conn_openssh.call(max, 1, 2)
    before = signal.signal(signal.SIGINT, handle)
    try:
        with interrupted(place), pytest.raises(TimeoutError, match=r"^the handler's$"):
            conn_openssh.call(append, str(tmp_path / "count"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert conn_openssh.call(max, 1, 2) == 2
    assert not (tmp_path / "count").exists() or (tmp_path / "count").read_text() == "x"


@pytest.mark.parametrize("lasting", [False, True])
def test_ctrl_c_amid_a_submit_is_raised_though_the_call_has_ended(
    conn_openssh: Connection, monkeypatch: pytest.MonkeyPatch, lasting: bool
) -> None:
    conn_openssh.call(max, 1, 2)
    with conn_openssh.python() if lasting else contextlib.nullcontext(conn_openssh.python()) as py:
        abort, ended = Call.abort, []

        def abort_late(call: Call, error: BaseException) -> None:
            # The link is given up by now, which ends the call in another thread.
            ended.append(settled(lambda: call.done, 10))
            abort(call, error)

        monkeypatch.setattr(Call, "abort", abort_late)
        with interrupted(Session._put), pytest.raises(KeyboardInterrupt):
            py.submit(max, 1, 2)
        assert ended[0]
        monkeypatch.undo()
    assert conn_openssh.call(max, 1, 2) == 2


def items(path: str) -> Iterator[int]:
    stay(path)
    yield 1


def in_a_block(conn: Connection, path: Path) -> None:
    with conn.python() as py:
        py.submit(stay, str(path))


def behind_another(conn: Connection, path: Path) -> None:
    with conn.python() as py:
        py.submit(stay, str(path))
        py.submit(len, bytes(3 << 20))


def under_what_never_starts(conn: Connection, path: Path) -> None:
    stuck = path.with_name("python")
    stuck.write_text(
        f"#!/bin/sh\necho $$ > {path}.begun; mv {path}.begun {path}; exec sleep 600\n"
    )
    stuck.chmod(0o755)
    conn.python(python=str(stuck)).call(max, 1, 2)


WAITS: dict[str, Callable[[Connection, Path], Any]] = {
    "call": lambda conn, path: conn.call(stay, str(path)),
    "result": lambda conn, path: conn.python().submit(stay, str(path)).result(),
    "exception": lambda conn, path: conn.python().submit(stay, str(path)).exception(),
    "group": lambda conn, path: ThreadingGroup.from_connections([conn]).call(stay, str(path)),
    "block": in_a_block,
    "items": lambda conn, path: next(iter(conn.python().submit(items, str(path)).result())),
    "turn": behind_another,
    "start": under_what_never_starts,
}


@pytest.mark.parametrize("way", WAITS)
def test_ctrl_c_ends_a_wait_though_another_thread_is_given_it(
    conn_openssh: Connection, tmp_path: Path, way: str
) -> None:
    # Linux does so if that one starts a thread before the main thread has come to it.
    path = tmp_path / "pid"
    conn_openssh.call(max, 1, 2)
    given: list[float] = []

    def press() -> None:
        time.sleep(2 if way == "start" else 0.1)  # for the main thread to wait, and have its pid
        given.append(time.monotonic())
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    with pressing(path, press), pytest.raises(KeyboardInterrupt):
        WAITS[way](conn_openssh, path)
    took = time.monotonic() - given[0]
    conn_openssh.close()  # As a future that nobody has any more isn't cancelled.
    assert gone(begun(path))
    assert took < 20


def test_a_second_ctrl_c_waits_for_no_work_of_an_executor(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    def work() -> None:
        with RemoteExecutor([conn_openssh]) as executor:
            executor.submit(stay, str(tmp_path / "pid"))
            begun(tmp_path / "pid")
            raise KeyboardInterrupt

    with interrupted(Outbox._begin), pytest.raises(KeyboardInterrupt):
        work()
    assert gone(begun(tmp_path / "pid"))
