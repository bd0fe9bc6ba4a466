"""Servers to test against, connections to them, and a guard against leaks.

``server`` is each kind of loopback server in turn, ``openssh`` the real sshd alone; ``conn`` and
``conn_openssh`` are connections to them. HOME and the SSH configuration are the tests' own.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from fabremote.demo.server import OpenSSHServer, Server, find_sshd
from fabremote.links import ProcessLink
from tests import interpreters
from tests.leaks import Snapshot
from tests.packages import make_wheel

if TYPE_CHECKING:
    from fabremote import Connection

SERVERS: list[Server] = []
ServerT = TypeVar("ServerT", bound=Server)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have counted."""
    lines = [
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "counted" and report.when == "call"
    ]
    if lines:
        terminalreporter.section("functions that travel, from one Python to another")
        terminalreporter.write("".join(f"{line}\n" for line in lines))


interpreters.found()  # now, as it needs the real HOME
# A shell's background jobs ignore it, and what they start would.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Where no name server answers, a name that nobody knows is given up soon.
os.environ.setdefault("RES_OPTIONS", "timeout:2 attempts:2")


@pytest.fixture(scope="session", autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A HOME without anybody's keys, known hosts, agent and settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        for name in list(os.environ):
            if name.startswith(("FABRIC_", "INVOKE_")):
                patch.delenv(name)
        yield


# A stand-in for the package of this name that examples require.
ROMAN = """
def toRoman(number):
    values = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
    text = ""
    for value, digits in zip(values, "M CM D CD C XC L XL X IX V IV I".split()):
        text += digits * (number // value)
        number %= value
    return text
"""


# Likewise, as far as they use it.
TQDM = """
import sys

def tqdm(items, desc="", **options):
    for number, item in enumerate(items, 1):
        yield item
        print(f"{desc}: {100 * number // len(items)}%", end="\\r", file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="session")
def pip_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of pip that have it find the packages of the examples and nothing else."""
    folder = tmp_path_factory.mktemp("wheels")
    make_wheel(folder, "roman", "5.2", ROMAN)
    make_wheel(folder, "tqdm", "4.67", TQDM)
    return {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(folder), "PIP_NO_INDEX": "1"}


@pytest.fixture(scope="session")
def remote_env(
    tmp_path_factory: pytest.TempPathFactory, pip_env: dict[str, str]
) -> dict[str, str]:
    """The environment of every session: a PATH with the machine's interpreters, a cache, pip."""
    folder = tmp_path_factory.mktemp("remote")
    path = interpreters.make_path(folder / "bin")
    return {**pip_env, "PATH": path, "XDG_CACHE_HOME": str(folder / "cache")}


def make_server(kind: str, directory: Path, env: dict[str, str]) -> Server:
    """A server of this kind, not yet started; skips the test where there can be none."""
    if kind == "openssh":
        if find_sshd() is None:
            pytest.skip("no sshd on this machine")
        return OpenSSHServer(directory, env=env)
    pytest.importorskip("asyncssh")
    from fabremote.demo.embedded import EmbeddedServer

    return EmbeddedServer(directory, env=env)


def _serving(kind: str, paths: pytest.TempPathFactory, env: dict[str, str]) -> Iterator[Server]:
    yield from served(make_server(kind, paths.mktemp(kind), env))


def served(server: ServerT) -> Iterator[ServerT]:
    """Run a server, as one whose processes must not be left behind."""
    with server:
        SERVERS.append(server)
        yield server
        SERVERS.remove(server)


@pytest.fixture(scope="session")
def openssh(
    tmp_path_factory: pytest.TempPathFactory, remote_env: dict[str, str]
) -> Iterator[Server]:
    """The machine's own sshd."""
    yield from _serving("openssh", tmp_path_factory, remote_env)


@pytest.fixture(scope="session")
def asyncssh_server(
    tmp_path_factory: pytest.TempPathFactory, remote_env: dict[str, str]
) -> Iterator[Server]:
    """The embedded server."""
    yield from _serving("asyncssh", tmp_path_factory, remote_env)


@pytest.fixture(
    scope="session", params=["openssh", "asyncssh_server"], ids=["openssh", "asyncssh"]
)
def server(request: pytest.FixtureRequest) -> Server:
    """Each kind of server in turn."""
    found: Server = request.getfixturevalue(request.param)
    return found


def connect(server: Server) -> Connection:
    """A fabremote connection to the first address of a server, not yet open."""
    from fabremote import Connection

    return Connection(
        server.hosts[0],
        user=server.user,
        port=server.port,
        connect_kwargs=server.connect_kwargs,
    )


@pytest.fixture
def conn(server: Server) -> Iterator[Connection]:
    """A connection to each kind of server in turn."""
    connection = connect(server)
    yield connection
    connection.close()


@pytest.fixture
def conn_openssh(openssh: Server) -> Iterator[Connection]:
    """A connection to the machine's own sshd."""
    connection = connect(openssh)
    yield connection
    connection.close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 that nothing listens on, and that nothing else can take."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what is sent to local agents, one after the other."""
    sizes: list[int] = []
    send = ProcessLink.send

    def counted(self: ProcessLink, data: bytes) -> None:
        sizes.append(len(data))
        send(self, data)

    monkeypatch.setattr(ProcessLink, "send", counted)
    return sizes


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """No test leaves a remote process, a local thread or a file descriptor behind."""
    before = Snapshot(SERVERS)
    yield
    excess = before.excess()
    assert not excess, "left behind: " + "; ".join(excess)
