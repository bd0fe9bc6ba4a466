"""What the values of options may be: each is checked, and given back as a call needs it.

Raises TypeError or ValueError that names the option and its value.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import re
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from invoke.context import Context
from invoke.runners import normalize_hide
from invoke.watchers import StreamWatcher

from fabremote.bootstrap import check_py_options, check_python

if TYPE_CHECKING:
    from fabremote.requirements import Requirements

# More seconds than anybody waits, and fewer than the clocks can count.
LONGEST = 1e9
# A user of the host's, as sudo takes one.
_USER = re.compile(r"[^\s\0-][^\s\0]*")


def host(value: Any) -> str:
    """Return a connection's host as it is, if Fabric can make sense of it."""
    if not isinstance(value, str):
        raise TypeError(f"host={value!r:.100} must be a str, [user@]host[:port].")
    name, _, port = value.rpartition("@")[2].partition(":")
    # With more colons it is an IPv6 address, and has no port.
    if ":" not in port and (not name.strip() or (port and not port.isdecimal())):
        raise ValueError(f"host={value!r} names no host. Give [user@]host[:port].")
    return value


def interpreter(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"python={value!r} must be a str: a name, a path or a command.")
    text = os.fspath(value)
    check_python(text)
    return text


def py_options(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"py_options={value!r} must be one str, such as '-O -X utf8'.")
    check_py_options(value)
    return value


def call_env(context: Any) -> dict[str, str]:
    found: dict[str, str] = context.call_env() if hasattr(type(context), "call_env") else {}
    return found


def env(value: Mapping[Any, Any] | None) -> dict[str, str]:
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"env= must be a dict of str to str, not a {type(value).__name__}.")
    found = {}
    for name, text in dict(value or {}).items():
        if isinstance(name, str) and "=" in name:
            # What follows it may be a secret.
            name = name.partition("=")[0]
            raise ValueError(f"env: a name goes on with '=' after {name!r}, which none can.")
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError(f"env: {name!r} can't be the name of an environment variable.")
        if isinstance(text, (int, float, os.PathLike)) and not isinstance(text, bool):
            text = str(text)
        if not isinstance(text, str) or "\0" in text:
            # The value may be a secret.
            what = "has a NUL" if isinstance(text, str) else f"is a {type(text).__name__}"
            raise TypeError(f"env[{name!r}] {what}; it must be a str without NUL.")
        found[name] = text
    return found


def cwd(value: object, context: Context) -> str | None:
    folder = inside(context)
    if value is None:
        return folder
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"cwd={value!r} must be a path.")
    path = os.fspath(value)
    if not isinstance(path, str) or "\0" in path:
        raise TypeError(f"cwd={value!r} must be a path as str, without NUL.")
    return os.path.join(folder, path) if folder and not path.startswith(("~", "/")) else path


def inside(context: Context) -> str | None:
    """Return the folder that ``with context.cd(...)`` leads to.

    Context.cwd is that folder quoted for a shell, which is none of ours.
    """
    path = ""
    for part in context.command_cwds:
        path = part if part.startswith(("/", "~")) else os.path.join(path, part)
    return path or None


def sudo(value: Any) -> bool | str:
    """Return whether sudo is asked for, or for whom."""
    wanted = False if value is None else value
    if not isinstance(wanted, (bool, str)):
        raise TypeError(f"sudo={wanted!r} must be True, False or a user's name.")
    if isinstance(wanted, str) and not _USER.fullmatch(wanted):
        raise ValueError(
            f"sudo={wanted!r} must be True, False, the name of a user, or '#' and a number."
        )
    return wanted


def sudo_details(
    wanted: bool | str, given: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return sudo's user, password and prompt, if it is wanted; raise if they are given else."""
    if not wanted:
        for name in ("user", "password"):
            if given.get(name) is not None:
                raise TypeError(f"{name}= is sudo's, and needs sudo=True. {_WITHOUT_SUDO[name]}")
        return {}
    named = wanted if isinstance(wanted, str) else None
    user = given.get("user")
    # A user who is given takes the place of one who is configured.
    if "sudo" in given and None not in (user, named) and user != named:
        raise ValueError(f"sudo={named!r} and user={user!r} contradict each other: give one.")
    user = _user(user or named or config.get("user"))
    password = given.get("password")
    password = config.get("password") if password is None else password
    if password is not None and (
        not isinstance(password, str) or "\n" in password or "\0" in password
    ):
        raise TypeError("password= must be a str of one line, without NUL, or None.")
    prompt = str(config.get("prompt") or "")
    return {"sudo": True, "user": user, "password": password, "prompt": prompt}


_WITHOUT_SUDO = {
    "user": "Without sudo the function runs as the user who logs in: connect as another one.",
    "password": "The login's is the connection's: connect_kwargs={'password': ...}.",
}


def _user(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _USER.fullmatch(value):
        raise ValueError(f"user={value!r} must be the name of a user, or '#' and a number.")
    return value


def seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"{name}={value!r} must be a number of seconds above 0, or None.")
    return min(float(value), LONGEST)


def heartbeat(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"heartbeat={value!r} must be a number of seconds, or 0 for none.")
    return min(float(value), LONGEST)


def size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"max_result={value!r} must be a number of bytes above 0.")
    return value


def count(name: str, value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)  # a variable's text
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number above 0.")
    return value


def compress(value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"compress={value!r} must be True, False or None.")
    return bool(value)


def progress(value: Any) -> Any:
    if value is None or value is False:
        return None
    if value is not True and not callable(value):
        raise TypeError(
            f"progress={value!r} must be True or a function of a direction, the bytes so far, and "
            "how many there are, such as print."
        )
    if value is True and importlib.util.find_spec("rich") is None:
        raise ModuleNotFoundError(
            "progress=True needs the package rich, which isn't installed here. Install it with "
            "pip install 'fabremote[rich]', or give progress= a function of your own.",
            name="rich",
        )
    return value


def wheels(value: Any) -> str | None:
    if value not in (None, "local"):
        raise ValueError(f"wheels={value!r} must be 'local' or None.")
    return "local" if value else None


def requires(value: object, wheels: str | None) -> Requirements | None:
    if value is None:
        return None
    # Imported where it is needed: few calls do.
    module = importlib.import_module("fabremote.requirements")
    found: Requirements | None = module.parse(value)
    if found is not None:
        module.check_wheels(found, wheels)
    return found


def cache_dir(value: object) -> str | None:
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text.startswith(("/", "~")) or "\0" in text:
        raise ValueError(
            f"cache_dir={value!r} must be a folder of the host, from / or ~, such as "
            "'/var/tmp/me'."
        )
    return text


def hide(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(normalize_hide(values["hide"], values["out_stream"], values["err_stream"]))


def out_stream(name: str, value: Any) -> Any:
    mode = getattr(value, "mode", "")
    binary = isinstance(value, (io.RawIOBase, io.BufferedIOBase))
    if (
        binary
        or (isinstance(mode, str) and "b" in mode)
        or not (value is None or hasattr(value, "write"))
    ):
        raise TypeError(f"{name}={value!r:.100} must be a file that takes text, or None.")
    return value


def watchers(value: Any) -> tuple[StreamWatcher, ...]:
    found = tuple(value) if isinstance(value, (list, tuple)) else None if value else ()
    if found is None or not all(isinstance(one, StreamWatcher) for one in found):
        raise TypeError(
            f"watchers={value!r:.100} must be a list of Invoke's watchers, such as "
            "[Responder('Really?', 'yes\\n')]."
        )
    return found


def in_stream(value: Any) -> Any:
    """Return the file, None for the default, or False for none at all."""
    if value is None or value is False:
        return value
    if isinstance(value, (str, bytes)):
        # What is typed may be a secret.
        kind = type(value).__name__
        raise TypeError(f"in_stream= must be a file to read from, not {kind}: io.StringIO(text).")
    shown = f"in_stream={value!r:.100}"
    if not hasattr(value, "read"):
        raise TypeError(f"{shown} must be a file to read from, or None.")
    if getattr(value, "closed", False) is True:
        raise ValueError(f"{shown} is closed. Give it while it is open.")
    if isinstance(value, io.IOBase) and not value.readable():
        raise ValueError(f"{shown} can't be read. Open it for reading.")
    return value


def truth(name: str, value: object) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise TypeError(f"{name}={value!r:.100} must be True or False.")


def encoding(value: Any) -> str:
    encoding = "utf-8" if value is None else value
    if not isinstance(encoding, str):
        raise TypeError(f"encoding={encoding!r} must be the name of an encoding, such as 'utf-8'.")
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


def modules(value: Any) -> tuple[str, ...]:
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


def trust(value: Any) -> bool | tuple[type, ...]:
    if value is True:
        return True
    if value is None or value is False:
        return ()
    classes = tuple(value) if isinstance(value, Iterable) and not isinstance(value, type) else None
    if classes is None or not all(isinstance(cls, type) for cls in classes):
        raise TypeError(f"trust={value!r} must be True or a list of classes, such as [Version].")
    return classes
