"""What to say where something couldn't be imported on a host."""

from __future__ import annotations

import importlib.machinery
import re

from fabremote.shipping import sources
from fabremote.shipping.modules import Modules
from fabremote.shipping.sources import is_standard
from fabremote.shipping.this_side import is_library

_MISSING = re.compile(
    r"(?P<start>.* )?(?P<mark>\(?)No module named '(?P<name>[^']+)'"
    r"(?:; '(?P=name)' is not a package)?(?P<end>\)?)",
    re.DOTALL,
)


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
    spec = sources.find_spec(name)
    if spec is None:
        return f"Nor is it here: {install}"
    if isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
        return f"It is a compiled extension: {install}"
    return f'Send it with modules=["{top}"], or {install}'


def with_remedy(error: BaseException, where: str, modules: Modules) -> BaseException:
    """Return the exception; where an import failed there, it says where, and what to do."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        found = _MISSING.fullmatch(str(error))
        if found is not None and found["name"] == error.name:
            start = (found["start"] or "").rstrip()
            why = explain_missing(error.name, modules, where)
            error.msg = f"{start.rstrip(':')}: {why}" if start else why
            error.args = (error.msg,)
    return error


__all__ = ["explain_missing", "with_remedy"]
