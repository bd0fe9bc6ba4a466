"""What a call is given is seen by no other user: not in a process list, a file or a log."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fabremote import Connection

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
    return os.environ["FR_TOKEN"] + secret


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
@pytest.mark.timeout(60)
def test_secrets_of_a_running_call_are_nowhere_to_be_seen(
    conn_openssh: Connection, openssh: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    argument, variable, typed = (f"{name}{os.urandom(8).hex()}" for name in ("arg", "env", "in"))
    secrets = [argument, variable, typed]
    stream = tmp_path / "stream"
    caplog.set_level(logging.DEBUG)
    for name in ("paramiko", "fabremote", "fabric", "invoke"):
        caplog.set_level(logging.DEBUG, name)
    with open(stream, "w+") as given:
        given.write(typed)
        given.seek(0)
        stream.unlink()
        python = conn_openssh.python(env={"FR_TOKEN": variable}, in_stream=given)
        future = python.submit(waiting, argument, str(tmp_path))
        while not (tmp_path / "runs").exists():
            assert not future.done(), future.exception()
        folders = [str(tmp_path), str(Path.home()), str(openssh.directory), "/dev/shm"]
        if os.geteuid() == 0:
            # As nobody, who may enter few of them.
            assert looked_for(secrets, ["/var/tmp", *folders], 65534) == []
        # The function's own process has its variables, as it must; nobody else can read them.
        mine = [path for path in looked_for(secrets, folders, None) if "/environ" not in path]
        assert mine == []
        (tmp_path / "go on").touch()
        assert future.result() == variable + argument
    for secret in secrets:
        assert secret not in caplog.text
    assert any(record.levelno == logging.DEBUG for record in caplog.records)


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
