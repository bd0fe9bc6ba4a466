"""Tells whether a loaded module is still what its source makes it.

Its source says what a module has at first: names bound once, to a literal or by
a ``def`` or ``class``, and the same in its classes. What is there now must be
that. Values that were computed aren't compared, nor are containers that the
module may fill as it is loaded.

The first look compares with the source, compiled; later ones mostly compare
identities, some tens of nanoseconds for each name.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import marshal
import os
import zipimport
from abc import ABCMeta
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter, is_, itemgetter
from types import CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

from fabremote.shipping.source import same_code
from fabremote.shipping.source_files import first_line, quiet

# Loaders that compile a source as it is; others may rewrite it first, as pytest's does.
_PLAIN_LOADERS = (importlib.machinery.SourceFileLoader, zipimport.zipimporter)
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...))
_DEFS = (ast.FunctionDef, ast.AsyncFunctionDef)
_code_of = attrgetter("__code__")


# What a source says


@dataclass(frozen=True)
class Expected:
    """What the names of a module or class are bound to, once each, by its source.

    ``literals``: the values. ``functions``: first lines. ``settable``: those of
    the literals that the module's own functions bind anew.
    """

    literals: dict[str, Any] = field(default_factory=dict)
    functions: dict[str, int] = field(default_factory=dict)
    classes: dict[str, Expected] = field(default_factory=dict)
    settable: frozenset[str] = frozenset()


def expected(tree: ast.Module, text: str) -> Expected:
    """Return what a module's source says of its names."""
    names = _Names(tree.body)
    touched, settable = _touched(tree.body, names.read, "global " in text)
    if "*" in names.bound:
        return Expected()
    found = _expected(tree.body, names.bound, lambda name: name)
    for name in touched & found.literals.keys():
        if name in settable or not _is_hashable(found.literals[name]):
            del found.literals[name]
    return Expected(found.literals, found.functions, found.classes, frozenset(settable))


def _expected(body: list[ast.stmt], bound: Counter[str], spelt: Callable[[str], str]) -> Expected:
    found = Expected()
    for node in body:
        name = _name_of(node)
        if name is None or bound[name] != 1:
            continue
        if isinstance(node, _DEFS) and not node.decorator_list:
            found.functions[spelt(name)] = first_line(node)
        elif isinstance(node, ast.ClassDef) and all(map(_is_dataclass, node.decorator_list)):
            start = "_" + node.name.lstrip("_")
            inner = _Names(node.body).bound
            found.classes[spelt(name)] = _expected(node.body, inner, _Mangled(start))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            known, value = _literal(node.value)
            if known:
                found.literals[spelt(name)] = value
    return found


@dataclass(frozen=True)
class _Mangled:
    """How names with two underscores in front are spelt in a class."""

    start: str

    def __call__(self, name: str) -> str:
        private = name.startswith("__") and not name.endswith("__")
        return self.start + name if private else name


def _name_of(node: ast.stmt) -> str | None:
    """Return the one name that a statement binds, as far as that is compared."""
    if isinstance(node, (*_DEFS, ast.ClassDef)):
        return node.name
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    target = targets[0]
    return target.id if len(targets) == 1 and isinstance(target, ast.Name) else None


def _is_dataclass(decorator: ast.expr) -> bool:
    return "dataclass" in ast.unparse(decorator)


def _literal(node: ast.expr) -> tuple[bool, Any]:
    try:
        return True, ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False, None


class _Names:
    """The names that statements bind (how often), and read, where they stand as they run."""

    def __init__(self, body: list[ast.stmt]) -> None:
        self.bound: Counter[str] = Counter()
        self.read: set[str] = set()
        queue: list[tuple[ast.AST, bool]] = [(node, True) for node in body]
        for node, here in queue:
            self._note(node, here)
            inner = here and not isinstance(node, ast.ClassDef)
            queue.extend((child, inner) for child in _run(node))

    def _note(self, node: ast.AST, here: bool) -> None:
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                self.read.add(node.id)
            else:
                self.bound[node.id] += here
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self.bound.update(a.asname or a.name.partition(".")[0] for a in node.names if here)
        elif isinstance(node, ast.MatchMapping):
            self.bound[node.rest or ""] += here
        elif here:
            name = getattr(node, "name", None)
            if isinstance(name, str):
                self.bound[name] += 1


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Yield those parts of a node that run where it stands."""
    if isinstance(node, ast.Lambda):
        return iter(())
    if isinstance(node, _DEFS):
        return iter(node.decorator_list)
    value = getattr(node, "value", None) if isinstance(node, ast.Assign) else None
    if isinstance(value, (ast.Constant, ast.List, ast.Dict, ast.Tuple)) and _literal(value)[0]:
        return iter(node.targets)  # type: ignore[attr-defined]
    return ast.iter_child_nodes(node)


def _touched(body: list[ast.stmt], read: set[str], binding: bool) -> tuple[set[str], set[str]]:
    """Return the names that may change as a module is loaded, and those that functions bind.

    ``binding``: whether any function binds names of the module.
    """
    touched, settable = set(read), set()
    for node in body:
        if isinstance(node, (*_DEFS, ast.ClassDef)) and (binding or node.name in read):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Global):
                    settable.update(inner.names)
                    names = inner.names
                elif isinstance(inner, ast.Name):
                    names = [inner.id]
                else:
                    continue
                if node.name in read:
                    touched.update(names)
    return touched, settable


# What is there now


@dataclass
class _Seen:
    """What a module had when it was found to be as its source says."""

    owners: list[tuple[Mapping[str, Any], Callable[[Any], Any], tuple[Any, ...]]]
    functions: list[FunctionType]
    codes: list[CodeType]
    containers: list[tuple[Any, Any]]

    def holds(self) -> bool:
        """Whether all is still the same."""
        try:
            for owner, get, values in self.owners:
                if not all(map(is_, get(owner), values)):
                    return False
        except KeyError:
            return False
        if not all(map(is_, map(_code_of, self.functions), self.codes)):
            return False
        return all(live == value for live, value in self.containers)


class Drift:
    """Whether a loaded module is still what its source, ``text``, makes it."""

    def __init__(self, module: ModuleType, text: str, says: Expected) -> None:
        self._module = module
        self._text = text
        self._says = says
        self._seen: _Seen | None = None
        self._found: tuple[str, Any, Any] | None = None

    def changed(self) -> str | None:
        """Return a name that was changed since the module was loaded, or None."""
        if self._seen is not None and self._seen.holds():
            return None
        if self._found is not None and self._still(*self._found):
            return self._found[0]
        if getattr(self._module.__spec__, "_initializing", False):
            return None
        self._seen, self._found = None, None
        look = _Look(_compiled(self._module, self._text))
        path = look.over(vars(self._module), self._says, look.code, "")
        if path is None:
            self._seen = look.seen
        else:
            live = self._value(path)
            self._found = path, live, getattr(live, "__code__", None)
        return path

    def _still(self, path: str, live: Any, code: Any) -> bool:
        # What is a container may have been changed back.
        return (
            self._value(path) is live
            and getattr(live, "__code__", None) is code
            and not isinstance(live, (list, dict, set, type))
        )

    def _value(self, path: str) -> Any:
        value: Any = self._module
        for name in path.split("."):
            value = vars(value).get(name) if hasattr(value, "__dict__") else None
        return value


class _Look:
    """One look over all that is compared."""

    def __init__(self, code: CodeType | None) -> None:
        self.code = code
        self.seen = _Seen([], [], [], [])

    def over(
        self, owner: Mapping[str, Any], says: Expected, code: CodeType | None, start: str
    ) -> str | None:
        """Return the first name in a namespace that isn't as expected, or None."""
        names = [*says.literals, *says.functions, *says.classes]
        for name in names:
            if name not in owner:
                return start + name
        codes = {c.co_name: c for c in code.co_consts if isinstance(c, CodeType)} if code else {}
        for name, value in says.literals.items():
            if not self._is_literal(owner[name], value, name in says.settable):
                return start + name
        for name, line in says.functions.items():
            if not self._is_function(owner[name], line, codes.get(_unmangled(name, start))):
                return start + name
        for name, inner in says.classes.items():
            found = self._of_class(owner[name], inner, codes.get(name), start + name)
            if found is not None:
                return found
        if names:
            values = tuple(owner[name] for name in names)
            # An itemgetter of one name gives no tuple.
            self.seen.owners.append((owner, itemgetter(*names, names[0]), (*values, values[0])))
        return None

    def _is_literal(self, live: Any, value: Any, settable: bool) -> bool:
        if type(live) is type(value) and live == value:
            if not _is_hashable(value):
                self.seen.containers.append((live, value))
            return True
        # Made by the module's own functions, or filled as others were loaded: so it is there.
        made = settable or (type(live) is type(value) and not _is_hashable(value))
        return made and not _is_data(live)

    def _is_function(self, live: Any, line: int, code: CodeType | None) -> bool:
        if isinstance(live, (staticmethod, classmethod)):
            live = live.__func__
        if not isinstance(live, FunctionType):
            return False
        made = live.__code__
        if code is None:
            if made.co_firstlineno != line:
                return False
        elif not same_code(code, made):
            return False
        self.seen.functions.append(live)
        self.seen.codes.append(made)
        return True

    def _of_class(self, cls: Any, says: Expected, code: CodeType | None, path: str) -> str | None:
        if not isinstance(cls, type):
            return path
        plain = type(cls) in (type, ABCMeta) and not hasattr(cls, "_fields")
        slots = [n for n in says.literals if isinstance(vars(cls).get(n), MemberDescriptorType)]
        literals = {n: v for n, v in says.literals.items() if plain and n not in slots}
        return self.over(
            vars(cls), Expected(literals, says.functions, says.classes), code, path + "."
        )


def _unmangled(name: str, start: str) -> str:
    """Return a name of a class as its code has it."""
    private = "_" + start.rstrip(".").rpartition(".")[2].lstrip("_") + "__"
    return name[len(private) - 2 :] if start and name.startswith(private) else name


def _compiled(module: ModuleType, text: str) -> CodeType | None:
    """Return a module's code as its source compiles, or None if that isn't how it was made."""
    spec = module.__spec__
    if spec is None or spec.origin is None or type(spec.loader) not in _PLAIN_LOADERS:
        return None
    try:
        stat = os.stat(spec.origin)
        with open(spec.cached or "", "rb") as stream:
            data = stream.read()
        times = int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF
        head = b"".join(number.to_bytes(4, "little") for number in (0, *times))
        if data[:16] == importlib.util.MAGIC_NUMBER + head:
            found: CodeType = marshal.loads(memoryview(data)[16:])
            return found
    except (OSError, ValueError, EOFError, TypeError):
        pass
    try:
        with quiet():
            return compile(text, spec.origin, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_data(value: Any, depth: int = 0) -> bool:
    """Whether a value is made of atoms and built-in containers only."""
    if type(value) in _ATOMS:
        return True
    if depth > 20 or type(value) not in (list, tuple, dict, set, frozenset):
        return False
    items = [*value, *value.values()] if type(value) is dict else value
    return all(_is_data(item, depth + 1) for item in items)


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object, and those inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_in(constant)


def functions_of(owner: Any) -> Iterator[FunctionType]:
    """Yield the functions of a module, and of its classes."""
    for value in list(vars(owner).values()):
        if isinstance(value, FunctionType):
            yield value
        elif isinstance(value, type) and _is_class_of(value, owner):
            yield from functions_of(value)


def _is_class_of(cls: type, owner: Any) -> bool:
    return isinstance(owner, ModuleType) and cls.__module__ == owner.__name__


__all__ = ["Drift", "Expected", "codes_in", "expected", "functions_of"]
