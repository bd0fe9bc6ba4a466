"""What a call sends: one header, one pickle, and its large buffers beside it."""

from __future__ import annotations

import marshal
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fabremote.agent.answers import Chunks
from fabremote.bootstrap import RemotePython
from fabremote.exceptions import ShippingError
from fabremote.options import Options
from fabremote.shipping import culprits, modules
from fabremote.shipping.pickler import Forbidden, PayloadPickler

_TOTAL = struct.Struct(">Q")
_LENGTH = struct.Struct(">I")
# The format of marshal that every Python from 2.5 up reads.
_MARSHAL = 2
# Small payloads are joined, to travel as one frame.
_SMALL = 60000


@dataclass(frozen=True)
class Payload:
    """A call's bytes, in pieces, and what its answer may refer to.

    ``files``: those that its code came from, whose lines a traceback may show.
    """

    pieces: list[bytes | memoryview]
    classes: list[type]
    modules: frozenset[str]
    files: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """The number of bytes that travel."""
        return sum(memoryview(piece).nbytes for piece in self.pieces)


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
) -> Payload:
    """Return the payload of a call, or raise ShippingError naming what can't be sent."""
    trust = options.trust if options.trust is True else tuple(options.trust or ())
    chunks = Chunks()
    buffers: list[pickle.PickleBuffer] = []
    pickler = PayloadPickler(chunks, remote, buffers.append)
    try:
        pickler.dump((fn, args, dict(kwargs), trust))
    except (KeyboardInterrupt, SystemExit, ShippingError, MemoryError):
        raise
    except Exception as error:
        raise _refusal(fn, args, kwargs, remote, error) from _cause(error)
    views = [buffer.raw() for buffer in buffers]
    names = pickler.bundle
    bundle = {name: source for name in sorted(names) if (source := modules.source_of(name))}
    header = {
        "sizes": [chunks.size, *(view.nbytes for view in views)],
        "env": dict(options.env),
        "cwd": options.cwd,
        "encoding": options.encoding,
        "bundle": {n: (s.text, s.file, s.is_package) for n, s in bundle.items()},
    }
    front = marshal.dumps(header, _MARSHAL)
    size = _LENGTH.size + len(front) + chunks.size + sum(view.nbytes for view in views)
    pieces = [_TOTAL.pack(size), _LENGTH.pack(len(front)), front, *chunks.pieces, *views]
    if size <= _SMALL:
        pieces = [b"".join(pieces)]
    files = pickler.files.union(source.file for source in bundle.values() if source.file)
    return Payload(pieces, pickler.classes, frozenset(bundle), frozenset(files))


def _cause(error: Exception) -> BaseException | None:
    return None if isinstance(error, Forbidden) else error


def _refusal(
    fn: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    remote: RemotePython,
    error: Exception,
) -> ShippingError:
    """Return the error that names what of a call can't be sent, and where it is."""

    def fails(obj: Any) -> bool:
        try:
            PayloadPickler(Chunks(), remote, lambda _: None).dump(obj)
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
        remedy = (
            "Pass what the function needs of it, such as its host name, as an argument; inside "
            "the function you already are on the remote host."
        )
    elif isinstance(error, RecursionError):
        why, remedy = "it is nested too deeply to be pickled", "Pass it in a flatter form."
    elif isinstance(error, pickle.PicklingError):
        why, remedy = str(error), "Pass data, and make such an object inside the function."
    else:
        why = f"{type(error).__name__}: {error}"
        remedy = "Pass data, and make such an object inside the function."
    seen = f"{what} ({_short(repr_of(culprit))})"
    return f"{name_of(fn)} can't be sent: {place} is a {seen}, and {why}. {remedy}"


def repr_of(obj: Any) -> str:
    """Return ``repr(obj)``, or a plain description if that raises."""
    try:
        return repr(obj)
    except Exception:
        return f"<{type(obj).__qualname__}>"


def _short(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
