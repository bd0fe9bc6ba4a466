"""Hosts that are not friendly: what their shells do first, and what processes find there."""

from __future__ import annotations

import contextlib
import os
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabremote import (
    RemoteConnectionLost,
    RemoteException,
    RemoteInterpreterMissing,
    RemoteProcessDied,
)
from fabremote.bootstrap import Start
from fabremote.demo.openssh import OpenSSHServer, find_sshd
from fabremote.demo.server import Server
from fabremote.links import BY_THE_WAY
from tests import interpreters, passwords
from tests.conftest import served
from tests.faults import dial, each, host, program, settled, shell, within

PYTHON = interpreters.running()[1]


def under(prelude: str, shell: str = "bash") -> str:
    """The command of an interpreter started by a shell that does something first."""
    return shlex.join([shell, "-c", f'{prelude}; exec {shlex.quote(PYTHON)} "$@"', "sh"])


# What a login shell's files do


@pytest.fixture(scope="module")
def homely(
    tmp_path_factory: pytest.TempPathFactory, remote_env: dict[str, str]
) -> Iterator[OpenSSHServer]:
    """An sshd whose sessions have a HOME of their own, with files that bash reads."""
    if find_sshd() is None:
        pytest.skip("no sshd on this machine")
    yield from served(OpenSSHServer(tmp_path_factory.mktemp("homely"), env=remote_env))


@pytest.fixture
def bashrc(homely: OpenSSHServer) -> Iterator[Path]:
    """The file that the account's shell reads first."""
    file = homely.home / ".bashrc"
    file.write_text("echo $((6 * 7))")
    with dial(homely) as c:
        if c.run("true", hide=True, in_stream=False).stdout != "42\n":
            pytest.skip("this account's login shell doesn't read ~/.bashrc")
    yield file
    file.unlink()


HARMLESS = {
    "3 MB": "head -c 3000000 /dev/zero | tr '\\0' x; yes err | head -c 3000000 >&2",
    "background noise": "( sleep 0.05; yes later | head -c 3000000 ) >&2 </dev/null &",
    "a trap": "trap 'echo bye; yes | head -c 100000' EXIT TERM HUP",
    "other names": "alias exec=echo sh=echo read=echo eval=echo; IFS=xyz; set -o noclobber",
    "functions": "python3() { echo no; }; sh() { echo no; }; export -f python3",
    "little umask": "umask 777",
    "unset": "unset HOME USER LOGNAME LANG TERM SHELL",
    "a strict shell": "set -u",
}


def test_what_a_shells_files_do_first_does_no_harm(homely: OpenSSHServer, bashrc: Path) -> None:
    def check(line: str) -> None:
        bashrc.write_text(line + "\n")
        with within(20), dial(homely) as c:
            result = c.python(hide=True).run(print, "mine")
            assert (result.stdout, result.stderr) == ("mine\n", "")

    each(HARMLESS, check)


REFUSING = {
    "exit 0": ("echo account closed; exit 0", "account closed"),
    "exit 3": ("echo account closed >&2; exit 3", "account closed"),
    "eats a line": ("read -r line", "reads what is sent"),
    "eats some": ("head -c 200 > /dev/null", "reads what is sent"),
    "eats all": ("cat > /dev/null", "did not start within 1 s"),
    "hangs": ("echo wait; exec sleep 15", r"did not start within 1 s.* wait"),
    "no stdin": ("exec < /dev/null", "reads what is sent"),
    "closed stdin": ("exec <&-", "reads what is sent"),
    "another shell": ("exec cat", "did not start within 1 s.*comes back"),
    "nothing": ("exit 0", "ended before it ran anything"),
}


def test_a_shell_that_starts_another_is_given_up_in_time(
    homely: OpenSSHServer, bashrc: Path
) -> None:
    # The shell takes what is sent, the script but for its first line, and reads on for more.
    bashrc.write_text("exec dash\n")
    # Ending what it has started takes another session, with such a shell, too.
    with dial(homely) as c, within(BY_THE_WAY), pytest.raises(RemoteInterpreterMissing):
        c.python(start_timeout=1).call(max, 1, 2)


def test_what_a_shells_files_prevent_is_told(homely: OpenSSHServer, bashrc: Path) -> None:
    def check(case: tuple[str, str]) -> None:
        line, words = case
        bashrc.write_text(line + "\n")
        limit = 1 if "did not start" in words else 30
        with within(30), pytest.raises(RemoteInterpreterMissing, match=words):
            # Each with an agent of its own.
            c.python(py_options=f"-X a{hash(line)}", start_timeout=limit).call(max, 1, 2)

    with dial(homely) as c:
        each(REFUSING, check)
        bashrc.write_text("")
        assert c.call(max, 1, 2) == 2
    for process in homely.processes():
        if "sleep 15" in process.command:  # what hangs by itself is the host's own
            os.kill(process.pid, 9)


@pytest.mark.parametrize("line", ["exec cat", "exec cat -n", "exec cat -v", "exec sh -v"])
def test_what_a_shell_sends_back_is_not_shown(
    homely: OpenSSHServer, bashrc: Path, line: str
) -> None:
    bashrc.write_text(f"echo hello there\n{line}\n")
    secrets = [f"secret {number}" for number in range(100)]
    with dial(homely, start_timeout=1.0) as c, within(30):
        py = c.python(env={"TOKEN": "secret"})
        words = "did not start" if "-v" in line else "comes back"
        with pytest.raises(RemoteInterpreterMissing, match=words) as caught:
            py.call("\n".join, secrets)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("line", ["echo enough; kill -9 $$", "echo enough; exec >/dev/null"])
def test_a_shell_that_ends_without_a_word_is_told(
    homely: OpenSSHServer, bashrc: Path, line: str
) -> None:
    bashrc.write_text(line + "\n")
    with dial(homely, start_timeout=1.0) as c:
        with within(15), pytest.raises(RemoteConnectionLost, match=r"before .*enough") as caught:
            c.call(max, 1, 2)
        # An agent may have started that nobody hears.
        assert caught.value.begun
        bashrc.write_text("")
        assert c.python(start_timeout=30).call(max, 1, 2) == 2


@pytest.mark.parametrize(
    "name",
    [
        "sh",
        "fish",
        "tcsh",
        *(
            pytest.param(name, marks=pytest.mark.faults)
            for name in ("bash", "dash", "zsh", "busybox", "ksh")
        ),
    ],
)
def test_noise_of_every_shell_before_and_after(
    name: str, tmp_path: Path, remote_env: dict[str, str]
) -> None:
    command = shlex.join([shell(name), "sh"] if name == "busybox" else [shell(name)])
    noise = "head -c 3000000 /dev/zero | tr '\\0' x; head -c 100000 /dev/zero >&2"
    wrapper = program(
        tmp_path / "login",
        f'#!/bin/sh\n{noise}\n{command} "$@"\nstatus=$?\n{noise}\nexit $status\n',
    )
    with host(tmp_path / "s", shell=str(wrapper), env=remote_env) as server, dial(server) as c:
        result = c.python(hide=True).run(print, "mine")
        assert (result.stdout, result.stderr) == ("mine\n", "")
        with pytest.raises(RemoteInterpreterMissing, match="python0"):
            c.python(python="python0").call(max, 1, 2)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("internal-sftp", "isn't a Python that runs|interpreter|link"),
        ("echo only this; exit 0", "only this"),
        ("/no/such/command", "interpreter"),
        ("cat", "did not start within"),
    ],
)
def test_a_forced_command_is_told(
    command: str, words: str, tmp_path: Path, remote_env: dict[str, str]
) -> None:
    forced, limit = {"ForceCommand": command}, 1.0 if "did not start" in words else 30.0
    with (
        host(tmp_path / "s", env=remote_env, options=forced) as server,
        dial(server, start_timeout=limit) as c,
        within(30),
        pytest.raises(RemoteInterpreterMissing, match=words),
    ):
        c.call(max, 1, 2)


def test_a_forced_command_that_passes_ours_on_is_none(
    tmp_path: Path, remote_env: dict[str, str]
) -> None:
    forced = {"ForceCommand": 'logger=1; eval "$SSH_ORIGINAL_COMMAND"'}
    with host(tmp_path / "s", env=remote_env, options=forced) as server, dial(server) as c:
        assert c.call(max, 1, 2) == 2


# Interpreters that are none


def elf(machine: int) -> bytes:
    """The head of an executable for a machine of this number in ELF's table."""
    start = b"\x7fELF\x02\x01\x01" + bytes(9)
    return start + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)


BROKEN = {
    "another architecture": elf(0x1F3),
    "cut short": elf(62)[:20],
    "no segments": elf(62),
    "an interpreter that isn't there": b"#!/no/such/interpreter\n",
    "itself": b"",
    "binary": bytes(range(1, 256)),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_binary_that_cannot_run_is_told(openssh: Server, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "python"
    path.write_bytes(content)
    path.chmod(0o755)
    with dial(openssh) as c:
        with within(25), pytest.raises(RemoteInterpreterMissing, match=str(path)):
            c.python(python=str(path)).call(max, 1, 2)
        assert c.call(max, 1, 2) == 2


def test_a_host_without_python_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    with host(tmp_path / "s", env={"PATH": str(folder)}) as server, dial(server) as c:
        for begin in (c.call, c.python().submit):
            with within(25), pytest.raises(RemoteInterpreterMissing) as caught:
                begin(max, 1, 2)
            assert caught.value.tried == ("python{}.{}".format(*sys.version_info), "python3")
        assert c.run("echo here", hide=True, in_stream=False).stdout == "here\n"
        assert c.python(python=PYTHON).call(max, 1, 2) == 2


# Surroundings of the interpreter


def write_and_read(folder: str) -> str:
    with open(os.path.join(folder, "f"), "w") as stream:
        stream.write("x")
    return "written"


WORKING = {
    "16 descriptors": "ulimit -n 16",
    "no file can grow": "ulimit -f 0",
    "no core, little stack": "ulimit -c 0; ulimit -s 256",
    "no HOME": "unset HOME",
    "HOME isn't there": "export HOME=/no/such/home",
    "HOME is a file": "export HOME=/dev/null",
    "LANG=C": "export LANG=C LC_ALL=C",
    "LANG is none": "export LANG=xx_YY LC_ALL=xx_YY.nonsense",
    "no environment": "for name in $(compgen -e); do unset $name; done",
    "deleted folder": 'mkdir "$XDG_CACHE_HOME-gone"; cd "$XDG_CACHE_HOME-gone"; rmdir "$PWD"',
    "PYTHONSTARTUP": "export PYTHONSTARTUP=/no/such/file PYTHONINSPECT=1",
    "PYTHONVERBOSE": "export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0",
    "PYTHONPATH": "export PYTHONPATH=/no/such/folder::/dev/null:.",
    "signals ignored": "trap '' TERM HUP INT PIPE CHLD ALRM",
    "closed stderr": "exec 2>&-",
    "descriptors open": "exec 3</dev/null 9</dev/null 200</dev/null",
}


def test_calls_work_in_meagre_surroundings(openssh: Server) -> None:
    def check(prelude: str) -> None:
        py = c.python(python=under(prelude), hide=True)
        with within(20):
            for _ in range(12):
                result = py.run(print, "é")
                assert (result.value, result.stdout, result.stderr) == (None, "é\n", "")
            with pytest.raises(ZeroDivisionError):
                py.call(divmod, 1, 0)

    with dial(openssh) as c:
        each(WORKING, check)


def modules_there() -> list[str]:
    import json
    import random

    return [json.dumps([1]), type(random.random()).__name__]


def test_a_home_that_is_read_only_or_full_does_no_harm(openssh: Server, tmp_path: Path) -> None:
    """A process that can write nowhere stands for both; root may write wherever it likes."""
    with dial(openssh) as c:
        py = c.python(python=under("ulimit -f 0; export HOME=" + shlex.quote(str(tmp_path))))
        assert py.call(modules_there) == ["[1]", "float"]
        with pytest.raises(OSError, match="too large"):
            py.call(write_and_read, str(tmp_path))
        assert [entry.name for entry in tmp_path.iterdir() if entry.stat().st_size] == []


@pytest.mark.skipif(not passwords.possible(), reason="mounting needs root and unshare")
@pytest.mark.parametrize(
    ("mount", "error"),
    [("-o ro", "Read-only"), ("-o size=4k", "No space left")],
    ids=["read-only", "full"],
)
def test_a_home_on_such_a_file_system_does_no_harm(
    openssh: Server, tmp_path: Path, mount: str, error: str
) -> None:
    home = shlex.quote(str(tmp_path))
    prelude = f"mount -t tmpfs {mount} none {home}; export HOME={home} XDG_CACHE_HOME={home}"
    prelude += f"; yes 2>/dev/null >{home}/fill"
    python = f"unshare --mount {under(prelude)}"
    with dial(openssh) as c:
        py = c.python(python=python, hide=True)
        with within(20):
            assert py.call(modules_there) == ["[1]", "float"]
            with pytest.raises(OSError, match=error):
                py.call(write_and_read, str(tmp_path))
        assert c.call(max, 1, 2) == 2
    assert list(tmp_path.iterdir()) == []


SHADOWS = ["zlib", "struct", "select", "marshal", "_pickle", "fcntl", "atexit", "array", "random"]


def test_modules_of_pythonpath_do_not_stand_in_for_the_agents(
    openssh: Server, tmp_path: Path
) -> None:
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
    (tmp_path / "mine_alone.py").write_text("VALUE = 5\n")
    prelude = f"export PYTHONPATH={shlex.quote(str(tmp_path))}/"
    with dial(openssh) as c:
        # Without what the site's packages import as Python starts.
        py = c.python(python=under(prelude), py_options="-S")
        assert py.call(lambda: __import__("mine_alone").VALUE) == 5
        # What else Python itself imports as it starts is beyond our reach, and told.
        (tmp_path / "os.py").write_text("raise SystemExit('shadowed')\n")
        with within(15), pytest.raises(RemoteInterpreterMissing, match="shadowed"):
            c.python(python=under(prelude + " A=1")).call(max, 1, 2)
        with within(15), pytest.raises(RemoteInterpreterMissing, match=r"(?i)encodings"):
            c.python(python=under("export PYTHONHOME=/no/such/home")).call(max, 1, 2)
        assert c.call(max, 1, 2) == 2


@pytest.mark.parametrize("size", [4000, 12000, 15000, 20000, 60000])
def test_little_memory_is_enough_or_told(openssh: Server, size: int) -> None:
    with dial(openssh) as c:
        with (
            within(20),
            contextlib.suppress(
                RemoteInterpreterMissing, RemoteConnectionLost, RemoteProcessDied, MemoryError
            ),
        ):
            assert c.python(python=under(f"ulimit -v {size}"), hide=True).call(max, 1, 2) == 2
        assert c.call(max, 1, 2) == 2


def test_an_argument_for_which_memory_is_short_is_told(openssh: Server) -> None:
    with dial(openssh) as c:
        py = c.python(python=under("ulimit -v 100000"), hide=True)
        agent = py.call(os.getppid)
        with within(25), pytest.raises(RemoteProcessDied, match="MemoryError"):
            py.call(len, bytes(110 << 20))
        assert py.call(os.getppid) == agent


# A user that nobody else has here, so that only these processes count.
SOMEBODY = 61234


@pytest.mark.skipif(os.geteuid() != 0, reason="root can become another user")
@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.faults), 8])
def test_too_few_processes_are_told(openssh: Server, count: int) -> None:
    python = "/usr/bin/python3"
    become = [shell("setpriv"), f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups"]
    run = ["bash", "-c", f'ulimit -u {count}; exec {python} "$@"', "sh"]
    if subprocess.run([*become, python, "-c", ""], check=False).returncode:
        pytest.skip(f"no {python} that others may run")
    with dial(openssh) as c:
        py = c.python(python=shlex.join([*become, *run]), hide=True)
        for _ in range(3):
            with within(15), contextlib.ExitStack() as stack:
                if count < 3:
                    kinds: tuple[type[RemoteException], ...]
                    kinds = RemoteConnectionLost, RemoteProcessDied
                    words = "temporarily unavailable"
                    stack.enter_context(pytest.raises(kinds, match=words))
                assert py.call(max, 1, 2) == 2
        assert c.call(max, 1, 2) == 2


# This side's own surroundings


@pytest.mark.parametrize(
    "closed", [pytest.param((0,), marks=pytest.mark.faults), (0, 1, 2)], ids=str
)
def test_a_caller_without_standard_streams_can_call(
    openssh: Server, tmp_path: Path, closed: tuple[int, ...]
) -> None:
    code = f"""
import os, sys
from fabremote import Connection
keys = {openssh.connect_kwargs!r}
with Connection({openssh.hosts[0]!r}, {openssh.user!r}, {openssh.port}, connect_kwargs=keys) as c:
    value = c.python(hide=True).call(max, 1, 2)
    value += c.python(hide=True).submit(max, 1, 2).result()
with open({str(tmp_path / "out")!r}, "w") as stream:
    stream.write(str(value))
"""
    redirect = " ".join(f"{fd}>&-" for fd in closed)
    command = f'exec "$0" -c "$1" {redirect}'
    run = subprocess.run(["sh", "-c", command, sys.executable, code], timeout=50, check=False)
    assert (run.returncode, (tmp_path / "out").read_text()) == (0, "4")


def test_nothing_is_left_of_what_could_not_start(homely: OpenSSHServer) -> None:
    assert settled(lambda: not homely.processes())


def test_a_banner_is_shown_though_the_call_has_the_like() -> None:
    start = Start(None, "", [], ahead=b"text" + b"*" * 64)
    banner = b"*" * 70 + b"\nyour account is locked\n"
    assert start.noise(banner).endswith("your account is locked")


@pytest.mark.parametrize("at", range(8))
def test_what_comes_back_amid_a_line_is_known(at: int) -> None:
    start = Start(None, "", [], ahead=bytes(range(60, 200)))
    assert start.sent_back(b"." * at * 4 + b"\n" + bytes(range(70, 140))) is not None
