"""Fabfiles, `inv`, `wrap`, `install` and configuration, with `fab` and `inv` run as commands."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fabric
import invoke
import paramiko
import pytest
from fabric.exceptions import GroupException

from fabremote import (
    Connection,
    RemoteConnectionRefused,
    RemoteHostKeyRejected,
    RemoteInterpreterMissing,
    SerialGroup,
    ThreadingGroup,
    task,
    wrap,
)
from fabremote.configuration import remotely
from fabremote.connection import Config
from fabremote.demo.openssh import OpenSSHServer, find_sshd
from fabremote.demo.server import Server
from fabremote.hosts import open_connection
from fabremote.verification import way
from tests.conftest import served
from tests.faults import settled

# Each of many runs is a process of its own, which imports Fabric.
pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
HERE = "python{}.{}".format(*sys.version_info)
CONFIG = """\
Host web1 web2 web3
  Port {port}
  User {user}
  IdentityFile {key}
Host web1
  HostName 127.0.0.1
Host web2
  HostName 127.0.0.2
Host web3
  HostName 127.0.0.3
Host inner
  HostName 127.0.0.1
  Port {inner_port}
  User {user}
  IdentityFile {inner_key}
  ProxyJump web2
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def inner(
    tmp_path_factory: pytest.TempPathFactory, remote_env: dict[str, str]
) -> Iterator[OpenSSHServer]:
    """Another sshd, to be reached through the first."""
    if find_sshd() is None:
        pytest.skip("no sshd on this machine")
    env = {**remote_env, "INNER": "yes"}
    yield from served(OpenSSHServer(tmp_path_factory.mktemp("inner"), env=env))


@pytest.fixture
def home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openssh: Server, inner: OpenSSHServer
) -> Path:
    """A HOME whose ~/.ssh/config has web1, web2, web3 and, behind web2, inner."""
    path = tmp_path / "home"
    (path / ".ssh").mkdir(parents=True, mode=0o700)
    (path / ".ssh" / "config").write_text(
        CONFIG.format(
            port=openssh.port,
            user=openssh.user,
            key=openssh.key,
            inner_port=inner.port,
            inner_key=inner.key,
        )
    )
    monkeypatch.setenv("HOME", str(path))
    return path


@pytest.fixture
def run(tmp_path: Path, home: Path) -> Run:
    """Runs a command in a folder of its own; it must succeed unless told otherwise."""
    folder = tmp_path / "work"
    folder.mkdir()

    def run(
        *command: str,
        files: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        status: int | None = 0,
    ) -> subprocess.CompletedProcess[str]:
        for name, text in (files or {}).items():
            (folder / name).write_text(text)
        program = [sys.executable, command[0]]
        if command[0] in ("fab", "inv"):
            program = [str(Path(sys.executable).parent / command[0])]
        paths = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [*program, *command[1:]],
            cwd=folder,
            env={**os.environ, **paths, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert status is None or done.returncode == status, done.stdout + done.stderr
        return done

    return run


FABFILE = '''
"""Tasks of every kind."""
import os
import sys

from {module} import task
{also}

def where():
    return os.environ["SSH_CONNECTION"].split()[2]


@task
def before(c):
    """Goes first."""
    print("before", getattr(c, "original_host", None))


@task
def after(c):
    print("after", getattr(c, "original_host", None))


@task(pre=[before], post=[after], aliases=["g"], help={{"name": "who", "loud": "shout"}})
def go(c, name="you", count=1, loud=False, extra=None):
    """Go somewhere.

    In more words.
    """
    print(c.original_host, name, count, loud, extra{there})


@task(hosts=["web1", "web3"])
def fixed(c):
    print("fixed", c.original_host{there})


@task(positional=["what"], optional=["how"], iterable=["many"], incrementable=["verbose"])
def odd_one(c, what, how=None, many=None, verbose=0, under_score=""):
    print(what, how, many, verbose, under_score)


@task(default=True, name="renamed", autoprint=True)
def something(c):
    return "printed"
'''
OURS = FABFILE.format(module="fabremote", also="", there=", c.call(where)")
THEIRS = FABFILE.format(module="fabric", also="", there="")
SPLIT = """
from invoke import Collection
import deploy, tools

ns = Collection(deploy)
ns.add_collection(Collection.from_module(tools), name="t")
ns.add_task(deploy.go, name="top")
ns.configure({"run": {"hide": True}})
"""


# `fab`


def test_fab_runs_a_task_on_each_host(run: Run) -> None:
    done = run("fab", "-H", "web1,web2", "go", "--name", "x", files={"fabfile.py": OURS})
    lines = done.stdout.splitlines()
    assert "web1 x 1 False None 127.0.0.1" in lines
    assert "web2 x 1 False None 127.0.0.2" in lines
    assert not done.stderr


def test_pre_and_post_tasks_and_hosts_are_as_with_fabrics_task(run: Run) -> None:
    for command in (("-H", "web1,web2", "go", "-l", "-c", "3"), ("before", "fixed")):
        found = {}
        for name, text in (("ours", OURS), ("theirs", THEIRS)):
            done = run("fab", *command, files={"fabfile.py": text})
            found[name] = re.sub(r"( 127\.0\.0\.\d)", "", done.stdout)
        assert found["ours"] == found["theirs"]
        assert len(found["ours"].splitlines()) >= 2


def test_hosts_of_a_task(run: Run) -> None:
    done = run("fab", "fixed", files={"fabfile.py": OURS})
    assert done.stdout.splitlines() == ["fixed web1 127.0.0.1", "fixed web3 127.0.0.3"]


# Runs `fab` with each list of arguments, forked off so that its imports are made but once.
DRIVER = """
import json, os, sys, tempfile, traceback
from fabric.main import program

answers = []
for arguments in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
            status = 99
            try:
                program.run(["fab", *arguments])
                status = 0
            except SystemExit as error:
                status = error.code
            except BaseException as error:
                print(type(error).__name__, error, file=sys.stderr)
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(status or 0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0), err.seek(0)
        answers.append([status, out.read().decode(), err.read().decode()])
print(json.dumps(answers))
"""
ARGUMENTS = [
    ["--list"],
    ["--list", "--list-format=json"],
    ["--list", "--list-format=nested"],
    ["--help", "go"],
    ["--help", "odd-one"],
    ["--help", "renamed"],
    ["-h", "fixed"],
    ["odd-one", "a", "--how", "--many", "1", "--many", "2", "-v", "-v", "-u", "z"],
    ["odd-one"],
    ["renamed"],
    ["go", "--nope"],
    ["no-such-task"],
    ["go", "--count", "many"],
    ["-H", "web1", "--dry", "odd-one", "b"],
    [],
]


def test_lists_help_and_arguments_are_as_with_fabrics_task(run: Run) -> None:
    answers = []
    for text in (OURS, THEIRS):
        files = {"fabfile.py": text, "drive.py": DRIVER}
        answers.append(json.loads(run("drive.py", json.dumps(ARGUMENTS), files=files).stdout))
    for arguments, ours, theirs in zip(ARGUMENTS, *answers, strict=True):
        assert ours == theirs, arguments
        assert ours[1] or ours[2], arguments
    assert "Go somewhere." in answers[0][3][1]
    assert "--loud" in answers[0][3][1]


def test_collections(run: Run) -> None:
    files = {"fabfile.py": SPLIT, "deploy.py": OURS, "tools.py": OURS}
    listed = run("fab", "--list", files=files).stdout
    theirs = run("fab", "--list", files={**files, "deploy.py": THEIRS, "tools.py": THEIRS}).stdout
    assert listed == theirs
    done = run("fab", "-H", "web1", "t.go", "top", files=files)
    assert done.stdout.splitlines().count("web1 you 1 False None 127.0.0.1") == 2


PLAIN_TASKS = """
import os, sys
from fabremote import task

BASE = 1

def add(x):
    print("in there")
    return x + BASE, os.getpid()

@task
def build(c, x=1):
    value, process = c.call(add, x)
    print(type(c).__mro__[1].__name__, value, process != os.getpid())
    c.run("echo ran")
    print(c.python(env={"A": "b"}).call(os.getenv, "A"))
"""


def test_inv_with_a_plain_context(run: Run) -> None:
    done = run("inv", "build", "-x", "4", files={"tasks.py": PLAIN_TASKS})
    lines = done.stdout.splitlines()
    assert lines[0] == "in there"
    assert lines[1].endswith("5 True")
    assert lines[2:] == ["ran", "b"]
    assert not done.stderr
    listed = run("inv", "--list").stdout
    assert "build" in listed
    assert "-x" in run("inv", "--help", "build").stdout


def test_fab_without_hosts_gives_a_plain_context(run: Run) -> None:
    done = run("fab", "build", files={"fabfile.py": PLAIN_TASKS})
    assert done.stdout.splitlines()[1].endswith("2 True")


FAILING = """
import sys
from fabremote import task

class Odd(Exception):
    pass

def fail():
    raise Odd("so it is")

def leave():
    sys.exit(7)

@task
def bad(c):
    c.call(fail)

@task
def caught(c):
    try:
        c.call(fail)
    except Odd as error:
        print("caught", error)

@task
def out(c):
    c.call(leave)
"""


def test_what_a_function_raises_is_the_tasks_own(run: Run) -> None:
    done = run("fab", "-H", "web1", "caught", files={"fabfile.py": FAILING})
    assert done.stdout == "caught so it is\n"
    done = run("fab", "-H", "web1", "bad", status=1)
    assert "Odd: so it is" in done.stderr
    assert run("fab", "-H", "web1", "out", status=7).stdout == ""


INSTALLED = """
import os
from fabric import task, Connection, SerialGroup, ThreadingGroup
import fabremote

fabremote.install()

def where():
    return os.environ["SSH_CONNECTION"].split()[2]

@task
def go(c):
    print(c.original_host, c.call(where), c.python(env={"A": "1"}).call(os.getenv, "A"))
    print(c.run("echo ran", hide=True).stdout.strip())

@task
def groups(c):
    for kind in (SerialGroup, ThreadingGroup):
        with kind("web1", "web2") as group:
            found = group.call(where)
            print(sorted((c.host, value) for c, value in found.items()))
            print(sorted(group.python(env={"A": "2"}).call(os.getenv, "A").values()))
    with Connection("inner") as inner:
        print(inner.call(os.getenv, "INNER"), type(inner.gateway).__name__)
"""


def test_install_serves_a_fabfile_left_as_it_is(run: Run, openssh: Server) -> None:
    done = run("fab", "-H", "web1,inner", "go", files={"fabfile.py": INSTALLED})
    assert done.stdout.splitlines() == [
        "web1 127.0.0.1 1",
        "ran",
        "inner 127.0.0.1 1",
        "ran",
    ]
    done = run("fab", "groups")
    pairs = str([("127.0.0.1", "127.0.0.1"), ("127.0.0.2", "127.0.0.2")])
    assert done.stdout.splitlines() == [pairs, "['2', '2']"] * 2 + ["yes Connection"]
    assert openssh.processes() == []


LEFT_AS_IT_IS = """
from fabric import task
import os

@task
def go(c):
    print(c.original_host, c.call(os.getenv, "SSH_CONNECTION").split()[2])
"""


def test_install_may_be_called_elsewhere(run: Run) -> None:
    """A fabfile left as it is, with install() called where Python starts."""
    config = "import fabremote\nfabremote.install()\ndel fabremote\n"
    files = {"fabfile.py": LEFT_AS_IT_IS, "sitecustomize.py": config}
    done = run("fab", "-H", "web1", "go", files=files, env={"PYTHONPATH": f"{ROOT}:."})
    assert done.stdout == "web1 127.0.0.1\n"


# wrap()


def address() -> str:
    return os.environ["SSH_CONNECTION"].split()[2]


@pytest.mark.parametrize("kind", [fabric.SerialGroup, fabric.ThreadingGroup])
def test_groups_that_fabric_made(home: Path, kind: Any) -> None:
    with kind("web1", "web2") as group:
        wrapped = wrap(group)
        assert isinstance(wrapped, fabric.Group)
        assert isinstance(wrapped, SerialGroup) == isinstance(group, fabric.SerialGroup)
        found = wrapped.call(address)
        assert {c.original_host: value for c, value in found.items()} == {
            "web1": "127.0.0.1",
            "web2": "127.0.0.2",
        }
        assert set(wrapped.python(cwd="/").call(os.getcwd).values()) == {"/"}
        assert [c.transport for c in group] == [c.transport for c in wrapped]
        assert wrap(wrapped) is wrapped


def test_our_groups_make_connections_of_ours(home: Path) -> None:
    for kind in (SerialGroup, ThreadingGroup):
        with kind("web1", "inner") as group:
            assert all(isinstance(one, Connection) for one in group)
            assert sorted(map(str, group.call(os.getenv, "INNER").values())) == ["None", "yes"]


def test_jump_hosts_of_ssh_config(home: Path) -> None:
    with fabric.Connection("inner") as plain:
        assert wrap(plain).call(os.getenv, "INNER") == "yes"
        assert isinstance(plain.gateway, fabric.Connection)
        # The jump host's connection is there for calls, too.
        assert wrap(plain.gateway).call(address) == "127.0.0.2"
    plain.gateway.close()


def test_wrapping_shares_everything(home: Path) -> None:
    with fabric.Connection("web1") as plain:
        wrapped = wrap(plain)
        wrapped.call(address)
        assert plain.is_connected
        assert plain.transport is wrapped.transport
        plain.config.run.env = {"A": "1"}
        assert wrapped.call(os.getenv, "A") == "1"
        with plain.cd("/"):
            assert wrapped.call(os.getcwd) == "/"
        assert wrap(wrapped) is wrapped
        assert wrap(plain) == plain
    assert not wrapped.is_connected


@pytest.mark.parametrize("value", [None, "web1", 5, [], fabric.Connection])
def test_what_cannot_be_wrapped_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"wrap\(\) takes a connection"):
        wrap(value)


ASYNC = """
import asyncio, os
from fabremote import task

@task
async def inner(c):
    await asyncio.sleep(0)
    return c.call(max, 1, 2)

@task
async def outer(c, n=3):
    print("outer", n, await inner(c))
"""


def test_an_async_task_is_run_to_its_end(run: Run) -> None:
    done = run("fab", "-H", "web1", "inner", "outer", "-n", "5", files={"fabfile.py": ASYNC})
    assert done.stdout == "outer 5 2\n"
    assert "never awaited" not in done.stderr


@pytest.mark.parametrize("hosts", [[fabric.Connection("web1")], "web1", 5, [None]])
def test_hosts_that_a_task_cannot_have_are_refused(hosts: Any) -> None:
    with pytest.raises(TypeError, match=r"hosts=.*list of names such as 'web1'"):
        task(hosts=hosts)


@pytest.mark.parametrize("kind", [SerialGroup, ThreadingGroup])
def test_a_group_submits_to_every_host(home: Path, kind: Any) -> None:
    with kind("web1", "web2", "web1") as group:
        futures = group.python(hide=True).submit(address)
        assert [future.result() for future in futures] == ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
    connections = [Connection("web1"), Connection("127.0.0.1", port=1)]
    with kind.from_connections(connections) as group:
        good, bad = group.python().submit(max, 1, 2)
        assert good.result() == 2
        with pytest.raises(RemoteConnectionRefused):
            bad.result()


# Configuration


TELL = """
import os, sys
from fabremote import task

def told():
    return os.environ.get("WHO"), sys.flags.optimize

@task
def tell(c):
    print(*c.call(told))
"""


def wrapper(tmp_path: Path, name: str) -> str:
    """An interpreter that tells its name in WHO."""
    path = tmp_path / name
    path.write_text(f'#!/bin/sh\nWHO={name} exec {HERE} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("kind", ["yml", "json", "py"])
def test_configuration_files(run: Run, tmp_path: Path, kind: str) -> None:
    settings = {"python": wrapper(tmp_path, "mine"), "py_options": "-OO"}
    text = {
        "py": f"remotely = {settings!r}\n",
        "json": json.dumps({"remotely": settings}),
    }.get(kind, f"remotely:\n  python: {settings['python']}\n  py_options: -OO\n")
    files = {"fabfile.py": TELL, f"fabric.{kind}": text}
    assert run("fab", "-H", "web1", "tell", files=files).stdout == "mine 2\n"
    if kind == "yml":
        assert run("fab", "tell").stdout == "mine 2\n"  # a plain context of `fab`


def test_invokes_own_files_and_variables(run: Run, tmp_path: Path) -> None:
    files = {"tasks.py": TELL, "invoke.yml": f"remotely: {{python: {wrapper(tmp_path, 'i')}}}\n"}
    assert run("inv", "tell", files=files).stdout == "i 0\n"
    env = {"INVOKE_REMOTELY_PYTHON": wrapper(tmp_path, "e")}
    assert run("inv", "tell", env=env).stdout == "e 0\n"


def test_the_order_is_fabrics(run: Run, tmp_path: Path, home: Path) -> None:
    """From the weakest: the user's file, the project's, the environment, --config's file."""
    name = {key: wrapper(tmp_path, key) for key in ("user", "project", "env", "runtime")}
    (home / ".fabric.yml").write_text(f"remotely: {{python: {name['user']}, py_options: -O}}\n")
    command = ("fab", "-H", "web1", "tell")
    assert run(*command, files={"fabfile.py": TELL}).stdout == "user 1\n"
    files = {"fabric.yml": f"remotely: {{python: {name['project']}}}\n"}
    assert run(*command, files=files).stdout == "project 1\n"
    env = {"FABRIC_REMOTELY_PYTHON": name["env"], "FABRIC_REMOTELY_PY_OPTIONS": "-OO"}
    assert run(*command, env=env).stdout == "env 2\n"
    files = {"more.yml": f"remotely: {{python: {name['runtime']}}}\n"}
    runtime = run("fab", "-f", "more.yml", *command[1:], files=files, env=env).stdout
    plain = run("fab", *command[1:], env=env).stdout
    assert (runtime, plain) == ("runtime 2\n", "env 2\n")


def test_overrides_and_options_come_last(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABRIC_REMOTELY_PYTHON", wrapper(tmp_path, "env"))
    overrides = {"remotely": {"python": wrapper(tmp_path, "override")}}
    for config in (Config(overrides=overrides), fabric.Config(overrides=overrides)):
        with Connection("web1", config=config) as c:
            assert c.call(os.getenv, "WHO") == "override"
            option = c.python(python=wrapper(tmp_path, "option"))
            assert option.call(os.getenv, "WHO") == "option"
    for made in (Connection("web1"), wrap(fabric.Connection("web1"))):
        with made as c:
            assert c.call(os.getenv, "WHO") == "env"


def test_settings_by_host(run: Run, tmp_path: Path) -> None:
    name = {key: wrapper(tmp_path, key) for key in ("all", "webs", "two")}
    text = f"""
remotely:
  python: {name["all"]}
  hosts:
    web*:
      python: {name["webs"]}
    web2:
      python: {name["two"]}
      py_options: -O
"""
    files = {"fabfile.py": TELL, "fabric.yml": text}
    done = run("fab", "-H", "web1,web2,inner", "tell", files=files)
    assert done.stdout.splitlines() == ["webs 0", "two 1", "all 0"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("remotely: {pyhton: x}", r"remotely\.pyhton, .*Did you mean 'python'"),
        ("remotely: {hosts: {web1: {py_option: x}}}", r"remotely\.hosts\.web1\.py_option"),
        ("remotely: {hosts: {web1: python3}}", r"remotely\.hosts\.web1(?!\.p\b)"),
        ("remotely: {hosts: {other: {nope: 1}}}", r"remotely\.hosts\.other\.nope"),
        ("remotely: python3", "remotely"),
        ("remotely: {hosts: [web1]}", r"remotely\.hosts: \['web1'\]; it must be a table"),
        ("remotly: {python: x}", "table 'remotly'. Did you mean 'remotely'"),
        ("Remotely: {python: x}", "table 'Remotely'. Did you mean 'remotely'"),
        ("remotely: {max_result: big}", r"remotely\.max_result: max_result='big' must be"),
        ("remotely: {start_timeout: soon}", "start_timeout='soon' must be"),
        ("remotely: {verify_host_keys: perhaps}", "verify_host_keys='perhaps' must be"),
    ],
)
def test_settings_that_are_none_are_named(run: Run, text: str, words: str) -> None:
    files = {"fabfile.py": TELL, "fabric.yml": text + "\n"}
    done = run("fab", "-H", "web1", "tell", files=files, status=1)
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"(\w+\.)*(ValueError|TypeError): ", last), done.stderr
    assert re.search(words, last), done.stderr


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("START_TIMEOUT", "2.5", "None 0\n"),
        ("PY_OPTIONS", "-O", "None 1\n"),
        ("VERIFY_HOST_KEYS", "0", "None 0\n"),
    ],
)
def test_every_setting_can_be_a_variable(run: Run, name: str, value: str, expected: str) -> None:
    env = {f"FABRIC_REMOTELY_{name}": value}
    done = run("fab", "-H", "web1", "tell", files={"fabfile.py": TELL}, env=env)
    assert done.stdout == expected


@pytest.mark.parametrize(
    "text", ["remotely:", "remotely: {hosts: }", "remote: {python: x}", "remotely: {hosts: {}}"]
)
def test_what_is_left_empty_or_is_somebody_elses_does_no_harm(run: Run, text: str) -> None:
    files = {"fabfile.py": TELL, "fabric.yml": text + "\n"}
    assert run("fab", "-H", "web1", "tell", files=files).stdout == "None 0\n"


@pytest.mark.parametrize("overrides", [{"remotely": None}, {"remotely": {"hosts": None}}])
def test_what_is_left_empty_by_a_program_does_no_harm(overrides: dict[str, Any]) -> None:
    config = Config(overrides=overrides)
    assert not remotely(Connection("web1", config=config))["hosts"]
    with pytest.raises(ValueError, match=r"remotely\.hosts: 5; it must be a table"):
        Config(overrides={"remotely": {"hosts": 5}})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PYOPTS", "-O", "FABRIC_REMOTELY_PYOPTS is set.*Did you mean FABRIC_REMOTELY_PY_OPTIONS"),
        ("COLOUR", "1", "no setting of ours.*FABRIC_REMOTELY_PYTHON"),
        ("HOSTS", "web1", "FABRIC_REMOTELY_HOSTS.* can't be a variable. Use a file"),
        ("TRUST", "all", "FABRIC_REMOTELY_TRUST.* can't be a variable. Use a file"),
        ("MAX_RESULT", "abc", "FABRIC_REMOTELY_MAX_RESULT='abc' must be a whole number"),
        ("START_TIMEOUT", "soon", "FABRIC_REMOTELY_START_TIMEOUT='soon' must be a number"),
    ],
)
def test_variables_that_mean_nothing_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(f"FABRIC_REMOTELY_{name}", value)
    for made in (Connection("web1"), wrap(fabric.Connection("web1"))):
        with pytest.raises(ValueError, match=words):
            made.call(max, 1, 2)


def test_a_variable_for_one_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FABRIC_REMOTELY_HOSTS_WEB1_PY_OPTIONS", "-OO")
    table = {"web1": {"py_options": "-O"}}
    config = Config(overrides={"remotely": {"hosts": table}})
    assert remotely(Connection("web1", config=config))["hosts"] == table
    # It means something only where the host has a table.
    with pytest.raises(ValueError, match="FABRIC_REMOTELY_HOSTS_WEB1_PY_OPTIONS is set"):
        remotely(Connection("web1"))


def test_a_variable_says_no_where_a_file_says_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FABRIC_REMOTELY_LIVE", "no")
    monkeypatch.setenv("FABRIC_REMOTELY_HOSTS_WEB1_COMPRESS", "false")
    for kind in (Config, fabric.Config):
        config = kind()
        config.load_collection({"remotely": {"live": True, "hosts": {"web1": {"compress": True}}}})
        found = remotely(Connection("web1", config=config))
        assert (found["live"], found["compress"]) == (False, False)


def test_run_settings_hold_for_calls(run: Run) -> None:
    text = "run: {env: {WHO: config}}\ntimeouts: {command: 30}\n"
    done = run("fab", "-H", "web1", "tell", files={"fabfile.py": TELL, "fabric.yml": text})
    assert done.stdout == "config 0\n"


# Hosts that fail a group


def leave(status: int) -> None:
    if getattr(os, "environ")["SSH_CONNECTION"].split()[2] == "127.0.0.2":  # noqa: B009
        sys.exit(status)


@pytest.mark.parametrize("kind", [SerialGroup, ThreadingGroup])
def test_a_function_that_exits_on_one_host_fails_there_alone(home: Path, kind: Any) -> None:
    with kind("web1", "web2") as group:
        with pytest.raises(GroupException) as caught:
            group.call(leave, 3)
        result = caught.value.result
        assert [error.code for error in result.failed.values()] == [3]
        assert len(result.succeeded) == 1
        assert all(one.is_connected for one in group)


def test_ctrl_c_doesnt_wait_for_a_host_that_doesnt_answer(home: Path) -> None:
    with deaf() as port:
        group = ThreadingGroup.from_connections(
            [Connection("web1"), Connection("127.0.0.1", port=port)]
        )
        begun = time.monotonic()
        main = threading.main_thread().ident
        timer = threading.Timer(1.5, signal.pthread_kill, [main, signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            group.call(time.sleep, 100)
        assert time.monotonic() - begun < 40
        timer.join()


def test_closing_ends_the_connecting_of_another_thread(home: Path) -> None:
    with deaf() as port, ThreadPoolExecutor(1) as pool:
        c = Connection("127.0.0.1", port=port)
        future = pool.submit(c.call, os.getpid)
        while vars(c).get("_fabremote_socket") is None:
            time.sleep(0.01)
        c.close()
        with pytest.raises(RemoteConnectionRefused):
            future.result(30)


def test_closing_ends_a_connecting_that_has_not_come_to_its_socket(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, closed = threading.Event(), threading.Event()
    look_up = socket.getaddrinfo

    def slowly(*args: Any, **kwargs: Any) -> Any:
        looking.set()
        closed.wait(10)
        return look_up(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    with deaf() as port, ThreadPoolExecutor(1) as pool:
        c = Connection("127.0.0.1", port=port)
        future = pool.submit(c.call, os.getpid)
        assert looking.wait(10)
        begun = time.monotonic()
        c.close()
        closed.set()
        with pytest.raises(RemoteConnectionRefused, match="closed from this side"):
            future.result(30)
        assert time.monotonic() - begun < 20
        assert not c.is_connected


def test_a_slow_local_wrapper_is_given_up_with_what_it_started() -> None:
    begun = time.monotonic()
    with wrap(invoke.Context()) as c:
        python = c.python(python="sh -c 'sleep 50; true' x", start_timeout=0.5)
        with pytest.raises(RemoteInterpreterMissing, match=r"0\.5 seconds"):
            python.call(os.getpid)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("kind", [SerialGroup, ThreadingGroup])
def test_two_connections_to_one_host_have_a_result_each(home: Path, kind: Any) -> None:
    with kind("web1", "web2", "web1") as group:
        result = group.call(os.getpid)
        assert len(result) == len(set(result.values())) == len(result.succeeded) == 3
        assert list(result) == list(group) == [one for one, _ in result.items()]
        assert [result[one] for one in group] == list(result.values())
        equal = Connection("web1")
        assert equal in result
        assert result[equal] in (result[group[0]], result[group[2]])
        assert result.get(Connection("web3")) is None
        assert repr(result).count("host=127.0.0.1") == 2
        assert repr(result.values()) == f"dict_values({list(result.values())})"
        assert repr(result.items()).count("host=127.0.0.1") == 2
        assert not result.failed


# Behind a jump host


@contextlib.contextmanager
def deaf() -> Iterator[int]:
    """A port whose queue is full, so that who connects to it waits."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(listening.getsockname())
        yield listening.getsockname()[1]


def test_connect_timeout_holds_behind_a_jump_host(home: Path, openssh: Server) -> None:
    options = {"ConnectTimeout": 1, "ProxyJump": "web1", "StrictHostKeyChecking": False}
    know(home, openssh)
    with deaf() as port:
        before = time.monotonic()
        with open_connection("127.0.0.1", port=port, ssh_options=options) as c:
            with pytest.raises(RemoteConnectionRefused, match="did not answer"):
                c.call(os.getpid)
            assert time.monotonic() - before < 30


def test_server_alive_interval_holds_behind_a_jump_host(home: Path, openssh: Server) -> None:
    know(home, openssh)
    options = {"ServerAliveInterval": 7, "ProxyJump": "web2"}
    with open_connection("web1", ssh_options=options) as c:
        assert c.call(address) == "127.0.0.1"
        names = [thread.name for thread in threading.enumerate()]
        assert "fabremote-alive" in names


def test_failed_logins_behind_a_jump_host_leave_nothing(
    home: Path, openssh: Server, inner: OpenSSHServer
) -> None:
    know(home, openssh)
    options = {"ProxyJump": "web2", "StrictHostKeyChecking": False, "IdentityFile": "none"}
    options["UserKnownHostsFile"] = "/dev/null"
    with open_connection("127.0.0.1", port=inner.port, ssh_options=options) as c:
        counts = []
        for _ in range(3):
            with pytest.raises(RemoteConnectionRefused):
                c.call(os.getpid)
            counts.append(threading.active_count())
        assert settled(lambda: threading.active_count() <= counts[0])


# Host keys of connections that Fabric made


def know(home: Path, server: Server) -> None:
    kind, blob = (server.directory / "host_key.pub").read_text().split()[:2]
    known = home / ".ssh" / "known_hosts"
    lines = [f"[{host}]:{server.port} {kind} {blob}\n" for host in server.hosts]
    known.write_text("".join(lines))


@contextlib.contextmanager
def verifying(host: str, value: object = True) -> Iterator[Any]:
    overrides = {"remotely": {"verify_host_keys": value}}
    with fabric.Connection(host, config=fabric.Config(overrides=overrides)) as plain:
        yield wrap(plain)


def test_fabrics_connections_take_any_host_key_unless_told(home: Path, openssh: Server) -> None:
    with wrap(fabric.Connection("web1")) as c:
        assert c.call(address) == "127.0.0.1"
    with verifying("web1", False) as c:
        assert c.call(address) == "127.0.0.1"
    with verifying("web1") as c, pytest.raises(RemoteHostKeyRejected, match="SHA256:"):
        c.call(address)
    know(home, openssh)
    with verifying("web1") as c:
        assert c.call(address) == "127.0.0.1"


def test_our_connections_obey_verify_host_keys_however_they_are_opened(
    home: Path, openssh: Server
) -> None:
    config = Config(overrides={"remotely": {"verify_host_keys": True}})
    with Connection("web1", config=config) as c, pytest.raises(RemoteHostKeyRejected):
        c.run("true", hide=True, in_stream=False)
    with Connection("web1", config=config) as c, pytest.raises(RemoteHostKeyRejected):
        c.open()


def test_a_jump_host_is_verified_too(home: Path, openssh: Server, inner: OpenSSHServer) -> None:
    know(home, inner)
    with verifying("inner") as c:
        with pytest.raises(RemoteHostKeyRejected, match=r"127\.0\.0\.2"):
            c.call(os.getpid)
        c.gateway.close()


def test_a_connection_that_was_open_before_is_verified_at_its_first_call(
    home: Path, openssh: Server
) -> None:
    with verifying("web1") as c:
        plain = fabric.Connection("web1", config=c.config)
        plain.run("true", hide=True, in_stream=False)
        with pytest.raises(RemoteHostKeyRejected, match="SHA256:"):
            wrap(plain).call(address)
        know(home, openssh)
        assert wrap(plain).call(address) == "127.0.0.1"
        plain.close()


def test_no_password_is_sent_before_the_key_is_accepted_whatever_the_transport(
    home: Path, openssh: Server
) -> None:
    config = fabric.Config(overrides={"remotely": {"verify_host_keys": True}})
    asked = []

    def factory(sock: Any, **options: Any) -> paramiko.Transport:
        transport = paramiko.Transport(sock, **options)
        transport.auth_password = asked.append  # type: ignore[method-assign,assignment]
        return transport

    login = {"password": "secret", "transport_factory": factory, "look_for_keys": False}
    with Connection("web1", config=config, connect_kwargs=login) as c:
        for attempt in (lambda: c.call(address), lambda: c.run("true"), c.open):
            with pytest.raises(RemoteHostKeyRejected):
                attempt()
    assert not asked


def test_a_jump_host_that_was_open_before_is_verified_too(
    home: Path, openssh: Server, inner: OpenSSHServer
) -> None:
    know(home, inner)
    with verifying("inner") as c:
        c.gateway.open()
        with pytest.raises(RemoteHostKeyRejected, match=r"127\.0\.0\.2"):
            c.call(os.getpid)
        c.gateway.close()


def test_verify_host_keys_obeys_the_options_of_ssh_config(home: Path, tmp_path: Path) -> None:
    known, config = tmp_path / "known", home / ".ssh" / "config"
    text = f"Host web1\n StrictHostKeyChecking accept-new\n UserKnownHostsFile {known}\n"
    config.write_text(text + config.read_text())
    with verifying("web1") as c:
        assert c.call(address) == "127.0.0.1"
    assert "ssh-ed25519" in known.read_text()


def test_nobody_is_asked_about_a_jump_host_in_batch_mode(home: Path) -> None:
    options = {"BatchMode": True, "ProxyJump": "web1,web2"}
    with open_connection("inner", ssh_options=options) as c:
        hops = way(c)
        assert len(hops) == 3
        assert all(hop.settings.batch and hop.settings.host_keys.batch for hop in hops)
    with open_connection("inner", ssh_options={"BatchMode": True}) as c:
        assert [hop.settings.batch for hop in way(c)] == [True, True]


def test_verify_host_keys_by_host_and_from_the_environment(run: Run) -> None:
    text = "remotely: {hosts: {web2: {verify_host_keys: true}}}\n"
    files = {"fabfile.py": TELL, "fabric.yml": text}
    done = run("fab", "-H", "web1,web2", "tell", files=files, status=1)
    assert done.stdout == "None 0\n"
    assert "RemoteHostKeyRejected" in done.stderr
    env = {"FABRIC_REMOTELY_VERIFY_HOST_KEYS": "1"}
    done = run("fab", "-H", "web1", "tell", env=env, status=1)
    assert "RemoteHostKeyRejected" in done.stderr


def test_a_plain_context_of_invokes_has_the_defaults() -> None:
    with wrap(invoke.Context()) as c:
        assert c.call(os.getpid) != os.getpid()


# The examples


def test_the_example_of_a_decorator(run: Run, home: Path, openssh: Server) -> None:
    know(home, openssh)
    script = (EXAMPLES / "decorated.py").read_text("utf-8")
    done = run("decorated.py", "web1", "web2", files={"decorated.py": script})
    assert not done.stderr
    assert "web1" in done.stdout
    assert "web2" in done.stdout
    assert run("decorated.py", status=2).stderr.strip()


def test_the_example_of_a_configuration(run: Run, tmp_path: Path) -> None:
    text = (EXAMPLES / "fabric.yml").read_text("utf-8")
    files = {"fabfile.py": TELL, "fabric.yml": text}
    assert run("fab", "-H", "web1", "tell", files=files).stdout.split()
    used = (EXAMPLES / "fabfile.py").read_text("utf-8")
    done = run("fab", "-H", "web1,web2", "facts", files={"fabfile.py": used})
    assert len(re.findall(r"^  python ", done.stdout, re.MULTILINE)) == 2
