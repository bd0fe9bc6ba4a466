"""Groups of hosts whose calls run one after another, or at once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import fabric
from fabric.exceptions import GroupException
from invoke.context import Context
from invoke.runners import normalize_hide

from fabremote import option_values as check
from fabremote.connection import Connection, wrap_context
from fabremote.executor import RemoteExecutor
from fabremote.futures import RemoteFuture
from fabremote.group_result import GroupResult, Outcome
from fabremote.group_work import Streams, at_once, in_turn, max_workers
from fabremote.interpreter import Interpreter
from fabremote.options import Bound, PythonOptions, Shown, check_names
from fabremote.outcomes import Result
from fabremote.sessions import bound
from fabremote.shipping.iterators import streams as can_stream
from fabremote.threads import serve_here, serves_here, surely

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

P = ParamSpec("P")
T = TypeVar("T")


class GroupInterpreter:
    """An interpreter on each host of a group, with the same options bound."""

    def __init__(self, group: fabric.Group, options: PythonOptions) -> None:
        check_names(options)
        self._group = group
        self._options = options
        # By the connection's id: the connection, for it to stay so, its host, and its options.
        self._places: dict[int, tuple[Any, Any, Bound]] = {}
        if options and group:
            self._place(group[0])[1].options()  # What is wrong shows at once.

    @overload
    def call(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> GroupResult[T]: ...
    @overload
    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> GroupResult[T]: ...
    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> GroupResult[Any]:
        """Run ``fn(*args, **kwargs)`` on every host; return the values by connection.

        What they print is labelled by host, if there are several. Raises
        fabric's GroupException, whose ``result`` has everything, if any host
        failed.
        """
        _check_shareable(*args, **kwargs)
        return self._each(lambda py: py.call(fn, *args, **kwargs))

    @overload
    def run(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> GroupResult[Result[T]]: ...
    @overload
    def run(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> GroupResult[Result[T]]: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> GroupResult[Any]:
        """Run as `call` does, with a Result for each host; no labels are in its text."""
        _check_shareable(*args, **kwargs)
        return self._each(lambda py: py.run(fn, *args, **kwargs))

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[RemoteFuture[T]]: ...
    @overload
    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[RemoteFuture[T]]: ...
    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> list[RemoteFuture[Any]]:
        """Begin the call on every host; return a Future for each, in the group's order.

        The future of a host where the call could not begin raises the reason.
        """
        _check_shareable(*args, **kwargs)

        begun: list[RemoteFuture[Any]] = []

        def begin(one: Any, streams: Streams) -> RemoteFuture[Any]:
            future = self._interpreter(one, streams).submit(fn, *args, **kwargs)
            begun.append(future)
            return future

        try:
            outcomes = outcomes_of(self._group)(begin, progress=False)
        except BaseException:  # Ctrl-C, while others still connect: nobody has these.
            surely(lambda: [future.cancel() for future in begun])
            raise
        return [_failed(one.error) if one.error is not None else one.value for one in outcomes]

    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Iterable[Any],
        per_host: int = 1,
        chunksize: int = 1,
        buffersize: int | None = None,
        retries: int = 0,
    ) -> Iterator[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        per_host: int = 1,
        chunksize: int = 1,
        buffersize: int | None = None,
        retries: int = 0,
    ) -> Iterator[T]: ...
    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        per_host: int = 1,
        chunksize: int = 1,
        buffersize: int | None = None,
        retries: int = 0,
    ) -> Iterator[Any]:
        """Yield ``fn`` of the items, in their order, each run on whichever host is free.

        A `RemoteExecutor`'s `map`, whose arguments these are, with one that
        lasts as long as the results are taken.
        """
        executor = RemoteExecutor(self._group, per_host=per_host, retries=retries, **self._options)
        results = executor.map(fn, *iterables, chunksize=chunksize, buffersize=buffersize)
        return _until_taken(executor, results)

    def _each(self, action: Callable[[Interpreter], Any]) -> GroupResult[Any]:
        def act(one: Any, streams: Streams) -> Any:
            return action(self._interpreter(one, streams))

        return _judged(outcomes_of(self._group)(act))

    def _place(self, one: Any) -> tuple[Any, Bound]:
        """Return a connection as a place to run, and the options bound for it, worked out once."""
        kept = self._places.get(id(one))
        if kept is None:
            context = wrap_context(one)
            kept = one, context._calls_host(), bound(context, self._options)
            self._places[id(one)] = kept
        return kept[1:]

    def _interpreter(self, one: Any, streams: Streams) -> Interpreter:
        """Return a host's interpreter, whose output is labelled."""
        host, options = self._place(one)
        resolved = options.options()
        shown = streams(resolved.hide, resolved.out_stream, resolved.err_stream)
        return Interpreter(host, Shown(options, shown) if shown else options)


def _check_shareable(*args: Any, **kwargs: Any) -> None:
    """Raise TypeError if an argument is an iterator, each of whose items can go to one host."""
    for value in (*args, *kwargs.values()):
        if hasattr(type(value), "__next__") and can_stream(value):
            raise TypeError(
                f"{value!r:.100} can't be given to a group: each of its items would go to one "
                "host only. Pass a list of them, or call the hosts one by one."
            )


def _judged(outcomes: list[Outcome]) -> GroupResult[Any]:
    result = GroupResult[Any](outcomes)
    if result.failed:
        raise GroupException(result)
    return result


def _failed(error: BaseException) -> RemoteFuture[Any]:
    future: RemoteFuture[Any] = RemoteFuture("the call", lambda: None)
    future.set_exception(error)
    return future


def _until_taken(executor: RemoteExecutor, results: Iterator[T]) -> Iterator[T]:
    with executor:
        yield from results


class GroupCalls(fabric.Group):
    """`call`, `map` and `python` on a group."""

    @overload
    def call(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> GroupResult[T]: ...
    @overload
    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> GroupResult[T]: ...
    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> GroupResult[Any]:
        """Run ``fn(*args, **kwargs)`` on every host; see `GroupInterpreter.call`."""
        return GroupInterpreter(self, {}).call(fn, *args, **kwargs)

    def python(self, **options: Unpack[PythonOptions]) -> GroupInterpreter:
        """Return interpreters with options bound, one on each host."""
        return GroupInterpreter(self, options)

    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Iterable[Any],
        per_host: int = 1,
        chunksize: int = 1,
        buffersize: int | None = None,
        retries: int = 0,
    ) -> Iterator[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        per_host: int = 1,
        chunksize: int = 1,
        buffersize: int | None = None,
        retries: int = 0,
    ) -> Iterator[T]: ...
    def map(self, fn: Callable[..., Any], /, *iterables: Iterable[Any], **how: Any) -> Any:
        """Yield ``fn`` of the items, each run on whichever host is free; see `RemoteExecutor`."""
        return GroupInterpreter(self, {}).map(fn, *iterables, **how)


class OwnGroup(GroupCalls):
    """A group of this package's connections."""

    def __init__(
        self,
        *hosts: Any,
        max_workers: int | None = None,
        labels: bool | None = None,
        live: bool | None = None,
        **kwargs: Any,
    ) -> None:
        list.__init__(self, [_connection(host, kwargs) for host in hosts])
        self.max_workers = None if max_workers is None else check.count("max_workers", max_workers)
        for name, value in (("labels", labels), ("live", live)):
            check.truth(name, value)
        self.labels, self.live = labels, live

    @classmethod
    def from_connections(cls, connections: Iterable[Any], **settings: Any) -> Self:
        """Return a group of connections that there are; ``settings`` as ``max_workers``."""
        return cls(*connections, **settings)

    def close(self) -> None:
        """Close all connections at once; what runs through them is killed first."""
        # In a call's callback they must not wait for its thread, which waits for them.
        mark = serve_here if serves_here() else None
        with ThreadPoolExecutor(min(len(self), max_workers(self)) or 1, initializer=mark) as pool:
            list(pool.map(lambda one: one.close(), self))

    def _do(self, method: str, *args: Any, **kwargs: Any) -> GroupResult[Any]:
        """Do what Fabric's groups do of themselves, such as ``run``, as `call` is done."""

        def act(one: Any, streams: Streams) -> Any:
            shown = _streams_of_run(one, kwargs, streams) if method in ("run", "sudo") else {}
            try:
                return getattr(one, method)(*args, **{**kwargs, **shown})
            finally:
                for stream in shown.values():
                    stream.end_line()

        return _judged(outcomes_of(self)(act))


def _streams_of_run(one: Any, kwargs: dict[str, Any], streams: Streams) -> dict[str, Any]:
    """Return the labelled streams for Fabric's ``run`` or ``sudo`` with these arguments."""
    if kwargs.get("asynchronous") or kwargs.get("disown"):
        return {}
    given = {
        name: kwargs[name] if kwargs.get(name) is not None else one.config.run[name]
        for name in ("hide", "out_stream", "err_stream")
    }
    hidden = normalize_hide(given["hide"], given["out_stream"], given["err_stream"])
    return streams(hidden, given["out_stream"], given["err_stream"])


def _connection(host: Any, kwargs: dict[str, Any]) -> Any:
    if isinstance(host, Context):
        return host
    if not isinstance(host, str):
        raise TypeError(f"A group is of host names and connections, and {host!r:.100} is neither.")
    return Connection(host, **kwargs)


class SerialGroup(OwnGroup, fabric.SerialGroup):
    """A `fabric.SerialGroup` that also runs Python functions, host after host.

    Its arguments are those of `ThreadingGroup`.
    """


class ThreadingGroup(OwnGroup, fabric.ThreadingGroup):
    """A `fabric.ThreadingGroup` that also runs Python functions, on all hosts at once.

    ``hosts``: names, or connections that there are. ``max_workers``: how many
    hosts are worked on at once. ``labels``: whether the lines of several hosts
    are labelled. ``live``: whether a terminal shows a live view, which needs
    the extra ``rich``. These three come from the configuration's ``remotely``
    unless given. All other keywords are arguments of `Connection`, for the names.
    """


def outcomes_of(group: Any) -> Callable[..., list[Outcome]]:
    """Return what does an action on each host of a group, as the group's kind does."""
    do = in_turn if isinstance(group, fabric.SerialGroup) else at_once
    return lambda action, progress=True: do(group, action, progress)


def wrap_group(group: fabric.Group) -> SerialGroup | ThreadingGroup:
    """Return a group of the same, wrapped connections that also runs Python functions."""
    if isinstance(group, (SerialGroup, ThreadingGroup)):
        return group
    cls = SerialGroup if isinstance(group, fabric.SerialGroup) else ThreadingGroup
    return cls.from_connections(wrap_context(one) for one in group)


__all__ = ["GroupInterpreter", "GroupResult", "SerialGroup", "ThreadingGroup", "wrap_group"]
