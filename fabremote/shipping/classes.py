"""A class's parts, as ``agent.loader`` puts them together again."""

from __future__ import annotations

import enum
import types
from typing import Any

# Made by Python for every class, or kept in C: not to be sent.
_MADE = frozenset(
    [
        "__dict__",
        "__weakref__",
        "_abc_impl",
        "__slots__",
        "__module__",
        "__qualname__",
        "__doc__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__static_attributes__",
        "__firstlineno__",
    ]
)
_ENUM_MADE = frozenset(
    [
        "_member_names_",
        "_member_map_",
        "_value2member_map_",
        "_hashable_values_",
        "_unhashable_values_",
        "_unhashable_values_map_",
        "_member_type_",
        "_value_repr_",
        "_use_args_",
        "_generate_next_value_",
        "_new_member_",
        "_flag_mask_",
        "_all_bits_",
        "_singles_mask_",
        "_boundary_",
        "_inverted_",
        "_iter_member_",
        "_iter_member_by_value_",
        "__new__",
        "__new_member__",
        "__reduce_ex__",
        "__reduce__",
    ]
)


def namespace(cls: type) -> dict[str, Any]:
    """Return what a class's statement must have in its namespace from the start."""
    found: dict[str, Any] = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__dict__.get("__doc__"),
    }
    if "__orig_bases__" in cls.__dict__:
        # typing.Generic looks at them as the class is made.
        found["__orig_bases__"] = cls.__dict__["__orig_bases__"]
    if "__slots__" in cls.__dict__:
        slots = cls.__dict__["__slots__"]
        found["__slots__"] = slots if isinstance(slots, str) else tuple(slots)
    return found


def attributes(cls: type) -> dict[str, Any]:
    """Return the attributes to set on the class once it is there."""
    found = {}
    for name, value in cls.__dict__.items():
        if name in _MADE or _is_slot(cls, value):
            continue
        found[name] = annotation_texts(value) if name == "__annotations__" else value
    return found


def _is_slot(cls: type, value: Any) -> bool:
    return isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls


def annotation_texts(annotations: dict[str, Any]) -> dict[str, Any]:
    """Return annotations that load anywhere; what they name may not be there."""
    return {name: annotation_text(value) for name, value in annotations.items()}


def annotation_text(value: Any) -> Any:
    """Return an annotation that loads anywhere: a built-in type itself, else its text."""
    if isinstance(value, str):
        return value
    if isinstance(value, type) and value.__module__ == "builtins":
        return value if not isinstance(value, types.GenericAlias) else str(value)
    if isinstance(value, type):
        return value.__qualname__
    return repr(value).replace("typing.", "")


def is_enum(cls: type) -> bool:
    """Return whether ``cls`` is an enum with its members."""
    return isinstance(cls, enum.EnumMeta)


def members(cls: Any) -> list[tuple[str, Any]]:
    """Return an enum's (name, value) pairs, aliases included, in order."""
    return [(name, member._value_) for name, member in cls.__members__.items()]


def member_attributes(cls: Any) -> dict[str, dict[str, Any]]:
    """Return what an enum's own __init__ or __new__ set on its members."""
    made = {"_value_", "_name_", "__objclass__", "_sort_order_"}
    found = {}
    for member in cls:
        own = {key: value for key, value in vars(member).items() if key not in made}
        if own:
            found[member._name_] = own
    return found


def enum_attributes(cls: Any) -> dict[str, Any]:
    """Return the attributes of an enum that its statement, not EnumMeta, gave it."""
    empty = type(cls)("Empty", cls.__bases__, type(cls).__prepare__("Empty", cls.__bases__))
    own = {}
    for name, value in attributes(cls).items():
        made = name in _ENUM_MADE or name in cls.__members__
        if not made and vars(empty).get(name) is not value and name != "__annotations__":
            own[name] = value
    return own
