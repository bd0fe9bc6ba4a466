"""A class's parts, as ``agent.classes`` puts them together again.

What Python's own libraries made of a class (the methods of a dataclass, the
tables of an enum) stays here: each version makes its own.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import enum
import importlib
import inspect
import re
import reprlib
import sys
import types
import typing
from typing import Any

_abc_dump: Any = importlib.import_module("_abc")._get_dump
# Made by Python for every class, or kept in C: not to be sent.
_MADE = frozenset(
    [
        "__orig_bases__",
        "__parameters__",
        "__protocol_attrs__",
        "__non_callable_proto_members__",
        "__callable_proto_members_only__",
        "_is_protocol",
        "__classcell__",
        "__classdictcell__",
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
    if typing.Generic in cls.__mro__ and "__orig_bases__" in cls.__dict__:
        # typing.Generic looks at them as the class is made.
        found["__orig_bases__"] = cls.__dict__["__orig_bases__"]
    if "__slots__" in cls.__dict__:
        slots = cls.__dict__["__slots__"]
        found["__slots__"] = slots if isinstance(slots, str) else tuple(slots)
    return found


def attributes(cls: type) -> dict[str, Any]:
    """Return the attributes to set on the class once it is there."""
    found = {}
    # A list, as other threads may set attributes meanwhile.
    for name, value in list(cls.__dict__.items()):
        if name in _MADE or _is_slot(cls, value):
            continue
        if _is_typings(value):
            continue
        found[name] = annotation_texts(value) if name == "__annotations__" else value
    return found


def _is_typings(value: Any) -> bool:
    """Whether typing put a method into a protocol's class."""
    function = getattr(value, "__func__", value)
    return isinstance(function, types.FunctionType) and function.__module__ == "typing"


def more(cls: type) -> dict[str, Any]:
    """Return what else ``agent.classes.finish`` does with a class of any kind."""
    found: dict[str, Any] = {}
    if "_is_protocol" in cls.__dict__ and getattr(cls, "_is_protocol", False):
        found["protocol"] = True
    if isinstance(cls, abc.ABCMeta):
        registered = [each for ref in _abc_dump(cls)[0] if (each := ref()) is not None]
        if registered:
            found["registered"] = registered
    return found


# What older versions know under another name, which is still there.
_RENAMED = {enum.EnumMeta: ("enum", "EnumMeta"), re.error: ("re", "error")}


def public_name(cls: type) -> tuple[str, str] | None:
    """Return the place where every version has a class of the library, if its own is another."""
    if cls in _RENAMED:
        return _RENAMED[cls]
    module, _, private = cls.__module__.partition("._")
    if private and getattr(sys.modules.get(module), cls.__name__, None) is cls:
        return module, cls.__name__
    return None


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


_PLAIN: dict[type, Any] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda member: bytes.__getitem__(member, slice(None)),
    tuple: lambda member: tuple.__getitem__(member, slice(None)),
    object: lambda member: None,
}


def made_members(cls: Any) -> tuple[list[tuple[str, Any]], type] | None:
    """Return (members, built-in type) if a ``__new__`` of the enum's own makes them."""
    new = getattr(cls, "_new_member_", None) or getattr(cls, "__new_member__", None)
    if not isinstance(new, types.FunctionType) or new.__module__ == "enum":
        return None
    kind = next(kind for kind in _PLAIN if issubclass(cls, kind))
    return [
        (name, (_PLAIN[kind](member), member._value_)) for name, member in cls.__members__.items()
    ], kind


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
    empty = _empty(cls)
    own = {}
    for name, value in attributes(cls).items():
        made = name in _ENUM_MADE or name in cls.__members__
        made = made or (_is_sunder(name) and name in vars(empty))
        if not made and vars(empty).get(name) is not value and name != "__annotations__":
            own[name] = value
    return own


def _empty(cls: Any) -> Any:
    """Return an enum of the same kind without members."""
    return type(cls)("Empty", cls.__bases__, type(cls).__prepare__("Empty", cls.__bases__))


def _is_sunder(name: str) -> bool:
    return name[:1] == name[-1:] == "_" and name[:2] != "__"


def enum_settings(cls: Any) -> dict[str, Any]:
    """Return the keywords of an enum's statement that newer versions know."""
    boundary = getattr(cls, "_boundary_", None)
    if boundary is None or boundary is getattr(_empty(cls), "_boundary_", None):
        return {}
    return {"boundary": boundary}


# Dataclasses

_DATACLASS_MADE = (
    *("__init__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__"),
    *("__setattr__", "__delattr__", "__getstate__", "__setstate__", "__replace__"),
)
_PARAMETERS = ("init", "repr", "eq", "order", "unsafe_hash", "frozen")
_SETTINGS = {
    "init": True,
    "repr": True,
    "hash": None,
    "compare": True,
    "kw_only": False,
    "default": dataclasses.MISSING,
    "default_factory": dataclasses.MISSING,
}


def is_dataclass(cls: type) -> bool:
    """Return whether the class itself, not one that it inherits from, is a dataclass."""
    return "__dataclass_fields__" in cls.__dict__ and "__dataclass_params__" in cls.__dict__


def dataclass_attributes(cls: type) -> dict[str, Any]:
    """Return a dataclass's attributes, but for those that the decorator made."""
    made = ("__dataclass_fields__", "__dataclass_params__")
    return {
        name: value
        for name, value in attributes(cls).items()
        if name not in made and not (name in _DATACLASS_MADE and _is_generated(value))
    }


def _is_generated(value: Any) -> bool:
    code = getattr(value, "__code__", None)
    # reprlib wraps __repr__, against cycles.
    files = ("<string>", dataclasses.__file__, reprlib.__file__)
    return code is not None and code.co_filename in files


def dataclass_parts(cls: Any) -> tuple[Any, ...]:
    """Return the last arguments of ``agent.classes.dataclass``."""
    parameters = {name: getattr(cls.__dataclass_params__, name) for name in _PARAMETERS}
    own = inspect.get_annotations(cls)
    everything = cls.__dict__["__dataclass_fields__"]
    fields = [_field(each) for name, each in everything.items() if name in own]
    keywords = [name for name, each in everything.items() if each.kw_only is True]
    state = cls.__dict__.get("__getstate__")
    return parameters, fields, keywords, state is not None and _is_generated(state)


def _field(field: Any) -> tuple[str, str, dict[str, Any]]:
    kinds = {"_FIELD_CLASSVAR": "class", "_FIELD_INITVAR": "init"}
    settings = {
        name: value
        for name, usual in _SETTINGS.items()
        if (value := getattr(field, name)) is not usual and value is not dataclasses.MISSING
    }
    if field.metadata:
        settings["metadata"] = dict(field.metadata)
    return field.name, kinds.get(field._field_type.name, ""), settings


# Named tuples and typed dicts


def is_namedtuple(cls: type) -> bool:
    """Return whether the class is what ``collections.namedtuple`` or NamedTuple returned."""
    return cls.__bases__[:1] == (tuple,) and {"_fields", "_make", "_replace"} <= set(vars(cls))


def namedtuple_attributes(cls: Any) -> dict[str, Any]:
    """Return what a NamedTuple's statement added to the class."""
    make: Any = collections.namedtuple
    fresh = make("fresh", cls._fields, rename=True)
    kept = ("_field_defaults", "__annotations__")
    return {
        name: value
        for name, value in attributes(cls).items()
        if name in kept or not _is_namedtuples(name, value, vars(fresh))
    }


def _is_namedtuples(name: str, value: Any, fresh: Any) -> bool:
    if name == "__replace__":
        return True
    made = fresh.get(name)
    return name in fresh and getattr(made, "__code__", None) is getattr(value, "__code__", None)


def is_typed_dict(cls: type) -> bool:
    """Return whether the class is a TypedDict."""
    return typing.is_typeddict(cls)


def typed_dict_attributes(cls: Any) -> dict[str, Any]:
    """Return what a TypedDict tells about its keys."""
    keys = ("__annotations__", "__required_keys__", "__optional_keys__", "__total__")
    return {name: value for name, value in attributes(cls).items() if name in keys}
