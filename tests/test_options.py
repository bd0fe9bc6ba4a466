"""What ``python(...)`` takes: an interpreter, its options and surroundings; what is refused."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import platform
import re
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fabric
import invoke
import pytest

from fabremote import Connection, RemoteInterpreterMissing, RemoteTimeout, wrap
from fabremote.connection import Config
from fabremote.demo.openssh import OpenSSHServer, find_sshd
from fabremote.demo.server import Server
from fabremote.options import Bound, Options
from tests import interpreters
from tests.conftest import connect, make_server
from tests.faults import settled

HERE = "python{}.{}".format(*sys.version_info)
OTHERS = [v for v in interpreters.found() if v not in ("2.7", HERE[len("python") :])]
NASTY = 'it\'s "quoted" $(touch gone) `touch gone` ; touch gone & \\ * ~ %s {x} $HOME é 日本 #!'

needs_another = pytest.mark.skipif(not OTHERS, reason="only one interpreter on this machine")
needs_python2 = pytest.mark.skipif("2.7" not in interpreters.found(), reason="no Python 2.7")


@contextlib.contextmanager
def connected(directory: Path, **settings: Any) -> Iterator[Connection]:
    """A connection to an sshd of its own."""
    if find_sshd() is None:
        pytest.skip("no sshd on this machine")
    with OpenSSHServer(directory, **settings) as server, connect(server) as connection:
        yield connection


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def python_version() -> tuple[int, ...]:
    return sys.version_info[:3]


# Which interpreter


def test_the_default_is_the_callers_own_version(conn_openssh: Connection) -> None:
    assert conn_openssh.call(python_version) == sys.version_info[:3]


@needs_another
def test_an_interpreter_can_be_named(conn_openssh: Connection) -> None:
    py = conn_openssh.python(python=f"python{OTHERS[-1]}")
    assert py.call(platform.python_version).startswith(OTHERS[-1] + ".")


@needs_another
def test_an_interpreter_can_be_a_path(conn_openssh: Connection) -> None:
    path = interpreters.found()[OTHERS[-1]]
    for given in (path, Path(path)):
        py = conn_openssh.python(python=given)  # type: ignore[arg-type]
        assert py.call(platform.python_version).startswith(OTHERS[-1] + ".")


def test_an_interpreter_can_be_a_command(conn_openssh: Connection) -> None:
    py = conn_openssh.python(python=f"env X=1 'Y=a b $HOME' {HERE}")
    assert py.call(os.getenv, "X") == "1"
    assert py.call(os.getenv, "Y") == "a b $HOME"


@pytest.mark.parametrize("name", ["a b", "it's", '"q"', "$HOME", "é;x"])
def test_an_interpreters_path_is_not_interpreted(
    conn_openssh: Connection, tmp_path: Path, name: str
) -> None:
    path = program(tmp_path / name, f'#!/bin/sh\nVIA="$0" exec {sys.executable} "$@"\n')
    py = conn_openssh.python(python=shlex.quote(str(path)))
    assert py.call(os.getenv, "VIA") == str(path)


def test_a_wrapper_may_print_first(conn_openssh: Connection, tmp_path: Path) -> None:
    path = program(
        tmp_path / "wrapper",
        f'#!/bin/sh\necho activating; echo warning >&2\nexec {sys.executable} "$@"\n',
    )
    result = conn_openssh.python(python=str(path), hide=True).run(print, "mine")
    assert (result.stdout, result.stderr) == ("mine\n", "")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH of this machine's sessions."""
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def local() -> Iterator[Any]:
    """This machine as the place to run."""
    with wrap(invoke.Context()) as context:
        yield context


@needs_another
def test_python3_is_taken_where_there_is_no_interpreter_of_the_callers_version(
    path: Path, local: Any
) -> None:
    (path / "python3").symlink_to(interpreters.found()[OTHERS[-1]])
    assert local.call(platform.python_version).startswith(OTHERS[-1] + ".")


@needs_another
def test_the_callers_version_comes_before_python3(path: Path, local: Any) -> None:
    (path / "python3").symlink_to(interpreters.found()[OTHERS[-1]])
    (path / HERE).symlink_to(interpreters.running()[1])
    assert local.call(platform.python_version) == platform.python_version()


@pytest.mark.parametrize("status", [126, 127])
def test_a_version_managers_shim_that_fails_is_passed_over(
    path: Path, local: Any, status: int
) -> None:
    program(path / HERE, f"#!/bin/sh\necho not installed >&2\nexit {status}\n")
    (path / "python3").symlink_to(interpreters.running()[1])
    assert local.call(max, 1, 2) == 2


def test_a_shim_that_fails_is_passed_over_on_a_host(tmp_path: Path) -> None:
    shims = program(tmp_path / "shims" / HERE, "#!/bin/sh\nexit 127\n").parent
    (shims / "python3").symlink_to(interpreters.running()[1])
    with connected(tmp_path / "server", env={"PATH": f"{shims}:/usr/bin:/bin"}) as connection:
        assert connection.call(max, 1, 2) == 2
        with pytest.raises(RemoteInterpreterMissing, match=HERE):
            connection.python(python=HERE).call(max, 1, 2)


def test_where_no_candidate_runs_all_of_them_are_named(path: Path, local: Any) -> None:
    with pytest.raises(RemoteInterpreterMissing, match=f"{HERE}.*python3") as caught:
        local.call(max, 1, 2)
    assert caught.value.tried == (HERE, "python3")
    assert "python3" in caught.value.interpreter
    for name in (HERE, "python3"):
        program(path / name, "#!/bin/sh\necho the shim says no >&2\nexit 127\n")
    with pytest.raises(RemoteInterpreterMissing, match="the shim says no") as caught:
        local.call(max, 1, 2)
    assert caught.value.tried == (HERE, "python3")


@pytest.mark.parametrize(
    "python", ["python9.9", "/no/such/python", "no-such-program -x", "cat", "true", "false", "/"]
)
def test_what_is_no_interpreter_is_named(conn: Connection, python: str) -> None:
    with pytest.raises(RemoteInterpreterMissing) as caught:
        conn.python(python=python).call(max, 1, 2)
    assert caught.value.interpreter == python
    assert caught.value.tried == (python,)
    assert python in str(caught.value)
    assert conn.call(max, 1, 2) == 2


@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_a_text_file_is_no_interpreter(conn: Connection, tmp_path: Path, mode: int) -> None:
    path = tmp_path / "notes"
    path.write_text("these are notes\n")
    path.chmod(mode)
    with pytest.raises(RemoteInterpreterMissing, match=str(path)) as caught:
        conn.python(python=str(path)).call(max, 1, 2)
    assert (caught.value.interpreter, caught.value.tried) == (str(path), (str(path),))


def test_what_another_program_says_of_what_it_was_given_is_cut(conn: Connection) -> None:
    with pytest.raises(RemoteInterpreterMissing, match="or name one with") as caught:
        conn.python(python="/bin/ls").call(max, 1, 2)
    assert "/bin/ls" in str(caught.value)
    assert len(str(caught.value)) < 600


@needs_python2
def test_python_2_is_refused_by_its_version(conn: Connection) -> None:
    with pytest.raises(RemoteInterpreterMissing, match=r"Python 2\.7.* 3\.6 or newer") as caught:
        conn.python(python="python2.7").call(max, 1, 2)
    assert (caught.value.interpreter, caught.value.tried) == ("python2.7", ("python2.7",))


def test_a_missing_interpreter_is_told_before_anything_else(conn_openssh: Connection) -> None:
    with pytest.raises(RemoteInterpreterMissing):
        conn_openssh.python(python="python9.9").call(print, io.StringIO())


def test_an_interpreter_that_does_not_start_in_time_is_given_up(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    path = program(tmp_path / "slow", "#!/bin/sh\ncat > /dev/null\n")
    before = time.monotonic()
    with pytest.raises(RemoteInterpreterMissing, match=r"0\.5 seconds"):
        conn_openssh.python(python=str(path), start_timeout=0.5).call(max, 1, 2)
    assert time.monotonic() - before < 20  # not the usual 30


def test_what_starts_too_late_says_what_to_raise() -> None:
    with wrap(invoke.Context()) as here, pytest.raises(RemoteInterpreterMissing) as caught:
        here.python(start_timeout=0.0001).call(max, 1, 2)
    assert "raise start_timeout" in str(caught.value)
    assert "Install" not in str(caught.value)


def test_what_a_slow_wrapper_had_started_ends_with_it(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    path = program(tmp_path / "wrapper", '#!/bin/sh\nsleep 60\nexec python3 "$@"\n')
    with pytest.raises(RemoteInterpreterMissing, match=r"0\.5 seconds"):
        conn_openssh.python(python=str(path), start_timeout=0.5).call(max, 1, 2)


def test_an_option_that_the_interpreter_does_not_take_is_named(
    conn_openssh: Connection,
) -> None:
    with pytest.raises(RemoteInterpreterMissing, match="does not take py_options='-Z'"):
        conn_openssh.python(py_options="-Z").call(max, 1, 2)


def test_a_virtual_environments_interpreter_sees_its_packages(conn_openssh: Connection) -> None:
    assert conn_openssh.python(python=sys.executable).call(eval, "__import__('sys').prefix") == (
        sys.prefix
    )


# Its options


def flags(*names: str) -> list[Any]:
    return [getattr(sys.flags, name) for name in names]


def warn() -> str:
    try:
        warnings.warn("look", stacklevel=1)
    except UserWarning as error:
        return f"raised {error}"
    return "warned"


def test_options_take_effect(conn_openssh: Connection) -> None:
    names = ("optimize", "utf8_mode", "isolated", "dev_mode")
    for options, values in [
        ("-X utf8=0", [0, 0, 0, False]),
        ("-O -X utf8=0", [1, 0, 0, False]),
        ("-OO -X utf8", [2, 1, 0, False]),
        ("-I -X 'dev' -X utf8=0", [0, 0, 1, True]),
    ]:
        assert conn_openssh.python(py_options=options).call(flags, *names) == values


def test_warnings_can_be_made_errors(conn_openssh: Connection) -> None:
    assert conn_openssh.python(hide=True).call(warn) == "warned"
    for options in ("-W error", "-Werror::UserWarning", "-W 'error:look'"):
        assert conn_openssh.python(py_options=options).call(warn) == "raised look"


def test_isolated_mode_ignores_the_hosts_python_variables(tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(tmp_path), "PYTHONOPTIMIZE": "1", "PATH": os.environ["PATH"]}
    with connected(tmp_path / "server", env=env) as connection:
        py = connection.python(python=sys.executable)
        assert py.call(flags, "optimize", "isolated") == [1, 0]
        py = connection.python(python=sys.executable, py_options="-I")
        assert py.call(flags, "optimize", "isolated") == [0, 1]


ASSERTIVE = """
def assertive():
    assert False, "asserts are on"
    return "asserts are off"
"""


def test_asserts_are_skipped_when_optimised(
    conn_openssh: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A module of its own, as pytest rewrites the asserts of this one.
    (tmp_path / "fabremote_assertive.py").write_text(ASSERTIVE)
    monkeypatch.syspath_prepend(tmp_path)
    assertive = importlib.import_module("fabremote_assertive").assertive
    with pytest.raises(AssertionError, match="asserts are on"):
        conn_openssh.call(assertive)
    assert conn_openssh.python(py_options="-O").call(assertive) == "asserts are off"


def test_interpreters_with_different_options_are_different_processes(
    conn_openssh: Connection,
) -> None:
    parents = {
        conn_openssh.python(py_options=options).call(os.getppid) for options in ("", "-O", "-I")
    }
    assert len(parents) == 3
    assert conn_openssh.python(py_options="-O", env={"A": "1"}).call(os.getppid) in parents


@pytest.fixture
def nowhere() -> Connection:
    """A connection that can't be opened: whatever is refused is refused before that."""
    return Connection("nowhere.invalid")


@pytest.mark.parametrize("options", ["-W 'error", '-X "utf8', "-O \\"])
def test_options_that_cannot_be_split_are_refused(nowhere: Connection, options: str) -> None:
    with pytest.raises(ValueError, match="py_options"):
        nowhere.python(py_options=options)


@pytest.mark.parametrize(
    "options",
    [
        "-c pass",
        "-cpass",
        "-Oc pass",
        "-m json",
        "-mjson",
        "-Im json",
        "script.py",
        "-O x",
        "-V",
        "-VV",
        "-h",
        "-?",
        "--version",
        "--help",
        "--help-all",
        "-",
        "--",
        "-X",
        "-W",
        "-O -W",
        "-v",
        "-Ov",
        "-X importtime",
        "-Ximporttime=2",
    ],
)
def test_options_that_run_something_else_are_refused(nowhere: Connection, options: str) -> None:
    word = shlex.split(options)[0]
    with pytest.raises(ValueError, match="py_options") as caught:
        nowhere.python(py_options=options)
    assert options in str(caught.value)
    assert word in str(caught.value)


def test_options_that_the_interpreter_refuses_are_its_own_error(conn_openssh: Connection) -> None:
    with pytest.raises(RemoteInterpreterMissing, match=r"nknown option.* -K|-K.*nknown option"):
        conn_openssh.python(py_options="-K").call(max, 1, 2)


# What is refused at once


def test_an_unknown_option_is_refused_with_a_suggestion(nowhere: Connection) -> None:
    with pytest.raises(TypeError, match=r"'time_out'.*Did you mean 'timeout'"):
        nowhere.python(time_out=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"'colour'.*encoding.*timeout"):
        nowhere.python(colour=3)  # type: ignore[call-arg]


def test_warn_is_refused(nowhere: Connection) -> None:
    with pytest.raises(TypeError, match="warn"):
        nowhere.python(warn=True)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("fallback", "pty=True"),
        ("shell", "python="),
    ],
)
def test_what_other_things_of_fabrics_take_says_what_to_use(
    nowhere: Connection, name: str, instead: str
) -> None:
    with pytest.raises(TypeError, match=f"no option '{name}': .*{re.escape(instead)}"):
        nowhere.python(**{name: True})  # type: ignore[misc]


@pytest.mark.parametrize("options", ["-i", "-d", "-X dev -W always", "-W -v", "-X utf8 -bb"])
def test_options_that_print_no_imports_are_taken(options: str) -> None:
    with wrap(invoke.Context()) as here:
        assert here.python(py_options=options).call(max, 1, 2) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", "3"),
        ("timeout", True),
        ("timeout", float("nan")),
        ("start_timeout", -1),
        ("max_result", 0),
        ("max_result", 1.5),
        ("env", {"A=B": "1"}),
        ("env", {"": "1"}),
        ("env", {"A\0": "1"}),
        ("env", {"A": "x\0y"}),
        ("env", {"A": None}),
        ("env", {"A": True}),
        ("env", {1: "x"}),
        ("env", "A=1"),
        ("env", 3),
        ("cwd", 3),
        ("cwd", b"/tmp"),
        ("cwd", "/tmp/\0"),
        ("encoding", "klingon"),
        ("encoding", "base64"),
        ("encoding", 8),
        ("trust", "all"),
        ("trust", int),
        ("trust", [3]),
        ("trust", 1),
        ("python", ""),
        ("python", "  "),
        ("python", 3.12),
        ("python", "python3\ntouch gone"),
        ("python", "'python3"),
        ("py_options", None),
        ("py_options", ["-O"]),
        ("hide", "sideways"),
        ("encoding", "utf-16"),
        ("encoding", "utf-8-sig"),
        ("encoding", "cp037"),
        ("out_stream", io.BytesIO()),
        ("out_stream", "a.log"),
        ("err_stream", io.BytesIO()),
        ("watchers", 5),
        ("watchers", [5]),
        ("watchers", "yes"),
    ],
)
def test_a_bad_value_is_named_before_anything_is_sent(
    nowhere: Connection, name: str, value: Any
) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        nowhere.python(**{name: value})  # type: ignore[misc]


@pytest.mark.parametrize(
    "env", [{"TOKEN": b"s3cret"}, {"TOKEN": "s3cret\0"}, {"TOKEN=s3cret": "x"}, ["TOKEN=s3cret"]]
)
def test_a_variables_bad_value_is_told_without_it(nowhere: Connection, env: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="env") as caught:
        nowhere.python(env=env)
    assert "s3cret" not in str(caught.value)


def test_what_was_to_be_typed_is_not_shown(nowhere: Connection) -> None:
    with pytest.raises(TypeError, match=r"^in_stream= must be .* not str") as caught:
        nowhere.python(in_stream="s3cret")
    assert "s3cret" not in str(caught.value)


def test_an_interpreter_shows_no_variables_values(nowhere: Connection) -> None:
    text = repr(nowhere.python(env={"TOKEN": "s3cret"}, sudo=True, password="s3cret"))
    assert text == (
        f"<Interpreter on {nowhere.host} env={{'TOKEN': ...}}, sudo=True, password=...>"
    )
    assert "s3cret" not in repr(Options(env={"TOKEN": "s3cret"}, password="s3cret"))


@pytest.mark.parametrize(
    ("name", "value"), [("sudo", ""), ("sudo", 0), ("wheels", "remote"), ("encoding", 8)]
)
def test_a_bad_value_is_told_as_it_was_given(nowhere: Connection, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name}={value!r} must be"):
        nowhere.python(**{name: value})  # type: ignore[misc]


@pytest.mark.parametrize("host", ["", "  ", "me@", ":22", "me@:22", "web1:http", None, 3])
def test_a_connection_to_no_host_is_refused(host: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^host={host!r} .*\[user@\]host\[:port\]"):
        Connection(host)


@pytest.mark.parametrize("host", ["web1", "web1:", "me@web1:22", "::1", "fe80::1%eth0"])
def test_what_fabric_takes_for_a_host_is_one(host: str) -> None:
    assert Connection(host).host == fabric.Connection(host).host


def test_a_bad_value_in_the_configuration_is_named_before_anything_is_sent() -> None:
    config = Config(overrides={"remotely": {"max_result": "big"}})
    with pytest.raises(ValueError, match=r"remotely\.max_result: max_result='big'"):
        Connection("nowhere.invalid", config=config).call(max, 1, 2)
    config = Config(overrides={"run": {"env": {"A=B": "1"}}})
    with pytest.raises(ValueError, match="env"):
        Connection("nowhere.invalid", config=config).call(max, 1, 2)


def test_a_timeout_of_centuries_is_none(conn_openssh: Connection) -> None:
    assert conn_openssh.python(timeout=1e10).call(max, 1, 2) == 2
    assert conn_openssh.python(timeout=1e10).submit(max, 1, 2).result(10) == 2


def test_what_cannot_be_called_is_refused(nowhere: Connection) -> None:
    with pytest.raises(TypeError, match=r"3.* isn't callable"):
        nowhere.call(3)  # type: ignore[call-overload]


# Environment and working directory


@pytest.mark.parametrize(
    "value", [NASTY, "two\nlines\n", " spaces ", "", "a'b", "$(id)", "\t", "x" * 100_000]
)
def test_env_is_never_interpreted(conn_openssh: Connection, value: str) -> None:
    py = conn_openssh.python(env={"FABREMOTE_X": value, "with space.and-dash": value})
    assert py.call(os.getenv, "FABREMOTE_X") == value
    assert py.call(os.getenv, "with space.and-dash") == value


def test_env_reaches_child_processes_and_nobody_else(conn_openssh: Connection) -> None:
    py = conn_openssh.python(env={"FABREMOTE_X": NASTY}, hide=True)
    assert py.run(os.system, 'printf %s "$FABREMOTE_X"').stdout == NASTY
    assert conn_openssh.call(os.getenv, "FABREMOTE_X") is None


def test_env_takes_numbers_and_paths(conn_openssh: Connection) -> None:
    env: Any = {"N": 3, "P": Path("/a b")}
    py = conn_openssh.python(env=env)
    assert [py.call(os.getenv, name) for name in "NP"] == ["3", "/a b"]


@pytest.mark.parametrize(
    "name", ["plain", "a b", "it's", '"q"', "$(touch gone)", "é 日本", "a\nb"]
)
def test_cwd_is_never_interpreted(conn_openssh: Connection, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert conn_openssh.python(cwd=str(folder)).call(os.getcwd) == str(folder)
    assert conn_openssh.python(cwd=folder).call(os.getcwd) == str(folder)
    assert not list(folder.iterdir())


def test_cwd_knows_the_remote_users_home(conn_openssh: Connection, openssh: Server) -> None:
    assert conn_openssh.python(cwd="~").call(os.getcwd) == str(openssh.home)


def test_a_cwd_that_is_not_there_is_named(conn_openssh: Connection) -> None:
    with pytest.raises(FileNotFoundError, match="/no/such/folder"):
        conn_openssh.python(cwd="/no/such/folder").call(os.getcwd)
    assert conn_openssh.call(max, 1, 2) == 2


def test_pythonpath_is_looked_in(conn_openssh: Connection, tmp_path: Path) -> None:
    (tmp_path / "fabremote_there.py").write_text("WORD = 'found'\n")
    py = conn_openssh.python(env={"PYTHONPATH": f"{tmp_path}:/no/such"})
    assert py.call(eval, "__import__('fabremote_there').WORD") == "found"


def test_the_working_directory_is_not_looked_in_for_modules(
    conn_openssh: Connection, tmp_path: Path
) -> None:
    (tmp_path / "random.py").write_text("raise RuntimeError('the wrong one')\n")
    py = conn_openssh.python(cwd=tmp_path)
    assert py.call(eval, "__import__('random').__name__") == "random"


def test_the_time_zone_is_that_of_env(conn_openssh: Connection) -> None:
    py = conn_openssh.python(env={"TZ": "XYZ-5"})
    assert py.call(time.strftime, "%Z %z") == "XYZ +0500"


@pytest.mark.parametrize("name", ["plain", "a b", "it's", "$(touch gone)"])
def test_cd_is_obeyed(conn_openssh: Connection, tmp_path: Path, name: str) -> None:
    (tmp_path / name / "inner").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    py = conn_openssh.python()
    with conn_openssh.cd(str(tmp_path / name)):
        assert py.call(os.getcwd) == str(tmp_path / name)
        assert conn_openssh.python(cwd="inner").call(os.getcwd) == str(tmp_path / name / "inner")
        assert conn_openssh.python(cwd=tmp_path).call(os.getcwd) == str(tmp_path)
        with conn_openssh.cd("inner"):
            assert py.call(os.getcwd) == str(tmp_path / name / "inner")
        with conn_openssh.cd(str(tmp_path / "other")):
            assert py.call(os.getcwd) == str(tmp_path / "other")
    assert py.call(os.getcwd) != str(tmp_path / name)


def test_prefixes_run_before_the_interpreter(conn_openssh: Connection) -> None:
    with conn_openssh.prefix("export FLAVOUR='mint & lime'"):
        assert conn_openssh.call(os.getenv, "FLAVOUR") == "mint & lime"
        with conn_openssh.prefix('export SIZE="$FLAVOUR $((40 + 2))"; echo chatter'):
            assert conn_openssh.call(os.getenv, "SIZE") == "mint & lime 42"
    assert conn_openssh.call(os.getenv, "FLAVOUR") is None


def test_a_prefix_may_have_several_lines(conn_openssh: Connection) -> None:
    with conn_openssh.prefix("export ONE=1\nexport TWO=2"):
        assert conn_openssh.call(os.getenv, "ONE") == "1"
        assert conn_openssh.call(os.getenv, "TWO") == "2"


def test_a_prefix_that_fails_starts_nothing(conn_openssh: Connection) -> None:
    with conn_openssh.prefix("echo no such thing >&2; exit 3"):  # noqa: SIM117
        with pytest.raises(RemoteInterpreterMissing, match=r"exit status 3.*no such thing"):
            conn_openssh.call(max, 1, 2)


# Defaults from Fabric's configuration


@contextlib.contextmanager
def configured(server: Server, **overrides: Any) -> Iterator[Connection]:
    """A connection whose configuration has these settings."""
    with Connection(
        server.hosts[0],
        server.user,
        server.port,
        config=Config(overrides=overrides),
        connect_kwargs=server.connect_kwargs,
    ) as connection:
        yield connection


def test_hide_and_env_come_from_the_configuration(
    openssh: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {"hide": True, "env": {"FLAVOUR": NASTY}}
    with configured(openssh, run=run) as connection:
        result = connection.python().run(eval, "print(__import__('os').environ['FLAVOUR'])")
        assert result.stdout == NASTY + "\n"
        assert capsys.readouterr() == ("", "")
        connection.python(hide=False).call(print, "shown")
        assert capsys.readouterr() == ("shown\n", "")
        assert connection.python(env={}).call(os.getenv, "FLAVOUR") is None


def test_the_timeout_comes_from_the_configuration(openssh: Server) -> None:
    with configured(openssh, timeouts={"command": 0.3}) as connection:
        with pytest.raises(RemoteTimeout, match=r"0\.3 seconds"):
            connection.call(time.sleep, 30)
        assert connection.python(timeout=None).call(time.sleep, 0.4) is None


@needs_another
def test_the_interpreter_comes_from_the_configuration(openssh: Server) -> None:
    ours = {"python": f"python{OTHERS[-1]}", "py_options": "-O"}
    with configured(openssh, remotely=ours) as connection:
        assert connection.call(platform.python_version).startswith(OTHERS[-1] + ".")
        assert connection.call(eval, "__import__('sys').flags.optimize") == 1
        assert connection.python(python=HERE).call(python_version) == sys.version_info[:3]


@needs_another
def test_the_interpreter_comes_from_the_environment(
    openssh: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABRIC_REMOTELY_PYTHON", f"python{OTHERS[-1]}")
    monkeypatch.setenv("FABRIC_REMOTELY_START_TIMEOUT", "7")
    config = Config()
    config.load_shell_env()
    with Connection(
        openssh.hosts[0],
        openssh.user,
        openssh.port,
        config=config,
        connect_kwargs=openssh.connect_kwargs,
    ) as connection:
        assert connection.call(platform.python_version).startswith(OTHERS[-1] + ".")


def test_what_changes_in_the_configuration_counts_for_what_is_bound() -> None:
    with wrap(invoke.Context()) as context:
        bound = Bound(context, {"sudo": True})
        assert (bound.options().user, bound.options().password) == (None, None)
        context.config.sudo.user = "ada"
        context.config.sudo.password = "secret"
        assert (bound.options().user, bound.options().password) == ("ada", "secret")
        context.config.run.env["A"] = "b"
        assert bound.options().env["A"] == "b"


def test_a_configuration_of_fabrics_own_will_do(openssh: Server) -> None:
    import fabric

    plain = fabric.Connection(
        openssh.hosts[0], openssh.user, openssh.port, connect_kwargs=openssh.connect_kwargs
    )
    with plain:
        assert wrap(plain).call(max, 1, 2) == 2
        wrap(plain).close()


def test_dry_runs_run_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(overrides={"run": {"dry": True}})
    connection = Connection("nowhere.invalid", config=config)
    assert connection.call(max, 1, 2) is None
    assert connection.python().run(max, 1, 2).value is None
    assert connection.python().submit(max, 1, 2).result() is None
    assert capsys.readouterr().out.count("max(1, 2)") == 3


# Login shells

NOISES = {
    "stdout": "echo 'Welcome!'",
    "stderr": "echo 'Welcome!' >&2",
    "without an end of line": "printf 'Welcome! '",
    "binary": r"printf '\377\000\001 hello 3 11 7\n'",
    "3 MB on stdout": "head -c 3000000 /dev/zero | tr '\\0' x",
    "3 MB on stderr": "head -c 3000000 /dev/zero | tr '\\0' x >&2",
    "3 MB of lines on both": "yes motd | head -c 3000000; yes motd | head -c 3000000 >&2",
}


@pytest.mark.parametrize("kind", ["openssh", "asyncssh"])
def test_what_a_login_shell_prints_first_does_no_harm(
    kind: str, tmp_path: Path, remote_env: dict[str, str]
) -> None:
    server = make_server(kind, tmp_path / "server", remote_env)
    shell = tmp_path / "shell"
    server.shell = str(shell)
    with server:
        for noise in NOISES.values():
            program(shell, f'#!/bin/sh\n{noise}\nexec /bin/sh "$@"\n')
            with connect(server) as connection:
                result = connection.python(hide=True).run(print, "mine")
                assert (result.stdout, result.stderr) == ("mine\n", "")


def test_what_a_login_shell_leaves_printing_to_stderr_does_no_harm(
    tmp_path: Path, remote_env: dict[str, str]
) -> None:
    gate, said = tmp_path / "gate", tmp_path / "said"
    wait = f"while ! test -e {gate}; do sleep 0.05; done"
    later = f"( {wait}; head -c 3000000 /dev/zero | tr '\\0' x >&2; touch {said} ) > /dev/null &"
    shell = program(tmp_path / "shell", f'#!/bin/sh\n{later}\nexec /bin/sh "$@"\n')
    with connected(tmp_path / "server", shell=str(shell), env=remote_env) as connection:
        py = connection.python(timeout=30)
        assert py.call(max, 1, 2) == 2
        gate.touch()
        assert settled(said.exists)
        assert py.call(max, 3, 4) == 4


def test_what_a_login_shell_prints_is_shown_if_nothing_starts(tmp_path: Path) -> None:
    shell = program(tmp_path / "shell", "#!/bin/sh\nprintf 'account \\033[1mexpired\\n'; exit 1\n")
    with connected(tmp_path / "server", shell=str(shell)) as connection:  # noqa: SIM117
        with pytest.raises(RemoteInterpreterMissing, match=r"account .*expired") as caught:
            connection.call(max, 1, 2)
    assert "\033" not in str(caught.value)


@pytest.mark.parametrize(
    "shell", ["sh", "bash", "bash -l", "dash", "zsh", "fish", "tcsh", "busybox sh", "ksh"]
)
def test_any_login_shell_will_do(shell: str, tmp_path: Path, remote_env: dict[str, str]) -> None:
    words = shell.split()
    found = shutil.which(words[0])
    if found is None:
        pytest.skip(f"no {words[0]} on this machine")
    command = shlex.join([found, *words[1:]])
    with connected(tmp_path / "server", shell=command, env=remote_env) as connection:
        py = connection.python(env={"X": NASTY}, hide=True)
        result = py.run(os.system, 'printf "%s" "$X"')
        assert (result.value, result.stdout) == (0, NASTY)
        quoted = connection.python(python=f"env 'Y=it is \"$5\"' {HERE}", py_options="-X 'utf8'")
        assert quoted.call(os.getenv, "Y") == 'it is "$5"'
