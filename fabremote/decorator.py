"""`@remotely` and `Remotely`: a function that runs on a host wherever it is called."""

from __future__ import annotations

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

from fabremote.agent import loader, paths, worker
from fabremote.hosts import ConnectionArguments
from fabremote.interpreter import Interpreter, RemoteFuture
from fabremote.options import PythonOptions, check_names
from fabremote.targets import Target, check_where

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
        if not callable(fn) and not isinstance(fn, (staticmethod, classmethod)):
            raise TypeError(f"remotely() decorates a function or a class, not {fn!r:.100}.")
        connecting, options = _parted(settings)
        self._options = cast(PythonOptions, options)
        check_names(options, CONNECTION_ARGUMENTS)
        self._target = Target(hostname, connecting)
        self._settings = settings
        self._others: dict[Any, Remotely[P, T]] = {}
        self._fn = fn
        functools.update_wrapper(self, fn, updated=())

    def __reduce__(self) -> Any:
        # On the far side it is the function: there is where it is to run.
        return loader.plain, (self._fn,)

    def __repr__(self) -> str:
        return f"<{getattr(self, '__qualname__', self._fn)} on {self._target!r}>"

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the function there and return its value."""
        value: T = self._python().call(self._plain(), *args, **kwargs)
        return value

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> RemoteFuture[T]:
        """Begin a call there and return its Future at once."""
        return self._single().submit(self._plain(), *args, **kwargs)

    def local(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the function here."""
        return self._plain()(*args, **kwargs)

    def on(self, hostname: Any) -> Remotely[P, T]:
        """Return the same function, to run at another place; its connection is kept too."""
        key = hostname if isinstance(hostname, str) else id(hostname)
        if key not in self._others:
            named = isinstance(hostname, (str, list, tuple))
            settings = self._settings if named else cast(Settings, self._options)
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


class BoundRemotely(Generic[P, T]):
    """A `Remotely` method, bound to its instance or class."""

    def __init__(self, method: Remotely[Any, Any], fn: Callable[..., Any], first: tuple[Any, ...]):
        self._method, self._fn, self._first = method, fn, first
        functools.update_wrapper(self, fn, updated=())
        self.__signature__ = inspect.signature(functools.partial(fn, *first))

    def __reduce__(self) -> Any:
        return functools.partial, (self._fn, *self._first)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the method there and return its value."""
        value: T = self._method._python().call(self._fn, *self._first, *args, **kwargs)
        return value

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> RemoteFuture[T]:
        """Begin a call there and return its Future at once."""
        return self._method._single().submit(self._fn, *self._first, *args, **kwargs)

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


class StatefulMethod:
    """A method of a decorated class: runs there, with the instance's state carried both ways."""

    def __init__(self, where: Remotely[Any, Any], fn: Callable[..., Any]) -> None:
        self._where, self._fn = where, fn
        functools.update_wrapper(self, fn, updated=())

    def __reduce__(self) -> Any:
        return loader.plain, (self._fn,)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else BoundStateful(self._where, self._fn, instance)

    def close(self) -> None:
        """Close the connections that the class opened; the next call opens them again."""
        self._where.close()

    def __call__(self, instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        return BoundStateful(self._where, self._fn, instance)(*args, **kwargs)


class BoundStateful:
    """A method of a decorated class, bound to its instance."""

    def __init__(self, where: Remotely[Any, Any], fn: Callable[..., Any], instance: Any) -> None:
        self._where, self._fn, self._instance = where, fn, instance
        functools.update_wrapper(self, fn, updated=())
        self.__signature__ = inspect.signature(functools.partial(fn, instance))

    def __reduce__(self) -> Any:
        return functools.partial, (self._fn, self._instance)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        python = self._where._single()
        try:
            return self._take(python.call(worker.carry, self._fn, self._instance, args, kwargs))
        except BaseException as error:
            self._take_from(error)
            raise

    def submit(self, /, *args: Any, **kwargs: Any) -> RemoteFuture[Any]:
        """Begin a call there; the instance has its state when the Future has its result."""
        python = self._where._single()
        inner = python.submit(worker.carry, self._fn, self._instance, args, kwargs)
        outer: RemoteFuture[Any] = RemoteFuture(self._fn.__qualname__, lambda: None)

        def settle(done: Any) -> None:
            if done.cancelled():
                outer.cancel()
            elif (error := done.exception()) is not None:
                self._take_from(error)
                outer.set_exception(error)
            else:
                outer.set_result(self._take(done.result()))

        outer._kill = inner.cancel
        inner.add_done_callback(settle)
        return outer

    def local(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the method here."""
        return self._fn(self._instance, *args, **kwargs)

    def on(self, hostname: Any) -> BoundStateful:
        """Return the same bound method, to run at another place."""
        return BoundStateful(self._where.on(hostname), self._fn, self._instance)

    def close(self) -> None:
        """Close the connections that the class opened; the next call opens them again."""
        self._where.close()

    def _take(self, answer: tuple[Any, Any]) -> Any:
        value, after = answer
        take_state(self._instance, after)
        return self._instance if value is after else value

    def _take_from(self, error: BaseException) -> None:
        after = vars(error).pop(worker.CARRIED, None)
        if type(after) is type(self._instance):
            take_state(self._instance, after)


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


def take_state(instance: Any, after: Any) -> None:
    """Give ``instance`` the attributes and content of ``after``, of the same class."""
    kinds: dict[Any, str] = {list: "extend", set: "update", dict: "update"}
    for kind, add in kinds.items():
        if isinstance(instance, kind):
            kind.clear(instance)
            getattr(kind, add)(instance, after)
    attributes = paths.state_of(after)
    for name in paths.state_of(instance).keys() - attributes.keys():
        object.__delattr__(instance, name)
    for name, value in attributes.items():
        object.__setattr__(instance, name, value)


def _decorate_class(cls: type, hostname: Any, settings: Settings) -> type:
    where: Remotely[Any, Any] = Remotely(cls, hostname, **settings)
    for name, member in list(vars(cls).items()):
        if name.startswith("__") and name != "__call__":
            continue
        if inspect.isfunction(member):
            setattr(cls, name, StatefulMethod(where, member))
        elif isinstance(member, (staticmethod, classmethod)):
            fn: Any = member
            method: Remotely[Any, Any] = Remotely(fn, hostname, **settings)
            method._target = where._target
            setattr(cls, name, method)
    return cls


__all__ = ["Remotely", "remotely"]
