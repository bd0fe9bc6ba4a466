"""What an agent is sent of itself: code where its Python runs ours, source everywhere else."""

from __future__ import annotations

import ast
import marshal
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke import Context

import fabremote.agent
from fabremote import starting, wrap
from fabremote.bootstrap import runs_code
from fabremote.upload import AGENT_MODULES, EXTRA_MODULES, agent_code, runner
from tests import interpreters

FOLDER = Path(fabremote.agent.__file__).parent
VERSIONS = [version for version in interpreters.found() if version != "2.7"]
OURS = interpreters.running()[0]
OTHERS = [version for version in VERSIONS if version != OURS]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """No host has asked for source yet."""
    monkeypatch.setattr(starting, "SOURCE_WANTED", set())


def nameless(version: str, folder: Path) -> str:
    """A command whose name doesn't tell the version of the Python that it is."""
    script = folder / "interpreter"
    script.write_text(f'#!/bin/sh\nexec {interpreters.found()[version]} "$@"\n')
    script.chmod(0o755)
    return str(script)


class Own:
    """A class of the caller's, for which an agent needs a module more."""

    value = 3


@pytest.mark.parametrize("version", VERSIONS)
def test_a_python_runs_our_code_or_asks_for_source_once(
    version: str, tmp_path: Path, sent: list[int]
) -> None:
    python = nameless(version, tmp_path)
    code, source = len(runner(coded=True)), len(runner())
    first, later = ([code], [code]) if version == OURS else ([code, source], [source])
    for expected in (first, later, later):
        with wrap(Context()) as context:
            assert context.python(python=python).call(sum, [1, 2]) == 3
            assert context.python(python=python).call(lambda: Own().value) == 3
        # With a script ahead, and small frames behind.
        beside = [size - least for size, least in zip(sent, expected, strict=False)]
        assert all(0 <= size < 4000 for size in beside)
        assert max(sent[len(expected) :]) < source * 3 / 4
        sent.clear()


@pytest.mark.parametrize("options", ["-O", "-OO", "-I", "-X utf8", "-W error", "-B -s -E"])
def test_our_code_runs_whatever_the_options_are(
    options: str, tmp_path: Path, sent: list[int]
) -> None:
    with wrap(Context()) as context:
        py = context.python(python=nameless(OURS, tmp_path), py_options=options)
        assert py.call(lambda: Own().value) == 3
        with pytest.raises(ZeroDivisionError):
            py.call(lambda: 1 // 0)
    assert max(sent) > len(runner(coded=True))


@pytest.mark.parametrize("version", OTHERS)
def test_a_python_that_is_named_by_another_version_gets_source_at_once(
    version: str, sent: list[int]
) -> None:
    with wrap(Context()) as context:
        path = interpreters.found()[version]
        named = Path(path).with_name(f"python{version}")
        if not named.exists():
            pytest.skip(f"{path} has no other name")
        assert context.python(python=str(named)).call(sum, [1, 2]) == 3
    assert len(runner()) < max(sent) < len(runner(coded=True))


def test_a_name_tells_the_version() -> None:
    other = f"{sys.version_info[0]}.{sys.version_info[1] + 1}"
    assert runs_code(None)
    assert runs_code("python3")
    assert runs_code(f"python{OURS}")
    assert runs_code(f"/opt/python{other}/bin/python")
    assert runs_code("docker exec -i web python")
    assert not runs_code(f"python{other}")
    assert not runs_code(f"/usr/bin/python{other} -s")


def texts(code: types.CodeType) -> Iterator[str]:
    """The texts among the constants of code, and of all the code in it, but for classes'."""
    for one in code.co_consts:
        if isinstance(one, types.CodeType):
            yield from texts(one)
        elif isinstance(one, str):
            yield one


@pytest.mark.parametrize("name", AGENT_MODULES + EXTRA_MODULES)
def test_code_goes_without_what_only_readers_need(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    wanted = (ast.Module, ast.FunctionDef)
    told = {ast.get_docstring(one, False) for one in ast.walk(tree) if isinstance(one, wanted)}
    code = agent_code(name)
    assert not told & set(texts(code))
    assert code.co_filename == f"<fabremote.agent.{name}>"
    assert str(FOLDER).encode() not in marshal.dumps(code)


def test_the_code_is_no_more_than_needs_be() -> None:
    assert len(runner(coded=True)) <= 56 << 10
