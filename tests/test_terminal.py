"""``pty=True``: a terminal there, and this side's own while a call uses it."""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import invoke
import pytest
from invoke import Responder

from fabremote import Connection, RemoteProcessDied, wrap
from fabremote.demo.server import Server
from tests import interpreters
from tests.conftest import connect
from tests.terminals import Terminal

LOCAL = {"remotely": {"python": sys.executable}}
VERSIONS = [version for version in interpreters.found() if version != "2.7"]


@pytest.fixture(scope="session", params=["openssh", "local"])
def ground(request: pytest.FixtureRequest) -> Server | None:
    """A server, started before anything is counted, or None for this machine."""
    return None if request.param == "local" else request.getfixturevalue(request.param)


@pytest.fixture
def place(ground: Server | None) -> Iterator[Any]:
    """A host, or this machine."""
    here = wrap(invoke.Context(invoke.Config(overrides=LOCAL)))
    with connect(ground) if ground is not None else here as found:
        yield found


# What the function finds


def look() -> list[Any]:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.system("test -t 0 && test -t 1 && test -t 2 && echo by a child")
    with open("/dev/tty", "w") as tty:
        tty.write("by the terminal's own name\n")
    size = tuple(shutil.get_terminal_size())
    return [size, os.environ["TERM"], sys.stdin.isatty(), os.tcgetpgrp(0) == os.getpgrp()]


def test_the_function_has_a_terminal(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "7")
    result = place.python(pty=True, hide=True).run(look)
    assert result.value == [(80, 24), "xterm-256color", True, True]
    lines = ["to stdout", "to stderr", "by a child", "by the terminal's own name"]
    assert result.stdout == "".join(f"{line}\r\n" for line in lines)
    assert (result.stderr, result.pty) == ("", True)


def look_at_variables() -> list[str | None]:
    return [os.environ.get(name) for name in ("TERM", "COLUMNS")]


def test_variables_given_are_kept(place: Any) -> None:
    env = {"TERM": "dumb", "COLUMNS": "60"}
    assert place.python(pty=True, env=env).call(look_at_variables) == ["dumb", "60"]


def ask() -> list[str]:
    return [input("name? "), getpass.getpass("password: ")]


@pytest.mark.parametrize("version", VERSIONS)
def test_responders_answer_prompts_under_every_version(version: str) -> None:
    python = interpreters.found()[version]
    with wrap(invoke.Context()) as context:
        watchers = [Responder("name", "Ada é\n"), Responder("password", "secret\n")]
        py = context.python(python=python, pty=True, watchers=watchers, hide=True)
        result = py.run(ask)
    assert result.value == ["Ada é", "secret"]
    assert result.stdout.startswith("name? Ada é\r\npassword: ")
    assert "secret" not in result.stdout


def read_all() -> str:
    return sys.stdin.read()


@pytest.mark.parametrize("text", ["one\ntwo\n", "one\ntwo", ""])
def test_a_file_is_typed_to_its_end(place: Any, text: str) -> None:
    py = place.python(pty=True, hide=True, in_stream=io.StringIO(text))
    assert py.call(read_all) == text


@pytest.mark.parametrize("given", [None, False])
def test_without_a_keyboard_stdin_is_at_its_end(place: Any, given: Any) -> None:
    with pytest.raises(EOFError):
        place.python(pty=True, hide=True, in_stream=given).call(input, "? ")
    with pytest.raises(EOFError):
        place.python(pty=True, hide=True).submit(input, "? ").result()


def print_much() -> None:
    for number in range(20_000):
        print("line", number)


def test_all_that_is_printed_arrives(place: Any) -> None:
    expected = "".join(f"line {number}\r\n" for number in range(20_000))
    for _ in range(3):
        assert place.python(pty=True, hide=True).run(print_much).stdout == expected


def hold_the_lock() -> int:
    child = subprocess.Popen(["sh", "-c", "echo ready; read answer; echo got $answer"])
    # Not by subprocess, which lets other threads run meanwhile.
    ctypes.PyDLL(None).waitpid(child.pid, None, 0)
    return child.pid


def test_the_terminal_works_while_the_function_holds_the_interpreters_lock(place: Any) -> None:
    watchers = [Responder("ready", "typed\n")]
    result = place.python(pty=True, hide=True, watchers=watchers).run(hold_the_lock)
    assert result.stdout.endswith("got typed\r\n")


def print_and_die() -> None:
    print("last words", flush=True)
    os._exit(3)


def test_a_process_that_dies_tells_what_it_printed_last(place: Any) -> None:
    with pytest.raises(RemoteProcessDied, match=r"status 3.*output: last words") as caught:
        place.python(pty=True, hide=True).call(print_and_die)
    assert caught.value.stderr == "last words\r\n"


def test_pty_is_fabrics_setting(openssh: Server) -> None:
    config = invoke.Config(overrides={"run": {"pty": True}})
    with wrap(invoke.Context(config)) as context:
        assert context.call(os.isatty, 0)
        assert not context.python(pty=False).call(os.isatty, 0)


# One for the calls of a block


def own_terminal() -> list[Any]:
    return [os.getpid(), os.ttyname(0), os.isatty(1), os.environ["TERM"]]


def test_the_calls_of_a_block_share_a_terminal(place: Any) -> None:
    with place.python(pty=True, hide=True, env={"TERM": "dumb"}) as py:
        first = py.call(own_terminal)
        assert first[2:] == [True, "dumb"]
        for text in ("one", "two"):
            result = py.run(print, text)
            # Each call's output is its own, and all of it is there.
            assert (result.stdout, result.pty) == (f"{text}\r\n", True)
        assert py.run(print_much).stdout.count("\r\n") == 20_000
        assert py.call(own_terminal) == first
        assert [py.submit(own_terminal).result() for _ in range(2)] == [first, first]
    with pytest.raises(ProcessLookupError):
        os.kill(first[0], 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_responders_answer_the_calls_of_a_block(version: str) -> None:
    python = interpreters.found()[version]
    watchers = [Responder("name", "Ada é\n"), Responder("password", "secret\n")]
    with (
        wrap(invoke.Context()) as context,
        context.python(python=python, pty=True, watchers=watchers, hide=True) as py,
    ):
        assert [py.call(ask) for _ in range(2)] == [["Ada é", "secret"]] * 2


def ask_for_one() -> str:
    try:
        return input("? ")
    except EOFError:
        return "the end"


def test_each_call_of_a_block_reads_what_is_typed_to_it(place: Any) -> None:
    with place.python(pty=True, hide=True) as py:
        # That nobody types is told to each, also where the one before didn't read it.
        py.call(print)
        futures = [py.submit(fn) for fn in (print, ask_for_one, print, read_all, ask_for_one)]
        assert [future.result() for future in futures] == [None, "the end", None, "", "the end"]


def test_a_file_is_typed_to_the_calls_of_a_block(place: Any) -> None:
    with place.python(pty=True, hide=True, in_stream=io.StringIO("1\n2\n3\n")) as py:
        assert [py.call(ask_for_one) for _ in range(2)] == ["1", "2"]
        assert py.call(read_all) == "3\n"


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_an_interrupt_ends_the_call_that_runs_and_not_the_block(place: Any) -> None:
    with place.python(pty=True, hide=True) as py:
        pid = py.call(os.getpid)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                py.call(os.kill, pid, signal.SIGINT)
            # Late, when the call has ended.
            os.kill(pid, signal.SIGINT)
            assert py.call(os.getpid) == pid
        py.call(ignore_interrupts)
        py.call(os.kill, pid, signal.SIGINT)


def test_a_call_beside_one_with_a_terminal_has_none(place: Any) -> None:
    py = place.python(pty=True, watchers=[Responder("name", "A\n")], hide=True)
    with_terminal = [py.submit(input, "name? ") for _ in range(5)]
    assert not place.call(os.isatty, 0)
    assert {future.result() for future in with_terminal} == {"A"}


WITHOUT = """#!/bin/sh
exec unshare -m sh -c 'mount -t tmpfs none /dev/pts && exec {python} "$@"' sh "$@"
"""


def test_a_host_without_terminals_says_so(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text(WITHOUT.format(python=sys.executable))
    script.chmod(0o755)
    try:
        subprocess.run([script, "-c", ""], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file systems can be mounted here")
    with wrap(invoke.Context()) as context:
        py = context.python(python=str(script), pty=True)
        with pytest.raises(OSError, match="the host has no terminal for pty=True"):
            py.call(look)
        with py:
            for _ in range(2):
                with pytest.raises(OSError, match="the host has no terminal for pty=True"):
                    py.call(look)
        assert context.python(python=str(script)).call(max, 1, 2) == 2


# A local terminal

SCRIPT = """
import os, select, signal, sys, time
import invoke
from fabremote import Connection, RemoteTimeout, wrap


def talk():
    # Not by print, amid whose own writing the signal may come.
    signal.signal(
        signal.SIGWINCH, lambda *_: os.write(1, b"now %d %d\\n" % (*os.get_terminal_size(),))
    )
    print("first", *os.get_terminal_size(), os.environ["TERM"])
    print("hello", input("name? "))
    try:
        sleep()
    except KeyboardInterrupt:
        print("interrupted")
    try:
        input("more? ")
    except EOFError:
        print("the end")


def sleep():
    print("sleeping")
    # A signal that comes just before a long sleep begins is handled after it.
    for _ in range(6000):
        time.sleep(0.01)


def leave_unread():
    print("unread?")
    select.select([0], [], [])


def ask(before):
    print(before, input("name? "))
    return os.getpid()


def await_size():
    sizes = []
    signal.signal(signal.SIGWINCH, lambda *_: sizes.append(os.get_terminal_size()))
    print("size?")
    while not sizes:
        time.sleep(0.01)
    print("now", *sizes[0])


def block(py):
    with py:
        py.call(await_size)
        pid = py.call(ask, "one")
        print("between", input("here? "))
        try:
            py.call(sleep)
        except KeyboardInterrupt:
            print("interrupted")
        # What is left unread, an end of file and a line, is not the next call's.
        py.submit(print).result()
        py.call(leave_unread)
        assert py.call(ask, "two") == pid
        assert py.call(debug, 21) == 77


def debug(number):
    twice = 2 * number
    import pdb; pdb.set_trace()
    return twice


def read():
    return sys.stdin.read()


def then(action):
    try:
        action()
    except (KeyboardInterrupt, RemoteTimeout) as error:
        print("raised", type(error).__name__, error.__cause__ is not None)
    print("then", input("what? "))


def place():
    if len(sys.argv) == 2:
        return wrap(invoke.Context())
    host, user, port, key = sys.argv[2:]
    keys = {"key_filename": key, "look_for_keys": False, "allow_agent": False}
    return Connection(host, user, int(port), connect_kwargs=keys)


with place() as c:
    py = c.python(pty=True)
    what, _, python = sys.argv[1].partition("=")
    if what == "debug":
        print(c.python(pty=True, python=python).call(debug, 21))
    elif what == "timeout":
        then(lambda: c.python(pty=True, timeout=1).call(sleep))
    elif what == "block":
        block(c.python(pty=True))
    elif what == "plain":
        print(repr(c.python(in_stream=sys.stdin).call(read)))
    else:
        then(lambda: py.call({"talk": talk, "sleep": sleep}[what]))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(params=["openssh", "local"])
def where(request: pytest.FixtureRequest) -> list[str]:
    """The words by which the script is told its host, if that isn't this machine."""
    if request.param == "local":
        return []
    server: Server = request.getfixturevalue(request.param)
    return [server.hosts[0], server.user, str(server.port), server.key]


def test_a_user_types_to_the_function(script: Path, where: list[str]) -> None:
    with Terminal(script, "talk", *where, size=(30, 100)) as terminal:
        terminal.expect("first 100 30 dumb")
        terminal.expect("name? ")
        assert terminal.raw
        terminal.type("Adé\x7fa\r")
        # Each key is echoed once, and the one deleted was a whole character.
        assert terminal.expect("sleeping").startswith("Adé\b \ba\r")
        terminal.resize(40, 120)
        terminal.expect("now 120 40")
        terminal.type("\x03")
        terminal.expect("interrupted")
        terminal.expect("more? ")
        terminal.type("\x04")
        terminal.expect("the end")
        terminal.expect("what? ")
        assert terminal.restored
        terminal.type("this\n")
        assert terminal.end() == 0
        assert terminal.rest().endswith("then this\r\n")


def test_a_user_types_to_each_call_of_a_block(script: Path, where: list[str]) -> None:
    with Terminal(script, "block", *where) as terminal:
        terminal.expect("size?")
        assert terminal.raw
        terminal.resize(40, 120)
        terminal.expect("now 120 40")
        terminal.expect("name? ")
        terminal.type("Ada\r")
        terminal.expect("one Ada")
        # Between its calls the terminal is this program's.
        terminal.expect("here? ")
        assert terminal.restored
        terminal.type("me\n")
        terminal.expect("between me")
        terminal.expect("sleeping")
        terminal.type("\x03")
        terminal.expect("interrupted")
        terminal.expect("unread?")
        terminal.type("lost\r")
        terminal.expect("name? ")
        terminal.type("Bob\r")
        terminal.expect("two Bob")
        terminal.expect("(Pdb) ")
        terminal.type("twice = 77\r")
        terminal.expect("(Pdb) ")
        terminal.type("continue\r")
        assert terminal.end() == 0
        assert terminal.restored


@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_the_debugger_is_used_as_if_it_were_here(script: Path, version: str) -> None:
    python = interpreters.found()[version]
    with Terminal(script, f"debug={python}") as terminal:
        terminal.expect("(Pdb) ")
        terminal.type("p twice\r")
        assert "42" in terminal.expect("(Pdb) ")
        terminal.type("list\r")
        assert "import pdb; pdb.set_trace()" in terminal.expect("(Pdb) ")
        terminal.type("twice = 77\r")
        terminal.expect("(Pdb) ")
        terminal.type("continue\r")
        assert terminal.end() == 0
        assert terminal.rest().endswith("\r\n77\r\n")
        assert terminal.restored


@pytest.mark.parametrize(
    ("what", "raised"),
    [
        ("typed", "KeyboardInterrupt True"),  # the function's
        ("sent", "KeyboardInterrupt False"),  # this process's own
        ("timeout", "RemoteTimeout False"),
    ],
)
def test_the_terminal_is_restored_whatever_ends_the_call(
    script: Path, what: str, raised: str
) -> None:
    with Terminal(script, "timeout" if what == "timeout" else "sleep") as terminal:
        if what != "timeout":
            terminal.expect("sleeping")
        if what == "typed":
            terminal.type("\x03")
        elif what == "sent":
            os.kill(terminal.pid, signal.SIGINT)
        terminal.expect(f"raised {raised}")
        terminal.expect("what? ")
        assert terminal.restored
        terminal.type("\n")
        assert terminal.end() == 0


def test_a_terminal_given_as_in_stream_is_read_by_the_line(script: Path) -> None:
    with Terminal(script, "plain") as terminal:
        terminal.type("one\ntwo\n\x04")
        terminal.expect(repr("one\ntwo\n"))
        assert terminal.end() == 0
        assert terminal.restored


# Streams that can't be read


class Failing(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError("the disk is gone")


class Odd(io.BytesIO):
    def read(self, size: int | None = -1, /) -> Any:
        return 5


@pytest.mark.parametrize(
    ("stream", "error", "text"),
    [(Failing(), OSError, "the disk is gone"), (Odd(), TypeError, "gave int when it was read")],
)
@pytest.mark.parametrize("pty", [False, True])
def test_a_stream_that_fails_ends_the_call(
    conn_openssh: Connection, stream: Any, error: type[Exception], text: str, pty: bool
) -> None:
    with pytest.raises(error, match=text):
        conn_openssh.python(in_stream=stream, pty=pty).call(read_all)
    with pytest.raises(error, match=text):
        conn_openssh.python(in_stream=stream, pty=pty).submit(read_all).result()
    assert conn_openssh.call(max, 1, 2) == 2


def test_a_stream_closed_meanwhile_ends_the_call(conn_openssh: Connection) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb", 0):
        text = io.StringIO("é")
        py = conn_openssh.python(in_stream=text)
        text.close()
        with pytest.raises(ValueError, match="closed"):
            py.call(read_all)


def test_text_that_the_encoding_lacks_ends_the_call(conn_openssh: Connection) -> None:
    py = conn_openssh.python(in_stream=io.StringIO("snow \u2603"), encoding="latin-1")
    with pytest.raises(UnicodeEncodeError):
        py.call(read_all)


def test_what_cannot_be_read_is_refused_at_once(tmp_path: Path) -> None:
    with wrap(invoke.Context()) as context:
        with contextlib.closing(io.BytesIO()) as closed:
            pass
        with pytest.raises(ValueError, match="is closed"):
            context.python(in_stream=closed)
        with (tmp_path / "file").open("w") as file, pytest.raises(ValueError, match="for reading"):
            context.python(in_stream=file)
        with pytest.raises(TypeError, match="pty='yes' must be True or False"):
            context.python(pty="yes")
