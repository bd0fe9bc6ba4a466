"""`RemoteExecutor`: a concurrent.futures.Executor whose workers are processes on hosts."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import fabric
from invoke.context import Context

from fabremote import option_values as check
from fabremote.agent import worker
from fabremote.closing import closer
from fabremote.futures import RemoteFuture
from fabremote.group_result import ByConnection
from fabremote.group_work import max_workers, setting
from fabremote.options import PythonOptions, check_names
from fabremote.pool import Pool
from fabremote.shipping.payload import check_callable, name_of
from fabremote.threads import surely

if TYPE_CHECKING:
    from typing_extensions import Unpack

P = ParamSpec("P")
T = TypeVar("T")

# Calls that `map` keeps under way or done but not taken, for each that can run at once.
AHEAD = 4


class RemoteExecutor(concurrent.futures.Executor):
    """Runs calls on whichever host of a group is free; a ``concurrent.futures.Executor``.

    ``group``: a group, or a list of connections; they stay the caller's, open
    after `shutdown`. ``per_host``: calls at once on each host. ``retries``: how
    often a call may be sent elsewhere after its host was lost. Give it only for
    calls that do no harm when run twice: the lost one may have run to its end.
    Exceptions that the function raises are never a reason to repeat it. All
    other keywords are options of ``python()``.

    A host that can't be reached, or is lost three times in a row, is dropped:
    a warning of the logger ``fabremote.executor`` says so, and `dropped` has it.
    """

    def __init__(
        self,
        group: fabric.Group | Iterable[Any],
        *,
        per_host: int = 1,
        retries: int = 0,
        **options: Unpack[PythonOptions],
    ) -> None:
        check_names(options, ("per_host", "retries"))
        check.count("per_host", per_host)
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ValueError(f"retries={retries!r} must be a whole number from 0 on.")
        hosts = [_checked(one) for one in _each(group)]
        group = group if isinstance(group, fabric.Group) else hosts
        labels = setting(group, "labels") is not False
        self._pool = Pool(options, per_host, retries, max_workers(group), labels)
        for one in hosts:
            self._pool.add(one)
        closer.watch(self, self._pool)

    def __reduce__(self) -> Any:
        raise TypeError("a RemoteExecutor has live connections, which can't leave this process")

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> RemoteFuture[T]: ...
    @overload
    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> RemoteFuture[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> RemoteFuture[Any]:
        """Queue ``fn(*args, **kwargs)`` for the next free host; return its Future at once.

        ``cancel()`` kills it there, even while it runs. Its exception is what
        the function raised, RemoteConnectionLost if its host was lost meanwhile,
        NoHostsLeft if no host is left, or another of `fabremote.exceptions`.
        Raises NoHostsLeft if there is no host even now, and RuntimeError after
        `shutdown`.
        """
        return self._pool.submit(fn, args, kwargs)

    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]: ...
    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Yield ``fn`` of the items, in their order, as ``map`` does.

        The iterables may be endless: items are drawn, in the thread that takes
        the results, as results are taken. ``buffersize``: how many calls may be
        under way or done and not taken; unless given, four for each that can run
        at once. ``chunksize``: items that go in one call, for small ones; they
        share a process there, and an exception of one is that of its chunk.
        ``timeout``: seconds from now until a result that isn't there raises
        TimeoutError. What is still under way when the iterator is closed or
        dropped is killed.
        """
        check.count("chunksize", chunksize)
        if buffersize is not None:
            check.count("buffersize", buffersize)
        deadline = None if timeout is None else time.monotonic() + timeout
        rows = zip(*iterables, strict=False)
        check_callable(fn)
        results = self._results(Batch(fn), _calls(fn, rows, chunksize), deadline, buffersize)
        next(results)
        return results

    def _results(
        self,
        batch: Batch,
        calls: Iterator[Any],
        deadline: float | None,
        buffersize: int | None,
    ) -> Iterator[Any]:
        """Yield None once the first calls are under way, and then the results."""
        waiting: deque[RemoteFuture[Any]] = deque()
        failure: list[Exception] = []

        def fill() -> None:
            try:
                while len(waiting) < (buffersize or AHEAD * max(1, self._max_workers)):
                    waiting.append(self.submit(batch, next(calls)))
            except StopIteration:
                pass
            except Exception as error:
                # It is raised where its item's result would be.
                failure.append(error)

        try:
            fill()
            yield None
            while waiting:
                rest = None if deadline is None else max(0.0, deadline - time.monotonic())
                values = waiting[0].result(rest)
                waiting.popleft()
                if not failure:
                    fill()
                yield from values
            if failure:
                raise failure[0]
        finally:
            for future in waiting:
                future.cancel()

    def add(self, connection: Any) -> None:
        """Have a connection, or those of a group, take work from now on, also while work runs."""
        for one in _each(connection if isinstance(connection, fabric.Group) else [connection]):
            self._pool.add(_checked(one))

    @property
    def hosts(self) -> list[Any]:
        """The connections that take work."""
        return [host.connection for host in self._pool.live()]

    @property
    def dropped(self) -> ByConnection[BaseException]:
        """The connections that were dropped, and the error of each."""
        return ByConnection(self._pool.dropped())

    @property
    def _max_workers(self) -> int:
        # What Dask asks executors for.
        return max(1, self._pool.places())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; with ``wait``, return when all of it is done.

        ``cancel_futures``: what no host has begun is cancelled. The connections
        stay open. Ctrl-C during the wait kills what runs.
        """
        self._pool.finish()
        closer.forget(self._pool)
        if cancel_futures:
            self._pool.cancel(running=False)
        if not wait:
            return
        try:
            self._pool.join()
        except BaseException:
            surely(lambda: self._pool.cancel(running=True))
            self._pool.join()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is not None and not issubclass(kind, Exception):
                # Ctrl-C: nobody waits for what still runs.
                surely(lambda: self._pool.cancel(running=True))
        finally:
            self.shutdown()


class Batch:
    """Several calls as one, named as the function of the first of them."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.__qualname__ = name_of(fn).removesuffix("()")

    def __reduce__(self) -> Any:
        return functools.partial, (worker.each,)

    def __call__(self, calls: list[Any]) -> list[Any]:
        """Return the values of (function, args, kwargs) calls, run here."""
        values: list[Any] = worker.each(calls)
        return values


def _calls(fn: Callable[..., Any], rows: Iterator[tuple[Any, ...]], size: int) -> Iterator[Any]:
    while chunk := list(itertools.islice(rows, size)):
        yield [(fn, row, {}) for row in chunk]


def _each(group: Any) -> Iterable[Any]:
    if isinstance(group, (str, Context)) or not isinstance(group, Iterable):
        raise TypeError(
            f"RemoteExecutor({group!r:.100}): give it a group, such as ThreadingGroup('web1', "
            "'web2'), or a list of connections."
        )
    return group


def _checked(one: Any) -> Any:
    if not isinstance(one, Context):
        raise TypeError(
            f"A RemoteExecutor's hosts are connections, and {one!r:.100} is none: use "
            "Connection(name), or a group."
        )
    return one


__all__ = ["Batch", "RemoteExecutor"]
