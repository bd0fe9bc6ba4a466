"""The demo, run as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fabremote.demo.server import find_sshd

COMMAND = [sys.executable, "-m", "fabremote.demo"]
PROC = Path("/proc")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the demo keeps all that it makes."""
    directory = tmp_path / "place"
    directory.mkdir()
    return directory


def environment(place: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(place), "PYTHONWARNINGS": "error", **more}


def run(place: Path, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *options],
        env=environment(place, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert left_behind(place) == []
    return done


def left_behind(place: Path) -> list[str]:
    """The files below a directory, and the processes that mention it."""
    return [*map(str, place.iterdir()), *_processes(os.fsencode(place))]


def _processes(text: bytes) -> list[str]:
    found = []
    for entry in PROC.glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if text in words:
            found.append(f"process {entry.name}: {words[:100]!r}")
    return found


@pytest.fixture(scope="module", params=["openssh", "asyncssh"])
def tour(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, subprocess.CompletedProcess[str]]:
    """The kind of server asked for, and the finished demo."""
    kind: str = request.param
    need(kind)
    return kind, run(tmp_path_factory.mktemp("place"), "--server", kind)


def need(kind: str) -> None:
    """Skip the test unless there can be a server of this kind."""
    if kind == "openssh" and find_sshd() is None:
        pytest.skip("no sshd on this machine")
    if kind == "asyncssh":
        pytest.importorskip("asyncssh")


def test_every_step_works(tour: tuple[str, subprocess.CompletedProcess[str]]) -> None:
    kind, done = tour
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert f"({kind})" in done.stdout.splitlines()[1]
    assert len(re.findall(r"^   ok +\d+\.\d\d s$", done.stdout, re.MULTILINE)) == 4
    assert re.search(r"^All 4 steps worked, in \d+\.\d\d s\.$", done.stdout, re.MULTILINE)


def test_it_shows_what_it_says(tour: tuple[str, subprocess.CompletedProcess[str]]) -> None:
    steps = re.split(r"^\d\. ", tour[1].stdout, flags=re.MULTILINE)[1:]
    call, exception, refused, three = steps
    times = [float(second) for second in re.findall(r"^ +(\d\.\d\d) s \| ", call, re.MULTILINE)]
    assert len(times) == 4
    assert times[-1] - times[0] > 0.3
    assert "lift-off" in call
    assert "'counted': 4" in call
    assert "Traceback on 127.0.0.1" in exception
    assert "OutOfStock: 12 of spanner wanted, 7 left" in exception
    assert "caught here as OutOfStock" in exception
    assert "UntrustedResult: " in refused
    assert "trust=[Trojan]" in refused
    assert "none of its code ran here" in refused
    assert three.count("has slept 1.0 s") == 3
    assert float(re.findall(r"took (\S+) s together", three)[0]) < 2.5


def test_it_is_plain_text_in_80_columns(
    tour: tuple[str, subprocess.CompletedProcess[str]],
) -> None:
    output = tour[1].stdout
    assert output.isascii()
    assert "\033" not in output
    assert max(map(len, output.splitlines())) <= 80


@pytest.mark.parametrize(("more", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_is_for_terminals_and_can_be_declined(
    more: dict[str, str], coloured: bool, place: Path
) -> None:
    import pty

    leader, follower = pty.openpty()
    env = environment(place, TERM="xterm", **more)
    env.update({} if "NO_COLOR" in more else {"NO_COLOR": ""})
    with subprocess.Popen(
        [*COMMAND, "--python", "false"], env=env, stdin=subprocess.DEVNULL, stdout=follower
    ) as process:
        os.close(follower)
        output = _all_of(leader)
        assert process.wait(50) == 1
    assert (b"\033[31mFAILED" in output) is coloured
    assert (b"\033[" in output) is coloured


def _all_of(descriptor: int) -> bytes:
    output = b""
    try:
        while piece := os.read(descriptor, 65536):
            output += piece
    except OSError:
        pass  # how Linux says that the terminal's other end is closed
    finally:
        os.close(descriptor)
    return output


def test_a_failing_step_is_reported_and_makes_the_exit_status_1(place: Path) -> None:
    done = run(place, "--python", "false")
    assert done.returncode == 1
    assert "RemoteInterpreterMissing: " in done.stdout
    assert len(re.findall(r"^   FAILED +\d+\.\d\d s$", done.stdout, re.MULTILINE)) == 4
    assert done.stdout.splitlines()[-1] == "FAILED: step 1, 2, 3, 4 of 4"


def test_without_a_server_the_exit_status_is_1(place: Path, tmp_path: Path) -> None:
    # A module of this name that says it isn't there, and an sshd that doesn't run.
    (tmp_path / "asyncssh.py").write_text("raise ModuleNotFoundError(name='asyncssh')\n")
    (tmp_path / "sshd").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "sshd").chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = run(place, PATH=path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("The demo has no server: sshd doesn't serve 127.0.0.1")


@pytest.mark.parametrize("kind", ["openssh", "asyncssh"])
def test_ctrl_c_leaves_nothing(kind: str, place: Path) -> None:
    need(kind)
    with subprocess.Popen(
        [*COMMAND, "--server", kind],
        env=environment(place),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        while "3 ..." not in process.stdout.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted" in errors
    assert "Traceback" not in errors
    assert left_behind(place) == []


def test_it_ends_quietly_when_nobody_reads_on(place: Path) -> None:
    with subprocess.Popen(
        COMMAND,
        env=environment(place),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 1
    assert left_behind(place) == []
