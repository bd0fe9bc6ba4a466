"""What ``python(...)`` takes, declared once, and where each default comes from."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from invoke.context import Context
from invoke.watchers import StreamWatcher

from fabremote import option_values as check
from fabremote.configuration import REMOTELY_DEFAULTS, remotely

if TYPE_CHECKING:
    from fabremote.requirements import Requirements

Hide = bool | Literal["out", "stdout", "err", "stderr", "both"] | None
Trust = bool | Sequence[type]
# Requirements, or the path of a requirements file or script.
Requires = Sequence[str] | str | os.PathLike[str] | None
Wheels = Literal["local"] | None
# Called with "up" or "down", the bytes that have gone or come, and how many there are.
Report = Callable[[str, int, int], object]
Progress = bool | Report | None
T = TypeVar("T")


class PythonOptions(TypedDict, total=False):
    """The options of ``python()``; see `Options` for what each means."""

    python: str | None
    py_options: str
    env: Mapping[str, str]
    cwd: str | os.PathLike[str] | None
    sudo: bool | str | None
    user: str | None
    password: str | None
    timeout: float | None
    hide: Hide
    echo: bool
    out_stream: IO[str] | None
    err_stream: IO[str] | None
    in_stream: Any
    watchers: list[StreamWatcher]
    pty: bool
    encoding: str | None
    logging: bool
    modules: Sequence[str | ModuleType]
    trust: Trust
    max_result: int
    start_timeout: float
    requires: Requires
    wheels: Wheels
    cache_dir: str | os.PathLike[str] | None
    build_timeout: float
    compress: bool | None
    progress: Progress


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
    ``sudo``: True runs the function under sudo, as root or as ``user``; a
    user's name does the same for that user [``remotely.sudo``].
    ``user``: whom it runs as, with ``sudo`` [``sudo.user``].
    ``password``: what sudo is given if it asks; if None, it is asked for once on
    the terminal [``sudo.password``].
    ``timeout``: seconds until the call is killed [``timeouts.command``].
    ``hide``, ``echo``, ``out_stream``, ``err_stream``, ``watchers``,
    ``encoding``: as for ``Connection.run`` [``run.*``]; ``encoding`` is UTF-8
    unless set.
    ``in_stream``: a file to forward to the function's stdin, which is at end of
    file otherwise. With ``watchers`` stdin stays open for their responses.
    ``pty``: give the function a terminal, of the local one's size and kind; what
    it prints to either stream comes as stdout. Unless ``in_stream`` says
    otherwise, it reads what is typed on the local terminal, Ctrl-C included, if the
    call is made in the main thread, by ``call`` or ``run``. The calls of a ``with``
    block share one [``run.pty``].
    ``logging``: have what is logged there handled by the local loggers of the
    same names, as far as their levels want it; the records have the host's name as
    ``host`` [``remotely.logging``].
    ``modules``: modules, or their names, to send along whole, with all submodules
    and data files: what neither the host has nor the call refers to, or an
    installed library in pure Python. A name after a minus, ``"-name"``, keeps
    that module and those below it from being sent: they are imported there, so
    they must be installed there [``remotely.modules``].
    ``trust``: classes, besides your own and the standard ones, whose objects may
    be rebuilt from a result by their own code, each exactly this class; True, for
    this interpreter's calls, unpickles whatever the host sends by name, **which
    lets the host, and whoever broke into it, run any code here with your rights**
    [``remotely.trust``].
    ``max_result``: the most bytes a result may have [``remotely.max_result``].
    ``start_timeout``: seconds an interpreter may take to start
    [``remotely.start_timeout``].
    ``requires``: packages that the function needs, as a list of requirements
    such as ``["numpy>=2"]``, or the path of a requirements file or of a script
    with a ``# /// script`` block: it runs in a virtual environment that has
    them, made of ``python`` at the first call and kept on the host
    [``remotely.requires``].
    ``wheels``: ``"local"`` has this side download the packages for the host and
    send them, for a host that reaches no index [``remotely.wheels``].
    ``cache_dir``: the host's folder for environments; None is
    ``fabremote`` in the user's cache folder [``remotely.cache_dir``].
    ``build_timeout``: seconds that making an environment may take, which don't
    count for ``timeout`` [``remotely.build_timeout``].
    ``heartbeat``: seconds between signs of life of both sides, 0 for none; after
    three without one, the link is given up [``remotely.heartbeat`` only].
    ``compress``: whether arguments and results are compressed on their way, as
    long as that makes them smaller [``remotely.compress``].
    ``progress``: a function that is called as arguments go up and a result comes
    down, with ``"up"`` or ``"down"``, the number of bytes so far, and of all; or
    True for a bar on a terminal's stderr, for what takes more than two seconds,
    drawn by the package ``rich`` [``remotely.progress``].
    """

    python: str | None = None
    py_options: str = ""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    cwd: str | None = None
    sudo: bool = False
    user: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    prompt: str = ""
    timeout: float | None = None
    hide: tuple[str, ...] = ()
    echo: bool = False
    echo_format: str = "{command}"
    dry: bool = False
    out_stream: IO[str] | None = None
    err_stream: IO[str] | None = None
    in_stream: Any = None
    watchers: Sequence[StreamWatcher] = ()
    pty: bool = False
    encoding: str = "utf-8"
    logging: bool = False
    modules: tuple[str, ...] = ()
    trust: bool | tuple[type, ...] = ()
    max_result: int = 1 << 30
    start_timeout: float = 30
    requires: Requirements | None = None
    wheels: str | None = None
    cache_dir: str | None = None
    build_timeout: float = 1800
    heartbeat: float = 15
    compress: bool = False
    progress: Report | Literal[True] | None = None
    prefixes: tuple[str, ...] = ()


_RUN_KEYS = (
    "hide",
    "echo",
    "env",
    "out_stream",
    "err_stream",
    "in_stream",
    "watchers",
    "pty",
    "encoding",
)
# What other things of Fabric's take, and what does it for a call.
_ELSEWHERE = {
    "warn": "a call gives a value or raises, so there is nothing to warn about. Catch the "
    "exception instead",
    "shell": "a call goes through no shell. Name the interpreter with python=",
    "dry": "it is the configuration's run.dry",
    "asynchronous": "use submit(), which returns a Future",
    "disown": "use submit(); what shall outlive the connection must be a daemon of its own",
    "replace_env": "a call's env= is added to the host's. Unset variables in the function",
    "echo_stdin": "what in_stream= gives isn't echoed",
    "fallback": "with pty=True a call has a terminal, or fails saying why there is none",
    "heartbeat": "it is the configuration's remotely.heartbeat",
    "echo_format": "it is the configuration's run.echo_format",
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
    values = _values(given, run, ours, config.get("timeouts", {}).get("command"))
    dry = bool(run.get("dry"))

    def read(name: str, reader: Callable[[Any], T]) -> T:
        with _naming(name, given):
            return reader(values[name])

    wheels = read("wheels", check.wheels)
    return Options(
        python=read("python", check.interpreter),
        py_options=read("py_options", check.py_options),
        env={**check.call_env(context), **read("env", check.env)},
        cwd=check.cwd(values.get("cwd"), context),
        timeout=read("timeout", lambda value: check.seconds("timeout", value)),
        hide=read("hide", lambda value: check.hide(values)),
        echo=bool(values["echo"]) or dry,
        echo_format=str(run.get("echo_format", "{command}")),
        dry=dry,
        out_stream=read("out_stream", lambda value: check.out_stream("out_stream", value)),
        err_stream=read("err_stream", lambda value: check.out_stream("err_stream", value)),
        in_stream=read("in_stream", check.in_stream),
        watchers=read("watchers", check.watchers),
        pty=read("pty", lambda value: check.truth("pty", value)),
        encoding=read("encoding", check.encoding),
        logging=read("logging", lambda value: check.truth("logging", value)),
        modules=read("modules", check.modules),
        trust=read("trust", check.trust),
        max_result=read("max_result", check.size),
        start_timeout=read("start_timeout", lambda value: check.seconds("start_timeout", value))
        or 30,
        requires=read("requires", lambda value: check.requires(value, wheels)),
        wheels=wheels,
        cache_dir=read("cache_dir", check.cache_dir),
        build_timeout=read("build_timeout", lambda value: check.seconds("build_timeout", value))
        or check.LONGEST,
        heartbeat=read("heartbeat", check.heartbeat),
        compress=read("compress", check.compress),
        progress=read("progress", check.progress),
        prefixes=tuple(context.command_prefixes),
        **check.sudo_details(read("sudo", check.sudo), given, config.get("sudo", {})),
    )


def _values(
    given: Mapping[str, Any], run: Mapping[str, Any], ours: Mapping[str, Any], timeout: Any
) -> dict[str, Any]:
    """Return each option's value: as it was given, or else as it is configured."""
    values: dict[str, Any] = {key: run.get(key) for key in _RUN_KEYS}
    values["timeout"] = timeout
    values |= ours
    # As in Invoke, None means what the configuration says; but timeout=None means none.
    values |= {k: v for k, v in given.items() if v is not None or k not in _RUN_KEYS}
    if values["hide"] is True:
        values["echo"] = False
    return values


class Bound:
    """Options given once, and what they come to with a context's configuration.

    That is worked out again only when the configuration, or a file of
    requirements, has changed since: it takes as long as all else that a small
    call does on this side.
    """

    def __init__(self, context: Context, given: Mapping[str, Any]) -> None:
        self._context = context
        self.given = dict(given)
        self._seen: tuple[Any, ...] | None = None
        self._options: Options | None = None

    def options(self) -> Options:
        """Return the options in force; raise what `resolve` raises."""
        seen = _state(self._context)
        if self._options is None or seen != self._seen or not _is_current(self._options):
            self._options = resolve(self._context, self.given)
            self._seen = _copied(_state(self._context))
        return self._options


class Shown(Bound):
    """The same options as another's, but for where output is shown."""

    def __init__(self, bound: Bound, streams: Mapping[str, Any]) -> None:
        super().__init__(bound._context, bound.given)
        self._bound, self._streams = bound, streams

    def options(self) -> Options:
        """Return the options in force, which are the same each time."""
        if self._options is None:
            self._options = dataclasses.replace(self._bound.options(), **self._streams)
        return self._options


def _is_current(options: Options) -> bool:
    return options.requires is None or options.requires.is_current()


def _state(context: Context) -> tuple[Any, ...]:
    """Return what a context's part of the options depends on."""
    trees = map(context.config.get, ("run", "timeouts", "remotely", "sudo"))
    places = tuple(context.command_cwds), tuple(context.command_prefixes)
    return (*trees, *places, check.call_env(context))


def _copied(value: Any) -> Any:
    """Return the same with copies of its containers, which may be changed in place."""
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_copied, value))
    return value


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


__all__ = [
    "REMOTELY_DEFAULTS",
    "Bound",
    "Options",
    "PythonOptions",
    "Shown",
    "check_names",
    "resolve",
]
