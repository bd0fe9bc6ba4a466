"""How objects of NumPy and pandas are said so that other versions of these can make them.

Their pickles name private functions, which move between versions. Most are
found there under their other name, see `fabremote.agent.loader.RENAMED`; here is
what versions differ in otherwise. Nothing is imported: whoever has such an
object has its library.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any

from fabremote.agent import loader


def reduce(obj: Any, protocol: int) -> Any:
    """Return how ``obj`` is made there, or NotImplemented if its own pickling will do."""
    kind = type(obj)
    library, handler = _HANDLERS.get(kind.__name__, _OTHER)
    if not library or str(kind.__module__).partition(".")[0] != library:
        return NotImplemented
    return handler(obj, protocol)


def _array(array: Any, protocol: int) -> Any:
    flags = array.flags
    if flags.c_contiguous or flags.f_contiguous:
        return NotImplemented
    # Transposed otherwise, which only NumPy from 2.3 on has an order for.
    return array.copy(order="C").__reduce_ex__(protocol)


def _stamps(array: Any, protocol: int) -> Any:
    make, args, state = array.__reduce_ex__(protocol)[:3]
    # Before pandas 3 the state has a third part, which that reads, too.
    return make, args, state if len(state) > 2 else (*state, {})


def _index(index: Any, _: int) -> Any:
    # The frequency is the array's before pandas 3, and the index's from then on.
    settings = {"freq": index.freq, "name": index.name}
    return copyreg.__newobj_ex__, (type(index), (index.array,), settings)  # type: ignore[attr-defined]


def _strings(array: Any, _: int) -> Any:
    return loader.strings, (array.dtype, array.to_numpy(object))


def _string_dtype(dtype: Any, _: int) -> Any:
    return loader.string_dtype, (dtype.storage, dtype.na_value)


_OTHER: tuple[str, Callable[[Any, int], Any]] = "", lambda *_: NotImplemented
_HANDLERS: dict[str, tuple[str, Callable[[Any, int], Any]]] = {
    "ndarray": ("numpy", _array),
    "DatetimeArray": ("pandas", _stamps),
    "TimedeltaArray": ("pandas", _stamps),
    "Categorical": ("pandas", _stamps),
    "DatetimeIndex": ("pandas", _index),
    "TimedeltaIndex": ("pandas", _index),
    "StringArray": ("pandas", _strings),
    "StringDtype": ("pandas", _string_dtype),
}


__all__ = ["reduce"]
