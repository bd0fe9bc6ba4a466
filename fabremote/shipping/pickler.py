"""Pickles a call: what is importable there by name, the rest as calls of the loader."""

from __future__ import annotations

import _pickle
import builtins
import contextlib
import dataclasses
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from fabric.group import Group
from invoke.context import Context

from fabremote.agent import classes as agent_classes
from fabremote.agent import importing, incoming, loader, sources
from fabremote.bootstrap import RemotePython
from fabremote.shipping import class_source, classes, code, third_party, this_side
from fabremote.shipping.iterators import ahead_of, streams
from fabremote.shipping.modules import Scope
from fabremote.shipping.reducers import LIBRARY_CODES, REDUCERS, Forbidden, library_function
from fabremote.shipping.singletons import Singleton
from fabremote.shipping.singletons import table as singletons
from fabremote.store import Blob
from fabremote.upload import EXTRA_MODULES

# Constant bytes from this many on are sent once to an agent, up to so many of them in a payload.
BLOB = 200
BLOBS = 1000

# What a function of the agent's needs there beside what every agent has.
_EXTRAS = {
    **{loader.LOCAL_NAME + name: (name,) for name in EXTRA_MODULES},
    loader.LOCAL_NAME + "incoming": ("streaming", "incoming"),
    loader.LOCAL_NAME + "class_sources": ("importing", "class_sources"),
}

# Compared by identity, so that they must be the far side's own.
_SENTINELS = {
    id(getattr(dataclasses, name)): name
    for name in ("MISSING", "KW_ONLY", "_FIELD", "_FIELD_CLASSVAR", "_FIELD_INITVAR")
}
# Built-in types that only the types module has a name for.
_NAMED_TYPES = {
    id(value): name
    for name in types.__all__
    if isinstance(value := getattr(types, name), type)
    and value.__module__ == "builtins"
    and not hasattr(builtins, value.__name__)
    and value not in (type(None), type(NotImplemented), type(...))
}


_ATOMS = frozenset([type(None), bool, int, float, str, bytes])


class Namespace:
    """The globals of code that goes by value: one per globals dict and payload."""

    def __init__(self, values: dict[str, Any], scope: Scope) -> None:
        self._scope = scope
        self.name: str = values.get("__name__") or "__main__"
        self.values = values

    @property
    def imported(self) -> bool:
        """Whether the far side has these globals once it imports their module."""
        module = sys.modules.get(self.name)
        mine = module is not None and vars(module) is self.values
        return mine and self._scope.by_reference(self.name)


class ClassText(NamedTuple):
    """Stands for a class's source in a payload: as it is read, `inspect` there learns of it."""

    cls: type
    source: class_source.ClassSource


class PayloadPickler(_pickle.Pickler):
    """A pickler of one payload.

    ``classes``: the caller's own classes in it, by number. ``scope``: the
    modules that it refers to. ``blobs``: its large constants, by digest.
    ``files``: those that its code came from. ``extras``: the agent's modules that make it.
    For a lasting process ``classes`` are those of its calls before, and it keeps its own.
    ``iterators``: those that the function asks for items, by channel.
    """

    def __init__(
        self,
        file: Any,
        remote: RemotePython,
        buffers: Callable[[Any], Any] | None,
        scope: Scope,
        classes: list[type] | None = None,
    ) -> None:
        protocol = self.protocol = 5 if remote.version >= (3, 8) else 4
        super().__init__(file, protocol, buffer_callback=buffers if protocol == 5 else None)
        self.remote = remote
        self.lasting = classes is not None
        self.classes: list[type] = [] if classes is None else classes
        self.scope = scope
        self.blobs: dict[bytes, Blob] = {}
        self.files: set[str] = set()
        self.extras: set[str] = set()
        self.iterators: dict[int, Any] = {}
        self._namespaces: dict[int, Namespace] = {}
        self._singletons: dict[int, Singleton] = {}

    def own_there(self, value: Any) -> Any:
        """Return what stands for a value that code refers to: mostly the value itself."""
        if type(value) in _ATOMS:
            return value
        if not self._singletons:
            self._singletons = singletons()
        return self._singletons.get(id(value), value)

    def reducer_override(self, obj: Any) -> Any:
        handler = _HANDLERS.get(type(obj))
        if handler is not None:
            return handler(self, obj)
        if isinstance(obj, type):
            return self.reduce_class(obj)
        if isinstance(obj, (Context, Group)):
            raise Forbidden(
                "is a live connection, which can't leave this process",
                obj,
                "Pass what the function needs of it, such as its host name, as an argument; "
                "inside the function you already are on the remote host.",
            )
        if id(obj) in _SENTINELS:
            return loader.attribute, ("dataclasses", _SENTINELS[id(obj)])
        if hasattr(type(obj), "__next__") and streams(obj):
            return self.reduce_iterator(obj)
        return third_party.reduce(obj, self.protocol)

    def reduce_iterator(self, obj: Any) -> Any:
        """An iterator stays here; the function is given one that asks it for items."""
        channel = len(self.iterators) + 1
        self.iterators[channel] = obj
        self.extras.update(("streaming", "incoming"))
        return incoming.incoming, (channel, ahead_of(obj))

    def goes_by_name(self, obj: Any) -> bool:
        """Return whether the far side can import ``obj`` by its module and qualified name."""
        module, path = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
        if not isinstance(module, str) or path is None or not self.scope.by_reference(module):
            return False
        found = sys.modules.get(module)
        for part in path.split("."):
            found = getattr(found, part, None)
        if found is not obj:
            return False
        self.need(module)
        return True

    def stand_in(self, obj: Any) -> Any:
        """Return how what code names of this side's libraries is found there, or None."""
        args = this_side.stand_in(obj)
        if args is None or not self.scope.is_named(args[0]):
            return None
        return this_side.named, args

    def need(self, module: str) -> None:
        """Have an own module's source, and what it imports, go along."""
        self.scope.need(module)

    def stores(self, blob: Blob) -> bool:
        """Return whether constant bytes go as a blob, which is one of the payload's then."""
        if len(blob.data) < BLOB or len(self.blobs) >= BLOBS:
            return False
        self.blobs[blob.digest] = blob
        return True

    def namespace(self, values: dict[str, Any]) -> Namespace:
        """Return the one `Namespace` of these globals."""
        return self._namespaces.setdefault(id(values), Namespace(values, self.scope))

    def reduce_namespace(self, home: Namespace) -> Any:
        if home.imported:
            self.need(home.name)
            return loader.imported, (home.name,)
        make = importing.package if self.scope.package(home.name) else loader.module
        return make, (
            this_side.name_there(home.name),
            home.values.get("__file__"),
            home.values.get("__package__"),
        )

    def reduce_function(self, fn: types.FunctionType) -> Any:
        # The loader's own functions are what payloads are made of.
        if _is_agents(fn):
            self.extras.update(_EXTRAS.get(fn.__module__, ()))
            return NotImplemented
        if self.goes_by_name(fn):
            return self.stand_in(fn) or NotImplemented
        if id(fn.__code__) in LIBRARY_CODES:
            return library_function(self, fn)
        make = code.dump(fn.__code__, self.remote, fn.__globals__).make
        args: tuple[Any, ...] = fn.__code__, self.namespace(fn.__globals__), fn.__name__
        args += (fn.__closure__,)
        if fn.__closure__ and not code.is_same(self.remote):
            args += (fn.__code__.co_freevars,)
        state = self._function_state(fn, made_up=make is sources.marshalled)
        return loader.function, args, state, None, None, loader.set_function

    def _function_state(self, fn: types.FunctionType, made_up: bool) -> tuple[Any, ...]:
        """Return what `set_function` needs; ``made_up``: globals that no source can name too."""
        found = code.references(fn.__code__)
        used: dict[str, Any] = {}
        if not self.namespace(fn.__globals__).imported:
            names = [name for name in found.globals if made_up or not name.startswith("@")]
            used = {n: self.own_there(fn.__globals__[n]) for n in names if _ships(fn, n)}
        submodules: list[str] = []
        parts: list[tuple[types.ModuleType, dict[str, Any]]] = []
        for module in filter(_is_module, [*used.values(), *_captured(fn)]):
            if self.stand_in(module) is not None:
                parts += this_side.parts(module, found.names)
                continue
            submodules += self._submodules(module, found.names)
            if not self.scope.is_importable(module):
                parts.append((module, _attributes(module, found.names)))
        if "__import__" in found.names:
            self.need("importlib")
        for name in found.modules(fn.__globals__.get("__package__") or ""):
            self.need(name)
        special = {
            "__qualname__": fn.__qualname__,
            "__module__": fn.__module__,
            "__doc__": fn.__doc__,
            "__annotations__": classes.annotation_texts(fn.__annotations__),
        }
        defaults = fn.__defaults__ and tuple(map(self.own_there, fn.__defaults__))
        named = fn.__kwdefaults__ and {
            name: self.own_there(value) for name, value in fn.__kwdefaults__.items()
        }
        return used, submodules, parts, defaults, named, fn.__dict__, special

    def _submodules(self, module: types.ModuleType, names: frozenset[str]) -> list[str]:
        """Return the package's submodules that code reaches as its attributes."""
        if not hasattr(module, "__path__") or not self.scope.is_importable(module):
            return []
        start = module.__name__ + "."
        found = [
            name
            for name in list(sys.modules)
            if name.startswith(start) and names.issuperset(name[len(start) :].split("."))
        ]
        for name in found:
            self.need(name)
        return found

    def reduce_code(self, obj: types.CodeType) -> Any:
        self.files.add(obj.co_filename)
        recipe = code.dump(obj, self.remote)
        if not self.stores(recipe.packed):
            return recipe.make, recipe.args
        return sources.unpacked, (recipe.make, recipe.packed)

    def reduce_class_text(self, text: ClassText) -> Any:
        self.files.add(text.source.file)
        blob = text.source.text
        return text.source.description(text.cls, blob if self.stores(blob) else blob.data)

    def reduce_class(self, cls: type) -> Any:
        if cls.__module__ == "builtins":
            name = _NAMED_TYPES.get(id(cls))
            return NotImplemented if name is None else (loader.attribute, ("types", name))
        if self.goes_by_name(cls):
            if (found := self.stand_in(cls)) is not None:
                return found
            public = classes.public_name(cls)
            return NotImplemented if public is None else (loader.attribute, public)
        number = self._number(cls)
        make, args, state = self._class(cls, number)
        if self.lasting:
            make, args = agent_classes.once, (make, *args)
        return make, args, state, None, None, agent_classes.set_class

    def _number(self, cls: type) -> int:
        """Return the class's number in the call, or in its lasting process."""
        if self.lasting:
            for number, known in enumerate(self.classes):
                if known is cls:
                    return number
        self.classes.append(cls)
        return len(self.classes) - 1

    def _class(self, cls: Any, number: int) -> tuple[Any, tuple[Any, ...], Any]:
        """Return what makes a class there, its arguments, and the state that fills it in."""
        namespace, more = classes.namespace(cls), classes.more(cls)
        if (found := class_source.source_of(cls)) is not None:
            more["source"] = ClassText(cls, found)
        named: tuple[Any, ...] = number, type(cls), cls.__name__, cls.__bases__, namespace
        if classes.is_enum(cls):
            more["members"] = classes.member_attributes(cls)
            members, *kind = classes.made_members(cls) or (classes.members(cls),)
            args = (*named, members, classes.enum_settings(cls), *kind)
            return agent_classes.enumeration, args, (classes.enum_attributes(cls), more)
        if classes.is_namedtuple(cls):
            args = (number, cls.__name__, cls._fields, cls.__bases__, namespace)
            more["defaults"] = cls.__new__.__defaults__
            return agent_classes.namedtuple, args, (classes.namedtuple_attributes(cls), more)
        if classes.is_typed_dict(cls):
            args = (number, cls.__name__, [*cls.__annotations__], cls.__total__, namespace)
            return agent_classes.typed_dict, args, (classes.typed_dict_attributes(cls), more)
        attributes = classes.attributes
        if classes.is_dataclass(cls):
            attributes = classes.dataclass_attributes
            more["dataclass"] = classes.dataclass_parts(cls)
        return agent_classes.skeleton, named, (attributes(cls), more)


def _is_agents(fn: types.FunctionType) -> bool:
    return (fn.__module__ or "").startswith(loader.LOCAL_NAME)


def _ships(fn: types.FunctionType, name: str) -> bool:
    """Whether a global that code names is shipped, not made there for every module."""
    return name in fn.__globals__ and name not in ("__name__", "__file__", "__package__")


def _is_module(obj: Any) -> bool:
    return isinstance(obj, types.ModuleType)


def _captured(fn: types.FunctionType) -> list[Any]:
    """Return what the function's closure holds."""
    found = []
    for cell in fn.__closure__ or ():
        with contextlib.suppress(ValueError):
            found.append(cell.cell_contents)
    return found


def _attributes(module: types.ModuleType, names: frozenset[str]) -> dict[str, Any]:
    """Return what code may use of a module that goes by value."""
    return {name: value for name, value in list(vars(module).items()) if name in names}


_HANDLERS: dict[type, Callable[[PayloadPickler, Any], Any]] = {
    **REDUCERS,
    types.FunctionType: PayloadPickler.reduce_function,
    types.CodeType: PayloadPickler.reduce_code,
    Namespace: PayloadPickler.reduce_namespace,
    ClassText: PayloadPickler.reduce_class_text,
}
