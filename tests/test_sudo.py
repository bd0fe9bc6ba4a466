"""Functions that run under sudo, against the real one."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import re
import select
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import invoke
import pytest
from invoke.exceptions import AuthFailure

from fabremote import (
    Connection,
    RemoteAuthFailure,
    RemoteException,
    RemoteInterpreterMissing,
    RemoteSudoRefused,
    RemoteTimeout,
    ThreadingGroup,
    remotely,
    wrap,
)
from fabremote.connection import Config
from tests.conftest import SERVERS
from tests.sudo_users import PASSWORD, SudoHost, sudo_host

PATIENCE = 20.0


@pytest.fixture(scope="module")
def host() -> Iterator[SudoHost]:
    with sudo_host() as made:
        SERVERS.append(made.server)
        yield made
        SERVERS.remove(made.server)


@pytest.fixture(autouse=True)
def nothing_left(host: SudoHost) -> Iterator[None]:
    """No process of the user whom functions run as outlives a test."""
    yield
    deadline = time.monotonic() + PATIENCE
    while left := host.processes_of("target"):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def me() -> tuple[str, str]:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name, os.environ["HOME"]


def test_a_function_runs_as_root_or_as_the_user_named(host: SudoHost) -> None:
    target = host.users["target"]
    with host.connection("free") as c:
        assert c.python(sudo=True).call(me) == ("root", "/root")
        assert c.python(sudo=True, user=target).call(me) == (target, f"/home/{target}")
        assert c.python(sudo=target).call(me)[0] == target
        assert c.call(me)[0] == host.users["free"]


def test_the_password_given_is_what_sudo_gets(host: SudoHost) -> None:
    with host.connection("asks") as c:
        py = c.python(sudo=True, user=host.users["target"], password=PASSWORD)
        assert py.call(me)[0] == host.users["target"]
        assert py.call(len, b"x" * 3_000_000) == 3_000_000
        assert py.call(bytes, range(256)) == bytes(range(256))
        assert "Wurst" not in repr(py)


def test_fabrics_sudo_settings_are_the_defaults(host: SudoHost) -> None:
    with host.connection("asks") as c:
        c.config.load_overrides(
            {"sudo": {"user": host.users["target"], "password": PASSWORD, "prompt": "Well? "}}
        )
        assert c.python(sudo=True).call(me)[0] == host.users["target"]
        with pytest.raises(AuthFailure) as caught:
            c.python(sudo=True, user=host.users["target"], password="no", python="python3").call(
                me
            )
        assert caught.value.prompt == "Well? "
        assert caught.value.result.connection is c
        assert "sudo" in caught.value.result.command


def test_a_setting_has_all_calls_run_under_sudo(host: SudoHost) -> None:
    target, login = host.users["target"], host.users["free"]
    with host.connection("free", config=Config(overrides={"remotely": {"sudo": True}})) as c:
        assert c.call(me)[0] == "root"
        assert c.python(user=target).call(me)[0] == target
        assert c.python(sudo=False).call(me)[0] == login
        assert c.python(sudo=None).call(me)[0] == login
        c.config.remotely.sudo = target
        assert c.call(me)[0] == target
        assert c.python(sudo=True).call(me)[0] == c.python(user="root").call(me)[0] == "root"
        c.config.remotely.hosts = {c.original_host: {"sudo": False}}
        assert c.call(me)[0] == login
        with pytest.raises(TypeError, match="user= is sudo's"):
            c.python(user=target)
    with host.connection("asks", config=Config(overrides={"remotely": {"sudo": target}})) as c:
        assert c.python(password=PASSWORD).call(me)[0] == target


@pytest.mark.parametrize("text", ["yes", "no", "target"])
def test_the_environment_says_whether_and_for_whom(
    host: SudoHost, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("FABRIC_REMOTELY_SUDO", host.users.get(text, text))
    expected = {"yes": "root", "no": host.users["free"], "target": host.users["target"]}[text]
    # Invoke takes a variable for true or false where a file has one.
    for below in (None, True, False):
        config = Config()
        config.load_collection({"remotely": {"sudo": below}})
        with host.connection("free", config=config) as c:
            assert c.call(me)[0] == expected


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ("on", ValueError, "remotely.sudo='on' must be true, false or a user's name"),
        (1000, ValueError, "remotely.sudo=1000 must be true, false or a user's name"),
        (["a"], ValueError, "remotely.sudo=['a'] must be"),
        ("a b", ValueError, "The configuration's remotely.sudo: sudo='a b' must be"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(
    value: object, error: type[Exception], text: str
) -> None:
    config = Config(overrides={"remotely": {"sudo": value}})
    with pytest.raises(error, match=re.escape(text)):
        Connection("nowhere.invalid", config=config).python(user="b").call(me)


@pytest.mark.parametrize("role", ["tty", "once"])
def test_where_sudo_wants_a_terminal_it_gets_one_and_the_function_none(
    host: SudoHost, role: str
) -> None:
    with host.connection(role) as c:
        py = c.python(sudo=host.users["target"], password=PASSWORD)
        assert py.call(me)[0] == host.users["target"]
        assert py.call(bytes, range(256)) == bytes(range(256))
        assert not py.call(os.isatty, 1)
        future = py.submit(time.sleep, 600)
        wait_for(lambda: len(host.processes_of("target")) > 3)
        future.cancel()


@pytest.mark.parametrize("role", ["tty", "once"])
def test_a_wrong_password_is_an_auth_failure(host: SudoHost, role: str) -> None:
    with host.connection(role) as c:
        with pytest.raises(RemoteAuthFailure, match=f"password of {host.users[role]}") as caught:
            c.python(sudo=True, password="wrong").call(me)
        assert isinstance(caught.value, AuthFailure)
        assert "wrong" not in f"{caught.value} {caught.value!r} {caught.value.result}"


def test_who_may_not_is_told_what_sudo_says(host: SudoHost) -> None:
    with host.connection("none") as c:
        with pytest.raises(RemoteSudoRefused, match=r"as root.*not in the sudoers") as caught:
            c.python(sudo=True, password=PASSWORD).call(me)
        assert not isinstance(caught.value, AuthFailure)
    refused = pytest.raises(RemoteSudoRefused, match=r"not allowed to execute '\S*/sh' as root")
    with host.connection("asks") as c, refused:
        c.python(sudo=True, password=PASSWORD).call(me)
    with host.connection("free") as c, pytest.raises(RemoteSudoRefused, match=r"nobodies"):
        c.python(sudo=True, user="nobodies").call(me)


def test_without_a_terminal_nobody_is_asked(
    host: SudoHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull) as null, host.connection("asks") as c:
        monkeypatch.setattr(sys, "stdin", null)
        with pytest.raises(RemoteSudoRefused, match=r"Give password=, set sudo\.password"):
            c.python(sudo=host.users["target"]).call(me)


def test_the_password_is_nowhere_to_be_seen(
    host: SudoHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = PASSWORD.encode()[2:-2]
    with host.connection("asks") as c:
        py = c.python(sudo=host.users["target"], password=PASSWORD)
        future = py.submit(time.sleep, 600)
        wait_for(lambda: len(host.processes_of("target")) > 3)
        shown = []
        for path in (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")):
            with contextlib.suppress(OSError):
                shown.append(path.read_bytes())
        future.cancel()
    assert any(b"sudo" in text for text in shown)
    assert not any(secret in text for text in shown)
    assert secret.decode() not in caplog.text
    assert secret not in host.server.log.read_bytes()


def test_env_cwd_and_prefix_are_the_functions_own(host: SudoHost) -> None:
    def look() -> tuple[str, str | None, bool]:
        return os.getcwd(), os.environ.get("STAGE"), "SSH_CONNECTION" in os.environ

    target = host.users["target"]
    with host.connection("free") as c, c.cd("~"), c.prefix("export STAGE=early; id -un >&2"):
        py = c.python(sudo=target)
        assert py.call(look) == (f"/home/{target}", "early", False)
        assert c.python(sudo=target, env={"STAGE": "test"}).call(look)[1] == "test"
        assert c.python(sudo=target, cwd="/tmp").call(look)[0] == "/tmp"


def test_what_runs_as_another_user_is_killed(host: SudoHost) -> None:
    def spawn() -> None:
        import subprocess

        subprocess.Popen(["sleep", "600"])
        time.sleep(600)

    target = host.users["target"]
    for role in ("asks", "free"):
        c = host.connection(role)
        py = c.python(sudo=target, password=PASSWORD)
        with pytest.raises(RemoteTimeout):
            c.python(sudo=target, password=PASSWORD, timeout=0.5).call(spawn)
        wait_for(lambda: not any("600" in text for text in host.processes_of("target")))
        future = py.submit(spawn)
        wait_for(lambda: any("600" in text for text in host.processes_of("target")))
        c.close()
        with pytest.raises(RemoteException):
            future.result()
        wait_for(lambda: not host.processes_of("target"))


def test_a_lost_connection_ends_what_runs_as_another_user(host: SudoHost) -> None:
    c = host.connection("tty")
    c.python(sudo=host.users["target"], password=PASSWORD).submit(time.sleep, 600)
    wait_for(lambda: len(host.processes_of("target")) > 3)
    c.transport.sock.close()
    wait_for(lambda: not host.processes_of("target"))
    c.close()


def test_an_interpreter_that_says_nothing_is_killed(host: SudoHost) -> None:
    silent = host.server.directory / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 600\n")
    silent.chmod(0o755)
    with host.connection("asks") as c:
        options = {"sudo": host.users["target"], "password": PASSWORD, "start_timeout": 4}
        with pytest.raises(RemoteInterpreterMissing, match="did not start within 4 seconds"):
            c.python(python=silent, **options).call(me)  # type: ignore[arg-type]
        wait_for(lambda: not host.processes_of("target"))


def test_each_user_has_an_agent_of_its_own_and_keeps_it(host: SudoHost) -> None:
    target = host.users["target"]
    with host.connection("free") as c:
        first = c.python(sudo=target).call(os.getppid)
        assert c.python(sudo=True, user=target, timeout=30).call(os.getppid) == first
        assert c.python(sudo=True).call(os.getppid) != first


def test_a_group_and_a_plain_context_take_it_too(host: SudoHost) -> None:
    target = host.users["target"]
    hosts = [host.connection("asks"), host.connection("tty")]
    with ThreadingGroup.from_connections(hosts) as group:
        found = group.python(sudo=target, password=PASSWORD).call(me)
        assert [name for name, _ in found.values()] == [target, target]
    with wrap(invoke.Context()) as here:
        assert here.python(sudo=target).call(me) == (target, f"/home/{target}")


def test_decorated_functions_name_the_user(host: SudoHost) -> None:
    server = host.server

    @remotely(
        server.hosts[0],
        user=host.users["free"],
        port=server.port,
        key=server.key,
        sudo=host.users["target"],
        ssh_options={"StrictHostKeyChecking": False, "UserKnownHostsFile": "/dev/null"},
        quiet=True,
    )
    def who() -> str:
        return me()[0]

    assert who() == host.users["target"]
    who.close()


SCRIPT = """
import sys
from fabremote import Connection, ThreadingGroup
target, login, port, key = sys.argv[1:]
kwargs = {"key_filename": key, "look_for_keys": False, "allow_agent": False}
names = ["127.0.0.1", "127.0.0.2"]
with ThreadingGroup(*names, user=login, port=int(port), connect_kwargs=kwargs) as group:
    for value in group.python(sudo=target).call(__import__("getpass").getuser).values():
        print("ran as", value)
"""


ASYNCHRONOUS = """
import asyncio, sys, termios, time
from fabremote import Connection
target, login, port, key = sys.argv[1:]
kwargs = {"key_filename": key, "look_for_keys": False, "allow_agent": False}
c = Connection("127.0.0.1", user=login, port=int(port), connect_kwargs=kwargs)

async def main():
    await asyncio.wait_for(c.python(sudo=target).acall(abs, -1), TIMEOUT)

try:
    asyncio.run(main())
except asyncio.TimeoutError:
    time.sleep(1)
    print("shows what is typed:", bool(termios.tcgetattr(0)[3] & termios.ECHO))
    c.close()
"""


class Program:
    """The script above, or another, run on a terminal of its own."""

    def __init__(self, host: SudoHost, script: str = SCRIPT) -> None:
        self.login, server = host.users["asks"], host.server
        names = host.users["target"], self.login, str(server.port), server.key
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            os.execv(sys.executable, [sys.executable, "-c", script, *names])

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)

    def asked(self) -> str:
        """Return what is shown up to the question."""
        return read_until(self.terminal, f"password of {self.login}: ")


def test_a_person_at_a_terminal_is_asked_once_for_all_hosts(host: SudoHost) -> None:
    with Program(host) as program:
        shown = program.asked()
        os.write(program.terminal, PASSWORD.encode() + b"\n")
        shown += read_until(program.terminal, None)
    assert shown.count(f"ran as {host.users['target']}") == 2, shown
    assert shown.count("password of") == 1
    assert "Wurst" not in shown


def test_ctrl_c_at_the_question_ends_the_group(host: SudoHost) -> None:
    with Program(host) as program:
        program.asked()
        os.write(program.terminal, b"\x03")
        # To the program's end, for which nothing more is typed.
        assert "KeyboardInterrupt" in read_until(program.terminal, None)


def test_ctrl_c_at_the_question_of_asyncios_leaves_the_terminal_as_it_was(host: SudoHost) -> None:
    with Program(host, ASYNCHRONOUS.replace("TIMEOUT", "60")) as program:
        program.asked()
        assert not termios.tcgetattr(program.terminal)[3] & termios.ECHO
        os.write(program.terminal, b"\x03")
        assert "KeyboardInterrupt" in read_until(program.terminal, None)
        assert termios.tcgetattr(program.terminal)[3] & termios.ECHO


def test_a_call_of_asyncios_that_is_given_up_asks_no_more(host: SudoHost) -> None:
    with Program(host, ASYNCHRONOUS.replace("TIMEOUT", "8")) as program:
        program.asked()
        assert "shows what is typed: True" in read_until(program.terminal, None)


def test_no_answer_is_no_password(host: SudoHost) -> None:
    shown = [""]
    with Program(host) as program:
        # The second host may ask later, but not once more.
        while f"password of {program.login}: " in (part := program.asked()):
            shown.append(part)
            os.write(program.terminal, b"\x04")
    assert "GroupException" in part
    assert len(shown) in (2, 3)


def read_until(terminal: int, text: str | None) -> str:
    """Read from a terminal until a text, or the end."""
    shown, deadline = "", time.monotonic() + 2 * PATIENCE
    while text is None or text not in shown:
        rest = max(0, deadline - time.monotonic())
        assert select.select([terminal], [], [], rest)[0], shown
        try:
            piece = os.read(terminal, 1024)
        except OSError:  # how a terminal ends
            piece = b""
        if not piece:
            break
        shown += piece.decode()
    return shown


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"user": "postgres"}, TypeError, "user= is sudo's, and needs sudo=True"),
        ({"password": "x"}, TypeError, "password= is sudo's, and needs sudo=True"),
        ({"sudo": 3}, TypeError, "sudo=3 must be"),
        ({"sudo": "-x"}, ValueError, "sudo='-x' must be True, False, the name of a user"),
        ({"sudo": True, "user": "-x"}, ValueError, "user='-x' must be"),
        ({"sudo": "a", "user": "b"}, ValueError, "contradict"),
        ({"sudo": True, "password": "a\nb"}, TypeError, "one line"),
    ],
)
def test_what_means_nothing_is_refused_at_once(
    options: dict[str, object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(text)) as caught:
        Connection("nowhere.invalid").python(**options)  # type: ignore[misc]
    assert "a\nb" not in str(caught.value)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
