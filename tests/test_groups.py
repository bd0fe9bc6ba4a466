"""Groups: their results, what a person sees of them, their threads, and Ctrl-C."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import invoke
import pytest
from fabric.exceptions import GroupException

from fabremote import Connection, GroupResult, SerialGroup, ThreadingGroup, wrap
from fabremote.connection import Config
from fabremote.demo.server import Server
from fabremote.group_work import max_workers
from fabremote.labels import TERMINAL, Labelled, names_of
from fabremote.live import PACE, View
from tests.conftest import connect
from tests.faults import settled

ROOT = Path(__file__).parent.parent


def connections(server: Server, hosts: list[str]) -> list[Connection]:
    settings = {"user": server.user, "port": server.port}
    return [Connection(host, connect_kwargs=server.connect_kwargs, **settings) for host in hosts]


@pytest.fixture
def group(openssh: Server) -> Iterator[ThreadingGroup]:
    """Three hosts."""
    with ThreadingGroup(*connections(openssh, openssh.hosts)) as made:
        yield made


def address() -> str:
    return os.environ["SSH_CONNECTION"].split()[2]


# Groups


def test_options_bound_once_follow_each_hosts_configuration(
    group: ThreadingGroup, capfd: pytest.CaptureFixture[str]
) -> None:
    bound = group.python(cwd="/tmp")
    assert [*bound.call(os.getcwd).values()] == ["/tmp"] * 3
    group[1].config.run.env = {"GREETING": "hello"}
    group[2].config.run.hide = True
    # A host that takes another's place has a configuration of its own.
    other = Connection(group[0].host, group[0].user, group[0].port)
    other.connect_kwargs = group[0].connect_kwargs
    other.config.run.env = {"GREETING": "good day"}
    group[0].close()
    group[0] = other
    assert [*bound.call(os.getenv, "GREETING").values()] == ["good day", "hello", None]
    assert [*group.call(os.getenv, "GREETING").values()] == ["good day", "hello", None]
    assert [*bound.call(os.getcwd).values()] == ["/tmp"] * 3
    capfd.readouterr()
    bound.call(print, "seen")
    shown = capfd.readouterr().out.splitlines()
    assert sorted(shown) == [f"[{one.host}] seen" for one in group[:2]]


def test_groups_are_of_names_and_connections(openssh: Server) -> None:
    login = {"user": openssh.user, "port": openssh.port, "connect_kwargs": openssh.connect_kwargs}
    given = connect(openssh)
    for kind in (SerialGroup, ThreadingGroup):
        with kind("127.0.0.2", given, wrap(invoke.Context()), **login) as group:
            assert group[1] is given
            found = group.python(hide=True).call(os.getenv, "SSH_CONNECTION")
            assert [str(value).split()[2:3] for value in found.values()] == [
                ["127.0.0.2"],
                [openssh.hosts[0]],
                [],
            ]
            group[2].close()
    with pytest.raises(TypeError, match="host names and connections, and 3 is neither"):
        ThreadingGroup("web1", 3)


def test_a_bad_option_is_no_hosts_fault(group: ThreadingGroup) -> None:
    with pytest.raises(ValueError, match=r"timeout=-1 must be"):
        group.python(timeout=-1)
    with pytest.raises(ValueError, match=r"max_workers=0 must be a whole number above 0"):
        ThreadingGroup("web1", max_workers=0)
    with pytest.raises(TypeError, match="labels='no' must be True or False"):
        ThreadingGroup("web1", labels="no")  # type: ignore[arg-type]


def nap() -> tuple[float, float]:
    begun = time.monotonic()
    time.sleep(0.1)
    return begun, time.monotonic()


def test_max_workers_bounds_the_hosts_at_once(group: ThreadingGroup) -> None:
    group.max_workers = 1
    spans = sorted(group.call(nap).values())
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    config = Config(overrides={"remotely": {"max_workers": "7"}})
    assert max_workers(ThreadingGroup("web1", "web2", config=config)) == 7
    assert 32 <= max_workers(ThreadingGroup("web1")) <= 128
    config = Config(overrides={"remotely": {"max_workers": "many"}})
    with pytest.raises(ValueError, match="max_workers='many' must be"):
        ThreadingGroup("web1", "web2", config=config).call(len, "")


def fail_on_2(what: str) -> str:
    print("working")
    if address() == "127.0.0.2":
        raise KeyError(what)
    return what


def test_a_summary_has_a_line_for_each_host_and_the_failures_last(openssh: Server) -> None:
    hosts = connections(openssh, [*openssh.hosts, openssh.hosts[0]])
    lost = Connection("127.0.0.1", user="nobody", port=1)
    with ThreadingGroup(*hosts, lost) as group:
        with pytest.raises(GroupException) as caught:
            group.python(hide=True).call(fail_on_2, "all\x1b[31m")
        result = caught.value.result
        rows = [line.split() for line in result.summary().splitlines()]
        port = openssh.port
        assert [row[:2] for row in rows[:-1]] == [
            [f"127.0.0.1:{port}#1", "ok"],
            [f"127.0.0.1:{port}#2", "ok"],
            ["127.0.0.3", "ok"],
            ["127.0.0.1:1", "failed"],
            ["127.0.0.2", "failed"],
        ]
        assert rows[0][4:] == [r"'all\x1b[31m'"]
        assert rows[4][4:6] == ["KeyError:", r"'all\x1b[31m'"]
        assert rows[3][4:7] == ["RemoteConnectionRefused:", "No", "SSH"]
        assert rows[-1] == ["3", "ok,", "2", "failed"]
        assert len(result.failed) == 2


def test_a_summary_shows_the_last_lines_of_a_command_that_failed(group: ThreadingGroup) -> None:
    with pytest.raises(GroupException) as caught:
        group.run(
            "for n in 1 2 3 4; do echo line $n >&2; done; exit 3", hide=True, in_stream=False
        )
    lines = caught.value.result.summary().splitlines()
    assert lines[0].endswith("exited 3")
    assert [line.strip() for line in lines[1:4]] == ["line 2", "line 3", "line 4"]
    result = group.run("echo so; echo so it is", hide=True, in_stream=False)
    assert result.summary().count("  so it is\n") == 3
    assert GroupResult([]).summary() == "No hosts."


# Labels


def test_connections_to_one_host_are_told_apart() -> None:
    hosts = ["web1", "web1:2222", "me@web1:2222", "web2", "db", "db"]
    config = Config(overrides={"user": "you"})
    names = names_of(Connection(host, config=config) for host in hosts)
    assert names == ["web1:22", "you@web1:2222", "me@web1:2222", "web2", "db#1", "db#2"]


def labelled(*pieces: str) -> str:
    """What is shown of text that comes in pieces."""
    shown = io.StringIO()
    stream = Labelled(shown, "web1", 0)
    for piece in pieces:
        stream.write(piece)
    stream.end_line()
    return shown.getvalue()


def test_lines_are_shown_whole() -> None:
    assert labelled("a", "b\nc", "", "\n\nd") == "[web1] ab\n[web1] c\n[web1] \n[web1] d\n"
    assert labelled("a\r", "\nb\r\r\n", "c\n") == "[web1] a\n[web1] b\n[web1] c\n"
    # A progress bar.
    assert labelled("\r1 %", "\r2 %", "\r3 %\n") == "[web1] 1 %\n[web1] 2 %\n[web1] 3 %\n"
    assert labelled("\u2028x\x0by\n", "\r") == "[web1] \u2028x\x0by\n"
    assert labelled() == ""
    # One that never ends is shown in pieces, so that it isn't kept.
    endless = labelled(*["x" * 100_000] * 25)
    assert endless.count("x") == 2_500_000
    assert endless.count("\n") == 3


def test_a_label_needs_no_more_of_the_files_encoding_than_its_text() -> None:
    raw = io.BytesIO()
    stream = Labelled(io.TextIOWrapper(raw, "ascii"), "web1", 0)
    stream.write("caf\u00e9\n")
    assert raw.getvalue() == b"[web1] caf\\xe9\n"


def chatter(count: int) -> int:
    for number in range(count):
        sys.stdout.write(f"line {number} ")
        sys.stdout.flush()
        sys.stdout.write("ends\n")
    print("no end", end="", file=sys.stderr)
    return count


def test_each_line_is_labelled_and_whole(
    group: ThreadingGroup, capfd: pytest.CaptureFixture[str]
) -> None:
    result = group.python().run(chatter, 300)
    out, err = capfd.readouterr()
    names = [c.host for c in group]
    for name in names:
        own = [line for line in out.splitlines() if line.startswith(f"[{name}] ")]
        assert own == [f"[{name}] line {number} ends" for number in range(300)]
    assert sorted(err.splitlines()) == sorted(f"[{name}] no end" for name in names)
    plain = "".join(f"line {number} ends\n" for number in range(300))
    assert {(one.stdout, one.stderr) for one in result.values()} == {(plain, "no end")}


@pytest.mark.parametrize("kind", [SerialGroup, ThreadingGroup])
def test_fabrics_own_commands_are_labelled_too(
    openssh: Server, kind: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with kind(*connections(openssh, openssh.hosts[:2])) as group:
        result = group.run("echo out; printf err >&2", in_stream=False)
        assert {(one.stdout, one.stderr) for one in result.values()} == {("out\n", "err")}
        out, err = capfd.readouterr()
        assert sorted(out.splitlines()) == ["[127.0.0.1] out", "[127.0.0.2] out"]
        assert sorted(err.splitlines()) == ["[127.0.0.1] err", "[127.0.0.2] err"]
        group.run("echo out; echo err >&2", hide="out", in_stream=False)
        out, err = capfd.readouterr()
        assert (out, len(err.splitlines())) == ("", 2)


def test_what_is_hidden_or_sent_elsewhere_stays_so(
    group: ThreadingGroup, capfd: pytest.CaptureFixture[str]
) -> None:
    group.python(hide=True).call(chatter, 3)
    file = io.StringIO()
    group.python(out_stream=file, hide="err").call(chatter, 1)
    assert capfd.readouterr() == ("", "")
    assert sorted(file.getvalue().splitlines()) == [f"[{c.host}] line 0 ends" for c in group]
    futures = group.python(hide="out").submit(chatter, 1)
    assert [future.result() for future in futures] == [1, 1, 1]
    out, err = capfd.readouterr()
    assert (out, err.count("] no end\n")) == ("", 3)


def test_one_host_and_those_who_want_none_have_no_labels(
    openssh: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    with ThreadingGroup(*connections(openssh, openssh.hosts[:1])) as group:
        group.call(print, "alone")
    with ThreadingGroup(*connections(openssh, openssh.hosts[:2]), labels=False) as group:
        group.call(print, "plain")
    assert capfd.readouterr().out == "alone\nplain\nplain\n"


# On a terminal

CHILD = """
import sys, time
from fabremote import Connection, RemoteExecutor, ThreadingGroup
port, user, key, what, gate = sys.argv[1:]
login = dict(user=user, port=int(port), connect_kwargs={"key_filename": key, "allow_agent": False})
group = ThreadingGroup("127.0.0.1", "127.0.0.2", "127.0.0.3", **login)

def ask():
    from os import environ, path
    def wait_for(name):
        while not path.exists(gate + name):
            time.sleep(0.01)
    print("asking")
    if environ["SSH_CONNECTION"].split()[2] == "127.0.0.1":
        wait_for("ask")
        sys.stdout.write("Sure? "); sys.stdout.flush()
        wait_for("answer")
        print("yes")

def nap(*ignored):
    import subprocess
    print("begun")
    subprocess.run(["sleep", "600"])

if what == "ask":
    group.call(ask)
elif what == "call":
    group.call(nap)
elif what == "map":
    list(group.map(nap, __import__("itertools").count(), per_host=2))
elif what == "result":
    with RemoteExecutor(group) as executor:
        executor.submit(nap).result()
"""


def child(server: Server, what: str, gate: str = "", **settings: Any) -> subprocess.Popen[bytes]:
    arguments = [str(server.port), server.user, str(server.key), what, gate]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], cwd=ROOT, **settings)


def on_a_terminal(server: Server, folder: Path, *until: bytes, **env: str) -> str:
    """What a terminal gets of ``ask``, which asks last and is answered once all these show."""
    master, slave = pty.openpty()
    surroundings = {**os.environ, "TERM": "xterm", **env}
    ends = {"stdin": slave, "stdout": slave, "stderr": slave}
    process = child(server, "ask", f"{folder}/", env=surroundings, **ends)
    os.close(slave)
    shown = b""
    while True:
        if shown.count(b" asking") >= 3:
            (folder / "ask").touch()
        if all(text in shown for text in until):
            (folder / "answer").touch()
        try:
            piece = os.read(master, 65536)
        except OSError:  # Linux's way to say that nobody has it open any more
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    assert process.wait() == 0, shown
    return shown.decode()


def test_a_terminal_has_colours_and_a_live_view(openssh: Server, tmp_path: Path) -> None:
    pytest.importorskip("rich")
    shown = on_a_terminal(openssh, tmp_path, b"2/3 done", b"Sure? \r\n")
    for number, colour in ((1, 36), (2, 33), (3, 32)):
        assert f"\x1b[0;{colour}m[127.0.0.{number}]\x1b[0m asking\r\n" in shown
    # The prompt shows while it waits, and once more with what became of the line.
    assert re.search(r"\[127\.0\.0\.1\]\x1b\[0m Sure\? \r\n.*Sure\? yes\r\n", shown, re.DOTALL)
    assert re.search(r"2/3 done · 1 running · 0 failed · 0:\d\d", shown)
    assert "running: 127.0.0.1" in shown


def test_no_view_is_drawn_over_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    view = View(["web1"], wanted=True)
    try:
        assert settled(lambda: "0/1 done" in screen.getvalue())
        with TERMINAL.question(screen):
            shown = screen.getvalue()
            # Its last word is that the view is away.
            assert shown.endswith("\x1b[2K")
            Labelled(screen, "web1", 0).write("a line\n")
            view.began(0)
            time.sleep(3 * PACE)
            asked = screen.getvalue()
        assert asked.removeprefix(shown).endswith(" a line\n")
        assert settled(lambda: "1 running" in screen.getvalue().removeprefix(asked))
    finally:
        view.close()


def test_no_color_and_progress_off_are_respected(openssh: Server, tmp_path: Path) -> None:
    off = {"NO_COLOR": "1", "FABRIC_REMOTELY_LIVE": "0"}
    shown = on_a_terminal(openssh, tmp_path, b"Sure? ", **off)
    assert "\x1b" not in shown
    lines = shown.split("\r\n")
    # The prompt's line is completed where it is.
    assert sorted(lines) == [
        "",
        "[127.0.0.1] Sure? yes",
        *[f"[127.0.0.{number}] asking" for number in (1, 2, 3)],
    ]


# Ctrl-C


def leave_or_stay() -> None:
    if address() == "127.0.0.1":
        raise asyncio.CancelledError
    time.sleep(600)


def test_what_is_no_hosts_failure_ends_the_group_at_once(group: ThreadingGroup) -> None:
    with pytest.raises(asyncio.CancelledError):
        group.call(leave_or_stay)


@pytest.mark.parametrize(("what", "count"), [("call", 3), ("map", 6), ("result", 1)])
def test_ctrl_c_ends_all_that_runs_there(openssh: Server, what: str, count: int) -> None:
    def naps() -> list[int]:
        return [one.pid for one in openssh.processes() if "sleep 600" in one.command]

    with child(openssh, what, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert settled(lambda: len(naps()) == count)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert err.endswith(b"KeyboardInterrupt\n")
    assert err.count(b"Traceback") <= 2, err
    assert settled(lambda: naps() == [])
