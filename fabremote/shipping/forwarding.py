"""Answers what a function asks for as it runs: modules of its caller's, and their data files.

A host that was broken into may ask for anything. It gets sources only of
modules that may be sent (see `modules`) below the top-level names announced to
it, and files only of the folders of packages that were sent: none whose name
begins with a dot or that the option ``modules`` keeps, by whatever name or link,
no bytecode, none that a link leads out of the folder to, and of a package without
``__init__.py`` only if it is imported here.

The function waits for each answer, which goes in parts: at most `PART` bytes
are under way until it asks for more, so that an answer nobody reads takes no room
from other calls.
"""

from __future__ import annotations

import contextlib
import functools
import marshal
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fabremote.agent.bundle import MORE, PACKAGE, REQUEST, TOTAL
from fabremote.exceptions import ResultError
from fabremote.shipping.finding import find_spec
from fabremote.shipping.modules import Scope, stale, with_parents
from fabremote.shipping.sources import MARSHAL, Source, is_installed_file
from fabremote.upload import EXTRA_MODULES, agent_source

# The largest data file that is sent, in bytes.
LARGEST = 64 << 20
# The most bytes of an answer that are sent until the function asks for more.
PART = 1 << 20
# The most parts of a module's name or of a path.
DEEPEST = 64
# The most requests of a call.
REQUESTS = 100_000


@dataclass
class Memory:
    """What a lasting process has of its caller's, for the calls that follow.

    ``classes``: by number. ``sent``: modules. ``roots``: the names below which it
    may ask for others. ``files``: those that code came from.
    """

    classes: list[type] = field(default_factory=list)
    sent: dict[str, Source] = field(default_factory=dict)
    roots: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)


class Forwarder:
    """Answers the requests of one call.

    ``modules`` and ``files``: what was sent of the caller's, kept up to date.
    """

    def __init__(self, scope: Scope, files: set[str], memory: Memory | None = None) -> None:
        self._scope = scope
        self._roots = set(scope.roots()) if memory is None else memory.roots
        self._sent = dict(scope.bundle) if memory is None else memory.sent
        self.modules = set(self._sent)
        self.files = files
        self._requests = 0
        self._rest = memoryview(b"")

    def part(self, request: bytes) -> bytes:
        """Return the next part of the answer to a request, after how many bytes then remain."""
        if request != MORE or not self._rest:
            self._count()
            self._rest = memoryview(self.answer(request))
        part, self._rest = self._rest[:PART], self._rest[PART:]
        return TOTAL.pack(len(self._rest)) + part

    def _count(self) -> None:
        self._requests += 1
        if self._requests > REQUESTS:
            raise ResultError(
                f"the function asked for modules and data files more than {REQUESTS} times. "
                "Read what it needs here, and give it as an argument."
            )

    def answer(self, request: bytes) -> bytes:
        """Return the marshalled answer to a request; None in it says that there is nothing."""
        if len(request) > REQUEST or request.count(b".") + request.count(b"/") >= DEEPEST:
            return marshal.dumps(None, MARSHAL)
        words = request.decode("utf-8", "surrogateescape").split("\0")
        answers: dict[tuple[str, int], Callable[..., Any]] = {
            ("agent", 2): _agents,
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
        if name not in sys.modules and find_spec(name) is None:
            # Whatever looked further would remember each name that a host invents.
            return None
        modules = self._scope.modules
        if modules.source_of(name) is None:
            return self._refusal(name)
        closure = {n: s for n, s in modules.closure(name).items() if not self._is_kept(s.file)}
        found = {n: s for n, s in closure.items() if n not in self._sent}
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

    def _is_kept(self, file: str) -> bool:
        """Return whether the option keeps the module that a file, links followed, is of."""
        real = os.path.realpath(file).casefold()
        around = [place for place in self._ruled if f"{real}{os.sep}".startswith(place)]
        return bool(around) and not self._ruled[max(around, key=len)]

    @functools.cached_property
    def _ruled(self) -> dict[str, bool]:
        """Where the modules are that the option names, and whether it sends them."""
        found: dict[str, bool] = {}
        for name, sent in self._scope.modules.rules():
            spec = find_spec(name)
            folders = spec.submodule_search_locations if spec is not None else None
            file = spec.origin if spec is not None else None
            for place in folders if folders is not None else [file] if file else []:
                real = os.path.realpath(place).casefold() + os.sep
                found[real] = sent and found.get(real, True)
        return found

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
                # Not even the names of what is kept.
                if self._places(package, f"{path}/{entry.name}" if path else entry.name):
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
        places = [(folder, os.path.join(folder, *parts)) for folder in source.folders]
        return [place for folder, place in places if self._may_go(package, folder, place)]

    def _may_go(self, package: str, folder: str, place: str) -> bool:
        """Return whether a place in a package's folder, and what it links to, may be sent."""
        real, inside = os.path.realpath(place), os.path.realpath(folder)
        if (real != inside and not _is_below(real, inside)) or self._is_kept(real):
            return False
        names = [os.path.relpath(place, folder), os.path.relpath(real, inside)]
        paths = [[part for part in name.split(os.sep) if part != "."] for name in names]
        if any(part.casefold() == "__pycache__" for parts in paths for part in parts):
            return False
        return not any(self._scope.modules.keeps(package, parts) for parts in paths)


def _agents(name: str) -> str | None:
    """Return the source of a module of the agent's that isn't sent with every one."""
    return agent_source(name) if name in EXTRA_MODULES else None


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


def _has_data(source: Source) -> bool:
    return source.kind == PACKAGE or source.name in sys.modules


def _is_below(place: str, folder: str) -> bool:
    return place.startswith(folder + os.sep) and "/." not in place[len(folder) :]


__all__ = ["LARGEST", "PART", "Forwarder", "Memory"]
