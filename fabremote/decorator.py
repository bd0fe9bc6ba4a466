"""`@remotely` and `Remotely`: a function that runs on a host wherever it is called."""

from __future__ import annotations

import copy
import enum
import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)

import fabric

from fabremote.agent import loader
from fabremote.futures import RemoteFuture
from fabremote.hosts import ConnectionArguments
from fabremote.interpreter import Interpreter
from fabremote.options import PythonOptions, check_names
from fabremote.shipping.own import needs_trust
from fabremote.stateful import StatefulMethod, keeping, present
from fabremote.targets import Target, check_where, has_names

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
C = TypeVar("C")

# The arguments that say how to connect; all others are options of python().
CONNECTION_ARGUMENTS = tuple(ConnectionArguments.__annotations__)


class Settings(ConnectionArguments, PythonOptions, total=False):
    """What `remotely` and `Remotely` take: how to connect, and options of ``python()``."""


class Remotely(Generic[P, T]):
    """A function that runs on a host: calling it runs it there.

    ``fn``: the function. ``hostname``: where: a name or address, a
    `Connection`, an Invoke context, a group, or a list of these. For names:
    ``port`` (22), ``user`` (the current one), ``key`` (a private key's file
    name, looked up as given, then in ~/.ssh), ``password``, ``compression``,
    ``quiet`` (no warnings or log of the connection), ``ssh_options``. All
    other keywords are options of ``python()``.

    The connection is opened at the first call, kept, and closed at exit or by
    `close`. On a group or list each call returns a GroupResult.
    """

    __wrapped__: Callable[P, T]

    def __init__(self, fn: Callable[P, T], hostname: Any, **settings: Unpack[Settings]) -> None:
        _check_function(fn)
        connecting, options = _parted(settings)
        self._options = cast(PythonOptions, options)
        check_names(options, CONNECTION_ARGUMENTS)
        self._target = Target(hostname, connecting)
        self._settings = settings
        self._others: dict[Any, Remotely[P, T]] = {}
        self._fn = fn
        present(self, fn)

    def __reduce__(self) -> Any:
        # On the far side it is the function: there is where it is to run.
        return loader.plain, (self._fn,)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<{getattr(self, '__qualname__', self._fn)} on {self._target!r}>"

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the function there and return its value."""
        value: T = self._python().call(self._plain(), *args, **kwargs)
        return keeping(self, value)

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> RemoteFuture[T]:
        """Begin a call there and return its Future at once."""
        future = self._single().submit(self._plain(), *args, **kwargs)
        return keeping(self, future)

    def local(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the function here."""
        return self._plain()(*args, **kwargs)

    def on(self, hostname: Any) -> Remotely[P, T]:
        """Return the same function, to run at another place; its connection is kept too."""
        key = hostname if isinstance(hostname, str) else id(hostname)
        if key not in self._others:
            settings = self._settings if has_names(hostname) else cast(Settings, self._options)
            self._others[key] = Remotely(self._fn, hostname, **settings)
        return self._others[key]

    def close(self) -> None:
        """Close the connections that this function opened; the next call opens them again."""
        self._target.close()
        for other in self._others.values():
            other.close()

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: Remotely[Concatenate[Any, Q], T], instance: object, owner: type | None = None
    ) -> BoundRemotely[Q, T]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if isinstance(self._fn, (staticmethod, classmethod)):
            return BoundRemotely(self, self._fn.__get__(instance, owner), ())
        if instance is None:
            return self
        return BoundRemotely(self, self._fn, (instance,))

    def _plain(self) -> Callable[P, T]:
        if isinstance(self._fn, (staticmethod, classmethod)):
            return cast(Callable[P, T], self._fn.__func__)
        return self._fn

    def _python(self) -> Any:
        return self._target.get().python(**self._options)

    def _single(self) -> Interpreter:
        found = self._python()
        if not isinstance(found, Interpreter):
            raise TypeError(
                f"{self!r} runs on a group; submit() it on one host: .on(host).submit()"
            )
        return found


def _check_function(fn: Any) -> None:
    """Raise TypeError unless ``fn`` can run on a host."""
    if isinstance(fn, (property, functools.cached_property)):
        raise TypeError(
            "remotely() decorates functions: write @property above @remotely(...), not below it."
        )
    if not callable(fn) and not isinstance(fn, (staticmethod, classmethod)):
        raise TypeError(f"remotely() decorates a function or a class, not {fn!r:.100}.")


class BoundRemotely(Generic[P, T]):
    """A `Remotely` method, bound to its instance or class."""

    def __init__(self, method: Remotely[Any, Any], fn: Callable[..., Any], first: tuple[Any, ...]):
        self._method, self._fn, self._first = method, fn, first
        self.__self__ = first[0] if first else getattr(fn, "__self__", None)
        present(self, fn)
        self.__signature__ = inspect.signature(functools.partial(fn, *first))

    def __reduce__(self) -> Any:
        return functools.partial, (self._fn, *self._first)

    def __deepcopy__(self, memo: Any) -> BoundRemotely[P, T]:
        return BoundRemotely(self._method, self._fn, copy.deepcopy(self._first, memo))

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the method there and return its value."""
        value: T = self._method._python().call(self._fn, *self._first, *args, **kwargs)
        return keeping(self._method, value)

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> RemoteFuture[T]:
        """Begin a call there and return its Future at once."""
        future = self._method._single().submit(self._fn, *self._first, *args, **kwargs)
        return keeping(self._method, future)

    def local(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the method here."""
        value: T = self._fn(*self._first, *args, **kwargs)
        return value

    def on(self, hostname: Any) -> BoundRemotely[P, T]:
        """Return the same bound method, to run at another place."""
        return BoundRemotely(self._method.on(hostname), self._fn, self._first)

    def close(self) -> None:
        """Close the connections that the method opened; the next call opens them again."""
        self._method.close()


class Decorator(Protocol):
    """What `remotely` returns: a function keeps its signature, a class stays itself."""

    # A class is callable as well; this one comes first.
    @overload
    def __call__(self, target: type[C], /) -> type[C]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: classmethod[Any, P, T], /) -> BoundRemotely[P, T]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, target: staticmethod[P, T], /
    ) -> BoundRemotely[P, T]: ...
    @overload
    def __call__(self, target: Callable[P, Coroutine[Any, Any, T]], /) -> Remotely[P, T]: ...
    @overload
    def __call__(self, target: Callable[P, T], /) -> Remotely[P, T]: ...


def remotely(hostname: Any, **settings: Unpack[Settings]) -> Decorator:
    """Return a decorator that makes a function, method or class run on a host.

    Takes what `Remotely` takes. On a class, each call of its methods runs
    there, with the instance's state carried both ways; special methods, such as
    ``__init__`` and ``__repr__``, and properties run here.
    """
    connecting, options = _parted(settings)
    check_names(options, CONNECTION_ARGUMENTS)
    check_where(hostname, connecting)
    return functools.partial(_decorate, hostname, settings)


def _parted(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (arguments of the connection, options of python())."""
    connecting = {k: v for k, v in settings.items() if k in CONNECTION_ARGUMENTS}
    return connecting, {k: v for k, v in settings.items() if k not in connecting}


def _decorate(hostname: Any, settings: Settings, target: Any, /) -> Any:
    if inspect.isclass(target):
        return _decorate_class(target, hostname, settings)
    return Remotely(target, hostname, **settings)


def _check_class(cls: type, hostname: Any, settings: Settings) -> None:
    """Raise TypeError unless a class's instances can go to one host and come back."""
    if isinstance(hostname, (list, tuple, fabric.Group)):
        raise TypeError(
            f"@remotely({hostname!r:.60}) decorates functions, and {cls.__qualname__} is a class: "
            "its instances have one state, and so one place. Name one host."
        )
    # Enumerations are known by their members, exceptions by their arguments.
    method = None if issubclass(cls, (enum.Enum, BaseException)) else needs_trust(cls)
    if method and settings.get("trust") is not True:
        raise TypeError(
            f"{cls.__qualname__} has a {method} of its own, which would run as an instance comes "
            "back from the host. Give trust=True, decorate its methods one by one, or do without "
            f"{method}."
        )


def _check_method(method: Any) -> None:
    """Raise TypeError if a method can't bring its instance's state back: it makes a generator."""
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        raise TypeError(
            f"{method.__qualname__}() is a generator function, whose instance has no one state to "
            "bring back from the host. Return a list, or decorate the class's methods one by one."
        )


def _decorate_class(cls: type, hostname: Any, settings: Settings) -> type:
    _check_class(cls, hostname, settings)
    where: Remotely[Any, Any] = Remotely(cls, hostname, **settings)
    for name, member in list(vars(cls).items()):
        if name.startswith("__") and name != "__call__":
            continue
        if inspect.isfunction(member):
            _check_method(member)
            setattr(cls, name, StatefulMethod(where, member))
        elif isinstance(member, (staticmethod, classmethod)):
            fn: Any = member
            method: Remotely[Any, Any] = Remotely(fn, hostname, **settings)
            method._target = where._target
            setattr(cls, name, method)
    return cls


__all__ = ["Remotely", "remotely"]
