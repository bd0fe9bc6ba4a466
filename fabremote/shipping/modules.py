"""Which modules the far side can import, and which go along with a call.

Standard and installed modules are imported there. An own one goes by reference,
its source beside the call, if all that it imports as it is loaded is standard
or own; otherwise, as for ``__main__``, a fabfile or a test, what a call uses of
it goes by value. The option ``modules`` sends others, or keeps some from going.
"""

from __future__ import annotations

import functools
import importlib.machinery
import marshal
import os
import sys
import threading
from collections.abc import Iterator, Set
from types import ModuleType

import cloudpickle

from fabremote.agent.bundle import MODULE
from fabremote.exceptions import ShippingError
from fabremote.shipping import source_syntax, sources
from fabremote.shipping.finding import find_spec
from fabremote.shipping.sources import (
    MARSHAL,
    Source,
    any_source,
    is_standard,
    origin,
    source_of,
    stamp_of,
)
from fabremote.shipping.this_side import is_sent
from fabremote.store import Blob, BlobList

# What imports modules by names that only the running code knows.
_DYNAMIC = frozenset(["importlib", "pkgutil", "runpy"])


class Modules:
    """What goes along under one value of the option ``modules``; see `Options`."""

    def __init__(self, given: tuple[str, ...]) -> None:
        self._rules = {name.lstrip("-"): not name.startswith("-") for name in given}
        self._reading = threading.RLock()
        self._closures: dict[tuple[str, bool], dict[str, Source]] = {}
        self._reasons: dict[str, tuple[dict[str, Source], str | None]] = {}
        self._folders: dict[str, tuple[tuple[int, int] | None, list[str]]] = {}

    def rule(self, name: str) -> bool | None:
        """Return whether the option sends (True) or keeps (False) a module; the nearest counts."""
        while self._rules and name:
            if name in self._rules:
                return self._rules[name]
            name = name.rpartition(".")[0]
        return None

    def keeps(self, package: str, parts: list[str]) -> bool:
        """Return whether the option keeps a file below a package: a module's, or in its folder."""
        stems = [part.partition(".")[0] for part in parts]
        within = [".".join([package, *stems[:depth]]) for depth in range(1, len(stems) + 1)]
        # Some file systems find a file by its name in any case.
        kept = {name.casefold() for name, sent in self.rules() if not sent}
        return any(self.rule(name) is False or name.casefold() in kept for name in within)

    def rules(self) -> list[tuple[str, bool]]:
        """Return the modules that the option names, and whether it sends each."""
        return list(self._rules.items())

    def source_of(self, name: str) -> Source | None:
        """Return the source of a module that may be sent, or None."""
        rule = self.rule(name)
        if rule is None:
            return source_of(name)
        return any_source(name) if rule else None

    def closure(self, name: str, at_load: bool = False) -> dict[str, Source]:
        """Return the modules that module ``name`` needs, itself and parents included.

        ``at_load``: only those imported as it is loaded.
        """
        with self._reading:  # once for all threads of a group
            known = self._closures.get((name, at_load))
            # What was reloaded, or changed in its file, is read again.
            if not known or not all(self.source_of(one) is known[one] for one in known):
                known = self._closures[name, at_load] = self._closure(name, at_load)
            return known

    def _closure(self, name: str, at_load: bool) -> dict[str, Source]:
        found: dict[str, Source] = {}
        queue = [name]
        for one in queue:
            for full in with_parents(one):
                source = None if full in found else self.source_of(full)
                if source is not None:
                    found[full] = source
                    queue.extend(source.imports.at_load if at_load else source.imports.anywhere)
        return found

    def by_reference(self, name: str) -> bool:
        """Return whether code of module ``name`` is imported there, not sent as data."""
        if cloudpickle.list_registry_pickle_by_value() and _is_registered(name):
            return False
        if is_sent(name):
            return False
        rule, kind = self.rule(name), origin(name)
        if rule is False or kind == "standard":
            return True
        if rule is True:
            return bool(self.closure(name))
        return kind == "installed" or (kind == "own" and self.why_by_value(name) is None)

    def why_by_value(self, name: str) -> str | None:
        """Return why own module ``name`` can't go by reference, or None if it can."""
        needed = self.closure(name, at_load=True)
        known = self._reasons.get(name)
        if known is None or known[0] is not needed:
            known = self._reasons[name] = needed, self._reason(name, needed)
        return known[1] or _drifted(needed)

    def _reason(self, name: str, needed: dict[str, Source]) -> str | None:
        hidden = _shadow(name)
        if hidden is not None:
            return hidden
        if name not in needed:
            return "its source isn't known"
        for source in needed.values():
            if source.stale:
                return f"{source.file} has changed since it was loaded here"
            for other in sorted(source.imports.at_load):
                if shadow := _shadow(other):
                    return f"{source.name} imports {other}, and {shadow}"
                if not (is_standard(other) or other in needed or self._is_there(other)):
                    return f"{source.name} imports {other}, which may not be there"
        return None

    def _is_there(self, name: str) -> bool:
        """Whether an import of ``name`` can be counted on there."""
        return self.rule(name) is False or self.source_of(name) is not None

    def chosen(self) -> dict[str, Source]:
        """Return all modules of what the option sends; raise ShippingError if one can't be."""
        found: dict[str, Source] = {}
        for name, sent in self._rules.items():
            if sent:
                found.update(self._whole(name))
        return found

    def _whole(self, name: str) -> dict[str, Source]:
        """Return a module with its parents and all its submodules."""
        found: dict[str, Source] = {}
        for full in (*with_parents(name)[:-1], *self._below(name)):
            source = any_source(full)
            if source is None:
                raise ShippingError(_unsendable(full))
            found[full] = source
        return found

    def _below(self, name: str) -> Iterator[str]:
        if self.rule(name) is False:
            return
        yield name
        source = any_source(name)
        for folder in source.folders if source is not None else ():
            for child in self._listed(folder):
                yield from self._below(f"{name}.{child}")

    def _listed(self, folder: str) -> list[str]:
        stamp = stamp_of(folder)
        known = self._folders.get(folder)
        if known is None or known[0] != stamp:
            known = self._folders[folder] = stamp, sorted(_names_in(folder, bare=False))
        return known[1]


@functools.lru_cache(maxsize=256)
def modules_of(given: tuple[str, ...]) -> Modules:
    """Return the one `Modules` for a value of the option."""
    return Modules(given)


_NONE: frozenset[str] = frozenset()


class Scope:
    """The modules of one payload: what it refers to, and what goes along to a ``version``.

    ``bundle``: the sources that go along. ``dynamic``: whether it may import
    modules by names that only it knows.
    """

    def __init__(
        self, modules: Modules, version: tuple[int, int], by_value: Set[str] = frozenset()
    ) -> None:
        self.modules = modules
        self._by_value = by_value
        self.version = version
        self.bundle: dict[str, Source] = modules.chosen() if modules._rules else {}
        self.dynamic = False
        self._by_reference: dict[str, bool] = {}
        self._met: set[str] = set()

    def by_reference(self, name: str) -> bool:
        """Return whether code of module ``name`` is imported there, not sent as data."""
        known = self._by_reference.get(name)
        if known is None:
            known = self.modules.by_reference(name) and self._is_read(name)
            self._by_reference[name] = known
        return known

    def _is_read(self, name: str) -> bool:
        """Whether the far side can load an own module, and those that it imports."""
        newer = self.version >= sys.version_info[:2]
        if (newer and not self._by_value) or is_standard(name):
            return True
        needed = self.modules.closure(name, at_load=True)
        if not self._by_value.isdisjoint(needed):
            return False
        return newer or all(
            source_syntax.reads(each.text, self.version) for each in needed.values()
        )

    def is_named(self, name: str) -> bool:
        """Return whether code of an installed module is only named, not sent by the option."""
        return self.by_reference(name) and self.modules.rule(name) is not True

    def is_importable(self, module: ModuleType) -> bool:
        """Return whether a module object can go as its name."""
        return sys.modules.get(module.__name__) is module and self.by_reference(module.__name__)

    def need(self, name: str) -> None:
        """Have what module ``name`` needs go along."""
        if name in self._met:
            return
        self._met.add(name)
        if name.partition(".")[0] in _DYNAMIC:
            self.dynamic = True
        elif (hidden := _shadow(name)) and self.modules.rule(name) is None:
            raise ShippingError(
                f"The module {name} can't be imported there: {hidden}. Rename it, or import it at "
                "the top of the function's file, so that what is used of it goes by value."
            )
        elif not is_standard(name):
            self.bundle.update(self.modules.closure(name))

    def package(self, name: str) -> bool:
        """Have a package that goes by value be one there, too; return whether it is one.

        Its submodules and data files are then asked for.
        """
        source = self.modules.source_of(name) if origin(name) == "own" else None
        if source is None or source.kind == MODULE or source.stale:
            return False
        self.bundle[name] = source
        return True

    def listed(self) -> BlobList | None:
        """Return the blobs of what goes along: the names that may be asked for, and modules.

        Raises ShippingError if a file isn't any more what was loaded from it.
        """
        for source in self.bundle.values():
            if source.stale:
                raise ShippingError(stale(source))
            if not self.dynamic:
                dynamic = "__import__" in source.text or source.imports.anywhere & _DYNAMIC
                self.dynamic = bool(dynamic)
        roots = self.roots()
        if not roots:
            return None
        blobs = (self.bundle[name].blob for name in sorted(self.bundle))
        return BlobList.of([_roots_blob(roots), *blobs])

    def roots(self) -> frozenset[str]:
        """Return the top-level names that the far side may ask for."""
        if not self.bundle and not self.dynamic:
            return _NONE
        found = {name.partition(".")[0] for name in self.bundle}
        if self.dynamic:
            names = own_names()
            found.update(name for name in names if self.modules.rule(name) is not False)
        return frozenset(found)


@functools.lru_cache(maxsize=256)
def _roots_blob(roots: frozenset[str]) -> Blob:
    return Blob(marshal.dumps(sorted(roots), MARSHAL))


def stale(source: Source) -> str:
    """Return the message for a file that isn't what was loaded from it."""
    return (
        f"The module {source.name} can't be sent: {source.file} has changed since it was loaded "
        f"here, and what runs there must be what is loaded here. Reload it, as by "
        f"importlib.reload({source.name}), or start again."
    )


def _unsendable(name: str) -> str:
    spec = find_spec(name)
    if spec is None:
        return f"modules={[name]!r}: there is no module {name} here. Install it here, too."
    if isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
        return (
            f"modules= can't send {name}: it is a compiled extension ({spec.origin}). Install it "
            f"there, as by requires=[...]; or leave it out by '-{name}' where its package can do "
            "without it."
        )
    return f"modules= can't send {name}: its source isn't known ({spec.origin})."


def with_parents(name: str) -> list[str]:
    """Return the packages around a module, outermost first, and itself."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _shadow(name: str) -> str | None:
    """Return what hides the standard library's module ``name`` here, or None."""
    file = sources.shadowing(name.partition(".")[0])
    return f"{file} has the name of a standard module, which is what is there" if file else None


def _drifted(needed: dict[str, Source]) -> str | None:
    """Return what was changed in a module here, so that its source doesn't make it any more."""
    for source in needed.values():
        name = source.changed()
        if name is not None:
            return f"{source.name}.{name} was changed here since {source.name} was loaded"
    return None


def _is_registered(name: str) -> bool:
    """Whether cloudpickle was told to send this module, or a package around it, by value."""
    registered = cloudpickle.list_registry_pickle_by_value()
    return any(name == one or name.startswith(one + ".") for one in registered)


# Folders


def own_names() -> set[str]:
    """Return the top-level names of own modules: those loaded, and those that ``sys.path`` has."""
    found = {name for name in list(sys.modules) if "." not in name and origin(name) == "own"}
    for entry in sys.path:
        folder = os.path.abspath(entry or ".")
        if not sources.is_installed_file(folder):
            found |= _names_of(folder, stamp_of(folder))
    return {name for name in found if not is_standard(name)}


@functools.lru_cache(maxsize=64)
def _names_of(folder: str, stamp: tuple[int, int] | None) -> frozenset[str]:
    return frozenset(_names_in(folder, bare=True)) if stamp is not None else frozenset()


def _names_in(folder: str, bare: bool) -> Iterator[str]:
    """Yield the names of the modules in a folder; ``bare``: only those with source."""
    suffixes = [".py"] if bare else [".py", *importlib.machinery.EXTENSION_SUFFIXES]
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        name = entry.name
        if name.isidentifier() and entry.is_dir():
            if name != "__pycache__" and any(
                each.endswith(".py") for each in _listing(entry.path)
            ):
                yield name
        elif suffix := next((each for each in suffixes if name.endswith(each)), ""):
            stem = name[: -len(suffix)].partition(".")[0]
            if stem.isidentifier() and stem not in ("__init__", "__main__"):
                yield stem


def _listing(folder: str) -> list[str]:
    """Return the names in a folder, none if it may not be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


__all__ = ["MODULE", "Modules", "Scope", "modules_of", "own_names"]
