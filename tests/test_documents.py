"""The README, docs/ and the examples are run as they stand, each block in a process of its own.

A Python block is a script, and prints what the text block after it shows. A comment
above a block may say more: ``with sudo`` has it skipped where that can't be tested,
``file NAME`` makes it a file for the blocks after it under the same
heading, and ``run`` makes each line of it a command, run in the folder of those files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
import pytest

from fabremote.demo.server import Server, find_sshd
from tests.faults import settled
from tests.interpreters import found
from tests.sudo_users import why_not

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples"
HOSTS = ("web1", "web2", "web3")
# A heading, or a comment and then a fenced block.
PARTS = re.compile(
    r"^#+ (?P<heading>[^\n]+)$"
    r"|(?:^<!-- (?P<mark>[^\n]+) -->\n\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass
class Block:
    """A fenced block, the comment above it, and what it prints by the text block after it.

    ``files``: those that the blocks before it under the same heading make, by name.
    """

    name: str
    language: str
    mark: str
    body: str
    place: str
    output: str | None = None
    files: dict[str, str] = field(default_factory=dict)


def blocks(page: Path) -> list[Block]:
    """Every block of a Markdown page in order; those of output are part of their code's."""
    text = page.read_text("utf-8")
    found: list[Block] = []
    heading = ""
    files: dict[str, str] = {}
    for part in PARTS.finditer(text):
        if part["heading"]:
            heading = re.sub(r"\W+", "-", part["heading"].lower())
            files = {}
        elif part["language"] == "text":
            assert found[-1].output is None
            found[-1].output = part["body"]
        else:
            line = text.count("\n", 0, part.start()) + 1
            name, place = f"{page.stem}-{heading}-{line}", f"{page.name}:{line}"
            mark = part["mark"] or ""
            found.append(
                Block(name, part["language"], mark, part["body"], place, files=dict(files))
            )
            if mark.startswith("file "):
                files[mark.removeprefix("file ")] = part["body"]
    return found


ALL = blocks(README)
# What CI runs, or what is run in examples/; all others are as in docs/.
OWN = ("demo-command", "test-command", "in examples")
COMMANDS = [
    command for block in ALL if block.mark == "in examples" for command in block.body.splitlines()
]
PAGES = sorted(DOCS.glob("*.md"))
IN_DOCS = [block for page in [README, *PAGES] for block in blocks(page) if block.mark not in OWN]
SCRIPTS = [
    block for block in IN_DOCS if block.language == "python" and block.mark in ("", "with sudo")
]
RUNS = [block for block in IN_DOCS if block.mark == "run"]


@pytest.fixture(scope="module")
def environment(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    pip_env: dict[str, str],
) -> dict[str, str]:
    """An environment whose HOME knows web1, web2 and web3, all of them a loopback server.

    Their host keys are known, and ~/.ssh/deploy is a key to log in with.
    """
    kind = "openssh" if find_sshd() else "asyncssh_server"
    server: Server = request.getfixturevalue(kind)
    home = tmp_path_factory.mktemp("user")
    (home / ".ssh").mkdir(mode=0o700)
    (home / ".ssh" / "config").write_text(ssh_config(server))
    (home / ".ssh" / "known_hosts").write_text(known_hosts(server))
    shutil.copy(server.key, home / ".ssh" / "deploy")
    # For those that log in to others from there.
    shutil.copytree(home / ".ssh", server.home / ".ssh", dirs_exist_ok=True)
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    ours = {"HOME": str(home), "PATH": path, "PYTHONWARNINGS": "error"}
    return {**os.environ, **pip_env, **ours}


def ssh_config(server: Server) -> str:
    addresses = (server.hosts * len(HOSTS))[: len(HOSTS)]
    return "".join(
        f"Host {name}\n  HostName {address}\n  Port {server.port}\n"
        f"  User {server.user}\n  IdentityFile {server.key}\n"
        for name, address in zip(HOSTS, addresses, strict=True)
    )


def known_hosts(server: Server) -> str:
    """The key that the server shows, for each of its addresses."""
    with paramiko.Transport((server.hosts[0], server.port)) as transport:
        transport.start_client(timeout=30)
        key = transport.get_remote_server_key()
    shown = f"{key.get_name()} {key.get_base64()}"
    return "".join(f"[{address}]:{server.port} {shown}\n" for address in server.hosts)


def run(command: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )


@pytest.fixture
def folder(block: Block, tmp_path: Path) -> Path:
    """A folder with the block's files, apart from those of HOME."""
    path = tmp_path / "project"
    path.mkdir()
    for name, body in block.files.items():
        if not name.startswith("~/"):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(body, "utf-8")
    return path


@pytest.fixture
def surroundings(block: Block, tmp_path: Path, environment: dict[str, str]) -> dict[str, str]:
    """The environment, with a HOME of its own if the block has files there."""
    ours = {
        name.removeprefix("~/"): body
        for name, body in block.files.items()
        if name.startswith("~/")
    }
    if not ours:
        return environment
    home = tmp_path / "home"
    shutil.copytree(environment["HOME"], home)
    for name, body in ours.items():
        with (home / name).open("a", encoding="utf-8") as file:
            file.write(body)
    return {**environment, "HOME": str(home)}


@pytest.mark.parametrize("block", SCRIPTS, ids=lambda block: block.name)
def test_docs_python(block: Block, folder: Path, surroundings: dict[str, str]) -> None:
    reason = why_not() if block.mark else None
    if reason:
        pytest.skip(reason)
    script = folder / "block.py"
    script.write_text(block.body, "utf-8")
    done = run([sys.executable, script.name], folder, surroundings)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (block.output or "")


@pytest.mark.parametrize("block", RUNS, ids=lambda block: block.name)
def test_docs_commands(block: Block, folder: Path, surroundings: dict[str, str]) -> None:
    done = run(["sh", "-ec", block.body], folder, surroundings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    assert done.stdout == block.output if block.output is not None else done.stdout.strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_example_commands(command: str, environment: dict[str, str]) -> None:
    done = run(["sh", "-c", command], EXAMPLES, environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not done.stderr


def test_readme_has_the_commands_that_ci_runs() -> None:
    marks = {block.mark: block for block in ALL if block.mark in OWN}
    assert set(marks) == set(OWN)
    assert "fabremote.demo" in marks["demo-command"].body
    assert "pytest" in marks["test-command"].body
    assert all(block.language == "sh" for block in marks.values())
    assert {block.language for block in ALL} == {"python", "sh", "yaml"}


def test_every_block_of_the_docs_is_run_or_used() -> None:
    assert len(SCRIPTS) >= 30
    for block in IN_DOCS:
        if block.mark.startswith("file "):
            name = block.mark.removeprefix("file ")
            used = any(block.body == other.files.get(name) for other in [*SCRIPTS, *RUNS])
            assert used, block.place
        else:
            assert block in SCRIPTS or block in RUNS, block.place
    silent = [block.place for block in SCRIPTS if block.output is None]
    assert silent == []


def test_readme_names_every_option_and_error() -> None:
    import fabremote
    from fabremote.options import PythonOptions

    text = README.read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row.split(" | ")[0])}
    later = {"RemoteException", "RemoteHostKeyRejected", "RemoteTraceback"}
    errors = {
        name
        for name in fabremote.__all__
        if isinstance(getattr(fabremote, name), type)
        and issubclass(getattr(fabremote, name), Exception)
    }
    assert names == set(PythonOptions.__annotations__) | (errors - later)


def test_the_docs_name_every_public_name_and_every_setting() -> None:
    import fabremote
    from fabremote.options import REMOTELY_DEFAULTS, PythonOptions

    shown = re.findall(r"^::: ([\w.]+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE)
    expected = {f"fabremote.{name}" for name in fabremote.__all__}
    elsewhere = {
        "fabremote.dask.FabricCluster",
        "fabremote.environments.clean",
        "fabremote.options.Options",
    }
    assert set(shown) == expected | elsewhere
    assert len(shown) == len(set(shown))
    rows = re.findall(
        r"^\| `(\S+)` \|", (DOCS / "configuration.md").read_text("utf-8"), re.MULTILINE
    )
    ours = {name.removeprefix("remotely.") for name in rows if name.startswith("remotely.")}
    assert ours == set(REMOTELY_DEFAULTS)
    assert set(rows) >= set(PythonOptions.__annotations__) - ours


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert links or page.stem in ("api", "ssh_options")
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_site() -> None:
    pages = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(pages) == [page.name for page in PAGES]


def test_the_first_page_leads_to_every_other() -> None:
    links = re.findall(r"\]\((\w+\.md)\)", (DOCS / "index.md").read_text("utf-8"))
    assert sorted({*links, "index.md"}) == [page.name for page in PAGES]


# The examples


def test_the_fabfile_lists_its_tasks(environment: dict[str, str]) -> None:
    done = run(["fab", "--list"], EXAMPLES, environment)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^  (\S+)", done.stdout, re.MULTILINE) == ["disk", "facts", "tail-log"]


def test_the_fabfile_asks_each_host(environment: dict[str, str]) -> None:
    done = run(["fab", "-H", "web1,web3", "facts"], EXAMPLES, environment)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(\w+):$", done.stdout, re.MULTILINE) == ["web1", "web3"]
    version = "{}.{}".format(*sys.version_info)
    assert len(re.findall(rf"^  python +{version}\.", done.stdout, re.MULTILINE)) == 2


def test_the_fabfile_tails_a_log(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("".join(f"line {number}\n" for number in range(1, 21)))
    command = ["fab", "-H", "web1", "tail-log", "--path", str(log), "--lines", "2"]
    done = run(command, EXAMPLES, environment)
    assert (done.stdout, done.returncode) == ("line 19\nline 20\n", 0), done.stderr


def test_the_fabfile_follows_a_log_until_it_is_interrupted(
    environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "a.log"
    log.write_text("first\n")
    command = ["fab", "-H", "web1", "tail-log", "--path", str(log), "--follow"]
    with subprocess.Popen(
        command, cwd=EXAMPLES, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        with log.open("a") as file:
            file.write("second\n")
        assert process.stdout.readline() == "second\n"
        process.send_signal(2)
        assert process.wait(40) != 0


def test_the_fabfile_fails_as_its_tasks_do(environment: dict[str, str]) -> None:
    done = run(["fab", "-H", "web2", "disk", "--least", "101"], EXAMPLES, environment)
    assert done.returncode == 1
    assert "web2: less than 101 % of / is free" in done.stderr
    done = run(["fab", "-H", "web2", "tail-log", "--path", "/no/log"], EXAMPLES, environment)
    assert done.returncode == 1
    assert done.stderr == "web2: [Errno 2] No such file or directory: '/no/log'\n"
    # Without a host they run here.
    done = run(["fab", "disk", "--path", "/no/folder"], EXAMPLES, environment)
    assert done.stderr == "here: [Errno 2] No such file or directory: '/no/folder'\n"


def test_facts_prints_a_row_for_each_host(environment: dict[str, str]) -> None:
    done = run([sys.executable, "facts.py", *HOSTS], EXAMPLES, environment)
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split()[:3] == ["host", "system", "python"]
    assert [row.split()[0] for row in rows] == list(HOSTS)


@pytest.mark.parametrize("version", sorted({"3.6", "3.13"} & found().keys()))
def test_facts_asks_hosts_of_any_version(environment: dict[str, str], version: str) -> None:
    given = {**environment, "FABRIC_REMOTELY_PYTHON": found()[version]}
    done = run([sys.executable, "facts.py", "web1"], EXAMPLES, given)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"^web1 .* {re.escape(version)}\.", done.stdout, re.MULTILINE)


def test_facts_tells_of_a_host_it_could_not_ask(environment: dict[str, str]) -> None:
    done = run([sys.executable, "facts.py", "web1", "localhost:1"], EXAMPLES, environment)
    assert done.returncode == 1
    assert [row.split()[0] for row in done.stdout.splitlines()] == ["host", "web1"]
    assert done.stderr.startswith("localhost:1: RemoteConnectionRefused: ")


def texts_of(folder: Path, release: str) -> str:
    """The path of a release's archive, in a folder: it is well unless its name says otherwise."""
    source = folder / release
    source.mkdir()
    (source / "check").write_text(f"#!/bin/sh\ntest {release} != bad\n")
    (source / "check").chmod(0o755)
    archive = folder / f"{release}.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(source / "check", "check")
    return str(archive)


def test_a_release_is_rolled_out_and_back_where_it_is_not_well(
    environment: dict[str, str], tmp_path: Path
) -> None:
    place = ["--hosts", "web1,web2", "--folder", f"{tmp_path}/{{host}}"]

    def deploy(release: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = ["fab", "-c", "rollout", "deploy", "--archive", texts_of(tmp_path, release)]
        how = ["--tries", "2", "--pause", "0.05", *more]
        return run([*command, *place, *how], EXAMPLES, environment)

    def current() -> list[str]:
        return [(tmp_path / host / "current").resolve().name for host in ("web1", "web2")]

    first = deploy("one")
    assert first.returncode == 0, first.stderr
    assert deploy("two").stdout.splitlines() == [
        f"{host}: two {what}"
        for host in ("web1", "web2")
        for what in ("installed, in place of one", "is well")
    ]
    assert current() == ["two", "two"]
    for host in ("web1", "web2"):
        (tmp_path / host / "fit").write_text("two")
    bad = deploy("bad")
    assert (bad.returncode, bad.stderr) == (
        1,
        "web1: bad is not well; all hosts have what they had\n",
    )
    assert "web1: back to two" in bad.stdout
    assert "web2" not in bad.stdout
    assert current() == ["two", "two"]
    # Nor is anything kept that can't be restarted, or that a later host can't get.
    ill = deploy("three", "--restart", "test $(cat ../../fit) = $(basename $PWD)")
    assert (ill.returncode, current()) == (1, ["two", "two"])
    assert ill.stderr.endswith("; all hosts have what they had\n"), ill.stderr
    place[1] = "web1,localhost:1"
    lost = deploy("four")
    assert (lost.returncode, current()) == (1, ["two", "two"])
    assert "localhost:1: RemoteConnectionRefused: " in lost.stderr
    assert "web1: back to two" in lost.stdout
    place[1] = "web1,web2"
    back = run(["fab", "-c", "rollout", "back", *place], EXAMPLES, environment)
    assert back.returncode == 0, back.stderr
    assert current() == ["one", "one"]


def test_logs_are_searched_on_all_hosts_as_they_grow(
    environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "a.log"
    log.write_text("fine\nerror 1\n")
    command = ["fab", "-c", "logs", "search", "--hosts", "web1,web2", "--pattern", "error"]
    once = run([*command, "--path", f"{tmp_path}/*.log"], EXAMPLES, environment)
    assert once.returncode == 0, once.stderr
    assert sorted(once.stdout.splitlines()) == [
        "2 lines match",
        f"web1: {log}: error 1",
        f"web2: {log}: error 1",
    ]
    missing = run([*command, "--path", "/no/log"], EXAMPLES, environment)
    assert missing.returncode == 1
    assert sorted(missing.stderr.splitlines()) == [
        "web1: no file /no/log",
        "web2: no file /no/log",
    ]
    following = [*command, "--path", str(log), "--follow"]
    with subprocess.Popen(
        following, cwd=EXAMPLES, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert {process.stdout.readline()[:4] for _ in range(2)} == {"web1", "web2"}
        with log.open("a") as file:
            file.write("error 2\n")
        assert {process.stdout.readline()[-2:] for _ in range(2)} == {"2\n"}
        process.send_signal(2)
        assert process.wait(40) != 0


def test_a_database_moves_from_host_to_host(environment: dict[str, str], tmp_path: Path) -> None:
    source, target = tmp_path / "a.db", tmp_path / "b.db"
    with contextlib.closing(sqlite3.connect(source)) as database, database:
        database.execute("create table t (n integer, text)")
        rows = [(n, f"row; {n}\nof 'many'") for n in range(20_000)]
        database.executemany("insert into t values (?, ?)", rows)
    command = ["fab", "-c", "database", "copy", "--source", "web1", "--target"]
    whole = ["web2", "--path", str(source), "--to", str(target)]
    done = run([*command, *whole], EXAMPLES, environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("20003 statements copied")
    with contextlib.closing(sqlite3.connect(target)) as database:
        assert database.execute("select * from t order by n").fetchall() == rows
    before = target.read_bytes()
    (tmp_path / "text").write_text("not a database" * 100)
    for lacking in (
        ["web2", "--path", "/no/db", "--to", str(target)],
        ["web2", "--path", str(source), "--to", "/no/db"],
        ["web2", "--path", str(tmp_path / "text"), "--to", str(target)],
        ["localhost:1", "--path", str(source), "--to", str(target)],
    ):
        done = run([*command, *lacking], EXAMPLES, environment)
        assert done.returncode == 1
        assert done.stderr.startswith("nothing was copied: ")
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "b.db", "text"]


def test_a_model_is_trained_with_packages_and_progress(
    environment: dict[str, str], tmp_path: Path
) -> None:
    model = tmp_path / "model.json"
    command = [
        "fab",
        "-c",
        "training",
        "-H",
        "web1",
        "train",
        "--epochs",
        "4",
        "--model",
        str(model),
    ]
    done = run(command, EXAMPLES, environment)
    assert done.returncode == 0, done.stderr
    assert [f"training: {percent}%" in done.stderr for percent in (25, 50, 75, 100)] == [True] * 4
    assert json.loads(model.read_text())["accuracy"] > 0.9


@pytest.mark.parametrize(
    "words",
    [
        ["inv", "publish", "--folder", "/no/folder"],
        ["fab", "-c", "logs", "search", "--pattern", "a", "--path", "/etc/passwd"],
        ["fab", "-c", "rollout", "back", "--folder", "/no/folder"],
    ],
    ids=lambda words: words[-3],
)
def test_examples_do_not_pass_over_a_lack_of_hosts(
    environment: dict[str, str], words: list[str]
) -> None:
    done = run([*words, "--hosts", ""], EXAMPLES, environment)
    assert (done.returncode, done.stderr) == (1, "--hosts names no host\n")


def test_inv_runs_what_comes_before_and_after(environment: dict[str, str], tmp_path: Path) -> None:
    command = ["inv", "publish", "--hosts", "web1,web2", "--folder", str(tmp_path)]
    done = run(command, EXAMPLES, environment)
    assert done.returncode == 0, done.stderr
    words = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert words == ["check", "build", "publish", "publish", "publish", "clean"]
    assert {path.name for path in tmp_path.iterdir()} == {
        path.name for path in EXAMPLES.glob("*.py")
    }
    assert not (EXAMPLES / "build").exists()


def test_hosts_carry_others(environment: dict[str, str]) -> None:
    command = [sys.executable, "tree.py", "--by", "web1,web2", "--python", sys.executable]
    done = run([*command, "web1", "web2", "web3", "localhost:1"], EXAMPLES, environment)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["web1", "web2", "web3"]
    assert all(float(line.split()[1]) >= 0 for line in lines)
    assert done.stderr.startswith("localhost:1: RemoteConnectionRefused: ")
    command[command.index("web1,web2")] = "web1,localhost:1"
    done = run([*command, "web1", "web2"], EXAMPLES, environment)
    assert (done.returncode, done.stdout.split(":")[0]) == (1, "web1")
    assert done.stderr.startswith("web2: by way of localhost: RemoteConnectionRefused: ")


def test_what_hosts_carry_ends_with_the_connections_to_them(
    environment: dict[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "nap.py"
    script.write_text(
        "import sys, time\n"
        f"sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "import tree\n"
        "from fabremote import ThreadingGroup\n"
        "def nap(path):\n"
        "    open(path, 'w').write(str(__import__('os').getpid()))\n"
        "    time.sleep(600)\n"
        "with ThreadingGroup('web1') as by:\n"
        f"    tree.call(by, ['web2'], nap, {str(tmp_path / 'pid')!r}, python=sys.executable)\n"
    )
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(2)
        process.communicate(timeout=30)
    pid = Path("/proc") / (tmp_path / "pid").read_text()
    assert settled(lambda: not pid.exists())
