"""What ``python(...)`` takes, declared once, and where each default comes from."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import importlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, Literal, TypedDict

from invoke.context import Context
from invoke.runners import normalize_hide
from invoke.watchers import StreamWatcher

from fabremote.bootstrap import check_py_options, check_python

if TYPE_CHECKING:
    from fabremote.requirements import Requirements

# The defaults of fabremote's own subtree of Fabric's configuration.
REMOTELY_DEFAULTS: dict[str, Any] = {
    "python": None,
    "py_options": "",
    "modules": [],
    "trust": [],
    "max_result": 1 << 30,
    "start_timeout": 30,
    "requires": None,
    "wheels": None,
    "cache_dir": None,
    "build_timeout": 1800,
    # Whether connections made with Fabric verify host keys, too; None keeps Fabric's way.
    "verify_host_keys": None,
    # Any of the above by host: {"web*": {"python": "/opt/venv/bin/python"}}.
    "hosts": {},
}

Hide = bool | Literal["out", "stdout", "err", "stderr", "both"] | None
Trust = bool | Sequence[type]
# Requirements, or the path of a requirements file or script.
Requires = Sequence[str] | str | os.PathLike[str] | None
Wheels = Literal["local"] | None


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
    modules: Sequence[str | ModuleType]
    trust: Trust
    max_result: int
    start_timeout: float
    requires: Requires
    wheels: Wheels
    cache_dir: str | os.PathLike[str] | None
    build_timeout: float


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
    ``modules``: modules, or their names, to send along whole, with all submodules
    and data files: what neither the host has nor the call refers to, or an
    installed library in pure Python. A name after a minus, ``"-name"``, keeps
    that module and those below it from being sent: they are imported there, so
    they must be installed there [``remotely.modules``].
    ``trust``: classes, besides your own and the standard ones, whose objects may
    be rebuilt from a result by their own code; True unpickles whatever the host
    sends, **which lets the host run code here** [``remotely.trust``].
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
    modules: tuple[str, ...] = ()
    trust: bool | tuple[type, ...] = ()
    max_result: int = 1 << 30
    start_timeout: float = 30
    requires: Requirements | None = None
    wheels: str | None = None
    cache_dir: str | None = None
    build_timeout: float = 1800
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


def check_names(given: Mapping[str, Any], others: Iterable[str] = ()) -> None:
    """Raise TypeError if ``given`` has a key that is no option; ``others`` may be meant, too."""
    known = PythonOptions.__annotations__
    for name in given:
        if name == "warn":
            raise TypeError(
                "python() has no option 'warn': a call gives a value or raises, so there is "
                "nothing to warn about. Catch the exception instead."
            )
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
    return Options(
        python=_interpreter(values["python"]),
        py_options=_py_options(values["py_options"]),
        env={**_call_env(context), **_env(values["env"])},
        cwd=_cwd(values.get("cwd"), context),
        timeout=_seconds("timeout", values["timeout"]),
        hide=_hide(values),
        echo=bool(values["echo"]) or dry,
        echo_format=str(run.get("echo_format", "{command}")),
        dry=dry,
        out_stream=values["out_stream"],
        err_stream=values["err_stream"],
        in_stream=_in_stream(values["in_stream"]),
        watchers=tuple(values["watchers"] or ()),
        encoding=_encoding(values["encoding"]),
        modules=_modules(values["modules"]),
        trust=_trust(values["trust"]),
        max_result=_size("max_result", values["max_result"]),
        start_timeout=_seconds("start_timeout", values["start_timeout"]) or 30,
        requires=_requires(values["requires"], values["wheels"]),
        wheels=values["wheels"],
        cache_dir=_cache_dir(values["cache_dir"]),
        build_timeout=_seconds("build_timeout", values["build_timeout"]) or LONGEST,
        prefixes=tuple(context.command_prefixes),
    )


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


def remotely(context: Any) -> dict[str, Any]:
    """Return the ``remotely`` settings in force for a context, those of its host included.

    Raises ValueError for a key that isn't one.
    """
    config = context.config
    if "_fabremote_settled" not in vars(config):
        _settle(config)
    found: dict[str, Any] = dict(config.get("remotely"))
    _check_keys(found, "remotely")
    host = getattr(context, "original_host", "localhost")
    for pattern, settings in found["hosts"].items():
        _check_keys(settings, f"remotely.hosts.{pattern}")
        if fnmatch.fnmatchcase(host, pattern):
            found.update(settings)
    found["verify_host_keys"] = _truth("verify_host_keys", found["verify_host_keys"])
    return found


def _settle(config: Any) -> None:
    """Give a configuration that Fabric or Invoke made our defaults and our environment's values.

    Both match variables of the environment, such as FABRIC_REMOTELY_PYTHON, against
    existing keys only, and a plain script's ``Connection("web1")`` against none.
    """
    present = config.get("remotely") or {}
    if not isinstance(present, Mapping):
        raise ValueError(f"The configuration has remotely: {present!r}; it must be a table.")
    if not REMOTELY_DEFAULTS.keys() <= present.keys():
        defaults = vars(config).get("_defaults") or type(config).global_defaults()
        config.load_defaults({**defaults, "remotely": dict(REMOTELY_DEFAULTS)})
    start = f"{config.env_prefix or config.prefix}_REMOTELY_".upper()
    if any(name.startswith(start) for name in os.environ):
        config.load_shell_env()
    config._set(_fabremote_settled=True)


_TRUTHS = {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False, "": None}


def _truth(name: str, value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if str(value).lower() not in _TRUTHS:
        raise ValueError(f"The configuration's remotely.{name}={value!r} must be true or false.")
    return _TRUTHS[str(value).lower()]


def _check_keys(settings: Any, where: str) -> None:
    if not isinstance(settings, Mapping):
        raise ValueError(f"The configuration has {where}: {settings!r}; it must be a table.")
    for name in settings:
        if name not in REMOTELY_DEFAULTS:
            close = difflib.get_close_matches(name, REMOTELY_DEFAULTS, 1)
            known = ", ".join(REMOTELY_DEFAULTS)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are {known}."
            raise ValueError(f"The configuration has {where}.{name}, no setting of ours. {hint}")


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


def _size(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{name}={value!r} must be a number of bytes above 0.")
    return value


def _requires(value: object, wheels: object) -> Requirements | None:
    if wheels not in (None, "local"):
        raise ValueError(f"wheels={wheels!r} must be 'local' or None.")
    if value is None:
        return None
    # Imported where it is needed: few calls do.
    module = importlib.import_module("fabremote.requirements")
    found: Requirements | None = module.parse(value)
    if found is not None:
        module.check_wheels(found, wheels)
    return found


def _cache_dir(value: object) -> str | None:
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.startswith(("/", "~")) or "\0" in text:
        raise ValueError(
            f"cache_dir={value!r} must be a folder of the host, from / or ~, such as "
            "'/var/tmp/me'."
        )
    return text


def _hide(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(normalize_hide(values["hide"], values["out_stream"], values["err_stream"]))


def _in_stream(value: Any) -> Any:
    if value and not hasattr(value, "read"):
        raise TypeError(f"in_stream={value!r:.100} must be a file to read from, or None.")
    return value or None


def _encoding(value: str | None) -> str:
    encoding = value or "utf-8"
    try:
        "".encode(encoding)
    except LookupError:
        raise ValueError(f"encoding={encoding!r} is not an encoding that Python knows.") from None
    return encoding


def _modules(value: Any) -> tuple[str, ...]:
    if value is None or value == []:
        return ()
    if isinstance(value, (str, ModuleType)) or not isinstance(value, Iterable):
        raise TypeError(f"modules={value!r} must be a list of modules or names, as ['helpers'].")
    found = [each.__name__ if isinstance(each, ModuleType) else each for each in value]
    for name in found:
        if not isinstance(name, str):
            raise TypeError(f"modules= has {name!r}; it takes modules and their names.")
        parts = name.removeprefix("-").split(".")
        if not all(map(str.isidentifier, parts)) or parts == ["__main__"]:
            raise ValueError(f"modules= has {name!r}, which names no module that can be imported.")
        if parts[0] in sys.stdlib_module_names:
            raise ValueError(f"modules= has {name!r}: the standard library is never sent.")
    return tuple(found)


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
