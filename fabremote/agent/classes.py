"""Rebuilds classes that travel by value, each kind as this Python itself would make it.

A class comes first without its attributes, so that they may refer to it, and
is filled in by `set_class`. What Python's own libraries generate (the methods of
dataclasses and named tuples, the tables of enums and protocols) does not
travel; it is made here, by the library of this version.
"""

import sys

from . import loader

# Classes that aren't filled in yet, and those that wait for them: [(class, state)].
UNFINISHED = set()  # type: set[type]
WAITING = []  # type: list[tuple[type, tuple[object, ...]]]
# Alternatives to what dataclasses of this version lacks.
KEYWORD_ONLY = (3, 10)


def entered(number, made):
    """Note a class of the caller's under its number."""
    loader.CLASSES[made] = number
    UNFINISHED.add(made)
    return made


def once(make, number, *args):
    """Return a class that a lasting process has already, or make it."""
    for cls, known in loader.CLASSES.items():
        if known == number:
            return cls
    return make(number, *args)


def skeleton(number, metaclass, name, bases, namespace):
    """Return a class without its attributes, which follow in `set_class`."""
    if sys.version_info < (3, 7) and "__orig_bases__" in namespace:
        bases = namespace.pop("__orig_bases__")
    return entered(number, maker(metaclass).__new__(metaclass, name, bases, dict(namespace)))


def maker(metaclass):
    """Return what makes classes for a metaclass: not the caller's own code, which has run."""
    return next(each for each in metaclass.__mro__ if each not in loader.CLASSES)


def enumeration(number, metaclass, name, bases, namespace, members, settings, kind=None):
    """Return an enum class with its members, aliases included, but without its methods.

    ``kind``: the built-in type of members that a ``__new__`` of its own made;
    their values are then (what they are, value).
    """
    body = metaclass.__prepare__(name, bases)
    for key, value in namespace.items():
        body[key] = value
    if kind is not None:
        body["__new__"] = member_maker(kind)
    for key, value in members:
        body[key] = value
    if sys.version_info < (3, 11):
        settings = {}
    return entered(number, metaclass(name, bases, body, **settings))


def member_maker(kind):
    """Return a __new__ for members: of (what it is, value)."""

    def new(cls, plain, value):
        made = object.__new__(cls) if kind is object else kind.__new__(cls, plain)
        made._value_ = value
        return made

    return new


def namedtuple(number, name, fields, bases, namespace):
    """Return a named tuple's class, still without its defaults and attributes."""
    import collections

    made = collections.namedtuple(name, fields, rename=True)
    if bases != made.__bases__:
        made.__bases__ = bases
    return entered(number, described(made, namespace))


def typed_dict(number, name, names, total, namespace):
    """Return a TypedDict's class."""
    made = loader.attribute("typing", "TypedDict")(name, dict.fromkeys(names, object), total=total)
    return entered(number, described(made, namespace))


def described(made, namespace):
    """Return a class with the names and the docstring that it has on the other side."""
    for name, value in namespace.items():
        type.__setattr__(made, name, value)
    return made


def set_class(made, state):
    """Fill in a class: (attributes, more)."""
    if made not in UNFINISHED:
        return
    if "dataclass" not in state[1]:
        finish(made, state)
    else:
        WAITING.append((made, state))
    # A dataclass looks at those that it inherits from.
    ready = True
    while ready:
        ready = [each for each in WAITING if not UNFINISHED.intersection(each[0].__mro__[1:])]
        for each in ready:
            WAITING.remove(each)
            finish(*each)


def finish(made, state):
    """Set a class's attributes, and make what its kind has more."""
    attributes, more = state
    if "dataclass" in more:
        if "__post_init__" in attributes:
            made.__post_init__ = attributes["__post_init__"]
        dataclass(made, *more["dataclass"])
    for name, value in attributes.items():
        if name == "__init_subclass__":
            # Not before all are there: it has run, where the classes are from.
            loader.LAST.append((made, value))
        else:
            # Past a metaclass's own __setattr__: this rebuilds, it does not assign.
            type.__setattr__(made, name, value)
    for name, values in more.get("members", {}).items():
        made.__members__[name].__dict__.update(values)
    if "defaults" in more:
        made.__new__.__defaults__ = more["defaults"]
    for cls in more.get("registered", ()):
        made.register(cls)
    if "protocol" in more and sys.version_info >= (3, 12):
        protocol(made, attributes.get("_is_runtime_protocol"))
    UNFINISHED.discard(made)


def protocol(made, checked):
    """Let a protocol find its members, which came after it was made."""
    import typing

    maker(type(made)).__init__(made, made.__name__, made.__bases__, {})
    if checked:
        typing.runtime_checkable(made)


def dataclass(made, parameters, fields, keywords, with_state):
    """Make a class a dataclass with these fields: [(name, kind, settings of field())]."""
    dataclasses, typing = loader.imported("dataclasses"), loader.imported("typing")
    old = sys.version_info < KEYWORD_ONLY
    kinds = {"": object, "class": typing.ClassVar, "init": dataclasses.InitVar}
    slots = {}
    for name, kind, settings in fields:
        if name in made.__dict__:
            slots[name] = made.__dict__[name]
        if old:
            settings.pop("kw_only", None)
        if kind != "class":
            type.__setattr__(made, name, dataclasses.field(**settings))
    made.__annotations__ = {name: kinds[kind] for name, kind, _ in fields}
    written = old and keywords and parameters["init"]
    # As it would order them, or refuse to.
    wanted = dict(parameters, init=False) if written else parameters
    dataclasses.dataclass(**wanted)(made)
    for name, descriptor in slots.items():
        type.__setattr__(made, name, descriptor)
    if written:
        made.__init__ = initializer(made, dataclasses, keywords)
    if with_state:
        made.__getstate__ = getattr(dataclasses, "_dataclass_getstate", get_state)
        made.__setstate__ = getattr(dataclasses, "_dataclass_setstate", set_state)


def initializer(made, dataclasses, keywords):
    """Return a dataclass's __init__ with keyword-only arguments, for a Python without them."""
    missing, names = (
        dataclasses.MISSING,
        {"__fabremote_give__": object.__setattr__, "__fabremote_none__": object()},
    )
    plain, named, body, variables = [], [], [], []
    for name, field in made.__dataclass_fields__.items():
        if field._field_type is dataclasses._FIELD_CLASSVAR:
            continue
        default, value = "", name
        if field.default_factory is not missing:
            names["__%s__" % name] = field.default_factory
            default = "=__fabremote_none__"
            value = "__%s__()" % name
            if field.init:
                value += " if %s is __fabremote_none__ else %s" % (name, name)
        elif field.default is not missing:
            names["__%s__" % name] = field.default
            default = "=__%s__" % name
        if field.init:
            (named if name in keywords else plain).append(name + default)
        if field._field_type is dataclasses._FIELD_INITVAR:
            variables.append(name)
        elif field.init or field.default_factory is not missing:
            body.append("__fabremote_give__(self, %r, %s)" % (name, value))
    if hasattr(made, "__post_init__"):
        body.append("self.__post_init__(%s)" % ", ".join(variables))
    arguments = ", ".join(["self"] + plain + (["*"] + named if named else []))
    exec("def __init__(%s):\n %s" % (arguments, "\n ".join(body or ["pass"])), names)
    return names["__init__"]


def get_state(self):
    """The state of a frozen dataclass with slots."""
    return [getattr(self, name) for name in fields_of(self)]


def set_state(self, state):
    """Give a frozen dataclass with slots its state."""
    for name, value in zip(fields_of(self), state):
        object.__setattr__(self, name, value)


def fields_of(obj):
    """Return the names of a dataclass's fields."""
    return [field.name for field in sys.modules["dataclasses"].fields(obj)]
