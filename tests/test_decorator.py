"""`@remotely` and `Remotely`: every argument, every kind of function, on a real sshd."""

from __future__ import annotations

import abc
import collections
import contextlib
import copy
import functools
import gc
import inspect
import io
import logging
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fabric
import invoke
import pytest

from fabremote import (
    Connection,
    RemoteCancelled,
    RemoteConnectionRefused,
    RemoteHostKeyRejected,
    RemoteInterpreterMissing,
    Remotely,
    RemoteTimeout,
    ResultError,
    ShippingError,
    ThreadingGroup,
    UntrustedResult,
    remotely,
)
from fabremote.closing import closer
from fabremote.demo.server import Server, find_sshd
from tests import interpreters, passwords
from tests.conftest import SERVERS, connect
from tests.faults import settled

ROOT = Path(__file__).parent.parent
HERE = "python{}.{}".format(*sys.version_info)
OTHERS = [v for v in interpreters.found() if v not in ("2.7", HERE.removeprefix("python"))]
LAX = {"StrictHostKeyChecking": False, "UserKnownHostsFile": "/dev/null"}
needs_password = pytest.mark.skipif(not passwords.possible(), reason="needs an sshd of root's")


def host_keys(server: Server, *names: str) -> str:
    """A known_hosts file's text with the server's own keys, under these names."""
    text = ""
    for file in sorted(server.directory.glob("host_*.pub")):
        kind, blob = file.read_text().split()[:2]
        text += "".join(f"[{name}]:{server.port} {kind} {blob}\n" for name in names)
    return text


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openssh: Server) -> Path:
    """A HOME whose known_hosts has the server's key; what is decorated is closed afterwards."""
    path = tmp_path / "home"
    (path / ".ssh").mkdir(parents=True, mode=0o700)
    known = path / ".ssh" / "known_hosts"
    known.write_text(host_keys(openssh, *openssh.hosts, "localhost"))
    monkeypatch.setenv("HOME", str(path))
    return path


@pytest.fixture
def login(home: Path, openssh: Server) -> Iterator[dict[str, Any]]:
    """What logs in to the server, as arguments of the decorator."""
    yield {"port": openssh.port, "user": openssh.user, "key": openssh.key}
    closer.close()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[passwords.PasswordServer]:
    """An sshd that listens on ::1, too, and knows a password where it can."""
    if find_sshd() is None:
        pytest.skip("no sshd on this machine")
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            server = passwords.started(tmp_path_factory.mktemp("secured"), patch)
            stack.enter_context(server)
        SERVERS.append(server)
        stack.callback(SERVERS.remove, server)
        yield server


@pytest.fixture
def trusted(home: Path, secured: passwords.PasswordServer) -> passwords.PasswordServer:
    """The same, its host keys known."""
    with (home / ".ssh" / "known_hosts").open("a") as known:
        known.write(host_keys(secured, *secured.hosts, "::1"))
    return secured


def logins(server: Server) -> int:
    """How many logins the server's log tells of."""
    return (server.directory / "sshd.log").read_text(errors="replace").count("Accepted ")


def where() -> tuple[int, str]:
    """The process, and the address it was connected to."""
    return os.getpid(), os.environ["SSH_CONNECTION"].split()[2]


def double(x: int, /, *, plus: int = 0) -> int:
    """Return twice ``x``."""
    return 2 * x + plus


def pid() -> int:
    return os.getpid()


# Where: arguments of the connection


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "127.0.0.2"])
def test_a_host_is_a_name_or_an_address(login: dict[str, Any], openssh: Server, name: str) -> None:
    if name not in ("localhost", *openssh.hosts):
        pytest.skip(f"no {name} here")
    process, address = Remotely(where, name, **login)()
    assert process != os.getpid()
    assert address == (name if name[0].isdigit() else "127.0.0.1")


def test_a_host_is_an_ipv6_address(
    login: dict[str, Any], trusted: passwords.PasswordServer
) -> None:
    assert socket.has_ipv6
    settings = {**login, "port": trusted.port, "key": trusted.key}
    assert Remotely(where, "::1", **settings)()[1] == "::1"


def test_user_and_port_may_be_in_the_name(login: dict[str, Any], openssh: Server) -> None:
    fn = Remotely(pid, f"{openssh.user}@127.0.0.1:{openssh.port}", key=login["key"])
    assert fn() != os.getpid()


def test_the_port_is_22_and_the_user_the_current_one_unless_said(
    login: dict[str, Any], openssh: Server
) -> None:
    connection = Remotely(pid, "web1")._target.get()
    assert (connection.port, connection.user) == (22, openssh.user)


@pytest.mark.parametrize("port", [0, 65536, -1, "22", True, 22.0])
def test_a_port_that_is_none_is_refused_at_once(home: Path, port: Any) -> None:
    with pytest.raises(ValueError, match=r"port=.* 1 to 65535"):
        remotely("127.0.0.1", port=port)


def test_another_user_is_refused_by_name(login: dict[str, Any]) -> None:
    fn = Remotely(pid, "127.0.0.1", **{**login, "user": "nobody-known"})
    with pytest.raises(RemoteConnectionRefused, match="nobody-known could not log in"):
        fn()


def test_ssh_config_names_the_host(home: Path, login: dict[str, Any], openssh: Server) -> None:
    (home / ".ssh" / "config").write_text(
        f"Host web1\n HostName 127.0.0.1\n Port {openssh.port}\n IdentityFile {openssh.key}\n"
    )
    assert Remotely(pid, "web1")() != os.getpid()


def test_a_key_is_looked_up_as_given_and_then_in_the_ssh_folder(
    login: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"port": login["port"], "user": login["user"]}
    shutil.copy(login["key"], home / ".ssh" / "deploy_key")
    (home / "work").mkdir()
    shutil.copy(login["key"], home / "work" / "here_key")
    monkeypatch.chdir(home / "work")
    for key in (login["key"], Path(login["key"]), "deploy_key", "~/.ssh/deploy_key", "here_key"):
        assert Remotely(pid, "127.0.0.1", key=key, **place)() != os.getpid()


def test_a_key_that_is_not_there_is_named_at_once(home: Path) -> None:
    with pytest.raises(ValueError, match=rf"key='no_key'.*{home}/\.ssh/no_key"):
        remotely("web1", key="no_key")


def test_a_password_that_is_refused_is_said_to_be(login: dict[str, Any]) -> None:
    fn = Remotely(pid, "127.0.0.1", port=login["port"], password="hush-hush")
    with pytest.raises(RemoteConnectionRefused, match=r"password") as caught:
        fn()
    assert "hush-hush" not in str(caught.value) + repr(fn)


@needs_password
def test_a_password_logs_in(login: dict[str, Any], trusted: passwords.PasswordServer) -> None:
    fn = Remotely(pid, "127.0.0.1", port=trusted.port, password=trusted.password)
    assert fn() != os.getpid()
    wrong = Remotely(pid, "127.0.0.1", port=trusted.port, password="not it")
    with pytest.raises(RemoteConnectionRefused, match="password: refused"):
        wrong()


def test_a_password_opens_a_locked_key(
    login: dict[str, Any], trusted: passwords.PasswordServer
) -> None:
    place = {"port": trusted.port, "key": trusted.path("user_locked")}
    assert Remotely(pid, "127.0.0.1", password="sesame", **place)() != os.getpid()


@pytest.mark.parametrize("compression", [True, False])
def test_compression(login: dict[str, Any], compression: bool) -> None:
    fn = Remotely(pid, "127.0.0.1", compression=compression, **login)
    fn()
    transport = fn._target.get().transport
    kinds = {transport.local_compression, transport.remote_compression}
    assert kinds == ({"zlib@openssh.com"} if compression else {"none"})


def test_quiet_suppresses_warnings_of_the_connection(
    login: dict[str, Any], home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (home / ".ssh" / "known_hosts").unlink()
    (home / ".ssh" / "known_hosts").mkdir()
    options = {"StrictHostKeyChecking": False}
    said = {}
    for quiet in (True, False):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            Remotely(pid, "127.0.0.1", quiet=quiet, ssh_options=options, **login)()
        said[quiet] = caplog.text
    assert "known_hosts" in said[False]
    assert not said[True]


def test_ssh_options_take_effect(login: dict[str, Any], home: Path) -> None:
    (home / ".ssh" / "known_hosts").unlink()
    with pytest.raises(RemoteHostKeyRejected, match="SHA256:"):
        Remotely(pid, "127.0.0.1", **login)()
    assert Remotely(pid, "127.0.0.1", ssh_options=LAX, **login)() != os.getpid()
    options = {**LAX, "SetEnv": {"FR_X": "a b"}}
    assert Remotely(os.getenv, "127.0.0.1", ssh_options=options, **login)("FR_X") == "a b"


@pytest.mark.parametrize(
    ("options", "words"),
    [({"Prot": 22}, "Did you mean Port"), ({"ControlMaster": True}, "ControlMaster")],
)
def test_ssh_options_that_cannot_be_honoured_are_refused_at_once(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        remotely("web1", ssh_options=options)


@pytest.mark.parametrize("given", ["connection", "fabric", "group", "context"])
def test_settings_beside_what_has_its_own_are_refused(given: str) -> None:
    place: Any = {
        "connection": Connection("web1"),
        "fabric": fabric.Connection("web1"),
        "group": fabric.SerialGroup("web1"),
        "context": invoke.Context(),
    }[given]
    with pytest.raises(TypeError, match=r"port, quiet can't be given with .*its own settings"):
        remotely(place, port=22, quiet=True)
    with pytest.raises(TypeError, match="key"):
        Remotely(pid, place, key="x")
    with pytest.raises(TypeError, match=r"user can't be given|no host name"):
        remotely([place], user="x")(pid)


@pytest.mark.parametrize("place", [None, 5, pid, [], {"web1"}, "", " "])
def test_what_names_no_host_is_refused_at_once(place: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="hostname="):
        remotely(place)


@pytest.mark.parametrize("target", [None, 5, "x"])
def test_what_is_no_function_is_refused(target: Any) -> None:
    with pytest.raises(TypeError, match="decorates a function or a class"):
        remotely("web1")(target)


def test_an_unknown_argument_is_refused_at_once_with_a_suggestion() -> None:
    with pytest.raises(TypeError, match=r"'timout'.*Did you mean 'timeout'"):
        remotely("web1", timout=1)
    # The arguments of the connection are among what is suggested.
    with pytest.raises(TypeError, match=r"'compresion'.*Did you mean 'compression'"):
        remotely("web1", compresion=True)


# Where: what is there already


def test_a_connection_is_shared(conn_openssh: Connection) -> None:
    assert remotely(conn_openssh)(pid)() != os.getpid()
    fn = Remotely(double, conn_openssh)
    assert fn(4) == 8
    fn.close()
    assert conn_openssh.is_connected  # the caller's own


def test_a_connection_of_fabrics_is_shared(openssh: Server) -> None:
    options = {"user": openssh.user, "port": openssh.port}
    with fabric.Connection(
        openssh.hosts[0], connect_kwargs=openssh.connect_kwargs, **options
    ) as connection:
        assert Remotely(pid, connection)() != os.getpid()
        assert connection.run("echo hi", hide=True, in_stream=False).stdout == "hi\n"


def test_a_group_answers_by_connection(openssh: Server) -> None:
    connections = [connect(openssh), connect(openssh)]
    connections[1].host = openssh.hosts[-1]  # Fabric takes equal ones for one
    with ThreadingGroup.from_connections(connections) as group:
        fn = Remotely(pid, group)
        assert len(set(fn().values())) == 2
        with pytest.raises(TypeError, match=r"\.on\(host\)\.submit"):
            fn.submit()
        fn.close()
        assert all(one.is_connected for one in connections)


def test_a_list_of_hosts_answers_by_connection(login: dict[str, Any], openssh: Server) -> None:
    hosts = openssh.hosts[:2]
    fn = remotely(hosts, **login)(where)
    found = fn()
    assert {key.host: value[1] for key, value in found.items()} == {host: host for host in hosts}
    connections = list(found)
    fn.close()
    assert not any(one.is_connected for one in connections)


def test_a_list_may_mix_names_and_connections(
    login: dict[str, Any], conn_openssh: Connection
) -> None:
    fn = Remotely(pid, ["localhost", conn_openssh], **login)
    assert len(set(fn().values())) == 2
    fn.close()
    assert conn_openssh.is_connected


def test_a_plain_context_runs_in_another_process_of_this_machine() -> None:
    fn = Remotely(pid, invoke.Context())
    try:
        assert fn() != os.getpid()
    finally:
        fn.close()
        fn._target.get().close()


# How: options of python()


@pytest.mark.skipif(not OTHERS, reason="only one interpreter on this machine")
def test_python(login: dict[str, Any]) -> None:
    fn = Remotely(platform.python_version, "127.0.0.1", python=f"python{OTHERS[-1]}", **login)
    assert fn().startswith(OTHERS[-1])


def flags() -> tuple[int, bool]:
    return sys.flags.optimize, sys.flags.utf8_mode == 1


def test_py_options(login: dict[str, Any]) -> None:
    assert Remotely(flags, "127.0.0.1", py_options="-OO -X utf8", **login)() == (2, True)


def test_env_and_cwd(login: dict[str, Any], tmp_path: Path) -> None:
    settings = {**login, "env": {"A": "b c"}, "cwd": str(tmp_path)}
    assert Remotely(os.getenv, "127.0.0.1", **settings)("A") == "b c"
    assert Remotely(os.getcwd, "127.0.0.1", **settings)() == str(tmp_path)


def test_timeout(login: dict[str, Any]) -> None:
    fn = Remotely(time.sleep, "127.0.0.1", timeout=0.3, **login)
    with pytest.raises(RemoteTimeout):
        fn(30)


def speak() -> None:
    print("out é")
    print("err", file=sys.stderr)


def test_output(login: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    Remotely(speak, "127.0.0.1", out_stream=out, err_stream=err, **login)()
    assert (out.getvalue(), err.getvalue()) == ("out é\n", "err\n")
    Remotely(speak, "127.0.0.1", hide="out", **login)()
    assert tuple(capsys.readouterr()) == ("", "err\n")
    Remotely(double, "127.0.0.1", echo=True, **login)(3)
    assert "double(3)" in capsys.readouterr().out


def ask() -> str:
    return input("name? ")


def test_input(login: dict[str, Any]) -> None:
    stdin = Remotely(ask, "127.0.0.1", in_stream=io.StringIO("Ann\n"), hide=True, **login)
    assert stdin() == "Ann"
    watcher = invoke.Responder(r"name\? ", "Bob\n")
    assert Remotely(ask, "127.0.0.1", watchers=[watcher], hide=True, **login)() == "Bob"


def write_latin() -> None:
    sys.stdout.buffer.write(b"\xe9\n")


def test_encoding(login: dict[str, Any]) -> None:
    out = io.StringIO()
    Remotely(write_latin, "127.0.0.1", encoding="latin-1", out_stream=out, **login)()
    assert out.getvalue() == "é\n"


class Reduced:
    """One whose rebuilding runs its own code."""

    def __reduce__(self) -> Any:
        return Reduced, ()


def test_trust_and_max_result(login: dict[str, Any]) -> None:
    with pytest.raises(UntrustedResult):
        Remotely(Reduced, "127.0.0.1", **login)()
    assert isinstance(Remotely(Reduced, "127.0.0.1", trust=[Reduced], **login)(), Reduced)
    with pytest.raises(ResultError):
        Remotely(bytes, "127.0.0.1", max_result=1000, **login)(100_000)


def test_start_timeout(login: dict[str, Any], tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\ncat > /dev/null\n")
    slow.chmod(0o755)
    fn = Remotely(pid, "127.0.0.1", python=str(slow), start_timeout=0.3, **login)
    started = time.monotonic()
    with pytest.raises(RemoteInterpreterMissing, match=r"0\.3 seconds"):
        fn()
    assert time.monotonic() - started < 20


# The decorated function itself


def test_it_keeps_name_doc_and_signature(login: dict[str, Any]) -> None:
    fn = Remotely(double, "127.0.0.1", **login)
    assert (fn.__name__, fn.__doc__) == ("double", "Return twice ``x``.")
    assert (fn.__module__, fn.__qualname__) == (__name__, "double")
    assert inspect.signature(fn) == inspect.signature(double)
    assert fn.__wrapped__ is double
    assert inspect.unwrap(fn) is double
    assert repr(fn) == "<double on '127.0.0.1'>"
    assert fn(2, plus=1) == 5
    with pytest.raises(TypeError):
        fn(x=2)  # type: ignore[call-arg]


def test_help_shows_the_functions_own_text() -> None:
    import pydoc

    text = pydoc.plain(pydoc.render_doc(remotely("web1")(double)))
    assert "double" in text
    assert "Return twice" in text


def test_local_runs_here() -> None:
    assert Remotely(pid, "no-such-host.invalid").local() == os.getpid()
    assert Remotely(double, "no-such-host.invalid").local(3, plus=1) == 7


def test_submit_returns_a_future(login: dict[str, Any]) -> None:
    fn = Remotely(double, "127.0.0.1", **login)
    futures = [fn.submit(number, plus=1) for number in range(3)]
    assert [future.result(20) for future in futures] == [1, 3, 5]
    napping = Remotely(time.sleep, "127.0.0.1", **login).submit(60)
    assert napping.cancel()


def test_on_runs_elsewhere_with_the_same_settings(login: dict[str, Any], openssh: Server) -> None:
    if len(openssh.hosts) < 2:
        pytest.skip("only one loopback address")
    fn = Remotely(where, openssh.hosts[0], **login)
    other = fn.on(openssh.hosts[1])
    assert (fn()[1], other()[1]) == tuple(openssh.hosts[:2])
    assert fn.on(openssh.hosts[1]) is other  # its connection is kept
    assert other.__wrapped__ is where
    assert other.submit().result(20)[1] == openssh.hosts[1]
    both = fn.on(openssh.hosts[:2])()
    assert sorted(value[1] for value in both.values()) == openssh.hosts[:2]


def test_on_takes_a_connection(login: dict[str, Any], conn_openssh: Connection) -> None:
    fn = Remotely(os.getenv, "web1.invalid", env={"A": "1"}, **login)
    assert fn.on(conn_openssh)("A") == "1"
    fn.close()
    assert conn_openssh.is_connected


def test_close_ends_the_connection_and_the_next_call_opens_another(
    login: dict[str, Any], openssh: Server
) -> None:
    fn = Remotely(pid, "127.0.0.1", **login)
    fn.close()  # nothing is open yet
    before = logins(openssh)
    fn(), fn()
    assert logins(openssh) == before + 1
    first = fn._target.get()
    napping = Remotely(time.sleep, "127.0.0.1", **login)
    future = napping.submit(60)
    fn.close(), napping.close(), fn.close()
    assert not first.is_connected
    with pytest.raises(RemoteCancelled):
        future.result(20)
    assert fn() != os.getpid()
    assert logins(openssh) == before + 3


def test_close_closes_what_on_opened(login: dict[str, Any]) -> None:
    fn = Remotely(pid, "localhost", **login)
    other = fn.on("127.0.0.1")
    other()
    connection = other._target.get()
    fn.close()
    assert not connection.is_connected


def test_calls_at_once_open_one_connection(login: dict[str, Any], openssh: Server) -> None:
    fn = Remotely(double, "127.0.0.1", **login)
    before = logins(openssh)
    gate = threading.Barrier(8)

    def call(number: int) -> int:
        gate.wait(30)
        return fn(number)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(8))) == [2 * number for number in range(8)]
    assert logins(openssh) == before + 1


def test_arguments_named_like_options_are_the_functions_own(login: dict[str, Any]) -> None:
    def own(timeout: int, user: str, self: int, hostname: str) -> list[Any]:
        return [timeout, user, self, hostname]

    fn = Remotely(own, "127.0.0.1", **login)
    names: dict[str, Any] = {"timeout": 1, "user": "u", "self": 2, "hostname": "h"}
    assert fn(**names) == [1, "u", 2, "h"]
    assert fn.submit(**names).result(20) == [1, "u", 2, "h"]
    assert fn.local(**names) == [1, "u", 2, "h"]


# Kinds of functions


def test_nested_functions_and_closures(login: dict[str, Any]) -> None:
    factor = [3]

    @remotely("127.0.0.1", **login)
    def times(x: int) -> int:
        def inner(y: int) -> int:
            return y * factor[0]

        return inner(x)

    assert times(5) == 15
    factor[0] = 4  # state is a snapshot of the call
    assert times(5) == 20
    assert remotely("127.0.0.1", **login)(lambda x: x + factor[0])(1) == 5


def test_recursion_runs_in_place_there(login: dict[str, Any]) -> None:
    @remotely("127.0.0.1", **login)
    def countdown(n: int) -> list[int]:
        return [os.getpid(), *countdown(n - 1)] if n else [os.getpid()]

    found = countdown(3)
    assert len(found) == 4
    assert len(set(found)) == 1


def test_one_decorated_function_calls_another_in_place(login: dict[str, Any]) -> None:
    inner = Remotely(pid, "no-such-host.invalid")

    @remotely("127.0.0.1", **login)
    def outer() -> tuple[int, int]:
        return os.getpid(), inner()

    ours, theirs = outer()
    assert ours == theirs != os.getpid()


def test_a_decorated_function_is_an_argument_like_any_function(login: dict[str, Any]) -> None:
    twice = Remotely(double, "no-such-host.invalid")
    fn = Remotely(map_list, "127.0.0.1", **login)
    assert fn(twice, [1, 2]) == [2, 4]


def test_the_outermost_of_two_decorators_says_where(login: dict[str, Any]) -> None:
    inner = Remotely(double, "no-such-host.invalid", hide=True)
    fn = Remotely(inner, "127.0.0.1", **login)
    assert fn(4) == 8
    assert repr(fn) == "<double on '127.0.0.1'>"


def map_list(fn: Callable[[int], int], values: list[int]) -> list[int]:
    return [fn(value) for value in values]


def test_an_async_function_is_run_to_its_end(login: dict[str, Any]) -> None:
    import asyncio

    @remotely("127.0.0.1", **login)
    async def later(x: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return x, os.getpid()

    assert later(3)[0] == 3
    assert later(3)[1] != os.getpid()
    assert later.submit(4).result(20)[0] == 4
    assert asyncio.run(later.local(5)) == (5, os.getpid())


def test_exceptions_are_the_functions_own(login: dict[str, Any]) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        Remotely(divmod, "127.0.0.1", **login)(1, 0)
    assert "127.0.0.1" in str(caught.value.__cause__)


class Place:
    """Methods of every kind, each decorated when `decorated` makes a class of them."""

    unit = "m"

    def __init__(self, x: int) -> None:
        self.x = x


def decorated(settings: dict[str, Any]) -> type[Any]:
    run = remotely("127.0.0.1", **settings)

    class Kinds(Place):
        @run
        def method(self, y: int) -> tuple[int, int]:
            """Add."""
            return self.x + y, os.getpid()

        @staticmethod
        @run
        def static_outside(y: int) -> tuple[int, int]:
            return y, os.getpid()

        @run
        @staticmethod
        def static_inside(y: int) -> tuple[int, int]:
            return y, os.getpid()

        @classmethod
        @run
        def class_outside(cls, y: int) -> tuple[str, int]:
            return f"{cls.__name__}{y}{cls.unit}", os.getpid()

        @run
        @classmethod
        def class_inside(cls, y: int) -> tuple[str, int]:
            return f"{cls.__name__}{y}{cls.unit}", os.getpid()

        @property
        @run
        def value(self) -> tuple[int, int]:
            return self.x, os.getpid()

        @run
        def again(self, n: int) -> list[int]:
            return [os.getpid(), *self.again(n - 1)] if n else [self.method(0)[1]]

    return Kinds


@pytest.mark.parametrize("through", ["instance", "class"])
def test_methods_of_every_kind(login: dict[str, Any], through: str) -> None:
    kinds = decorated(login)
    place = kinds(5)
    owner = place if through == "instance" else kinds
    first = () if through == "instance" else (place,)
    values = [
        owner.method(*first, 2),
        owner.static_outside(3),
        owner.static_inside(3),
        owner.class_outside(4),
        owner.class_inside(4),
        place.value,
    ]
    assert [value[0] for value in values] == [7, 3, 3, "Kinds4m", "Kinds4m", 5]
    assert os.getpid() not in [value[1] for value in values]
    assert len(set(place.again(2))) == 1


def test_bound_methods_have_it_all(login: dict[str, Any], openssh: Server) -> None:
    place = decorated(login)(5)
    bound = place.method
    assert (bound.__name__, bound.__doc__) == ("method", "Add.")
    assert list(inspect.signature(bound).parameters) == ["y"]
    assert bound.local(1) == (6, os.getpid())
    assert bound.submit(1).result(20)[0] == 6
    assert bound.on(openssh.hosts[-1])(1)[0] == 6
    assert place.class_inside.local(1) == ("Kinds1m", os.getpid())
    assert place.static_inside.local(1) == (1, os.getpid())
    assert place.static_inside.on("localhost")(1)[0] == 1
    assert place.class_inside.on("localhost")(1)[0] == "Kinds1m"
    bound.close()
    assert bound(1)[0] == 6


def test_a_bound_method_travels(login: dict[str, Any]) -> None:
    place = decorated(login)(5)
    fn = Remotely(map_list, "127.0.0.1", **login)
    assert [value[0] for value in fn(place.method, [1, 2])] == [6, 7]  # type: ignore[index]


# Whole classes


def whole(settings: dict[str, Any], bases: tuple[type, ...] = (), **more: Any) -> type[Any]:
    """A decorated class."""

    class Counter(*bases):  # type: ignore[misc]
        """Counts."""

        made = 0

        def __init__(self, start: int = 0) -> None:
            self.count = start
            self.pid = os.getpid()

        def add(self, n: int = 1) -> int:
            """Add n."""
            self.count += n
            self.pid = os.getpid()
            return self.count

        def add_and_fail(self, n: int) -> None:
            self.count += n
            raise KeyError(n)

        def add_self(self) -> Any:
            self.add(10)
            return self

        def drop(self) -> None:
            del self.pid
            self.more = [1]

        async def add_later(self) -> int:
            return self.add(100)

        @property
        def local_pid(self) -> int:
            return os.getpid()

        @staticmethod
        def static() -> int:
            return os.getpid()

        @classmethod
        def named(cls) -> tuple[str, int]:
            return cls.__name__, os.getpid()

    decorate = remotely("127.0.0.1", **settings, **more)
    made: type[Any] = decorate(Counter)
    return made


def test_a_class_runs_its_methods_there_with_its_state(login: dict[str, Any]) -> None:
    counter = whole(login)(5)
    assert isinstance(counter, whole(login)) is False
    assert counter.pid == os.getpid()  # __init__ runs here
    assert counter.add(2) == 7
    assert counter.count == 7
    assert counter.pid != os.getpid()
    counter.count = 20
    assert counter.add(n=1) == 21
    assert counter.local_pid == os.getpid()  # properties, too
    assert counter.static() != os.getpid()
    assert counter.named()[0] == "Counter"
    assert counter.named()[1] != os.getpid()
    assert counter.add_later() == 121
    assert counter.count == 121


def test_a_class_keeps_its_name_doc_and_signature(login: dict[str, Any]) -> None:
    cls = whole(login)
    assert inspect.isclass(cls)
    assert (cls.__name__, cls.__doc__) == ("Counter", "Counts.")
    assert list(inspect.signature(cls).parameters) == ["start"]
    assert (cls.add.__name__, cls.add.__doc__) == ("add", "Add n.")
    bound = cls().add
    assert (bound.__name__, bound.__doc__) == ("add", "Add n.")
    assert list(inspect.signature(bound).parameters) == ["n"]


def test_state_comes_back_after_an_exception(login: dict[str, Any]) -> None:
    counter = whole(login)(1)
    with pytest.raises(KeyError, match="3"):
        counter.add_and_fail(3)
    assert counter.count == 4


def test_a_method_that_returns_self_returns_the_instance(login: dict[str, Any]) -> None:
    counter = whole(login)(1)
    assert counter.add_self() is counter
    assert counter.add_self().add_self().count == 31


def test_attributes_may_go_and_come(login: dict[str, Any]) -> None:
    counter = whole(login)()
    counter.drop()
    assert counter.more == [1]
    assert not hasattr(counter, "pid")


def test_slots_are_carried(login: dict[str, Any]) -> None:
    @remotely("127.0.0.1", **login)
    class Slotted:
        __slots__ = ("a", "b")

        def __init__(self) -> None:
            self.a = 1

        def swap(self) -> None:
            self.b = self.a + 1
            del self.a

    slotted = Slotted()
    slotted.swap()
    assert slotted.b == 2
    assert not hasattr(slotted, "a")


def test_a_dataclass_and_a_subclass_are_carried(login: dict[str, Any]) -> None:
    import dataclasses

    @remotely("127.0.0.1", **login)
    @dataclasses.dataclass
    class Base:
        items: list[int] = dataclasses.field(default_factory=list)

        def push(self, item: int) -> Any:
            self.items.append(item)
            return self

    class Derived(Base):
        def push(self, item: int) -> Any:
            return super().push(item * 10)

    assert Base().push(1) == Base([1])
    derived = Derived()
    assert derived.push(1) is derived
    assert derived.items == [10]


def test_a_container_class_is_carried(login: dict[str, Any]) -> None:
    @remotely("127.0.0.1", **login)
    class Stack(list):  # type: ignore[type-arg]
        def put(self, item: int) -> int:
            self.append(item)
            return len(self)

    stack = Stack([1])
    assert stack.put(2) == 2
    assert stack == [1, 2]


def test_methods_of_a_class_have_it_all(login: dict[str, Any], openssh: Server) -> None:
    counter = whole(login)(1)
    assert counter.add.local(1) == 2
    assert counter.pid == os.getpid()
    assert counter.add.submit(1).result(20) == 3
    assert counter.count == 3
    assert counter.add.on(openssh.hosts[-1])(1) == 4
    assert counter.count == 4
    type(counter).add.close()
    assert counter.add() == 5


def test_the_methods_of_a_class_share_a_connection(login: dict[str, Any], openssh: Server) -> None:
    before = logins(openssh)
    counter = whole(login)()
    counter.add(), counter.static(), counter.named(), counter.drop()
    assert logins(openssh) == before + 1


# Other decorators, in either order


def logged(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return [os.getpid(), fn(*args, **kwargs)]

    return wrapper


def test_another_decorator_outside_runs_here(login: dict[str, Any]) -> None:
    fn = logged(Remotely(pid, "127.0.0.1", **login))
    here, there = fn()
    assert here == os.getpid() != there
    assert fn.__name__ == "pid"


def test_another_decorator_inside_runs_there(login: dict[str, Any]) -> None:
    fn = Remotely(logged(pid), "127.0.0.1", **login)
    outer, inner = fn()
    assert outer == inner != os.getpid()
    assert fn.__name__ == "pid"


def test_a_cache_in_either_order(login: dict[str, Any]) -> None:
    outside = functools.lru_cache(Remotely(pid, "127.0.0.1", **login))
    assert outside() == outside()
    inside = Remotely(functools.lru_cache(pid), "127.0.0.1", **login)
    assert inside() != inside()  # a fresh process has a fresh cache


def test_syntax_decorators_in_either_order(login: dict[str, Any]) -> None:
    run = remotely("127.0.0.1", **login)

    @run
    @logged
    def inside(x: int) -> int:
        return x

    @logged
    @run
    def outside(x: int) -> int:
        return x

    assert inside(1)[0] != os.getpid()
    assert inside(1)[1] == 1
    assert outside(2) == [os.getpid(), 2]


def test_a_context_manager_function_inside_another(login: dict[str, Any]) -> None:
    @contextlib.contextmanager
    def bracket() -> Iterator[int]:
        yield os.getpid()

    @remotely("127.0.0.1", **login)
    def use() -> bool:
        with bracket() as process:
            return process == os.getpid()

    assert use()


# In a script


SCRIPT = '''
"""Decorated functions in the module that runs as __main__."""
import functools, os, sys, threading
from fabremote import remotely

run = remotely("127.0.0.1", port={port}, key={key!r}, user={user!r})
BASE = 10

def helper(x):
    return x + BASE

@run
def there(x):
    return helper(x), os.getpid()

@run
def factorial(n):
    return n * factorial(n - 1) if n else 1

@run
def both(n):
    return factorial(n), there(n)[1] == os.getpid()

@functools.lru_cache
@run
def cached():
    return os.getpid()

@run
class Account:
    def __init__(self):
        self.sum = 0
    def pay(self, n):
        self.sum += helper(n)
        return self

if __name__ == "__main__":
    value, process = there(1)
    assert process != os.getpid()
    print(value, factorial(5), both(3), cached() == cached(), Account().pay(1).pay(2).sum)
    {last}
'''


def run_script(tmp_path: Path, login: dict[str, Any], last: str) -> tuple[str, str, int, float]:
    script = tmp_path / "main_script.py"
    script.write_text(SCRIPT.format(last=last, **login))
    started = time.monotonic()
    command = [sys.executable, "-W", "error", "-X", "dev", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, env=environment)
    return done.stdout, done.stderr, done.returncode, time.monotonic() - started


@pytest.mark.parametrize("last", ["", "sys.exit(3)", "there.submit(1)"])
def test_in_main_nothing_is_left_at_exit(
    tmp_path: Path, login: dict[str, Any], openssh: Server, last: str
) -> None:
    out, err, status, _ = run_script(tmp_path, login, last)
    assert (out, err) == ("11 120 (6, True) True 23\n", "")
    assert status == (3 if "exit" in last else 0)
    assert settled(lambda: openssh.processes() == [])


def test_exit_waits_for_no_call_that_runs(
    tmp_path: Path, login: dict[str, Any], openssh: Server
) -> None:
    last = "import time; f = run(time.sleep).submit(300)"
    _, err, status, seconds = run_script(tmp_path, login, last)
    assert (err, status) == ("", 0)
    assert seconds < 30


# Types


@pytest.mark.timeout(180)
def test_types_are_kept_and_inferred() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "tests/typing_cases.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# What it looks like, and what it can't be


def test_a_decorated_function_has_the_attributes_of_its_own(login: dict[str, Any]) -> None:
    def marked() -> None: ...

    marked.mark = "slow"  # type: ignore[attr-defined]
    assert Remotely(marked, "127.0.0.1", **login).mark == "slow"  # type: ignore[attr-defined]

    class Base(abc.ABC):
        @remotely("127.0.0.1", **login)
        @abc.abstractmethod
        def go(self) -> int: ...

    with pytest.raises(TypeError, match="abstract"):
        Base()  # type: ignore[abstract]


def test_a_bound_method_knows_its_instance(login: dict[str, Any]) -> None:
    class Site:
        @remotely("127.0.0.1", **login)
        def name(self) -> str:
            return "docs"

    site = Site()
    assert site.name.__self__ is site


def test_a_class_has_one_place(login: dict[str, Any]) -> None:
    class Site: ...

    with pytest.raises(TypeError, match="Name one host"):
        remotely(["127.0.0.1", "127.0.0.2"], **login)(Site)


def test_a_class_that_could_not_come_back_is_refused_as_it_is_decorated(
    login: dict[str, Any],
) -> None:
    class Lazy:
        def __getattr__(self, name: str) -> int:
            raise AttributeError(name)

        def two(self) -> int:
            return 2

    with pytest.raises(TypeError, match=r"Lazy has a __getattr__ .* trust=True"):
        remotely("127.0.0.1", **login)(Lazy)
    assert remotely("127.0.0.1", trust=True, **login)(Lazy)().two() == 2


def test_a_property_and_a_classs_generator_are_refused(login: dict[str, Any]) -> None:
    class Numbers:
        def each(self) -> Iterator[int]:
            yield 1

    class Letters:
        async def each(self) -> AsyncIterator[str]:
            yield "a"

    for one in (Numbers, Letters):
        with pytest.raises(TypeError, match=r"each\(\) is a generator function"):
            remotely("127.0.0.1", **login)(one)
    with pytest.raises(TypeError, match="@property above"):
        Remotely(property(len), "127.0.0.1", **login)  # type: ignore[arg-type]


class Worker:
    def __init__(self) -> None:
        self.lock: Any = None
        self.me = self

    def slow(self, seconds: float) -> None:
        time.sleep(seconds)

    def itself(self) -> bool:
        self.me = self
        return self.me is self


def test_a_decorated_classs_methods_go_by_their_own_names(
    login: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    class Busy(Worker): ...

    Busy.slow = Worker.slow  # type: ignore[method-assign]
    remotely("127.0.0.1", timeout=0.3, echo=True, **login)(Busy)
    with pytest.raises(RemoteTimeout, match=r"Worker\.slow\(\) on"):
        Busy().slow(60)
    assert re.search(r"Worker\.slow\(<.*>, 60\)", capsys.readouterr().out)
    stuck = Busy()
    stuck.lock = threading.Lock()
    with pytest.raises(ShippingError, match=r"Worker\.slow\(\) can't be sent: .*\.lock"):
        stuck.slow(0)


def test_an_instance_that_refers_to_itself_still_does(login: dict[str, Any]) -> None:
    class Own(Worker): ...

    Own.itself = Worker.itself  # type: ignore[method-assign]
    remotely("127.0.0.1", **login)(Own)
    own = Own()
    assert own.itself()
    assert own.me is own


# Connections that nobody has any more


def opened() -> int:
    return len(closer._open)


def test_a_dropped_functions_connection_is_closed(login: dict[str, Any]) -> None:
    before = opened()
    for _ in range(3):
        assert Remotely(os.getpid, "127.0.0.1", **login)() != os.getpid()
    gc.collect()
    assert settled(lambda: opened() == before)


def test_a_dropped_functions_submitted_call_still_ends(login: dict[str, Any]) -> None:
    def late(text: str) -> str:
        time.sleep(0.3)
        return text.upper()

    future = Remotely(late, "127.0.0.1", **login).submit("done")
    gc.collect()
    assert future.result(20) == "DONE"


class Log(collections.OrderedDict[str, int]):
    def note(self, name: str) -> int:
        self[name] = len(self)
        self.move_to_end(name, last=False)
        return len(self)


class Bytes(bytearray):
    def put(self, value: int) -> int:
        self.append(value)
        return len(self)


class Sized:
    def __init__(self) -> None:
        self.__dict__["size"] = 1

    @property
    def size(self) -> int:
        return int(self.__dict__["size"])

    def grow(self) -> int:
        self.__dict__["size"] += 1
        return self.size


def test_containers_of_ones_own_bring_their_content_back(login: dict[str, Any]) -> None:
    log = remotely("127.0.0.1", **login)(Log)(a=1)
    assert log.note("b") == 2
    assert list(log.items()) == [("b", 1), ("a", 1)]
    content = remotely("127.0.0.1", **login)(Bytes)(b"a")
    assert content.put(98) == 2
    assert content == b"ab"


def test_state_behind_a_property_of_its_name_comes_back(login: dict[str, Any]) -> None:
    sized: Any = remotely("127.0.0.1", **login)(Sized)()
    assert sized.grow() == 2
    assert sized.grow.submit().result(20) == 3
    assert sized.size == 3


def test_a_copy_of_a_decorated_function_runs_there_too(login: dict[str, Any]) -> None:
    there = Remotely(os.getpid, "127.0.0.1", **login)
    assert copy.deepcopy({"fn": there})["fn"] is there
    assert copy.copy(there) is there


def test_a_list_of_lists_and_groups_is_every_host_of_them(login: dict[str, Any]) -> None:
    connections = [Connection(f"127.0.0.{n}", connect_kwargs={}) for n in (3, 4)]
    where = ["127.0.0.1", ["127.0.0.2"], ThreadingGroup.from_connections(connections)]
    made = Remotely(os.getpid, where, **login)._target.get()
    assert [one.host for one in made] == [f"127.0.0.{n}" for n in (1, 2, 3, 4)]
    settings = Remotely(os.getpid, "127.0.0.1", **login)
    assert len(settings.on(connections)._target.get()) == 2
