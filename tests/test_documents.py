"""The README and the examples are run as they stand, each block in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from fabremote.demo.server import Server, find_sshd

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
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
    """A fenced block, the comment above it, and what it prints by the text block after it."""

    name: str
    language: str
    mark: str
    body: str
    line: int
    output: str | None = None


def blocks(text: str) -> list[Block]:
    """Every block of a Markdown text in order; those of output are part of their code's."""
    found: list[Block] = []
    heading = ""
    for part in PARTS.finditer(text):
        if part["heading"]:
            heading = re.sub(r"\W+", "-", part["heading"].lower())
        elif part["language"] == "text":
            assert found[-1].output is None
            found[-1].output = part["body"]
        else:
            line = text.count("\n", 0, part.start()) + 1
            name = f"{heading}-{line}"
            found.append(Block(name, part["language"], part["mark"] or "", part["body"], line))
    return found


ALL = blocks(README.read_text("utf-8"))
PYTHON = [block for block in ALL if block.language == "python"]
COMMANDS = [
    command for block in ALL if block.mark == "in examples" for command in block.body.splitlines()
]


@pytest.fixture(scope="module")
def environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """An environment whose HOME knows web1, web2 and web3, all of them a loopback server."""
    kind = "openssh" if find_sshd() else "asyncssh_server"
    server: Server = request.getfixturevalue(kind)
    home = tmp_path_factory.mktemp("user")
    (home / ".ssh").mkdir(mode=0o700)
    (home / ".ssh" / "config").write_text(ssh_config(server))
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    return {**os.environ, "HOME": str(home), "PATH": path, "PYTHONWARNINGS": "error"}


def ssh_config(server: Server) -> str:
    addresses = (server.hosts * len(HOSTS))[: len(HOSTS)]
    return "".join(
        f"Host {name}\n  HostName {address}\n  Port {server.port}\n"
        f"  User {server.user}\n  IdentityFile {server.key}\n"
        for name, address in zip(HOSTS, addresses, strict=True)
    )


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


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_readme_python(block: Block, tmp_path: Path, environment: dict[str, str]) -> None:
    script = tmp_path / "block.py"
    script.write_text(block.body, "utf-8")
    done = run([sys.executable, str(script)], tmp_path, environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (block.output or "")


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_example_commands(command: str, environment: dict[str, str]) -> None:
    done = run(["sh", "-c", command], EXAMPLES, environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not done.stderr


def test_readme_has_a_text_of_what_every_printing_block_prints() -> None:
    assert len(PYTHON) >= 15
    for block in PYTHON:
        assert block.output is not None or "@task" in block.body, f"README.md:{block.line}"


def test_readme_has_the_commands_that_ci_runs() -> None:
    marks = {block.mark: block for block in ALL if block.mark}
    assert set(marks) == {"demo-command", "test-command", "in examples"}
    assert "fabremote.demo" in marks["demo-command"].body
    assert "pytest" in marks["test-command"].body
    assert all(block.language == "sh" for block in marks.values())
    assert {block.language for block in ALL} == {"python", "sh"}


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


def test_links_in_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text("utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


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
        assert process.wait(20) != 0


def test_the_fabfile_fails_as_its_tasks_do(environment: dict[str, str]) -> None:
    done = run(["fab", "-H", "web2", "disk", "--least", "101"], EXAMPLES, environment)
    assert done.returncode == 1
    assert "web2: less than 101 % of / is free" in done.stderr
    done = run(["fab", "-H", "web2", "tail-log", "--path", "/no/log"], EXAMPLES, environment)
    assert done.returncode == 1
    assert done.stderr == "web2: [Errno 2] No such file or directory: '/no/log'\n"


def test_facts_prints_a_row_for_each_host(environment: dict[str, str]) -> None:
    done = run([sys.executable, "facts.py", *HOSTS], EXAMPLES, environment)
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split()[:3] == ["host", "system", "python"]
    assert [row.split()[0] for row in rows] == list(HOSTS)


def test_facts_tells_of_a_host_it_could_not_ask(environment: dict[str, str]) -> None:
    done = run([sys.executable, "facts.py", "web1", "localhost:1"], EXAMPLES, environment)
    assert done.returncode == 1
    assert [row.split()[0] for row in done.stdout.splitlines()] == ["host", "web1"]
    assert done.stderr.startswith("localhost:1: RemoteConnectionRefused: ")
