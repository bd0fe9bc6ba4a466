"""The methods of a decorated class: they run on its host, and take their instance along."""

from __future__ import annotations

import collections
import copy
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from fabremote.agent import loader, paths, worker
from fabremote.futures import RemoteFuture
from fabremote.generators import RemoteAsyncGenerator, RemoteGenerator
from fabremote.group_result import GroupResult

if TYPE_CHECKING:
    from fabremote.decorator import Remotely

T = TypeVar("T")


def present(wrapper: Any, fn: Any) -> None:
    """Give ``wrapper`` the name, docstring and attributes of the function that it stands for."""
    functools.update_wrapper(wrapper, fn, updated=())
    for name, value in getattr(fn, "__dict__", {}).items():
        vars(wrapper).setdefault(name, value)


def keeping(owner: Remotely[Any, Any], result: T) -> T:
    """Keep the owner's connection as long as a future or a stream needs it."""
    for each in result.values() if isinstance(result, GroupResult) else [result]:
        if isinstance(each, (RemoteFuture, RemoteGenerator, RemoteAsyncGenerator)):
            each._owner = owner
            if isinstance(each, RemoteFuture):
                each.add_done_callback(functools.partial(_keep_on, owner))
    return result


def _keep_on(owner: Remotely[Any, Any], future: Any) -> None:
    if not future.cancelled() and future.exception() is None:
        keeping(owner, future.result())


class StatefulMethod:
    """A method of a decorated class: runs there, with the instance's state carried both ways."""

    def __init__(self, where: Remotely[Any, Any], fn: Callable[..., Any]) -> None:
        self._where, self._fn = where, fn
        present(self, fn)

    def __reduce__(self) -> Any:
        return loader.plain, (self._fn,)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else BoundStateful(self._where, self._fn, instance)

    def close(self) -> None:
        """Close the connections that the class opened; the next call opens them again."""
        self._where.close()

    def __call__(self, instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        return BoundStateful(self._where, self._fn, instance)(*args, **kwargs)


class _Carrying:
    """A method that is sent with its instance, and answers with (value, instance)."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn
        self.__qualname__ = fn.__qualname__

    def __reduce__(self) -> Any:
        return functools.partial, (worker.carry, self._fn)

    def __call__(self, instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run the method here."""
        return worker.carry(self._fn, instance, *args, **kwargs)


class BoundStateful:
    """A method of a decorated class, bound to its instance."""

    def __init__(self, where: Remotely[Any, Any], fn: Callable[..., Any], instance: Any) -> None:
        self._where, self._fn, self._instance = where, fn, instance
        self.__self__ = instance
        present(self, fn)
        self.__signature__ = inspect.signature(functools.partial(fn, instance))

    def __reduce__(self) -> Any:
        return functools.partial, (self._fn, self._instance)

    def __deepcopy__(self, memo: Any) -> BoundStateful:
        return BoundStateful(self._where, self._fn, copy.deepcopy(self._instance, memo))

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        python = self._where._single()
        try:
            return self._take(python.call(_Carrying(self._fn), self._instance, *args, **kwargs))
        except BaseException as error:
            self._take_from(error)
            raise

    def submit(self, /, *args: Any, **kwargs: Any) -> RemoteFuture[Any]:
        """Begin a call there; the instance has its state when the Future has its result."""
        python = self._where._single()
        inner = python.submit(_Carrying(self._fn), self._instance, *args, **kwargs)
        keeping(self._where, inner)
        outer: RemoteFuture[Any] = RemoteFuture(self._fn.__qualname__, lambda: None)

        def settle(done: Any) -> None:
            if done.cancelled():
                outer.cancel()
                return
            error = done.exception()
            value = None
            try:
                if error is None:
                    value = self._take(done.result())
                else:
                    self._take_from(error)
            except Exception as failure:
                error = failure
            if error is None:
                outer.set_result(value)
            else:
                outer.set_exception(error)

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


def take_state(instance: Any, after: Any) -> None:
    """Give ``instance`` the attributes and content of ``after``, of the same class.

    No code of the class's own runs: what is taken came from a host.
    """
    _take_content(instance, after)
    attributes = paths.state_of(after)
    own = getattr(instance, "__dict__", {})
    for name in paths.state_of(instance).keys() - attributes.keys() - own.keys():
        object.__delattr__(instance, name)
    own.clear()
    inside = getattr(after, "__dict__", {})
    for name, value in attributes.items():
        taken = instance if value is after else value
        if name in inside:
            own[name] = taken
        else:
            object.__setattr__(instance, name, taken)


def _take_content(instance: Any, after: Any) -> None:
    """Give a container what another one of its class holds."""
    if isinstance(instance, collections.OrderedDict):
        collections.OrderedDict.clear(instance)
        for key, value in collections.OrderedDict.items(after):
            collections.OrderedDict.__setitem__(instance, key, value)
        return
    kinds: dict[Any, str] = {
        list: "extend",
        bytearray: "extend",
        collections.deque: "extend",
        set: "update",
        dict: "update",
    }
    for kind, add in kinds.items():
        if isinstance(instance, kind):
            kind.clear(instance)
            getattr(kind, add)(instance, after)


__all__ = ["StatefulMethod", "keeping", "present", "take_state"]
