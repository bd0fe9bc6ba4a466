"""What was sent once to an agent is not sent again, and what it keeps is bounded."""

from __future__ import annotations

import importlib
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from fabremote import Connection, RemoteCancelled, RemoteTimeout, store, wrap
from fabremote.agent import wire
from fabremote.bootstrap import this_python
from fabremote.links import ProcessLink
from fabremote.options import Options
from fabremote.shipping.payload import dump
from fabremote.store import Blob, BlobList, Parcel, Store
from tests import interpreters


@pytest.fixture
def context() -> Iterator[Any]:
    made = wrap(Context())
    yield made
    made.close()


@pytest.fixture
def local(context: Any) -> Any:
    python = context.python(python=sys.executable)
    python.call(abs, -1)
    return python


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """An own package of some size."""
    folder = tmp_path / "large"
    folder.mkdir()
    parts = [f"part{number}" for number in range(30)]
    for part in parts:
        (folder / f"{part}.py").write_text(f"NAME = {part!r}\n" + "# nothing\n" * 400)
    (folder / "__init__.py").write_text(
        "".join(f"from . import {part}\n" for part in parts)
        + "def names(): return [part0.NAME, part29.NAME]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("large")
    for name in ["large", *(f"large.{part}" for part in parts)]:
        sys.modules.pop(name, None)


def long_function(number: int) -> int:
    """A function of more than 200 bytes of code."""
    found = 0
    for index in range(number):
        if index % 3 == 0 or index % 5 == 0:
            found += index
        elif index % 7 == 0:
            found -= index
    return found


def make_function(number: int, size: int) -> Callable[[], int]:
    """A function with a constant of its own in its code."""
    text = f"def made():\n    {'x' * size + str(number)!r}.lower()\n    return {number}\n"
    values: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, f"<made {number}>", "exec"), values)
    return values["made"]  # type: ignore[no-any-return]


def kept(python: Any) -> Store:
    """What the agent of an interpreter keeps."""
    session = python._host.live_session(python._prepare(len, (), {})._options)
    return session._store  # type: ignore[no-any-return]


# Repeats


def test_code_is_sent_once(local: Any, sent: list[int]) -> None:
    assert local.call(long_function, 20) == long_function(20)
    assert local.call(long_function, 21) == long_function(21)
    first, second = sent
    payload = dump(long_function, (20,), {}, Options(), this_python())
    code = sum(len(blob.data) for blob in payload.parcel.needed)
    assert code > 200
    assert second <= first - code
    assert second < 1024


def test_modules_are_sent_once(local: Any, sent: list[int], package: Any) -> None:
    assert local.call(package.names) == ["part0", "part29"]
    assert local.call(lambda: package.names()) == ["part0", "part29"]
    assert local.call(package.names) == ["part0", "part29"]
    first, other, second = sent
    assert first > 30 * 4000
    assert other < 1024
    assert second < 512


def test_modules_are_sent_once_over_ssh(conn_openssh: Connection, package: Any) -> None:
    python = conn_openssh.python(python=sys.executable)
    for _ in range(3):
        assert python.call(package.names) == ["part0", "part29"]
    store = kept(python)
    assert len(store._kept) == 33
    assert python.submit(package.names).result() == ["part0", "part29"]
    assert len(store._kept) == 33


def ready() -> list[str]:
    """The modules that a worker had compiled from birth, beside those of its call."""
    return sorted(sys.modules["_fabremote_agent.importing"].READY)


def test_modules_that_are_used_again_are_compiled_ahead(
    local: Any, package: Any, tmp_path: Path
) -> None:
    # What can't be compiled is left to the call that imports it.
    (tmp_path / "large" / "broken.py").write_text("def broken(:\n")
    (tmp_path / "large" / "deep.py").write_text("VALUE = " + "(" * 5000 + ")" * 5000 + "\n")

    def look(broken: bool = False) -> tuple[list[str], list[str]]:
        if broken:
            from large import broken as _  # type: ignore[import-not-found]
            from large import deep as _  # noqa: F811, F401
        return package.names(), ready()

    names, found = local.call(look)
    assert (names, found) == (["part0", "part29"], [])
    deadline = time.monotonic() + 30
    while not found and time.monotonic() < deadline:
        names, found = local.call(look)
        assert names == ["part0", "part29"]
        time.sleep(0.05)
    assert found == sorted(["large", *(f"large.part{number}" for number in range(30))])
    for _ in range(2):
        with pytest.raises(SyntaxError):
            local.call(look, True)
    assert local.call(look)[0] == ["part0", "part29"]


@pytest.mark.parametrize("version", [v for v in interpreters.found() if v != "2.7"])
def test_any_version_keeps_and_compiles(
    context: Any, sent: list[int], package: Any, version: str
) -> None:
    python = context.python(python=interpreters.found()[version])
    python.call(abs, -1)
    sent.clear()
    for _ in range(6):
        assert python.call(package.names) == ["part0", "part29"]
        time.sleep(0.02)
    assert sent[0] > 30 * 4000
    assert max(sent[1:]) < 512


def test_a_changed_module_is_not_run_as_it_was_compiled(local: Any, package: Any) -> None:
    for _ in range(4):
        local.call(package.names)
        time.sleep(0.05)
    path = Path(package.part0.__file__)
    path.write_text("NAME = 'new'\n")
    importlib.reload(package.part0)
    assert [local.call(package.names) for _ in range(5)] == [["new", "part29"]] * 5


def test_one_changed_module_is_sent_alone(local: Any, sent: list[int], package: Any) -> None:
    local.call(package.names)
    path = Path(package.part29.__file__)
    path.write_text(path.read_text().replace("'part29'", "'changed'"))
    importlib.reload(package.part29)
    assert local.call(package.names) == ["part0", "changed"]
    assert sent[1] < sent[0] / 10


def test_small_payloads_name_nothing() -> None:
    for fn, args in ((len, ("",)), (lambda: 1, ())):
        payload = dump(fn, args, {}, Options(), this_python())
        (piece,) = payload.parcel.pieces
        assert len(piece) < 1024
        assert sum(len(blob.data) for blob in payload.parcel.needed) < 600
    assert not dump(len, ("",), {}, Options(), this_python()).parcel.needed


def test_arguments_are_not_kept(local: Any) -> None:
    assert local.call(len, "x" * 100_000) == 100_000
    assert local.call(len, b"x" * 100_000) == 100_000
    assert not kept(local)._kept


def test_each_agent_has_its_own(context: Any, sent: list[int]) -> None:
    for options in ("", "-O"):
        python = context.python(python=sys.executable, py_options=options)
        assert python.call(long_function, 9) == long_function(9)
        assert len(kept(python)._kept) == 1


def test_a_new_agent_is_sent_all_again(context: Any, sent: list[int]) -> None:
    python = context.python(python=sys.executable)
    assert python.call(long_function, 9) == long_function(9)
    context.close()
    assert python.call(long_function, 9) == long_function(9)


def test_an_empty_blob_and_many_of_them(local: Any) -> None:
    made = [make_function(number, 200) for number in range(1200)]
    assert local.call(lambda functions: sum(fn() for fn in functions), made) == sum(range(1200))
    frames = Store().sending([Blob(b""), Blob(b"")])
    assert len(frames) == 1


# Several at once


def test_concurrent_calls_find_what_they_need(context: Any, package: Any) -> None:
    """All of them need the same blobs, of which none has been sent."""
    python = context.python(python=sys.executable)
    python.call(abs, -1)
    start = threading.Barrier(8)

    def run(number: int) -> tuple[list[str], int]:
        start.wait()
        return python.call(package.names), python.call(make_function(number % 3, 5000))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(run, range(8)))
    assert found == [(["part0", "part29"], number % 3) for number in range(8)]


def test_a_submitted_call_that_is_cancelled_leaves_its_blobs(local: Any) -> None:
    made = make_function(7, 500_000)
    for _ in range(5):
        future = local.submit(made)
        future.cancel()
    assert local.call(made) == 7


def test_a_call_that_times_out_at_once_leaves_its_blobs(context: Any) -> None:
    made = make_function(8, 2_000_000)
    python = context.python(python=sys.executable)
    python.call(abs, -1)
    with pytest.raises(RemoteTimeout):
        context.python(python=sys.executable, timeout=1e-9).call(made)
    assert python.call(made) == 8


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("when", ["before", "half"])
def test_what_was_not_sent_is_not_counted_as_sent(
    context: Any, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], when: str
) -> None:
    python = context.python(python=sys.executable)
    python.call(abs, -1)
    made = make_function(9, 5000)
    send, broken = ProcessLink.send, threading.Event()

    def breaking(self: ProcessLink, data: bytes) -> None:
        if not broken.is_set():
            broken.set()
            if when == "half":
                send(self, data[: len(data) // 2])
            raise error
        send(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(ProcessLink, "send", breaking)
        if error is OSError:
            # Nothing of it can have run, so it goes again.
            assert python.call(made) == 9
        else:
            with pytest.raises(error):
                python.call(made)
    assert broken.is_set()
    assert python.call(made) == 9


def test_an_interrupt_while_blobs_are_counted_ends_the_link(
    context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = context.python(python=sys.executable)
    python.call(abs, -1)

    def interrupted(self: Store) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "dropping", interrupted)
        with pytest.raises(KeyboardInterrupt):
            python.call(long_function, 3)
    assert python.call(long_function, 3) == long_function(3)


# Bounds


def test_the_least_recently_used_is_dropped() -> None:
    first, second, third = (Blob(bytes([number]) * 400) for number in range(3))
    kept = Store(limit=1000)
    assert len(kept.sending([first, second])) == 2
    assert kept.dropping() == b""
    assert kept.sending([first]) == []
    assert len(kept.sending([third])) == 1
    assert kept.dropping() == wire.frame(wire.DROP, 0, second.digest)
    assert kept.size == 800
    assert len(kept.sending([second])) == 1


def test_what_is_larger_than_the_bound_goes_and_is_dropped_at_once() -> None:
    blob = Blob(b"x" * 200_000)
    kept = Store(limit=1000)
    assert len(kept.sending([blob])) == 4
    assert kept.dropping() == wire.frame(wire.DROP, 0, blob.digest)
    assert kept.size == 0


def test_an_agent_keeps_no_more_than_the_bound(context: Any) -> None:
    """Each call runs, though what it needs is dropped right behind it."""
    python = context.python(python=sys.executable)
    python.call(abs, -1)
    kept(python)._limit = 50_000
    made = [make_function(number, 30_000) for number in range(6)]
    for _ in range(2):
        assert [python.call(fn) for fn in made] == list(range(6))
        assert kept(python).size <= 50_000
    futures = [python.submit(fn) for fn in made * 3]
    assert [future.result() for future in futures] == list(range(6)) * 3
    large = make_function(6, 3_000_000)
    assert [python.call(large), python.call(large)] == [6, 6]
    assert kept(python).size == 0


def test_the_agents_memory_is_bounded(context: Any) -> None:
    """Much is sent; what the supervisor has grown by is what it may keep."""
    python = context.python(python=sys.executable)
    parent = python.call(_grandparent)
    kept(python)._limit = 4 << 20
    python.call(make_function(0, 1 << 20))
    before = _resident(parent)
    for number in range(40):
        assert python.call(make_function(number, 1 << 20)) == number
    assert _resident(parent) - before < 20 << 20


def _grandparent() -> int:
    import os

    with open(f"/proc/{os.getppid()}/stat") as stream:
        return int(stream.read().rpartition(")")[2].split()[1])


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as stream:
        return int(stream.read().split()[1]) * 4096


def test_the_bound_is_64_mib() -> None:
    assert Store()._limit == store.LIMIT == 64 << 20


# Frames


def test_a_list_is_named_by_one_digest() -> None:
    members = [Blob(b"one"), Blob(b"two")]
    listed = BlobList.of(members)
    parcel = Parcel([b""], (Blob(b"three"),), listed)
    assert parcel.needed == [listed.blob, *members, *parcel.blobs]
    opening = parcel.opening(True)
    assert opening[0] == wire.HAS_STDIN | wire.HAS_LIST
    assert opening[1:] == listed.blob.digest + parcel.blobs[0].digest
    assert Parcel([b""]).opening(False) == b"\0"


def test_a_request_that_no_worker_of_ours_makes_ends_the_call_alone(local: Any) -> None:
    """A function that writes to the answer's pipe harms itself only."""

    def write() -> None:
        import os

        for fd in range(3, 30):
            try:
                os.write(fd, b"\xff" * 8)
            except OSError:
                continue
        import time

        time.sleep(0.3)

    from fabremote import RemoteProcessDied

    with pytest.raises((RemoteProcessDied, RemoteCancelled)):
        local.call(write)
    assert local.call(abs, -2) == 2
