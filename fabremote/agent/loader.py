"""Builds what a payload describes: functions, classes, cells and modules.

The caller's pickler writes calls of the functions below into the payload, by
the name ``fabremote.agent.loader``; `Unpickler` finds them here, wherever this
module lives and whether or not fabremote is installed on this host.
"""

import builtins
import sys
from _io import BytesIO
from _pickle import Unpickler as _Unpickler

LOCAL_NAME = "fabremote.agent."

# The caller's own classes in this process: class -> its number in the call.
CLASSES = {}  # type: dict[type, int]
# Constant parts of the payload by digest, see `bundle`.
BLOBS = {}  # type: dict[bytes, bytes]
# Files that code of the caller's came from, as it named them.
SHIPPED_FILES = set()  # type: set[str]

# What has the caller send a module of the agent's, see `bundle`.
FETCH = []  # type: list[object]

# What is set once everything is loaded: (class, its __init_subclass__).
LAST = []  # type: list[tuple[type, object]]
# In a lasting process, the modules made for code that travels by value.
MADE = None  # type: dict[str, object] | None

Module = type(sys)
Function = type(lambda: None)


def load(data, buffers):
    """Return the object that the payload's pickle ``data`` describes.

    ``buffers``: functions that return those that it refers to.
    """
    if buffers:
        reader = Unpickler(Stream(data), buffers=(take() for take in buffers))
    else:
        reader = Unpickler(Stream(data) if len(data) > SMALL else BytesIO(data))
    loaded = reader.load()
    for cls, value in LAST:
        cls.__init_subclass__ = value
    del LAST[:]
    return loaded


# Up to so many bytes it takes less to copy them.
SMALL = 16384


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

LIBRARIES = "numpy", "pandas"
NAT = "pandas._libs.tslibs.nattype."
# What versions of NumPy and pandas call the same: (its beginning, the other one).
RENAMED = (
    ("numpy._core.", "numpy.core."),
    ("numpy.core.", "numpy._core."),
    ("numpy.rec.", "numpy."),
    (NAT + "_nat_unpickle", NAT + "__nat_unpickle"),
    (NAT + "__nat_unpickle", NAT + "_nat_unpickle"),
)


class Unpickler(_Unpickler):
    """Loads payloads; the caller is trusted, so names are looked up as usual."""

    def find_class(self, module, name):
        if module.startswith(LOCAL_NAME):
            return getattr(part(module[len(LOCAL_NAME) :]), name)
        try:
            return super(Unpickler, self).find_class(module, name)
        except (AttributeError, ImportError) as error:
            full = module + "." + name
            for start, other in RENAMED:
                if full.startswith(start):
                    module, _, name = (other + full[len(start) :]).rpartition(".")
                    return attribute(module, name)
            raise missing(error, module, name)


def part(name):
    """Return a module of the agent's, which may be one that is sent when it is needed."""
    full = __name__.rpartition(".")[0] + "." + name
    if full not in sys.modules:
        FETCH[0](name)
    return sys.modules[full]


class Main(Module):  # type: ignore[misc,valid-type]
    """The caller's ``__main__``: its code has a ``__file__``, which nobody else may run."""

    __file__ = property(lambda self: None)


def module(name, file, package):
    """Return this process's module for the globals of code that travels by value."""
    if MADE is not None and name in MADE:
        return MADE[name]
    found = Main(name) if name == "__main__" else Module(name)
    found.__dict__["__builtins__"] = builtins
    if file is not None:
        found.__dict__["__file__"] = file
    if package is not None:
        found.__package__ = package
    # Found by pickle, dataclasses and typing through sys.modules. A parent
    # package is not made up: what code imports by name comes from the bundle.
    if name == "__main__" or name not in sys.modules:
        sys.modules[name] = found
    if MADE is not None:
        MADE[name] = found
    return found


def bind(values, name, value):
    """Set a global that isn't there yet; in a lasting process also a function that changed."""
    old = values.setdefault(name, value)
    functions = type(old) is type(value) is Function
    if MADE is not None and functions and old.__code__ != value.__code__:
        values[name] = value


def missing(error, module, name=None):
    """Return the error for what can't be imported, telling which Python it is missing from."""
    what = "%s.%s" % (module, name) if name else "module %s" % module
    version = "%d.%d.%d" % sys.version_info[:3]
    text = "%s isn't there in Python %s (%s)" % (what, version, error)
    error.args = (text,)
    if isinstance(error, ImportError):
        error.msg = text
    return error


def libraries():
    """Return the versions of what objects in payloads are of, and differ between versions."""
    found = [(name, getattr(sys.modules.get(name), "__version__", 0)) for name in LIBRARIES]
    return ["There: %s %s" % each for each in found if each[1]]


def imported(name):
    """Import and return the module called ``name``."""
    __import__(name)
    return sys.modules[name]


def attribute(module_name, name):
    """Return an attribute of a module: how objects compared by identity travel."""
    found = imported(module_name)
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise missing(error, module_name, name)
    return found


def blob(digest):
    """Return a constant part of the payload."""
    return BLOBS[digest]


def plain(fn):
    """Return the function of a decorator that says where it runs: here it simply runs."""
    return fn


def mappingproxy(values):
    """Return a read-only view of a dict."""
    return type(type.__dict__)(values)


def view(name, values):
    """Return a view of a dict, as ``values.keys()`` is one."""
    return getattr(values, name)()


def lru_cache(wrapped, maxsize, typed):
    """Return a function with a cache of its own."""
    import functools

    return functools.lru_cache(maxsize, typed)(wrapped)


def typing_object(kind, name, args=(), settings={}):  # noqa: B006
    """Return a type variable, or whatever else a function of typing makes under a name."""
    return attribute("typing", kind)(name, *args, **settings)


def cached_property(wrapped, name):
    """Return a property that keeps its value in the instance."""
    import functools

    made = getattr(functools, "cached_property", CachedProperty)(wrapped)
    made.attrname = name
    return made


class CachedProperty:
    """The same for Python 3.6 and 3.7."""

    def __init__(self, wrapped):
        self.func = wrapped
        self.__doc__ = wrapped.__doc__

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        value = instance.__dict__[self.attrname] = self.func(instance)
        return value


def rewrapped(module_name, name, wrapped):
    """Return a function as decorated by a decorator of the standard library."""
    return attribute(module_name, name)(wrapped)


def singledispatch():
    """Return a generic function, still without its implementations."""
    return attribute("functools", "singledispatch")(lambda *args: None)


def set_singledispatch(made, state):
    """Give a generic function its implementations: {type: function}."""
    registry, attributes, special = state
    for cls, implementation in registry.items():
        made.register(cls, implementation)
    made.__dict__.update(attributes)
    for name, value in special.items():
        setattr(made, name, value)


def function(code_object, home, name, closure, names=None):
    """Return a function over ``home``'s globals, still without its state.

    ``names``: those of the closure's variables, where their order may be another here.
    """
    if names is not None and code_object.co_freevars != names:
        cells = dict(zip(names, closure or ()))
        closure = tuple([cells[name] for name in code_object.co_freevars])
    return Function(code_object, home.__dict__, name, None, closure)


def set_function(made, state):
    """Fill in what a function refers to, once it can be referred to itself."""
    globals_, submodules, parts, defaults, kwdefaults, attributes, special = state
    for name in submodules:
        __import__(name)
    for home, values in parts:
        for name, value in values.items():
            bind(home.__dict__, name, value)
    for name, value in globals_.items():
        bind(made.__globals__, name, value)
    made.__defaults__ = defaults
    made.__kwdefaults__ = kwdefaults
    made.__dict__.update(attributes)
    for name, value in special.items():
        setattr(made, name, value)


def cell():
    """Return an empty closure cell."""
    return variable()[0].__closure__[0]


def set_cell(made, state):
    """Put ``state[0]`` into a cell, as Python 3.6 can do it too."""
    Function(variable()[1].__code__, {}, "write", None, (made,))(state[0])


def variable():
    """Return functions that read and write a variable of their own, not set yet."""
    if False:
        content = None

    def write(value):
        nonlocal content
        content = value

    return lambda: content, write


def method(function_object, instance):
    """Return a bound method."""
    return Method(function_object, instance)
