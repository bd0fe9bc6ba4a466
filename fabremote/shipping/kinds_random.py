"""Rebuilds NumPy's sources of random numbers, as `fabremote.agent.kinds_arrays` describes them.

Their code reads its tables at the places that a state names, unchecked: so each number of a
state is checked here.
"""

from __future__ import annotations

from typing import Any

from fabremote.shipping.builders import ANY, Builder, builds, check_items, extra, require

BUILDERS: dict[str, Builder] = {}

_WORD, _LONG, _WIDE = 1 << 32, 1 << 64, 1 << 128
# Of each bit generator: the largest that its numbers may be, plus 1, and the length and type of
# its arrays; first those of its inner state, then those beside it.
_KEYS: dict[str, Any] = {"has_uint32": 2, "uinteger": _WORD}
_STATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "PCG64": ({"state": _WIDE, "inc": _WIDE}, _KEYS),
    "PCG64DXSM": ({"state": _WIDE, "inc": _WIDE}, _KEYS),
    "MT19937": ({"key": (624, "u4"), "pos": 625}, {}),
    "Philox": (
        {"counter": (4, "u8"), "key": (2, "u8")},
        {"buffer": (4, "u8"), "buffer_pos": 5, **_KEYS},
    ),
    "SFC64": ({"state": (4, "u8")}, _KEYS),
}
# The most bits of a seed, and the most numbers that it was spawned by.
_LONGEST, _DEEPEST = 1 << 20, 1 << 10


def _checked(found: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return what ``wanted`` names in a part of a state."""
    require(
        type(found) is dict and found.keys() >= wanted.keys(), "a part of the state is missing"
    )
    numpy = extra("numpy")
    for name, limit in wanted.items():
        value = found[name]
        if type(limit) is int:
            require(type(value) is int and 0 <= value < limit, f"its {name} is out of range")
        else:
            require(type(value) is numpy.ndarray, f"its {name} isn't an array")
            fits = value.shape == limit[:1] and value.dtype.kind == "u"
            require(fits and value.dtype.itemsize <= 8, f"its {name} has another form")
            # MT19937's words are kept in longer ones by some versions.
            require(limit[1] != "u4" or int(value.max()) < _WORD, f"its {name} is out of range")
    return {name: found[name] for name in wanted}


@builds(BUILDERS, "numpy_bit_generator", str, ANY, dict)
def _bits(name: str, seed: Any, state: dict[Any, Any]) -> object:
    require(name in _STATES, "the bit generator isn't known")
    random = extra("numpy").random
    require(seed is None or type(seed) is random.SeedSequence, "its seed isn't one")
    inner, beside = _STATES[name]
    checked = {"bit_generator": name, "state": _checked(state.get("state"), inner)}
    made = getattr(random, name)(seed if seed is not None else 0)
    made.state = {**checked, **_checked(state, beside)}
    return made


@builds(BUILDERS, "numpy_generator", ANY)
def _generator(bits: Any) -> object:
    numpy = extra("numpy")
    require(type(bits).__name__ in _STATES, "the bit generator isn't one")
    require(isinstance(bits, numpy.random.BitGenerator), "the bit generator isn't one")
    return numpy.random.Generator(bits)


@builds(BUILDERS, "numpy_random_state", str, ANY, int, int, float)
def _random_state(name: str, key: Any, position: int, has_gauss: int, gauss: float) -> object:
    require(name == "MT19937" and has_gauss in (0, 1), "the state isn't one of MT19937")
    _checked({"key": key, "pos": position}, _STATES["MT19937"][0])
    made = extra("numpy").random.RandomState(0)
    made.set_state((name, key, position, has_gauss, gauss))
    return made


@builds(BUILDERS, "numpy_seed_sequence", ANY, tuple, int, int)
def _seeds(entropy: Any, spawn_key: tuple[Any, ...], size: int, spawned: int) -> object:
    words = [entropy] if type(entropy) is int or entropy is None else entropy
    require(type(words) in (list, tuple), "the entropy isn't numbers")
    numbers = [each for each in words if each is not None]
    check_items([*numbers, *spawn_key], int)
    bits = sum(32 + each.bit_length() for each in numbers)
    require(bits <= _LONGEST and len(spawn_key) <= _DEEPEST, "the entropy is too long")
    small = all(0 <= each < _WIDE for each in spawn_key) and 0 <= spawned < _WORD
    require(small and 4 <= size <= 64, "a number of the seed is out of range")
    random = extra("numpy").random
    return random.SeedSequence(
        entropy, spawn_key=spawn_key, pool_size=size, n_children_spawned=spawned
    )


__all__ = ["BUILDERS"]
