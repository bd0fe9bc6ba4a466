"""Turns what a function returned or raised into data.

An answer is a pickle in which every object that is not a plain built-in value
is a call of a tag: ``_fabremote.<tag>(*arguments)``, the arguments being data
again. The caller's side knows the tags and nothing else, so no name that it
reads here can reach code. Start set: `kinds`. Beyond it:

``instance(ref, base, value)``, then state (attributes, content): an object of
one of the caller's own classes; a list's, dict's or set's value is its content.
``member(ref, name)``: a member of one of their enums. ``raised(ref, args,
state)``: an exception as a value. ``trusted(index, how, args)``, then state: an
object of a class named in ``trust=``, by its own ``__reduce_ex__``.
``ref`` is the class's number in this call, or (module, qualified name) for a
class of a forwarded module, of ``builtins`` or of the standard library.
"""

import copyreg
import struct
import sys
from _pickle import Pickler, PicklingError

from . import bundle, kinds, loader, paths, wire

TAGS = type(sys)("_fabremote")
PROTOCOL = 5 if sys.version_info >= (3, 8) else 4


def items_of(obj):
    """Return a dict's items in its order, past overridden methods."""
    collections = sys.modules.get("collections")
    if collections is not None and isinstance(obj, collections.OrderedDict):
        return collections.OrderedDict.items(obj)
    return dict.items(obj)


# The built-in value inside an object of a subclass, past its overridden methods.
_ALL = slice(None)
_BASES = (
    (int, int.__int__),
    (float, float.__float__),
    (complex, complex.__pos__),
    (str, str.__str__),
    (bytes, lambda obj: bytes.__getitem__(obj, _ALL)),
    (bytearray, lambda obj: bytearray.__getitem__(obj, _ALL)),
    (list, lambda obj: list.__getitem__(obj, _ALL)),
    (tuple, lambda obj: tuple.__getitem__(obj, _ALL)),
    (dict, lambda obj: dict(items_of(obj))),
    (set, lambda obj: set(set.__iter__(obj))),
    (frozenset, lambda obj: frozenset(frozenset.__iter__(obj))),
)


class Refused(Exception):
    """An object that can't go back as data: (why, object, path inside the answer)."""


class Tag:
    """A name that the caller's side knows; pickled as ``_fabremote.<name>``."""

    def __init__(self, name):
        self.__name__ = self.__qualname__ = name
        self.__module__ = "_fabremote"
        setattr(TAGS, name, self)

    def __call__(self, *args):
        raise TypeError("a tag is data")

    def __reduce__(self):
        return self.__name__


def tag(name):
    """Return the tag called ``name``, made at its first use."""
    return getattr(TAGS, name, None) or Tag(name)


_NEXT_BUFFER = b"\x97"
# What says how many bytes follow, in how many bytes, and of what.
_SAYS_SIZE = (
    (b"B", 4, wire.BYTES),
    (b"X", 4, wire.TEXT),
    (b"\x96", 8, wire.BYTEARRAY),
    (b"\x8e", 8, wire.BYTES),
    (b"\x8d", 8, wire.TEXT),
)


class Chunks:
    """A binary file that keeps what is written to it in pieces, large ones as they are.

    ``beside``: the large bytes, texts, bytearrays and buffers that the pickle
    refers to as its buffers, as (kind, data); None to have all in the pickle.
    """

    def __init__(self, beside=None):
        self.pieces = []
        self.size = 0
        self.beside = beside

    def write(self, data):
        # Large objects come as their own bytes; small ones as memoryviews or
        # bytes of a frame that the pickler reuses, so those are copied.
        size = len(data)
        if (
            size >= wire.LARGE
            and self.beside is not None
            and self.pieces
            and self.takes(data, size)
        ):
            return size
        piece = data if type(data) is bytes else bytes(data)
        self.pieces.append(piece)
        self.size += size
        return size

    def takes(self, data, size):
        """Put an object's bytes beside the pickle, if that has just said how many they are."""
        last = self.pieces[-1]
        for code, length, kind in _SAYS_SIZE:
            if last.endswith(code + struct.pack("<Q", size)[:length]):
                self.pieces[-1] = last[: -length - 1] + _NEXT_BUFFER
                self.size -= length
                self.beside.append((kind, memoryview(data)))
                return True
        return False

    def add(self, buffer):
        """Take a `PickleBuffer`; return whether it is small and goes into the pickle."""
        view = buffer.raw()
        if view.nbytes < wire.LARGE or self.beside is None:
            return True
        self.beside.append((wire.BYTEARRAY, view))

    def rooms(self):
        """Return what `wire.Room` takes for each of what goes beside."""
        return [len(data) << 2 | kind for kind, data in self.beside or ()]

    def message(self, letter):
        """Return the pieces of an answer that begins with this letter."""
        codes = self.rooms()
        front = [struct.pack(">cI%dQ" % len(codes), b"B", len(codes), *codes)] if codes else []
        return front + [letter] + self.pieces + [data for _, data in self.beside or ()]


class _Always:
    """A dispatch table that has ``reduce`` for every type, so that 3.6 needs no more."""

    def __init__(self, reduce):
        self.reduce = reduce

    def __getitem__(self, kind):
        return self.reduce


class Encoder:
    """Encodes answers of one call.

    ``trust``: the classes whose own reduction is allowed, or True for a full
    pickle by name, in which only the caller's own classes go by number.
    """

    def __init__(self, trust=()):
        self.trust = trust
        self.indices = {} if trust is True else {cls: n for n, cls in enumerate(trust)}

    def encode(self, value, beside=None):
        """Return the `Chunks` of ``value``'s pickle, or raise `Refused`."""
        chunks = Chunks(beside)
        sys.modules["_fabremote"] = TAGS
        pickler = self._pickler(chunks)
        try:
            pickler.dump(value)
        except Refused as refusal:
            why, culprit = refusal.args
            raise Refused(why, culprit, paths.find(value, culprit))
        except RecursionError:
            raise Refused("is nested too deeply to be sent", value, "")
        except (PicklingError, TypeError, AttributeError) as error:
            raise Refused("can't be pickled (%s)" % error, value, "")
        return chunks

    def _pickler(self, chunks):
        settings = {"buffer_callback": chunks.add} if PROTOCOL == 5 else {}
        if self.trust is True:
            pickler = _FullPickler(chunks, PROTOCOL, **settings)
        elif PROTOCOL == 5:
            pickler = _DataPickler(chunks, PROTOCOL, **settings)
            pickler.reduce = self.reduce
        else:
            # Functions and classes pass it by, and are refused by the caller.
            pickler = Pickler(chunks, PROTOCOL)
            pickler.dispatch_table = _Always(self.reduce)
        return pickler

    def reduce(self, obj):
        """Return how ``obj`` is written: a tag and arguments that are data."""
        cls = type(obj)
        if cls is Tag:
            return obj.__name__
        if isinstance(obj, (type, loader.Function)):
            raise Refused("is code, not data", obj)
        if cls in self.indices:
            return self._trusted(obj, cls)
        described = kinds.describe(obj)
        if described is not None:
            return tag(described[0]), described[1]
        if isinstance(obj, BaseException):
            return self.exception(obj)
        ref = reference(cls)
        if ref is None:
            raise Refused("is not a kind that travels as data", obj)
        return self._own(obj, cls, ref)

    def _own(self, obj, cls, ref):
        members = getattr(cls, "__members__", None)
        if members is not None and hasattr(cls, "_member_map_"):
            name = getattr(obj, "_name_", None)
            if members.get(name) is obj:
                return tag("member"), (ref, name)
            return tag("member"), (ref, None, obj._value_)
        base = plain = content = None
        for candidate, value_of in _BASES:
            if isinstance(obj, candidate):
                base, plain = candidate.__name__, value_of(obj)
                break
        if base in ("list", "dict", "set"):
            # Beside the attributes, so that what it holds may hold it.
            plain, content = None, plain
        return tag("instance"), (ref, base, plain), (paths.state_of(obj), content)

    def exception(self, error):
        """Return the reduction of an exception: its class, arguments and attributes."""
        return tag("raised"), (exception_reference(error),) + exception_parts(error)

    def could_be_trusted(self, obj):
        """Return whether ``trust=[type(obj)]`` would let ``obj`` through."""
        cls = type(obj)
        found = sys.modules.get(cls.__module__)
        for part in cls.__qualname__.split("."):
            found = getattr(found, part, None)
        if cls.__module__ == "builtins" or found is not cls or isinstance(obj, type):
            return False
        try:
            self._trusted(obj, cls)
        except Exception:
            return False
        return True

    def _trusted(self, obj, cls):
        reduce = copyreg.dispatch_table.get(cls)
        reduced = reduce(obj) if reduce is not None else obj.__reduce_ex__(PROTOCOL)
        if isinstance(reduced, str):
            raise Refused("reduces to a name, so that it needs trust=True", obj)
        make, args = reduced[0], tuple(reduced[1])
        state, items, pairs = (tuple(reduced[2:5]) + (None, None, None))[:3]
        if make is copyreg.__newobj__ and args[0] is cls:
            how, args = "new", args[1:]
        elif make is copyreg.__newobj_ex__ and args[0] is cls:
            how, args = "new_ex", args[1:]
        elif make is cls:
            how = "call"
        else:
            name = getattr(make, "__qualname__", repr(make))
            raise Refused(
                "is made by %s(), not by its class, so that it needs trust=True" % name, obj
            )
        items = list(items) if items is not None else None
        pairs = list(pairs) if pairs is not None else None
        return tag("trusted"), (self.indices.get(cls), how, args), (state, items, pairs)


class _DataPickler(Pickler):
    def reducer_override(self, obj):
        return self.reduce(obj)


class _FullPickler(Pickler):
    """trust=True: a pickle by name; the caller's own classes by their numbers."""

    def persistent_id(self, obj):
        if isinstance(obj, type):
            return loader.CLASSES.get(obj)
        return None


def exception_parts(error):
    """Return (arguments, attributes) of an exception, as its base class keeps them."""
    args, state = error.args, paths.state_of(error)
    if isinstance(error, OSError):
        reduced = OSError.__reduce__(error)
        args = reduced[1]
    for name in ("name", "path"):
        if isinstance(error, (ImportError, NameError, AttributeError)) and hasattr(error, name):
            state[name] = getattr(error, name)
    for name in ("__notes__", "__traceback__"):
        state.pop(name, None)
    return args, state


def exception_reference(error):
    """Return how the caller's side may find an exception's class."""
    cls = type(error)
    ref = reference(cls)
    return ref if ref is not None else (cls.__module__, cls.__qualname__)


def reference(cls):
    """Return how the caller's side can find ``cls``, or None if it isn't theirs."""
    number = loader.CLASSES.get(cls)
    if number is not None:
        return number
    if cls.__module__ in bundle.BUNDLE and "<locals>" not in cls.__qualname__:
        return cls.__module__, cls.__qualname__
    return None
