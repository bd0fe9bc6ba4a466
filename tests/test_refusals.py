"""No SSH connection: each reason in its own words. And how connections are kept and reopened."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fabric
import paramiko
import pytest

from fabremote import (
    Connection,
    RemoteConnectionLost,
    RemoteConnectionRefused,
    RemoteException,
    RemoteHostKeyRejected,
    wrap,
)
from fabremote.demo.openssh import OpenSSHServer, find_sshd
from fabremote.demo.server import Server
from fabremote.hosts import open_connection
from tests import passwords
from tests.conftest import connect, served

HOST = "127.0.0.1"
ALONE: dict[str, Any] = {"look_for_keys": False, "allow_agent": False}


class GatewayServer(OpenSSHServer):
    """An sshd with keys of its own; a locked key may log in, too."""

    def _make_keys(self) -> None:
        super()._make_keys()
        keygen("locked", self.directory, "sesame")
        with (self.directory / "authorized_keys").open("a") as lines:
            lines.write((self.directory / "locked.pub").read_text())


def keygen(name: str, directory: Path, phrase: str = "") -> str:
    """Make a key there and return its path."""
    path = str(directory / name)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-C", name, "-f", path]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


@pytest.fixture(scope="module")
def second(
    tmp_path_factory: pytest.TempPathFactory, remote_env: dict[str, str]
) -> Iterator[GatewayServer]:
    """Another sshd, with another host key and another user key."""
    if find_sshd() is None:
        pytest.skip("no sshd on this machine")
    yield from served(GatewayServer(tmp_path_factory.mktemp("second"), env=remote_env))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A HOME of the test's own, empty."""
    path = tmp_path / "home"
    (path / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(path))
    return path


def know(home: Path, server: Server, *hosts: str) -> None:
    """Add a server's host key to known_hosts, for these addresses or for all it has."""
    kind, blob = (server.directory / "host_key.pub").read_text().split()[:2]
    with (home / ".ssh" / "known_hosts").open("a") as known:
        for host in hosts or server.hosts:
            known.write(f"[{host}]:{server.port} {kind} {blob}\n")


def refusal(connection: Connection, least: type[Exception] = RemoteConnectionRefused) -> str:
    """What a call is refused with; it says where, and is over soon."""
    started = time.monotonic()
    with connection, pytest.raises(least) as caught:
        connection.call(os.getpid)
    assert time.monotonic() - started < 12
    assert isinstance(caught.value, RemoteConnectionRefused)
    assert caught.value.__cause__ is not None or least is RemoteHostKeyRejected
    text = str(caught.value)
    assert text.endswith((".", "`", ")")) or "\n" in text
    assert ".." not in text.replace("../", "")
    return text


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that does ``answer`` with each connection; its port."""
    done = threading.Event()
    held = []

    def serve() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):
                link, _ = listener.accept()
                held.append(link)
                answer(link)

    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            thread.join()
            for link in held:
                link.close()


# Refusals


def test_a_port_that_nothing_listens_on(closed_port: int) -> None:
    text = refusal(Connection(HOST, user="ann", port=closed_port))
    assert text.startswith(f"No SSH connection to ann@{HOST}:{closed_port}: ")
    assert "Nothing listens there" in text
    assert f"check the port, {closed_port}" in text
    assert refusal(open_connection(HOST, user="ann", port=closed_port)) == text


@pytest.mark.parametrize("host", ["no-such-host.invalid", ".b", f"{'a' * 64}.example"])
def test_a_name_that_nobody_knows(host: str) -> None:
    for make in (Connection, open_connection, lambda name: wrap(fabric.Connection(name))):
        text = refusal(make(host))
        assert f"{host!r}: check its spelling" in text


@pytest.mark.parametrize("make", [Connection, open_connection])
def test_a_host_that_does_not_answer(make: Any) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((HOST, 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(8):  # fill its queue: whoever comes next is not answered
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex((HOST, port))
        timeout: Any = {"connect_timeout": 1}
        if make is open_connection:
            timeout = {"ssh_options": {"ConnectTimeout": 1}}
        text = refusal(make(HOST, port=port, **timeout))
        assert "did not answer in time" in text
        assert "firewall" in text


def silent(link: socket.socket) -> None:
    """Say nothing."""


def http(link: socket.socket) -> None:
    link.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    link.shutdown(socket.SHUT_WR)


def hang_up(link: socket.socket) -> None:
    link.close()


def garbage(link: socket.socket) -> None:
    link.sendall(bytes(range(256)) * 40)
    link.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("answer", [silent, http, hang_up, garbage])
def test_what_answers_is_no_ssh_server(answer: Callable[[socket.socket], None]) -> None:
    with answering(answer) as port:
        text = refusal(Connection(HOST, port=port, connect_kwargs={"banner_timeout": 1, **ALONE}))
        assert f"What answers on port {port} is no SSH server, or refuses us" in text
        made = open_connection(HOST, port=port, ssh_options={"ConnectTimeout": 1})
        assert f"What answers on port {port} is no SSH server, or refuses us" in refusal(made)


def test_a_connect_timeout_holds_for_the_banner_too() -> None:
    with answering(silent) as port:
        started = time.monotonic()
        refusal(Connection(HOST, port=port, connect_timeout=1, connect_kwargs=ALONE))
        assert time.monotonic() - started < 10  # paramiko's own is 15 s


def test_a_login_that_fails(openssh: Server, tmp_path: Path, home: Path) -> None:
    key = keygen("other", tmp_path)
    know(home, openssh)
    kwargs = {**ALONE, "key_filename": key}
    place: dict[str, Any] = {"user": "ann", "port": openssh.port}
    for made in (
        Connection(HOST, connect_kwargs=kwargs, **place),
        open_connection(HOST, key=key, **place),
    ):
        text = refusal(made)
        assert text.startswith(f"No SSH connection to ann@{HOST}:{openssh.port}: ")
        assert "ann could not log in: check the user" in text
        assert "password=" in text
        assert "Authentication failed" in text or key in text


def test_nothing_to_log_in_with(openssh: Server, home: Path) -> None:
    know(home, openssh)
    place: dict[str, Any] = {"user": "ann", "port": openssh.port}
    for made in (Connection(HOST, connect_kwargs=ALONE, **place), open_connection(HOST, **place)):
        assert "ann could not log in" in refusal(made)


@pytest.mark.parametrize("content", [None, "", "no key at all\n", "directory"])
def test_a_bad_key_file_is_named(
    openssh: Server, home: Path, tmp_path: Path, content: str | None
) -> None:
    know(home, openssh)
    path = tmp_path / "bad_key"
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
        path.chmod(0o600)
    kwargs = {**ALONE, "key_filename": str(path)}
    text = refusal(Connection(HOST, user="ann", port=openssh.port, connect_kwargs=kwargs))
    assert str(path) in text
    if content is None or content == "directory":
        with pytest.raises(ValueError, match="bad_key"):
            open_connection(HOST, key=path)
    else:
        text = refusal(open_connection(HOST, user="ann", port=openssh.port, key=path))
        assert str(path) in text
        assert "no private key" in text


def test_a_locked_key(second: GatewayServer, home: Path) -> None:
    know(home, second)
    place: dict[str, Any] = {"user": second.user, "port": second.port}
    key = str(second.directory / "locked")
    kwargs = {**ALONE, "key_filename": key}
    text = refusal(Connection(HOST, connect_kwargs=kwargs, **place))
    assert "encrypted" in text
    assert "passphrase" in text
    assert key in text
    text = refusal(open_connection(HOST, key=key, **place))
    assert key in text
    assert "passphrase" in text
    text = refusal(open_connection(HOST, key=key, password="wrong", **place))
    assert key in text
    with Connection(HOST, connect_kwargs={**kwargs, "passphrase": "sesame"}, **place) as c:
        assert c.call(os.getpid)
    with open_connection(HOST, key=key, password="sesame", **place) as c:
        assert c.call(os.getpid)


def test_a_dead_gateway_is_named(openssh: Server, closed_port: int) -> None:
    for gateway in (
        Connection(HOST, user="gate", port=closed_port),
        fabric.Connection(HOST, user="gate", port=closed_port),
    ):
        text = refusal(Connection("web1.invalid", user="ann", port=2222, gateway=gateway))
        assert "ann@web1.invalid:2222" in text
        assert f"gate@{HOST}:{closed_port}" in text
        assert f"check the port, {closed_port}" in text
        assert "2222, and that" not in text


def test_a_gateway_that_lets_nobody_in_is_named(openssh: Server, tmp_path: Path) -> None:
    kwargs = {**ALONE, "key_filename": keygen("other", tmp_path)}
    gateway = Connection(HOST, user="gate", port=openssh.port, connect_kwargs=kwargs)
    text = refusal(Connection("web1.invalid", user="ann", gateway=gateway))
    assert "ann@web1.invalid:22" in text
    assert "gate could not log in" in text
    assert f"gate@{HOST}:{openssh.port}" in text


@pytest.mark.parametrize("host", [HOST, "no-such-host.invalid"])
def test_a_gateway_that_cannot_reach_the_host(
    openssh: Server, closed_port: int, host: str
) -> None:
    with connect(openssh) as gateway:
        text = refusal(Connection(host, user="ann", port=closed_port, gateway=gateway))
        assert text.startswith(f"No SSH connection to ann@{host}:{closed_port}: ")
        assert f"check from there that {host} answers on port {closed_port}" in text
        assert gateway.call(os.getpid)  # it is none the worse


def test_a_jump_in_ssh_options_that_is_dead_is_named(home: Path, closed_port: int) -> None:
    options = {"ProxyJump": f"gate@{HOST}:{closed_port}"}
    text = refusal(open_connection("web1.invalid", user="ann", ssh_options=options))
    assert "ann@web1.invalid:22" in text
    assert f"gate@{HOST}:{closed_port}" in text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sh -c 'exit 3'", "ended with exit status 3"),
        ("/no/such/command %h", "ended with exit status 127"),
        ("echo hello", "ended with exit status 0"),
        ("sleep 1000", "did not lead to an SSH server"),
    ],
)
def test_a_proxy_command_that_fails(home: Path, command: str, words: str) -> None:
    options = {"ProxyCommand": command, "ConnectTimeout": 1}
    text = refusal(open_connection("web1", ssh_options=options))
    assert "web1:22" in text
    assert words in text
    assert f"ProxyCommand {command.replace('%h', 'web1')!r}" in text
    assert "relays to web1, port 22" in text
    assert "EOFError" not in text
    assert "No existing session" not in text
    assert "check the port" not in text


def test_a_proxy_command_of_the_users_file_is_named(home: Path) -> None:
    (home / ".ssh" / "config").write_text("Host web1\n  ProxyCommand /no/such/command\n")
    assert "ProxyCommand '/no/such/command'" in refusal(open_connection("web1"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"BindAddress": "203.0.113.9"}, "BindAddress=203.0.113.9 can't be used: Cannot assign"),
        ({"BindInterface": "nope0"}, "BindInterface=nope0 can't be used: "),
        ({"AddressFamily": "inet6"}, "AddressFamily=inet6 asks for"),
    ],
)
def test_an_option_that_is_in_the_way_is_named(
    home: Path, closed_port: int, options: dict[str, Any], words: str
) -> None:
    text = refusal(open_connection(HOST, port=closed_port, ssh_options=options))
    assert words in text
    assert f"leave {next(iter(options))} out" in text or "leave the option out" in text
    assert "spelling" not in text


def test_an_option_that_is_not_in_the_way_is_not_named(home: Path, closed_port: int) -> None:
    options = {"BindAddress": HOST}
    text = refusal(open_connection("localhost", port=closed_port, ssh_options=options))
    assert "Nothing listens there" in text
    text = refusal(open_connection("no.invalid", ssh_options={"AddressFamily": "inet6"}))
    assert "'no.invalid': check its spelling" in text


NOISY = """
import fabric, logging, sys, time
from fabremote import Connection, RemoteConnectionRefused, wrap
from fabremote.hosts import open_connection

way, port, quiet_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if way == "configured":
    logging.basicConfig()
kwargs = {"look_for_keys": False, "allow_agent": False, "password": "wrong"}
impatient = {**kwargs, "banner_timeout": 0.5}
proxied = {"ProxyCommand": "false"}
strange = {"MACs": "hmac-md5", "Ciphers": "aes128-ctr"}
trusting = {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "none"}
made = [
    Connection("127.0.0.1", user="ann", port=port, connect_kwargs=kwargs),
    wrap(fabric.Connection("127.0.0.1", port=quiet_port, connect_kwargs=impatient)),
    open_connection("127.0.0.1", port=port, ssh_options=proxied),
    open_connection("127.0.0.1", port=port, user="ann", password="x", ssh_options=trusting),
    open_connection("127.0.0.1", port=port, ssh_options={**strange, **trusting}),
    open_connection("127.0.0.1", port=quiet_port, ssh_options={"ConnectTimeout": 1}),
]
for connection in made if way != "fabric" else ():
    try:
        connection.call(max, 1, 2)
    except RemoteConnectionRefused:
        print("refused")
if way == "fabric":
    try:
        fabric.Connection("127.0.0.1", port=quiet_port, connect_kwargs=impatient).open()
    except Exception:
        print("refused")
time.sleep(0.3)
"""


@pytest.mark.parametrize(
    ("way", "refusals", "logged"),
    [("plain", 6, False), ("configured", 6, True), ("fabric", 1, True)],
)
def test_the_error_alone_is_shown_unless_logging_is_configured(
    openssh: Server, home: Path, way: str, refusals: int, logged: bool
) -> None:
    with answering(silent) as port:
        done = subprocess.run(
            [sys.executable, "-c", NOISY, way, str(openssh.port), str(port)],
            capture_output=True,
            text=True,
            timeout=50,
        )
    assert done.stdout.count("refused") == refusals, done.stderr
    assert ("Error reading SSH protocol banner" in done.stderr) == logged, done.stderr
    assert logged or not done.stderr


def test_a_channel_that_a_gateway_refuses_is_told_once(
    openssh: Server, closed_port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    code = """
import json, sys
from fabremote import Connection, RemoteConnectionRefused
gate, port = json.loads(sys.argv[1]), int(sys.argv[2])
with Connection("127.0.0.1", **gate) as gateway:
    try:
        Connection("127.0.0.1", port=port, gateway=gateway).call(max, 1, 2)
    except RemoteConnectionRefused:
        print("refused")
"""
    gate = {"port": openssh.port, "user": openssh.user, "connect_kwargs": openssh.connect_kwargs}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(gate), str(closed_port)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_wrapped_connections_are_refused_likewise(closed_port: int) -> None:
    text = refusal(wrap(fabric.Connection(HOST, user="ann", port=closed_port)))
    assert f"ann@{HOST}:{closed_port}" in text
    assert "Nothing listens there" in text


def test_a_refused_connection_can_be_tried_again(
    openssh: Server, tmp_path: Path, home: Path
) -> None:
    know(home, openssh)
    key = tmp_path / "later"
    key.write_text("none yet\n")
    with open_connection(HOST, user=openssh.user, port=openssh.port, key=key) as connection:
        with pytest.raises(RemoteConnectionRefused):
            connection.call(os.getpid)
        shutil.copy(openssh.key, key)
        assert connection.call(os.getpid) != os.getpid()


# Arguments


@pytest.mark.parametrize(
    ("host", "arguments", "words"),
    [
        (HOST, {"port": 2206, "ssh_options": {"Port": 2250}}, "port=2206 and Port=2250"),
        ("web1:2206", {"ssh_options": {"port": 2250}}, "hostname='web1:2206' and Port=2250"),
        ("web1:2206", {"port": 22}, "hostname='web1:2206' and port=22"),
        (HOST, {"user": "ann", "ssh_options": {"User": "bob"}}, "user='ann' and User=bob"),
        ("eve@web1", {"ssh_options": {"User": "bob"}}, "hostname='eve@web1' and User=bob"),
        (HOST, {"compression": True, "ssh_options": {"compression": "no"}}, "Compression=no"),
    ],
)
def test_what_contradicts_itself_is_refused(host: str, arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(words)}.*contradict each other: give one"):
        open_connection(host, **arguments)


def test_a_key_and_another_identity_file_contradict_each_other(openssh: Server) -> None:
    for other in ("~/.ssh/other", "none", [openssh.key, "other"]):
        with pytest.raises(ValueError, match=r"key=.* and IdentityFile=.* contradict"):
            open_connection(HOST, key=openssh.key, ssh_options={"IdentityFile": other})


def test_the_same_twice_is_no_contradiction(openssh: Server, home: Path) -> None:
    options = {
        "Port": openssh.port,
        "User": openssh.user,
        "Compression": True,
        "IdentityFile": openssh.key,
    }
    know(home, openssh)
    made = open_connection(
        f"{openssh.user}@{HOST}:{openssh.port}",
        port=openssh.port,
        user=openssh.user,
        compression=True,
        key=openssh.key,
        ssh_options=options,
    )
    with made:
        assert made.call(max, 1, 2) == 2


def test_the_real_address_is_named(home: Path, closed_port: int) -> None:
    options = {"Port": closed_port, "User": "ann"}
    text = refusal(open_connection(HOST, ssh_options=options))
    assert text.startswith(f"No SSH connection to ann@{HOST}:{closed_port}: ")
    assert f"check the port, {closed_port}" in text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[::1]:2206", ("::1", None, 2206)),
        ("ann@[::1]:2206", ("::1", "ann", 2206)),
        ("[fe80::1%eth0]", ("fe80::1%eth0", None, None)),
        ("::1", ("::1", None, None)),
        ("ann@web1:2206", ("web1", "ann", 2206)),
    ],
)
def test_a_name_may_say_user_and_port(text: str, parts: tuple[Any, ...], home: Path) -> None:
    host, user, port = parts
    made = open_connection(text)
    assert (made.host, made.original_host) == (host, host)
    assert made.port == (port or 22)
    assert user in (None, made.user)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_address_in_brackets_is_connected_to(home: Path, openssh: Server) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 on this machine")
        port = probe.getsockname()[1]
    assert "Nothing listens there" in refusal(open_connection(f"ann@[::1]:{port}"))


@pytest.mark.parametrize("host", ["web1:ssh", "[::1]:0", "web1:99999", "", "ann@", "-oX"])
def test_what_names_no_host_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(host))):
        open_connection(host)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ssh_options": "Compression=yes"}, "ssh_options='Compression=yes' must be a dict"),
        ({"ssh_options": [("Compression", "yes")]}, "ssh_options=.*must be a dict"),
        ({"ssh_options": {"Compression": None}}, "Compression=None is not possible: leave it out"),
        ({"key": ["deploy"]}, r"key=\['deploy'\] must be the name of one file"),
        ({"key": b"deploy"}, "key=b'deploy' must be the name of one file"),
        ({"key": "/"}, "key='/': / is a folder"),
        ({"key": "/no/such"}, "key='/no/such': there is no file /no/such. Name"),
        ({"password": 5}, "password= must be a str, not int"),
        ({"user": 5}, "user=5 must be a name"),
        ({"user": ""}, "user='' must be a name"),
        ({"compression": "yes"}, "compression='yes' must be True or False"),
        ({"quiet": 1}, "quiet=1 must be True or False"),
    ],
)
def test_arguments_that_mean_nothing_are_named_at_once(
    home: Path, arguments: Any, words: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        open_connection("web1", **arguments)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_key_that_others_may_read_is_not_used(
    openssh: Server, home: Path, tmp_path: Path, mode: int
) -> None:
    know(home, openssh)
    key = tmp_path / "open_key"
    shutil.copy(openssh.key, key)
    key.chmod(mode)
    place: dict[str, Any] = {"user": openssh.user, "port": openssh.port, "key": key}
    text = refusal(open_connection(HOST, **place))
    assert f"its permissions {mode:04o} are too open: run chmod 600 {key}" in text
    key.chmod(0o600)
    with open_connection(HOST, **place) as made:
        assert made.call(max, 1, 2) == 2


# Kept, shared, reopened


def logins(server: Server) -> int:
    return (server.directory / "sshd.log").read_text(errors="replace").count("Accepted ")


def test_calls_share_a_transport(conn_openssh: Connection, openssh: Server) -> None:
    before = logins(openssh)
    conn_openssh.call(os.getpid)
    transport = conn_openssh.transport
    conn_openssh.python(py_options="-O").call(os.getpid)
    conn_openssh.run("true", hide=True, in_stream=False)
    wrap(conn_openssh).call(os.getpid)
    assert conn_openssh.transport is transport
    assert logins(openssh) == before + 1


@pytest.mark.parametrize("kind", ["ours", "fabric"])
def test_threads_open_it_once(openssh: Server, kind: str) -> None:
    before = logins(openssh)
    with contextlib.ExitStack() as stack:
        made: Any = connect(openssh)
        if kind == "fabric":
            place: dict[str, Any] = {"user": openssh.user, "port": openssh.port}
            plain = fabric.Connection(HOST, connect_kwargs=openssh.connect_kwargs, **place)
            made = wrap(plain)
        stack.enter_context(made)
        gate = threading.Barrier(8)

        def call(_: int) -> int:
            gate.wait(30)
            return int(made.call(os.getpid))

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(call, range(8)))) == 8
    assert logins(openssh) == before + 1


def serving() -> int:
    """The sshd that serves this very connection."""
    process = os.getpid()
    while True:
        with open(f"/proc/{process}/stat") as file:
            name, _, rest = file.read().partition(" (")[2].rpartition(")")
        if name.startswith("sshd"):
            return process
        process = int(rest.split()[1])


@pytest.mark.parametrize("noticed", [False, True])
def test_a_dead_connection_is_reopened_before_a_call(
    conn_openssh: Connection, openssh: Server, tmp_path: Path, noticed: bool
) -> None:
    before = logins(openssh)
    count = tmp_path / "count"
    for _ in range(3):
        pid, transport = conn_openssh.call(serving), conn_openssh.transport
        os.kill(pid, signal.SIGKILL)
        if noticed:
            transport.join(30)
        try:
            conn_openssh.call(append, str(count))
        except RemoteConnectionLost:
            assert not noticed  # it died while the call was under way
    assert logins(openssh) >= before + 3
    begun = len(count.read_text()) if count.exists() else 0
    assert begun == 3 if noticed else begun <= 3


def test_a_transport_that_was_closed_is_reopened(conn_openssh: Connection) -> None:
    conn_openssh.call(os.getpid)
    conn_openssh.transport.close()
    assert conn_openssh.call(os.getpid) != os.getpid()
    transport = conn_openssh.transport
    transport.sock.shutdown(socket.SHUT_RDWR)
    transport.join(30)
    assert conn_openssh.call(os.getpid) != os.getpid()
    conn_openssh.close()
    assert conn_openssh.call(os.getpid) != os.getpid()


def append(path: str) -> None:
    with open(path, "a") as file:
        file.write("x")


def append_and_break(path: str) -> None:
    append(path)
    os.kill(serving(), signal.SIGKILL)
    time.sleep(60)


def test_a_call_that_has_begun_is_never_begun_again(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    with pytest.raises(RemoteConnectionLost):
        conn_openssh.call(append_and_break, str(count))
    assert count.read_text() == "x"
    future = conn_openssh.python().submit(append_and_break, str(count))
    with pytest.raises(RemoteConnectionLost):
        future.result(20)
    assert count.read_text() == "xx"
    conn_openssh.call(append, str(count))
    assert count.read_text() == "xxx"


def test_a_dead_gateway_is_reopened_before_a_call(openssh: Server, second: GatewayServer) -> None:
    place: dict[str, Any] = {"user": second.user, "port": second.port}
    with (
        connect(openssh) as gateway,
        Connection(HOST, connect_kwargs=second.connect_kwargs, gateway=gateway, **place) as c,
    ):
        c.call(os.getpid)
        ended = gateway.transport, c.transport
        os.kill(gateway.call(serving), signal.SIGKILL)
        for transport in ended:
            transport.join(30)
        assert c.call(os.getpid) != os.getpid()


# Ways to log in


@pytest.fixture
def agent(openssh: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An SSH agent that holds the server's user key."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("no ssh-agent on this machine")
    path = tmp_path / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.01)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    subprocess.run(["ssh-add", "-q", openssh.key], check=True)
    yield str(path)
    process.terminate()
    process.wait()


def test_an_agent_logs_in(agent: str, openssh: Server, home: Path) -> None:
    know(home, openssh)
    place: dict[str, Any] = {"user": openssh.user, "port": openssh.port}
    with Connection(HOST, **place) as connection:
        assert connection.call(os.getpid) != os.getpid()
    with open_connection(HOST, **place) as connection:
        assert connection.call(os.getpid) != os.getpid()


def test_an_agents_key_comes_into_use_where_a_locked_one_is_named(
    agent: str, second: GatewayServer, home: Path, tmp_path: Path
) -> None:
    know(home, second)
    asker = tmp_path / "ask"
    asker.write_text("#!/bin/sh\necho sesame\n")
    asker.chmod(0o700)
    env = {**os.environ, "SSH_ASKPASS": str(asker), "SSH_ASKPASS_REQUIRE": "force"}
    locked = second.directory / "locked"
    subprocess.run(["ssh-add", "-q", locked], check=True, env=env, stdin=subprocess.DEVNULL)
    with open_connection(HOST, user=second.user, port=second.port, key=locked) as connection:
        assert connection.call(os.getpid) != os.getpid()


@pytest.mark.skipif(not passwords.possible(), reason="needs an sshd of root's")
@pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
def test_a_password_logs_in_by_either_method(
    tmp_path: Path, home: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "no" if method == "password" else "yes"
    options = {
        "PasswordAuthentication": "yes" if method == "password" else "no",
        "KbdInteractiveAuthentication": other,
        "PubkeyAuthentication": "no",
    }
    with passwords.started(tmp_path / "server", monkeypatch, **options) as server:
        know(home, server)
        place: dict[str, Any] = {"user": server.user, "port": server.port}
        with open_connection(HOST, password=server.password, **place) as connection:
            assert connection.call(os.getpid) != os.getpid()
        kwargs = {**ALONE, "password": server.password}
        with Connection(HOST, connect_kwargs=kwargs, **place) as connection:
            assert connection.call(os.getpid) != os.getpid()


# Two hops


@pytest.fixture
def way(
    openssh: Server, second: GatewayServer, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """ProxyJump's value for a way over both servers, whose user keys are the usual ones."""
    shutil.copy(openssh.key, home / ".ssh" / "id_ed25519")
    with (second.directory / "authorized_keys").open("a") as lines:
        lines.write((openssh.directory / "client_key.pub").read_text())
    return f"{openssh.user}@{HOST}:{openssh.port},{second.user}@127.0.0.2:{second.port}"


def seen() -> str:
    return os.environ["SSH_CONNECTION"]


def test_two_hops_each_verified(
    openssh: Server, second: GatewayServer, home: Path, way: str
) -> None:
    settings: dict[str, Any] = {"user": second.user, "port": second.port}
    settings["ssh_options"] = {"ProxyJump": way, "GlobalKnownHostsFile": "none"}
    before = logins(openssh), logins(second)
    text = refusal(open_connection("127.0.0.3", **settings), RemoteHostKeyRejected)
    assert f"[{HOST}]:{openssh.port}" in text or f"{HOST}:{openssh.port}" in text
    assert (logins(openssh), logins(second)) == before
    know(home, openssh, HOST)
    text = refusal(open_connection("127.0.0.3", **settings), RemoteHostKeyRejected)
    assert "127.0.0.2" in text
    assert (logins(openssh), logins(second)) == (before[0] + 1, before[1])
    know(home, second, "127.0.0.2")
    text = refusal(open_connection("127.0.0.3", **settings), RemoteHostKeyRejected)
    assert "127.0.0.3" in text
    know(home, second, "127.0.0.3")
    with open_connection("127.0.0.3", **settings) as connection:
        assert connection.call(seen).split()[2] == "127.0.0.3"
        assert connection.call(os.getpid) != os.getpid()
        assert connection.run("echo hi", hide=True, in_stream=False).stdout == "hi\n"
    assert logins(openssh) == before[0] + 3


def test_two_hops_of_fabrics_own(openssh: Server, second: GatewayServer) -> None:
    login: dict[str, Any] = {"user": openssh.user, "port": openssh.port}
    login["connect_kwargs"] = openssh.connect_kwargs
    outer = fabric.Connection(HOST, **login)
    middle = fabric.Connection("127.0.0.2", gateway=outer, **login)
    last: dict[str, Any] = {"user": second.user, "port": second.port}
    with outer, middle:
        plain = fabric.Connection(
            HOST, gateway=middle, connect_kwargs=second.connect_kwargs, **last
        )
        with wrap(plain) as connection:
            assert connection.call(os.getpid) != os.getpid()
            assert plain.transport is connection.transport


def test_a_gateways_own_host_key_is_never_sent_past(
    openssh: Server, second: GatewayServer, home: Path, way: str
) -> None:
    """A jump host with another key than the one that is known is refused."""
    kind, blob = (openssh.directory / "client_key.pub").read_text().split()[:2]
    (home / ".ssh" / "known_hosts").write_text(f"[{HOST}]:{openssh.port} {kind} {blob}\n")
    options = {"ProxyJump": way, "StrictHostKeyChecking": False}
    made = open_connection("127.0.0.3", port=second.port, ssh_options=options)
    text = refusal(made, RemoteHostKeyRejected)
    key = paramiko.Ed25519Key.from_private_key_file(str(openssh.directory / "host_key"))
    assert key.fingerprint in text  # type: ignore[attr-defined]


def test_a_handshake_that_is_cut_off_leaves_no_timer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = Connection("127.0.0.1", port=listening.getsockname()[1], user="nobody")
        failed: list[Exception] = []

        def connect() -> None:
            try:
                connection.call(abs, 1)
            except RemoteException as error:
                failed.append(error)

        thread = threading.Thread(target=connect)
        thread.start()
        with listening.accept()[0] as accepted:
            accepted.sendall(b"SSH-2.0-Slow\r\n")
            # Past the greeting, paramiko has begun the handshake.
            assert b"SSH-2.0-" in accepted.recv(1 << 16)
            while not [one for one in threading.enumerate() if isinstance(one, threading.Timer)]:
                time.sleep(0.01)
            connection.close()
            thread.join(20)
    assert failed
    # The guard against leaks looks for the timer, which would stay for 15 seconds.
