"""The developer's front door: ``inv --list``."""

from invoke import Context, task


@task
def check(c: Context) -> None:
    """Lint, formatting and types."""
    c.run("ruff check", echo=True)
    c.run("ruff format --check", echo=True)
    c.run("mypy", echo=True)


@task
def test(c: Context) -> None:
    """The test suite."""
    c.run("pytest", echo=True, pty=True)


@task
def bench(c: Context) -> None:
    """The benchmarks."""
    c.run("python -m benchmarks", echo=True, pty=True)


@task
def demo(c: Context) -> None:
    """The tour against throwaway SSH servers."""
    c.run("python -m fabremote.demo", echo=True, pty=True)
