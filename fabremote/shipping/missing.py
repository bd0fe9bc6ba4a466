"""What to say where something couldn't be imported on a host."""

from __future__ import annotations

import importlib.machinery
import itertools
import os
import re
import sys
from collections.abc import Iterable

from fabremote.shipping.finding import find_spec
from fabremote.shipping.modules import Modules
from fabremote.shipping.sources import is_standard
from fabremote.shipping.this_side import is_library

# How many files of a package are looked at, and how many parts a name may have: a host chose it.
MOST = 10_000
DEEPEST = 64

_MISSING = re.compile(
    r"(?P<start>.* )?(?P<mark>\(?)No module named '(?P<name>[^']+)'"
    r"(?:; '(?P=name)' is not a package)?(?P<end>\)?)",
    re.DOTALL,
)
# What an agent notes of a library when a payload could not be loaded.
_THERE = re.compile(r"There: (numpy|pandas) ([0-9A-Za-z.+-]{1,40})")


def explain_missing(name: str, modules: Modules, where: str) -> str:
    """Return the message for a module that couldn't be imported on ``where``."""
    return f"No module named {name!r} on {where}. {_remedy(name, modules)}"


def _remedy(name: str, modules: Modules) -> str:
    top = name.partition(".")[0]
    install = f'install it there, as with requires=["{top}"].'
    if is_standard(name):
        return "It is part of newer or other Pythons' standard library: name one with python=."
    if modules.rule(name) is False:
        return f"modules= keeps it from being sent: leave that out, or install {name} there."
    if is_library(name):
        return f"The function runs on the host: use this in the code that calls it, or {install}"
    spec = find_spec(name)
    if spec is None:
        return f"Nor is it here: {install}"
    if isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
        return f"It is a compiled extension: {install}{_here(top)}"
    if _has_extensions(spec.submodule_search_locations or ()):
        return f"It has compiled extensions: {install}{_here(top)}"
    return f'Send it with modules=["{top}"], or {install}'


def _has_extensions(folders: Iterable[str]) -> bool:
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    files = (name for folder in folders for _, _, names in os.walk(folder) for name in names)
    return any(name.endswith(suffixes) for name in itertools.islice(files, MOST))


def _version(library: str) -> str | None:
    found = getattr(sys.modules.get(library), "__version__", None)
    return found if isinstance(found, str) else None


def _here(library: str) -> str:
    version = _version(library)
    return f" Here it is {library} {version}." if version else ""


def versions(notes: Iterable[str]) -> str:
    """Return a sentence on the libraries whose version there, told by notes, is another here."""
    there = [found for note in notes if (found := _THERE.fullmatch(note))]
    pairs = [
        (name, version, _version(name)) for name, version in (each.groups() for each in there)
    ]
    told = [f"{name} {one} there, {other} here" for name, one, other in pairs if one != other]
    return f" It is {'; '.join(told)}." if told else ""


def with_remedy(error: BaseException, where: str, modules: Modules) -> BaseException:
    """Return the exception; where an import failed there, it says where, and what to do."""
    if not isinstance(error, ModuleNotFoundError) or type(error.name) is not str:
        return error
    if error.name and error.name.isprintable() and error.name.count(".") < DEEPEST:
        found = _MISSING.fullmatch(str(error))
        if found is not None and found["name"] == error.name:
            start = (found["start"] or "").rstrip()
            why = explain_missing(error.name, modules, where)
            error.msg = f"{start.rstrip(':')}: {why}" if start else why
            error.args = (error.msg,)
    return error


__all__ = ["explain_missing", "versions", "with_remedy"]
