"""What every process has one of: code that refers to it means that of the process it runs in."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

_PLACES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (os, ("environ", "environb")),
    (
        sys,
        (
            *("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__"),
            *("path", "modules", "argv", "meta_path", "path_hooks", "path_importer_cache"),
        ),
    ),
    (warnings, ("filters",)),
)


class Singleton:
    """Stands for one of them in a payload: there it is that of the module."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


def table() -> dict[int, Singleton]:
    """Return what there is now, by identity: streams are replaced at times."""
    return {
        id(found): Singleton(module.__name__, name)
        for module, names in _PLACES
        for name in names
        if (found := getattr(module, name, None)) is not None
    }


__all__ = ["Singleton", "table"]
