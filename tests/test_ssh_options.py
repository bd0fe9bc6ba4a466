"""``ssh_options``: every option in the table, every honoured one by its effect on a real sshd."""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from fabremote import connection, sockets
from fabremote.connection import Connection
from fabremote.demo.server import Server
from fabremote.exceptions import RemoteHostKeyRejected
from fabremote.hosts import HostConnection, open_connection
from fabremote.ssh_options import (
    Hop,
    connection_arguments,
    make_transport_factory,
    open_socket,
    parse,
    parse_jump,
)
from fabremote.ssh_reference import TABLE, reference
from fabremote.ssh_refusals import ALIASES, FIXED, REFUSED, REMOVED
from fabremote.ssh_settings import SSHSettings
from fabremote.ssh_table import HONOURED, Option
from tests import passwords
from tests.conftest import SERVERS
from tests.faults import relayed, settled

HOST = "127.0.0.1"
DOCS = Path(__file__).parent.parent / "docs" / "ssh_options.md"


class Bench:
    """A server, what to know of it, and what its log has gained since the test began.

    ``jump``: the value of ProxyJump for every connection, "" for none.
    """

    jump = ""

    def __init__(self, server: passwords.PasswordServer, directory: Path) -> None:
        self.server = server
        self.known = directory / "known_hosts"
        lines = []
        for name in ("host_key", "host_rsa", "host_ecdsa"):
            key = Path(server.path(f"{name}.pub")).read_text().split()
            addresses = ",".join(f"[{host}]:{server.port}" for host in (*server.hosts, "::1"))
            lines.append(f"{addresses} {key[0]} {key[1]}\n")
        self.lines = "".join(lines)
        self.known.write_text(self.lines)
        self.start = len(server.read())

    def merged(self, options: dict[str, Any]) -> dict[str, Any]:
        """These options and what else it takes; "" for one takes it away."""
        defaults = {
            "Port": self.server.port,
            "User": self.server.user,
            "UserKnownHostsFile": self.known,
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": True,
            "IdentityFile": self.server.key,
            "IdentityAgent": "none",
            "ProxyJump": self.jump,
        }
        return {name: value for name, value in {**defaults, **options}.items() if value != ""}

    def settings(self, options: dict[str, Any], host: str = HOST) -> SSHSettings:
        return parse(self.merged(options)).for_host(host, "nobody")

    @contextlib.contextmanager
    def connection(
        self, options: dict[str, Any], host: str = HOST, **login: Any
    ) -> Iterator[Connection]:
        """An open connection with these options."""
        merged = self.merged(options)
        made = (
            HostConnection(host, merged, login)
            if login
            else open_connection(host, ssh_options=merged)
        )
        with made as connection:
            connection.open()
            transport = connection.transport
            yield connection
        transport.join(2)

    @contextlib.contextmanager
    def connected(
        self, options: dict[str, Any], host: str = HOST, **login: Any
    ) -> Iterator[paramiko.Transport]:
        """The transport of an open connection with these options."""
        with self.connection(options, host, **login) as connection:
            yield connection.transport

    def refused(
        self,
        options: dict[str, Any],
        error: Any = paramiko.AuthenticationException,
        **login: Any,
    ) -> str:
        """What a connection with these options fails with."""
        with pytest.raises(error) as caught, self.connected(options, **login):
            pass
        return str(caught.value)

    def log(self, *texts: str) -> str:
        """What sshd has logged since, once all these are in it."""
        deadline = time.monotonic() + 20
        while True:
            found = self.server.read(self.start)
            missing = [text for text in texts if text not in found]
            if not missing:
                return found
            assert time.monotonic() < deadline, f"{missing} not in sshd's log:\n{found}"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[passwords.PasswordServer]:
    directory = tmp_path_factory.mktemp("options")
    with pytest.MonkeyPatch.context() as patch, passwords.started(directory, patch) as server:
        SERVERS.append(server)
        yield server
        SERVERS.remove(server)


@pytest.fixture
def bench(sshd: passwords.PasswordServer, tmp_path: Path) -> Bench:
    return Bench(sshd, tmp_path)


@pytest.fixture(params=["directly", "jumping"])
def either(
    bench: Bench,
    openssh: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Bench:
    """A bench whose server is connected to from here, or through a jump host."""
    if request.param == "jumping":
        bench.jump = jump_host(openssh, tmp_path / "home", monkeypatch)
    return bench


def jump_host(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A server's name for ProxyJump, in a HOME that has what its login takes."""
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    (home / ".ssh" / "id_ed25519").symlink_to(server.key)
    (home / ".ssh" / "config").write_text(
        f"Host 127.0.0.2 127.0.0.3\nStrictHostKeyChecking no\nUser {server.user}\n"
    )
    return f"127.0.0.2:{server.port}"


@pytest.fixture
def with_password(bench: Bench) -> Bench:
    if not passwords.possible():
        pytest.skip("only root can give sshd a shadow file of its own")
    return bench


@pytest.fixture
def agent(sshd: passwords.PasswordServer, tmp_path: Path) -> Iterator[str]:
    """The socket of an agent with the keys user_new and user_ecdsa."""
    path = str(tmp_path / "agent")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        while not os.path.exists(path):
            time.sleep(0.01)
        for name in ("user_new", "user_ecdsa"):
            command = ["ssh-add", "-q", sshd.path(name)]
            subprocess.run(command, check=True, env={**os.environ, "SSH_AUTH_SOCK": path})
        yield path
    finally:
        process.terminate()
        process.wait()


def said(transport: paramiko.Transport, command: str) -> str:
    with transport.open_session() as channel:
        channel.exec_command(command)
        return channel.makefile().read().decode().strip()


def methods(log: str) -> list[str]:
    return re.findall(r"userauth-request for user \S+ service ssh-connection method (\S+)", log)


# The table -----------------------------------------------------------------------------------


def test_the_page_is_generated_from_the_table() -> None:
    command = [sys.executable, "-W", "error", "-m", "fabremote.ssh_page"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == reference() == DOCS.read_text()
    assert all(f"`{option.name}`" in printed for option in TABLE.values())


def test_the_table_has_every_option_of_the_manual() -> None:
    try:
        found = subprocess.run(["man", "-w", "5", "ssh_config"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no man here")
    if found.returncode:
        pytest.skip("no manual of ssh_config here")
    path = Path(found.stdout.strip())
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    page = text.decode().partition(".Sh PATTERNS")[0]
    names = re.findall(r"^\.It Cm ([A-Z]\w+)", page, re.MULTILINE)
    assert len(names) > 90
    assert not [name for name in names if name.lower() not in TABLE]


def test_no_option_is_there_twice() -> None:
    assert len(TABLE) == sum(map(len, (HONOURED, FIXED, REFUSED, REMOVED)))
    assert not {name.lower() for name in ALIASES} & set(TABLE)
    assert {name.lower() for name in ALIASES.values()} <= set(TABLE)


def test_every_honoured_option_is_tested_here() -> None:
    text = Path(__file__).read_text()
    assert not [option.name for option in HONOURED if f'"{option.name}"' not in text]


ALWAYS = [option for option in TABLE.values() if option.status == "refused"]
ONE_VALUE = [option for option in TABLE.values() if option.status == "fixed"]


@pytest.mark.parametrize("option", ALWAYS, ids=lambda option: option.name)
def test_a_refused_option_is_named_with_the_reason(option: Option) -> None:
    for value in ("yes", False, "none", ["a", "b"]):
        with pytest.raises(ValueError, match=f"(?i){option.name}=.* is not possible") as caught:
            parse({option.name.upper(): value} if value is False else {option.name: value})
        assert str(caught.value).endswith(option.note)


@pytest.mark.parametrize("option", ONE_VALUE, ids=lambda option: option.name)
def test_an_option_with_one_value_takes_that_and_no_other(option: Option) -> None:
    for value in option.values:
        assert parse({option.name: value}) == SSHSettings()
        if value in ("yes", "no"):
            assert parse({option.name: value == "yes"}) == SSHSettings()
    for other in ("yes", "no", "/x", "7", ["no", "no"], None):
        if other not in option.values:
            with pytest.raises(ValueError, match=f"{option.name}=.* is not possible"):
                parse({option.name: other})


BAD: list[tuple[str, Any, str]] = [
    ("AddressFamily", "ipv4", "any, inet or inet6"),
    ("BatchMode", "maybe", "yes or no"),
    ("BindAddress", "", "an address"),
    ("BindInterface", "a b", "a network interface"),
    ("CertificateFile", "%z", "%z is no token"),
    ("CheckHostIP", "1", "yes or no"),
    ("Ciphers", "aes128", "no algorithm known here; paramiko has aes128-ctr"),
    ("Ciphers", "chacha20-poly1305@openssh.com", "leaves nothing"),
    ("Ciphers", "-*", "leaves nothing"),
    ("Ciphers", "", "no algorithm"),
    ("Compression", 9, "yes or no"),
    ("ConnectTimeout", -1, "seconds, or a time"),
    ("ConnectTimeout", "1.5", "seconds, or a time"),
    ("ConnectionAttempts", 0, "1 to 1000"),
    ("ForwardAgent", "/run/agent", "yes or no"),
    ("GlobalKnownHostsFile", "'x", "No closing quotation"),
    ("HashKnownHosts", None, "allowed is yes or no"),
    ("HostKeyAlgorithms", "ssh-rsa", "leaves nothing"),
    ("HostKeyAlias", b"x", "a bytes is no value"),
    ("HostName", "%p", "%p is no token"),
    ("HostName", ["a", "b"], "it takes one value"),
    ("IPQoS", "256", "af11 to af43"),
    ("IPQoS", "af11 af12 af13", "af11 to af43"),
    ("IdentitiesOnly", "2", "yes or no"),
    ("IdentityAgent", " ", "none, SSH_AUTH_SOCK"),
    ("IdentityFile", [], "a file name"),
    ("KbdInteractiveAuthentication", {}, "a dict is no value"),
    ("KbdInteractiveDevices", "a b", "names with commas"),
    ("KexAlgorithms", "+diffie-hellman-group1-sha1,oops", "'oops' is no algorithm"),
    ("KexAlgorithms", "diffie-hellman-group1-sha1", "leaves nothing"),
    ("LogLevel", "LOUD", "QUIET, FATAL"),
    ("MACs", "^nonsense*", "no algorithm"),
    ("NumberOfPasswordPrompts", "-1", "0 to 100"),
    ("PasswordAuthentication", "ask", "yes or no"),
    ("Port", "abc", "1 to 65535"),
    ("Port", 0, "1 to 65535"),
    ("Port", 65536, "1 to 65535"),
    ("Port", True, "1 to 65535"),
    ("PreferredAuthentications", "gssapi-with-mic,hostbased", "can log in by none of these"),
    ("PreferredAuthentications", "pubkey", "publickey, keyboard-interactive"),
    ("ProxyCommand", "nc %C", "%C is no token"),
    ("ProxyJump", "a@b@c", "is neither"),
    ("ProxyJump", "gw:99999", "is neither"),
    ("ProxyJump", "gw,,x", "is neither"),
    ("PubkeyAcceptedAlgorithms", "ssh-dss", "leaves nothing"),
    ("PubkeyAuthentication", "host-bound", "yes or no"),
    ("RekeyLimit", "1G 1h", "by amount only"),
    ("RekeyLimit", "8", "an amount of bytes"),
    ("RequiredRSASize", 512, "1024 or more"),
    ("RevokedHostKeys", "%z", "%z is no token"),
    ("SendEnv", "A=b", "names with wildcards"),
    ("ServerAliveCountMax", 0, "1 or more"),
    ("ServerAliveInterval", "often", "seconds, or a time"),
    ("SetEnv", "NOVALUE", "NAME=VALUE"),
    ("StrictHostKeyChecking", "maybe", "yes, accept-new, ask, or no"),
    ("TCPKeepAlive", "all", "yes or no"),
    ("User", "", "a name"),
    ("UserKnownHostsFile", "", "file names"),
    ("VersionAddendum", "a\nb", "a text"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match="ssh_options") as caught:
        parse({name: value})
    text = str(caught.value)
    assert name in text
    assert f"{value!r}" in text
    assert allowed in text


def test_bad_values_are_tested_for_every_honoured_option() -> None:
    assert {option.name for option in HONOURED} == {name for name, _, _ in BAD}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"UserKnownHostFile": "x"}, "Did you mean UserKnownHostsFile?"),
        ({"stricthostkeycheck": "x"}, "Did you mean StrictHostKeyChecking?"),
        ({"timeout": 3}, "unknown option 'timeout'"),
        ({"": 3}, "unknown option ''"),
        ({3: 3}, "names of options are str"),
        ({"Port": 1, "port": 2}, "Port and port, which are the same"),
        (
            {"PubkeyAcceptedAlgorithms": "*", "PubkeyAcceptedKeyTypes": "*"},
            "PubkeyAcceptedAlgorithms and PubkeyAcceptedKeyTypes, which are the same",
        ),
        ({"ProxyJump": "a", "ProxyCommand": "b"}, "exclude each other"),
        ({"BindAddress": "::1", "BindInterface": "lo"}, "exclude each other"),
        ({"ServerAliveCountMax": 2}, "give ServerAliveInterval, too"),
        ({"ProxyJump": "a", "BindAddress": "::1"}, "BindAddress has no effect behind"),
        ({"ProxyCommand": "a", "ConnectionAttempts": 2}, "ConnectionAttempts has no effect"),
        ({"ProxyCommand": "a", "CheckHostIP": True}, "CheckHostIP has no effect"),
        ({"ForwardAgent": True, "IdentityAgent": "/x"}, "not that of IdentityAgent"),
    ],
)
def test_what_is_unknown_doubled_or_contradictory_is_refused(
    options: dict[Any, Any], text: str
) -> None:
    with pytest.raises(ValueError, match="ssh_options") as caught:
        parse(options)
    assert text in str(caught.value)


def test_no_options_change_nothing() -> None:
    settings = parse({})
    assert settings == SSHSettings()
    assert connection_arguments(settings) == {}
    assert settings.env == {}


def test_names_in_any_case_and_values_of_any_type() -> None:
    settings = parse(
        {
            "stricthostkeychecking": False,
            "USERKNOWNHOSTSFILE": "/dev/null",
            "Port": "2222",
            "proxyJump": "gw",
            "ConnectTimeout": "1m30s",
            "compression": "TRUE",
            "PubkeyAcceptedKeyTypes": "+ssh-ed25519",
            "KeepAlive": "yes",
        }
    )
    assert settings.port == 2222
    assert settings.host_keys.strict == "no"
    assert settings.host_keys.user_files == ("/dev/null",)
    assert settings.gateway == "gw"
    assert settings.connect_timeout == 90
    assert settings.compress
    assert settings.tcp_keepalive
    assert "ssh-ed25519" in settings.pubkeys


def test_several_values_as_a_list_or_in_one_text() -> None:
    assert parse({"UserKnownHostsFile": 'a "b c"'}).host_keys.user_files == ("a", "b c")
    assert parse({"UserKnownHostsFile": ["a", "b c"]}).host_keys.user_files == ("a", "b c")
    assert parse({"GlobalKnownHostsFile": Path("b c")}).host_keys.global_files == ("b c",)
    assert parse({"UserKnownHostsFile": "none"}).host_keys.user_files == ()
    assert parse({"IdentityFile": "my key"}).identity_files == ("my key",)
    assert parse({"IdentityFile": ["x", Path("y")]}).identity_files == ("x", "y")
    assert parse({"SetEnv": {"A": "b c"}}).env == {"A": "b c"}
    assert parse({"SetEnv": 'A="b c" D=e'}).env == {"A": "b c", "D": "e"}
    assert parse({"Ciphers": ["aes256-ctr", "aes128-ctr"]}).ciphers == ("aes256-ctr", "aes128-ctr")


def test_algorithms_take_prefixes_wildcards_and_names_that_only_openssh_has() -> None:
    offered = paramiko.Transport._preferred_ciphers  # type: ignore[attr-defined]

    def ciphers(text: str) -> tuple[str, ...]:
        return parse({"Ciphers": text}).ciphers

    assert ciphers("aes256-ctr,aes128-ctr") == ("aes256-ctr", "aes128-ctr")
    assert ciphers("chacha20-poly1305@openssh.com,aes128-ctr") == ("aes128-ctr",)
    assert ciphers("*-gcm@openssh.com") == ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
    assert ciphers("-*-cbc,aes???-gcm*") == ("aes128-ctr", "aes192-ctr", "aes256-ctr")
    assert ciphers("-arcfour*") == offered
    assert ciphers("^aes256-gcm@openssh.com")[:2] == ("aes256-gcm@openssh.com", "aes128-ctr")
    assert sorted(ciphers("^aes256-gcm@openssh.com")) == sorted(offered)
    assert ciphers("+aes128-ctr") == offered
    assert ciphers("+chacha20-poly1305@openssh.com") == offered
    assert ciphers("^chacha20-poly1305@openssh.com") == offered
    for option in ("HostKeyAlgorithms", "PubkeyAcceptedAlgorithms"):
        for name in ("+ssh-rsa", "^ssh-rsa", "+ssh-dss,ssh-rsa"):
            assert parse({option: name})
    assert parse({"KexAlgorithms": "curve25519-sha256"}).kex == ("curve25519-sha256@libssh.org",)
    assert parse({"HostKeyAlgorithms": "-ssh-ed*,ecdsa*"}).host_keys.algorithms == (
        "-ssh-ed*",
        "ecdsa*",
    )


@pytest.mark.parametrize(
    ("text", "hops"),
    [
        ("gw", [Hop(None, "gw", None)]),
        ("me@gw:2222,other", [Hop("me", "gw", 2222), Hop(None, "other", None)]),
        ("ssh://me@gw:22/, [::1]:23", [Hop("me", "gw", 22), Hop(None, "::1", 23)]),
        ("me@[fe80::1%eth0]", [Hop("me", "fe80::1%eth0", None)]),
        ("", []),
    ],
)
def test_jump_hosts(text: str, hops: list[Hop]) -> None:
    assert parse_jump(text) == hops


def test_none_takes_back_what_the_users_own_file_says() -> None:
    assert parse({"ProxyJump": "none"}).gateway is False
    assert parse({"ProxyCommand": "none"}).gateway is False
    assert connection_arguments(parse({"ProxyCommand": "nc"})) == {"gateway": False}
    assert connection_arguments(parse({"ProxyJump": "gw"})) == {}
    assert parse({"IdentityFile": "none"}).identity_files == ()
    assert parse({"VersionAddendum": "none"}).version_addendum is None


def test_tokens_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FR_DIR", "/d%h")
    given = parse(
        {
            "HostName": "%h.example",
            "User": "me",
            "Port": 23,
            "IdentityFile": "~/${FR_DIR}/%r@%h:%p-%n-%%",
            "ProxyJump": "%r@gw",
            "IdentityAgent": "$FR_DIR",
            "UserKnownHostsFile": "/x/%r/%h",
        }
    )
    settings = given.for_host("web", "you")
    home = os.environ["HOME"]
    assert settings.identity_files == (f"{home}//d%h/me@web.example:23-web-%",)
    assert settings.proxy_jump == "me@gw"
    assert settings.identity_agent == "/d%h"
    assert settings.host_keys.user_files == ("/x/me/%h",)
    monkeypatch.delenv("FR_DIR")
    with pytest.raises(ValueError, match="no FR_DIR"):
        given.for_host("web", "you")


# Where to and how ------------------------------------------------------------------------------


def test_hostname_port_and_user(bench: Bench) -> None:
    options = {"HostName": "%h.2", "Port": bench.server.port, "User": bench.server.user}
    with bench.connected(options, host="127.0.0") as transport:
        assert said(transport, "id -un") == bench.server.user
    bench.log(f"on 127.0.0.2 port {bench.server.port}")
    assert "Login of fr-nobody failed" in bench.refused({"User": "fr-nobody"})
    bench.log("Invalid user fr-nobody")


def test_address_family(bench: Bench) -> None:
    for family, good, bad in (("inet", HOST, "::1"), ("inet6", "::1", HOST)):
        with bench.connected({"AddressFamily": family}, host=good):
            bench.log(f"Connection from {good} ")
        bench.refused({"AddressFamily": family}, OSError, host=bad)
        found = {entry[0] for entry in socket.getaddrinfo("localhost", 22)}
        if len(found) == 2:  # the name stands for both
            options = {"AddressFamily": family, "Port": bench.server.port}
            with open_socket(parse(options).for_host("localhost", "x")) as sock:
                assert sock.getpeername()[0] == good
        with bench.connected({"AddressFamily": "any"}, host=good):
            pass


def test_bind_address(bench: Bench) -> None:
    with bench.connected({"BindAddress": "127.0.0.77"}) as transport:
        assert transport.sock.getsockname()[0] == "127.0.0.77"
    bench.log("Connection from 127.0.0.77")
    bench.refused({"BindAddress": "203.0.113.7"}, OSError)


def test_bind_interface(bench: Bench) -> None:
    for _, name in socket.if_nameindex():
        try:
            address = sockets.interface_address(name, socket.AF_INET)
        except OSError:
            continue  # it has none
        with bench.connected({"BindInterface": name}):
            bench.log(f"Connection from {address} ")
    assert sockets.interface_address("lo", socket.AF_INET) == "127.0.0.1"
    with bench.connected({"BindInterface": "lo"}, host="::1"):
        bench.log("Connection from ::1 ")
    bench.refused({"BindInterface": "nosuch0"}, OSError)


def test_connect_timeout(either: Bench) -> None:
    started = time.monotonic()
    os.kill(either.server.pid, signal.SIGSTOP)  # the kernel accepts, nobody answers
    try:
        either.refused({"ConnectTimeout": 1}, (OSError, paramiko.SSHException))
    finally:
        os.kill(either.server.pid, signal.SIGCONT)
    assert 0.8 < time.monotonic() - started < 12  # paramiko's own is 15 s
    with either.connected({"ConnectTimeout": "1m"}) as transport:
        assert transport.banner_timeout == transport.handshake_timeout == 60


def test_connection_attempts() -> None:
    with socket.socket() as late:
        late.bind((HOST, 0))
        port = late.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            open_socket(parse({"Port": port}).for_host(HOST, "x"))
        timer = threading.Timer(0.3, late.listen)
        timer.start()
        try:
            options = {"Port": port, "ConnectionAttempts": 3}
            open_socket(parse(options).for_host(HOST, "x")).close()
        finally:
            timer.join()


def test_tcp_keepalive_and_class_of_service(bench: Bench) -> None:
    for option, expected in ((True, 1), (False, 0)):
        with bench.connected({"TCPKeepAlive": option}) as transport:
            assert transport.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == expected
    for value, expected in (("af21", 0x48), ("lowdelay throughput", 8), ("0x10", 16), ("none", 0)):
        with bench.connected({"IPQoS": value}) as transport:
            assert transport.sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == expected
    with bench.connected({"IPQoS": "cs1"}, host="::1") as transport:
        assert transport.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == 0x20


def test_proxy_command(bench: Bench, tmp_path: Path) -> None:
    command = passwords.relay(tmp_path) + " %h %p"
    with bench.connected({"ProxyCommand": command}) as transport:
        process = transport.sock.process
        assert said(transport, "echo here") == "here"
    assert process.poll() is not None
    bench.refused({"ProxyCommand": "exit 3"}, (paramiko.SSHException, EOFError, OSError))


def test_proxy_jump(
    bench: Bench, openssh: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jump = jump_host(openssh, tmp_path / "home", monkeypatch)
    (tmp_path / "home" / ".ssh" / "id_ecdsa").symlink_to(bench.server.path("user_ecdsa"))
    way = f"{jump},{bench.server.user}@127.0.0.3:{bench.server.port}"
    with bench.connected({"ProxyJump": way}) as transport:
        assert said(transport, "echo $SSH_CONNECTION").split()[2] == HOST
    bench.log("on 127.0.0.3 port", f"on {HOST} port")
    assert bench.log().count("Accepted publickey") == 2


# The transport ---------------------------------------------------------------------------------


def test_ciphers_macs_and_key_exchange(either: Bench) -> None:
    with either.connected({}) as transport:
        usual = transport.local_cipher
    options = {
        "Ciphers": "^aes256-ctr",
        "MACs": "hmac-sha2-512-etm@openssh.com",
        "KexAlgorithms": "ecdh-sha2-nistp384",
    }
    with either.connected(options) as transport:
        assert transport.local_cipher == transport.remote_cipher == "aes256-ctr" != usual
        assert transport.local_mac == transport.remote_mac == "hmac-sha2-512-etm@openssh.com"
    either.log("kex: algorithm: ecdh-sha2-nistp384")
    with either.connected({"Ciphers": f"-{usual},aes*-ctr"}) as transport:
        assert transport.local_cipher not in (usual, "aes256-ctr")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
        ("sk-ssh-ed25519@openssh.com,rsa-sha2-256", "rsa-sha2-256"),
        ("-ssh-ed25519,ecdsa*,rsa-sha2-256", "rsa-sha2-512"),
        ("^ecdsa*", "ecdsa-sha2-nistp256"),
    ],
)
def test_host_key_algorithms(either: Bench, wanted: str, expected: str) -> None:
    with either.connected({"HostKeyAlgorithms": wanted}) as transport:
        assert transport.host_key_type == expected
    factory = make_transport_factory(either.settings({"HostKeyAlgorithms": wanted}))
    with socket.create_connection((HOST, either.server.port)) as sock:
        transport = factory(sock)
        try:
            transport.start_client(timeout=30)
            assert transport.host_key_type == expected
        finally:
            transport.close()


def test_compression(either: Bench) -> None:
    with either.connected({"Compression": False}) as transport:
        assert transport.local_compression == "none"
    with either.connected({"Compression": True}) as transport:
        assert transport.local_compression == "zlib@openssh.com"
        assert said(transport, "echo squeezed") == "squeezed"
    either.log("Enabling compression")


def test_rekey_limit(either: Bench) -> None:
    data = os.urandom(400_000)

    def renewals() -> int:
        return either.log("NEWKEYS").count("SSH2_MSG_NEWKEYS sent") - 1

    for limit in ("default none", "100K"):
        either.start = len(either.server.read())
        with either.connected({"RekeyLimit": limit}) as transport:
            with transport.open_session() as channel:
                channel.exec_command("wc -c")
                channel.sendall(data)
                channel.shutdown_write()
                assert channel.makefile().read().strip() == b"400000"
            # Paramiko's thread begins it, which may be once all has been sent.
            assert settled(renewals) if limit == "100K" else not renewals()


def test_keys_are_renewed_while_the_host_closes_a_channel(
    bench: Bench, openssh: Server, tmp_path: Path
) -> None:
    with relayed(bench.server) as relay:
        name = f"[{HOST}]:{relay.port}"
        bench.known.write_text(
            bench.known.read_text().replace(f"[{HOST}]:{bench.server.port}", name)
        )
        with bench.connected({"Port": relay.port, "RekeyLimit": "64K"}) as transport:
            ending, other = transport.open_session(), transport.open_session()
            ending.exec_command(f"while ! test -e {tmp_path}/gate; do sleep 0.01; done")
            other.exec_command("cat > /dev/null")
            relay.hold()
            # The host closes the channel, and before that comes, this side begins to renew keys.
            (tmp_path / "gate").touch()
            assert settled(lambda: not any("gate" in p.command for p in bench.server.processes()))
            other.sendall(os.urandom(100_000))
            assert settled(lambda: transport.in_kex)
            relay.resume()
            assert settled(lambda: ending.closed, 10)
            assert said(transport, "echo here") == "here"
            assert not transport.in_kex


def test_version_addendum(either: Bench) -> None:
    with either.connected({"VersionAddendum": "hello there"}):
        either.log(f"remote software version paramiko_{paramiko.__version__} hello there")


def test_log_level(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.setLevel(0)
    for level, expected in (
        ("DEBUG3", {logging.DEBUG, logging.INFO}),
        ("VERBOSE", {logging.INFO}),
        ("ERROR", set()),
        ("QUIET", set()),
    ):
        caplog.clear()
        with bench.connected({"LogLevel": level}):
            pass
        seen = {r.levelno for r in caplog.records if r.name.startswith("paramiko.transport")}
        assert seen == expected


def test_a_dead_host_is_noticed_by_server_alive(either: Bench) -> None:
    options = {"ServerAliveInterval": 1, "ServerAliveCountMax": 2}
    with either.connected(options) as transport, either.connected({}) as careless:
        pids = [int(said(link, "echo $PPID")) for link in (transport, careless)]
        either.log("keepalive@fabremote")
        assert transport.is_active()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            transport.join(20)
            assert not transport.is_active()
            assert careless.is_active()
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


def test_no_keepalive(either: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEPALIVE", 1)
    with either.connected({}):
        either.log("keepalive@")
    either.start = len(either.server.read())
    with either.connected({"ServerAliveInterval": 0}):
        time.sleep(1.5)
        assert "keepalive@" not in either.log("Accepted publickey")


# Environment and agent, through Fabric ---------------------------------------------------------


def environment() -> dict[str, str]:
    return dict(os.environ)


def test_set_env_and_send_env(either: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FR_SENT", "from here")
    monkeypatch.setenv("FR_KEPT", "secret")
    options = {"SetEnv": {"FR_SET": "it's 2"}, "SendEnv": "FR_* -FR_K?PT"}
    with either.connection(options) as connection:
        found = connection.call(environment)
    ours = {name: value for name, value in found.items() if name.startswith("FR_")}
    assert ours == {"FR_SENT": "from here", "FR_SET": "it's 2"}


# The thread that paramiko forwards with may find its channel closed, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_forward_agent(either: Bench, agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    for option, expected in ((True, "user_new"), (False, "")):
        options = {"ForwardAgent": option, "IdentityAgent": "SSH_AUTH_SOCK"}
        with either.connection(options) as connection:
            command = "ssh-add -l || true"
            shown = connection.run(command, hide=True, in_stream=False).stdout
        assert expected in shown
        assert bool(expected) == ("user_new" in shown)


# Logging in ------------------------------------------------------------------------------------


def test_identity_files_in_order(either: Bench) -> None:
    missing, stranger = either.server.path("nosuch"), either.server.path("user_new")
    options = {"IdentityFile": [missing, stranger, either.server.path("user_rsa")]}
    with either.connected(options):
        pass
    log = either.log("Accepted publickey")
    assert re.findall(r"have (\S+) signature for", log)[0] == "ssh-ed25519"
    assert "RSA SHA256" in log
    text = either.refused({"IdentityFile": [missing, stranger]})
    assert f"key {missing}: no such file; key {stranger}: refused" in text


def test_the_usual_files_unless_one_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    os.symlink(bench.server.path("user_ecdsa"), tmp_path / ".ssh" / "id_ecdsa")
    with bench.connected({"IdentityFile": ""}):
        bench.log("ECDSA SHA256")
    assert "nothing to log in with" in bench.refused({"IdentityFile": "none"})
    text = bench.refused({"IdentityFile": ""}, look_for_keys=False)
    assert "nothing to log in with" in text
    with bench.connected({"IdentityFile": "none"}, key_filename=bench.server.key):
        bench.log("ED25519 SHA256")


def test_a_passphrase(bench: Bench, tmp_path: Path) -> None:
    locked = {"IdentityFile": bench.server.path("user_locked")}
    with bench.connected(locked, passphrase="sesame"):
        bench.log("Accepted publickey")
    for phrase, text in ((None, "needs a passphrase"), ("wrong", "passphrase is wrong")):
        assert text in bench.refused(locked, passphrase=phrase)
    garbage = tmp_path / "garbage"
    garbage.touch(0o600)
    assert "no private key" in bench.refused({"IdentityFile": garbage})


def test_identity_agent(bench: Bench, agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only = {"IdentityFile": "none"}
    with bench.connected({**only, "IdentityAgent": agent}):
        bench.log("ECDSA SHA256")
    monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    monkeypatch.setenv("FR_AGENT", agent)
    for value in ("SSH_AUTH_SOCK", "$FR_AGENT", "${FR_AGENT}", ""):
        with bench.connected({**only, "IdentityAgent": value}):
            pass
        text = bench.refused({**only, "IdentityAgent": value}, allow_agent=False)
        assert "nothing to log in with" in text
    assert "nothing to log in with" in bench.refused({**only, "IdentityAgent": "none"})
    assert "agent: can't be used" in bench.refused({**only, "IdentityAgent": "/nosuch"})


def test_identities_only(bench: Bench, agent: str) -> None:
    options = {"IdentityAgent": agent, "IdentityFile": bench.server.path("user_ecdsa.pub")}
    with bench.connected({**options, "IdentitiesOnly": True}):
        pass
    assert methods(bench.log("ECDSA SHA256")) == ["publickey"]
    other = {**options, "IdentityFile": bench.server.path("user_rsa.pub")}
    assert "no private key" in bench.refused({**other, "IdentitiesOnly": True})
    with bench.connected({**other, "IdentitiesOnly": False}):
        pass


def test_certificates(either: Bench, agent: str) -> None:
    key, certificate = either.server.path("user_new"), either.server.path("new.cert")
    for options in (
        {"IdentityFile": key},
        {"IdentityFile": "none", "IdentityAgent": agent, "PubkeyAcceptedAlgorithms": "*cert*"},
    ):
        either.start = len(either.server.read())
        with either.connected({**options, "CertificateFile": certificate}):
            either.log("Accepted publickey", "ED25519-CERT")
    text = either.refused({"IdentityFile": key, "CertificateFile": ["/nosuch", "none"]})
    assert "certificate /nosuch: no such file" in text
    options = {"IdentityFile": either.server.path("ca"), "CertificateFile": certificate}
    assert "belongs to none of the keys" in either.refused(options)


@pytest.mark.parametrize("text", ["", "garbage", "a b c", "ssh-ed25519-cert-v01@openssh.com AAAA"])
def test_a_broken_certificate_is_left_out(either: Bench, tmp_path: Path, text: str) -> None:
    key, certificate = tmp_path / "key", tmp_path / "key-cert.pub"
    shutil.copy(either.server.key, key)
    certificate.write_text(text)
    with either.connected({"IdentityFile": key}):
        pass
    with either.connected({"CertificateFile": certificate}):
        pass
    shutil.copy(either.server.path("user_new"), key)
    for named in ({"IdentityFile": key}, {"IdentityFile": key, "CertificateFile": certificate}):
        assert f"certificate {certificate}: can't be read" in either.refused(named)


def test_pubkey_accepted_algorithms(bench: Bench) -> None:
    files = [bench.server.key, bench.server.path("user_ecdsa"), bench.server.path("user_rsa")]
    for wanted, used in (
        ("rsa-sha2-256", "rsa-sha2-256"),
        ("rsa-sha2-*", "rsa-sha2-512"),
        ("-ssh-ed25519*", "ecdsa-sha2-nistp256"),
        ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
    ):
        bench.start = len(bench.server.read())
        with bench.connected({"IdentityFile": files, "PubkeyAcceptedAlgorithms": wanted}):
            pass
        tried = re.findall(r"have (\S+) signature for", bench.log("Accepted publickey"))
        assert set(tried) == {used}
    options = {"IdentityFile": files[0], "PubkeyAcceptedKeyTypes": "rsa*"}
    assert "not among PubkeyAccepted" in bench.refused(options)


def test_required_rsa_size(bench: Bench) -> None:
    options = {"IdentityFile": bench.server.path("user_rsa")}
    with bench.connected({**options, "RequiredRSASize": 2048}):
        pass
    assert "shorter than 3072 bits" in bench.refused({**options, "RequiredRSASize": 3072})
    rsa = {"HostKeyAlgorithms": "rsa*", "RequiredRSASize": 3072}
    bench.start = len(bench.server.read())
    assert "the host's RSA key has 2048 bits" in bench.refused(rsa, paramiko.SSHException)
    assert not methods(bench.log("NEWKEYS"))


def test_the_order_of_methods(with_password: Bench) -> None:
    bench = with_password
    stranger = {"IdentityFile": bench.server.path("user_new")}
    password = bench.server.password
    with bench.connected(stranger, password=password):
        pass
    assert methods(bench.log("Accepted password")) == ["publickey", "password"]
    for order, seen in (
        ("keyboard-interactive,publickey", ["keyboard-interactive"]),
        ("password", ["password"]),
        ("gssapi-with-mic,publickey,keyboard-interactive", ["publickey", "keyboard-interactive"]),
    ):
        bench.start = len(bench.server.read())
        options = {**stranger, "PreferredAuthentications": order}
        with bench.connected(options, password=password):
            pass
        assert methods(bench.log("Accepted")) == seen


def test_methods_that_are_switched_off(with_password: Bench) -> None:
    bench = with_password
    password = bench.server.password
    for off, seen in (
        (["PubkeyAuthentication"], ["password"]),
        (["PubkeyAuthentication", "PasswordAuthentication"], ["keyboard-interactive"]),
        (["PasswordAuthentication", "ChallengeResponseAuthentication"], ["publickey"]),
    ):
        bench.start = len(bench.server.read())
        with bench.connected(dict.fromkeys(off, False), password=password):
            pass
        assert methods(bench.log("Accepted")) == seen
    every = [
        "PubkeyAuthentication",
        "PasswordAuthentication",
        "KbdInteractiveAuthentication",
    ]
    bench.start = len(bench.server.read())
    assert "nothing to log in with" in bench.refused(dict.fromkeys(every, "no"), password=password)
    assert not methods(bench.log("NEWKEYS"))


def test_devices_of_keyboard_interactive(with_password: Bench) -> None:
    bench = with_password
    options = {
        "PreferredAuthentications": "keyboard-interactive",
        "KbdInteractiveDevices": "skey,pam",
    }
    with bench.connected(options, password=bench.server.password):
        bench.log("keyboard-interactive devs skey,pam")
    assert "keyboard-interactive" in bench.refused(
        {**options, "KbdInteractiveDevices": "skey"}, password="x"
    )


def test_a_wrong_password_is_tried_once_by_each_method(with_password: Bench) -> None:
    bench = with_password
    text = bench.refused({"PubkeyAuthentication": False}, password="wrong")
    assert "password: refused; keyboard-interactive: refused" in text
    assert "wrong" not in text


def test_two_methods_in_turn(
    with_password: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = {"AuthenticationMethods": "publickey,password"}
    with passwords.started(tmp_path / "two", monkeypatch, **needed) as server:
        bench = Bench(server, tmp_path)
        keys = {"IdentityFile": [server.key, server.path("user_rsa")]}
        with bench.connected(keys, password=server.password) as transport:
            assert said(transport, "echo both") == "both"
        assert methods(bench.log("Accepted password")) == ["publickey", "password"]
        assert "client_key: accepted" in bench.refused(
            {"PasswordAuthentication": False}, password="x"
        )


ASKING = """
import paramiko
from fabremote.hosts import open_connection
try:
    with open_connection({host!r}, user={user!r}, ssh_options={options!r}) as c:
        c.open()
except paramiko.AuthenticationException as error:
    print("FAILED", error)
else:
    print("LOGGED IN")
"""


def asked(bench: Bench, options: dict[str, Any], answers: list[str]) -> str:
    """What a program with a terminal shows that logs in with these options."""
    program = ASKING.format(
        options={
            "Port": bench.server.port,
            "IdentityAgent": "none",
            "UserKnownHostsFile": str(bench.known),
            **options,
        },
        host=HOST,
        user=bench.server.user,
    )
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", program])
    shown = b""
    try:
        while True:
            try:
                shown += os.read(terminal, 4096)
            except OSError:
                return shown.decode()
            if answers and shown.rstrip().lower().endswith(b"assword:"):
                os.write(terminal, answers.pop(0).encode() + b"\n")
                shown += b"."
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


def test_number_of_password_prompts(with_password: Bench) -> None:
    bench = with_password
    plain = {"PreferredAuthentications": "password"}
    right = bench.server.password
    shown = asked(bench, {**plain, "NumberOfPasswordPrompts": 3}, ["a", "b", right])
    assert "LOGGED IN" in shown
    assert shown.count("'s password:") == 3
    assert right not in shown
    assert bench.log("Accepted password").count("Failed password") == 2
    shown = asked(bench, {**plain, "NumberOfPasswordPrompts": 2}, ["a", "b", right])
    assert "FAILED" in shown
    assert shown.count("'s password:") == 2
    interview = {"PreferredAuthentications": "keyboard-interactive", "NumberOfPasswordPrompts": 2}
    assert "LOGGED IN" in asked(bench, interview, ["a", right])


def test_nobody_is_asked_without_the_option_or_in_batch_mode(bench: Bench) -> None:
    for options in ({}, {"NumberOfPasswordPrompts": 3, "BatchMode": True}):
        shown = asked(bench, options, ["a"])
        assert "FAILED" in shown
        assert "assword:" not in shown.partition("FAILED")[0]


# Host keys: what reaches the verifier ------------------------------------------------------------


def test_strict_host_key_checking(either: Bench) -> None:
    either.known.write_text("")
    either.refused({"StrictHostKeyChecking": True}, RemoteHostKeyRejected)
    assert not methods(either.log("NEWKEYS"))
    for value, lines in (("off", 1), (False, 1), ("accept-new", 1), ("yes", 1)):
        with either.connected({"StrictHostKeyChecking": value}):
            pass
        assert len(either.known.read_text().splitlines()) == lines
        if value != "accept-new":
            either.known.write_text("" if value == "off" else either.known.read_text())


def test_batch_mode_and_ask(bench: Bench) -> None:
    bench.known.write_text("")
    options = {"StrictHostKeyChecking": "ask", "BatchMode": True}
    assert "BatchMode" in bench.refused(options, RemoteHostKeyRejected)


def test_files_alias_and_hashes(either: Bench, tmp_path: Path) -> None:
    everywhere = tmp_path / "global"
    everywhere.write_text(either.lines)
    with either.connected({"UserKnownHostsFile": "none", "GlobalKnownHostsFile": everywhere}):
        pass
    mine = tmp_path / "mine"
    new = {"StrictHostKeyChecking": "accept-new", "UserKnownHostsFile": mine}
    with either.connected({**new, "HostKeyAlias": "nick", "HashKnownHosts": False}):
        assert mine.read_text().startswith("nick ssh-ed25519 ")
    with either.connected({**new, "HashKnownHosts": True}):
        assert mine.read_text().splitlines()[-1].startswith("|1|")
    assert parse({"CheckHostIP": True}).host_keys.check_ip


def test_a_connection_can_be_opened_again(either: Bench) -> None:
    with either.connection({}) as connection:
        connection.close()
        connection.open()
        assert said(connection.transport, "echo again") == "again"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n\n",
        "<key>\n",
        "# first\n  <key> of a host",
        "<other>\n",
        "<other>\n<key>\n",
        "host <key>\n",
        "@revoked * <key>\n",
        "garbage\n",
        "ssh-ed25519 AAAA\n",
        "SSHKRL\n\0",
        None,
    ],
)
def test_revoked_host_keys_are_those_of_ssh(
    bench: Bench, tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "revoked"
    keys = {"<key>": "host_key.pub", "<other>": "ca.pub"}
    if text is not None:
        for mark, name in keys.items():
            text = text.replace(mark, Path(bench.server.path(name)).read_text().strip())
        file.write_text(text)
    expected = ssh_connects(bench, "", f"RevokedHostKeys {file}")
    if expected:
        with bench.connected({"RevokedHostKeys": file}):
            pass
    else:
        assert str(file) in bench.refused({"RevokedHostKeys": file}, RemoteHostKeyRejected)


# ~/.ssh/config and fabric.yml --------------------------------------------------------------------


def ssh_connects(bench: Bench, host: str, config: str) -> bool:
    """Whether ssh itself logs in with these lines of its configuration."""
    known = [] if "KnownHostsFile" in config else [f"UserKnownHostsFile {bench.known}"]
    config += "\n" + "\n".join(known)
    path = bench.known.parent / "ssh_config"
    path.write_text(
        f"{config}\nPort {bench.server.port}\nUser {bench.server.user}\nHostName {HOST}\n"
        f"IdentityFile {bench.server.key}\nBatchMode yes\nStrictHostKeyChecking accept-new\n"
    )
    command = ["ssh", "-F", str(path), host or HOST, "true"]
    return not subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode


Configured = Callable[[str], None]


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench) -> Configured:
    """Gives the HOME of the test a ~/.ssh/config with these lines, and "web" in it."""
    home = tmp_path / "configured"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))

    def write(text: str) -> None:
        (home / ".ssh" / "config").write_text(f"Host web\nHostName {HOST}\n{text}\n")

    return write


@pytest.mark.parametrize("value", ["+ssh-rsa", "^ssh-rsa", "+ssh-rsa,ssh-dss", "-ssh-dss"])
def test_algorithms_that_paramiko_lacks_are_added_in_vain(
    bench: Bench, configured: Configured, value: str
) -> None:
    configured(f"HostKeyAlgorithms {value}\nPubkeyAcceptedAlgorithms {value}")
    with bench.connected({}, host="web") as transport:
        assert transport.host_key_type == "ssh-ed25519"
    with bench.connected({"HostKeyAlgorithms": value, "PubkeyAcceptedAlgorithms": value}):
        pass


def test_revoked_keys_and_commands_of_the_users_own_file(
    bench: Bench, configured: Configured
) -> None:
    configured(f"RevokedHostKeys {bench.server.path('host_key.pub')}")
    assert "revoked" in bench.refused({}, RemoteHostKeyRejected, host="web")
    with bench.connected({"RevokedHostKeys": "none"}, host="web"):
        pass
    configured("KnownHostsCommand /bin/true")
    assert "KnownHostsCommand" in bench.refused({}, ValueError, host="web")
    with bench.connected({"KnownHostsCommand": "none"}, host="web"):
        pass


def test_addresses_are_checked_as_the_users_own_file_says(
    either: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(os.environ["HOME"]) if either.jump else tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    (home / ".ssh").mkdir(parents=True, exist_ok=True)
    with (home / ".ssh" / "config").open("a") as lines:
        lines.write("Host *\nCheckHostIP yes\n")
    with either.connection({}) as connection:
        assert isinstance(connection, HostConnection)
        assert connection.settings.host_keys.check_ip is not bool(either.jump)


def test_names_as_they_were_given(bench: Bench, configured: Configured, tmp_path: Path) -> None:
    said = f"StrictHostKeyChecking accept-new\nUserKnownHostsFile {tmp_path}/of-%n-%k-%h"
    assert ssh_connects(bench, "web", said)
    (by_ssh,) = tmp_path.glob("of-*")
    by_ssh.unlink()
    configured(said)
    ours = {"UserKnownHostsFile": "", "StrictHostKeyChecking": ""}
    (tmp_path / "web").symlink_to(bench.server.key)
    with bench.connected({**ours, "IdentityFile": f"{tmp_path}/%n"}, host="web"):
        assert list(tmp_path.glob("of-*")) == [by_ssh]
    by_ssh.unlink()
    relay = passwords.relay(tmp_path)
    note = f"sh -c 'echo %n > {tmp_path}/noted; exec {relay} %h %p'"
    with bench.connected({**ours, "ProxyCommand": note}, host="web"):
        assert (tmp_path / "noted").read_text() == "web\n"


@pytest.mark.parametrize(
    "value",
    [
        "<>/a <>/b",
        '"<>/a b"',
        '"<>/a b" <>/c',
        '<>/c "<>/a b"',
        '"<>/a b" "<>/c d"',
        "'<>/a b' <>/c",
        '"<>/a"',
        '"<>/%n b/kh"',
    ],
)
def test_files_with_spaces_are_those_of_ssh(
    bench: Bench, configured: Configured, tmp_path: Path, value: str
) -> None:
    (tmp_path / "stored" / "web b").mkdir(parents=True)
    stored = tmp_path / "stored"
    text = "StrictHostKeyChecking accept-new\n"
    text += f"UserKnownHostsFile {value.replace('<>', str(stored))}"

    def new() -> list[Path]:
        found = [path for path in stored.rglob("*") if path.is_file()]
        for path in found:
            path.unlink()
        return found

    assert ssh_connects(bench, "web", text)
    expected = new()
    assert len(expected) == 1
    configured(text)
    with bench.connected({"UserKnownHostsFile": "", "StrictHostKeyChecking": ""}, host="web"):
        assert new() == expected


def test_connect_kwargs_of_the_users_fabric_file(
    either: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(os.environ["HOME"]) if either.jump else tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    home.mkdir(exist_ok=True)
    (home / ".fabric.yml").write_text(
        "connect_kwargs: {banner_timeout: 33, auth_timeout: 44, timeout: 55, compress: true,\n"
        "  disabled_algorithms: {ciphers: [aes128-ctr]}}"
    )
    for options in ({}, {"ConnectTimeout": 22}):
        with either.connection(options) as connection:
            transport = connection.transport
            assert transport.banner_timeout == 33
            assert transport.auth_timeout == 44
            assert transport.local_cipher != "aes128-ctr"
            assert transport.local_compression == "zlib@openssh.com"
            assert connection.time_to_connect() == options.get("ConnectTimeout", 55)


def test_what_would_take_our_place_is_refused() -> None:
    for name in ("auth_strategy", "transport_factory"):
        with pytest.raises(ValueError, match=f"connect_kwargs has {name}"):
            HostConnection(HOST, connect_kwargs={name: None})
