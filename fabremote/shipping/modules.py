"""Which modules the far side can import, and which of the user's own go along.

A module is *standard* (in every Python), *installed* (below a site-packages
folder) or *own*: the user's code. Standard and installed ones are imported
there. An own one goes by reference, its source bundled with the call, if all
that it imports as it is loaded is standard or own; otherwise, as for
``__main__``, a fabfile or a test, what a call uses of it goes by value.
"""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import importlib.util
import os
import site
import sys
import sysconfig
from dataclasses import dataclass
from types import ModuleType

import cloudpickle

# Names that tell installed code wherever its folder is.
_SITE_NAMES = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Source:
    """An own module's source: what the bundle sends of it."""

    name: str
    text: str
    file: str
    is_package: bool


@dataclass(frozen=True)
class Imports:
    """What a module's source imports: as it is loaded, and anywhere."""

    at_load: frozenset[str]
    anywhere: frozenset[str]


@functools.cache
def _site_folders() -> tuple[str, ...]:
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    folders.update(site.getsitepackages())
    folders.add(site.getusersitepackages())
    return tuple(os.path.realpath(folder) + os.sep for folder in folders if folder)


def is_standard(name: str) -> bool:
    """Return whether the module is part of Python's standard library."""
    return name.partition(".")[0] in sys.stdlib_module_names and name != "__main__"


@functools.cache
def _is_installed_file(file: str) -> bool:
    parts = os.path.normpath(file).split(os.sep)
    if any(name in parts for name in _SITE_NAMES):
        return True
    return os.path.realpath(file).startswith(_site_folders())


def origin(name: str) -> str:
    """Return "standard", "installed", "own", or "unknown" for a module of this process."""
    if is_standard(name):
        return "standard"
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    file = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    if module is None or name == "__main__":
        return "unknown"
    if file is None or not os.path.exists(file):
        portions = [*getattr(module, "__path__", ())]
        if portions:
            return "installed" if all(map(_is_installed_file, portions)) else "own"
        # Neither a file nor a way to import it: made by hand, as by exec.
        return "unknown" if spec is None else "installed"
    return "installed" if _is_installed_file(file) else "own"


def by_reference(name: str) -> bool:
    """Return whether code of module ``name`` is imported on the far side, not sent as data."""
    if cloudpickle.list_registry_pickle_by_value() and _is_registered(name):
        return False
    return _by_reference(name)


def _is_registered(name: str) -> bool:
    """Whether cloudpickle was told to send this module, or a package around it, by value."""
    registered = cloudpickle.list_registry_pickle_by_value()
    return any(name == one or name.startswith(one + ".") for one in registered)


@functools.cache
def _by_reference(name: str) -> bool:
    kind = origin(name)
    if kind in ("standard", "installed"):
        return True
    return kind == "own" and bool(bundle_of(name)) and _loads_anywhere(name)


def _loads_anywhere(name: str) -> bool:
    needed = bundle_of(name, at_load=True)
    return all(
        is_standard(other) or other in needed or source_of(other) is not None
        for module in needed.values()
        for other in imports_of(module).at_load
    )


@functools.cache
def source_of(name: str) -> Source | None:
    """Return the source of own module ``name``, or None if it is not own or has none.

    Nothing is imported for it.
    """
    if is_standard(name) or name == "__main__":
        return None
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None) if module is not None else _find_spec(name)
    if spec is None:
        return None
    if spec.origin is None and spec.submodule_search_locations is not None:
        portions = list(spec.submodule_search_locations)
        installed = all(map(_is_installed_file, portions))
        return None if installed else Source(name, "", portions[0], True)
    if spec.origin is None or not spec.origin.endswith(".py") or not os.path.exists(spec.origin):
        return None
    if _is_installed_file(spec.origin):
        return None
    with open(spec.origin, "rb") as stream:
        text = importlib.util.decode_source(stream.read())
    return Source(name, text, spec.origin, spec.submodule_search_locations is not None)


def _find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    parent, _, _ = name.rpartition(".")
    path = None
    if parent:
        module = sys.modules.get(parent)
        spec = getattr(module, "__spec__", None) if module is not None else _find_spec(parent)
        if spec is None or spec.submodule_search_locations is None:
            return None
        path = list(spec.submodule_search_locations)
    try:
        return importlib.machinery.PathFinder.find_spec(name, path)
    except (ImportError, ValueError, AttributeError):
        return None


def imports_of(source: Source) -> Imports:
    """Return the modules that a source imports, by full name."""
    return _imports(source.name, source.text, source.is_package)


@functools.cache
def _imports(name: str, text: str, is_package: bool) -> Imports:
    package = name if is_package else name.rpartition(".")[0]
    at_load: set[str] = set()
    anywhere: set[str] = set()
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return Imports(frozenset(), frozenset())
    queue: list[tuple[ast.AST, bool]] = [(tree, True)]
    for node, loading in queue:
        found = imported_names(node, package)
        anywhere.update(found)
        if loading:
            at_load.update(found)
        inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        skipped = inside or _is_guard(node)
        queue.extend((child, loading and not skipped) for child in ast.iter_child_nodes(node))
    return Imports(frozenset(at_load), frozenset(anywhere))


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


def is_module(name: str) -> bool:
    """Return whether ``name`` is a module, as far as is known without importing it."""
    if name in sys.modules:
        return True
    return not is_standard(name) and _find_spec(name) is not None


def bundle_of(name: str, at_load: bool = False) -> dict[str, Source]:
    """Return the own modules that module ``name`` needs, itself and parents included.

    ``at_load``: only those imported as it is loaded.
    """
    found: dict[str, Source] = {}
    queue = [name]
    for one in queue:
        parts = one.split(".")
        for depth in range(1, len(parts) + 1):
            full = ".".join(parts[:depth])
            source = None if full in found else source_of(full)
            if source is not None:
                found[full] = source
                needed = imports_of(source)
                queue.extend(needed.at_load if at_load else needed.anywhere)
    return found


def is_importable(module: ModuleType) -> bool:
    """Return whether a module object can go as its name."""
    return sys.modules.get(module.__name__) is module and by_reference(module.__name__)
