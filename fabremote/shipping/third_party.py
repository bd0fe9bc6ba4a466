"""How objects of NumPy and pandas are said so that other versions of these can make them.

Their pickles name private functions, which move between versions. Most are
found there under their other name, see `fabremote.agent.loader.RENAMED`; here is
what versions differ in otherwise, made there by `fabremote.agent.third_party`.
Nothing is imported: whoever has such an object has its library.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any

from fabremote.agent import third_party as there


def reduce(obj: Any, protocol: int) -> Any:
    """Return how ``obj`` is made there, or NotImplemented if its own pickling will do."""
    kind = type(obj)
    if isinstance(obj, BaseException):
        return _exception(obj, protocol)
    library, handler = _HANDLERS.get(kind.__name__, _OTHER)
    if not library or str(kind.__module__).partition(".")[0] != library:
        return NotImplemented
    return handler(obj, protocol)


def _exception(error: BaseException, protocol: int) -> Any:
    """Exceptions as Python pickles them: distributed has tblib do it, which need not be there."""
    reducer = copyreg.dispatch_table.get(type(error))
    theirs = getattr(reducer, "__module__", "").partition(".")[0] == "tblib"
    return error.__reduce_ex__(protocol) if theirs else NotImplemented


def _array(array: Any, protocol: int) -> Any:
    flags = array.flags
    if flags.c_contiguous or flags.f_contiguous:
        return NotImplemented
    # Transposed otherwise, which only NumPy from 2.3 on has an order for.
    return array.copy(order="C").__reduce_ex__(protocol)


# NumPy's random numbers


def _seed_sequence(seed: Any, _: int) -> Any:
    args = seed.entropy, seed.spawn_key, seed.pool_size, seed.n_children_spawned
    return there.seed_sequence, args


def _bit_generator(bits: Any, _: int) -> Any:
    seed = getattr(bits, "seed_seq", None) or getattr(bits, "_seed_seq", None)
    return there.bit_generator, (type(bits).__name__, seed, bits.state)


def _generator(generator: Any, _: int) -> Any:
    return there.generator, (generator.bit_generator,)


def _random_state(random: Any, _: int) -> Any:
    state = random.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        return NotImplemented
    return there.random_state, (random.get_state(legacy=True),)


# pandas


def _times(array: Any, _: int) -> Any:
    letter = "M" if type(array).__name__ == "DatetimeArray" else "m"
    index = "DatetimeIndex" if letter == "M" else "TimedeltaIndex"
    values = array.asi8.view(f"{letter}8[{getattr(array, 'unit', 'ns')}]")
    return there.times, (index, values, _zone(getattr(array, "tz", None)))


def _time(time: Any, _: int) -> Any:
    zone = _zone(getattr(time, "tzinfo", None))
    return there.time, (type(time).__name__, time.asm8.reshape(1), zone)


def _zone(zone: Any) -> Any:
    """Return a time zone by its key, if it has one: its class may not be there."""
    return getattr(zone, "key", None) or getattr(zone, "zone", None) or zone


def _categorical(array: Any, _: int) -> Any:
    return there.categorical, (array.codes, array.categories, array.ordered)


def _periods(array: Any, _: int) -> Any:
    return there.periods, (array.asi8, array.freqstr)


def _index(index: Any, _: int) -> Any:
    # The frequency is the array's before pandas 3, and the index's from then on.
    settings = {"freq": index.freq, "name": index.name}
    return copyreg.__newobj_ex__, (type(index), (index.array,), settings)  # type: ignore[attr-defined]


def _block(block: Any, protocol: int) -> Any:
    make, args = block.__reduce_ex__(protocol)[:2]
    return (there.block, args) if make.__name__ == "_unpickle_block" else NotImplemented


def _strings(array: Any, _: int) -> Any:
    return there.strings, (array.dtype, array.to_numpy(object))


def _string_dtype(dtype: Any, _: int) -> Any:
    return there.string_dtype, (dtype.storage, dtype.na_value)


_OTHER: tuple[str, Callable[[Any, int], Any]] = "", lambda *_: NotImplemented
_HANDLERS: dict[str, tuple[str, Callable[[Any, int], Any]]] = {
    "ndarray": ("numpy", _array),
    "SeedSequence": ("numpy", _seed_sequence),
    "Generator": ("numpy", _generator),
    "RandomState": ("numpy", _random_state),
    "DatetimeArray": ("pandas", _times),
    "TimedeltaArray": ("pandas", _times),
    "Timestamp": ("pandas", _time),
    "Timedelta": ("pandas", _time),
    "Categorical": ("pandas", _categorical),
    "PeriodArray": ("pandas", _periods),
    "DatetimeIndex": ("pandas", _index),
    "TimedeltaIndex": ("pandas", _index),
    "StringArray": ("pandas", _strings),
    "StringDtype": ("pandas", _string_dtype),
}
for _name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"):
    _HANDLERS[_name] = "numpy", _bit_generator
for _name in ("Numpy", "Numeric", "Object", "Bool", "Extension", "DatetimeLike", "DatetimeTZ"):
    _HANDLERS[f"{_name}Block"] = "pandas", _block
_HANDLERS["CategoricalBlock"] = "pandas", _block


__all__ = ["reduce"]
