"""The Python interpreters of this machine, which the tests offer to the remote side."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

VERSIONS = ("2.7", *(f"3.{minor}" for minor in range(6, 15)))
ASK = "import sys; print('%d.%d %s' % (sys.version_info[:2] + (sys.executable,)))"


def running() -> tuple[str, str]:
    """The version of the interpreter that runs the tests, and its path outside any venv."""
    version = "{}.{}".format(*sys.version_info)
    return version, str(getattr(sys, "_base_executable", sys.executable))


@functools.cache
def found() -> dict[str, str]:
    """Version to path, as in ``{"3.6": "/opt/python3.6/bin/python3.6"}``, of those that run."""
    versions = dict([running()])
    for candidate in _candidates():
        version, path = _ask(candidate)
        if version in VERSIONS:
            versions.setdefault(version, path)
    return {version: versions[version] for version in VERSIONS if version in versions}


def make_path(directory: Path) -> str:
    """Fill ``directory`` with links to the interpreters; return a PATH that starts with it.

    ``python3`` there is the version that runs the tests.
    """
    directory.mkdir(parents=True, exist_ok=True)
    links = {f"python{version}": path for version, path in found().items()}
    links["python3"] = running()[1]
    for name, path in links.items():
        (directory / name).symlink_to(path)
    return os.pathsep.join([str(directory), "/usr/local/bin", "/usr/bin", "/bin"])


def _candidates() -> Iterator[str]:
    root = _pyenv_root()
    if root is not None:
        yield from map(str, sorted(root.glob("versions/*/bin/python")))
    for version in VERSIONS:
        path = shutil.which(f"python{version}")
        if path:
            yield path


def _pyenv_root() -> Path | None:
    if os.environ.get("PYENV_ROOT"):
        return Path(os.environ["PYENV_ROOT"])
    if shutil.which("pyenv"):
        answer = subprocess.run(["pyenv", "root"], stdout=subprocess.PIPE, text=True)
        return Path(answer.stdout.strip())
    return None


def _ask(path: str) -> tuple[str, str]:
    """The version and the real path of an interpreter; empty if it doesn't run."""
    try:
        answer = subprocess.run(
            [path, "-c", ASK],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "", ""
    version, _, executable = answer.stdout.strip().partition(" ")
    return (version, executable) if answer.returncode == 0 else ("", "")
