"""What stands for a name of the caller's own libraries on a host that hasn't them."""

import sys


def named(module, path, shown, kind, methods=()):
    """Return what a module has under a name, or a stand-in where it can't be imported here.

    Whoever uses a stand-in gets an ImportError that begins with ``shown``.
    ``path``: "" for the module itself. ``kind``: "module", "class", "error" (an
    exception's class) or "function". ``methods``: the special ones that the class defines.
    """
    try:
        __import__(module)
        found = sys.modules[module]
        for name in path.split(".") if path else ():
            found = getattr(found, name)
        return found
    except Exception as error:
        return stand_in(module, path, shown, kind, methods, error)


def stand_in(module, path, shown, kind, methods, reason):
    """Return what raises an error when it is used, because of the exception ``reason``."""
    import abc

    def failing(name):
        def fail(*args, **kwargs):
            raise failure(name, reason)

        return fail

    def get(obj, name):
        # Asked for by pickle, copy and inspect, which can do without.
        if name.startswith("__"):
            raise AttributeError(name)
        raise failure(shown + "." + name, reason)

    if kind == "module":
        return type("Module", (type(sys),), {"__getattr__": get})(module)
    # Of abc, so that classes of both can be made.
    meta = type("Meta", (abc.ABCMeta,), {"__call__": failing(shown), "__getattr__": get})
    body = {name: failing(shown + "." + name) for name in methods}
    if kind == "function":
        body["__call__"] = failing(shown)
    body.update(__getattr__=get, __module__=module, __qualname__=path)
    base = Exception if kind == "error" else object
    made = meta(path.rpartition(".")[2], (base,), body)
    return made.__new__(made) if kind == "function" else made


def failure(name, reason):
    """Return the error for the use of a stand-in."""
    make = ModuleNotFoundError if isinstance(reason, ModuleNotFoundError) else ImportError
    text = "%s can't be used here: %s" % (name, reason)
    return make(text, name=getattr(reason, "name", None))
