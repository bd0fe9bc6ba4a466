"""Environments on the host: what ``requires=`` asks for, made there once and then found.

::

    RemoteHost.session ── provide ──> a call of remote.environments.provide, under `python`
                             |            found, or made with uv or pip
                             v
                    the environment's interpreter: the agent is started under it

With ``wheels="local"`` the packages are downloaded here, for the host's
interpreter and system, and those that the host hasn't got yet are sent.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import importlib.resources
import importlib.util
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from fabremote.bootstrap import RemotePython
from fabremote.exceptions import EnvironmentBuildError, RemoteInterpreterMissing, RemoteTimeout
from fabremote.interpreter import Interpreter
from fabremote.option_values import LONGEST
from fabremote.options import Options
from fabremote.prepared import Host, Prepared
from fabremote.printing import masked, printable
from fabremote.requirements import Requirements
from fabremote.streams import local_stream
from fabremote.upload import condensed

# In the order in which they import each other.
_MODULES = ("folders", "installers", "environments", "wheels")
# These need none of the others.
_ALONE = ("dask_server",)
_LOADER = """
def load(sources, module, name):
    import sys
    package = type(sys)("_fabremote_remote")
    package.__path__ = []
    sys.modules[package.__name__] = package
    for each, source in sources:
        made = type(sys)(package.__name__ + "." + each)
        made.__package__ = package.__name__
        sys.modules[made.__name__] = made
        setattr(package, each, made)
        exec(compile(source, "<fabremote.remote.%s>" % each, "exec"), made.__dict__)
    return getattr(getattr(package, module), name)
"""
# How much of a log an error's message has, in lines; all that was kept is in its `log`.
SHOWN = 15
# How much of a failure's reason and log is kept, in characters, and how long a path may be.
LONGEST_WHY, LONGEST_LOG, LONGEST_PATH = 2000, 1 << 16, 4096
# How much of a wheel is sent at once, in bytes.
PIECE = 8 << 20
_TAG = re.compile(r"[a-z0-9_]{1,80}")


class RemoteFunction:
    """A function of `fabremote.remote`, sent as text: it runs under any Python from 3.6 up."""

    def __init__(self, module: str, name: str) -> None:
        self._target = module, name
        self.__qualname__ = f"fabremote.{module}.{name}"

    def __call__(self, *args: Any) -> Any:
        raise TypeError(f"{self.__qualname__}() runs on a host only")

    def __reduce__(self) -> Any:
        values = {"loader": _LOADER, "target": (_sources(self._target[0]), *self._target)}
        return eval, ("exec(loader) or load(*target)", values)


@functools.cache
def _sources(module: str) -> tuple[tuple[str, str], ...]:
    """Return the names and texts of a module and those before it."""
    folder = importlib.resources.files("fabremote.remote")
    names = (module,) if module in _ALONE else _MODULES[: _MODULES.index(module) + 1]
    texts = ((name, folder.joinpath(f"{name}.py").read_text("utf-8")) for name in names)
    return tuple((name, condensed(text)) for name, text in texts)


def provide(host: Host, options: Options) -> str:
    """Return the ``python`` of the environment that ``options`` require, made if need be.

    Raises EnvironmentBuildError if it can't be made, RemoteInterpreterMissing
    if the interpreter is none that a script's ``requires-python`` allows,
    RemoteTimeout after ``build_timeout``, and what `Interpreter.call` raises.
    """
    requires = options.requires
    assert requires is not None
    base = _base(options)
    python = host.session(base).python
    _check_version(requires, python, host.label)
    try:
        path = _Builder(host, base, requires, options.wheels).path()
    except TimeoutError as error:
        raise RemoteTimeout(
            f"Making the environment with {requires} on {host.label} took longer than "
            f"{options.build_timeout:g} seconds and was given up. Raise build_timeout=.",
            options.build_timeout,
        ) from error
    # A command such as `nice python3` stays what it is but for its last word.
    return shlex.join([*shlex.split(options.python or "")[:-1], path])


def _base(options: Options) -> Options:
    """Return the options of calls that look for an environment or make it."""
    return dataclasses.replace(
        options,
        requires=None,
        py_options="",
        cwd=None,
        timeout=None if options.build_timeout >= LONGEST else options.build_timeout,
        echo=False,
        encoding="utf-8",
        in_stream=None,
        watchers=(),
        trust=(),
    )


def _check_version(requires: Requirements, python: RemotePython, label: str) -> None:
    if not requires.admits(python.version):
        raise RemoteInterpreterMissing(
            f"{requires.origin} requires Python {requires.python}, and the interpreter on "
            f"{label} is {python}. Name another one with python=.",
            python.executable,
            (python.executable,),
        )


def clean(python: Interpreter, days: float = 0) -> list[str]:
    """Remove the environments on a host that no session began to use for ``days`` days.

    ``python``: an interpreter there, such as ``connection.python()``; its user's
    environments are meant, of whatever interpreter, in its ``cache_dir``.
    Returns the names of those removed. One that a call is using is removed, too:
    what it has yet to import is then gone. Raises what `Interpreter.call` raises.
    """
    if isinstance(days, bool) or not isinstance(days, (int, float)) or not days >= 0:
        raise ValueError(f"days={days!r} must be a number from 0 up.")
    host, options = python._host, python._bound.options()
    function = RemoteFunction("environments", "clean")
    answer = _call(host, _base(options), function, options.cache_dir, days * 86400.0)
    if type(answer) is not list or not all(type(name) is str for name in answer):
        raise EnvironmentBuildError(
            f"What {host.label} answers can't be understood: which environments it removed is "
            "not known. List the folder environments/ of its cache_dir to see what is left."
        )
    return [printable(name) for name in answer]


def _is_path(text: str) -> bool:
    return text.startswith("/") and 1 < len(text) <= LONGEST_PATH and text.isprintable()


def _call(host: Host, options: Options, function: RemoteFunction, *args: Any) -> Any:
    return Prepared(host, options, function, args, {}, False).value()


class _Builder:
    """Has one environment found or made."""

    def __init__(
        self, host: Host, options: Options, requires: Requirements, wheels: str | None
    ) -> None:
        self._host, self._options, self._requires = host, options, requires
        self._wheels = wheels

    def path(self) -> str:
        """Return the path of the environment's interpreter on the host."""
        answer = self._provide(self._wheels)
        if answer == ("wheels",):
            answer = self._provide(self._send_wheels())
        found = answer[1] if type(answer) is tuple and len(answer) == 2 else None
        if type(found) is not str or answer[0] != "ready" or not _is_path(found):
            raise self._failure("what the host answers can't be understood", "")
        return found

    def _provide(self, wheels: Any) -> Any:
        wanted = {
            "requirements": self._requires.lines,
            "constraints": self._requires.constraints,
            "options": self._requires.options,
            "cache_dir": self._options.cache_dir,
            "wheels": wheels,
        }
        return self._ask("environments", "provide", wanted)

    def _ask(self, module: str, name: str, *args: Any) -> Any:
        """Call a function there; raise what it says has failed."""
        answer = _call(self._host, self._options, RemoteFunction(module, name), *args)
        if type(answer) is tuple and len(answer) == 3 and answer[0] == "failed":
            raise self._failure(str(answer[1]), str(answer[2]))
        return answer

    def _failure(self, why: str, log: str) -> EnvironmentBuildError:
        why, log = masked(printable(why[:LONGEST_WHY])), masked(printable(log[-LONGEST_LOG:]))
        message = (
            f"There is no environment with {self._requires} on {self._host.label}: "
            f"{why.removesuffix('.')}."
        )
        lines = log.strip().splitlines()
        if lines:
            message += " The end of its log:\n" + "\n".join(lines[-SHOWN:])
        return EnvironmentBuildError(message, log)

    # Wheels

    def _send_wheels(self) -> list[tuple[str, str]]:
        """Download what the host needs, send what it hasn't got; return (digest, name) of all."""
        if not self._requires.lines:
            return []
        facts = self._ask("wheels", "facts")
        with tempfile.TemporaryDirectory(prefix="fabremote-") as folder:
            self._download(Facts(facts, self._failure), Path(folder))
            files = {_digest(path): path for path in sorted(Path(folder).glob("*.whl"))}
            missing = self._ask("wheels", "missing", self._options.cache_dir, list(files))
            if type(missing) is not list:
                raise self._failure("what the host answers of its wheels can't be understood", "")
            for digest, path in files.items():
                if digest in missing:
                    self._send(digest, path)
            return [(digest, path.name) for digest, path in files.items()]

    def _send(self, digest: str, path: Path) -> None:
        place = self._options.cache_dir, digest, path.name, secrets.token_hex(8)
        with path.open("rb") as stream:
            at, data = 0, stream.read(PIECE)
            while data:
                following = stream.read(PIECE)
                self._ask("wheels", "receive", *place, at, data, not following)
                at, data = at + len(data), following

    def _download(self, facts: Facts, folder: Path) -> None:
        if importlib.util.find_spec("pip") is None:
            raise self._failure(
                f"wheels='local' downloads with pip, and {sys.executable} here has none. "
                "Install pip there",
                "",
            )
        lines = [*self._requires.options, *self._requires.lines]
        named = _write(folder / "requirements.txt", lines)
        arguments = ["-r", named]
        if self._requires.constraints:
            arguments += ["-c", _write(folder / "constraints.txt", self._requires.constraints)]
        command = [sys.executable, "-c", _PIP, "download", *facts.arguments(), *arguments]
        command += ["--dest", str(folder), "--disable-pip-version-check", "--no-input"]
        command += ["--progress-bar", "off"]
        target = None if "stderr" in self._options.hide else self._options.err_stream
        shown = None if "stderr" in self._options.hide else local_stream(target, "stderr")
        status, log = _run(command, json.dumps(facts.markers), shown, self._options.timeout)
        if status:
            raise self._failure(
                "its wheels could not be downloaded here with pip "
                f"({sys.executable} -m pip download exited with {status})",
                log,
            )


# pip takes markers such as `python_version < "3.9"` for questions about the Python it runs in.
_PIP = """
import json, runpy, sys
from pip._vendor.packaging import markers
found = json.load(sys.stdin)
markers.default_environment = lambda: dict(found)
runpy.run_module("pip", run_name="__main__")
"""


class Facts:
    """What wheels the host takes, as it says: checked, as it ends up in a command here."""

    def __init__(self, facts: Any, failure: Callable[[str, str], Exception]) -> None:
        try:
            self.platforms, self.abis = list(facts["platforms"]), list(facts["abis"])
            self.python, self.implementation = facts["python"], facts["implementation"]
            self.markers: dict[str, str] = dict(facts["markers"])
            tags = [*self.platforms, *self.abis, self.implementation]
            texts = [*self.markers, *self.markers.values()]
            fine = len(tags) < 1000 and all(map(_TAG.fullmatch, tags))
            fine = fine and bool(re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){1,2}", self.python))
            fine = fine and all(type(text) is str and len(text) < 500 for text in texts)
        except (KeyError, TypeError, ValueError):
            fine = False
        if not fine:
            raise failure("what the host says of its wheels can't be understood", "")

    def arguments(self) -> Iterator[str]:
        """Return the arguments of ``pip download`` that ask for wheels for the host."""
        yield "--only-binary=:all:"
        yield f"--python-version={self.python}"
        yield f"--implementation={self.implementation}"
        yield from (f"--platform={each}" for each in self.platforms)
        yield from (f"--abi={each}" for each in self.abis)


def _write(path: Path, lines: tuple[str, ...] | list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return str(path)


def _run(
    command: list[str], given: str, shown: IO[str] | None, timeout: float | None
) -> tuple[int, str]:
    """Run a command here, showing what it prints; return its exit status and the end of that.

    Raises TimeoutError if it takes longer than ``timeout`` seconds.
    """
    log: collections.deque[str] = collections.deque(maxlen=500)
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={name: text for name, text in os.environ.items() if name != "PYTHONWARNINGS"},
    ) as process:
        timer = threading.Timer(timeout or threading.TIMEOUT_MAX, process.kill)
        timer.daemon = True
        timer.start()
        assert process.stdin is not None
        assert process.stdout is not None
        # If it ends before it has read this, its log says why.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(given)
            process.stdin.close()
        try:
            for line in process.stdout:
                log.append(line)
                if shown is not None:
                    shown.write(line)
        except BaseException:
            process.kill()
            raise
        finally:
            late = not timer.is_alive()
            timer.cancel()
            timer.join()
    if late and process.returncode:
        raise TimeoutError(f"{command[0]} took longer than {timeout} seconds")
    return process.returncode, "".join(log)


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


__all__ = ["RemoteFunction", "clean", "provide"]
