"""Groups of hosts whose calls run one after another, or at once."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import fabric
from fabric.exceptions import GroupException

from fabremote.connection import Connection, wrap_context
from fabremote.exceptions import RemoteTraceback
from fabremote.group_result import GroupResult
from fabremote.interpreter import Interpreter, RemoteFuture
from fabremote.options import PythonOptions, check_names
from fabremote.shipping.iterators import streams

if TYPE_CHECKING:
    from typing_extensions import Unpack

# More threads than this at once gain nothing on one controller.
MAX_WORKERS = 64


Outcome = tuple[Any, Any, BaseException | None]


class GroupInterpreter:
    """An interpreter on each host of a group, with the same options bound."""

    def __init__(self, group: GroupCalls, options: PythonOptions) -> None:
        check_names(options)
        self._group = group
        self._options = options

    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> GroupResult:
        """Run ``fn(*args, **kwargs)`` on every host; return the values by connection.

        Raises fabric's GroupException, whose ``result`` has everything, if any
        host failed.
        """
        _check_shareable(*args, **kwargs)
        return self._group.each(lambda py: py.call(fn, *args, **kwargs), self._options)

    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> GroupResult:
        """Run as `call` does, with a Result for each host."""
        _check_shareable(*args, **kwargs)
        return self._group.each(lambda py: py.run(fn, *args, **kwargs), self._options)

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> list[RemoteFuture[Any]]:
        """Begin the call on every host; return a Future for each, in the group's order.

        The future of a host where the call could not begin raises the reason.
        """
        _check_shareable(*args, **kwargs)
        return self._group.submit(lambda py: py.submit(fn, *args, **kwargs), self._options)


def _check_shareable(*args: Any, **kwargs: Any) -> None:
    """Raise TypeError if an argument is an iterator, each of whose items can go to one host."""
    for value in (*args, *kwargs.values()):
        if hasattr(type(value), "__next__") and streams(value):
            raise TypeError(
                f"{value!r:.100} can't be given to a group: each of its items would go to one "
                "host only. Pass a list of them, or call the hosts one by one."
            )


class GroupCalls(fabric.Group):
    """`call` and `python` on a group."""

    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> GroupResult:
        """Run ``fn(*args, **kwargs)`` on every host; see `GroupInterpreter.call`."""
        return GroupInterpreter(self, {}).call(fn, *args, **kwargs)

    def python(self, **options: Unpack[PythonOptions]) -> GroupInterpreter:
        """Return interpreters with options bound, one on each host."""
        return GroupInterpreter(self, options)

    def each(self, action: Callable[[Interpreter], Any], options: PythonOptions) -> GroupResult:
        """Do ``action`` with each host's interpreter; return what it returned, by connection."""
        outcomes = self._outcomes(lambda one: action(wrap_context(one).python(**options)))
        result = GroupResult(outcomes)
        if result.failed:
            raise GroupException(result)
        return result

    def submit(
        self, begin: Callable[[Interpreter], RemoteFuture[Any]], options: PythonOptions
    ) -> list[RemoteFuture[Any]]:
        """Do ``begin`` with each host's interpreter; return the futures, failed ones included."""
        outcomes = self._outcomes(lambda one: begin(wrap_context(one).python(**options)))
        return [_failed(error) if error is not None else future for _, future, error in outcomes]

    def _outcomes(self, action: Callable[[Any], Any]) -> list[Outcome]:
        raise NotImplementedError


def _outcome(action: Callable[[Any], Any], one: Any) -> Outcome:
    try:
        return one, action(one), None
    except (Exception, SystemExit) as error:
        return one, None, error
    except KeyboardInterrupt as error:
        # Ctrl-C here ends the group; what a function raised there is its host's own.
        if not isinstance(error.__cause__, RemoteTraceback):
            raise
        return one, None, error


def _failed(error: BaseException) -> RemoteFuture[Any]:
    future: RemoteFuture[Any] = RemoteFuture("the call", lambda: None)
    future.set_exception(error)
    return future


def in_turn(group: Any, action: Callable[[Any], Any]) -> list[Outcome]:
    """Do ``action`` with each connection of the group, one after the other."""
    return [_outcome(action, one) for one in group]


def at_once(group: Any, action: Callable[[Any], Any]) -> list[Outcome]:
    """Do ``action`` with each connection of the group, in threads."""
    if not group:
        return []
    workers = min(len(group), MAX_WORKERS)
    pool = concurrent.futures.ThreadPoolExecutor(workers, "fabremote-group")
    futures = [pool.submit(_outcome, action, one) for one in group]
    try:
        return [future.result() for future in futures]
    except BaseException:
        # Ctrl-C: closing the connections ends what runs through them.
        for future in futures:
            future.cancel()
        group.close()
        raise
    finally:
        pool.shutdown()


class SerialGroup(GroupCalls, fabric.SerialGroup):
    """A `fabric.SerialGroup` that also runs Python functions, host after host."""

    def __init__(self, *hosts: Any, **kwargs: Any) -> None:
        list.__init__(self, [Connection(host, **kwargs) for host in hosts])

    _outcomes = in_turn


class ThreadingGroup(GroupCalls, fabric.ThreadingGroup):
    """A `fabric.ThreadingGroup` that also runs Python functions, on all hosts at once."""

    def __init__(self, *hosts: Any, **kwargs: Any) -> None:
        list.__init__(self, [Connection(host, **kwargs) for host in hosts])

    _outcomes = at_once


def wrap_group(group: fabric.Group) -> SerialGroup | ThreadingGroup:
    """Return a group of the same, wrapped connections that also runs Python functions."""
    if isinstance(group, (SerialGroup, ThreadingGroup)):
        return group
    cls = SerialGroup if isinstance(group, fabric.SerialGroup) else ThreadingGroup
    made: SerialGroup | ThreadingGroup = cls.from_connections([wrap_context(one) for one in group])
    return made


__all__ = ["GroupInterpreter", "GroupResult", "SerialGroup", "ThreadingGroup", "wrap_group"]
