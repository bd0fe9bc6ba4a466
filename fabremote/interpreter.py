"""Options bound to a place to run: what `python()` returns, and what calls go through."""

from __future__ import annotations

import asyncio
import functools
import importlib
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from fabremote.bootstrap import RemotePython, this_python
from fabremote.futures import IN_FLIGHT, RemoteFuture, begun, in_order
from fabremote.options import Bound, Options

if TYPE_CHECKING:
    from typing_extensions import Self

    from fabremote.lasting import Lasting
    from fabremote.outcomes import Result
    from fabremote.prepared import Host, Prepared

P = ParamSpec("P")
T = TypeVar("T")


def _shown(name: str, value: Any) -> str:
    """Return an option's value as text, without what may be secret."""
    if name == "env" and isinstance(value, Mapping):
        return f"{{{', '.join(f'{each!r}: ...' for each in value)}}}"
    return "..." if name == "password" else repr(value)


class Interpreter:
    """A Python on a host, with the options of its calls bound once.

    Made by ``connection.python(...)``. Each call runs in a fresh process there.
    In a ``with`` block the calls of the interpreter run in one process, one
    after the other, and what they leave in it stays until the block's end.
    """

    def __init__(self, host: Host, bound: Bound) -> None:
        self._host = host
        self._bound = bound
        self._lasting: Lasting | None = None
        if bound.given:
            bound.options()  # What is wrong shows at once.

    def __reduce__(self) -> Any:
        raise TypeError("an Interpreter is a live connection's, which can't leave this process")

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={_shown(name, v)}" for name, v in self._bound.given.items())
        return f"<Interpreter on {self._host.label}{' ' if options else ''}{options}>"

    def __enter__(self) -> Self:
        """Start the process of the block's calls.

        Connects if need be, and raises what a call raises where there can be no
        process; RuntimeError in a block of the same interpreter.
        """
        if self._lasting is not None:
            raise RuntimeError(f"{self!r} is in a with block. Use another: conn.python(...).")
        options = self._bound.options()
        if not options.dry:
            lasting = importlib.import_module("fabremote.lasting")
            self._lasting = lasting.Lasting(self._host.session(options), options)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """End the process: when the calls begun in the block have ended, its exit handlers run.

        At Ctrl-C or ``sys.exit()`` it is killed.
        """
        lasting, self._lasting = self._lasting, None
        if lasting is not None:
            lasting.close(kill=kind is not None and not issubclass(kind, Exception))

    @overload
    def call(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn(*args, **kwargs)`` there and return its value.

        An ``async`` function is run to its end. What it prints is relayed live.
        Where it makes a generator, that is a `RemoteGenerator` here, or a
        `RemoteAsyncGenerator`; the function asks for the items of iterators
        among the arguments as it needs them.
        Raises what the function raised, as its own type where that is a
        built-in one or one of yours, else RemoteError; ShippingError if the
        call can't be sent; ResultError if its result can't come back; and the
        rest of `fabremote.exceptions` for what befalls the host.
        """
        return self._prepare(fn, args, kwargs).value()

    @overload
    def run(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Result[T]: ...
    @overload
    def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Result[T]: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Result[Any]:
        """Run as `call` does, and return a `Result`: what was printed, and the value.

        Raises TypeError for a function that makes a generator.
        """
        return self._prepare(fn, args, kwargs, keep=True).result()

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> RemoteFuture[T]: ...
    @overload
    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> RemoteFuture[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> RemoteFuture[Any]:
        """Begin the call and return a Future of its value at once.

        The function and its arguments are sent, or refused with ShippingError,
        before this returns. ``cancel()`` kills the remote process; in a ``with``
        block a call that has not begun is dropped, one that runs ends the process.
        The value of a function that makes a generator is there once the generator is.
        """
        return self._prepare(fn, args, kwargs).submit()

    @overload
    async def acall(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    async def acall(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def acall(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run as `call` does, for asyncio: the event loop goes on meanwhile.

        Cancelling the awaiting task kills the remote process.
        """
        prepared = self._prepare(fn, args, kwargs)
        future = await begun(prepared.submit, prepared.cancel, prepared.connects())
        return await asyncio.wrap_future(future)

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], in_flight: int = IN_FLIGHT
    ) -> Iterator[T]:
        """Return an iterator of ``fn``'s values over the iterables' items, in their order.

        ``iterables``: as for the built-in map; they are read as the values are, at
        most ``in_flight`` calls (int) ahead, which run at once (in a ``with``
        block one after the other). Raises at an item what its call raises; then,
        and when the iterator is closed, the calls that are left are ended.
        """
        importlib.import_module("fabremote.prepared").check_callable(fn)
        if type(in_flight) is not int or in_flight < 1:
            raise ValueError(f"in_flight={in_flight!r} must be a number of calls, 1 or more.")
        items = zip(*iterables, strict=False)
        return in_order(functools.partial(self.submit, fn), items, in_flight)

    def plan(self) -> tuple[Options, RemotePython]:
        """Return the options in force, and the interpreter as far as it is known.

        Nothing is started for it: until a call has run, it is taken to be this Python.
        """
        options = self._bound.options()
        session = self._host.live_session(options)
        return options, session.python if session is not None else this_python()

    def _prepare(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Any, keep: bool = False
    ) -> Prepared:
        prepared = _calls()
        prepared.check_callable(fn)
        options = self._bound.options()
        made: Prepared = prepared.Prepared(
            self._host, options, fn, args, kwargs, keep, self._lasting
        )
        return made


@functools.cache
def _calls() -> Any:
    # Not imported before the first call: it takes a good deal of what Fabric itself does.
    return importlib.import_module("fabremote.prepared")


__all__ = ["Interpreter"]
