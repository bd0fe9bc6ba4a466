"""Answers what a function asks for as it runs: modules of its caller's, and their data files.

A host that was broken into may ask for anything. It gets sources only of
modules that may be sent (see `modules`) below the top-level names announced to
it, and files only of the folders of packages that were sent: none whose name
begins with a dot or that the option ``modules`` keeps, none that a link leads
out of the folder to, and of a package without ``__init__.py`` only if it is imported here.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import sys
from collections.abc import Callable
from typing import Any

from fabremote.agent.bundle import PACKAGE
from fabremote.shipping.modules import Scope, stale, with_parents
from fabremote.shipping.sources import MARSHAL, Source, find_spec, is_installed_file

# The largest data file that is sent, in bytes.
LARGEST = 64 << 20


class Forwarder:
    """Answers the requests of one call.

    ``modules`` and ``files``: what was sent of the caller's, kept up to date.
    """

    def __init__(self, scope: Scope, files: set[str]) -> None:
        self._scope = scope
        self._roots = set(scope.roots())
        self._sent = dict(scope.bundle)
        self.modules = set(self._sent)
        self.files = files

    def answer(self, request: bytes) -> bytes:
        """Return the marshalled answer to a request; None in it says that there is nothing."""
        words = request.decode("utf-8", "surrogateescape").split("\0")
        answers: dict[tuple[str, int], Callable[..., Any]] = {
            ("module", 2): self._module,
            ("data", 3): self._data,
            ("list", 3): self._list,
        }
        respond = answers.get((words[0], len(words)))
        found = respond(*words[1:]) if respond is not None else None
        return marshal.dumps(found, MARSHAL)

    # Modules

    def _module(self, name: str) -> Any:
        """Return the entries of a module and of what it needs, or why it can't be sent."""
        if not all(map(str.isidentifier, name.split("."))) or not self._announced(name):
            return None
        modules = self._scope.modules
        if modules.source_of(name) is None:
            return self._refusal(name)
        found = {n: s for n, s in modules.closure(name).items() if n not in self._sent}
        for source in found.values():
            if source.stale:
                return stale(source)
        self._sent.update(found)
        self.modules.update(found)
        self.files.update(source.file for source in found.values())
        self._roots.update(each.partition(".")[0] for each in found)
        return [source.entry for source in found.values()]

    def _announced(self, name: str) -> bool:
        return name.partition(".")[0] in self._roots

    def _refusal(self, name: str) -> str | None:
        """Return why own module ``name`` isn't sent, or None if there is no such module."""
        if self._scope.modules.rule(name) is False:
            return None
        parents = with_parents(name)[:-1]
        if parents and any(self._scope.modules.source_of(each) is None for each in parents):
            return None
        spec = find_spec(name)
        origin = spec.origin if spec is not None else None
        if origin is None or is_installed_file(origin) or not self._is_own(origin):
            return None
        return (
            f"{name} isn't sent: only Python source is, and it is {os.path.basename(origin)}. "
            "Install it on the host."
        )

    def _is_own(self, file: str) -> bool:
        folders = [folder for source in self._sent.values() for folder in source.folders]
        return any(file.startswith(folder + os.sep) for folder in folders)

    # Data files

    def _data(self, package: str, path: str) -> bytes | None:
        """Return the bytes of a data file below a package that was sent."""
        for place in self._places(package, path):
            with contextlib.suppress(OSError):
                if os.path.isfile(place) and os.path.getsize(place) <= LARGEST:
                    with open(place, "rb") as stream:
                        return stream.read()
        return None

    def _list(self, package: str, path: str) -> list[tuple[str, bool, bool]] | None:
        """Return the (name, is a folder, is a package) of what is in a package's folder."""
        found: dict[str, tuple[str, bool, bool]] = {}
        folders = [place for place in self._places(package, path) if os.path.isdir(place)]
        for folder in folders:
            for entry in _entries(folder):
                if not entry.name.startswith(".") and entry.name != "__pycache__":
                    is_package = os.path.isfile(os.path.join(entry.path, "__init__.py"))
                    found.setdefault(entry.name, (entry.name, entry.is_dir(), is_package))
        return sorted(found.values()) if folders else None

    def _places(self, package: str, path: str) -> list[str]:
        """Return where a package's file may be; none if it may not be sent."""
        source = self._sent.get(package)
        parts = path.split("/") if path else []
        if source is None or not _has_data(source):
            return []
        if any(not part or part.startswith(".") or "\0" in part for part in parts):
            return []
        if self._scope.modules.keeps(package, parts):
            return []
        found = []
        for folder in source.folders:
            place = os.path.join(folder, *parts)
            inside = os.path.realpath(folder)
            if os.path.realpath(place) == inside or _is_below(os.path.realpath(place), inside):
                found.append(place)
        return found


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


def _has_data(source: Source) -> bool:
    return source.kind == PACKAGE or source.name in sys.modules


def _is_below(place: str, folder: str) -> bool:
    return place.startswith(folder + os.sep) and "/." not in place[len(folder) :]


__all__ = ["LARGEST", "Forwarder"]
