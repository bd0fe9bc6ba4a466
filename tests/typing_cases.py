"""What a type checker knows of decorated functions and calls; checked by mypy, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from concurrent.futures import Executor, Future

from typing_extensions import assert_type

from fabremote import (
    Connection,
    GroupResult,
    Interpreter,
    RemoteExecutor,
    RemoteFuture,
    Remotely,
    Result,
    ThreadingGroup,
    ahead,
    remotely,
)


def plain(x: int, *, name: str = "") -> list[str]:
    return [name] * x


async def later(x: int) -> bytes:
    return bytes(x)


def stream(x: int) -> Generator[str, bytes, list[int]]:
    yield str(x)
    return [x]


def items(x: int) -> Iterator[str]:
    yield str(x)


async def stream_later(x: int) -> AsyncGenerator[str, bytes]:
    yield str(x)


async def items_later(x: int) -> AsyncIterator[str]:
    yield str(x)


def consume(numbers: Iterator[int]) -> int:
    return sum(numbers)


c = Connection("web1")

# Calls infer the value, and check the arguments.
assert_type(c.call(plain, 1, name="a"), list[str])
assert_type(c.call(later, 1), bytes)
c.call(plain, "1")  # type: ignore[call-overload]
c.call(plain, 1, nme="a")  # type: ignore[arg-type, call-arg]

py = c.python(timeout=30, hide=True)
assert_type(py, Interpreter)
assert_type(py.call(plain, 1), list[str])
assert_type(py.run(plain, 1), Result[list[str]])
assert_type(py.run(later, 1).value, bytes)
assert_type(py.submit(plain, 1), RemoteFuture[list[str]])
future: Future[bytes] = py.submit(later, 1)
c.python(timout=30)  # type: ignore[call-arg]

# Groups and executors.
group = ThreadingGroup("web1", c, max_workers=3, user="dev")
assert_type(group.call(plain, 1, name="a"), GroupResult[list[str]])
assert_type(group.call(later, 1), GroupResult[bytes])
assert_type(group.call(plain, 1)[c], list[str])
assert_type(group.python(hide=True).run(plain, 1), GroupResult[Result[list[str]]])
assert_type(group.python().submit(later, 1), list[RemoteFuture[bytes]])
assert_type(group.map(plain, [1, 2], retries=1), Iterator[list[str]])
assert_type(group.python(timeout=3).map(later, [1, 2], chunksize=2), Iterator[bytes])
assert_type(ThreadingGroup.from_connections([c], labels=False), ThreadingGroup)
group.call(plain, "1")  # type: ignore[call-overload]
group.python(timout=3)  # type: ignore[call-arg]
group.map(plain, [1], chunks=2)  # type: ignore[call-overload]

executor = RemoteExecutor(group, per_host=2, retries=1, timeout=3)
standard: Executor = executor
assert_type(executor.submit(plain, 1, name="a"), RemoteFuture[list[str]])
assert_type(executor.submit(later, 1), RemoteFuture[bytes])
assert_type(executor.map(plain, [1], timeout=3), Iterator[list[str]])
assert_type(executor.map(later, [1], chunksize=2), Iterator[bytes])
executor.submit(plain, "1")  # type: ignore[call-overload]
RemoteExecutor(group, timout=3)  # type: ignore[call-arg]
with executor as entered:
    assert_type(entered, RemoteExecutor)

# Streams.
assert_type(c.call(stream, 1), Generator[str, bytes, list[int]])
assert_type(c.call(stream, 1).send(b""), str)
assert_type(c.call(items, 1), Iterator[str])
assert_type(py.call(stream_later, 1), AsyncGenerator[str, bytes])
assert_type(py.call(items_later, 1), AsyncIterator[str])
assert_type(py.submit(stream, 1), RemoteFuture[Generator[str, bytes, list[int]]])
assert_type(remotely("web1")(items)(1), Iterator[str])
assert_type(c.call(consume, ahead([1], 2)), int)
assert_type(c.call(consume, (n for n in [1])), int)
c.call(consume, ahead(["1"]))  # type: ignore[call-overload]

# The class.
bar = Remotely(plain, "web1", port=22)
assert_type(bar(1, name="a"), list[str])
assert_type(bar.submit(1), RemoteFuture[list[str]])
assert_type(bar.local(1), list[str])
assert_type(bar.on("web2")(1), list[str])
bar("1")  # type: ignore[arg-type]
bar()  # type: ignore[call-arg]


# The decorator.
@remotely("web1", user="dev")
def decorated(x: int, *, name: str = "") -> list[str]:
    return [name] * x


assert_type(decorated(1, name="a"), list[str])
assert_type(decorated.submit(1), RemoteFuture[list[str]])
assert_type(decorated.local(1), list[str])
assert_type(decorated.on("web2")(1), list[str])
assert_type(decorated.__wrapped__(1), list[str])
decorated("1")  # type: ignore[arg-type]
decorated(1, nme="a")  # type: ignore[call-arg]


@remotely(c)
async def awaited(x: int) -> bytes:
    return bytes(x)


assert_type(awaited(1), bytes)


@remotely("web1")
class Counter:
    def __init__(self, start: int) -> None:
        self.count = start

    def add(self, n: int) -> int:
        return self.count + n


assert_type(Counter(1), Counter)
assert_type(Counter(1).add(2), int)


class Holder:
    @remotely("web1")
    def method(self, x: int) -> str:
        return str(x)

    @remotely("web1")
    async def later(self, x: int) -> bytes:
        return bytes(x)

    @remotely("web1")
    @staticmethod
    def static(x: int) -> str:
        return str(x)


assert_type(Holder().method(1), str)
assert_type(Holder().method.submit(1), RemoteFuture[str])
assert_type(Holder().method.local(1), str)
assert_type(Holder().method.on("web2")(1), str)
assert_type(Holder().later(1), bytes)
Holder().method("1")  # type: ignore[arg-type]
Holder().method(1, 2)  # type: ignore[call-arg]
assert_type(Holder.method(Holder(), 1), str)
assert_type(Holder.static(1), str)

# Their settings.
Remotely(plain, "web1", key="id", password="secret", ssh_options={"Port": 22}, timeout=3)
remotely("web1", compresion=True)  # type: ignore[call-arg]
remotely("web1", port="22")  # type: ignore[arg-type]
Remotely(plain, "web1", timeout="3")  # type: ignore[arg-type]
