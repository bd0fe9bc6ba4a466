"""An answer's pickle, read without trusting it: first an inert graph, then values.

The unpickler is given what `scan` has looked through, and sees built-in values,
`Tag` objects and `Node` objects only. No name in the pickle is looked up
anywhere but in the list of tags; a node has no method that a pickle's
instructions could reach but ``__setstate__``, which accepts one state, once.
What the nodes stand for is built afterwards, by `Builder`, from constructors
of ours.
"""

from __future__ import annotations

import _pickle
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from fabremote.exceptions import ResultError, UntrustedResult
from fabremote.printing import printable
from fabremote.shipping import scan, timed
from fabremote.shipping.collisions import BATCH
from fabremote.shipping.extents import Watch, alike, extent
from fabremote.shipping.scan import Cost, Malformed

_ATOMS = frozenset([type(None), bool, int, float, str, bytes, bytearray])
_CONTAINERS = frozenset([list, tuple, dict, set, frozenset])
_HASHING = frozenset([dict, set, frozenset])
# What Python drops by recursion in C, so that a chain of them overflows the stack.
_CHAINED = ("deque", "defaultdict", "slice")
# Dicts and sets up to this size may collide as they will.
_MANY = 1000
# The most levels of objects in objects where such are among them.
CHAIN = 1000
# Beside an object on a stack: its parts are done.
_LEAVE: Any = object()
# How much of a host's texts a message quotes.
QUOTED = 100
_PATH_LENGTH = 300


class _Cycle(Malformed):
    """A part is needed that is itself being built."""


class Node:
    """A call of a tag: what stands for an object until it is built."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...]) -> None:
        self.name = name
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        if self.state is not None or type(state) is not tuple:
            raise Malformed("an answer sets an object's state twice, or to no state")
        self.state = state

    def __reduce__(self) -> Any:
        raise TypeError("a node is not a value")


class Tag:
    """A name that an answer may call; calling it makes a node."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: Any) -> Node:
        return Node(self._name, args)

    def __setstate__(self, state: Any) -> None:
        raise Malformed("an answer sets the state of a tag")


def read(
    data: memoryview, known: Callable[[str], bool], buffers: Iterable[Any] = ()
) -> tuple[Any, bool]:
    """Return (graph, whether it has anything to build) of an answer's pickle.

    ``known`` says whether a tag may be used; ``buffers`` are what the pickle
    refers to. Raises Malformed, whatever is wrong with the bytes.
    """
    try:
        source = timed.checked(data)
        reader = _Reader(source, buffers=buffers)
        reader.known, reader.used, reader.source = known, {}, source
        return reader.load(), bool(reader.used)
    except Malformed:
        raise
    except MemoryError:
        raise Malformed("an answer needs more memory than there is") from None
    except Exception as error:
        raise Malformed(f"an answer isn't a pickle of data: {quoted(str(error))}") from None


class _Reader(_pickle.Unpickler):
    known: Callable[[str], bool]
    used: dict[str, Tag]
    source: timed.Ahead

    def persistent_load(self, items: tuple[Any, ...]) -> frozenset[Any]:
        """Make a large frozenset, in as many steps as a set has: see `scan`."""
        return frozenset(self._in_steps(items))

    def _in_steps(self, items: tuple[Any, ...]) -> Iterator[Any]:
        for start in range(0, len(items), BATCH):
            self.source.peek(1)  # which looks at the clock
            yield from items[start : start + BATCH]

    def find_class(self, module: str, name: str) -> Tag:
        if module != "_fabremote" or not self.known(name):
            text = quoted(f"{module[:QUOTED]}.{name}")
            raise Malformed(f"an answer names {text}, which is code, not data")
        return self.used.setdefault(name, Tag(name))


def quoted(text: str, limit: int = QUOTED) -> str:
    """Return a host's text for a message: its beginning, with nothing that a terminal obeys."""
    return printable(text if len(text) <= limit else text[: limit - 3] + "...")


def shown(obj: Any) -> str:
    """Return what a message says of a host's object, whatever that holds: text, number or type."""
    if type(obj) is str:
        return quoted(repr(obj[:QUOTED]))
    if obj is None or type(obj) is bool or (type(obj) is int and obj.bit_length() < 256):
        return repr(obj)
    if type(obj) is tuple and 0 < len(obj) < 4 and not any(type(part) is tuple for part in obj):
        return f"({', '.join(map(shown, obj))})"
    return type(obj).__qualname__


class Builder:
    """Builds the values that a graph's nodes stand for, without recursion.

    ``make(name, args)`` returns the value of a node without state. For one with
    state, ``shell(node)`` returns the object to be filled, or None if it can't
    exist before its arguments do; then it is ``make``'s. ``fill(object, name,
    args, state)`` fills it. Containers and shells may be in cycles. ``size`` is
    the answer's in bytes, which bounds what is built of it.
    """

    def __init__(
        self,
        make: Callable[[str, tuple[Any, ...]], Any],
        shell: Callable[[Node], Any],
        fill: Callable[[Any, str, tuple[Any, ...], tuple[Any, ...]], None],
        size: int,
    ) -> None:
        self._make, self._shell, self._fill = make, shell, fill
        self._budget, self._watch = scan.Budget(size), Watch(size)
        # What hashing parts of the graph costs, and hashing all keys of dicts and sets again.
        self._costs: dict[int, Cost] = {}
        self._keys: dict[int, int] = {}
        self._built: dict[int, Any] = {}
        # Containers and shells that wait for a part around them to be built.
        self._waiting: set[int] = set()
        self._current: Any = None

    def build(self, root: Any) -> Any:
        """Return the value of the graph ``root``.

        What a constructor of ours refuses raises its error, with ``path`` set
        to the object's place in the graph if the error has such an attribute.
        """
        try:
            order = self._order(root)
            self._check_depth(order)
            for obj in order:
                if type(obj) in _HASHING:
                    self._hash(obj)
            waiting = [obj for obj in order if not self._finished(obj)]
            for obj in waiting:
                self._waiting.discard(id(obj))
                self._complete(obj)
        except UntrustedResult as error:
            error.path = _path(root, self._current)
            raise
        except ResultError:
            raise
        except MemoryError:
            raise Malformed("an answer needs more memory than there is") from None
        except Exception as error:
            # Such as a key that can't be hashed.
            text = quoted(f"{type(error).__name__}: {error}")
            raise Malformed(f"an answer can't be rebuilt: {text}") from None
        return self._get(root)

    def _finished(self, obj: Any) -> bool:
        """Make and complete ``obj``; return False if it must wait for what is around it."""
        self._current = obj
        try:
            if id(obj) not in self._built:
                self._built[id(obj)] = self._value(obj)
            self._complete(obj)
        except _Cycle:
            if id(obj) not in self._built:
                raise
            self._waiting.add(id(obj))
            return False
        return True

    def _order(self, root: Any) -> list[Any]:
        """Return everything to build, each after what it is made of; note what exists early."""
        order: list[Any] = []
        seen: set[int] = set()
        stack = [root]
        while stack:
            obj = stack.pop()
            if obj is _LEAVE:
                order.append(stack.pop())
                continue
            if id(obj) in seen:
                continue
            seen.add(id(obj))
            parts = [part for part in _parts(obj) if type(part) not in _ATOMS]
            if not self._note(obj, bool(parts)):
                stack += (obj, _LEAVE, *parts)
        return order

    def _note(self, obj: Any, nested: bool) -> bool:
        """Note what exists already; return whether that is all there is to do for it."""
        kind = type(obj)
        if kind is Node:
            if obj.state is not None:
                self._current = obj
                shell = self._shell(obj)
                if shell is not None:
                    self._built[id(obj)] = shell
            return False
        plain = not nested and kind in _CONTAINERS
        if plain or kind is list or kind is dict or kind is set:
            self._built[id(obj)] = obj
        return plain

    def _check_depth(self, order: list[Any]) -> None:
        """Refuse chains of objects that Python could not drop."""
        if not any(type(obj) is Node and obj.name in _CHAINED for obj in order):
            return
        depths: dict[int, int] = {}
        for obj in order:
            depth = 1 + max((depths.get(id(part), 0) for part in _parts(obj)), default=0)
            if depth > CHAIN:
                raise Malformed("an answer nests objects too deeply")
            depths[id(obj)] = depth

    def _value(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is tuple:
            return tuple(self._get_all(obj))
        if kind is frozenset:
            return frozenset(self._watch.steps(self._distinct(obj), len(obj)))
        if kind is Node:
            args = self._all(obj.args)
            return self._within(args, self._make, obj.name, args)
        what = "tag as a value" if kind is Tag else kind.__qualname__
        raise Malformed(f"an answer holds a {what}")

    def _within(self, parts: tuple[Any, ...], make: Callable[..., Any], *args: Any) -> Any:
        """Return what ``make`` makes, of these parts, if that is within what may be spent.

        That is what it may copy: a pickle can name one large part many times.
        """
        size, large = 0, False
        for part in parts:
            size += extent(part)
            if type(part) in _HASHING and len(part) > _MANY:
                large = True
                size += alike(part)
            if self._keys:
                size += self._keys.get(id(part), 0)
        self._budget.spend(size)
        return self._watch.timed(make, *args) if large else make(*args)

    def _hash(self, holder: Any) -> None:
        """Count what it will cost to hash the keys of a dict, or the items of a set."""
        costs = [self._cost(key) for key in holder if type(key) not in _ATOMS]
        for cost in costs:
            self._budget.hash(cost)
        if costs:
            self._keys[id(holder)] = sum(weight for weight, _ in costs)

    def _cost(self, root: Any) -> Cost:
        """Return what hashing the value of this part would cost at most."""
        stack = [(root, False)]
        while stack:
            obj, leaving = stack.pop()
            if leaving:
                self._costs[id(obj)] = scan.around(map(self._known_cost, _parts(obj)))
            elif type(obj) not in _ATOMS and id(obj) not in self._costs:
                # In a cycle, what is around it has no cost yet.
                self._costs[id(obj)] = (1, 0)
                stack.append((obj, True))
                stack.extend((part, False) for part in _parts(obj))
        return self._costs[id(root)]

    def _known_cost(self, obj: Any) -> Cost:
        if type(obj) is int:
            return 1 + (obj.bit_length() >> 6), 0
        return self._costs.get(id(obj), (1, 0))

    def _all(self, parts: tuple[Any, ...]) -> tuple[Any, ...]:
        if self._waiting and not self._waiting.isdisjoint(map(id, parts)):
            raise _Cycle("an answer has a cycle through values that can't be in one")
        return tuple(self._get_all(parts))

    def _get(self, part: Any) -> Any:
        return self._get_all((part,))[0]

    def _get_all(self, parts: Iterable[Any]) -> list[Any]:
        built = self._built
        try:
            return [part if type(part) in _ATOMS else built[id(part)] for part in parts]
        except KeyError:
            raise _Cycle("an answer has a cycle through values that can't be in one") from None

    def _complete(self, obj: Any) -> None:
        """Put the built parts into a container or an object with state."""
        kind = type(obj)
        if kind is list:
            obj[:] = self._get_all(obj)
        elif kind is dict:
            keys, values = self._distinct(obj), self._get_all(obj.values())
            obj.clear()
            obj.update(self._watch.steps(zip(keys, values, strict=True), len(keys)))
        elif kind is set:
            parts = self._distinct(obj)
            obj.clear()
            obj.update(self._watch.steps(parts, len(parts)))
        elif kind is Node and obj.state is not None:
            state = self._all(obj.state)
            target = self._built[id(obj)]
            self._within(state, self._fill, target, obj.name, self._all(obj.args), state)

    def _distinct(self, keys: Collection[Any]) -> list[Any]:
        """Return what the keys of a dict stand for, or the items of a set."""
        found = self._get_all(keys)
        if len(found) > _MANY:
            self._budget.spend(alike(found))
        return found


def _path(root: Any, target: Any) -> str:
    """Return the place of a node in the graph that it couldn't be built in."""
    seen = {id(root)}
    # Of each object: the number of the one that holds it, its label there, itself.
    queue: list[tuple[int, str, Any]] = [(-1, "", root)]
    for number, (holder, label, obj) in enumerate(queue):
        if obj is target:
            labels: list[str] = []
            while holder >= 0:
                labels.append(label)
                holder, label, _ = queue[holder]
            return quoted("".join(reversed(labels)), _PATH_LENGTH)
        for label, part in _labelled(obj):
            if type(part) not in _ATOMS and id(part) not in seen:
                seen.add(id(part))
                queue.append((number, label, part))
    return ""


def _labelled(obj: Any) -> list[tuple[str, Any]]:
    kind = type(obj)
    if kind is list or kind is tuple:
        return [(f"[{index}]", item) for index, item in enumerate(obj)]
    if kind is dict:
        keys = [(".keys()", key) for key in obj]
        return [(f"[{shown(key)}]", value) for key, value in obj.items()] + keys
    if kind is set or kind is frozenset:
        return [(f"{{{shown(item)}}}", item) for item in obj]
    if kind is not Node:
        return []
    attributes, *rest = obj.state or ({},)
    found = [("", part) for part in (*obj.args, *rest)]
    if type(attributes) is dict:
        return [(f".{_name(name)}", value) for name, value in attributes.items()] + found
    return found


def _name(name: Any) -> str:
    return name[:QUOTED] if type(name) is str else shown(name)


def _parts(obj: Any) -> list[Any]:
    kind = type(obj)
    if kind is dict:
        return [*obj.keys(), *obj.values()]
    if kind in _CONTAINERS:
        return list(obj)
    if kind is Node:
        return [*obj.args, *(obj.state or ())]
    return []


__all__ = ["Builder", "Malformed", "Node", "Tag", "quoted", "read", "shown"]
