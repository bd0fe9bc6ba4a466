"""The agent under every interpreter of this machine, its size, its secrets, and its frames."""

from __future__ import annotations

import ast
import collections
import copy
import datetime
import decimal
import fractions
import io
import ipaddress
import json
import os
import pathlib
import platform
import random
import shlex
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import invoke
import pytest
from invoke.context import Context

import fabremote.agent
from fabremote import (
    Connection,
    Interpreter,
    RemoteCancelled,
    RemoteConnectionLost,
    RemoteProcessDied,
    RemoteTimeout,
    wrap,
)
from fabremote.agent import wire
from fabremote.demo.server import Server
from fabremote.upload import AGENT_MODULES, EXTRA_MODULES, FLOOR, condensed, extra, runner
from tests import interpreters
from tests.conftest import connect

FOLDER = Path(fabremote.agent.__file__).parent
VERSIONS = [version for version in interpreters.found() if version != "2.7"]

Python = Callable[..., Interpreter]


@pytest.fixture(scope="session", params=["openssh", "local"])
def server_or_none(request: pytest.FixtureRequest) -> Server | None:
    """A server, started before anything is counted, or None for this machine."""
    if request.param == "local":
        return None
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Each Python version from the agent's floor up."""
    found: str = request.param
    return found


@pytest.fixture
def python(server_or_none: Server | None, version: str) -> Iterator[Python]:
    """Makes interpreters of each version, on a host and on this machine."""
    path = interpreters.found()[version]
    place = wrap(invoke.Context()) if server_or_none is None else connect(server_or_none)
    with place:
        yield lambda **options: place.python(python=path, **options)


# Under every interpreter


def test_the_interpreter_is_the_one_asked_for(python: Python, version: str) -> None:
    py = python()
    assert py.call(platform.python_version).startswith(version + ".")
    assert py.call(os.getpid) != py.call(os.getpid)
    assert py.call(os.getppid) == py.call(os.getppid)


# What is called, its arguments, and what comes back.
ROUND_TRIPS = [
    (eval, ("None",), None),
    (eval, ("(True, -1, 2.5, 1j, 'é', b'\\xff', ...)",), (True, -1, 2.5, 1j, "é", b"\xff", ...)),
    (eval, ("{'a': [1, {2}, frozenset([3])], 4: range(5)}",), {"a": [1, {2}, {3}], 4: range(5)}),
    (pow, (2, 5000), 2**5000),
    (sorted, ([3, 1, 2],), [1, 2, 3]),
    (str.join, (", ", ["a", "b"]), "a, b"),
    (len, (bytes(3 << 20),), 3 << 20),
    (bytes, (3 << 20,), bytes(3 << 20)),
    (bytearray, (b"abc",), bytearray(b"abc")),
    (datetime.datetime, (2024, 2, 29, 12, 30), datetime.datetime(2024, 2, 29, 12, 30)),
    (datetime.date.fromtimestamp, (86400 * 365,), datetime.date(1971, 1, 1)),
    (datetime.timedelta, (1, 2, 3), datetime.timedelta(1, 2, 3)),
    (abs, (decimal.Decimal("-1.50"),), decimal.Decimal("1.50")),
    (fractions.Fraction, (3, 4), fractions.Fraction(3, 4)),
    (uuid.UUID, ("12" * 16,), uuid.UUID("12" * 16)),
    (pathlib.PurePosixPath, ("/a", "b"), pathlib.PurePosixPath("/a/b")),
    (ipaddress.ip_address, ("127.0.0.1",), ipaddress.ip_address("127.0.0.1")),
    (collections.Counter, ("abca",), collections.Counter("abca")),
    (collections.deque, ([1, 2], 2), collections.deque([1, 2], 2)),
    (collections.OrderedDict, ([("b", 1), ("a", 2)],), collections.OrderedDict(b=1, a=2)),
    (time.gmtime, (0,), time.gmtime(0)),
    (json.loads, ('{"a": [1, null]}',), {"a": [1, None]}),
    (subprocess.check_output, (["echo", "hello"],), b"hello\n"),
]


def test_arguments_and_results_of_many_kinds_travel(python: Python) -> None:
    py = python()
    for fn, args, expected in ROUND_TRIPS:
        for value in (py.call(fn, *args), py.call(copy.copy, expected)):
            assert (type(value), value) == (type(expected), expected), fn


def test_output_and_input_travel_in_any_locale(python: Python, tmp_path: Path) -> None:
    text = "é€😀\n"
    folder = tmp_path / "é 日本"
    folder.mkdir()
    for locale in ("C", "C.UTF-8"):
        py = python(env={"LC_ALL": locale, "WORD": "é 日本"}, hide=True, cwd=folder)
        assert py.run(print, text, end="").stdout == text
        result = py.run(os.system, 'echo "$WORD"; pwd; echo oops >&2')
        assert (result.stdout, result.stderr) == (f"é 日本\n{folder}\n", "oops\n")
        assert py.call(os.getenvb, b"WORD") == "é 日本".encode()
        with pytest.raises(EOFError):
            py.call(input)
        given = python(in_stream=io.StringIO(text), hide=True)
        assert given.call(input) == "é€😀"


def test_a_megabyte_of_output_travels(python: Python) -> None:
    text = "".join(random.Random(3).choices("aé€😀\n", k=1 << 19))
    assert python(hide=True).run(print, text).stdout == text + "\n"


CASES = [
    (int, ("three",), ValueError, "three"),
    (open, ("/no/such/file",), FileNotFoundError, "/no/such/file"),
    (eval, ("{}['key']",), KeyError, "key"),
    (eval, ("1 / 0",), ZeroDivisionError, "division by zero"),
    (eval, ("b'\\xff'.decode()",), UnicodeDecodeError, "invalid start byte"),
    (eval, ("no_such_name",), NameError, "no_such_name"),
    (exec, ("import no_such_module",), ModuleNotFoundError, "no_such_module"),
    (exec, ("raise KeyboardInterrupt",), KeyboardInterrupt, ""),
    (json.loads, ("{",), json.JSONDecodeError, "line 1 column 2"),
    (subprocess.check_call, (["false"],), subprocess.CalledProcessError, "non-zero exit status 1"),
]


@pytest.mark.filterwarnings("default::ResourceWarning")
def test_exceptions_travel_as_their_own_types(python: Python) -> None:
    py = python()
    for fn, args, kind, text in CASES:
        with pytest.raises(kind) as caught:
            py.call(fn, *args)
        assert text in str(caught.value)
        assert type(caught.value) is kind
        assert isinstance(py.submit(fn, *args).exception(30), kind)
    with pytest.raises(FileNotFoundError) as missing:
        py.call(open, "/no/such/file")
    assert (missing.value.errno, missing.value.filename) == (2, "/no/such/file")
    with pytest.raises(SystemExit) as exit_:
        py.call(sys.exit, 3)
    assert exit_.value.code == 3


CHAIN = """
def inner():
    raise KeyError("first")
try:
    inner()
except KeyError as error:
    raise ValueError("second") from error
"""


def test_the_remote_traceback_is_shown(python: Python) -> None:
    with pytest.raises(ValueError, match="second") as caught:
        python().call(exec, CHAIN)
    shown = "".join(traceback.format_exception(caught.value))
    assert "KeyError: 'first'" in shown
    assert "in inner" in shown


def test_timeouts_cancels_and_deaths_are_told(python: Python) -> None:
    py = python(hide=True)
    assert py.call(max, 1, 2) == 2
    before = time.monotonic()
    with pytest.raises(RemoteTimeout):
        python(timeout=0.1).call(time.sleep, 60)
    future = py.submit(time.sleep, 60)
    future.cancel()
    with pytest.raises(RemoteCancelled):
        future.result()
    assert time.monotonic() - before < 30
    for fn, args, exited, number in [
        (os._exit, (3,), 3, None),
        (os.abort, (), None, "SIGABRT"),
        (eval, ("__import__('ctypes').string_at(0)",), None, "SIGSEGV"),
    ]:
        with pytest.raises(RemoteProcessDied) as caught:
            py.call(fn, *args)
        assert (caught.value.exited, caught.value.signal) == (exited, number)
    assert py.call(max, 1, 2) == 2


AFTERMATH = """
import atexit, os, threading, time
def later():
    time.sleep(0.1)
    print("thread")
atexit.register(print, "handler")
threading.Thread(target=later).start()
if os.fork() == 0:
    os._exit(0)
os.wait()
"""


def test_what_is_printed_after_the_return_is_relayed(python: Python) -> None:
    result = python(hide=True).run(exec, AFTERMATH, {})
    assert result.stdout == "thread\nhandler\n"


MEETING = """
import os, time
open(os.path.join(folder, str(os.getpid())), "w").close()
while len(os.listdir(folder)) < 6:
    time.sleep(0.01)
"""


def test_calls_run_at_once(python: Python, tmp_path: Path) -> None:
    py = python()
    futures = [py.submit(exec, MEETING, {"folder": str(tmp_path)}) for _ in range(6)]
    assert [future.result(40) for future in futures] == [None] * 6


def test_options_take_effect_under_every_version(python: Python) -> None:
    py = python(py_options="-O -I -W error -X faulthandler")
    flags = py.call(eval, "(lambda s: (s.flags.optimize, s.flags.isolated, s.warnoptions))"
                    "(__import__('sys'))")  # fmt: skip
    assert flags == (1, 1, ["error"])


# Surroundings that are not friendly


@pytest.mark.parametrize("limit", [24, 64])
def test_few_descriptors_are_enough(conn_openssh: Connection, limit: int) -> None:
    command = f'ulimit -n {limit}; exec {shlex.quote(interpreters.running()[1])} "$@"'
    py = conn_openssh.python(python=f"sh -c {shlex.quote(command)} sh", hide=True)
    for _ in range(3 * limit):
        assert py.run(print, "here").stdout == "here\n"


def test_too_many_calls_for_the_descriptors_leave_the_others_alone(
    conn_openssh: Connection,
) -> None:
    command = f'ulimit -n 64; exec {shlex.quote(interpreters.running()[1])} "$@"'
    py = conn_openssh.python(python=f"sh -c {shlex.quote(command)} sh", hide=True)
    futures = [py.submit(time.sleep, 0.5) for _ in range(30)]
    errors = [future.exception(30) for future in futures]
    assert errors.count(None) >= 5
    for error in errors:
        assert error is None or (
            isinstance(error, RemoteProcessDied) and "no process to run in" in str(error)
        )
    assert py.call(max, 1, 2) == 2


@pytest.mark.parametrize("home", ["/no/such/home", "/proc", ""])
def test_a_home_that_cannot_be_written_does_no_harm(conn_openssh: Connection, home: str) -> None:
    py = conn_openssh.python(python=f"env HOME={home} {interpreters.running()[1]}")
    assert py.call(os.getenv, "HOME") == home


def test_bytes_that_are_no_frames_end_the_session(conn: Connection, tmp_path: Path) -> None:
    wrapper, gate = tmp_path / "wrapper", tmp_path / "gate"
    wait = f"while ! test -e {gate}; do sleep 0.05; done"
    garbage = rf"( {wait}; printf '\000\000\000\000\000\377\377\377\377garbage' ) 2>&1 &"
    wrapper.write_text(f'#!/bin/sh\n{garbage}\nexec {interpreters.running()[1]} "$@"\n')
    wrapper.chmod(0o755)
    py = conn.python(python=str(wrapper))
    with pytest.raises(RemoteConnectionLost, match="not the agent's protocol"):
        py.call(exec, f"import time; open({str(gate)!r}, 'w').close(); time.sleep(60)")
    assert conn.call(max, 1, 2) == 2


# The agent's sources


def sources() -> dict[str, Path]:
    return {path.stem: path for path in sorted(FOLDER.glob("*.py"))}


COMPILE = """
import io, sys
for name in sys.argv[1:]:
    with io.open(name, encoding="utf-8") as stream:
        compile(stream.read(), name, "exec")
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_every_file_compiles_from_the_floor_up(version: str) -> None:
    path = interpreters.found()[version]
    subprocess.run([path, "-W", "error", "-c", COMPILE, *sources().values()], check=True)


def test_the_floor_is_among_the_interpreters_tested_where_it_can_be() -> None:
    floor = "{}.{}".format(*FLOOR)
    if floor not in VERSIONS:
        pytest.skip(f"no Python {floor} on this machine")
    assert VERSIONS[0] == floor


@pytest.mark.parametrize("name", sorted(sources()))
def test_a_file_imports_the_standard_library_and_earlier_siblings(name: str) -> None:
    tree = ast.parse(sources()[name].read_text("utf-8"))
    earlier = AGENT_MODULES[: AGENT_MODULES.index(name)] if name in AGENT_MODULES else ()
    if name in EXTRA_MODULES:
        earlier = AGENT_MODULES + EXTRA_MODULES[: EXTRA_MODULES.index(name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            tops = {alias.name.partition(".")[0] for alias in node.names}
            assert tops <= sys.stdlib_module_names
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            names = {node.module} if node.module else {alias.name for alias in node.names}
            assert names <= set(earlier), "siblings are sent in the order of AGENT_MODULES"
        elif isinstance(node, ast.ImportFrom):
            assert str(node.module).partition(".")[0] in sys.stdlib_module_names


def test_every_file_is_sent() -> None:
    assert sorted(AGENT_MODULES + EXTRA_MODULES) == sorted(set(sources()) - {"__init__"})


def test_an_extra_is_sent_once_and_only_when_it_is_needed(sent: list[int]) -> None:
    class Local:
        pass

    def sizes() -> list[int]:
        before = len(sent)
        context.call(lambda: Local().__class__.__name__)
        return sent[before:]

    with wrap(Context()) as context:
        context.call(len, "")
        assert max(sent[1:]) < len(extra("classes"))
        assert max(sizes()) > len(extra("classes"))
        assert max(sizes()) < len(extra("classes"))


def test_an_extra_fits_a_frame() -> None:
    assert all(len(extra(name)) <= wire.MAX_DATA for name in EXTRA_MODULES)


def test_the_runner_is_small() -> None:
    assert len(runner()) <= 24 << 10


# Secrets


def traces(server: Server) -> bytes:
    """All that the system shows to others of the processes of a server's sessions."""
    found = []
    for process in server._family():
        for name in ("cmdline", "environ"):
            try:
                found.append(Path(f"/proc/{process.pid}/{name}").read_bytes())
            except OSError:
                continue
    return b"\0".join(found)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_nothing_of_a_call_shows_in_the_process_list(
    conn_openssh: Connection, openssh: Server, tmp_path: Path
) -> None:
    files = sorted(openssh.home.rglob("*"))
    py = conn_openssh.python(
        env={"FABREMOTE_VARIABLE": "confidential value"},
        in_stream=io.StringIO("confidential input\n"),
        cwd="/usr",
    )
    code = "import os, time\nwhile not os.path.exists(path): time.sleep(0.01)\n# confidential code"
    gate = tmp_path / "gate"
    future = py.submit(exec, code, {"path": str(gate), "a": "argument1"})
    deadline = time.monotonic() + 0.7
    seen = b""
    while b"fabremote" not in seen or time.monotonic() < deadline:  # until the agent is seen
        seen += traces(openssh)
    for secret in (b"confidential", b"argument1", b"FABREMOTE_VARIABLE", b"exec, "):
        assert secret not in seen
    assert not future.done()
    gate.touch()
    assert future.result(30) is None
    assert sorted(openssh.home.rglob("*")) == files


class Undocumented(ast.NodeTransformer):
    """Takes docstrings out, and leaves where the rest stands."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            del node.body[0]
        return node


def meaning(source: str) -> tuple[str, list[int]]:
    tree = Undocumented().visit(ast.parse(source))
    return ast.dump(tree), [node.lineno for node in ast.walk(tree) if hasattr(node, "lineno")]


@pytest.mark.parametrize("folder", ["agent", "remote"])
def test_what_is_sent_condensed_means_the_same_on_the_same_lines(folder: str) -> None:
    for file in Path(fabremote.__file__).with_name(folder).glob("*.py"):
        source = file.read_text("utf-8")
        assert meaning(condensed(source)) == meaning(source), file


# Frames


def some_frames() -> list[tuple[int, int, bytes]]:
    source = random.Random(11)
    sizes = [0, 1, 2, 8, 9, 10, 255, 256, 1000, 65535, wire.MAX_DATA]
    frames = [
        (kind, source.randrange(1 << 32), source.randbytes(size))
        for size in sizes
        for kind in (wire.OPEN, source.choice(sorted(wire.STREAMED)))
    ]
    source.shuffle(frames)
    return frames


def whole(found: list[tuple[int, int, memoryview]]) -> list[tuple[int, int, bytes]]:
    """The frames, those joined again that came in pieces."""
    joined: list[tuple[int, int, bytes]] = []
    for kind, call, data in found:
        if joined and kind in wire.STREAMED and joined[-1][:2] == (kind, call):
            joined[-1] = kind, call, joined[-1][2] + data
        else:
            joined.append((kind, call, bytes(data)))
    return joined


def test_frames_fed_byte_by_byte_equal_the_whole() -> None:
    frames = some_frames()
    data = b"".join(wire.frame(*frame) for frame in frames)
    assert wire.Decoder().feed(data) == frames
    decoder = wire.Decoder()
    found = [frame for byte in data for frame in decoder.feed(bytes([byte]))]
    assert whole(found) == frames
    assert decoder.feed(b"") == []


def test_frames_cut_anywhere_equal_the_whole() -> None:
    frames = some_frames()
    data = b"".join(wire.frame(*frame) for frame in frames)
    for seed in range(100):
        source, decoder, found, start = random.Random(seed), wire.Decoder(), [], 0
        while start < len(data):
            end = start + source.choice([1, 2, 8, 9, 10, 100, 5000, 70000])
            found += decoder.feed(data[start:end])
            start = end
        assert whole(found) == frames


def test_what_is_streamed_comes_before_its_frame_has_ended() -> None:
    decoder, kind = wire.Decoder(), wire.REPLY
    data = wire.frame(kind, 7, b"abcdef") + wire.frame(wire.DONE, 7, b"xyz")
    assert decoder.feed(data[:9]) == []
    assert decoder.feed(data[9:11]) == [(kind, 7, b"ab")]
    assert decoder.feed(data[11:-1]) == [(kind, 7, b"cdef")]
    assert decoder.feed(data[-1:]) == [(wire.DONE, 7, b"xyz")]
    # An empty one is the end of file.
    assert decoder.feed(wire.frame(wire.STDIN, 7)) == [(wire.STDIN, 7, b"")]


@pytest.mark.parametrize("length", [wire.MAX_DATA + 1, (1 << 32) - 1])
def test_a_frame_beyond_the_limit_is_refused_before_it_is_gathered(length: int) -> None:
    good = wire.frame(wire.STDOUT, 1, b"abc")
    with pytest.raises(wire.ProtocolError, match=str(length)):
        wire.Decoder().feed(good + wire.HEADER.pack(wire.STDOUT, 1, length))


@pytest.mark.parametrize(
    ("status", "expected"), [(0, (0, 0)), (3 << 8, (0, 3)), (9, (9, 0)), (0x80 | 6, (6, 0))]
)
def test_a_status_says_how_a_process_ended(status: int, expected: tuple[int, int]) -> None:
    for answered in (False, True):
        for cancelled in (False, True):
            packed = wire.pack_status(answered, cancelled, status)
            assert wire.unpack_status(packed) == (answered, cancelled, *expected)
