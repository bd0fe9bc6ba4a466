"""``with conn.python() as py:`` one process for the calls of a block, and what stays in it."""

from __future__ import annotations

import atexit
import importlib
import io
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from fabremote import (
    Interpreter,
    RemoteCancelled,
    RemoteConnectionLost,
    RemoteProcessDied,
    RemoteTimeout,
    ShippingError,
    ahead,
    wrap,
)
from fabremote.agent import wire
from fabremote.demo.server import Server
from tests import interpreters
from tests.conftest import connect
from tests.faults import settled
from tests.test_life import left_of, started, wait_for

VERSIONS = [version for version in interpreters.found() if version != "2.7"]


@pytest.fixture(params=["openssh", "local"])
def place(request: pytest.FixtureRequest, openssh: Server) -> Iterator[Any]:
    """A connection to an sshd, and this machine."""
    with wrap(Context()) if request.param == "local" else connect(openssh) as found:
        yield found


@pytest.fixture
def py(place: Any) -> Iterator[Interpreter]:
    """An interpreter in its block."""
    with place.python() as entered:
        yield entered


# State


table: Any = None


class Model:
    """Travels by value, as this module does."""

    made: list[int] = []  # noqa: RUF012

    def __init__(self, size: int) -> None:
        self.size = size
        self.made.append(size)


def load(size: int) -> int:
    global table
    table = Model(size)
    return os.getpid()


def use() -> Any:
    assert isinstance(table, Model)
    return table, list(Model.made)


@pytest.fixture(autouse=True)
def by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """This module as one that isn't imported there: ``__main__`` or a fabfile."""
    monkeypatch.setitem(globals(), "__name__", "__main__")
    for fn in (load, use):
        monkeypatch.setattr(fn, "__module__", "__main__")
    monkeypatch.setattr(Model, "__module__", "__main__")
    monkeypatch.setitem(vars(sys.modules["__main__"]), "Model", Model)


def test_what_calls_leave_is_there_for_the_next(py: Interpreter) -> None:
    pid = py.call(load, 5)
    model, made = py.call(use)
    assert type(model) is Model
    assert (model.size, made) == (5, [5])
    assert py.call(os.getpid) == pid
    assert table is None


def test_an_object_goes_there_and_back_as_one_of_the_same_class(py: Interpreter) -> None:
    py.call(load, 1)
    model, _ = py.call(use)
    assert py.call(lambda m: type(m) is Model and isinstance(table, type(m)), model)


def test_each_block_has_a_process_of_its_own(place: Any) -> None:
    with place.python() as one, place.python() as other:
        pids = one.call(load, 1), other.call(load, 2)
        assert len({*pids, place.call(os.getpid)}) == 3
        assert (one.call(use)[0].size, other.call(use)[0].size) == (1, 2)
    with one:
        assert one.call(os.getpid) not in pids


def test_a_changed_function_is_noticed(py: Interpreter) -> None:
    def answer() -> int:
        return 1

    def ask() -> int:
        return helper()  # type: ignore[name-defined,no-any-return]  # noqa: F821

    home = {"helper": answer, "__name__": "__main__"}
    asking = type(ask)(ask.__code__, home)
    assert py.call(asking) == 1
    home["helper"] = lambda: 2
    assert py.call(asking) == 2


def test_folder_and_environment_are_given_once_and_stay(place: Any, tmp_path: Path) -> None:
    def enter() -> None:
        os.mkdir("below")
        os.chdir("below")
        os.environ["COLOUR"] += "ish"

    with place.python(cwd=tmp_path, env={"COLOUR": "red"}) as py:
        py.call(enter)
        assert py.call(lambda: (os.getcwd(), os.environ["COLOUR"])) == (
            str(tmp_path / "below"),
            "redish",
        )


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An own package that is sent by reference."""
    folder = tmp_path / "lastingly"
    folder.mkdir()
    counting = "COUNT = 0\ndef count():\n global COUNT\n COUNT += 1\n return COUNT\n"
    (folder / "__init__.py").write_text(counting)
    (folder / "late.py").write_text("VALUE = 7\nclass Thing:\n pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield importlib.import_module("lastingly")
    for name in [name for name in sys.modules if name.startswith("lastingly")]:
        del sys.modules[name]


def test_own_modules_keep_their_state(py: Interpreter, own: Any) -> None:
    assert [py.call(own.count) for _ in range(3)] == [1, 2, 3]
    assert own.COUNT == 0


def test_a_later_call_may_import_what_an_earlier_one_announced(py: Interpreter, own: Any) -> None:
    py.call(own.count)
    late = importlib.import_module("lastingly.late")
    made = py.call(eval, "__import__('lastingly.late').late.Thing()")
    assert type(made) is late.Thing


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_has_them(place: Any, version: str) -> None:
    with place.python(python=interpreters.found()[version]) as py:
        pid = py.call(load, 3)
        model, made = py.call(use)
        assert (type(model), model.size, made) == (Model, 3, [3])
        assert py.call(os.getpid) == pid


# Calls


def test_calls_run_one_after_another_in_their_order(py: Interpreter) -> None:
    py.call(exec, "import builtins; builtins.log = []")
    futures = [py.submit(eval, f"log.append({n}) or len(log)") for n in range(100)]
    assert [future.result() for future in futures] == list(range(1, 101))
    assert py.call(eval, "log") == list(range(100))


def test_large_calls_wait_their_turn_here(py: Interpreter) -> None:
    first = py.submit(time.sleep, 0.2)
    data = bytes(5 << 20)
    assert py.submit(len, data).result() == len(data)
    assert first.done()


def test_each_call_has_its_own_output(py: Interpreter) -> None:
    def say(n: int) -> None:
        print("out", n)
        print("err", n, file=sys.stderr)

    results: list[Any] = [None] * 20

    def run(n: int) -> None:
        results[n] = py.run(say, n)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(r.stdout, r.stderr) for r in results] == [
        (f"out {n}\n", f"err {n}\n") for n in range(20)
    ]


def test_much_output_in_many_calls_goes_on(py: Interpreter) -> None:
    for _ in range(8):
        assert len(py.run(lambda: print("x" * (3 << 20))).stdout) == (3 << 20) + 1


def test_what_raises_leaves_the_process(py: Interpreter) -> None:
    pid = py.call(os.getpid)
    for code, kind in (("1 / 0", ZeroDivisionError), ("exit(3)", SystemExit)):
        with pytest.raises(kind):
            py.call(exec, code)
    with pytest.raises(ShippingError):
        py.call(eval, threading.Lock())
    assert py.call(os.getpid) == pid


def test_a_call_that_cannot_be_loaded_leaves_the_process(py: Interpreter) -> None:
    class Stray:
        def __reduce__(self) -> Any:
            return importlib.import_module, ("nowhere_to_be_found",)

    pid = py.call(os.getpid)
    with pytest.raises(ShippingError, match="nowhere_to_be_found"):
        py.call(lambda first, second: None, Model(1), Stray())
    assert py.call(load, 2) == pid
    assert py.call(use)[0].size == 2


def test_stdin_goes_to_the_process(place: Any, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("one\ntwo\n")
    with (tmp_path / "lines").open() as stream, place.python(in_stream=stream) as py:
        assert [py.call(input), py.call(input)] == ["one", "two"]
        with pytest.raises(EOFError):
            py.call(input)


def read(size: int) -> int:
    return len(sys.stdin.buffer.read(size))


def test_a_call_may_read_more_than_waits_on_the_host(place: Any) -> None:
    with place.python(in_stream=io.BytesIO(bytes(4 * wire.WINDOW))) as py:
        assert [py.call(read, 2 * wire.WINDOW) for _ in range(3)] == [2 * wire.WINDOW] * 2 + [0]


# The end


def test_leaving_ends_the_process_after_its_calls(
    place: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def begin(path: str) -> None:
        atexit.register(lambda: print("bye", flush=True))
        threading.Thread(target=lambda: time.sleep(0.2) or open(path, "w").close()).start()  # type: ignore[func-returns-value]

    with place.python() as py:
        pid = py.call(os.getpid)
        py.call(begin, str(tmp_path / "joined"))
        last = py.submit(time.sleep, 0.1)
    assert last.done()
    assert (tmp_path / "joined").exists()
    assert capfd.readouterr().out == "bye\n"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_that_does_not_end_is_killed_at_its_timeout(place: Any) -> None:
    with place.python(timeout=started(place)) as py:
        pid = py.call(os.getpid)
        py.call(lambda: atexit.register(time.sleep, 60) and None)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_crash_says_so_and_ends_the_block_for_later_calls(place: Any, tmp_path: Path) -> None:
    with place.python() as py:
        slow = py.submit(wait_for, str(tmp_path / "gate"))
        crash = py.submit(os.kill, 0, signal.SIGKILL)
        behind = py.submit(len, "")
        (tmp_path / "gate").touch()
        assert slow.result() is None
        with pytest.raises(RemoteProcessDied, match="killed by SIGKILL") as caught:
            crash.result()
        assert caught.value.signal == "SIGKILL"
        with pytest.raises(RemoteProcessDied, match="was not run: the process of its with"):
            behind.result()
        with pytest.raises(RemoteProcessDied, match=r"SIGKILL during kill\(\)\. .* entering it"):
            py.call(len, "")
    assert py.call(len, "") == 0


def test_a_process_that_ends_between_calls_is_told(py: Interpreter) -> None:
    def later() -> None:
        threading.Timer(0.1, os._exit, (4,)).start()

    py.call(later)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            py.call(len, "")
        except RemoteProcessDied:
            break
    with pytest.raises(RemoteProcessDied, match="exited with status 4"):
        py.call(len, "")


def test_a_timeout_ends_the_process(place: Any) -> None:
    with place.python(timeout=0.3) as py:
        with pytest.raises(RemoteTimeout):
            py.call(time.sleep, 60)
        with pytest.raises(RemoteProcessDied, match=r"killed at its timeout during sleep\(\)"):
            py.call(len, "")


def test_cancelling_a_call_that_waits_leaves_the_process(py: Interpreter, tmp_path: Path) -> None:
    pid = py.call(os.getpid)
    first = py.submit(wait_for, str(tmp_path / "gate"))
    second = py.submit(load, 1)
    assert second.cancel()
    (tmp_path / "gate").touch()
    assert first.result() is None
    assert py.call(eval, "globals().get('table')") is None
    assert py.call(os.getpid) == pid


def test_cancelling_the_call_that_runs_ends_the_process(py: Interpreter) -> None:
    py.call(len, "")
    running, behind = py.submit(time.sleep, 60), py.submit(len, "")
    assert running.cancel()
    with pytest.raises(RemoteCancelled):
        running.result()
    with pytest.raises(RemoteProcessDied, match="was not run"):
        behind.result()


def test_an_interrupted_block_kills_the_process(place: Any) -> None:
    pids: list[int] = []

    def interrupted() -> None:
        with place.python() as py:
            pids.append(py.call(os.getpid))
            py.submit(time.sleep, 60)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_block_cannot_be_entered_twice_at_once(py: Interpreter) -> None:
    with pytest.raises(RuntimeError, match="Use another"), py:
        pass
    assert py.call(len, "") == 0


def test_closing_the_connection_ends_the_block(openssh: Server) -> None:
    with connect(openssh) as conn, conn.python() as py:
        py.call(len, "")
        conn.close()
        with pytest.raises(RemoteCancelled, match="closed from this side"):
            py.call(len, "")


def test_a_broken_connection_is_told_and_not_made_again(openssh: Server) -> None:
    with connect(openssh) as conn, conn.python() as py:
        py.call(len, "")
        conn.transport.sock.close()
        with pytest.raises(RemoteConnectionLost):
            py.call(time.sleep, 5)
        with pytest.raises(RemoteConnectionLost):
            py.call(len, "")


SCRIPT = """
import os, sys, time
from invoke.context import Context
from fabremote import wrap
def run(path):
    open(path, "w").close()
    time.sleep(60)
with wrap(Context()) as context, context.python(python=sys.executable) as py:
    print(py.call(os.getpid), flush=True)
    py.call(run, sys.argv[1])
"""


def test_ctrl_c_ends_the_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    child = subprocess.Popen(
        [sys.executable, script, tmp_path / "runs"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    pid = int(child.stdout.readline())
    assert settled((tmp_path / "runs").exists)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=40)
    assert "KeyboardInterrupt" in err
    assert left_of([pid]) == []


# Streams


def count(limit: int) -> Iterator[int]:
    for number in range(limit):
        print(number)
        yield number


def test_generators_give_their_items_in_it(py: Interpreter) -> None:
    pid = py.call(os.getpid)
    for _ in range(3):
        assert list(py.call(count, 3)) == [0, 1, 2]
        assert py.call(sum, (n for n in range(4))) == 6
        stream = py.call(count, 1 << 20)
        assert next(stream) == 0
        stream.close()  # type: ignore[attr-defined]
        assert py.call(os.getpid) == pid


def test_a_call_behind_a_generator_is_refused_as_it_would_wait_for_ever(py: Interpreter) -> None:
    stream = py.call(count, 5)
    assert next(stream) == 0
    with pytest.raises(RuntimeError, match=r"giving the items of .*count\(\)"):
        py.call(os.getpid)
    with pytest.raises(RuntimeError, match="Take them all"):
        py.submit(os.getpid)
    assert list(stream) == [1, 2, 3, 4]
    assert py.call(len, "") == 0


def test_a_block_that_is_left_in_the_midst_of_a_generator_ends_it(place: Any) -> None:
    with place.python() as py:
        pid = py.call(os.getpid)
        stream = py.call(count, 1 << 20)
        assert next(stream) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(RemoteCancelled, match="as the with block that it is of was left"):
        next(stream)


def first_of(items: Iterator[bytes], count: int) -> list[int]:
    return [len(next(items)) for _ in range(count)]


@pytest.mark.parametrize("size", [100, 100_000, 250_000])
def test_a_stream_that_ends_early_leaves_nothing_to_the_next_call(
    py: Interpreter, size: int
) -> None:
    pid = py.call(os.getpid)
    for count in (1, 2, 3, 1, 2, 3):
        items = ahead((bytes(size) for _ in range(100)), 50)
        assert py.call(first_of, items, count) == [size] * count
        assert py.call(len, bytes(100_000)) == 100_000
    assert py.call(os.getpid) == pid


def leave_waiting(items: Iterator[bytes]) -> None:
    """Return while a thread waits for an item."""

    def wait() -> None:
        begun.set()
        next(items, None)

    begun = threading.Event()
    threading.Thread(target=wait, daemon=True).start()
    begun.wait()


def threads() -> int:
    return threading.active_count()


def keep(items: Iterator[int]) -> int:
    global table
    table = items
    return next(items)


def use_kept(items: Iterator[int]) -> Any:
    try:
        next(table)
    except RuntimeError as error:
        return str(error), next(items)


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_thread_that_waits_for_an_item_takes_nothing_of_the_next_call(
    py: Interpreter, size: int
) -> None:
    pid = py.call(os.getpid)
    for _ in range(10):
        py.call(leave_waiting, (bytes(size) for _ in range(3)))
        assert py.call(len, bytes(100_000)) == 100_000
    assert py.call(os.getpid) == pid


def test_an_iterator_of_an_earlier_call_is_gone(py: Interpreter) -> None:
    assert py.call(keep, iter(n for n in range(5))) == 0
    assert py.call(use_kept, iter(n for n in range(7, 9))) == ("the caller's iterator is gone", 7)


def alarmed(items: Iterator[bytes]) -> str:
    def ring(number: int, frame: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        while True:
            next(items)
    except TimeoutError:
        return "stopped"


def test_what_a_signal_ends_in_the_midst_of_an_item_leaves_nothing(py: Interpreter) -> None:
    pid = py.call(os.getpid)
    for _ in range(3):
        endless = (bytes(500_000) for _ in itertools.count())
        assert py.call(alarmed, ahead(endless, 10)) == "stopped"
        assert py.call(len, bytes(100_000)) == 100_000
    assert py.call(os.getpid) == pid
