"""The arguments that say how to connect to a host name: checked, and made into ssh_options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from fabremote.ssh_options import SSHSettings, parse
from fabremote.ssh_target import Target, parse_target


class Way(NamedTuple):
    """How to connect: the name alone, ssh_options, the login's arguments, and Fabric's."""

    host: str
    options: dict[str, Any]
    login: dict[str, Any]
    place: dict[str, Any]


def read(hostname: str, settings: Mapping[str, Any]) -> Way:
    """Return how ``settings``, the arguments of `open_connection`, say to connect.

    Raises ValueError or TypeError for what means nothing, can't be honoured, or
    contradicts another.
    """
    target = parse_target(hostname)
    given = settings.get("ssh_options")
    found = parse({} if given is None else given)
    options: dict[str, Any] = dict(given or {})
    lower = {name.lower() for name in options}
    compression = _flag("compression", settings.get("compression"))
    quiet = _flag("quiet", settings.get("quiet"))
    if compression and "compression" not in lower:
        options["Compression"] = True
    elif compression and not found.compress:
        raise _contradiction("compression=True", "Compression=no in ssh_options")
    if quiet and "loglevel" not in lower:
        options["LogLevel"] = "QUIET"
    place = {
        "user": _agreed("user", target, _user(settings.get("user")), found.user),
        "port": _agreed("port", target, check_port(settings.get("port")), found.port),
    }
    place = {name: value for name, value in place.items() if value is not None}
    return Way(target.host, options, _login(settings, found), place)


def _agreed(name: str, target: Target, argument: Any, option: Any) -> Any:
    """Return the one value that is given for the user or port, at one or more places."""
    places = {
        f"hostname={target.given!r}": getattr(target, name),
        f"{name}={argument!r}": argument,
        f"{name.title()}={option} in ssh_options": option,
    }
    said = {place: value for place, value in places.items() if value is not None}
    if len(set(said.values())) > 1:
        raise _contradiction(*said)
    return next(iter(said.values()), None)


def _contradiction(*places: str) -> ValueError:
    return ValueError(f"{' and '.join(places)} contradict each other: give one.")


def _login(settings: Mapping[str, Any], found: SSHSettings) -> dict[str, Any]:
    login: dict[str, Any] = {}
    key, password = settings.get("key"), settings.get("password")
    if key is not None:
        login["key_filename"] = file = find_key(key)
        named = found.identity_files
        if named is not None and [os.path.expanduser(one) for one in named] != [file]:
            raise _contradiction(
                f"key={key!r}", f"IdentityFile={' '.join(named) or 'none'} in ssh_options"
            )
    if password is not None:
        if not isinstance(password, str):
            raise TypeError(f"password= must be a str, not {type(password).__name__}.")
        login.update(password=password, passphrase=password)
    return login


def _flag(name: str, value: object) -> bool:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be True or False.")
    return bool(value)


def _user(user: object) -> str | None:
    if user is not None and (not isinstance(user, str) or not user.strip()):
        raise (ValueError if user == "" else TypeError)(f"user={user!r} must be a name, as str.")
    return user


def check_port(port: object) -> int | None:
    """Return ``port``, or raise ValueError unless it can be one."""
    if port is None:
        return None
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise ValueError(f"port={port!r} must be a number from 1 to 65535.")
    return port


def find_key(key: str | os.PathLike[str]) -> str:
    """Return the private key's file: as given, or else in ~/.ssh."""
    if not isinstance(key, (str, os.PathLike)) or not isinstance(os.fspath(key), str):
        raise TypeError(
            f"key={key!r:.100} must be the name of one file. For several give "
            "ssh_options={'IdentityFile': [...]}."
        )
    given = os.path.expanduser(os.fspath(key))
    tried = list(dict.fromkeys([given, os.path.join(os.path.expanduser("~/.ssh"), given)]))
    for path in tried:
        if os.path.isfile(path):
            return path
    folders = [path for path in tried if os.path.isdir(path)]
    why = f"{folders[0]} is a folder" if folders else f"there is no file {' or '.join(tried)}"
    raise ValueError(f"key={os.fspath(key)!r}: {why}. Name a private key's file.")


__all__ = ["Way", "check_port", "find_key", "read"]
