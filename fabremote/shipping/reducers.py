"""How objects of the standard library's types that pickle can't send are made there."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import os
import sys
import types
import typing
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fabremote.agent import loader
from fabremote.shipping.singletons import Singleton
from fabremote.store import Blob

if TYPE_CHECKING:
    from fabremote.shipping.pickler import PayloadPickler


class Forbidden(Exception):
    """An object that must not travel: (why, object, what to do instead)."""


def _module(pickler: PayloadPickler, module: types.ModuleType) -> Any:
    if (found := pickler.stand_in(module)) is not None:
        return found
    if pickler.scope.is_importable(module):
        pickler.need(module.__name__)
        return loader.imported, (module.__name__,)
    return pickler.reduce_namespace(pickler.namespace(vars(module)))


def _cell(pickler: PayloadPickler, cell: types.CellType) -> Any:
    try:
        content = (pickler.own_there(cell.cell_contents),)
    except ValueError:
        return loader.cell, ()
    return loader.cell, (), content, None, None, loader.set_cell


def _builtin_method(pickler: PayloadPickler, method: Any) -> Any:
    if type(method.__self__) is types.ModuleType:
        return NotImplemented
    owner = pickler.own_there(method.__self__)
    return (getattr, (owner, method.__name__)) if type(owner) is Singleton else NotImplemented


def _environment(_: PayloadPickler, environment: Any) -> Any:
    raise Forbidden(
        "is the environment of this process, with whatever secrets it holds",
        environment,
        "Pass the variables that the function needs, or dict(os.environ) for all of them.",
    )


def _async_generator(_: PayloadPickler, made: Any) -> Any:
    raise Forbidden(
        "is asynchronous, which an event loop of this process would have to run",
        made,
        "Pass a generator, or a list of its items; the function itself may be asynchronous.",
    )


def _lru_cache(pickler: PayloadPickler, cached: Any) -> Any:
    if pickler.goes_by_name(cached):
        return NotImplemented
    settings = cached.cache_parameters()
    return loader.lru_cache, (cached.__wrapped__, settings["maxsize"], settings["typed"])


def _is_importable(pickler: PayloadPickler, obj: Any) -> bool:
    """Whether the far side can import what typing made under a name."""
    found = getattr(sys.modules.get(obj.__module__), obj.__name__, None)
    if found is not obj or not pickler.scope.by_reference(obj.__module__):
        return False
    pickler.need(obj.__module__)
    return True


def _typevar(pickler: PayloadPickler, var: typing.TypeVar) -> Any:
    if _is_importable(pickler, var):
        return NotImplemented
    names = ("bound", "covariant", "contravariant")
    settings = {name: value for name in names if (value := getattr(var, f"__{name}__"))}
    return loader.typing_object, ("TypeVar", var.__name__, var.__constraints__, settings)


def _named(pickler: PayloadPickler, obj: Any) -> Any:
    """A ParamSpec, a TypeVarTuple or a NewType: made anew unless it can be imported there."""
    if _is_importable(pickler, obj):
        return NotImplemented
    more = (obj.__supertype__,) if isinstance(obj, typing.NewType) else ()
    return loader.typing_object, (type(obj).__name__, obj.__name__, more)


def _union(pickler: PayloadPickler, union: types.UnionType) -> Any:
    if pickler.remote.version >= (3, 10):
        return functools.reduce, (operator.or_, union.__args__)
    # As every version can say it.
    return operator.getitem, (typing.Union, union.__args__)


def _type_alias(pickler: PayloadPickler, alias: Any) -> Any:
    """What a type statement made, whose value is there from now on."""
    if _is_importable(pickler, alias):
        return NotImplemented
    settings = {"type_params": alias.__type_params__} if alias.__type_params__ else {}
    return loader.typing_object, ("TypeAliasType", alias.__name__, (alias.__value__,), settings)


def _generic_alias(pickler: PayloadPickler, alias: types.GenericAlias) -> Any:
    if pickler.remote.version >= (3, 9):
        return NotImplemented
    name = alias.__origin__.__name__
    older = getattr(typing, _OLDER_NAMES.get(name, name), None)
    return (operator.getitem, (older, alias.__args__)) if older is not None else NotImplemented


_OLDER_NAMES = {
    **{kind.__name__: kind.__name__.title() for kind in (list, dict, tuple, set, type)},
    "frozenset": "FrozenSet",
    "defaultdict": "DefaultDict",
    "deque": "Deque",
}


def library_function(pickler: PayloadPickler, fn: types.FunctionType) -> Any:
    """Return how a function that a decorator of the standard library returned is made there."""
    name = _WRAPPERS.get(id(fn.__code__))
    if name is not None:
        return loader.rewrapped, ("contextlib", name, _closure(fn)["func"])
    if fn.__code__ is _DISPATCHING_METHOD:
        parts, method = _closure(fn), fn.register.__self__  # type: ignore[attr-defined]
        return _DispatchMethod.__get__, (method, parts["obj"], parts["cls"])
    special = {key: getattr(fn, key) for key in ("__name__", "__qualname__", "__module__")}
    special["__doc__"] = fn.__doc__
    methods = ("register", "dispatch", "registry", "_clear_cache")
    attributes = {key: value for key, value in vars(fn).items() if key not in methods}
    state = dict(fn.registry), attributes, special  # type: ignore[attr-defined]
    return loader.singledispatch, (), state, None, None, loader.set_singledispatch


def _context_manager(_: PayloadPickler, manager: Any) -> Any:
    """A context manager that was not entered yet, as decorators keep one."""
    if inspect.getgeneratorstate(manager.gen) != inspect.GEN_CREATED:
        return NotImplemented
    return type(manager), (manager.func, manager.args, manager.kwds)


def _closure(fn: types.FunctionType) -> dict[str, Any]:
    cells = zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells}


# Code that a decorator gives all that it returns, by the decorator's name.
_CONTEXTS: tuple[Any, ...] = (contextlib.contextmanager, contextlib.asynccontextmanager)
_WRAPPERS = {id(each(lambda: None).__code__): each.__name__ for each in _CONTEXTS}
_DispatchMethod: Any = functools.singledispatchmethod
_DISPATCHING = functools.singledispatch(lambda _: None).__code__  # type: ignore[attr-defined]
_DISPATCHING_METHOD = _DispatchMethod(lambda _: None).__get__(object(), object).__code__
LIBRARY_CODES = {*_WRAPPERS, id(_DISPATCHING), id(_DISPATCHING_METHOD)}


REDUCERS: dict[type, Callable[[PayloadPickler, Any], Any]] = {
    types.CellType: _cell,
    types.ModuleType: _module,
    types.MethodType: lambda pickler, obj: (
        loader.method,
        (obj.__func__, pickler.own_there(obj.__self__)),
    ),
    types.BuiltinMethodType: lambda pickler, obj: _builtin_method(pickler, obj),
    Singleton: lambda _, obj: (loader.attribute, (obj.module, obj.name)),
    type(os.environ): _environment,
    types.MappingProxyType: lambda _, obj: (loader.mappingproxy, (dict(obj),)),
    Blob: lambda _, obj: (loader.blob, (obj.digest,)),
    weakref.WeakSet: lambda _, obj: (weakref.WeakSet, (list(obj),)),
    types.AsyncGeneratorType: _async_generator,
    memoryview: lambda _, obj: (memoryview, (obj.tobytes(),)),
    type({}.keys()): lambda _, obj: (loader.view, ("keys", dict.fromkeys(obj))),
    type({}.items()): lambda _, obj: (loader.view, ("items", dict(obj))),
    type({}.values()): lambda _, obj: (loader.view, ("values", dict(enumerate(obj)))),
    property: lambda _, obj: (property, (obj.fget, obj.fset, obj.fdel, obj.__doc__)),
    staticmethod: lambda _, obj: (staticmethod, (obj.__func__,)),
    classmethod: lambda _, obj: (classmethod, (obj.__func__,)),
    functools.cached_property: lambda _, obj: (
        loader.cached_property,
        (obj.func, obj.attrname),
    ),
    type(functools.lru_cache(lambda: None)): _lru_cache,
    functools.singledispatchmethod: lambda _, obj: (
        loader.rewrapped,
        ("functools", "singledispatchmethod", obj.func),
        {"dispatcher": obj.dispatcher},
    ),
    typing.TypeVar: _typevar,
    typing.ParamSpec: _named,
    typing.NewType: _named,
    types.UnionType: _union,
    type(_CONTEXTS[0](lambda: iter(()))()): _context_manager,
    types.GenericAlias: _generic_alias,
}
if sys.version_info >= (3, 11):
    REDUCERS[typing.TypeVarTuple] = _named
if sys.version_info >= (3, 12):
    REDUCERS[typing.TypeAliasType] = _type_alias


__all__ = ["LIBRARY_CODES", "REDUCERS", "Forbidden", "library_function"]
