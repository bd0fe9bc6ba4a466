"""What a call sends: one header, one pickle, and its large buffers beside it."""

from __future__ import annotations

import marshal
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from fabremote import terminals
from fabremote.agent.answers import Chunks
from fabremote.bootstrap import RemotePython
from fabremote.exceptions import ShippingError
from fabremote.options import Options
from fabremote.shipping import culprits, records
from fabremote.shipping.feeds import Feeds, makes_stream
from fabremote.shipping.forwarding import Forwarder, Memory
from fabremote.shipping.modules import Scope, modules_of
from fabremote.shipping.pickler import PayloadPickler
from fabremote.shipping.reducers import Forbidden
from fabremote.shipping.sources import MARSHAL
from fabremote.store import Parcel
from fabremote.upload import extra

_TOTAL = struct.Struct(">Q")
_LENGTH = struct.Struct(">I")
# Small payloads are joined, to travel as one frame.
_SMALL = 60000


@dataclass(frozen=True)
class Payload:
    """A call's bytes, and what its answer may refer to.

    ``modules``: the caller's own that went along. ``files``: those that its code
    came from, whose lines a traceback may show. ``provide`` answers what the
    function asks for, which adds to both. ``feeds``: the iterators among the arguments.
    """

    parcel: Parcel
    classes: list[type]
    modules: Set[str] = frozenset()
    files: Set[str] = frozenset()
    provide: Callable[[bytes], bytes] | None = None
    feeds: Feeds | None = None

    def size(self, coded: bool) -> int:
        """Return how many bytes travel in full, were nothing sent before.

        ``coded``: whether the agent's own modules go as code.
        """
        own = sum(memoryview(piece).nbytes for piece in self.parcel.pieces)
        extras = sum(len(extra(name, coded)) for name in self.parcel.extras)
        return own + extras + sum(len(blob.data) for blob in self.parcel.needed)


def name_of(fn: Any) -> str:
    """Return a callable's name as messages give it: ``module.qualname()``."""
    name = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None)
    if name is None:
        inner = getattr(fn, "func", None)
        return name_of(inner) if inner is not None else f"{type(fn).__qualname__}()"
    return f"{name}()"


def check_callable(fn: Any) -> None:
    """Raise TypeError unless ``fn`` can be called."""
    if not callable(fn):
        raise TypeError(
            f"call() needs a function first, and {_short(repr(fn))} isn't callable. Give the "
            "function itself and its arguments after it: c.call(fn, 1, 2), not c.call(fn(1, 2))."
        )


def dump(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: Options,
    remote: RemotePython,
    by_value: Set[str] = frozenset(),
    memory: Memory | None = None,
) -> Payload:
    """Return the payload of a call, or raise ShippingError naming what can't be sent.

    ``by_value``: own modules that ``remote`` could not load. ``memory``: that of the
    lasting process that it is for, brought up to date.
    """
    trust = options.trust if options.trust is True else tuple(options.trust or ())
    # A Python there that can't take buffers apart from the pickle gets them in it.
    chunks = Chunks([] if remote.version >= (3, 8) else None)
    scope = Scope(modules_of(options.modules), remote.version[:2], by_value)
    classes = memory.classes if memory is not None else None
    pickler = PayloadPickler(chunks, remote, chunks.add, scope, classes)
    try:
        pickler.dump((fn, args, dict(kwargs), trust))
        # What was sent lives no longer than its owner wants.
        pickler.clear_memo()
        listed = scope.listed()
    except (KeyboardInterrupt, SystemExit, ShippingError, MemoryError):
        raise
    except Exception as error:
        raise _refusal(fn, args, kwargs, (remote, options), error) from _cause(error)
    parts = _parts(options)
    header = _header(options, chunks.rooms() if chunks.beside else (), parts, memory is not None)
    if listed is not None:
        header["bundle"] = listed.blob.digest
        pickler.extras.add("importing")
    if makes_stream(fn):
        pickler.extras.add("streaming")
    if parts:
        pickler.extras.update(name for name, _ in parts)
    pieces = _pieces(header, chunks)
    parcel = Parcel(pieces, tuple(pickler.blobs.values()), listed, tuple(pickler.extras))
    files = pickler.files.copy()
    if scope.bundle:
        files = files.union(source.file for source in scope.bundle.values())
    if memory is not None:
        files = memory.files = files | memory.files
        memory.roots |= scope.roots()
        memory.sent.update(scope.bundle)
    forwarder = Forwarder(scope, files, memory)
    feeds = Feeds(pickler, name_of(fn))
    return Payload(parcel, pickler.classes, forwarder.modules, files, forwarder.part, feeds)


def _pieces(header: dict[str, Any], chunks: Chunks) -> list[bytes | memoryview]:
    """Return what is sent, in order: all that is small in one piece."""
    front = marshal.dumps(header, MARSHAL)
    size = _LENGTH.size + len(front) + chunks.size
    pieces = [_TOTAL.pack(size), _LENGTH.pack(len(front)), front, *chunks.pieces]
    if size <= _SMALL:
        pieces = [b"".join(pieces)]
    if chunks.beside:
        pieces += [data for _, data in chunks.beside]
    return pieces


def _header(
    options: Options, rooms: Sequence[int], parts: list[tuple[str, Any]], lasting: bool
) -> dict[str, Any]:
    """Return what the worker is told of a call's options, and of what is beside its pickle."""
    header: dict[str, Any] = {
        "beside": rooms,
        "env": terminals.environment(options.env) if options.pty else dict(options.env),
        "cwd": options.cwd,
        "encoding": options.encoding,
    }
    if parts:
        header["parts"] = parts
    if lasting:
        header["lasting"] = True
    return header


def _parts(options: Options) -> list[tuple[str, Any]]:
    """Return the agent's modules that options ask for, and what each is given."""
    parts: list[tuple[str, Any]] = []
    if options.pty:
        parts.append(("terminal", (options.encoding, [*options.env])))
    if options.logging:
        parts.append(("records", records.levels()))
    return parts


def _cause(error: Exception) -> BaseException | None:
    return None if isinstance(error, Forbidden) else error


def _refusal(
    fn: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    for_whom: tuple[RemotePython, Options],
    error: Exception,
) -> ShippingError:
    """Return the error that names what of a call can't be sent, and where it is."""

    remote, options = for_whom

    def fails(obj: Any) -> bool:
        scope = Scope(modules_of(options.modules), remote.version[:2])
        try:
            PayloadPickler(Chunks(), remote, lambda _: None, scope).dump(obj)
        except Exception:
            return True
        return False

    places = [(name_of(fn), fn)]
    places += [(f"argument {index}", value) for index, value in enumerate(args)]
    places += [(f"argument {name}", value) for name, value in kwargs.items()]
    for place, value in places:
        if fails(value):
            path, culprit = culprits.locate(value, fails)
            return ShippingError(_explain(fn, place + path, culprit, error))
    return ShippingError(_explain(fn, "the call", fn, error))


def _explain(fn: Any, place: str, culprit: Any, error: Exception) -> str:
    kind = type(culprit)
    what = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    if isinstance(error, Forbidden):
        why = f"it {error.args[0]}"
        remedy = error.args[2]
    elif isinstance(error, RecursionError):
        why, remedy = "it is nested too deeply to be pickled", "Pass it in a flatter form."
    elif isinstance(error, pickle.PicklingError):
        why, remedy = str(error), "Pass data, and make such an object inside the function."
    else:
        why = f"{type(error).__name__}: {error}"
        remedy = "Pass data, and make such an object inside the function."
    # Its content may be just what must not leave.
    shown = "" if isinstance(error, Forbidden) else f" ({_short(repr_of(culprit))})"
    return f"{name_of(fn)} can't be sent: {place} is a {what}{shown}, and {why}. {remedy}"


def repr_of(obj: Any) -> str:
    """Return ``repr(obj)``, or a plain description if that raises."""
    try:
        return repr(obj)
    except Exception:
        return f"<{type(obj).__qualname__}>"


def _short(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
