"""What ``python(...)`` takes, declared once, and where each default comes from."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, Literal, TypedDict, TypeVar

from invoke.context import Context
from invoke.runners import normalize_hide
from invoke.watchers import StreamWatcher

from fabremote.bootstrap import check_py_options, check_python
from fabremote.configuration import REMOTELY_DEFAULTS, remotely

Hide = bool | Literal["out", "stdout", "err", "stderr", "both"] | None
Trust = bool | Sequence[type]
T = TypeVar("T")


class PythonOptions(TypedDict, total=False):
    """The options of ``python()``; see `Options` for what each means."""

    python: str | None
    py_options: str
    env: Mapping[str, str]
    cwd: str | os.PathLike[str] | None
    timeout: float | None
    hide: Hide
    echo: bool
    out_stream: IO[str] | None
    err_stream: IO[str] | None
    in_stream: Any
    watchers: list[StreamWatcher]
    encoding: str | None
    trust: Trust
    max_result: int
    start_timeout: float


@dataclasses.dataclass(frozen=True)
class Options:
    """How a call runs. Unset ones come from Fabric's configuration, named in brackets.

    ``python``: the interpreter, a name, a path or a command; None looks for
    this Python's own minor version, then ``python3`` [``remotely.python``].
    ``py_options``: options for it, in one string as for a shell, such as
    ``"-O -X utf8"`` [``remotely.py_options``].
    ``env``: variables added to the function's environment [``run.env``].
    ``cwd``: its working directory; ``~`` is the remote user's home [``with
    conn.cd(...)``].
    ``timeout``: seconds until the call is killed [``timeouts.command``].
    ``hide``, ``echo``, ``out_stream``, ``err_stream``, ``watchers``,
    ``encoding``: as for ``Connection.run`` [``run.*``]; ``encoding`` is UTF-8
    unless set.
    ``in_stream``: a file to forward to the function's stdin, which is at end of
    file otherwise. With ``watchers`` stdin stays open for their responses.
    ``trust``: classes, besides your own and the standard ones, whose objects may
    be rebuilt from a result by their own code; True unpickles whatever the host
    sends, **which lets the host run code here** [``remotely.trust``].
    ``max_result``: the most bytes a result may have [``remotely.max_result``].
    ``start_timeout``: seconds an interpreter may take to start
    [``remotely.start_timeout``].
    """

    python: str | None = None
    py_options: str = ""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cwd: str | None = None
    timeout: float | None = None
    hide: tuple[str, ...] = ()
    echo: bool = False
    echo_format: str = "{command}"
    dry: bool = False
    out_stream: IO[str] | None = None
    err_stream: IO[str] | None = None
    in_stream: Any = None
    watchers: Sequence[StreamWatcher] = ()
    encoding: str = "utf-8"
    trust: bool | tuple[type, ...] = ()
    max_result: int = 1 << 30
    start_timeout: float = 30
    prefixes: tuple[str, ...] = ()


# More seconds than anybody waits, and fewer than the clocks can count.
LONGEST = 1e9
_RUN_KEYS = (
    "hide",
    "echo",
    "env",
    "out_stream",
    "err_stream",
    "in_stream",
    "watchers",
    "encoding",
)
# What other things of Fabric's take, and what does it for a call.
_ELSEWHERE = {
    "warn": "a call gives a value or raises, so there is nothing to warn about. Catch the "
    "exception instead",
    "pty": "a call has no terminal. Use c.run(..., pty=True) for what needs one",
    "sudo": "use python='sudo -n python3' for calls, or c.sudo(...) for a command",
    "user": "the user is the connection's: connect as another, or use python='sudo -n -u NAME "
    "python3'",
    "password": "it is the connection's. For what asks during a call there are watchers=",
    "shell": "a call goes through no shell. Name the interpreter with python=",
    "dry": "it is the configuration's run.dry",
    "asynchronous": "use submit(), which returns a Future",
    "disown": "use submit(); what shall outlive the connection must be a daemon of its own",
    "logging": "records of the function's loggers are printed there. Configure logging in the "
    "function; what its handlers print is shown here",
    "progress": "print it in the function: output is shown as it comes",
    "replace_env": "a call's env= is added to the host's. Unset variables in the function",
    "echo_stdin": "what in_stream= gives isn't echoed",
    "fallback": "a call has no terminal to fall back from",
    "echo_format": "it is the configuration's run.echo_format",
    "modules": "your own modules go along as they are needed; others must be installed there",
    "requires": "what the function imports must be installed there",
}


def check_names(given: Mapping[str, Any], others: Iterable[str] = ()) -> None:
    """Raise TypeError if ``given`` has a key that is no option; ``others`` may be meant, too."""
    known = PythonOptions.__annotations__
    for name in given:
        if name in _ELSEWHERE:
            raise TypeError(f"python() has no option {name!r}: {_ELSEWHERE[name]}.")
        if name not in known:
            close = difflib.get_close_matches(name, [*known, *others], 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"It takes {', '.join(known)}."
            raise TypeError(f"python() got an unknown option {name!r}. {hint}")


def resolve(context: Context, given: Mapping[str, Any]) -> Options:
    """Return the options in force: the given ones over ``context``'s configuration."""
    check_names(given)
    # get() gives a subtree as a dict; as an attribute it is a proxy, made in 50 us.
    config = context.config
    ours = remotely(context)
    run = config.get("run", {})
    values: dict[str, Any] = {key: run.get(key) for key in _RUN_KEYS}
    values["timeout"] = config.get("timeouts", {}).get("command")
    values |= ours
    # As in Invoke, None means what the configuration says; but timeout=None means none.
    values |= {k: v for k, v in given.items() if v is not None or k not in _RUN_KEYS}
    if values["hide"] is True:
        values["echo"] = False
    dry = bool(run.get("dry"))

    def read(name: str, check: Callable[[Any], T]) -> T:
        with _naming(name, given):
            return check(values[name])

    return Options(
        python=read("python", _interpreter),
        py_options=read("py_options", _py_options),
        env={**_call_env(context), **read("env", _env)},
        cwd=_cwd(values.get("cwd"), context),
        timeout=read("timeout", lambda value: _seconds("timeout", value)),
        hide=read("hide", lambda value: _hide(values)),
        echo=bool(values["echo"]) or dry,
        echo_format=str(run.get("echo_format", "{command}")),
        dry=dry,
        out_stream=read("out_stream", lambda value: _out_stream("out_stream", value)),
        err_stream=read("err_stream", lambda value: _out_stream("err_stream", value)),
        in_stream=read("in_stream", _in_stream),
        watchers=read("watchers", _watchers),
        encoding=read("encoding", _encoding),
        trust=read("trust", _trust),
        max_result=read("max_result", _size),
        start_timeout=read("start_timeout", lambda value: _seconds("start_timeout", value)) or 30,
        prefixes=tuple(context.command_prefixes),
    )


@contextlib.contextmanager
def _naming(name: str, given: Mapping[str, Any]) -> Iterator[None]:
    """Say so of a bad value that is the configuration's."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if given.get(name) is not None or (name in given and name not in _RUN_KEYS):
            raise
        tree = "run" if name in _RUN_KEYS else "timeouts" if name == "timeout" else "remotely"
        key = "command" if name == "timeout" else name
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"The configuration's {tree}.{key}: {error}") from None


def _interpreter(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"python={value!r} must be a str: a name, a path or a command.")
    text = os.fspath(value)
    check_python(text)
    return text


def _py_options(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"py_options={value!r} must be one str, such as '-O -X utf8'.")
    check_py_options(value)
    return value


def _call_env(context: Any) -> dict[str, str]:
    found: dict[str, str] = context.call_env() if hasattr(type(context), "call_env") else {}
    return found


def _env(value: Mapping[Any, Any] | None) -> dict[str, str]:
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"env={value!r} must be a dict of str to str.")
    found = {}
    for name, text in dict(value or {}).items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ValueError(f"env: {name!r} can't be the name of an environment variable.")
        if isinstance(text, (int, float, os.PathLike)) and not isinstance(text, bool):
            text = str(text)
        if not isinstance(text, str) or "\0" in text:
            raise TypeError(f"env[{name!r}] is {text!r}; it must be a str without NUL.")
        found[name] = text
    return found


def _cwd(value: object, context: Context) -> str | None:
    inside = _inside(context)
    if value is None:
        return inside
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"cwd={value!r} must be a path.")
    path = os.fspath(value)
    if not isinstance(path, str) or "\0" in path:
        raise TypeError(f"cwd={value!r} must be a path as str, without NUL.")
    return os.path.join(inside, path) if inside and not path.startswith(("~", "/")) else path


def _inside(context: Context) -> str | None:
    """Return the folder that ``with context.cd(...)`` leads to.

    Context.cwd is that folder quoted for a shell, which is none of ours.
    """
    path = ""
    for part in context.command_cwds:
        path = part if part.startswith(("/", "~")) else os.path.join(path, part)
    return path or None


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"{name}={value!r} must be a number of seconds above 0, or None.")
    return min(float(value), LONGEST)


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"max_result={value!r} must be a number of bytes above 0.")
    return value


def _hide(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(normalize_hide(values["hide"], values["out_stream"], values["err_stream"]))


def _out_stream(name: str, value: Any) -> Any:
    mode = getattr(value, "mode", "")
    binary = isinstance(value, (io.RawIOBase, io.BufferedIOBase))
    if (
        binary
        or (isinstance(mode, str) and "b" in mode)
        or not (value is None or hasattr(value, "write"))
    ):
        raise TypeError(f"{name}={value!r:.100} must be a file that takes text, or None.")
    return value


def _watchers(value: Any) -> tuple[StreamWatcher, ...]:
    found = tuple(value) if isinstance(value, (list, tuple)) else None if value else ()
    if found is None or not all(isinstance(one, StreamWatcher) for one in found):
        raise TypeError(
            f"watchers={value!r:.100} must be a list of Invoke's watchers, such as "
            "[Responder('Really?', 'yes\\n')]."
        )
    return found


def _in_stream(value: Any) -> Any:
    if value and not hasattr(value, "read"):
        raise TypeError(f"in_stream={value!r:.100} must be a file to read from, or None.")
    return value or None


def _encoding(value: str | None) -> str:
    encoding = value or "utf-8"
    try:
        line_end = "\n".encode(encoding)
    except LookupError:
        raise ValueError(f"encoding={encoding!r} is not an encoding that Python knows.") from None
    if line_end != b"\n":
        raise ValueError(
            f"encoding={encoding!r} can't be used: its ends of lines aren't ASCII's, or it has a "
            "mark in front. Take one such as 'utf-8' or 'latin-1'."
        )
    return encoding


def _trust(value: Any) -> bool | tuple[type, ...]:
    if value is True:
        return True
    if value is None or value is False:
        return ()
    classes = tuple(value) if isinstance(value, Iterable) and not isinstance(value, type) else None
    if classes is None or not all(isinstance(cls, type) for cls in classes):
        raise TypeError(f"trust={value!r} must be True or a list of classes, such as [Version].")
    return classes


__all__ = ["REMOTELY_DEFAULTS", "Options", "PythonOptions", "check_names", "resolve"]
