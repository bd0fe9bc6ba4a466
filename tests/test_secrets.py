"""What a call is given is seen by no other user: not in a process list, a file or a log."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from fabremote import Connection, Remotely
from fabremote.demo.openssh import find_sshd
from tests import passwords
from tests.conftest import SERVERS
from tests.faults import settled
from tests.sudo_users import PASSWORD, SudoHost, sudo_host

NOBODY = 65534
LOGGERS = ("paramiko", "fabremote", "fabric", "invoke")
SYSTEM = "/usr/bin:/usr/local/bin:/bin"
LOOK = """
import os, sys
secrets = [line.strip().encode() for line in sys.stdin]
def check(path):
    try:
        with open(path, "rb") as stream:
            data = stream.read(1 << 22)
    except OSError:
        return
    for secret in secrets:
        if secret in data:
            print(path)
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("cmdline", "environ", "comm", "stat", "status"):
        check("/proc/%s/%s" % (pid, name))
for folder in sys.argv[1:]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if os.path.isfile(path):
                check(path)
print("looked")
"""


def looked_for(secrets: list[str], folders: list[str], user: int | None) -> list[str]:
    """The files, of /proc and of these folders, in which this user finds a secret."""
    # Another user may not be able to enter this environment.
    python = sys.executable if user is None else shutil.which("python3", path=SYSTEM)
    if python is None:
        pytest.skip("no Python that another user could run")
    done = subprocess.run(
        [python, "-I", "-c", LOOK, *folders],
        input="\n".join(secrets),
        capture_output=True,
        text=True,
        user=user,
        group=user,
        check=True,
    )
    *found, last = done.stdout.splitlines()
    assert last == "looked"
    return found


def waiting(secret: str, folder: str) -> str:
    """Tell that it runs, and wait until it is told to go on."""
    import os
    import time

    open(os.path.join(folder, "runs"), "w").close()
    while not os.path.exists(os.path.join(folder, "go on")):
        time.sleep(0.01)
    return os.environ.get("FR_TOKEN", "") + secret


def log_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in LOGGERS:
        caplog.set_level(logging.DEBUG, name)


def check_unseen(
    secrets: list[str],
    future: Future[str],
    folder: Path,
    server: Any,
    caplog: pytest.LogCaptureFixture,
    stranger: int = NOBODY,
) -> None:
    """While the call runs, nobody sees the secrets: not in processes, on disk or in a log."""
    assert settled((folder / "runs").exists, 30)
    assert not future.done(), future.exception()
    folders = [str(folder), str(Path.home()), str(server.directory), "/dev/shm"]
    if os.geteuid() == 0:
        # A stranger may enter few of them.
        assert looked_for(secrets, ["/var/tmp", *folders], stranger) == []
    # The function's own process has its variables, as it must; nobody else can read them.
    mine = [path for path in looked_for(secrets, folders, None) if "/environ" not in path]
    assert mine == []
    (folder / "go on").touch()
    assert isinstance(future.result(30), str)
    for secret in secrets:
        assert secret not in caplog.text
        assert secret not in server.log.read_text(errors="replace")
    assert any(record.levelno == logging.DEBUG for record in caplog.records)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
@pytest.mark.timeout(60)
def test_secrets_of_a_running_call_are_nowhere_to_be_seen(
    conn_openssh: Connection, openssh: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    argument, variable, typed = (f"{name}{os.urandom(8).hex()}" for name in ("arg", "env", "in"))
    secrets = [argument, variable, typed]
    stream = tmp_path / "stream"
    log_all(caplog)
    with open(stream, "w+") as given:
        given.write(typed)
        given.seek(0)
        stream.unlink()
        python = conn_openssh.python(env={"FR_TOKEN": variable}, in_stream=given)
        future = python.submit(waiting, argument, str(tmp_path))
        check_unseen(secrets, future, tmp_path, openssh, caplog)
        assert future.result() == variable + argument


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[passwords.PasswordServer]:
    """An sshd that takes a password of this run, and tells its log all that it does."""
    if find_sshd() is None or not passwords.possible():
        pytest.skip("making a password for sshd needs root, PAM and unshare")
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            server = passwords.started(tmp_path_factory.mktemp("guarded"), patch)
            stack.enter_context(server)
        SERVERS.append(server)
        stack.callback(SERVERS.remove, server)
        yield server


@pytest.mark.parametrize("way", ["Connection", "Remotely"])
@pytest.mark.timeout(60)
def test_the_password_of_a_login_is_nowhere_to_be_seen(
    guarded: passwords.PasswordServer,
    way: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log_all(caplog)
    given = {"password": guarded.password, "look_for_keys": False, "allow_agent": False}
    place = guarded.hosts[0], guarded.user, guarded.port
    with contextlib.ExitStack() as stack:
        if way == "Connection":
            c = stack.enter_context(Connection(*place, connect_kwargs=given))
            future = c.python(hide=True).submit(waiting, "", str(tmp_path))
        else:
            options = {"StrictHostKeyChecking": False, "UserKnownHostsFile": "/dev/null"}
            fn: Any = Remotely(
                waiting,
                place[0],
                user=place[1],
                port=place[2],
                password=guarded.password,
                ssh_options={**options, "PubkeyAuthentication": False},
            )
            stack.callback(fn.close)
            future = fn.submit("", str(tmp_path))
        check_unseen([guarded.password], future, tmp_path, guarded, caplog)
    assert "Accepted password" in guarded.read()


@pytest.fixture(scope="module")
def sudoers() -> Iterator[SudoHost]:
    with sudo_host() as made:
        SERVERS.append(made.server)
        yield made
        SERVERS.remove(made.server)


@pytest.mark.timeout(60)
def test_the_password_for_sudo_is_nowhere_to_be_seen(
    sudoers: SudoHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log_all(caplog)
    folder = sudoers.server.directory / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    with sudoers.connection("asks") as c:
        py = c.python(sudo=sudoers.users["target"], password=PASSWORD)
        future = py.submit(waiting, "", str(folder))
        check_unseen([PASSWORD, PASSWORD[2:-2]], future, folder, sudoers.server, caplog)


def test_the_scan_would_find_them(tmp_path: Path) -> None:
    secret = f"shown{os.urandom(8).hex()}"
    (tmp_path / "file").write_text(secret)
    with subprocess.Popen(
        [sys.executable, "-c", "input()", secret], stdin=subprocess.PIPE
    ) as shown:
        found = looked_for([secret], [str(tmp_path)], None)
        shown.communicate(b"\n")
    assert f"/proc/{shown.pid}/cmdline" in found
    assert str(tmp_path / "file") in found
