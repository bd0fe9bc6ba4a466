"""What a call returns whose function makes a generator: the same, with the body over there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator, Generator
from types import TracebackType
from typing import Any, TypeVar

from fabremote.exceptions import RemoteCancelled
from fabremote.stream_sources import AsyncSource, Source

Y = TypeVar("Y")
S = TypeVar("S")
R = TypeVar("R")


class RemoteGenerator(Generator[Y, S, R]):
    """A generator whose body runs on a host. Closing it, or dropping it, ends that.

    What it raises there is raised here, as for calls. See ``docs/streams.md``.
    """

    _fabremote_stream = True

    # What must not be dropped as long as the stream is used.
    _owner: object = None

    def __init__(self, source: Source) -> None:
        self._source = source
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"<RemoteGenerator {self._source.name} on {self._source.call.session.label}>"

    def __reduce__(self) -> Any:
        raise TypeError("a RemoteGenerator is a live call's, which can't leave this process")

    def send(self, value: S) -> Y:
        """Go on, the generator's ``yield`` returning ``value``; return the next item."""
        with self._executing():
            if self._source.ended:
                raise StopIteration
            self._source.ask(value)
            self._source.wait(self._source.here)
            item: Y = self._source.get()
            return item

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None, /) -> Y:
        """Raise an exception where the generator is; return the next item."""
        error = _exception(typ, val, tb)
        with self._executing():
            if self._source.ended:
                raise error
            if not self._source.begun:
                self._source.close()
                raise error
            self._source.wait(self._source.throw(error))
            if self._source.call.done:
                self._source.call.items.close()
            item: Y = self._source.get()
            return item

    def close(self) -> None:
        """Have the generator run its finally blocks and end; return when it has.

        Raises what it raises then.
        """
        with self._executing():
            if not self._source.ended:
                self._source.close()

    def drop(self) -> None:
        """Have it closed without waiting for that."""
        self._source.drop()

    def __del__(self) -> None:
        self.drop()

    @contextlib.contextmanager
    def _executing(self) -> Any:
        if not self._turn.acquire(blocking=False):
            raise ValueError("generator already executing")
        try:
            yield
        finally:
            self._turn.release()


class RemoteAsyncGenerator(AsyncGenerator[Y, S]):
    """An asynchronous generator whose body runs on a host.

    Closing it, or dropping it, ends that.
    """

    # What must not be dropped as long as the stream is used.
    _owner: object = None

    def __init__(self, source: AsyncSource) -> None:
        self._source = source
        self._running = False

    def __repr__(self) -> str:
        return f"<RemoteAsyncGenerator {self._source.name} on {self._source.call.session.label}>"

    def __reduce__(self) -> Any:
        raise TypeError("a RemoteAsyncGenerator is a live call's, which can't leave this process")

    async def asend(self, value: S) -> Y:
        """Go on, the generator's ``yield`` returning ``value``; return the next item."""
        with self._executing():
            if self._source.ended:
                raise StopAsyncIteration
            self._source.ask(value)
            await self._source.wait_async(self._source.here)
            return self._get()

    async def __anext__(self) -> Y:
        return await self.asend(None)  # type: ignore[arg-type]

    async def athrow(self, typ: Any, val: Any = None, tb: TracebackType | None = None, /) -> Y:
        """Raise an exception where the generator is; return the next item."""
        error = _exception(typ, val, tb)
        with self._executing():
            if self._source.ended or not self._source.begun:
                await self._aclose()
                raise error
            await self._source.wait_async(self._source.throw(error))
            if self._source.call.done:
                self._source.call.items.close()
            return self._get()

    async def aclose(self) -> None:
        """Have the generator run its finally blocks and end; return when it has."""
        with self._executing():
            await self._aclose()

    async def _aclose(self) -> None:
        if not self._source.ended:
            self._source.in_service(self._source.call.close_stream)
            await self._source.wait_async(lambda: self._source.call.done)
            with contextlib.suppress(RemoteCancelled):
                self._source.result()

    def _get(self) -> Y:
        try:
            item: Y = self._source.get()
        except StopIteration:
            raise StopAsyncIteration from None
        return item

    def drop(self) -> None:
        """Have it closed without waiting for that."""
        self._source.drop()

    def __del__(self) -> None:
        self.drop()

    @contextlib.contextmanager
    def _executing(self) -> Any:
        if self._running:
            raise RuntimeError("asynchronous generator is already running")
        self._running = True
        try:
            yield
        finally:
            self._running = False


def _exception(typ: Any, val: Any, tb: Any) -> BaseException:
    """Return the exception that the arguments of ``throw`` name."""
    if isinstance(typ, BaseException):
        error = typ
    elif isinstance(typ, type) and issubclass(typ, BaseException):
        made = val if isinstance(val, typ) else typ() if val is None else typ(val)
        error = made
    else:
        raise TypeError(
            "exceptions must be classes or instances deriving from BaseException, "
            f"not {type(typ).__name__}"
        )
    return error if tb is None else error.with_traceback(tb)


__all__ = ["RemoteAsyncGenerator", "RemoteGenerator"]
