"""What a call prints, reads and is answered: live, apart, exact, and never another call's."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import io
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import invoke
import pytest
from invoke import FailingResponder, Responder
from invoke.exceptions import ResponseNotAccepted

from fabremote import Connection, Result, wrap
from fabremote.demo.server import Server
from tests.conftest import connect
from tests.faults import settled

PLACES = ["openssh", "asyncssh", "gateway", "local"]
LOCAL = {"remotely": {"python": sys.executable}}


@pytest.fixture(scope="session", params=PLACES)
def ground(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """The kind of a place and the server that it needs, started before anything is counted."""
    if request.param == "local":
        return request.param, None
    name = "asyncssh_server" if request.param == "asyncssh" else "openssh"
    return request.param, request.getfixturevalue(name)


@pytest.fixture
def place(ground: tuple[str, Any]) -> Iterator[Any]:
    """Whatever runs calls: either server, a host behind a gateway, and this machine."""
    kind, server = ground
    if kind == "local":
        with wrap(invoke.Context(invoke.Config(overrides=LOCAL))) as context:
            yield context
        return
    with connect(server) as connection:
        if kind != "gateway":
            yield connection
            return
        host, keys = server.hosts[-1], server.connect_kwargs
        with Connection(
            host, server.user, server.port, gateway=connection, connect_kwargs=keys
        ) as behind:
            yield behind


class Sink(io.StringIO):
    """An output stream that runs ``reaction`` at the first write that makes ``text`` complete."""

    def __init__(self, text: str, reaction: Any) -> None:
        super().__init__()
        self.text, self.reaction = text, reaction

    def write(self, text: str) -> int:
        count = super().write(text)
        if self.reaction is not None and self.text in self.getvalue():
            reaction, self.reaction = self.reaction, None
            reaction()
        return count


def wait_for(path: str, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.path.exists(path):
            return True
        time.sleep(0.005)
    return False


# Output: live, apart, exact


def say_and_wait(name: str, path: str) -> bool:
    print("first", file=getattr(sys, name))
    return wait_for(path)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_output_is_shown_before_the_function_ends(place: Any, name: str, tmp_path: Path) -> None:
    path = tmp_path / "seen"
    sink = Sink("first\n", path.touch)
    stream = {"stdout": "out_stream", "stderr": "err_stream"}[name]
    assert place.python(**{stream: sink}).call(say_and_wait, name, str(path))
    assert sink.getvalue() == "first\n"


def prompt_and_wait(path: str) -> bool:
    print("password: ", end="", flush=True)
    return wait_for(path)


def test_a_line_without_its_end_is_shown_once_flushed(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "seen"
    sink = Sink("password: ", path.touch)
    assert conn_openssh.python(out_stream=sink).call(prompt_and_wait, str(path))


def test_a_line_without_its_end_is_shown_at_the_end_of_the_call(place: Any) -> None:
    assert place.python(hide=True).run(print, "no newline", end="").stdout == "no newline"


def print_both() -> None:
    print("out 1")
    print("err 1", file=sys.stderr)
    print("out 2")
    print("err 2", file=sys.stderr)


def test_stdout_and_stderr_are_apart(place: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = place.python().run(print_both)
    assert (result.stdout, result.stderr) == ("out 1\nout 2\n", "err 1\nerr 2\n")
    assert capsys.readouterr() == ("out 1\nout 2\n", "err 1\nerr 2\n")


def write_slowly(data: bytes) -> None:
    for number in range(len(data)):
        os.write(1, data[number : number + 1])
        time.sleep(0.005)


def test_characters_that_arrive_in_pieces_are_put_together(conn_openssh: Connection) -> None:
    text = "é€😀 ñ naïve\n"
    sink = io.StringIO()
    result = conn_openssh.python(out_stream=sink).run(write_slowly, text.encode())
    assert result.stdout == sink.getvalue() == text


@pytest.mark.parametrize(
    "data", [b"\xff\xfeabc\xc3", b"\x00\x01\x1b[31m\r\n\x80", b"\xf0\x9f\x98"]
)
def test_what_is_no_text_is_shown_with_replacement_characters(
    conn_openssh: Connection, data: bytes
) -> None:
    result = conn_openssh.python(hide=True).run(os.write, 1, data)
    assert result.stdout == data.decode("utf-8", "replace")


def print_a_megabyte(seed: int) -> str:
    source, digest = random.Random(seed), hashlib.sha256()
    for _ in range(16):
        text = "".join(source.choices("aé€😀\n", k=65536))
        digest.update(text.encode())
        sys.stdout.write(text)
    return digest.hexdigest()


def test_a_megabyte_of_output_arrives_unharmed(place: Any) -> None:
    sink = io.StringIO()
    result = place.python(out_stream=sink).run(print_a_megabyte, 7)
    assert hashlib.sha256(result.stdout.encode()).hexdigest() == result.value
    assert sink.getvalue() == result.stdout


def run_child() -> int:
    print("before")
    code = subprocess.run(["sh", "-c", "echo child; echo oops >&2; exit 4"]).returncode
    print("after")
    return code


def test_child_processes_print_where_the_function_does(place: Any) -> None:
    result = place.python(hide=True).run(run_child)
    assert (result.stdout, result.stderr) == ("before\nchild\nafter\n", "oops\n")
    assert result.value == 4


def child_reads_stdin() -> bytes:
    return subprocess.run(["cat"], stdout=subprocess.PIPE).stdout


def test_child_processes_read_the_functions_stdin(conn_openssh: Connection) -> None:
    assert conn_openssh.call(child_reads_stdin) == b""
    given = io.BytesIO(b"abc")
    assert conn_openssh.python(in_stream=given).call(child_reads_stdin) == b"abc"


def print_from_c() -> None:
    libc = ctypes.CDLL(None)
    libc.printf(b"buffered by C %d\n", 42)
    libc.write(2, b"raw\n", 4)
    os.write(1, b"by descriptor\n")


def test_c_code_prints_where_the_function_does(conn_openssh: Connection) -> None:
    result = conn_openssh.python(hide=True).run(print_from_c)
    assert sorted(result.stdout.splitlines()) == ["buffered by C 42", "by descriptor"]
    assert result.stderr == "raw\n"


def print_after_the_return() -> str:
    def later() -> None:
        time.sleep(0.2)
        print("from a thread")

    atexit.register(print, "from an exit handler")
    threading.Thread(target=later).start()
    return "returned"


def test_threads_and_exit_handlers_print_after_the_return(place: Any) -> None:
    result = place.python(hide=True).run(print_after_the_return)
    assert result.value == "returned"
    assert result.stdout == "from a thread\nfrom an exit handler\n"


def fail_in_an_exit_handler() -> int:
    atexit.register(lambda: 1 // 0)
    return 5


def test_an_exit_handler_that_fails_says_so_and_leaves_the_value(conn_openssh: Connection) -> None:
    result = conn_openssh.python(hide=True).run(fail_in_an_exit_handler)
    assert result.value == 5
    assert "ZeroDivisionError" in result.stderr


def print_lines(count: int) -> None:
    for number in range(count):
        print("line", number)


def test_all_output_has_been_shown_when_call_returns(place: Any) -> None:
    expected = "".join(f"line {number}\n" for number in range(200))
    for _ in range(20):
        sink = io.StringIO()
        place.python(out_stream=sink).call(print_lines, 200)
        assert sink.getvalue() == expected


def print_and_raise() -> None:
    print("so far")
    raise KeyError("then")


def test_output_before_an_exception_is_shown(conn_openssh: Connection) -> None:
    sink = io.StringIO()
    with pytest.raises(KeyError, match="then"):
        conn_openssh.python(out_stream=sink).call(print_and_raise)
    assert sink.getvalue() == "so far\n"


# The options that say where it goes


@pytest.mark.parametrize(
    ("hide", "out", "err"),
    [
        (None, True, True),
        (False, True, True),
        (True, False, False),
        ("both", False, False),
        ("out", False, True),
        ("stdout", False, True),
        ("err", True, False),
        ("stderr", True, False),
    ],
)
def test_hide_means_what_it_means_in_run(
    conn_openssh: Connection,
    capsys: pytest.CaptureFixture[str],
    hide: Any,
    out: bool,
    err: bool,
) -> None:
    result = conn_openssh.python(hide=hide).run(print_both)
    assert (result.stdout, result.stderr) == ("out 1\nout 2\n", "err 1\nerr 2\n")
    shown = capsys.readouterr()
    assert (bool(shown.out), bool(shown.err)) == (out, err)
    plain = conn_openssh.run("true", hide=hide, in_stream=False)
    assert sorted(result.hide) == sorted(plain.hide)


def test_hide_refuses_what_run_refuses(conn_openssh: Connection) -> None:
    with pytest.raises(ValueError, match="sideways"):
        conn_openssh.python(hide="sideways")


def test_streams_given_are_shown_on_even_if_hidden(
    conn_openssh: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = io.StringIO(), io.StringIO()
    conn_openssh.python(hide=True, out_stream=out, err_stream=err).call(print_both)
    assert (out.getvalue(), err.getvalue()) == ("out 1\nout 2\n", "err 1\nerr 2\n")
    assert capsys.readouterr() == ("", "")


def test_echo_shows_the_call(conn_openssh: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    conn_openssh.python(echo=True).call(max, 3, 4, key=None)
    assert "max(3, 4, key=None)" in capsys.readouterr().out
    conn_openssh.python(echo=True, hide=True).call(max, 3, 4)
    assert capsys.readouterr().out == ""


def test_encoding_is_that_of_the_output(conn_openssh: Connection) -> None:
    py = conn_openssh.python(encoding="latin-1", hide=True)
    assert py.run(print, "é").stdout == "é\n"
    assert py.run(os.write, 1, b"\xe9").stdout == "é"
    assert py.run(print, "é").encoding == "latin-1"


def read_bytes() -> bytes:
    return sys.stdin.buffer.read()


def test_encoding_is_that_of_the_input(conn_openssh: Connection) -> None:
    py = conn_openssh.python(encoding="latin-1", in_stream=io.StringIO("é"))
    assert py.call(read_bytes) == b"\xe9"


class Narrow(io.StringIO):
    """A terminal that can't show everything."""

    encoding = "ascii"

    def write(self, text: str) -> int:
        text.encode("ascii")
        return super().write(text)


def test_what_the_stream_cannot_show_is_escaped(conn_openssh: Connection) -> None:
    sink = Narrow()
    conn_openssh.python(out_stream=sink).call(print, "a é")
    assert sink.getvalue() == "a \\xe9\n"


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("disk full")


def test_a_stream_that_fails_ends_the_call_with_its_error(conn_openssh: Connection) -> None:
    py = conn_openssh.python(out_stream=Broken())
    with pytest.raises(OSError, match="disk full"):
        py.call(print_lines, 10)
    assert conn_openssh.call(max, 1, 2) == 2


# Watchers


def ask(prompt: str) -> str:
    return input(prompt)


def test_a_responder_answers_input(place: Any) -> None:
    watcher = Responder(r"name\? ", "Ada\n")
    py = place.python(watchers=[watcher], hide=True)
    result = py.run(ask, "name? ")
    assert result.value == "Ada"
    assert result.stdout.startswith("name? ")
    assert py.call(ask, "name? ") == "Ada"  # each call is watched from its start


def ask_twice() -> list[str]:
    return [input("one? "), input("two? ")]


def test_responders_answer_each_their_own_question(conn_openssh: Connection) -> None:
    watchers = [Responder(r"one\? ", "1\n"), Responder(r"two\? ", "2\n")]
    assert conn_openssh.python(watchers=watchers, hide=True).call(ask_twice) == ["1", "2"]


def ask_for_a_password() -> None:
    if input("password: ") != "right":
        print("sorry")
        time.sleep(100)


def test_a_failing_responder_is_a_failure(conn_openssh: Connection) -> None:
    watcher = FailingResponder(r"password: ", "wrong\n", r"sorry")
    before = time.monotonic()
    with pytest.raises(invoke.Failure) as caught:
        conn_openssh.python(watchers=[watcher], hide=True).call(ask_for_a_password)
    assert time.monotonic() - before < 40
    assert isinstance(caught.value.reason, ResponseNotAccepted)
    assert isinstance(caught.value.result, Result)
    assert "password: " in caught.value.result.stdout


def test_watchers_do_not_share_what_they_saw_between_threads(conn_openssh: Connection) -> None:
    py = conn_openssh.python(watchers=[Responder(r"name\? ", "Ada\n")], hide=True)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: py.call(ask, "name? "), range(16))) == {"Ada"}


# Input


def read_all() -> str:
    return sys.stdin.read()


def test_stdin_is_at_its_end_by_default(place: Any) -> None:
    assert place.call(read_all) == ""
    with pytest.raises(EOFError):
        place.python(hide=True).call(ask, "? ")


SCRIPT = """
import sys
from fabremote import Connection
host, user, port, key = sys.argv[1:]
keys = {"key_filename": key, "look_for_keys": False, "allow_agent": False}
def read():
    import sys
    return sys.stdin.read()
with Connection(host, user, int(port), connect_kwargs=keys) as c:
    assert c.call(read) == ""
    assert c.python().run(read).value == ""
    assert c.python().submit(read).result() == ""
print(sys.stdin.read(), end="")
"""


def test_the_callers_stdin_is_left_alone(openssh: Server) -> None:
    where = [openssh.hosts[0], openssh.user, str(openssh.port), openssh.key]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *where],
        input="still here\n" * 1000,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == "still here\n" * 1000


def lines_read() -> list[str]:
    return list(sys.stdin)


def test_a_text_stream_is_forwarded(place: Any) -> None:
    text = io.StringIO("one\ntwo é\nthree")
    assert place.python(in_stream=text).call(lines_read) == ["one\n", "two é\n", "three"]


def test_a_binary_stream_is_forwarded(place: Any) -> None:
    data = bytes(range(256))
    assert place.python(in_stream=io.BytesIO(data)).call(read_bytes) == data


@pytest.mark.parametrize("mode", ["r", "rb"])
def test_a_file_is_forwarded(conn_openssh: Connection, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "input"
    path.write_text("é\n" * 100_000, encoding="utf-8")
    with path.open(mode, encoding=None if "b" in mode else "utf-8") as stream:
        assert conn_openssh.python(in_stream=stream).call(read_bytes) == path.read_bytes()


def read_twice() -> list[str]:
    first = sys.stdin.readline()
    print("got it", flush=True)
    return [first, sys.stdin.read()]


def test_a_pipe_is_forwarded_as_it_fills(place: Any) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as source, os.fdopen(write_end, "wb", 0) as target:

        def continue_() -> None:
            target.write(b"two\n")
            target.close()

        target.write(b"one\n")
        py = place.python(in_stream=source, out_stream=Sink("got it", continue_))
        assert py.call(read_twice) == ["one\n", "two\n"]


def test_a_pipe_that_stays_open_does_not_hold_up_the_end(conn_openssh: Connection) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as source, os.fdopen(write_end, "wb", 0) as target:
        target.write(b"one\n")
        py = conn_openssh.python(in_stream=source, timeout=40)
        assert py.call(input) == "one"


def digest_of_stdin() -> tuple[int, str]:
    data = sys.stdin.buffer.read()
    return len(data), hashlib.sha256(data).hexdigest()


def test_five_megabytes_of_input_travel_at_full_speed(place: Any) -> None:
    data = random.Random(5).randbytes(5 << 20)
    place.call(max, 1, 2)
    before = time.monotonic()
    size, digest = place.python(in_stream=io.BytesIO(data)).call(digest_of_stdin)
    assert time.monotonic() - before < 40
    assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest())


def leave_stdin() -> str:
    time.sleep(0.3)
    return "unread"


def close_stdin() -> str:
    os.close(0)
    time.sleep(0.3)
    return "closed"


@pytest.mark.parametrize("fn", [leave_stdin, close_stdin])
def test_input_that_is_not_read_holds_nothing_up(conn_openssh: Connection, fn: Any) -> None:
    source = io.BytesIO(bytes(64 << 20))
    py = conn_openssh.python(in_stream=source, timeout=40)
    assert py.call(fn) in ("unread", "closed")
    assert source.tell() < 8 << 20  # it wasn't sent for nothing


def test_input_that_is_not_read_leaves_other_calls_alone(conn_openssh: Connection) -> None:
    py = conn_openssh.python(in_stream=io.BytesIO(bytes(64 << 20)))
    waiting = py.submit(leave_stdin)
    assert conn_openssh.python(in_stream=io.BytesIO(b"abc")).call(read_bytes) == b"abc"
    assert waiting.result() == "unread"


# Several calls at once


def speak(number: int) -> int:
    for turn in range(5):
        print(f"{number}:{turn}")
        print(f"{number}!{turn}", file=sys.stderr)
    return number


def test_concurrent_calls_are_never_crossed(place: Any) -> None:
    py = place.python(hide=True)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: py.run(speak, number), range(200)))
    for number, result in enumerate(results):
        assert result.value == number
        assert result.stdout == "".join(f"{number}:{turn}\n" for turn in range(5))
        assert result.stderr == "".join(f"{number}!{turn}\n" for turn in range(5))


def test_submitted_calls_are_never_crossed(conn_openssh: Connection) -> None:
    sinks = [io.StringIO() for _ in range(100)]
    futures = [
        conn_openssh.python(out_stream=sink, hide="err").submit(speak, number)
        for number, sink in enumerate(sinks)
    ]
    for number, (future, sink) in enumerate(zip(futures, sinks, strict=True)):
        assert future.result() == number
        assert sink.getvalue() == "".join(f"{number}:{turn}\n" for turn in range(5))


def flood(size: int, progress: str | None = None) -> int:
    written = 0
    while written < size:
        written += os.write(1, b"x" * 65536)
        if progress is not None:
            with open(progress + ".part", "w") as stream:
                stream.write(str(written))
            os.replace(progress + ".part", progress)
    return written


def flood_until(path: str) -> int:
    written = 0
    while not os.path.exists(path):
        written += os.write(1, b"x" * 65536)
    return written


class Counter(io.StringIO):
    """An output stream that keeps nothing."""

    count = 0

    def write(self, text: str) -> int:
        self.count += len(text)
        return len(text)


def test_a_flood_in_one_call_does_not_hold_up_another(place: Any, tmp_path: Path) -> None:
    counter = Counter()
    py = place.python(out_stream=counter, hide="err")
    with ThreadPoolExecutor(1) as pool:
        flooding = pool.submit(py.call, flood_until, str(tmp_path / "enough"))
        try:
            assert settled(lambda: counter.count)
            before = time.monotonic()
            # The flood would go on for ever, if they waited for it.
            assert [place.call(max, number, 0) for number in range(30)] == [*range(30)]
            assert time.monotonic() - before < 30
            assert not flooding.done()
        finally:
            (tmp_path / "enough").touch()
        assert flooding.result() == counter.count > 1 << 20


class Gate(io.StringIO):
    """An output stream that holds whoever writes to it until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.opened = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.opened.wait(50)
        return len(text)


@pytest.mark.parametrize("way", ["call", "submit"])
def test_a_consumer_that_stands_still_stops_only_its_own_call(
    conn_openssh: Connection, way: str
) -> None:
    gate = Gate()
    py = conn_openssh.python(out_stream=gate)
    with ThreadPoolExecutor(1) as pool:
        begin = py.submit if way == "submit" else lambda *args: pool.submit(py.call, *args)
        held = begin(flood, 8 << 20)
        try:
            assert gate.reached.wait(20)
            assert conn_openssh.call(max, 1, 2) == 2
            assert conn_openssh.python().submit(max, 3, 4).result(timeout=20) == 4
        finally:
            gate.opened.set()
        assert held.result() == 8 << 20


def test_a_slow_consumer_slows_the_writer(place: Any, tmp_path: Path) -> None:
    gate, progress = Gate(), tmp_path / "progress"
    py = place.python(out_stream=gate)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(py.call, flood, 32 << 20, str(progress))
        try:
            assert gate.reached.wait(20)
            assert settled(progress.exists, 20)
            time.sleep(1)
            assert int(progress.read_text()) < 4 << 20
        finally:
            gate.opened.set()
        assert held.result() == 32 << 20


# Result


def greet(name: str, polite: bool = True) -> dict[str, str]:
    print("hello", name)
    print("warning", file=sys.stderr)
    return {"name": name}


def test_run_returns_a_result_of_fabrics_kind(conn_openssh: Connection) -> None:
    result = conn_openssh.python(hide="out", env={"A": "1"}, err_stream=io.StringIO()).run(
        greet, "Ada", polite=False
    )
    assert result.value == {"name": "Ada"}
    assert (result.stdout, result.stderr) == ("hello Ada\n", "warning\n")
    assert result.ok
    assert result
    assert not result.failed
    assert (result.exited, result.return_code) == (0, 0)
    assert result.command == "greet('Ada', polite=False)"
    assert result.connection is conn_openssh
    assert result.hide == ("stdout",)
    assert result.env == {"A": "1"}
    assert result.encoding == "utf-8"
    assert result.pty is False
    assert result.tail("stdout", 1).strip() == "hello Ada"


def test_run_on_this_machine_returns_a_result_too() -> None:
    with wrap(invoke.Context(invoke.Config(overrides=LOCAL))) as context:
        result = context.python(hide=True).run(greet, "Ada")
        assert (result.value, result.stdout) == ({"name": "Ada"}, "hello Ada\n")
