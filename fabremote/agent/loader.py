"""Builds what a payload describes: functions, classes, cells and modules.

The caller's pickler writes calls of the functions below into the payload, by
the name ``fabremote.agent.loader``; `Unpickler` finds them here, wherever this
module lives and whether or not fabremote is installed on this host.
"""

import builtins
import marshal
import sys
from _pickle import Unpickler as _Unpickler

LOCAL_NAME = "fabremote.agent."

# The caller's own classes in this process: class -> its number in the call.
CLASSES = {}  # type: dict[type, int]
# Constant parts of the payload by digest, see `bundle`.
BLOBS = {}  # type: dict[bytes, bytes]
# Files that code of the caller's came from, as it named them.
SHIPPED_FILES = set()  # type: set[str]

# What is set once everything is loaded: (class, its __init_subclass__).
LAST = []  # type: list[tuple[type, object]]

Module = type(sys)
Function = type(lambda: None)


def load(data, buffers):
    """Return the object that the payload's pickle ``data`` describes."""
    stream = Stream(data)
    reader = Unpickler(stream, buffers=buffers) if buffers else Unpickler(stream)
    loaded = reader.load()
    for cls, value in LAST:
        cls.__init_subclass__ = value
    return loaded


class Stream:
    """The least of a binary file that an unpickler needs, over a memoryview, uncopied."""

    def __init__(self, data):
        self.data = data
        self.at = 0

    def read(self, size):
        piece = bytes(self.data[self.at : self.at + size])
        self.at += len(piece)
        return piece

    def readinto(self, target):
        piece = self.data[self.at : self.at + len(target)]
        target[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)

    def readline(self):
        rest = bytes(self.data[self.at :])
        end = rest.find(b"\n") + 1 or len(rest)
        self.at += end
        return rest[:end]


Method = type(Stream(b"").read)


class Unpickler(_Unpickler):
    """Loads payloads; the caller is trusted, so names are looked up as usual."""

    def find_class(self, module, name):
        if module.startswith(LOCAL_NAME):
            package = __name__.rpartition(".")[0]
            return getattr(sys.modules[package + "." + module[len(LOCAL_NAME) :]], name)
        return super(Unpickler, self).find_class(module, name)


def module(name, file, package):
    """Return this process's module for the globals of code that travels by value."""
    found = Module(name)
    found.__dict__["__builtins__"] = builtins
    if file is not None:
        found.__file__ = file
    if package is not None:
        found.__package__ = package
    # Found by pickle, dataclasses and typing through sys.modules. A parent
    # package is not made up: what code imports by name comes from the bundle.
    if name == "__main__" or name not in sys.modules:
        sys.modules[name] = found
    return found


def imported(name):
    """Import and return the module called ``name``."""
    __import__(name)
    return sys.modules[name]


def attribute(module_name, name):
    """Return an attribute of a module: how objects compared by identity travel."""
    found = imported(module_name)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def blob(digest):
    """Return a constant part of the payload."""
    return BLOBS[digest]


def code(data):
    """Return the code object in ``data``, made by a Python of this minor version."""
    made = marshal.loads(data)
    SHIPPED_FILES.add(made.co_filename)
    return made


def plain(fn):
    """Return the function of a decorator that says where it runs: here it simply runs."""
    return fn


def mappingproxy(values):
    """Return a read-only view of a dict."""
    return type(type.__dict__)(values)


def lru_cache(wrapped, maxsize, typed):
    """Return a function with a cache of its own."""
    import functools

    return functools.lru_cache(maxsize, typed)(wrapped)


def typevar(name, constraints, settings):
    """Return a type variable."""
    import typing

    return typing.TypeVar(name, *constraints, **settings)


def function(code_object, home, name, closure):
    """Return a function over ``home``'s globals, still without its state."""
    return Function(code_object, home.__dict__, name, None, closure)


def set_function(made, state):
    """Fill in what a function refers to, once it can be referred to itself."""
    globals_, submodules, parts, defaults, kwdefaults, attributes, special = state
    for name in submodules:
        __import__(name)
    for home, values in parts:
        for name, value in values.items():
            home.__dict__.setdefault(name, value)
    for name, value in globals_.items():
        made.__globals__.setdefault(name, value)
    made.__defaults__ = defaults
    made.__kwdefaults__ = kwdefaults
    made.__dict__.update(attributes)
    for name, value in special.items():
        setattr(made, name, value)


def cell():
    """Return an empty closure cell."""
    if False:
        content = None
    return (lambda: content).__closure__[0]


def set_cell(made, state):
    """Put ``state[0]`` into a cell."""
    made.cell_contents = state[0]


def method(function_object, instance):
    """Return a bound method."""
    return Method(function_object, instance)


def skeleton(number, metaclass, name, bases, namespace):
    """Return a class without its attributes, which follow in `set_class`."""
    made = metaclass(name, bases, dict(namespace))
    CLASSES[made] = number
    return made


def enumeration(number, metaclass, name, bases, namespace, members):
    """Return an enum class with its members, aliases included, but without its methods."""
    body = metaclass.__prepare__(name, bases)
    for key, value in namespace.items():
        body[key] = value
    for key, value in members:
        body[key] = value
    made = metaclass(name, bases, body)
    CLASSES[made] = number
    return made


def set_class(made, state):
    """Set a class's attributes, and the attributes of its members if it is an enum."""
    attributes, members = state
    for name, value in attributes.items():
        if name == "__init_subclass__":
            # Not before all are there: it has run, where the classes are from.
            LAST.append((made, value))
        else:
            # Past a metaclass's own __setattr__: this rebuilds, it does not assign.
            type.__setattr__(made, name, value)
    for name, values in members.items():
        made.__members__[name].__dict__.update(values)
