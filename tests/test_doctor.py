"""``python -m fabremote doctor``, run as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fabremote.__main__ import main
from fabremote.demo.server import Server
from fabremote.doctor import Target, parse_target
from tests import interpreters
from tests.conftest import SERVERS, make_server
from tests.faults import settled

COMMAND = [sys.executable, "-m", "fabremote", "doctor"]
NOWHERE = "no-such-host.invalid"


class Place:
    """A home directory of our own, and the command run from there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.known_hosts = home / ".ssh" / "known_hosts"
        self.known_hosts.parent.mkdir(mode=0o700)
        self.env = {**os.environ, "HOME": str(home), "PYTHONWARNINGS": "error"}

    def know(self, server: Server, key: Path | None = None, marker: str = "") -> None:
        """Add a line about a server, with its own key unless another is given."""
        public = key or server.directory / "host_key.pub"
        kind, blob = public.read_text().split()[:2]
        with self.known_hosts.open("a") as lines:
            lines.write(f"{marker}[127.0.0.1]:{server.port} {kind} {blob}\n")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *words],
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=40,
            start_new_session=True,  # without a terminal to ask on
        )
        assert "Traceback" not in done.stderr
        return done

    def text(self, status: int, *words: str) -> str:
        """The table as one line, its spaces made single ones."""
        done = self.run(*words)
        assert (done.returncode, done.stderr) == (status, ""), done.stdout
        return " ".join(done.stdout.split())

    def data(self, status: int, *words: str) -> list[dict[str, Any]]:
        done = self.run(*words, "--json")
        assert (done.returncode, done.stderr) == (status, ""), done.stdout
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def at(server: Server) -> str:
    return f"{server.user}@127.0.0.1:{server.port}"


def login(server: Server) -> tuple[str, ...]:
    return at(server), "--key", server.key


def new_key(path: Path) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def fingerprint(server: Server) -> str:
    command = ["ssh-keygen", "-l", "-f", str(server.directory / "host_key.pub")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[1]


@contextmanager
def serving(directory: Path, path: Path) -> Iterator[Server]:
    """An sshd whose sessions have nothing but ``path`` as their PATH."""
    with make_server("openssh", directory, {"PATH": str(path)}) as server:
        SERVERS.append(server)
        yield server
        SERVERS.remove(server)


def shell_only(directory: Path) -> Path:
    directory.mkdir()
    (directory / "sh").symlink_to("/bin/sh")
    return directory


# A healthy host


def test_a_healthy_host_is_shown_as_a_table(openssh: Server, place: Place) -> None:
    place.know(openssh)
    done = place.run(*login(openssh))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{at(openssh)} (127.0.0.1, port {openssh.port})"
    rows = {line[2:15].strip(): line[15:] for line in lines[1:]}
    labels = ["login", "host key", "interpreters", "agent", "calls", "transfer", "result"]
    assert [label for label in rows if label] == labels
    text = " ".join(done.stdout.split())
    assert f"{openssh.user}, by key {openssh.key}, connected in " in text
    assert fingerprint(openssh) in rows["host key"]
    assert f"known in {place.known_hosts}:1" in text
    assert re.fullmatch(r"the first .* ms, then .* ms \(median\)", rows["calls"])
    assert re.fullmatch(r"8 MiB: up .* MB/s, down .* MB/s", rows["transfer"])
    assert rows["result"] == "all fine"
    mine = "python{}.{}".format(*sys.version_info)
    (picked,) = [line for line in lines if line.endswith("<- picked")]
    assert mine in picked.split()
    # Only paths may be longer.
    assert all(len(line) <= 80 or "/" in line for line in lines)


def test_json_tells_the_same(openssh: Server, place: Place) -> None:
    place.know(openssh)
    (host,) = place.data(0, *login(openssh))
    assert host["ok"] is True
    assert host["problems"] == []
    assert host["given"] == at(openssh)
    assert (host["host"], host["address"], host["port"]) == (
        "127.0.0.1",
        "127.0.0.1",
        openssh.port,
    )
    assert host["login"] == {"user": openssh.user, "ok": True, "method": f"key {openssh.key}"}
    assert host["host_key"] == {
        "type": "ssh-ed25519",
        "fingerprint": fingerprint(openssh),
        "state": "known",
        "places": [f"{place.known_hosts}:1"],
    }
    found = {each["name"]: each["version"] for each in reversed(host["interpreters"])}
    for version in interpreters.found():
        assert found[f"python{version}"].startswith(f"{version}.")
    assert found["python3"].startswith("{}.{}.".format(*sys.version_info))
    assert [each["picked"] for each in host["interpreters"]].count(True) == 1
    agent = host["agent"]
    assert agent["version"] == "{}.{}.{}".format(*sys.version_info)
    assert 0 < agent["warm_call_ms"] <= agent["start_ms"]
    assert host["transfer"]["size"] == 8 << 20
    assert host["transfer"]["up"] > 0 < host["transfer"]["down"]


def test_another_minor_version_is_a_warning(openssh: Server, place: Place) -> None:
    mine = "{}.{}".format(*sys.version_info)
    others = [v for v in interpreters.found() if v not in ("2.7", mine)]
    if not others:
        pytest.skip("no other Python on this machine")
    place.know(openssh)
    text = place.text(0, *login(openssh), "--python", f"python{others[0]}")
    assert f"WARNING Calls run under Python {others[0]}, and this is Python {mine}." in text
    assert f"python{others[0]} <- picked" in text
    assert text.endswith("result works, with a warning")


# Host keys


def test_an_unknown_key_is_a_problem_with_the_commands_that_make_it_known(
    openssh: Server, place: Place
) -> None:
    log = openssh.directory / "sshd.log"
    before = log.stat().st_size
    (host,) = place.data(1, *login(openssh))
    assert host["host_key"]["state"] == "unknown"
    assert host["host_key"]["fingerprint"] == fingerprint(openssh)
    assert host["login"]["ok"] is None
    assert host["interpreters"] == []
    (problem,) = host["problems"]
    assert (problem["severity"], problem["part"]) == ("problem", "host key")
    # No login was begun.
    assert not re.search(b"Accepted|Failed|authenticating user", log.read_bytes()[before:])
    for command in problem["remedies"]:
        subprocess.run(command, shell=True, check=True, env=place.env, capture_output=True)
    blob = (openssh.directory / "host_key.pub").read_text().split()[1]
    assert blob in place.known_hosts.read_text()


def test_a_changed_key_is_a_problem(openssh: Server, place: Place, tmp_path: Path) -> None:
    new_key(tmp_path / "other")
    place.know(openssh, tmp_path / "other.pub")
    done = place.run(*login(openssh))
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert f"CHANGED, known is another in {place.known_hosts}:1" in text
    # Commands are shown whole, to be copied.
    assert re.search(rf"^ +ssh-keygen -R \S+ -f {place.known_hosts}$", done.stdout, re.M)
    assert "login" not in text.split()


def test_a_revoked_key_is_a_problem(openssh: Server, place: Place) -> None:
    place.know(openssh)
    place.know(openssh, marker="@revoked ")
    text = place.text(1, *login(openssh))
    assert f"REVOKED in {place.known_hosts}:2" in text


def test_a_key_accepted_unseen_is_a_warning(openssh: Server, place: Place) -> None:
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null")
    words = [word for option in options for word in ("--ssh-option", option)]
    (host,) = place.data(0, *login(openssh), *words)
    assert host["host_key"]["state"] == "accepted"
    assert [problem["severity"] for problem in host["problems"]] == ["warning"]


def test_a_new_key_is_stored_when_asked_for(openssh: Server, place: Place) -> None:
    text = place.text(0, *login(openssh), "--ssh-option", "StrictHostKeyChecking=accept-new")
    assert f"new, now stored in {place.known_hosts}:1" in text


# Hosts that can't be reached or logged in to


def test_each_host_is_looked_at_whatever_the_others_do(openssh: Server, place: Place) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = unused.getsockname()[1]
        silent = socket.create_server(("127.0.0.1", 0))
        with silent:
            mute = silent.getsockname()[1]
            place.know(openssh)
            hosts = place.data(
                1,
                f"127.0.0.1:{closed},{NOWHERE}",
                f"127.0.0.1:{mute}",
                *login(openssh),
                "--ssh-option",
                "ConnectTimeout=1",
            )
    assert [host["ok"] for host in hosts] == [False, False, False, True]
    refused, unknown, unanswered = (host["problems"][0] for host in hosts[:3])
    assert {problem["part"] for problem in (refused, unknown, unanswered)} == {"connection"}
    assert "refused" in refused["text"]
    assert f"check the port, {closed}" in refused["text"]
    assert "check its spelling" in unknown["text"]
    # Which of two timeouts of the same length is first is up to chance.
    assert re.search("handshake timed out|protocol banner", unanswered["text"])


def test_what_is_wrong_with_the_way_there_is_told(openssh: Server, place: Place) -> None:
    place.know(openssh)
    (place.home / ".ssh" / "config").write_text(
        f"""
        Host web
          HostName 127.0.0.1
          Port {openssh.port}
          ProxyJump dev@127.0.0.2:1
        Host pipe
          ProxyCommand no-such-command %h
        Host odd
          StrictHostKeyChecking maybe
        """
    )
    web, pipe, odd = place.data(1, "web,pipe,odd")
    assert web["gateway"] == "dev@127.0.0.2:1"
    assert web["problems"][0]["remedies"][1].endswith("doctor dev@127.0.0.2:1")
    assert pipe["problems"][0]["remedies"] == [
        "Check that the ProxyCommand can be run:",
        "no-such-command pipe",
    ]
    assert odd["problems"][0]["part"] == "settings"
    assert "StrictHostKeyChecking='maybe'" in odd["problems"][0]["text"]


def test_a_name_that_can_be_none_is_an_unknown_host(place: Place) -> None:
    (host,) = place.data(1, "no..name")
    assert host["problems"][0]["part"] == "connection"


def test_a_failed_login_says_what_was_tried(openssh: Server, place: Place, tmp_path: Path) -> None:
    place.know(openssh)
    key = new_key(tmp_path / "stranger")
    done = place.run(at(openssh), "--key", str(key))
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert f"login {openssh.user}, FAILED" in text
    assert f"known in {place.known_hosts}:1" in text
    assert f"key {key}: refused" in text
    assert f"ssh-copy-id -p {openssh.port} {openssh.user}@127.0.0.1" in text


def test_a_password_asked_for_opens_the_key(
    openssh: Server,
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place.know(openssh)
    key = tmp_path / "locked"
    key.write_bytes(Path(openssh.key).read_bytes())
    key.chmod(0o600)
    command = ["ssh-keygen", "-q", "-p", "-N", "open sesame", "-P", "", "-f", str(key)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    monkeypatch.setenv("HOME", str(place.home))
    words = ["doctor", at(openssh), "--key", str(key)]
    assert main(words) == 1
    assert f"key {key}: it needs a passphrase" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr("getpass.getpass", lambda prompt: "open sesame")
    assert main([*words, "--password-prompt"]) == 0
    output, errors = capsys.readouterr()
    assert "open sesame" not in output
    assert errors == ""


# Interpreters


def test_a_host_without_python_is_a_problem(place: Place, tmp_path: Path) -> None:
    with serving(tmp_path / "server", shell_only(tmp_path / "bin")) as server:
        place.know(server)
        text = place.text(1, *login(server))
    assert "interpreters none on the PATH there" in text
    assert "agent" not in text.split()
    assert "PROBLEM 127.0.0.1 has no interpreter" in text
    assert "Install Python 3.6 or newer" in text


def test_one_that_could_be_used_is_named(place: Place, tmp_path: Path) -> None:
    path = shell_only(tmp_path / "bin")
    (path / "python").symlink_to(interpreters.running()[1])
    broken = path / "python3.1"
    broken.write_text("#!/bin/sh\nprintf '\\033[31mno\\n'; exit 5\n")
    broken.chmod(0o755)
    with serving(tmp_path / "server", path) as server:
        place.know(server)
        text = place.text(1, *login(server))
        assert f"--python {path}/python" in text
        assert f"python3.1 doesn't run {broken}" in text
        assert "result all fine" in place.text(0, *login(server), "--python", f"{path}/python")


def test_one_that_is_too_old_is_a_problem(openssh: Server, place: Place) -> None:
    if "2.7" not in interpreters.found():
        pytest.skip("no Python 2.7 on this machine")
    place.know(openssh)
    text = place.text(1, *login(openssh), "--python", "python2.7")
    assert "python2.7 on 127.0.0.1 is Python 2.7." in text
    assert "needs 3.6 or newer" in text


# The command line


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("surgeon",), "invalid choice"),
        (("doctor",), "required: HOST"),
        (("doctor", ","), "no host is named"),
        (("doctor", "web1:ssh"), "a port that is no number"),
        (("doctor", "web1:70000"), "not between 1 and 65535"),
        (("doctor", "dev@"), "names no host"),
        (("doctor", "web1", "--key", "nowhere"), "there is no file nowhere"),
        (("doctor", "web1", "--python", "'"), "can't be split"),
        (("doctor", "web1", "--ssh-option", "Port"), "is not NAME=VALUE"),
        (("doctor", "web1", "--ssh-option", "Prot=22"), "Did you mean Port?"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_done(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    output, errors = capsys.readouterr()
    assert (ended.value.code, output) == (2, "")
    assert complaint in " ".join(errors.split())


def test_wrong_usage_has_the_exit_status_2(place: Place) -> None:
    done = place.run("web1", "--fast")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("web1", ("web1", None, None)),
        ("dev@web1:2222", ("web1", "dev", 2222)),
        ("dev@corp@web1", ("web1", "dev@corp", None)),
        ("::1", ("::1", None, None)),
        ("dev@[fe80::1%eth0]:22", ("fe80::1%eth0", "dev", 22)),
        ("[::1]", ("::1", None, None)),
    ],
)
def test_hosts_are_written_as_for_fab(text: str, parts: tuple[Any, ...]) -> None:
    assert parse_target(text) == Target(text, *parts)


@contextmanager
def started(place: Place, *words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, *words],
        env=place.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process


def check_interrupted(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, errors = process.communicate(timeout=40)
    assert (process.returncode, output) == (130, "")
    assert errors.strip() == "Interrupted; all connections are closed."


def test_ctrl_c_ends_it_while_it_waits_for_a_host(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(40)
        with started(place, f"127.0.0.1:{silent.getsockname()[1]}") as process:
            accepted, _ = silent.accept()
            with accepted:
                time.sleep(0.2)
                check_interrupted(process)


def test_ctrl_c_leaves_nothing_on_the_host(openssh: Server, place: Place) -> None:
    place.know(openssh)
    with started(place, *login(openssh)) as process:
        assert settled(openssh.processes)
        check_interrupted(process)
    assert settled(lambda: openssh.processes() == [])


def test_it_ends_quietly_when_nobody_reads_on(place: Place) -> None:
    with started(place, f"{NOWHERE},also-{NOWHERE}") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=40) == 1
