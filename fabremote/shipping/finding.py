"""Finds modules that aren't loaded, importing nothing for it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterable


def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Return the spec of a module that isn't loaded, or None if there is no such module."""
    found = _find(name)
    if found is None and _is_new(name):
        # What Python keeps of a folder is as old as the folder's time tells.
        importlib.invalidate_caches()
        found = _find(name)
    return found


def _find(name: str) -> importlib.machinery.ModuleSpec | None:
    parent, _, _ = name.rpartition(".")
    try:
        if not parent:
            # Asks every finder, such as those of editable installs.
            return importlib.util.find_spec(name)
        path = _path_of(parent)
        return importlib.machinery.PathFinder.find_spec(name, path) if path is not None else None
    # A KeyError: the path of a package that isn't loaded asks its parent, which isn't either.
    except (ImportError, ValueError, AttributeError, KeyError):
        return None


def _path_of(package: str) -> list[str] | None:
    """Return the folders of a package."""
    module = sys.modules.get(package)
    spec = getattr(module, "__spec__", None) if module is not None else find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return None
    return list(spec.submodule_search_locations)


def _is_new(name: str) -> bool:
    """Return whether a module that Python doesn't find has a file or a folder nevertheless."""
    parent, _, last = name.rpartition(".")
    try:
        folders: Iterable[str] = (_path_of(parent) or ()) if parent else sys.path
    except (AttributeError, KeyError):
        return False
    places = [os.path.join(folder or ".", last) for folder in folders if isinstance(folder, str)]
    return any(os.path.isfile(f"{place}.py") or os.path.isdir(place) for place in places)


__all__ = ["find_spec"]
