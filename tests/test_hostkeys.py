"""Host keys: decisions compared with the ssh client's, on real servers with several keys."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import logging
import os
import pty
import random
import re
import shlex
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncssh
import fabric
import paramiko
import pytest

from fabremote import hostkeys, known_hosts, sockets
from fabremote.demo.server import OpenSSHServer, find_sshd
from fabremote.exceptions import RemoteConnectionRefused, RemoteHostKeyRejected
from fabremote.hostkey_certificate import Certificate
from fabremote.hostkeys import HostKeySettings, Verifier

HOST = "web1.example.com"
TYPES = ("ed25519", "ecdsa", "rsa")
OFFERS = {"all": TYPES, "ed25519": TYPES[:1], "ecdsa": TYPES[1:2], "rsa": TYPES[2:]}
OFFERS["old"] = ("ecdsa", "rsa")
# Certificates of the ed25519 key: by which authority, and as ssh-keygen is told.
CERTIFICATES = {
    "certified": ("ca", ["-h", "-n", HOST]),
    "certified_among_others": ("ca", ["-h", "-n", f"web2,{HOST}"]),
    "certified_by_rsa": ("rsa_ca", ["-h", "-n", HOST]),
    "certified_by_sha1": ("rsa_ca", ["-h", "-n", HOST, "-t", "ssh-rsa"]),
    "certified_web2": ("ca", ["-h", "-n", "web2.example.com"]),
    "certified_star": ("ca", ["-h", "-n", "*.example.com"]),
    "certified_for_all": ("ca", ["-h"]),
    "certified_alias": ("ca", ["-h", "-n", "alias"]),
    "expired": ("ca", ["-h", "-n", HOST, "-V", "-2d:-1d"]),
    "not_yet": ("ca", ["-h", "-n", HOST, "-V", "+1d:+2d"]),
    "user": ("ca", ["-n", HOST]),
    "critical": ("ca", ["-h", "-n", HOST, "-O", "critical:unheard-of=1"]),
}

# All the keys are made before the first of them is used, some of RSA.
pytestmark = pytest.mark.timeout(180)

# Connects to the port named and hands the socket to ssh.
PASSER = """import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
socket.send_fds(socket.socket(fileno=1), [b"x"], [s.fileno()])
"""


@dataclass
class Place:
    """Servers by the keys they have, and every key as text: right and wrong ones."""

    directory: Path
    servers: dict[str, OpenSSHServer]
    keys: dict[str, str]

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def blob(self, name: str) -> bytes:
        return base64.b64decode(self.keys[name].split()[1])

    def key(self, name: str) -> paramiko.PKey:
        return paramiko.PKey.from_type_string(self.keys[name].split()[0], self.blob(name))

    def fill(self, template: str) -> str:
        """The text of a known_hosts file.

        ``<ed25519>`` and so on are keys, ``<ed25519!>`` without their type, ``<#name>`` hashed
        names.
        """
        for name, text in self.keys.items():
            template = template.replace(f"<{name}>", text)
            template = template.replace(f"<{name}!>", text.split()[1])
        for name in (HOST, f"[{HOST}]:2222", "alias"):
            template = template.replace(f"<#{name}>", hashed(name))
        return template


def hashed(name: str) -> str:
    salt = b"0123456789abcdefghij"
    digest = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def certify(directory: Path, name: str) -> str:
    """Make a certificate of `CERTIFICATES`, and return its file."""
    authority, arguments = CERTIFICATES[name]
    key = directory / f"key_{name}.pub"
    key.write_text((directory / "ed25519.pub").read_text())
    command = ["ssh-keygen", "-q", "-s", directory / authority, "-I", name, *arguments, key]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return str(directory / f"key_{name}-cert.pub")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if find_sshd() is None:
        pytest.skip("no sshd on this machine")
    directory = tmp_path_factory.mktemp("hostkeys")
    keys = {}
    for kind in TYPES:
        for name in (kind, f"other_{kind}"):
            command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", directory / name]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
            keys[name] = (directory / f"{name}.pub").read_text().strip()
    for name, kind in (("ca", "ed25519"), ("rsa_ca", "rsa")):
        command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", directory / name]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        keys[name] = (directory / f"{name}.pub").read_text().strip()
    (directory / "passer.py").write_text(PASSER)
    servers = {}
    with contextlib.ExitStack() as stack:
        for offer, kinds in OFFERS.items():
            lines = "\nHostKey ".join(str(directory / kind) for kind in kinds)
            server = OpenSSHServer(directory / f"server_{offer}", options={"HostKey": lines})
            servers[offer] = stack.enter_context(server)
        for name in CERTIFICATES:
            lines = "\nHostKey ".join(str(directory / kind) for kind in TYPES)
            options = {"HostKey": lines, "HostCertificate": certify(directory, name)}
            server = OpenSSHServer(directory / f"server_{name}", options=options)
            servers[name] = stack.enter_context(server)
        yield Place(directory, servers, keys)


@contextlib.contextmanager
def connected(
    verifier: Verifier, server: OpenSSHServer, **options: Any
) -> Iterator[paramiko.SSHClient]:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(verifier.policy)
    login = {"username": server.user, **server.connect_kwargs, **options}
    sock = sockets.connect("127.0.0.1", server.port, 10)
    with contextlib.closing(sock), contextlib.closing(client):
        client.connect(
            verifier.host,
            verifier.port,
            sock=sock,
            transport_factory=verifier.transport_factory,
            **login,
        )
        yield client


def negotiated(verifier: Verifier, server: OpenSSHServer) -> str:
    """Connect and return the type of the host key that was used."""
    with connected(verifier, server) as client:
        transport = client.get_transport()
        assert transport is not None
        assert transport.is_authenticated()
        return transport.get_remote_server_key().get_name()


def refusal(verifier: Verifier, server: OpenSSHServer) -> str:
    with pytest.raises(RemoteHostKeyRejected) as caught, connected(verifier, server):
        pass
    return str(caught.value)


def only(file: Path | str, **more: Any) -> HostKeySettings:
    """Settings for one known_hosts file, strict unless said otherwise."""
    more = {"strict": "yes", "global_files": (), **more}
    return HostKeySettings(user_files=(str(file),), **more)


# The ssh client's decisions.


@dataclass(frozen=True)
class Case:
    """A known_hosts file; ``differs`` says why fabremote decides otherwise than ssh."""

    name: str
    text: str
    port: int = 22
    strict: str = "yes"
    server: str = "all"
    alias: str | None = None
    more: str | None = None
    differs: str = ""


NEW = "the key is stored as new"
CASES = [
    Case("known", f"{HOST} <ed25519>\n"),
    Case("comment-and-blank-lines", f"# all hosts\n\n  \n\t{HOST}\t<ed25519> web one\n"),
    Case("comment-in-front", f"#{HOST} <ed25519>\n"),
    Case("leading-blanks", f"   {HOST}   <ed25519>\n"),
    Case("windows-line-ends", f"{HOST} <ed25519>\r\n"),
    Case("no-newline-at-end", f"{HOST} <ed25519>"),
    Case("upper-case", f"{HOST.upper()} <ed25519>\n"),
    Case("among-several-names", f"web2,{HOST},192.0.2.1 <ed25519>\n"),
    Case("other-host", "web2.example.com <ed25519>\n"),
    Case("empty", ""),
    Case("hashed", "<#web1.example.com> <ed25519>\n"),
    Case("hashed-with-port", f"<#[{HOST}]:2222> <ed25519>\n", port=2222),
    Case("hashed-wrong-key", "<#web1.example.com> <other_ed25519>\n"),
    Case("hashed-among-others", f"web2,<#{HOST}> <ed25519>\n"),
    Case("hash-cut-short", "|1|MDEyMzQ1Njc4OWFiY2RlZmdoaWo= <ed25519>\n"),
    Case("unknown-hash", "|2|MDEy|MDEy <ed25519>\n"),
    Case("star", "*.example.com <ed25519>\n"),
    Case("star-upper-case", "*.EXAMPLE.com <ed25519>\n"),
    Case("question-mark", "web?.example.com <ed25519>\n"),
    Case("question-mark-wants-one", "web1?.example.com <ed25519>\n"),
    Case("brackets-are-no-set", "web[12].example.com <ed25519>\n"),
    Case("negated", f"!{HOST},*.example.com <ed25519>\n"),
    Case("negated-last", f"*.example.com,!{HOST} <ed25519>\n"),
    Case("negated-other", "!web2.example.com,*.example.com <ed25519>\n"),
    Case("negated-alone", "!web2.example.com <ed25519>\n"),
    Case("port", f"[{HOST}]:2222 <ed25519>\n", port=2222),
    Case("other-port", f"[{HOST}]:2223 <ed25519>\n", port=2222),
    Case("port-22-in-brackets", f"[{HOST}]:22 <ed25519>\n"),
    Case("port-on-default", f"[{HOST}]:2222 <ed25519>\n"),
    Case("port-less", f"{HOST} <ed25519>\n", port=2222),
    Case("port-less-hashed", "<#web1.example.com> <ed25519>\n", port=2222),
    Case("port-less-wrong-key", f"{HOST} <other_ed25519>\n", port=2222),
    Case("port-less-other-type", f"{HOST} <ecdsa>\n", port=2222),
    Case("port-less-wrong-key-new", f"{HOST} <other_ed25519>\n", port=2222, strict="accept-new"),
    Case(
        "port-wins",
        f"[{HOST}]:2222 <other_ed25519>\n{HOST} <ed25519>\n",
        port=2222,
    ),
    Case("port-star", "[*.example.com]:2222 <ed25519>\n", port=2222),
    Case("port-any", "[*]:* <ed25519>\n", port=2222),
    Case("star-covers-ports", "* <ed25519>\n", port=2222),
    Case("wrong-key", f"{HOST} <other_ed25519>\n"),
    Case("wrong-then-right", f"{HOST} <other_ed25519>\n{HOST} <ed25519>\n"),
    Case("second-type", f"{HOST} <ecdsa>\n"),
    Case("third-type", f"{HOST} <rsa>\n"),
    Case("rsa-by-signature-name", f"{HOST} rsa-sha2-512 <rsa!>\n"),
    Case("type-not-offered", f"{HOST} <rsa>\n", server="ecdsa"),
    Case("type-not-offered-new", f"{HOST} <rsa>\n", server="ecdsa", strict="accept-new"),
    Case("wrong-first-type", f"{HOST} <other_ed25519>\n{HOST} <rsa>\n"),
    Case("wrong-second-type", f"{HOST} <ed25519>\n{HOST} <other_rsa>\n"),
    Case(
        "known-type-gone",
        f"{HOST} <other_ed25519>\n{HOST} <rsa>\n",
        server="old",
        differs="all known types are asked for first, ssh keeps its order if the best is known",
    ),
    Case("revoked", f"{HOST} <ed25519>\n@revoked {HOST} <ed25519>\n"),
    Case("revoked-for-all", f"{HOST} <ed25519>\n@revoked * <ed25519>\n"),
    Case("revoked-new", "@revoked * <ed25519>\n", strict="accept-new"),
    Case("revoked-other-key", f"{HOST} <ed25519>\n@revoked * <other_ed25519>\n"),
    Case("revoked-only-other-key", "@revoked * <other_ed25519>\n", strict="accept-new"),
    Case("revoked-first-type", f"{HOST} <ed25519>\n{HOST} <ecdsa>\n@revoked * <ed25519>\n"),
    Case("revoked-off", f"@revoked {HOST} <ed25519>\n", strict="no", differs="never accepted"),
    Case(
        "revoked-without-port",
        f"@revoked {HOST} <ed25519>\n[{HOST}]:2222 <ed25519>\n",
        port=2222,
        differs="revoked under the name is revoked at every port",
    ),
    Case(
        "revoked-after-tab",
        f"@revoked\t{HOST} <ed25519>\n{HOST} <ed25519>\n",
        differs="ssh takes a tab after the mark for a part of it and skips the line",
    ),
    Case("authority-only", f"@cert-authority {HOST} <ed25519>\n"),
    Case(
        "authority-only-new",
        f"@cert-authority {HOST} <ed25519>\n",
        strict="accept-new",
    ),
    Case("certified", f"@cert-authority {HOST} <ca>\n", server="certified"),
    Case("certified-ask", "@cert-authority * <ca>\n", server="certified", strict="ask"),
    Case("certified-stores-nothing", "@cert-authority * <ca>\n", strict="no", server="certified"),
    Case("certified-hashed", "@cert-authority <#web1.example.com> <ca>\n", server="certified"),
    Case("certified-port", f"@cert-authority [{HOST}]:2222 <ca>\n", 2222, server="certified"),
    Case("certified-port-less", f"@cert-authority {HOST} <ca>\n", 2222, server="certified"),
    Case("certified-other-port", f"@cert-authority [{HOST}]:2 <ca>\n", 2222, server="certified"),
    Case("certified-negated", f"@cert-authority !{HOST},* <ca>\n", server="certified"),
    Case("certified-by-another", f"@cert-authority {HOST} <rsa_ca>\n", server="certified"),
    Case(
        "certified-by-one-of-two",
        f"@cert-authority {HOST} <rsa_ca>\n@cert-authority {HOST} <ca>\n",
        server="certified",
    ),
    Case(
        "certified-though-another-key-is-known",
        f"@cert-authority {HOST} <ca>\n{HOST} <other_ed25519>\n",
        server="certified",
    ),
    Case("certified-no-authority", f"{HOST} <ed25519>\n", server="certified"),
    Case("certified-authority-as-key", f"{HOST} <ca>\n", server="certified"),
    Case("certified-second-file", "", server="certified", more="@cert-authority * <ca>\n"),
    Case(
        "certified-revoked-key",
        "@cert-authority * <ca>\n@revoked * <ed25519>\n",
        server="certified",
    ),
    Case(
        "certified-revoked-authority",
        "@cert-authority * <ca>\n@revoked * <ca>\n",
        server="certified",
    ),
    Case(
        "certified-revoked-authority-known-key",
        f"@cert-authority * <ca>\n@revoked * <ca>\n{HOST} <ed25519>\n",
        server="certified",
    ),
    Case(
        "certified-alias", "@cert-authority alias <ca>\n", server="certified_alias", alias="alias"
    ),
    Case("certified-not-alias", "@cert-authority alias <ca>\n", server="certified", alias="alias"),
    *(
        Case(name.replace("_", "-"), f"@cert-authority * <{CERTIFICATES[name][0]}>\n", server=name)
        for name in CERTIFICATES
    ),
    *(
        Case(
            f"{name}-new".replace("_", "-"),
            f"@cert-authority * <{CERTIFICATES[name][0]}>\n",
            server=name,
            strict="accept-new",
        )
        for name in ("expired", "certified_web2", "certified_by_sha1")
    ),
    Case("authority-and-key", f"@cert-authority {HOST} <other_ed25519>\n{HOST} <ed25519>\n"),
    Case("unknown-mark", f"@trusted {HOST} <ed25519>\n"),
    Case("two-marks", f"@revoked @cert-authority {HOST} <ed25519>\n{HOST} <ed25519>\n"),
    Case("alias", "alias <ed25519>\n", alias="alias"),
    Case("alias-with-port", "alias <ed25519>\n", alias="alias", port=2222),
    Case("alias-port-in-file", "[alias]:2222 <ed25519>\n", alias="alias", port=2222),
    Case("alias-not-host", f"{HOST} <ed25519>\n", alias="alias", port=2222),
    Case("alias-upper-case", "alias <ed25519>\n", alias="ALIAS"),
    Case("alias-hashed", "<#alias> <ed25519>\n", alias="alias"),
    Case("alias-new", "", alias="alias", port=2222, strict="accept-new"),
    Case("second-file", "", more=f"{HOST} <ed25519>\n"),
    Case("second-file-right", f"{HOST} <other_ed25519>\n", more=f"{HOST} <ed25519>\n"),
    Case("second-file-revokes", f"{HOST} <ed25519>\n", more="@revoked * <ed25519>\n"),
    Case("truncated-key", f"{HOST} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA\n", strict="accept-new"),
    Case("no-key", f"{HOST} ssh-ed25519\n", strict="accept-new"),
    Case("no-type", f"{HOST}\n", strict="accept-new"),
    Case("not-base64", f"{HOST} ssh-ed25519 !!!!\n", strict="accept-new"),
    Case(
        "type-of-another-key",
        f"{HOST} ssh-ed25519 <other_rsa!>\n",
        strict="accept-new",
    ),
    Case("unknown-type", f"{HOST} ssh-none AAAACHNzaC1ub25l\n", strict="accept-new"),
    Case("new", "", strict="accept-new"),
    Case("new-with-port", "", strict="accept-new", port=2222),
    Case("new-off", "", strict="no"),
    Case("new-after-no-newline", "web2 <ed25519>", strict="accept-new"),
    Case("new-ask", "", strict="ask"),
    Case("wrong-key-new", f"{HOST} <other_ed25519>\n", strict="accept-new"),
    Case("wrong-key-ask", f"{HOST} <other_ed25519>\n", strict="ask"),
    Case(
        "wrong-key-off",
        f"{HOST} <other_ed25519>\n",
        strict="no",
        differs="ssh goes on without passwords; a changed key is always refused here",
    ),
    Case("known-off", f"{HOST} <ed25519>\n", strict="off"),
    Case("known-ask", f"{HOST} <ed25519>\n", strict="ask"),
]


def generated(seed: int) -> Case:
    """A file of a few random lines. With marks, ssh is only known to be no stricter."""
    pick = random.Random(seed).choice
    names = [HOST, HOST, f"[{HOST}]:2222", "*.example.com", "*", f"!{HOST},*", "[*]:2222"]
    names += [HOST.title(), f"<#{HOST}>", f"<#[{HOST}]:2222>", "web2", "web?.example.com,web2"]
    keys = [f"<{x}>" for x in TYPES] + [f"<other_{x}>" for x in TYPES] + ["ssh-rsa AAAA"]
    marks = ["", "", "", "", "", "@revoked ", "@cert-authority "]
    lines = [pick(marks) + pick(names) + " " + pick(keys) for _ in range(pick([1, 2, 3, 5]))]
    return Case(
        f"generated-{seed}",
        "\n".join(lines) + pick(["", "\n"]),
        port=pick([22, 2222]),
        strict=pick(["yes", "accept-new"]),
    )


@pytest.fixture
def files(tmp_path: Path, place: Place) -> Callable[[Case, str], tuple[Path, Path]]:
    """The files of a case, each client's own."""

    def write(case: Case, client: str) -> tuple[Path, Path]:
        user, system = tmp_path / f"user_{client}", tmp_path / f"global_{client}"
        user.write_text(place.fill(case.text), newline="")
        if case.more is not None:
            system.write_text(place.fill(case.more))
        return user, system

    return write


@contextlib.contextmanager
def ssh(place: Place, case: Case, user: Path, system: Path) -> Iterator[Callable[[], bool]]:
    """Let ssh decide meanwhile; the function waits for it and says whether it accepts."""
    server = place.servers[case.server]
    passer = [sys.executable, "-I", "-S", place.path("passer.py"), str(server.port)]
    options = {
        "UserKnownHostsFile": str(user),
        "GlobalKnownHostsFile": str(system) if case.more is not None else "none",
        "StrictHostKeyChecking": case.strict,
        "BatchMode": "yes",
        "ConnectTimeout": "5",
        "UpdateHostKeys": "no",
        "HashKnownHosts": "no",
        "CheckHostIP": "no",
        "KexAlgorithms": "curve25519-sha256",  # the newest take much longer
        "ProxyCommand": shlex.join(passer),
        "ProxyUseFdpass": "yes",
        "IdentitiesOnly": "yes",
        "IdentityFile": server.key,
        **({"HostKeyAlias": case.alias} if case.alias else {}),
    }
    settings = [part for k, v in options.items() for part in ("-o", f"{k}={v}")]
    address = ["-p", str(case.port), f"{server.user}@{HOST}", "true"]
    with subprocess.Popen(
        ["ssh", "-F", "none", *settings, *address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:

        def accepts() -> bool:
            said = process.communicate(timeout=30)[1]
            assert process.returncode == 0 or "verification failed" in said, said
            return process.returncode == 0

        yield accepts


def fabremote_accepts(place: Place, case: Case, user: Path, system: Path) -> bool:
    settings = HostKeySettings(
        strict=case.strict,
        user_files=(str(user),),
        global_files=(str(system),) if case.more is not None else (),
        alias=case.alias,
        batch=True,
    )
    try:
        negotiated(Verifier(HOST, case.port, settings), place.servers[case.server])
    except RemoteHostKeyRejected:
        return False
    return True


def lines_of(file: Path) -> list[str]:
    return [line.rstrip() for line in file.read_text().splitlines()]


Files = Callable[[Case, str], tuple[Path, Path]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_decides_and_stores_as_ssh_does(case: Case, place: Place, files: Files) -> None:
    theirs, ours = files(case, "ssh"), files(case, "fabremote")
    with ssh(place, case, *theirs) as ssh_accepts:
        accepted = fabremote_accepts(place, case, *ours)
        assert ssh_accepts() is (accepted != bool(case.differs))
    # Some versions of ssh spoil a last line without an end.
    if not case.differs and case.text.endswith("\n"):
        assert lines_of(ours[0]) == lines_of(theirs[0])


@pytest.mark.parametrize("seed", range(30))
def test_decides_as_ssh_does_on_generated_files(seed: int, place: Place, files: Files) -> None:
    case = generated(seed)
    with ssh(place, case, *files(case, "ssh")) as ssh_accepts:
        accepted = fabremote_accepts(place, case, *files(case, "fabremote"))
        agreed = ssh_accepts() is accepted
    marked = "@" in case.text and (case.port != 22 or case.strict != "yes")
    assert agreed or (marked and not accepted), case.text


# Key types.


@pytest.mark.parametrize("kind", TYPES)
def test_asks_for_the_type_that_is_known(kind: str, place: Place, tmp_path: Path) -> None:
    file = tmp_path / "known"
    file.write_text(f"{HOST} {place.keys[kind]}\n")
    verifier = Verifier(HOST, 22, only(file))
    assert negotiated(verifier, place.servers["all"]) == place.keys[kind].split()[0]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("rsa-sha2-256", "ssh-ed25519"), "ssh-rsa"),
        (("sk-ssh-ed25519@openssh.com", "ecdsa-sha2-*"), "ecdsa-sha2-nistp256"),
        (("-ssh-ed25519", "ecdsa-*"), "ssh-rsa"),
        (("^rsa-sha2-512",), "ssh-rsa"),
        (("+ssh-ed25519",), "ssh-ed25519"),
        (("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519"), "ssh-ed25519"),
    ],
)
def test_algorithms_are_taken_in_their_order(
    asked: tuple[str, ...], expected: str, place: Place
) -> None:
    settings = only(os.devnull, strict="no", algorithms=asked)
    assert negotiated(Verifier(HOST, 22, settings), place.servers["all"]) == expected


def test_algorithms_given_in_full_keep_their_order_whatever_is_known(
    place: Place, tmp_path: Path
) -> None:
    file = tmp_path / "known"
    file.write_text(f"{HOST} {place.keys['rsa']}\n")
    settings = only(file, algorithms=("ssh-ed25519", "rsa-sha2-512"))
    assert "replace" not in refusal(Verifier(HOST, 22, settings), place.servers["all"])
    taken_away = replace(settings, algorithms=("-ecdsa*",))
    assert negotiated(Verifier(HOST, 22, taken_away), place.servers["all"]) == "ssh-rsa"


def test_certificates_are_asked_for_where_an_authority_is_known(
    place: Place, tmp_path: Path
) -> None:
    file = tmp_path / "known"
    ours, theirs = socket.socketpair()
    disabled = {"keys": ["ssh-ed25519-cert-v01@openssh.com"]}
    with ours, theirs:
        transport = Verifier(HOST, 22, only(file)).transport_factory(ours)
        assert not [name for name in transport.preferred_keys if "cert" in name]
        file.write_text(f"@cert-authority {HOST} {place.keys['ca']}\n")
        verifier = Verifier(HOST, 22, only(file))
        asked = verifier.transport_factory(ours).preferred_keys
        assert asked[0] == disabled["keys"][0]
        assert "ssh-ed25519" in asked
        fewer = verifier.transport_factory(ours, disabled_algorithms=disabled).preferred_keys
        assert set(asked) - set(fewer) == set(disabled["keys"])


@pytest.mark.parametrize(
    ("server", "why"),
    [
        ("all", "presented no certificate"),
        ("expired", "is valid from"),
        ("certified_web2", "is for web2.example.com only"),
        ("user", "is a user's"),
        ("critical", "has critical options"),
        ("certified_by_rsa", "is another one's"),
    ],
)
def test_a_refusal_says_why_the_authority_was_not_enough(
    server: str, why: str, place: Place, tmp_path: Path
) -> None:
    file = tmp_path / "known"
    file.write_text(f"@cert-authority {HOST} {place.keys['ca']}\n")
    said = refusal(Verifier(HOST, 22, only(file)), place.servers[server])
    # sshd presents no certificate of a user, so that there is none to speak of.
    assert why in said or (server == "user" and "presented no certificate" in said)
    assert f"{file} line 1" in said


@pytest.mark.parametrize("place_of_bit", ["nonce", "name", "signature"])
def test_a_certificate_with_a_changed_bit_convinces_nobody(
    place_of_bit: str, place: Place, tmp_path: Path
) -> None:
    text = Path(place.path("key_certified-cert.pub")).read_text()
    blob = bytearray(base64.b64decode(text.split()[1]))
    at = {"nonce": 45, "name": blob.index(HOST.encode()) + 3, "signature": len(blob) - 5}
    key = place.key("ed25519")
    name = HOST[:3] + chr(ord(HOST[3]) ^ 1) + HOST[4:] if place_of_bit == "name" else HOST
    assert not Certificate(bytes(blob)).flaw(HOST, key)
    blob[at[place_of_bit]] ^= 1
    assert "signature" in Certificate(bytes(blob)).flaw(name, key)
    assert Certificate(bytes(blob[:-1])).unreadable
    assert Certificate(b"").unreadable


def test_a_certificate_of_another_key_convinces_nobody(place: Place) -> None:
    text = Path(place.path("key_certified-cert.pub")).read_text()
    certificate = Certificate(base64.b64decode(text.split()[1]))
    assert "another key" in certificate.flaw(HOST, place.key("other_ed25519"))


@pytest.mark.parametrize(
    "settings",
    [
        HostKeySettings(strict="perhaps"),
        HostKeySettings(algorithms=("ssh-dss",)),
        HostKeySettings(user_files=("%C",)),
        HostKeySettings(user_files=("100%",)),
        HostKeySettings(user_files=("${FABREMOTE_NO_SUCH_VARIABLE}",)),
    ],
)
def test_settings_without_meaning_are_refused(settings: HostKeySettings) -> None:
    with pytest.raises(ValueError, match=r"perhaps|ssh-dss|%C|100%|NO_SUCH"):
        Verifier(HOST, 22, settings)


def test_paths_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "there")
    settings = HostKeySettings(
        user_files=("~/k", "%d/%h_%p/%%", "${WHERE}/%k/%i"), alias="alias", global_files=("none",)
    )
    home = os.path.expanduser("~")
    expected = [f"{home}/k", f"{home}/{HOST}_22/%", f"there/alias/{os.getuid()}"]
    assert Verifier(HOST, 22, settings).files == expected


# Refusals.


def test_a_refusal_says_what_was_seen_and_where(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "known hosts"
    file.write_text(f"# hosts\n[{HOST}]:2222 {place.keys['other_ed25519']}\n")
    text = refusal(Verifier(HOST, 2222, only(file)), place.servers["all"])
    shown = ["ssh-ed25519", "port 2222", HOST, f"{file} line 2", fingerprint(place, "ed25519")]
    shown += [fingerprint(place, "other_ed25519")]
    shown += [f"ssh-keygen -R '[{HOST}]:2222' -f '{file}'"]
    shown += [f"printf '%s\\n' '[{HOST}]:2222 {place.keys['ed25519']}' >> '{file}'"]
    assert [part for part in shown if part not in text] == []


def fingerprint(place: Place, name: str) -> str:
    command = ["ssh-keygen", "-lf", place.path(f"{name}.pub")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]


@pytest.mark.parametrize(
    ("text", "alias"),
    [
        (None, None),
        ("", None),
        (None, "alias"),
        ("{name} <other_ed25519>\n", None),
        ("web2 <ed25519>\n{name} <other_ed25519>\n{name} <other_rsa>\n", None),
        ("{hashed} <other_ed25519>\n", None),
        ("web2 <ed25519>\n[127.*]:* <other_ed25519>\n", None),
        ("[127.*]:* <other_ed25519>\n{name} <other_ed25519>\n", None),
        ("alias <other_ed25519>\n", "alias"),
        ("@cert-authority * <other_ed25519>\n", None),
        ("{name} <ed25519>\n@revoked * <ed25519>\n@revoked {name} <ed25519>\n", None),
        ("{name} <other_ecdsa>\n", None),
    ],
)
def test_the_commands_shown_put_it_right(
    text: str | None, alias: str | None, place: Place, tmp_path: Path
) -> None:
    server = place.servers["ed25519"]
    name = f"[127.0.0.1]:{server.port}"
    file = tmp_path / "the user's" / "known_hosts"
    if text is not None:
        file.parent.mkdir()
        file.write_text(place.fill(text.format(name=name, hashed=hashed(name))))
    verifier = Verifier("127.0.0.1", server.port, only(file, alias=alias))
    commands = refusal(verifier, server).splitlines()[1:]
    assert all(command.startswith("  ") for command in commands)
    subprocess.run(["sh", "-ec", "\n".join(commands)], check=True, capture_output=True)
    assert negotiated(verifier, server) == "ssh-ed25519"


def test_without_a_file_the_remedy_is_to_have_one(place: Place) -> None:
    text = refusal(Verifier(HOST, 22, only(os.devnull)), place.servers["all"])
    assert "UserKnownHostsFile" in text


class Recorder(asyncssh.SSHServer):
    """A server that takes note of everybody who begins to log in."""

    def __init__(self, seen: list[str], open: list[asyncssh.SSHServerConnection]) -> None:
        self.seen, self.open = seen, open

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.open.append(conn)

    def begin_auth(self, username: str) -> bool:
        self.seen.append(username)
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        self.seen.append(password)
        return True


@contextlib.contextmanager
def recording(key: str) -> Iterator[tuple[int, list[str]]]:
    seen: list[str] = []
    connections: list[asyncssh.SSHServerConnection] = []
    loop = asyncio.new_event_loop()

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=lambda: Recorder(seen, connections),
            server_host_keys=[key],
        )

    async def close() -> None:
        acceptor.close()
        await acceptor.wait_closed()
        for connection in connections:
            connection.abort()
            await connection.wait_closed()
        await asyncio.sleep(0.05)  # the sockets are closed in the loop's next rounds

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        acceptor = asyncio.run_coroutine_threadsafe(listen(), loop).result(10)
        yield acceptor.get_port(), seen
        asyncio.run_coroutine_threadsafe(close(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.parametrize("known", ["", f"{HOST} <other_ed25519>\n", f"@revoked {HOST} <ed25519>"])
def test_nobody_logs_in_before_the_key_is_verified(
    known: str, place: Place, tmp_path: Path
) -> None:
    file = tmp_path / "known"
    file.write_text(place.fill(known))
    login: Any = {"username": "dev", "password": "secret", "allow_agent": False}
    with recording(place.path("ed25519")) as (port, seen):
        for text, expected in ((file.read_text(), []), (f"{HOST} {place.keys['ed25519']}", True)):
            file.write_text(text)
            verifier = Verifier(HOST, 22, only(file))
            client = paramiko.SSHClient()
            client.set_missing_host_key_policy(verifier.policy)
            sock = socket.create_connection(("127.0.0.1", port))
            outcome = (
                contextlib.nullcontext() if expected else pytest.raises(RemoteConnectionRefused)
            )
            with sock, client, outcome:
                client.connect(
                    HOST, 22, sock=sock, transport_factory=verifier.transport_factory, **login
                )
            assert client.get_transport() is None
            assert seen == (["dev", "secret"] if expected else [])


def test_a_refusal_closes_the_connection(place: Place) -> None:
    server = place.servers["all"]
    verifier = Verifier(HOST, 22, only(os.devnull))
    opened: list[paramiko.Transport] = []

    def factory(sock: Any, **options: Any) -> paramiko.Transport:
        opened.append(verifier.transport_factory(sock, **options))
        return opened[-1]

    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(verifier.policy)
    with pytest.raises(RemoteHostKeyRejected):
        client.connect("127.0.0.1", server.port, transport_factory=factory)
    assert not opened[0].is_active()
    assert opened[0].sock.fileno() == -1
    assert client.get_transport() is None


def test_fabric_lets_a_refusal_through(place: Place, tmp_path: Path) -> None:
    server = place.servers["all"]
    file = tmp_path / "known"
    verifier = Verifier("127.0.0.1", server.port, only(file))
    login = {**server.connect_kwargs, "transport_factory": verifier.transport_factory}
    connection = fabric.Connection(
        "127.0.0.1", user=server.user, port=server.port, connect_kwargs=login
    )
    connection.client.set_missing_host_key_policy(verifier.policy)
    with connection:
        with pytest.raises(RemoteHostKeyRejected):
            connection.open()
        assert not connection.is_connected
        file.write_text(f"{verifier.name} {place.keys['ecdsa']}\n")
        assert connection.run("echo ok", hide=True, in_stream=False).stdout == "ok\n"


# Asking.


@pytest.mark.parametrize(
    ("answers", "accepted"),
    [
        (["yes"], True),
        (["YES\n"], True),
        (["perhaps", "y", " yes "], True),
        (["<fingerprint>"], True),
        (["SHA256:wrong", "no"], False),
        (["no"], False),
        ([""], False),
    ],
)
def test_answers(answers: list[str], accepted: bool, place: Place, tmp_path: Path) -> None:
    file = tmp_path / "known"
    asked: list[str] = []
    given = iter([x.replace("<fingerprint>", fingerprint(place, "ed25519")) for x in answers])

    def prompt(text: str) -> str:
        asked.append(text)
        return next(given)

    verifier = Verifier(HOST, 22, only(file, strict="ask"), prompt=prompt)
    if accepted:
        verifier.check(place.key("ed25519"))
    else:
        with pytest.raises(RemoteHostKeyRejected, match="answer was no"):
            verifier.check(place.key("ed25519"))
    assert file.exists() is accepted
    assert len(asked) == len(answers)
    assert fingerprint(place, "ed25519") in asked[0]
    assert asked[0].endswith("(yes/no/[fingerprint])? ")


def test_batch_mode_asks_nobody(place: Place) -> None:
    settings = only(os.devnull, strict="ask", batch=True)
    verifier = Verifier(HOST, 22, settings, prompt=lambda text: "yes")
    with pytest.raises(RemoteHostKeyRejected, match="BatchMode"):
        verifier.check(place.key("ed25519"))


ASKING = """import fcntl, sys, termios
import paramiko
from fabremote.exceptions import RemoteHostKeyRejected
from fabremote.hostkey_certificate import Certificate
from fabremote.hostkeys import HostKeySettings, Verifier
how, file, port, key, user = sys.argv[1:]
if how == "terminal":
    fcntl.ioctl(2, termios.TIOCSCTTY, 0)
settings = HostKeySettings(user_files=(file,), global_files=())
verifier = Verifier("127.0.0.1", int(port), settings)
with paramiko.SSHClient() as client:
    client.set_missing_host_key_policy(verifier.policy)
    try:
        client.connect(
            "127.0.0.1", int(port), user, key_filename=key, look_for_keys=False,
            allow_agent=False, transport_factory=verifier.transport_factory,
        )
    except RemoteHostKeyRejected as error:
        print("REFUSED", error)
    else:
        print("ACCEPTED")
"""


def asking(how: str, answer: str, place: Place, file: Path) -> str:
    """What a program says whose terminal (or just its input) is a pty with this answer."""
    server = place.servers["all"]
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", ASKING, how, file, str(server.port), server.key, server.user],
            stdin=theirs if how == "input" else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            start_new_session=True,
            text=True,
        )
        shown = ""
        while how != "nothing" and "fingerprint])? " not in shown:
            shown += os.read(ours, 1000).decode()
        os.write(ours, f"{answer}\n".encode())
        return process.communicate(timeout=30)[0]
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("how", ["terminal", "input"])
@pytest.mark.parametrize("answer", ["yes", "no"])
def test_asks_on_a_terminal(how: str, answer: str, place: Place, tmp_path: Path) -> None:
    said = asking(how, answer, place, tmp_path / "known")
    assert said.startswith("ACCEPTED" if answer == "yes" else "REFUSED"), said
    assert (tmp_path / "known").exists() is (answer == "yes")


def test_refuses_without_a_terminal(place: Place, tmp_path: Path) -> None:
    said = asking("nothing", "yes", place, tmp_path / "known")
    assert said.startswith("REFUSED"), said
    assert "no terminal" in said


# Storing.


def append(file: Path, name: str, place: Place, key: str = "ed25519", hash: bool = False) -> None:
    known_hosts.append(str(file), [name], place.key(key).get_name(), place.blob(key), hashed=hash)


def test_the_user_s_file_is_made_private(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Verifier(HOST, 22, HostKeySettings(strict="accept-new", global_files=())).check(
        place.key("ed25519")
    )
    directory, file = tmp_path / ".ssh", tmp_path / ".ssh" / "known_hosts"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == f"{HOST} {place.keys['ed25519']}\n"


def test_what_is_there_is_kept(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "known"
    before = b"# mine\r\n\xff\x00garbage\x1b[31m\nweb2 ssh-rsa AAAA no newline"
    file.write_bytes(before)
    file.chmod(0o644)
    append(file, HOST, place)
    append(file, HOST, place)
    assert file.read_bytes() == before + f"\n{HOST} {place.keys['ed25519']}\n".encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_names_can_be_stored_hashed(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "known"
    settings = only(file, strict="accept-new", hash_new=True)
    for port in (2222, 22, 22):
        Verifier(HOST.upper(), port, settings).check(place.key("ed25519"))
    assert len(lines_of(file)) == 2
    assert HOST not in file.read_text().lower()
    for name in (HOST, f"[{HOST}]:2222"):
        subprocess.run(["ssh-keygen", "-F", name, "-f", file], check=True, capture_output=True)


def test_binary_garbage_is_no_obstacle(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "known"
    noise = random.Random(3).randbytes(200_000)
    file.write_bytes(noise + f"\n{HOST} {place.keys['ed25519']}\n".encode() + noise)
    Verifier(HOST, 22, only(file)).check(place.key("ed25519"))


Caplog = pytest.LogCaptureFixture


def test_a_symbolic_link_is_read_but_not_written(
    place: Place, tmp_path: Path, caplog: Caplog
) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text(f"{HOST} {place.keys['ed25519']}\n")
    link.symlink_to(target)
    Verifier(HOST, 22, only(link)).check(place.key("ed25519"))
    before = target.read_text()
    Verifier("web2", 22, only(link, strict="accept-new")).check(place.key("ed25519"))
    assert target.read_text() == before
    assert "symbolic link" in caplog.text


def test_nothing_is_made_at_the_end_of_a_link(place: Place, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    Verifier(HOST, 22, only(link, strict="accept-new")).check(place.key("ed25519"))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", ["directory", "pipe", "missing directory"])
def test_a_file_that_cannot_be_one_is_warned_about(
    kind: str, place: Place, tmp_path: Path, caplog: Caplog
) -> None:
    file = tmp_path / "known"
    if kind == "directory":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file = tmp_path / "missing" / "known"
    Verifier(HOST, 22, only(file, strict="accept-new")).check(place.key("ed25519"))
    assert f"can't be stored in {file}" in caplog.text
    with pytest.raises(RemoteHostKeyRejected):
        Verifier(HOST, 22, only(file)).check(place.key("ed25519"))


@contextlib.contextmanager
def unreadable(file: Path) -> Iterator[None]:
    """Without the right to read: as another user if this one may read everything."""
    if os.geteuid():
        file.chmod(0)
        yield
    else:
        file.parent.chmod(0o700)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)


def test_an_unreadable_file_counts_as_empty_with_a_warning(
    place: Place, tmp_path: Path, caplog: Caplog
) -> None:
    file = tmp_path / "known"
    file.write_text(f"{HOST} {place.keys['ed25519']}\n")
    settings = HostKeySettings(strict="yes", user_files=(os.devnull,), global_files=(str(file),))
    verifier = Verifier(HOST, 22, settings)
    verifier.check(place.key("ed25519"))
    with unreadable(file), pytest.raises(RemoteHostKeyRejected):
        verifier.check(place.key("ed25519"))
    assert f"{file} can't be read: Permission denied" in caplog.text


@pytest.mark.parametrize("nowhere", [(os.devnull,), ("none",), (), (os.devnull, "second")])
def test_nothing_is_stored_nowhere(
    nowhere: tuple[str, ...],
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Caplog,
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = HostKeySettings(strict="no", user_files=nowhere, global_files=())
    Verifier(HOST, 22, settings).check(place.key("ed25519"))
    assert list(tmp_path.iterdir()) == []
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert caplog.text == ""


@pytest.mark.parametrize("alias", ["*", "a b", "a,b", "#a", "|1|a|b", "@revoked", "!a", "a\nb"])
def test_names_that_mean_something_else_are_not_stored(
    alias: str, place: Place, tmp_path: Path, caplog: Caplog
) -> None:
    file = tmp_path / "known"
    settings = only(file, strict="accept-new", alias=alias)
    Verifier(HOST, 22, settings).check(place.key("ed25519"))
    assert not file.exists()
    assert "can't stand for a host" in caplog.text


def test_another_key_stored_meanwhile_is_a_changed_key(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "known"

    def prompt(text: str) -> str:
        append(file, HOST, place, "other_ed25519")
        return "yes"

    verifier = Verifier(HOST, 22, only(file, strict="ask"), prompt=prompt)
    stored = re.escape(fingerprint(place, "other_ed25519"))
    with pytest.raises(RemoteHostKeyRejected, match=stored):
        verifier.check(place.key("ed25519"))
    assert len(lines_of(file)) == 1


def descriptors(file: Path) -> int:
    """How many descriptors of this process are of a file."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # it may be closed by now
            found += os.readlink(link) == str(file)
    return found


def test_a_file_replaced_while_waiting_is_opened_again(place: Place, tmp_path: Path) -> None:
    file, new = tmp_path / "known", tmp_path / "new"
    file.write_text("# old\n")
    new.write_text("# new\n")
    with known_hosts._locked(str(file)):
        waiting = threading.Thread(target=append, args=(file, HOST, place))
        waiting.start()
        while descriptors(file) < 2:
            time.sleep(0.001)
        new.rename(file)
    waiting.join()
    assert lines_of(file) == ["# new", f"{HOST} {place.keys['ed25519']}"]


def test_a_lock_held_for_ever_ends_in_a_warning(
    place: Place, tmp_path: Path, caplog: Caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_hosts, "LOCK_TIMEOUT", 0.05)
    file = tmp_path / "known"
    with known_hosts._locked(str(file)):
        Verifier(HOST, 22, only(file, strict="no")).check(place.key("ed25519"))
    assert "can't be stored" in caplog.text


# The module alone, as importing the package takes each process a while.
APPENDING = """import base64, importlib.util, sys
module, file, number, kind, key = sys.argv[1:]
spec = importlib.util.spec_from_file_location("known_hosts", module)
known_hosts = sys.modules["known_hosts"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(known_hosts)
known_hosts.LOCK_TIMEOUT = 50.0  # which of the eight is next is up to chance
print("ready", flush=True)
sys.stdin.readline()
for i in range(100):
    for name in (f"shared{i}", f"own{number}-{i}"):
        known_hosts.append(file, [name], kind, base64.b64decode(key), hashed=False)
"""


def test_processes_that_store_at_once_spoil_nothing(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "known"
    file.write_text(f"first {place.keys['rsa']}")
    kind, key = place.keys["rsa"].split()
    command = [sys.executable, "-c", APPENDING, known_hosts.__file__, str(file)]
    writers = [
        subprocess.Popen(
            [*command, str(number), kind, key], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for number in range(8)
    ]
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:  # none has to wait for the end of another
        assert writer.stdin
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=50)
        assert writer.returncode == 0
    names = ["first", *(f"shared{i}" for i in range(100))]
    names += [f"own{number}-{i}" for number in range(8) for i in range(100)]
    assert sorted(lines_of(file)) == sorted(f"{name} {kind} {key}" for name in names)


# The host's address.

ADDRESS = "192.0.2.7"


def check_at(verifier: Verifier, place: Place) -> None:
    verifier.check(place.key("ed25519"), ADDRESS)


def test_the_address_is_stored_with_the_host(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "known"
    verifier = Verifier(HOST, 2222, only(file, strict="accept-new", check_ip=True))
    check_at(verifier, place)
    check_at(verifier, place)
    names = [f"[{HOST}]:2222", f"[{ADDRESS}]:2222"]
    assert lines_of(file) == [f"{name} {place.keys['ed25519']}" for name in names]


@pytest.mark.parametrize(
    ("strict", "answer", "accepted"),
    [
        ("yes", "yes", False),
        ("accept-new", "yes", False),
        ("ask", "yes", True),
        ("ask", "no", False),
        ("no", "no", True),
    ],
)
def test_another_key_at_the_address(
    strict: str, answer: str, accepted: bool, place: Place, tmp_path: Path, caplog: Caplog
) -> None:
    file = tmp_path / "known"
    file.write_text(place.fill(f"{HOST} <ed25519>\n{ADDRESS} <other_ed25519>\n"))
    settings = only(file, strict=strict, check_ip=True)
    verifier = Verifier(HOST, 22, settings, prompt=lambda text: answer)
    if accepted:
        check_at(verifier, place)
        assert ("its address" in caplog.text) is (strict == "no")
    else:
        with pytest.raises(RemoteHostKeyRejected, match=f"ssh-keygen -R {ADDRESS}"):
            check_at(verifier, place)


def test_a_key_revoked_at_the_address_is_refused(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "known"
    file.write_text(place.fill(f"{HOST} <ed25519>\n@revoked {ADDRESS} <ed25519>\n"))
    with pytest.raises(RemoteHostKeyRejected, match="revoked"):
        check_at(Verifier(HOST, 22, only(file, strict="no", check_ip=True)), place)


def test_local_addresses_are_not_checked(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "known"
    verifier = Verifier(HOST, 22, only(file, strict="accept-new", check_ip=True))
    with connected(verifier, place.servers["all"]) as client:
        assert hostkeys.address_to_check(client.get_transport(), HOST) is None
    assert lines_of(file) == [f"{HOST} {place.keys['ed25519']}"]


def test_what_was_stored_can_be_logged(place: Place, tmp_path: Path, caplog: Caplog) -> None:
    caplog.set_level(logging.INFO, "fabremote")
    Verifier(HOST, 22, only(tmp_path / "known", strict="no")).check(place.key("ed25519"))
    assert f"Stored the ssh-ed25519 key of {HOST}" in caplog.text
