"""What a function asks for as it runs: bounded, in the way of no deadline and no other call."""

from __future__ import annotations

import importlib
import marshal
import os
import py_compile
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from fabremote import RemoteTimeout, ResultError, wrap
from fabremote.agent import forker, importing, wire
from fabremote.agent.bundle import MORE, TOTAL
from fabremote.agent.supervisor import Supervisor
from fabremote.bootstrap import this_python
from fabremote.calls import Call
from fabremote.options import Options
from fabremote.outcomes import Outcome
from fabremote.session import Session
from fabremote.shipping import forwarding, sources
from fabremote.shipping.forwarding import Forwarder
from fabremote.shipping.modules import Modules, Scope
from fabremote.shipping.payload import dump
from tests.faults import settled
from tests.lying import LyingLink

BIG = 30 << 20


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own package ``reqs`` with a module to keep in, and data files."""
    folder = tmp_path / "reqs"
    folder.mkdir()
    (folder / "__init__.py").write_text("VALUE = 1\n")
    (folder / "secret.py").write_text("KEY = 'k'\n")
    (folder / "small.txt").write_text("small")
    (folder / "big.bin").write_bytes(b"b" * BIG)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    importlib.import_module("reqs")
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "reqs"]:
        del sys.modules[name]


def forwarder(*rules: str) -> Forwarder:
    made = Scope(Modules(rules), (3, 13))
    made.need("reqs")
    return Forwarder(made, set())


def ask(asked: Forwarder, *words: str) -> Any:
    return marshal.loads(asked.answer("\0".join(words).encode()))


# What is kept


def test_what_is_kept_is_not_sent_by_another_name(package: Path) -> None:
    py_compile.compile(str(package / "secret.py"))
    (package / "alias.py").symlink_to("secret.py")
    (package / "alias.txt").symlink_to("secret.py")
    (package / "folder").symlink_to("__pycache__")
    cached = next((package / "__pycache__").glob("secret.*")).name
    asked = forwarder("-reqs.secret")
    assert ask(asked, "data", "reqs", "small.txt") == b"small"
    for path in (
        f"__pycache__/{cached}",
        "alias.py",
        "alias.txt",
        f"folder/{cached}",
        "SECRET.py",
    ):
        assert ask(asked, "data", "reqs", path) is None, path
    assert ask(asked, "module", "reqs.alias") in (None, [])
    assert ask(asked, "list", "reqs", "__pycache__") is None
    names = [name for name, _, _ in ask(asked, "list", "reqs", "")]
    assert names == ["__init__.py", "big.bin", "small.txt"]


# Bounds


def test_names_that_a_host_invents_are_not_remembered(package: Path) -> None:
    asked, before = forwarder(), len(sources._sources)
    for number in range(50):
        assert ask(asked, "module", f"reqs.nothing{number}") is None
    assert len(sources._sources) == before


@pytest.mark.parametrize("path", ["/".join("a" * 1500), "a" * 5000, "../" * 100])
def test_an_excessive_path_is_not_looked_for(
    package: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = forwarder("-reqs.secret")
    monkeypatch.setattr(Forwarder, "_places", None)
    monkeypatch.setattr(Forwarder, "_module", None)
    assert ask(asked, "data", "reqs", path) is None
    assert ask(asked, "module", "reqs" + ".a" * 500) is None


def test_a_call_asks_only_so_often(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "REQUESTS", 3)
    asked = forwarder()
    for _ in range(3):
        asked.part(b"module\0reqs.no")
    with pytest.raises(ResultError, match="more than 3 times"):
        asked.part(MORE)


def test_an_answer_goes_in_parts(package: Path) -> None:
    asked, request, found = forwarder(), b"data\0reqs\0big.bin", b""
    left = 1
    while left:
        part = asked.part(request)
        assert len(part) <= forwarding.PART + TOTAL.size
        left, request = TOTAL.unpack_from(part)[0], MORE
        found += part[TOTAL.size :]
    assert marshal.loads(found) == b"b" * BIG


# A host that lies


def use() -> int:
    import reqs  # type: ignore[import-not-found]

    return reqs.VALUE  # type: ignore[no-any-return]


def begin(session: Session, timeout: float | None) -> Call:
    options = Options(timeout=timeout)
    payload = dump(use, (), {}, options, this_python())
    session.reserve("use", timeout)
    call = Call(session, session.number(), "use", options, False, payload.provide)
    session.begin(call, payload.parcel)
    return call


def within(seconds: float, work: Callable[[], Outcome]) -> Outcome:
    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, f"not within {seconds} s"
    return found[0]


def test_a_host_that_asks_and_does_not_read_holds_up_nobody(package: Path) -> None:
    link = LyingLink([wire.frame(wire.ASK, 1, b"data\0reqs\0big.bin")], 200_000)
    session = Session(link, "h", this_python(), b"")
    call = begin(session, 0.5)
    assert isinstance(within(30, call.wait).error, RemoteTimeout)
    # The link is given up, so that the next call gets another.
    assert link.closed.wait(20)
    assert not session.alive
    session.close()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "frames",
    [
        [wire.frame(wire.ASK, 1, b"module\0" + b"x" * 65000)],
        [wire.frame(wire.ASK, 1, b"data\0reqs\0big.bin") * 50],
        [wire.frame(wire.STDOUT, 1) * 100_000] * 4,
    ],
    ids=["large", "many", "empty"],
)
def test_a_flood_ends_its_call(
    package: Path, frames: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabremote.calls.UNHANDLED", 1 << 16)
    link = LyingLink(frames)
    session = Session(link, "h", this_python(), b"")
    call = begin(session, None)
    assert link.taken.wait(60)
    assert call.inbox.qsize() <= 1 << 17
    error = within(30, call.wait).error
    assert isinstance(error, ResultError)
    assert "sent more than its agent does" in str(error)
    session.close()


# Innocent hosts


@pytest.fixture
def local() -> Iterator[Any]:
    context = wrap(Context())
    python = context.python(python=sys.executable)
    python.call(abs, -1)
    yield python
    context.close()


def test_an_interrupted_request_leaves_its_answer_to_no_other(local: Any, package: Path) -> None:
    def interrupted() -> list[Any]:
        import pkgutil

        import reqs

        def stop(number: int, frame: Any) -> None:
            if frame.f_code is not own:
                raise InterruptedError("enough")
            signal.setitimer(signal.ITIMER_REAL, 0.005)  # it hasn't begun, or has just come

        signal.signal(signal.SIGALRM, stop)
        own = sys._getframe().f_code
        found: list[Any] = []
        for delay in (0.001, 0.005, 0.02):
            signal.setitimer(signal.ITIMER_REAL, delay)
            try:
                found.append(len(pkgutil.get_data(reqs.__name__, "big.bin") or b""))
            except InterruptedError:
                found.append("interrupted")
            signal.setitimer(signal.ITIMER_REAL, 0)
            found.append(pkgutil.get_data(reqs.__name__, "small.txt"))
        return found

    found = local.call(interrupted)
    assert found[1::2] == [b"small"] * 3
    assert "interrupted" in found


def test_an_answer_that_nobody_reads_holds_up_no_other_call(local: Any, package: Path) -> None:
    def deaf() -> None:
        import pkgutil

        import reqs

        def stop(number: int, frame: Any) -> None:
            open(path, "w").close()
            os.kill(os.getpid(), signal.SIGSTOP)

        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        pkgutil.get_data(reqs.__name__, "big.bin")

    path = str(package.parent / "stopped")
    future = local.submit(deaf)
    assert settled(lambda: os.path.exists(path))
    time.sleep(1)
    started = time.monotonic()
    assert local.call(len, "ab") == 2
    assert time.monotonic() - started < 20
    assert not future.done()
    assert future.cancel()


# Compiling ahead


class Told(Supervisor):
    """A supervisor without processes."""

    def __init__(self) -> None:
        self.blobs = {}
        self.spares: list[Any] = []
        self.hungry, self.said = True, []  # type: ignore[var-annotated]

    def tell(self, data: bytes) -> None:
        self.said.append(data)


def test_a_large_module_is_not_compiled_ahead_and_what_is_dropped_makes_room() -> None:
    supervisor = Told()
    made = importing.Compiling(supervisor)
    names = listed, roots, small, large, huge = [bytes([letter]) * 16 for letter in b"irslh"]
    sizes = 64, 20, 1000, 200_000, importing.KEPT
    supervisor.blobs = {n: [b"x" * size] for n, size in zip(names, sizes, strict=True)}
    made.use(listed, [roots, small, large, huge])
    assert not supervisor.said
    made.use(listed, [roots, small, large, huge])
    assert sorted(made.told) == sorted([listed, roots, small, large])
    assert {data[5:21]: data[:1] for data in supervisor.said} == {
        small: forker.COMPILE,
        large: forker.KEEP,
        listed: forker.KEEP,
        roots: forker.KEEP,
    }
    del supervisor.said[:]
    room = made.room
    made.drop(small)
    assert made.room == room + 1016
    assert supervisor.said == [forker.FORGET + small]
    made.drop(listed)
    for _ in range(2):
        made.use(listed, [roots, small])
    assert sorted(made.told) == sorted([listed, roots, small, large])


def test_modules_that_calls_use_again_are_there_from_birth(local: Any, package: Path) -> None:
    """Also those too large to be compiled ahead; but they are modules for their calls alone."""
    filling = "# " + 200_000 * "x"
    (package / "long.py").write_text(f"def size(): return len(__doc__ or '')\n{filling}\n")
    size = importlib.import_module("reqs.long").size
    assert [local.call(size) for _ in range(5)] == [0] * 5

    def born() -> tuple[int, int, bool]:
        blobs = sys.modules["_fabremote_agent.loader"].BLOBS.values()
        parts = sys.modules["_fabremote_agent.importing"].PARTS.values()
        large = sum(len(each) > 200_000 for each in blobs)
        small = sum(each[0] == "reqs" for each in parts)
        bundle = sys.modules["_fabremote_agent.bundle"].BUNDLE
        return large, small, "reqs" in bundle or "reqs" in sys.modules

    assert settled(lambda: local.call(born) == (1, 1, False))


def test_what_an_own_module_imports_of_the_standard_library_is_there_ahead(
    local: Any, package: Path
) -> None:
    (package / "wraps.py").write_text(
        "import sys\nAHEAD = 'textwrap' in sys.modules\nimport textwrap\n"
        "def there(): return AHEAD, textwrap.dedent('  a')\n"
    )
    there = importlib.import_module("reqs.wraps").there
    assert settled(lambda: local.call(there) == (True, "a"))


def test_a_spare_outlives_the_renewal_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Told()
    forks: list[str] = []

    def fork(request: bytes) -> str:
        if not forks:
            made.renew()  # as on_forker may, while the forker's socket is full
        forks.append("worker")
        return forks[-1]

    monkeypatch.setattr(made, "fork", fork)
    made.stock()
    assert len(made.spares) == len(forks) == 2
