"""What came back from a call: its value, or the exception that it raised.

The first letter says which (see ``fabremote.agent.worker``); values and
exceptions are data, built here by constructors that check their arguments:
the standard kinds, and the caller's own classes, rebuilt without running any of
their code.
"""

from __future__ import annotations

import _pickle
import functools
import importlib
from collections.abc import Callable, Set
from typing import Any

from fabremote.agent.loader import Stream
from fabremote.exceptions import ResultError, UntrustedResult
from fabremote.receiving import Buffers
from fabremote.shipping import atoms, nodes, own
from fabremote.shipping.nodes import Malformed, Node, quoted, shown
from fabremote.shipping.own import Facts

# What no trust could change.
_UNSENDABLE = ("can't be pickled", "is nested too deeply", "raised ")
_OWN_TAGS = ("instance", "member", "raised", "trusted")
# How much of what the far side says a message about it quotes.
_REASON_LENGTH = 400


@functools.cache
def _builders() -> dict[str, Callable[..., Any]]:
    """Return the constructors of the standard kinds.

    Imported with the first answer that has one, not before: what they build
    takes 9 ms to import, a tenth of what importing Fabric takes.
    """
    return importlib.import_module("fabremote.shipping.kinds").BUILDERS  # type: ignore[no-any-return]


class _FullUnpickler(_pickle.Unpickler):
    classes: list[type]

    def persistent_load(self, number: Any) -> Any:
        return self.classes[number]


class Decoder:
    """Rebuilds the answers of one call.

    ``classes``: the caller's own classes by number; ``modules``: the own
    modules whose source went along; ``trust``: classes that may run their own
    code, or True for a full pickle. ``files``: those whose code went along.
    ``what`` names the call in messages.
    """

    def __init__(
        self,
        what: str,
        classes: list[type],
        modules: Set[str],
        trust: bool | tuple[type, ...],
        files: Set[str] = frozenset(),
    ) -> None:
        self.what = what
        self._classes = classes
        self._modules = modules
        self.trust = trust
        self.files = files
        self._facts: dict[type, Facts] = {}

    def own(self, names: Set[str]) -> frozenset[str]:
        """Return those of ``names`` that are own modules whose source went along."""
        return frozenset(names & self._modules)

    def value(self, data: memoryview, buffers: Buffers | None = None) -> Any:
        """Return the value in a pickle from the host; raise ResultError if it can't be had.

        ``buffers``: what the pickle refers to; they become part of the value.
        """
        atom = atoms.read(data)
        if atom is not None:
            return atom[0]
        if self.trust is True:
            return self._full(data, buffers)
        size = len(data) if buffers is None else buffers.size

        def known(name: str) -> bool:
            return name in _OWN_TAGS or name in _builders()

        graph, tagged = nodes.read(data, known, buffers or ())
        if not tagged:
            return graph
        try:
            return nodes.Builder(self._make, self._shell, self._fill, size).build(graph)
        except UntrustedResult as error:
            raise self.untrusted(error.type_name, error.path, str(error)) from None

    def _full(self, data: memoryview, buffers: Buffers | None) -> Any:
        """trust=True: unpickle by name, which runs whatever code the host chose."""
        reader = _FullUnpickler(Stream(data), buffers=buffers or ())
        reader.classes = self._classes
        return reader.load()

    # Nodes to values

    def _make(self, name: str, args: tuple[Any, ...]) -> Any:
        builders: dict[str, Callable[..., Any]] = {
            "member": self._member,
            "raised": self._exception,
            "instance": self._instance,
            "trusted": self._trusted,
        }
        builder = builders.get(name) or _builders()[name]
        return _checked(name, builder, *args)

    def _shell(self, node: Node) -> Any:
        """Return an empty instance of a class, if it can be had ahead of its arguments."""
        if node.name == "trusted" and len(node.args) == 3 and node.args[2] == ():
            return self._make(node.name, node.args)
        if node.name == "instance" and len(node.args) == 3 and node.args[1] in own.EARLY:
            return self._make(node.name, (node.args[0], node.args[1], None))
        return None

    def _instance(self, ref: Any, base: Any, value: Any) -> Any:
        return own.create(self._plain_class(ref), base, value)

    def _fill(self, obj: Any, name: str, args: tuple[Any, ...], state: tuple[Any, ...]) -> None:
        if name == "trusted" and len(state) == 3:
            _checked(name, own.set_trusted_state, obj, *state)
        elif name == "instance" and len(args) == 3:
            _checked(name, own.fill, obj, args, state, self._facts_of(type(obj)).slots)
        else:
            raise Malformed(f"an answer holds a malformed {name}: it has no state")

    def _plain_class(self, ref: Any) -> type:
        cls = self._class(ref)
        reason = self._facts_of(cls).reason
        if reason is not None:
            raise UntrustedResult(f"its class defines {reason}", own.full_name(cls))
        return cls

    def _facts_of(self, cls: type) -> Facts:
        facts = self._facts.get(cls)
        if facts is None:
            facts = self._facts[cls] = Facts(cls)
        return facts

    def _class(self, ref: Any) -> type:
        """Return the caller's own class that ``ref`` stands for."""
        if type(ref) is int and 0 <= ref < len(self._classes):
            return self._classes[ref]
        if own.is_name(ref) and ref[0] in self._modules:
            found = own.find_class(*ref)
            if found is not None:
                return found
        raise Malformed(f"an answer refers to a class that isn't part of the call: {shown(ref)}")

    def _member(self, ref: Any, name: Any, *value: Any) -> Any:
        return own.member(self._class(ref), name, *value)

    def _trusted_classes(self) -> tuple[type, ...]:
        return self.trust if isinstance(self.trust, tuple) else ()

    def _trusted(self, index: Any, how: Any, args: Any) -> Any:
        classes = self._trusted_classes()
        if type(index) is not int or not 0 <= index < len(classes) or type(args) is not tuple:
            raise Malformed("an answer refers to a class that wasn't trusted")
        return own.create_trusted(classes[index], how, args)

    # Exceptions

    def _exception(self, ref: Any, args: Any, state: Any) -> BaseException:
        """Return an exception that is part of a value."""
        made = self.exception(ref, args, state)
        if made is None:
            name = quoted(".".join(ref))
            raise UntrustedResult("it is an exception of no class known here", name)
        return made

    def exception(self, ref: Any, args: Any, state: Any) -> BaseException | None:
        """Return the exception of a class reference, or None if its class isn't known here."""
        if own.is_name(ref) and ref[0] not in self._modules:
            cls = own.standard_exception(*ref)
            if cls is None:
                cls = next(
                    (c for c in self._trusted_classes() if (c.__module__, c.__qualname__) == ref),
                    None,
                )
            if cls is None:
                return None
        else:
            cls = self._class(ref)
        return own.create_exception(cls, args, state)

    def untrusted(self, type_name: str, path: str, why: str) -> UntrustedResult:
        """Return the error for an object that ``trust=`` could allow."""
        place = f" at result{path}" if path else ""
        short = type_name.rpartition(".")[2]
        return UntrustedResult(
            f"{self.what} returned a {type_name}{place}, which is not rebuilt from a host's "
            f"data: {why}. If you trust this host with it, call it through "
            f"python(trust=[{short}]); or return plain data.",
            type_name,
            path,
        )


def _checked(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call what builds an object of tag ``name``; whatever it refuses is malformed."""
    try:
        return function(*args)
    except (ResultError, MemoryError):
        raise
    except Exception as error:
        # What a trusted class raises is the caller's to see.
        cause = error if name == "trusted" else None
        text = quoted(str(error), _REASON_LENGTH)
        raise Malformed(f"an answer holds a malformed {name}: {text}") from cause


def refusal(decoder: Decoder, record: Any) -> ResultError:
    """Return the error for a result that the far side itself could not turn into data."""
    kinds = tuple(map(type, record)) if type(record) is tuple else ()
    if kinds != (str, str, str, bool):
        raise Malformed(f"{decoder.what} was refused there, but not said why")
    allowed = record[3]
    why, type_name, path = (quoted(text, _REASON_LENGTH) for text in record[:3])
    if allowed:
        return decoder.untrusted(type_name, path, f"it {why}")
    place = f" at result{path}" if path else ""
    message = (
        f"{decoder.what} returned a {type_name}{place} that {why}. Return data instead: "
        "what you need of it, not the object."
    )
    if why.startswith(_UNSENDABLE):
        return ResultError(message)
    return UntrustedResult(message, type_name, path)


def plain(data: memoryview) -> Any:
    """Return the built-in values in a pickle that may hold nothing else."""
    graph, _ = nodes.read(data, lambda name: False)
    return graph


__all__ = ["Decoder", "plain", "refusal"]
