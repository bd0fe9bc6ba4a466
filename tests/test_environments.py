"""``requires=``: environments are made on the host once, by one process, or not at all."""

from __future__ import annotations

import io
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

import fabremote
from fabremote import (
    Connection,
    EnvironmentBuildError,
    RemoteInterpreterMissing,
    RemoteProcessDied,
    RemoteTimeout,
    environments,
    remotely,
    wrap,
)
from fabremote.options import resolve
from fabremote.remote import environments as builder
from fabremote.remote import folders, installers, wheels
from fabremote.requirements import Requirements, parse
from tests import interpreters
from tests.packages import Index, make_sdist, make_wheel, serving

UV = shutil.which(
    "uv", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
)
INSTALLERS = ["pip", pytest.param("uv", marks=pytest.mark.skipif(not UV, reason="no uv here"))]
BROKEN = """
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    print("\\n".join("line %d" % number for number in range(100)))
    raise RuntimeError("the compiler went home")
"""


def imported(name: str) -> tuple[str, str]:
    """What a package says of itself, and where the interpreter is."""
    module = __import__(name)
    return module.VERSION, sys.prefix


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """The tests' own index."""
    folder = tmp_path_factory.mktemp("packages")
    make_wheel(folder, "tinyone", "1.0")
    make_wheel(folder, "tinyone", "2.0")
    make_wheel(folder, "tinytwo", requires=["tinyone>=1"])
    make_wheel(folder, "marked", requires=['oldpython; python_version < "3.9"'])
    make_wheel(folder, "oldpython")
    make_sdist(folder, "broken", BROKEN)
    glibc, musl = "manylinux_2_17_x86_64.manylinux2014_x86_64", "musllinux_1_1_x86_64"
    for python in ("cp38-cp38", "cp311-cp311", "cp312-cp312"):
        for platform in (glibc, musl, "manylinux_2_99_x86_64", "macosx_11_0_arm64"):
            make_wheel(folder, "binary", tag=f"{python}-{platform}")
    with serving(folder) as made:
        yield made


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with a uv that notes each time it is run, in ``uv.log``."""
    folder = tmp_path / "programs"
    folder.mkdir()
    uv = folder / "uv"
    uv.write_text(f'#!/bin/sh\necho "$@" >> {folder}/uv.log\nexec {UV} "$@"\n')
    uv.chmod(0o755)
    return folder


@pytest.fixture
def env(tmp_path: Path, index: Index) -> dict[str, str]:
    """Variables of calls: the tests' index, caches of the test's own, and no uv."""
    index.gate.set()
    return {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "",
        "PIP_INDEX_URL": index.url,
        "PIP_NO_INDEX": "",
        "PIP_CACHE_DIR": str(tmp_path / "pip"),
        "UV_NO_CACHE": "1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PATH": "/usr/bin:/bin",
    }


@pytest.fixture
def fast(env: dict[str, str], programs: Path) -> dict[str, str]:
    """The same with uv, if there is one."""
    return {**env, "PATH": f"{programs}:{env['PATH']}"} if UV else env


@pytest.fixture
def local() -> Iterator[Any]:
    """This machine, without the price of SSH."""
    context = wrap(
        Context(),
    )
    yield context
    context.close()


@pytest.fixture
def python(local: Any, fast: dict[str, str]) -> Callable[..., Any]:
    """Makes an interpreter of this machine, quickly and without output."""

    def make(*requires: Any, **options: Any) -> Any:
        given = {"python": sys.executable, "env": fast, "hide": True, "requires": requires}
        return local.python(**{**given, **options})

    return make


def made(tmp_path: Path) -> list[str]:
    """All that is in the folder of environments."""
    folder = tmp_path / "cache" / "fabremote" / "environments"
    return sorted(os.listdir(folder)) if folder.exists() else []


# Making one, and finding it


@pytest.mark.parametrize("installer", INSTALLERS)
def test_a_function_finds_what_it_requires(
    installer: str, conn_openssh: Connection, env: dict[str, str], programs: Path, tmp_path: Path
) -> None:
    if installer == "uv":
        env["PATH"] = f"{programs}:{env['PATH']}"
    py = conn_openssh.python(requires=["tinytwo", "TinyOne < 2"], env=env, hide=True)
    version, prefix = py.call(imported, "tinyone")
    assert version == "1.0"
    assert os.path.dirname(prefix) == str(tmp_path / "cache" / "fabremote" / "environments")
    assert made(tmp_path) == [os.path.basename(prefix)]
    assert os.stat(prefix).st_mode & 0o777 == 0o700
    assert (programs / "uv.log").exists() == (installer == "uv")
    with pytest.raises(ModuleNotFoundError):
        conn_openssh.call(imported, "tinyone")


def test_an_environment_is_found_again_without_index_or_installer(
    python: Callable[..., Any], index: Index, programs: Path, fast: dict[str, str]
) -> None:
    found = python("tinyone").call(imported, "tinyone")
    requests, runs = len(index.requests), (programs / "uv.log").read_text() if UV else ""
    gone = {**fast, "PIP_INDEX_URL": "http://127.0.0.1:1/simple"}
    with wrap(Context()) as other:
        again = other.python(python=sys.executable, env=gone, hide=True, requires=["TINYONE"])
        assert again.call(imported, "tinyone") == found
    assert len(index.requests) == requests
    assert not UV or (programs / "uv.log").read_text() == runs


def test_looking_for_an_environment_starts_no_process(
    python: Callable[..., Any], fast: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, prefix = python("tinyone").call(imported, "tinyone")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"a process was started: {args}")

    monkeypatch.setenv("XDG_CACHE_HOME", fast["XDG_CACHE_HOME"])
    monkeypatch.setattr(subprocess, "Popen", refuse)
    wanted = {"requirements": ("tinyone",), "constraints": (), "options": (), "cache_dir": None}
    found = builder.provide({**wanted, "wheels": None})
    assert found == ("ready", f"{prefix}/bin/python")
    missing = builder.provide({**wanted, "requirements": ("other",), "wheels": "local"})
    assert missing == ("wheels",)


def test_an_environment_is_looked_for_once_a_session(
    python: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Any] = []
    real = environments.provide
    monkeypatch.setattr(environments, "provide", lambda *a: looked.append(a) or real(*a))
    for _ in range(3):
        python("tinyone").call(imported, "tinyone")
    assert python("tinyone").submit(imported, "tinyone").result()[0] == "2.0"
    assert len(looked) == 1
    python("tinyone", py_options="-O").call(imported, "tinyone")
    assert len(looked) == 2


def test_options_reach_the_interpreter_of_the_environment(python: Callable[..., Any]) -> None:
    py = python("tinyone", py_options="-O")
    assert py.call(lambda: (sys.flags.optimize, __import__("tinyone").VERSION)) == (1, "2.0")


def test_a_command_stays_around_the_environment(python: Callable[..., Any]) -> None:
    usual = os.nice(0)
    py = python("tinyone", python=f"nice -n 3 {sys.executable}")
    assert py.call(lambda: (os.nice(0), __import__("tinyone").VERSION)) == (usual + 3, "2.0")


def test_a_decorated_function_has_requirements(fast: dict[str, str], local: Any) -> None:
    run = remotely(local, python=sys.executable, requires=["tinyone==1"], env=fast, hide=True)
    assert run(imported)("tinyone")[0] == "1.0"


def test_the_configuration_has_requirements(fast: dict[str, str]) -> None:
    config = fabremote.connection.Config(overrides={"remotely": {"requires": ["tinyone"]}})
    with wrap(Context(config)) as context:
        py = context.python(python=sys.executable, env=fast, hide=True)
        assert py.call(imported, "tinyone")[0] == "2.0"
        bare = context.python(python=sys.executable, requires=None)
        with pytest.raises(ModuleNotFoundError):
            bare.call(imported, "tinyone")


@pytest.mark.parametrize("version", ["3.6", "3.8", "3.12"])
def test_each_interpreter_has_an_environment_of_its_own(
    version: str, python: Callable[..., Any], tmp_path: Path
) -> None:
    path = interpreters.found().get(version)
    if path is None:
        pytest.skip(f"no Python {version} here")
    python("tinyone", python=path).call(abs, -1)
    prefix = Path(tmp_path, "cache", "fabremote", "environments", *made(tmp_path))
    assert list(prefix.glob(f"lib/python{version}/site-packages/tinyone.py"))
    data = python("tinyone", python=path).call(pkgutil.get_data, "tinyone", "tinyone.py")
    assert data.startswith(b"VERSION = '2.0'")


# Output


def test_what_the_installer_prints_is_shown_on_stderr(python: Callable[..., Any]) -> None:
    out, err = io.StringIO(), io.StringIO()
    py = python("tinyone", hide=None, out_stream=out, err_stream=err)
    result = py.run(lambda: print("mine"))
    assert out.getvalue() == result.stdout == "mine\n"
    assert "making an environment in" in err.getvalue()
    assert "tinyone" in err.getvalue()
    assert result.stderr == ""


def test_what_the_installer_prints_is_hidden(
    python: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    python("tinyone").call(abs, -1)
    assert capfd.readouterr() == ("", "")


# Several at once


def test_calls_at_once_make_one_environment(
    python: Callable[..., Any], index: Index, tmp_path: Path
) -> None:
    before = len(index.files())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: python("tinyone").call(imported, "tinyone"), range(4)))
    assert len(set(found)) == 1
    assert len(index.files()) == before + 1
    assert len(made(tmp_path)) == 1


SCRIPT = """
import json, os, sys
from invoke import Context
from fabremote import wrap

env = json.loads(sys.argv[1])
with wrap(Context()) as c:
    py = c.python(python=sys.executable, requires=["tinyone"], env=env)
    print(py.call(os.getenv, "XDG_CACHE_HOME"))
"""


def test_processes_at_once_make_one_environment(
    fast: dict[str, str], index: Index, tmp_path: Path
) -> None:
    before = len(index.files())
    index.gate.clear()
    command = [sys.executable, "-c", SCRIPT, json.dumps(fast)]
    logs = [tmp_path / "first", tmp_path / "second"]
    processes = []
    for log in logs:
        with log.open("wb") as file:
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file))
    wait_until(lambda: len(index.files()) > before)
    wait_until(lambda: any("waiting for it" in log.read_text() for log in logs))
    index.gate.set()
    outputs = [process.communicate(timeout=50)[0].decode() for process in processes]
    assert outputs == [fast["XDG_CACHE_HOME"] + "\n"] * 2, [log.read_text() for log in logs]
    assert sorted("made in" in log.read_text() for log in logs) == [False, True]
    assert len(index.files()) == before + 1
    assert len(made(tmp_path)) == 1


def wait_until(true: Callable[[], Any], seconds: float = 40) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = true()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")


# What goes wrong


@pytest.mark.parametrize("installer", INSTALLERS)
def test_a_broken_build_leaves_nothing_but_its_log(
    installer: str, local: Any, env: dict[str, str], fast: dict[str, str], tmp_path: Path
) -> None:
    env = fast if installer == "uv" else env
    py = local.python(python=sys.executable, requires=["broken"], env=env, hide=True)
    with pytest.raises(EnvironmentBuildError) as caught:
        py.call(abs, -1)
    text = str(caught.value)
    assert text.startswith("There is no environment with broken on localhost: ")
    assert "the compiler went home" in text
    assert len(text.splitlines()) < 20
    assert "line 50" in caught.value.log
    assert made(tmp_path) == []


def test_a_package_that_there_is_not_is_named(python: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match="tinyone"):
        python("tinyone>=77").call(abs, -1)
    assert made(tmp_path) == []


def test_a_killed_builder_leaves_nothing_that_is_taken_for_complete(
    python: Callable[..., Any], index: Index, tmp_path: Path
) -> None:
    before = len(index.files())
    index.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(python("tinyone").call, imported, "tinyone")
        wait_until(lambda: len(index.files()) > before)
        pip = next(pid for pid in children(os.getpid()) if str(tmp_path) in command_of(pid))
        os.kill(parent_of(pip), signal.SIGKILL)
        with pytest.raises(RemoteProcessDied, match="SIGKILL"):
            future.result(40)
    assert made(tmp_path)
    index.gate.set()
    assert python("tinyone").call(imported, "tinyone")[0] == "2.0"
    assert len(made(tmp_path)) == 1


HOLDER = """
import os, sys
from fabremote.remote import folders, installers

held = folders.lock(sys.argv[1])
installers.run(["sh", "-c", "echo $$; exec sleep 30"], dict(os.environ), "/", held)
"""


def test_what_an_installer_still_writes_to_is_not_made_anew(tmp_path: Path) -> None:
    path = str(tmp_path / "made")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        installer = int(process.stderr.readline())
        process.kill()
    try:
        assert folders.lock(path, wait=False) is None
    finally:
        os.kill(installer, signal.SIGKILL)
    held = wait_until(lambda: folders.lock(path, wait=False))
    folders.release(path, held)
    assert os.listdir(tmp_path) == []


def test_a_build_has_a_time_limit_of_its_own(
    python: Callable[..., Any], index: Index, tmp_path: Path
) -> None:
    index.gate.clear()
    started = time.monotonic()
    with pytest.raises(RemoteTimeout, match="build_timeout") as caught:
        python("tinyone", build_timeout=1).call(abs, -1)
    assert caught.value.timeout == 1
    assert time.monotonic() - started < 30
    index.gate.set()
    assert python("tinyone", timeout=30).call(imported, "tinyone")[0] == "2.0"


def test_a_lost_connection_ends_the_build(
    conn_openssh: Connection, fast: dict[str, str], index: Index, tmp_path: Path
) -> None:
    before = len(index.files())
    index.gate.clear()
    py = conn_openssh.python(requires=["tinyone"], env=fast, hide=True)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(py.call, imported, "tinyone")
        wait_until(lambda: len(index.files()) > before)
        conn_openssh.transport.sock.close()
        with pytest.raises(fabremote.RemoteException):
            future.result(40)
    index.gate.set()
    assert py.call(imported, "tinyone")[0] == "2.0"
    assert len(made(tmp_path)) == 1


def children(pid: int) -> list[int]:
    """All processes that descend from one."""
    text = subprocess.run(["ps", "-eo", "pid=,ppid="], stdout=subprocess.PIPE, text=True).stdout
    parents = {int(a): int(b) for a, b in (line.split() for line in text.splitlines())}
    found = [one for one in parents if pid in ancestors(one, parents)]
    return found


def ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid in parents:
        pid = parents[pid]
        yield pid


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


# Where environments are


@pytest.mark.parametrize("home", ["/sys", os.devnull])
def test_without_a_home_to_write_to_the_error_names_the_remedy(
    home: str, python: Callable[..., Any], fast: dict[str, str], tmp_path: Path
) -> None:
    nowhere = {**fast, "HOME": home, "XDG_CACHE_HOME": ""}
    with pytest.raises(EnvironmentBuildError, match=r"cache_dir=.*remotely\.cache_dir") as caught:
        python("tinyone", env=nowhere).call(abs, -1)
    assert f"{home}/.cache/fabremote" in str(caught.value)
    place = tmp_path / "elsewhere"
    _, prefix = python("tinyone", env=nowhere, cache_dir=place).call(imported, "tinyone")
    assert prefix.startswith(f"{place}/environments/")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_others_own_or_may_write_to_is_not_used(
    python: Callable[..., Any], fast: dict[str, str], tmp_path: Path
) -> None:
    cache = tmp_path / "cache" / "fabremote" / "environments"
    cache.mkdir(parents=True)
    os.chown(cache, 12345, 12345)
    with pytest.raises(EnvironmentBuildError, match="belongs to user 12345"):
        python("tinyone").call(abs, -1)
    os.chown(cache, 0, 0)
    cache.chmod(0o777)
    with pytest.raises(EnvironmentBuildError, match="others may write to it"):
        python("tinyone").call(abs, -1)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 12345, 12345)
    other = {**fast, "HOME": str(home), "XDG_CACHE_HOME": ""}
    with pytest.raises(EnvironmentBuildError, match="belongs to user 12345"):
        python("tinyone", env=other).call(abs, -1)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("folder", [".", "environments"])
def test_an_environment_in_a_folder_that_others_may_write_to_is_not_used(
    folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = complete(monkeypatch, tmp_path)
    assert builder.provide(WANTED) == ("ready", python)
    (tmp_path / "fabremote" / folder).chmod(0o770)
    answer = builder.provide(WANTED)
    assert answer[0] == "failed"
    assert "others may write to it" in answer[1]
    (tmp_path / "fabremote" / folder).chmod(0o755)
    assert builder.provide(WANTED) == ("ready", python)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("folder", [".", "environments"])
def test_an_environment_in_a_folder_of_another_user_is_not_used(
    folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    complete(monkeypatch, tmp_path)
    os.chown(tmp_path / "fabremote" / folder, 12345, 12345)
    answer = builder.provide(WANTED)
    assert answer[0] == "failed"
    assert "belongs to user 12345" in answer[1]


def test_a_link_to_the_cache_is_used_unless_another_user_made_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = complete(monkeypatch, tmp_path)
    link = tmp_path / "fabremote"
    link.rename(tmp_path / "scratch")
    link.symlink_to(tmp_path / "scratch")
    assert builder.provide(WANTED) == ("ready", python)
    if os.geteuid() == 0:
        os.lchown(link, 12345, 12345)
        answer = builder.provide(WANTED)
        assert answer[0] == "failed"
        assert "a link that belongs to user 12345" in answer[1]


WANTED: dict[str, Any] = {
    "requirements": ("tinyone",),
    "constraints": (),
    "options": (),
    "cache_dir": None,
    "wheels": None,
}


def complete(monkeypatch: pytest.MonkeyPatch, cache: Path) -> str:
    """What stands for a complete environment; the path of its interpreter."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (cache / "fabremote" / "environments").mkdir(parents=True)
    for each in (cache / "fabremote", cache / "fabremote" / "environments"):
        each.chmod(0o700)
    prefix = cache / "fabremote" / "environments" / builder.key_of(WANTED)
    (prefix / "bin").mkdir(parents=True)
    prefix.chmod(0o700)
    python = prefix / "bin" / "python"
    python.symlink_to(sys.executable)
    (prefix / builder.COMPLETE).touch()
    return str(python)


@pytest.mark.parametrize("folder", ["wheels", "wheels/0123"])
def test_wheels_that_others_may_write_to_are_not_installed(folder: str, tmp_path: Path) -> None:
    stored = tmp_path / "wheels" / "0123"
    stored.mkdir(parents=True)
    for each in (tmp_path, tmp_path / "wheels", stored):
        each.chmod(0o700)
    made = tmp_path / "made"
    made.mkdir()
    wanted = {**WANTED, "cache_dir": str(tmp_path), "wheels": [("0123", "a.whl")]}
    assert installers.what(wanted, str(made), {})[:2] == ["--no-index", "--no-deps"]
    (tmp_path / folder).chmod(0o777)
    with pytest.raises(folders.Failed, match="others may write to it"):
        installers.what(wanted, str(made), {})


def test_environments_are_removed_by_age(
    python: Callable[..., Any], local: Any, fast: dict[str, str], tmp_path: Path
) -> None:
    python("tinyone").call(abs, -1)
    python("tinytwo").call(abs, -1)
    first, second = made(tmp_path)
    folder = tmp_path / "cache" / "fabremote" / "environments"
    os.utime(folder / first / "fabremote.json", (0, time.time() - 8 * 86400))
    assert environments.clean(python(), days=9) == []
    assert environments.clean(python(), days=7) == [first]
    assert made(tmp_path) == [second]
    assert environments.clean(python("tinyone")) == [second]
    assert made(tmp_path) == []
    (folder / f"{first}.lock").touch()  # of a builder that was killed
    assert environments.clean(python()) == []
    assert made(tmp_path) == []
    with pytest.raises(ValueError, match="days=-1"):
        environments.clean(python(), days=-1)


def test_an_environment_that_is_being_made_is_not_removed(
    python: Callable[..., Any], index: Index, tmp_path: Path
) -> None:
    before = len(index.files())
    index.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(python("tinyone").call, imported, "tinyone")
        wait_until(lambda: len(index.files()) > before)
        assert environments.clean(python()) == []
        index.gate.set()
        assert future.result(40)[0] == "2.0"


# Wheels from here


@pytest.fixture
def offline(
    fast: dict[str, str], env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The index is for this side alone; the variables of calls lead nowhere."""
    for name in ("PIP_CONFIG_FILE", "PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_CACHE_DIR"):
        monkeypatch.setenv(name, env[name])
    return {**fast, "PIP_INDEX_URL": "http://127.0.0.1:1/simple", "UV_HTTP_RETRIES": "0"}


def test_a_host_without_an_index_gets_wheels_from_here(
    conn_openssh: Connection,
    offline: dict[str, str],
    index: Index,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[str] = []
    real = environments._Builder._send

    def send(self: Any, digest: str, path: Path) -> None:
        sent.append(path.name)
        real(self, digest, path)

    monkeypatch.setattr(environments._Builder, "_send", send)
    monkeypatch.setattr(environments, "PIECE", 100)
    options: Any = {"env": offline, "hide": True}
    with pytest.raises(EnvironmentBuildError):
        conn_openssh.python(requires=["tinytwo"], **options).call(abs, -1)
    options["wheels"] = "local"
    py = conn_openssh.python(requires=["tinytwo"], **options)
    assert py.call(imported, "tinytwo")[0] == "1.0"
    assert sorted(sent) == ["tinyone-2.0-py3-none-any.whl", "tinytwo-1.0-py3-none-any.whl"]
    # Another environment, the same wheel.
    other = conn_openssh.python(requires=["tinyone"], **options)
    assert other.call(imported, "tinyone")[0] == "2.0"
    assert len(sent) == 2
    # With an environment there, nothing is downloaded either.
    requests = len(index.requests)
    conn_openssh.close()
    assert other.call(imported, "tinyone")[0] == "2.0"
    assert len(index.requests) == requests


def test_wheels_are_those_for_the_host_and_its_python(
    python: Callable[..., Any], offline: dict[str, str], tmp_path: Path
) -> None:
    path = interpreters.found().get("3.8")
    if path is None or os.uname().machine != "x86_64":
        pytest.skip("no Python 3.8 here, or another machine")
    py = python("marked", "binary", python=path, env=offline, wheels="local")
    py.call(abs, -1)
    prefix = Path(tmp_path, "cache", "fabremote", "environments", *made(tmp_path))
    folder = prefix / "lib" / "python3.8" / "site-packages"
    assert "cp38-cp38-manylinux_2_17" in (folder / "binary.py").read_text()
    # By the marker's meaning there, not here.
    assert (folder / "oldpython.py").exists() == (sys.version_info >= (3, 9))


def test_wheels_of_a_folder_here_are_sent(
    python: Callable[..., Any], offline: dict[str, str], tmp_path: Path
) -> None:
    make_wheel(tmp_path / "dist", "mine", "3.0")
    file = tmp_path / "requirements.txt"
    file.write_text("--find-links dist\n--no-index\nmine\n")
    py = python(env=offline, requires=file, wheels="local")
    assert py.call(imported, "mine")[0] == "3.0"
    with pytest.raises(ValueError, match="wheels='local'"):
        python(requires=file)


def test_a_failed_download_is_told(python: Callable[..., Any], offline: dict[str, str]) -> None:
    with pytest.raises(EnvironmentBuildError, match="could not be downloaded here") as caught:
        python("broken", env=offline, wheels="local").call(abs, -1)
    assert "broken" in caught.value.log


def test_a_download_has_the_same_time_limit(
    python: Callable[..., Any], offline: dict[str, str], index: Index
) -> None:
    index.gate.clear()
    py = python("tinyone", env=offline, wheels="local", build_timeout=2)
    with pytest.raises(RemoteTimeout, match="build_timeout"):
        py.call(abs, -1)
    index.gate.set()


def test_the_tags_are_those_that_packaging_finds() -> None:
    tags = pytest.importorskip("packaging.tags")
    theirs = [*tags.platform_tags()]
    assert wheels.platforms()[0] == theirs[0]
    assert sorted(wheels.platforms()) == sorted(theirs)
    implementation, abis = wheels.interpreter()
    assert implementation == tags.interpreter_name()
    assert {*abis} == {tag.abi for tag in tags.sys_tags()}


def test_musl_is_told_from_glibc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loader = tmp_path / "ld-musl-x86_64.so.1"
    loader.write_text("#!/bin/sh\nprintf 'musl libc (x86_64)\\nVersion 1.2.4\\n' >&2\nexit 1\n")
    loader.chmod(0o755)
    assert wheels.musl(str(tmp_path)) == 2
    monkeypatch.setattr(os, "confstr", lambda name: None)
    monkeypatch.setattr(wheels, "musl", lambda: 2)
    assert wheels.c_library("aarch64") == [f"musllinux_1_{n}_aarch64" for n in (2, 1, 0)]
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.18")
    expected = ["manylinux_2_18_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"]
    assert wheels.c_library("aarch64") == expected


def test_versions_of_macos_take_the_wheels_of_older_ones() -> None:
    found = wheels.mac("12.3", "arm64")
    assert found == [f"macosx_{n}_0_{each}" for n in (12, 11) for each in ("arm64", "universal2")]
    intel = wheels.mac("10.15.7", "x86_64")
    assert intel[0] == "macosx_10_15_x86_64"
    assert "macosx_10_9_universal2" in intel
    assert not any("macosx_11_" in tag for tag in intel)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        ("ready", 7),
        ("ready", "/a\nb"),
        ("ready", "/a\x1b[2J"),
        ("ready", "/a\0"),
        ("ready", "/\udcff"),
        ("ready", "/" + 5000 * "a"),
        ("ready", "a"),
        ("failed",),
        ("x", "/y"),
    ],
)
def test_what_a_host_answers_is_checked(
    answer: Any, python: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "_call", lambda *args: answer)
    with pytest.raises(EnvironmentBuildError, match="can't be understood"):
        python("tinyone").call(abs, -1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("platforms", ["any --index-url=http://evil"]),
        ("platforms", ["../../x"]),
        ("abis", [7]),
        ("python", "3.8 --pre"),
        ("implementation", "-r/etc/passwd"),
        ("markers", {"os_name": 3}),
        ("markers", None),
    ],
)
def test_what_a_host_says_of_its_wheels_is_checked(name: str, value: Any) -> None:
    good = wheels.facts()
    environments.Facts(good, EnvironmentBuildError)
    with pytest.raises(EnvironmentBuildError):
        environments.Facts({**good, name: value}, EnvironmentBuildError)


def test_a_failure_that_a_host_tells_is_cut_and_harmless(
    python: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "failed", "\x1b[2J" + 10**6 * "y", 10**6 * "x" + "\x1b[2J"
    monkeypatch.setattr(environments, "_call", lambda *args: answer)
    with pytest.raises(EnvironmentBuildError, match=r"\\x1b\[2Jyyy") as caught:
        python("tinyone").call(abs, -1)
    assert len(str(caught.value)) < 70_000
    assert len(caught.value.log) < 70_000
    assert "\x1b" not in str(caught.value) + caught.value.log


@pytest.mark.parametrize("answer", [5, None, [7], "ab"])
def test_what_a_host_says_it_removed_is_checked(
    answer: Any, local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "_call", lambda *args: answer)
    with pytest.raises(EnvironmentBuildError, match="can't be understood"):
        environments.clean(local.python())


def test_what_another_process_removes_meanwhile_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "environments").mkdir()
    (tmp_path / "wheels").mkdir()
    monkeypatch.setattr(os, "listdir", lambda path: ["gone"])
    monkeypatch.setattr(os.path, "isdir", lambda path: True)
    assert builder.clean(str(tmp_path), 0.0) == []


def test_a_wheel_that_arrives_damaged_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answer = wheels.receive(str(tmp_path / "cache"), "0" * 64, "a.whl", "t", 0, b"data", True)
    assert answer == ("failed", "a.whl did not arrive whole", "")
    assert os.listdir(tmp_path / "cache" / "wheels") == []


# pip's settings


def test_uv_is_used_only_where_it_does_what_pip_would(
    monkeypatch: pytest.MonkeyPatch, programs: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("HOME", str(tmp_path))
    wanted: dict[str, Any] = {"options": []}
    assert installers.find_uv(wanted, {}) == str(programs / "uv")
    assert installers.find_uv(wanted, {"index-url": "x"}) == str(programs / "uv")
    assert installers.find_uv(wanted, {"proxy": "x"}) is None
    assert installers.find_uv({"options": ["--no-index"]}, {}) == str(programs / "uv")
    assert installers.find_uv({"options": ["--prefer-binary"]}, {}) is None


@pytest.mark.parametrize("installer", INSTALLERS)
def test_of_several_indexes_the_newest_version_is_taken(
    installer: str, local: Any, env: dict[str, str], fast: dict[str, str], tmp_path: Path
) -> None:
    make_wheel(tmp_path / "older", "tinyone", "1.5")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "uv.toml").write_text("[pip]\nexclude-newer = '2001-01-01'\n")
    file = tmp_path / "requirements.txt"
    with serving(tmp_path / "older") as older:
        file.write_text(f"--extra-index-url {older.url}\ntinyone\n")
        env = fast if installer == "uv" else env
        py = local.python(python=sys.executable, requires=file, env=env, hide=True)
        assert py.call(imported, "tinyone")[0] == "2.0"


def test_wheels_from_here_of_requirements_with_hashes_are_installed(
    python: Callable[..., Any], offline: dict[str, str], index: Index, tmp_path: Path
) -> None:
    good = index.page("tinyone").partition("2.0-py3")[2].partition("sha256=")[2][:64]
    file = tmp_path / "requirements.txt"
    file.write_text(f"tinyone==2.0 --hash=sha256:{good}\n")
    py = python(requires=file, env=offline, wheels="local")
    assert py.call(imported, "tinyone")[0] == "2.0"


# Passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x @ https://u:s3cret@h/x.whl", "x @ https://****@h/x.whl"),
        ("x @ https://s3cret@h/x.whl", "x @ https://****@h/x.whl"),
        ("x @ git+http://u:s3@cret@h/x@v1", "x @ git+http://****@h/x@v1"),
        ("git+ssh://git:s3cret@h/x.git@v1", "git+ssh://****@h/x.git@v1"),
        ("git+ssh://git@h/x.git@v1", "git+ssh://git@h/x.git@v1"),
        ("https://h:8080/x@v1", "https://h:8080/x@v1"),
    ],
)
def test_passwords_are_masked(text: str, shown: str) -> None:
    assert str(parse([text])) == folders.masked(text) == shown
    with pytest.raises(ValueError, match="no requirement") as caught:
        parse([text, f"{text} ; ?"])
    assert "s3" not in str(caught.value)


@pytest.mark.parametrize("installer", INSTALLERS)
def test_passwords_are_neither_shown_nor_kept(
    installer: str,
    local: Any,
    env: dict[str, str],
    fast: dict[str, str],
    index: Index,
    tmp_path: Path,
) -> None:
    env = fast if installer == "uv" else env
    base = index.url.replace("/simple", "").replace("//", "//user:s3cret@")
    limits, file = tmp_path / "limits.txt", tmp_path / "requirements.txt"
    limits.write_text("tinyone<3\n")
    file.write_text(f"-c limits.txt\ntinyone @ {base}/files/tinyone-2.0-py3-none-any.whl\n")
    err = io.StringIO()
    py = local.python(python=sys.executable, requires=file, env=env, err_stream=err)
    _, prefix = py.call(imported, "tinyone")
    assert "****@127.0.0.1" in err.getvalue()
    assert "s3cret" not in err.getvalue()
    kept = sorted(path.name for path in Path(prefix).iterdir() if path.is_file())
    assert not {"requirements.txt", "constraints.txt"} & {*kept}
    assert "s3cret" not in (Path(prefix) / "fabremote.json").read_text()


def test_settings_that_would_install_elsewhere_are_refused(
    local: Any, env: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[install]\ntarget = /tmp/other\n")
    env["PIP_CONFIG_FILE"] = str(file)
    py = local.python(python=sys.executable, requires=["tinyone"], env=env, hide=True)
    with pytest.raises(EnvironmentBuildError, match="target = /tmp/other"):
        py.call(abs, -1)
    assert made(tmp_path) == []


def test_settings_of_pip_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    file = tmp_path / ".config" / "pip" / "pip.conf"
    file.write_text(
        "[global]\nindex-url = http://a\nfind_links = /x\n  /y\nquiet = 1\n"
        "[install]\nindex-url = http://b\nno-index = false\n[list]\nformat = json\n"
    )
    env = {"XDG_CONFIG_DIRS": str(tmp_path / "none"), "PIP_ONLY_BINARY": ":all:"}
    found = installers.pip_settings(env)
    assert found["index-url"] == "http://b"
    assert "quiet" not in found
    assert "format" not in found
    found = {k: found[k] for k in installers.TOLD if k in found}
    lines = installers.told_lines(found, [])
    assert {"--index-url http://b", "--find-links /x", "--only-binary :all:"} <= {*lines}
    assert "--no-index" not in lines
    assert "--index-url http://b" not in installers.told_lines(found, ["--index-url http://c"])


# Files and scripts


def test_a_requirements_file_is_read_with_what_it_includes(
    python: Callable[..., Any], fast: dict[str, str], index: Index, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "base.txt").write_text("-i http://x\ntinytwo # comment\n-r ../all.txt\n")
    (tmp_path / "limits.txt").write_text("tinyone<2\n")
    file = tmp_path / "all.txt"
    file.write_text(f"-r more/base.txt\n-c limits.txt\n--index-url \\\n  {index.url}\n\n# end\n")
    nowhere = {**fast, "PIP_INDEX_URL": "http://127.0.0.1:1/simple"}
    assert python(requires=str(file), env=nowhere).call(imported, "tinyone")[0] == "1.0"
    (tmp_path / "limits.txt").write_text("tinyone>=2\n")
    assert python(requires=file, env=nowhere).call(imported, "tinyone")[0] == "2.0"


@pytest.mark.parametrize("installer", INSTALLERS)
def test_hashes_are_checked(
    installer: str,
    local: Any,
    env: dict[str, str],
    fast: dict[str, str],
    index: Index,
    tmp_path: Path,
) -> None:
    env = fast if installer == "uv" else env
    good = index.page("tinyone").partition("2.0-py3")[2].partition("sha256=")[2][:64]
    file = tmp_path / "requirements.txt"
    file.write_text(f"tinyone==2.0 --hash=sha256:{'0' * 64}\n")
    py = local.python(python=sys.executable, requires=file, env=env, hide=True)
    with pytest.raises(EnvironmentBuildError, match=r"(?i)hash"):
        py.call(abs, -1)
    file.write_text(f"tinyone==2.0 \\\n  --hash=sha256:{good} --hash=sha256:{'0' * 64}\n")
    assert py.call(imported, "tinyone")[0] == "2.0"


def test_a_script_says_what_it_requires(python: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    block = """
        #!/usr/bin/env python3
        # /// script
        # requires-python = ">=3.8,!=3.9.*"
        # dependencies = [
        #     "tinyone<2",
        #
        # ]
        # ///
        # /// nothing
    """
    file.write_text(textwrap.dedent(block).lstrip())
    assert python(requires=file).call(imported, "tinyone")[0] == "1.0"
    file.write_text(file.read_text().replace("!=3.9.*", "<3.9"))
    with pytest.raises(RemoteInterpreterMissing, match=r"script\.py requires Python >=3\.8,<3\.9"):
        python(requires=file).call(abs, -1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print()\n", "no block"),
        ("# /// script\n# ///\n\n# /// script\n# ///\n", "more than one block"),
        ("# /// script\n# dependencies = []\n", "isn't closed"),
        ("# /// script\n# dependencies = [\n# ///\n", "isn't TOML"),
        ("# /// script\n# dependencies = 'a'\n# ///\n", "must be a list"),
        ("# /// script\n# requires-python = 3\n# ///\n", "must be text"),
        ("# /// script\n# requires-python = 'new'\n# ///\n", "write '>=3.11,<4'"),
        ("# /// script\n# requires-python = '~=3'\n# ///\n", "two numbers"),
        ("# /// script\n# dependencies = ['-r x']\n# ///\n", "is an option"),
    ],
)
def test_what_is_wrong_with_a_script_is_told(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse(file)


@pytest.mark.parametrize(
    ("text", "version", "fits"),
    [
        ("", (3, 6, 0), True),
        (">=3.11", (3, 11, 0), True),
        (">=3.11", (3, 10, 9), False),
        (">3.11", (3, 11, 0), False),
        ("<3.12,>=3.8", (3, 11, 9), True),
        ("<=3.11", (3, 11, 1), False),
        ("==3.11.*", (3, 11, 7), True),
        ("!=3.11.*", (3, 11, 7), False),
        ("!=3.11.7", (3, 11, 7), False),
        ("~=3.10", (3, 12, 0), True),
        ("~=3.10.2", (3, 11, 0), False),
        ("===3.11.7", (3, 11, 7), True),
    ],
)
def test_versions_are_compared(text: str, version: tuple[int, int, int], fits: bool) -> None:
    assert Requirements((), python=text).admits(version) is fits


# What is asked for


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("NumPy >= 2 , <3", "numpy<3,>=2"),
        ("a.b_c--d", "a-b-c-d"),
        ("x [Security , fast] (==1.*)", "x[fast,security]==1.*"),
        ("x;  python_version  <  '3.9'", "x; python_version < '3.9'"),
        ("X @ https://h/x-1.whl#sha256=00", "x @ https://h/x-1.whl#sha256=00"),
        ("x @ git+https://h/x ; os_name=='posix'", "x @ git+https://h/x ; os_name=='posix'"),
        ("git+ssh://git@h/x.git@v1", "git+ssh://git@h/x.git@v1"),
        ("x===1.0+local", "x===1.0+local"),
        ("x @ https://h/x-1.0.tar.gz", "x @ https://h/x-1.0.tar.gz"),
        ("x@https://h/x.zip", "x @ https://h/x.zip"),
        (
            "x @ https://h/x-1.0-py3-none-any.whl ; python_version > '3'",
            "x @ https://h/x-1.0-py3-none-any.whl ; python_version > '3'",
        ),
        ("https://h/x.whl ;  os_name=='posix'", "https://h/x.whl ; os_name=='posix'"),
        (
            'x; (os_name=="a"or python_version not in "3.8, 3.9") and sys_platform ~= "l-x"',
            'x; (os_name=="a"or python_version not in "3.8, 3.9") and sys_platform ~= "l-x"',
        ),
    ],
)
def test_requirements_are_normalised(text: str, normal: str) -> None:
    assert parse([text]) == Requirements((normal,))


def test_equal_requirements_are_equal() -> None:
    assert parse(["b", "A>=1", "a >= 1"]) == parse(("a>=1", "B"))
    assert parse([]) is parse(None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-r requirements.txt", "is an option"),
        ("--index-url=http://evil", "is an option"),
        ("x\n--index-url http://evil", "one line"),
        ("", "no requirement"),
        ("x>=", "no requirement"),
        ("x 2", "no requirement"),
        ("x # y", "no requirement"),
        ("x[a b]", "no requirement"),
        ("x;", "no requirement"),
        ("x --hash=sha256:00", "no requirement"),
        ("x @ ftp://h/x", "no requirement"),
        ("./x", "made on another"),
        ("~/x", "made on another"),
        ("x-1.0-py3-none-any.whl", "made on another"),
        ("x @ file:///x.whl", "made on another"),
        ("x @ ./x", "made on another"),
        ("x @ x-1.0.tar.gz", "made on another"),
        ("x @ https://h/x.whl; os_name == 'a'", "no requirement"),
        ("x; python_version > '3' --config-settings=a=b", "must be a marker"),
        ("x; python_version > '3' -C a=b", "must be a marker"),
        ("x; python_version > '3 -C a=b'", "must be a marker"),
        ("x; python_version > '3' # y", "must be a marker"),
        ("x; python_version > '3 # y'", "must be a marker"),
        ("x; python_version > '3' \\", "must be a marker"),
        ("x; " + 200 * "a" + "?", "must be a marker"),
        ("x @ https://h/x.whl ; os_name == 'a' \\", "must be a marker"),
        ("x @ https://h/x.whl\\", "no requirement"),
        ("https://h/x.whl\\", "no requirement"),
    ],
)
def test_what_is_no_requirement_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse([text])
    assert repr(text.strip()) in str(caught.value) or repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-e .", "made on another"),
        ("--editable=git+https://h/x", "made on another"),
        ("-r https://h/x.txt", "a file of this machine"),
        ("-r none.txt", "there is no file"),
        ("--target /", "isn't honoured"),
        ("-x", "isn't honoured"),
        ("--index-url", "needs one value"),
        ("--index-url http://a b", "needs one value"),
        ("--pre yes", "takes no value"),
        ("--find-links dist", "wheels='local'"),
        ("x --config-settings=a=b", "isn't honoured"),
        ("x --hash=md5:00", "isn't honoured"),
        ("./x", "made on another"),
    ],
)
def test_what_is_not_honoured_in_a_file_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "r.txt"
    file.write_text(f"fine\n{text}\n")
    with pytest.raises(ValueError, match=message):
        resolve(Context(fabremote.connection.Config()), {"requires": file})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"requires": "six"}, ValueError, r"^requires='six': .* list: requires=\['six'\]"),
        ({"requires": "x @ https://h/y"}, ValueError, r"requires=\['x @ https://h/y'\]"),
        ({"requires": 7}, TypeError, "must be a list"),
        ({"requires": b"x"}, TypeError, "must be a list"),
        ({"requires": [7]}, TypeError, "must be a str"),
        ({"wheels": "remote"}, ValueError, "'local' or None"),
        ({"requires": ["git+https://h/x"], "wheels": "local"}, ValueError, "only wheels travel"),
        ({"cache_dir": "here"}, ValueError, "folder of the host"),
        ({"cache_dir": 7}, ValueError, "folder of the host"),
        ({"build_timeout": 0}, ValueError, "build_timeout=0"),
    ],
)
def test_wrong_options_are_refused_at_once(
    options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Connection("web1").python(**options)


def test_a_function_for_the_host_does_not_run_here() -> None:
    with pytest.raises(TypeError, match="runs on a host only"):
        environments.RemoteFunction("environments", "clean")()


def test_a_file_is_read_again_only_if_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "r.txt"
    file.write_text("one\n")
    first = parse(file)
    monkeypatch.setattr(Path, "read_text", lambda *args: pytest.fail("it was read again"))
    assert parse(str(file)) is first
    monkeypatch.undo()
    file.write_text("second\n")
    assert parse(file) == Requirements(("second",), origin=str(file))
