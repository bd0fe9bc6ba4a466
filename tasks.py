"""The developer's front door: ``inv --list``."""

import shlex
import sys

from invoke import Context, task

# This environment's tools, whether or not it is activated.
PYTHON = shlex.quote(sys.executable)


@task
def check(c: Context) -> None:
    """Lint, formatting and types."""
    c.run(f"{PYTHON} -m ruff check", echo=True)
    c.run(f"{PYTHON} -m ruff format --check", echo=True)
    c.run(f"{PYTHON} -m mypy", echo=True)


@task
def test(c: Context) -> None:
    """The test suite."""
    c.run(f"{PYTHON} -m pytest", echo=True, pty=True)


# The tests of faults, by file, the longest first: four processes share them out, as they wait
# more than they work. What takes minutes, whatever the machine, is apart.
FAULTS = "life faults stages surroundings heartbeat begun leftovers limits interrupts"
MINUTES = "minutes"


@task(help={"times": "how often in a row"})
def faults(c: Context, times: int = 1) -> None:
    """The tests of faults, the slow ones too; in the first round those that take minutes, too."""
    for number in range(times):
        names = f"{MINUTES} {FAULTS}" if number == 0 else FAULTS
        files = " ".join(f"tests/test_{name}.py" for name in names.split())
        c.run(f"{PYTHON} -m pytest -q -n 4 -m 'faults or not faults' {files}", echo=True, pty=True)


@task
def bench(c: Context) -> None:
    """The benchmarks."""
    c.run(f"{PYTHON} -m benchmarks", echo=True, pty=True)


@task
def demo(c: Context) -> None:
    """The tour against throwaway SSH servers."""
    c.run(f"{PYTHON} -m fabremote.demo", echo=True, pty=True)


@task(help={"seconds": "for how long"})
def fuzz(c: Context, seconds: int = 120) -> None:
    """Fuzz what reads a host's bytes; needs the dependency group "fuzz"."""
    c.run(f"{PYTHON} -m tests.fuzz {seconds}", echo=True)


@task
def docs(c: Context) -> None:
    """The documentation's site, in build/site; needs the dependency group "docs"."""
    c.run(f"{PYTHON} -m mkdocs build --strict", echo=True)
