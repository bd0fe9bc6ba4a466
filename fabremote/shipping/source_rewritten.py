"""Proves functions of modules whose asserts pytest rewrote as it imported them.

Their code is not what their file compiles to. So the file is rewritten once more,
by pytest's own means, and must give the very code of the function.
"""

from __future__ import annotations

import ast
import sys
import weakref
from types import CodeType
from typing import Any

from fabremote.agent import sources
from fabremote.shipping.source_files import File, quiet

_REWRITER = "_pytest.assertion.rewrite"
_modules: weakref.WeakKeyDictionary[File, CodeType | None] = weakref.WeakKeyDictionary()


def is_rewritten(values: dict[str, Any] | None) -> bool:
    """Return whether these are the globals of a module that pytest rewrote."""
    kind = getattr(sys.modules.get(_REWRITER), "AssertionRewritingHook", None)
    return kind is not None and isinstance((values or {}).get("__loader__"), kind)


def codes(file: File, values: dict[str, Any], code: CodeType) -> list[CodeType]:
    """Return the codes of a code's name and line that pytest makes of this text."""
    if file not in _modules:
        _modules[file] = _compiled(file, values, code.co_filename)
    module = _modules[file]
    return sources.within(module, code.co_name, code.co_firstlineno) if module else []


def _compiled(file: File, values: dict[str, Any], name: str) -> CodeType | None:
    text, rewriter = "".join(file.lines), sys.modules[_REWRITER]
    try:
        with quiet():
            tree = ast.parse(text, filename=name)
            rewriter.rewrite_asserts(tree, text.encode(), name, values["__loader__"].config)
            return compile(tree, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, AttributeError, TypeError):
        # Not Python, or a pytest that does it in another way.
        return None


__all__ = ["codes", "is_rewritten"]
