"""Where modules come from, and the sources of the user's own.

A module is *standard* (in every Python), *installed* (below a site-packages
folder) or *own*: the user's code. Sources are those of what is loaded here: the
source of a loaded module is read once, and again when the module is reloaded;
that of one that isn't loaded is read again when its file has changed.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import importlib.util
import marshal
import os
import site
import sys
import sysconfig
import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from fabremote.agent.bundle import MIXED, MODULE, NAMESPACE, PACKAGE
from fabremote.shipping.drift import Drift, codes_in, expected, functions_of
from fabremote.shipping.finding import find_spec
from fabremote.shipping.source_files import quiet
from fabremote.shipping.this_side import is_library
from fabremote.store import Blob

# Names that tell installed code wherever its folder is.
_SITE_NAMES = ("site-packages", "dist-packages")
# The format of marshal that every Python from 2.5 up reads.
MARSHAL = 2
# A file older than this hasn't changed since its module was loaded, in nanoseconds.
_STARTED = time.time_ns()


@dataclass(frozen=True, eq=False)
class Source:
    """A module's source: what is sent of it.

    ``kind``: a number of `fabremote.agent.bundle`. ``folders``: where a package's files are.
    ``stale``: whether the file has changed since the module was loaded from it. ``module``: the
    one that was.
    """

    name: str
    text: str
    file: str
    kind: int
    folders: tuple[str, ...] = ()
    stale: bool = False
    module: ModuleType | None = None

    @functools.cached_property
    def blob(self) -> Blob:
        """The source as the agent keeps it."""
        return Blob(marshal.dumps(self.entry, MARSHAL))

    @property
    def entry(self) -> tuple[str, str, str, int]:
        """What ``agent.bundle.take`` takes in."""
        return self.name, self.text, self.file, self.kind

    @property
    def imports(self) -> Imports:
        """What it imports."""
        return self._parsed[0]

    @functools.cached_property
    def _parsed(self) -> tuple[Imports, Drift | None]:
        try:
            with quiet():
                tree = ast.parse(self.text)
        except (SyntaxError, ValueError):
            return Imports(frozenset(), frozenset()), None
        drift = None
        if type(self.module) is ModuleType and not is_installed(self):
            drift = Drift(self.module, self.text, expected(tree, self.text))
        return _imports(self, tree), drift

    def changed(self) -> str | None:
        """Return a name that was changed in the module since it was loaded, or None."""
        drift = self._parsed[1]
        return drift.changed() if drift is not None else None


@dataclass(frozen=True)
class Imports:
    """What a module's source imports: as it is loaded, and anywhere."""

    at_load: frozenset[str]
    anywhere: frozenset[str]


# Origins


@functools.cache
def _foreign_folders() -> tuple[str, ...]:
    names = ("purelib", "platlib", "stdlib", "platstdlib")
    folders = {sysconfig.get_path(name) for name in names}
    folders.update(site.getsitepackages())
    folders.add(site.getusersitepackages())
    return tuple(os.path.realpath(folder) + os.sep for folder in folders if folder)


def is_standard(name: str) -> bool:
    """Return whether the module is part of Python's standard library."""
    top = name.partition(".")[0]
    return top in sys.stdlib_module_names and name != "__main__" and shadowing(top) is None


def shadowing(top: str) -> str | None:
    """Return the file of a loaded module of the user's own that has a standard one's name."""
    module = sys.modules.get(top)
    if module is None or top not in sys.stdlib_module_names:
        return None
    file = getattr(module, "__file__", None)
    known = _shadowing.get(top)
    if known is None or known[0] is not module or known[1] is not file:
        own = isinstance(file, str) and os.path.exists(file) and not is_installed_file(file)
        known = _shadowing[top] = module, file, file if own else None
    return known[2]


_shadowing: dict[str, tuple[ModuleType, Any, str | None]] = {}


@functools.cache
def is_installed_file(file: str) -> bool:
    """Return whether a file or folder is Python's or below a site-packages folder."""
    parts = os.path.normpath(file).split(os.sep)
    if any(name in parts for name in _SITE_NAMES):
        return True
    return (os.path.realpath(file) + os.sep).startswith(_foreign_folders())


def origin(name: str) -> str:
    """Return "standard", "installed", "own", or "unknown" for a module of this process."""
    if is_standard(name):
        return "standard"
    if is_library(name):
        return "installed"
    module = sys.modules.get(name)
    if module is None or name == "__main__":
        return "unknown"
    spec = getattr(module, "__spec__", None)
    known = _origins.get(name)
    if known is None or known[0] is not module or known[1] is not spec:
        known = _origins[name] = module, spec, _origin(module, spec)
    return known[2]


_origins: dict[str, tuple[ModuleType, Any, str]] = {}


def _origin(module: ModuleType, spec: Any) -> str:
    file = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    if file is None or not os.path.exists(file):
        portions = [*getattr(module, "__path__", ())]
        if file is None and portions:
            return "installed" if all(map(is_installed_file, portions)) else "own"
        if spec is not None and file is not None and _text_of(spec) is not None:
            return "installed" if is_installed_file(file) else "own"
        # Neither a file nor a way to import it: made by hand, as by exec.
        return "unknown" if spec is None else "installed"
    return "installed" if is_installed_file(file) else "own"


# Sources


@dataclass(frozen=True)
class _Known:
    """A source, and what it is the source of: a loaded module, or a file as it was."""

    source: Source | None
    module: ModuleType | None
    spec: Any
    stamp: tuple[int, int] | None

    def holds(self, module: ModuleType | None) -> bool:
        if module is not None or self.module is not None:
            # A reload gives a module another spec.
            return module is self.module and getattr(module, "__spec__", None) is self.spec
        return self.source is not None and stamp_of(self.source.file) == self.stamp


_sources: dict[str, _Known] = {}


def any_source(name: str) -> Source | None:
    """Return the source of a module, installed or own, or None if it has none.

    Nothing is imported for it.
    """
    if is_standard(name) or name == "__main__":
        return None
    module = sys.modules.get(name)
    known = _sources.get(name)
    if known is None or not known.holds(module):
        spec = getattr(module, "__spec__", None) if module is not None else find_spec(name)
        source = _read(name, spec, module) if spec is not None else None
        stamp = stamp_of(source.file) if source is not None and module is None else None
        known = _Known(source, module, spec, stamp)
        if spec is not None:
            _sources[name] = known
    return known.source


def source_of(name: str) -> Source | None:
    """Return the source of own module ``name``, or None if it is not own or has none."""
    if name in sys.modules and origin(name) == "installed":
        return None
    if shadowing(name.partition(".")[0]) is not None:
        return None
    source = any_source(name)
    return None if source is None or is_installed(source) else source


def is_installed(source: Source) -> bool:
    """Return whether a source is not the user's own."""
    if is_library(source.name):
        return True
    if source.kind == NAMESPACE:
        return all(map(is_installed_file, source.folders))
    return source.kind != MIXED and is_installed_file(source.file)


def stamp_of(file: str) -> tuple[int, int] | None:
    """Return what changes when a file does, or None if there is no file."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _read(name: str, spec: Any, module: ModuleType | None) -> Source | None:
    portions = spec.submodule_search_locations
    folders = tuple(portions) if portions is not None else ()
    if portions is not None and (spec.origin is None or spec.loader is None):
        if not folders:
            return None
        installed = {is_installed_file(folder) for folder in folders}
        return Source(name, "", folders[0], MIXED if len(installed) > 1 else NAMESPACE, folders)
    kind = MODULE if portions is None else PACKAGE
    if spec.origin is None:
        return None
    if not spec.origin.endswith(".py") or not os.path.exists(spec.origin):
        text = _text_of(spec)
        return (
            None if text is None else Source(name, text, spec.origin, kind, folders, module=module)
        )
    try:
        with open(spec.origin, "rb") as stream:
            text = importlib.util.decode_source(stream.read())
    except (OSError, SyntaxError, UnicodeDecodeError):
        # Not readable, or not in the encoding that it says: as if there were no source.
        return None
    stale = module is not None and _has_changed(module, spec, text)
    return Source(name, text, spec.origin, kind, folders, stale, module)


def _text_of(spec: Any) -> str | None:
    """Return a source that only its loader can read, such as in a zip file."""
    if isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
        return None
    try:
        text = spec.loader.get_source(spec.name)
    except (AttributeError, ImportError, OSError):
        return None
    return text if isinstance(text, str) else None


# Files that changed after they were loaded


def _has_changed(module: ModuleType, spec: Any, text: str) -> bool:
    """Return whether a module's file has changed since it was loaded, as far as can be told.

    Bytecode that was written as it was loaded says of which file; and the module's
    functions must be what the file's text compiles to.
    """
    stat = os.stat(spec.origin)
    if stat.st_mtime_ns < _STARTED:
        return False
    if not sys.dont_write_bytecode and not _bytecode_matches(spec, stat):
        return True
    try:
        with quiet():
            compiled = set(codes_in(compile(text, spec.origin, "exec", dont_inherit=True)))
    except (SyntaxError, ValueError):
        return True
    # A reload leaves those that the file doesn't have any more.
    names = {code.co_name for code in compiled}
    live = [fn.__code__ for fn in functions_of(module) if fn.__module__ == module.__name__]
    own = [code for code in live if code.co_filename == spec.origin and code.co_name in names]
    return any(code not in compiled for code in own)


def _bytecode_matches(spec: Any, stat: os.stat_result) -> bool:
    """Return whether a module's bytecode is of its file, if there is any that we wrote."""
    try:
        with open(spec.cached, "rb") as stream:
            head = stream.read(16)
    except (OSError, TypeError):
        return True
    if not os.access(spec.cached, os.W_OK) or head[4:8] != bytes(4):
        return True
    seconds, size = int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF
    return head[8:] == seconds.to_bytes(4, "little") + size.to_bytes(4, "little")


# Imports


def is_module(name: str) -> bool:
    """Return whether ``name`` is a module, as far as is known without importing it."""
    if name in sys.modules:
        return True
    return not is_standard(name) and find_spec(name) is not None


def _imports(source: Source, tree: ast.Module) -> Imports:
    package = source.name if source.kind != MODULE else source.name.rpartition(".")[0]
    at_load: set[str] = set()
    anywhere: set[str] = set()
    queue: list[tuple[ast.AST, bool]] = [(tree, True)]
    for node, loading in queue:
        found = imported_names(node, package)
        anywhere.update(found)
        if loading:
            at_load.update(found)
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        below = loading and not inside and not _is_guard(node)
        queue.extend((child, below) for child in _statements(node))
    return Imports(frozenset(at_load), frozenset(anywhere))


def _statements(node: ast.AST) -> list[ast.AST]:
    """Return the statements in a statement, and its handlers and cases."""
    fields = ("body", "orelse", "finalbody", "handlers", "cases")
    return [child for field in fields for child in getattr(node, field, ())]


def _is_guard(node: ast.AST) -> bool:
    """Whether what is below may fail or not run as the module is loaded."""
    if isinstance(node, ast.Try):
        return any(
            "Import" in ast.unparse(handler.type) or "ModuleNotFound" in ast.unparse(handler.type)
            for handler in node.handlers
            if handler.type is not None
        )
    return isinstance(node, ast.If) and (
        "TYPE_CHECKING" in ast.unparse(node.test) or "__name__" in ast.unparse(node.test)
    )


def imported_names(node: ast.AST, package: str) -> list[str]:
    """Return the full names of the modules that an import statement may import."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        names = [alias.name for alias in node.names]
        return from_import(package, node.module or "", node.level, names)
    return []


def from_import(package: str, module: str, level: int, names: list[str]) -> list[str]:
    """Return what ``from <module> import <names>`` may import, inside ``package``."""
    if level:
        parts = package.split(".")
        base = ".".join(parts[: len(parts) - level + 1])
        module = f"{base}.{module}" if module else base
    submodules = [f"{module}.{name}" for name in names if name != "*"]
    return [module, *(name for name in submodules if is_module(name))]
