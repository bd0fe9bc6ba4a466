"""`explain`: what a call would send, with sizes and reasons, while nothing is sent.

The call is pickled as it would be, by a pickler that notes what it meets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, Protocol

from fabremote.agent.answers import Chunks
from fabremote.bootstrap import RemotePython, this_python
from fabremote.exceptions import ShippingError
from fabremote.options import Options
from fabremote.printing import printable
from fabremote.shipping.code import references
from fabremote.shipping.modules import Modules, Scope, modules_of
from fabremote.shipping.payload import check_callable, dump, name_of
from fabremote.shipping.pickler import PayloadPickler
from fabremote.shipping.sources import origin
from fabremote.shipping.this_side import is_sent, named
from fabremote.store import Blob
from fabremote.upload import extra


class Bound(Protocol):
    """What ``python()`` returns, as far as a call's payload depends on it."""

    def plan(self) -> tuple[Options, RemotePython]:
        """Return the options in force, and the interpreter as far as it is known."""


@dataclass(frozen=True)
class Item:
    """One thing that a call sends or needs there.

    ``kind``: "code", "global", "variable" (of a closure), "default", "class",
    "module" (its source), "imported" (there, by name), "argument", or
    "fabremote" (a part of it that few calls need, sent at the first).
    ``size``: bytes, if it were sent by itself; 0 for what isn't. ``why``: the
    reason that it travels, or doesn't.
    """

    kind: str
    name: str
    size: int
    why: str


@dataclass(frozen=True)
class Explanation:
    """What a call would send; as text, a table.

    ``name``: the call's. ``python``: the interpreter that it is for (str).
    ``items``: what travels or is needed there. ``first``, ``repeated``: bytes of
    the first such call of an agent, and of the next. ``refused``: why it can't
    be sent (str), or None.
    """

    name: str
    python: str
    items: tuple[Item, ...]
    first: int
    repeated: int
    refused: str | None = None

    def __str__(self) -> str:
        heading = f"{self.name} for {self.python}"
        if self.refused is None:
            heading += f": {self.first} bytes, and {self.repeated} when called again"
        rows = [("what", "name", "bytes", "why")]
        rows += [(i.kind, i.name, str(i.size) if i.size else "-", i.why) for i in self.items]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [heading]
        for kind, name, size, why in rows:
            start = f"  {kind:{widths[0]}}  {name:{widths[1]}}  {size:>{widths[2]}}"
            lines.append(f"{start}  {why}".rstrip())
        if self.refused is not None:
            lines.append(self.refused)
        return "\n".join(map(printable, lines))


def explain(
    fn: Callable[..., Any], /, *args: Any, python: Bound | None = None, **kwargs: Any
) -> Explanation:
    """Return what ``call(fn, *args, **kwargs)`` would send, and why; nothing is sent.

    ``python``: an interpreter, as ``conn.python(...)`` returns, whose options
    count; it isn't started for this, and no connection is made. Without it, or
    as long as it hasn't run anything, it is taken to be this Python. The options
    that a decorated function was given don't count here; give them to ``python``.

    A call that can't be sent is described as well, and ``refused`` says why.
    Raises TypeError if ``fn`` can't be called.
    """
    check_callable(fn)
    if python is not None and not hasattr(python, "plan"):
        raise TypeError(
            f"explain(): python={python!r:.100} must be an interpreter, as "
            "python=conn.python(...) gives one."
        )
    options, remote = python.plan() if python is not None else (Options(), this_python())
    noted = _Noting(options, remote)
    error = noted.run(fn, args, kwargs)
    first = repeated = 0
    extras: Iterable[str] = ()
    try:
        payload = dump(fn, args, kwargs, options, remote)
    except ShippingError as refusal:
        error = refusal
    else:
        extras = payload.parcel.extras
        first = payload.size(remote.coded)
        repeated = sum(memoryview(piece).nbytes for piece in payload.parcel.pieces)
    items = (*noted.items(args, kwargs), *_parts(extras, remote.coded))
    refused = None if error is None else str(error)
    return Explanation(name_of(fn), str(remote), items, first, repeated, refused)


class _Noting(PayloadPickler):
    """A pickler that notes what it meets, in order."""

    def __init__(self, options: Options, remote: RemotePython) -> None:
        self.modules = modules_of(options.modules)
        super().__init__(Chunks(), remote, lambda _: None, Scope(self.modules, remote.version[:2]))
        self.functions: dict[FunctionType, None] = {}
        self.codes: dict[CodeType, int] = {}
        self.needed: dict[str, None] = {}
        self.named: dict[str, None] = {}

    def run(
        self, fn: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> ShippingError | None:
        """Pickle a call; whatever stops that, `dump` explains."""
        try:
            self.dump((fn, args, dict(kwargs)))
            self.scope.listed()
        except ShippingError as error:
            return error
        except Exception:
            return None
        return None

    def reducer_override(self, obj: Any) -> Any:
        result = super().reducer_override(obj)
        sent = result is not NotImplemented and result[0] is not named
        if isinstance(obj, FunctionType) and sent:
            self.functions[obj] = None
        elif isinstance(obj, CodeType):
            self.codes[obj] = _bytes_in(result[1])
        return result

    def need(self, module: str) -> None:
        self.needed[module] = None
        super().need(module)

    def stand_in(self, obj: Any) -> Any:
        found = super().stand_in(obj)
        if found is not None:
            self.named[found[1][2]] = None
        return found

    # What was met

    def items(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Item]:
        """Yield what the call sends and needs."""
        for fn in self.functions:
            why = self._why_by_value(fn.__module__)
            yield Item("code", name_of(fn), self.codes.get(fn.__code__, 0), why)
            yield from self._surroundings(fn)
        for cls in self.classes:
            yield self._value("class", cls.__qualname__, cls, self._why_by_value(cls.__module__))
        yield from _sources(self.scope, self.needed)
        for name in self.needed:
            if name not in self.scope.bundle and name != "builtins":
                yield Item("imported", name, 0, _why_imported(name, self.modules))
        for name in self.named:
            yield Item("imported", name, 0, "if it is there; else a stand-in, an error when used")
        given = [*enumerate(args), *kwargs.items()]
        for label, value in given:
            yield self._value("argument", str(label), value, f"of type {type(value).__qualname__}")

    def _surroundings(self, fn: FunctionType) -> Iterator[Item]:
        """Yield the values around a function that go with it."""
        used = f"used by {name_of(fn)}"
        if not self.namespace(fn.__globals__).imported:
            for name in references(fn.__code__).globals:
                if name in fn.__globals__ and not _is_code(fn.__globals__[name]):
                    yield self._value("global", name, fn.__globals__[name], used)
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:
                yield Item("variable", name, 0, f"{used}, and not set yet")
                continue
            if not _is_code(content):
                yield self._value("variable", name, content, used)
        if fn.__defaults__ or fn.__kwdefaults__:
            value = fn.__defaults__, fn.__kwdefaults__
            yield self._value("default", name_of(fn), value, "of its parameters")

    def _value(self, kind: str, name: str, value: Any, why: str) -> Item:
        """Return the item of a value, with what it takes by itself."""
        chunks, sizes = Chunks(), list[int]()
        pickler = PayloadPickler(
            chunks,
            self.remote,
            lambda buffer: sizes.append(buffer.raw().nbytes),
            Scope(self.modules, self.remote.version[:2]),
        )
        try:
            pickler.dump(value)
        except Exception:
            return Item(kind, name, 0, f"{why}; it can't be sent")
        blobs = sum(len(blob.data) for blob in pickler.blobs.values())
        return Item(kind, name, chunks.size + sum(sizes) + blobs, why)

    def _why_by_value(self, name: str) -> str:
        if is_sent(name):
            return "of fabremote, which needn't be installed there"
        if self.scope.by_reference(name):
            return f"not to be found in {name} by its name"
        reason = None
        if origin(name) == "own":
            reason = self.modules.why_by_value(name)
            reason = (
                reason or f"Python {self.remote.version[0]}.{self.remote.version[1]} can't read it"
            )
        return f"of {name}, which goes by value" + (f": {reason}" if reason else "")


def _is_code(value: Any) -> bool:
    """Whether a value has items of its own: those of its code, or its module."""
    return isinstance(value, (FunctionType, type, type(functools)))


def _bytes_in(value: Any) -> int:
    if isinstance(value, (bytes, str)):
        return len(value)
    if isinstance(value, Blob):
        return len(value.data)
    return sum(map(_bytes_in, value)) if isinstance(value, (tuple, list)) else 0


def _sources(scope: Scope, needed: Mapping[str, None]) -> Iterator[Item]:
    """Yield the modules whose sources go along."""
    for name, source in sorted(scope.bundle.items()):
        users = [n for n, s in scope.bundle.items() if n != name and name in s.imports.anywhere]
        inside = [each for each in scope.bundle if each.startswith(name + ".")]
        if name in needed:
            why = "used by the call"
        elif scope.modules.rule(name) is True:
            why = "sent by modules="
        elif users:
            why = f"imported by {users[0]}"
        else:
            why = f"the package of {inside[0]}" if inside else "needed"
        yield Item("module", name, len(source.blob.data), why)


def _parts(names: Iterable[str], coded: bool) -> Iterator[Item]:
    """Yield the parts of the agent that the call has it get."""
    for name in names:
        yield Item("fabremote", name, len(extra(name, coded)), "of the agent, which has it then")


def _why_imported(name: str, modules: Modules) -> str:
    if modules.rule(name) is False:
        return "kept from going by modules=, so it must be installed there"
    kind = origin(name)
    if kind == "standard":
        return "of the standard library"
    return "installed here, and must be there" if kind == "installed" else "must be there"


__all__ = ["Explanation", "Item", "explain"]
