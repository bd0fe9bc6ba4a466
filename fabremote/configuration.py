"""The ``remotely`` subtree of Fabric's configuration: its defaults, and what is in force."""

from __future__ import annotations

import difflib
import fnmatch
import os
import threading
from collections.abc import Mapping
from typing import Any

from invoke.config import copy_dict, merge_dicts

# The defaults of fabremote's own subtree of Fabric's configuration.
REMOTELY_DEFAULTS: dict[str, Any] = {
    "python": None,
    "py_options": "",
    "modules": [],
    "trust": [],
    "max_result": 1 << 30,
    "start_timeout": 30.0,
    "requires": None,
    "wheels": None,
    "cache_dir": None,
    "build_timeout": 1800.0,
    # Whether calls run under sudo, or the user whom they run as by it.
    "sudo": None,
    # Seconds between signs of life, both ways; after three without one, the link is given up.
    "heartbeat": 15.0,
    # None is False; a text of the environment would else be true unless it is 0.
    "compress": None,
    "logging": None,
    "progress": None,
    # Whether connections made with Fabric verify host keys, too; None keeps Fabric's way.
    "verify_host_keys": None,
    # Of groups: hosts worked on at once, labels before their lines, a live view; see `group`.
    "max_workers": None,
    "labels": None,
    "live": None,
    # Any of the above by host: {"web*": {"python": "/opt/venv/bin/python"}}.
    "hosts": {},
}


_settling = threading.Lock()


def remotely(context: Any) -> dict[str, Any]:
    """Return the ``remotely`` settings in force for a context, those of its host included.

    Raises ValueError for a key that isn't one.
    """
    config = context.config
    if "_fabremote_settled" not in vars(config):
        # Merging empties a configuration for a moment, which others may share.
        with _settling:
            if "_fabremote_settled" not in vars(config):
                _settle(config)
    found: dict[str, Any] = dict(config.get("remotely"))
    _check_keys(found, "remotely")
    host = getattr(context, "original_host", "localhost")
    for pattern, settings in found["hosts"].items():
        _check_keys(settings, f"remotely.hosts.{pattern}")
        if fnmatch.fnmatchcase(host, pattern):
            found.update(settings)
    for name in ("compress", "labels", "live", "logging", "progress", "verify_host_keys"):
        found[name] = found[name] if callable(found[name]) else _truth(name, found[name])
    found["sudo"] = _sudo(found["sudo"])
    return found


def _settle(config: Any) -> None:
    """Give a configuration that Fabric or Invoke made our defaults and our environment's values.

    Both match variables of the environment, such as FABRIC_REMOTELY_PYTHON, against
    existing keys only, and a plain script's ``Connection("web1")`` against none. Where a
    file has true or false, any text but 0 is true to them: "no", and a user's name.
    """
    for name in config:
        if name != "remotely" and isinstance(config.get(name), Mapping) and _means(name):
            raise ValueError(f"The configuration has a table {name!r}. Did you mean 'remotely'?")
    check_tables(config)
    if not REMOTELY_DEFAULTS.keys() <= (config.get("remotely") or {}).keys():
        defaults = vars(config).get("_defaults") or type(config).global_defaults()
        config.load_defaults({**defaults, "remotely": dict(REMOTELY_DEFAULTS)})
    ours = _from_environment(
        f"{config.env_prefix or config.prefix}_REMOTELY_", config.get("remotely")
    )
    if ours:
        level = copy_dict(vars(config).get("_env") or {})
        config._set(_env=merge_dicts(level, {"remotely": ours}))
        config.merge()
    config._set(_fabremote_settled=True)


def _from_environment(prefix: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of our tree that variables give; ``known`` is what there is of it."""
    prefix = prefix.upper()
    ours: dict[str, Any] = {}
    for name, text in os.environ.items():
        if name.startswith(prefix):
            *tables, key = _path(name, name.removeprefix(prefix), known)
            table = ours
            for each in tables:
                table = table.setdefault(each, {})
            table[key] = _read(name, key, text)
    return ours


def _means(name: object) -> bool:
    """Whether a table's name is a misspelt ``remotely``; ``remote`` is no such."""
    return isinstance(name, str) and bool(
        difflib.get_close_matches(name.lower(), ["remotely"], 1, 0.87)
    )


_LEVELS = ("defaults", "collection", "system", "user", "project", "env", "runtime", "overrides")


def check_tables(config: Any) -> None:
    """Raise ValueError for a value where a table must be, before Invoke finds it ambiguous.

    One that is left empty, which YAML reads as None, is the same as none.
    """
    for level in _LEVELS:
        data = vars(config).get(f"_{level}")
        ours = data.get("remotely", {}) if isinstance(data, Mapping) else {}
        for where, table in (("remotely", ours), ("remotely.hosts", _hosts(ours))):
            if table is not None and not isinstance(table, Mapping):
                raise ValueError(f"The configuration has {where}: {table!r}; it must be a table.")
        if ours is None:
            config._set(**{f"_{level}": {k: v for k, v in data.items() if k != "remotely"}})
        elif _hosts(ours) is None:
            config._set(**{f"_{level}": {**data, "remotely": {**ours, "hosts": {}}}})


def _hosts(ours: Any) -> Any:
    return ours.get("hosts", {}) if isinstance(ours, Mapping) else {}


# What a variable's text can't be.
_TABLES = ("modules", "trust", "hosts")


def _path(name: str, key: str, settings: Mapping[str, Any]) -> list[str]:
    """Return where in our tree a variable's value goes; raise ValueError if nowhere."""
    paths = {word.upper(): [word] for word in REMOTELY_DEFAULTS if word not in _TABLES}
    for pattern, table in settings["hosts"].items():
        for word in table or ():
            paths[f"hosts_{pattern}_{word}".upper()] = ["hosts", pattern, word]
    if key in paths:
        return paths[key]
    if key.lower() in REMOTELY_DEFAULTS:
        raise ValueError(f"{name}: remotely.{key.lower()} can't be a variable. Use a file.")
    start = name.removesuffix(key)
    close = difflib.get_close_matches(key, paths, 1)
    hint = f"Did you mean {start}{close[0]}?" if close else ""
    hint = hint or f"There are {', '.join(start + word for word in paths)}."
    raise ValueError(f"{name} is set in the environment, but no setting of ours. {hint}")


def _read(name: str, key: str, text: str) -> Any:
    """Return what a variable's text says for a setting; raise ValueError if it can't."""
    default = REMOTELY_DEFAULTS.get(key)
    if not isinstance(default, (int, float)):
        return text
    try:
        return type(default)(text)
    except ValueError:
        what = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"{name}={text!r} must be {what}.") from None


_TRUTHS = {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False, "": None}


def _truth(name: str, value: Any, other: str = "true or false") -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if str(value).lower() not in _TRUTHS:
        raise ValueError(f"The configuration's remotely.{name}={value!r} must be {other}.")
    return _TRUTHS[str(value).lower()]


# Meant as true or false, as YAML has them, but nobody's names.
_NOBODY = ("on", "off", "y", "n", "none", "null")


def _sudo(value: Any) -> bool | str | None:
    """Return whether sudo is wanted, or for whom."""
    if isinstance(value, str) and value.lower() not in (*_TRUTHS, *_NOBODY):
        return value
    return _truth("sudo", value, "true, false or a user's name")


def _check_keys(settings: Any, where: str) -> None:
    if not isinstance(settings, Mapping):
        raise ValueError(f"The configuration has {where}: {settings!r}; it must be a table.")
    for name in settings:
        if name not in REMOTELY_DEFAULTS:
            close = difflib.get_close_matches(name, REMOTELY_DEFAULTS, 1)
            known = ", ".join(REMOTELY_DEFAULTS)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are {known}."
            raise ValueError(f"The configuration has {where}.{name}, no setting of ours. {hint}")


__all__ = ["REMOTELY_DEFAULTS", "check_tables", "remotely"]
