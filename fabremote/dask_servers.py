"""A cluster's processes as Dask's `SpecCluster` knows them: started on a host, and ended.

::

    Process.begin ── Launch: one call, `dask_server.serve` ──> Scheduler or Nanny
         |  <── a line with its address: Tie <── stdout           |
    Process.close ── Tie.release: stdin ends ──────────────────> closes

If the call ends by itself, so has the process: the cluster is told.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import importlib.metadata
import json
import secrets
import threading
from collections.abc import Callable
from typing import Any, cast

import dask.config
from distributed.core import Status
from distributed.deploy.spec import ProcessInterface

from fabremote.dask_way import Way
from fabremote.environments import RemoteFunction
from fabremote.exceptions import RemoteException
from fabremote.futures import RemoteFuture
from fabremote.interpreter import Interpreter
from fabremote.options import PythonOptions
from fabremote.printing import printable

# How long a process may take to end by itself before it is killed, in seconds.
CLOSING = 6.0
# How much of what a process prints is kept, in lines.
KEPT = 1000
# And of how many processes.
KNOWN = 1000


class Launch:
    """How all processes of a cluster are started."""

    def __init__(self, options: PythonOptions, security: dict[str, Any] | None) -> None:
        self._options, self._security = options, security
        self.ties: dict[Any, Tie] = {}

    def tie(self, name: Any, announced: Callable[[str], object]) -> Tie:
        """Return a new process's tie, by which what it prints is known for some time."""
        self.ties.pop(name, None)
        if len(self.ties) > KNOWN:
            del self.ties[next(each for each in self.ties if each != "scheduler")]
        self.ties[name] = Tie(announced)
        return self.ties[name]

    def __call__(
        self, place: Any, term: str, args: tuple[Any, ...], options: dict[str, Any], tie: Tie
    ) -> RemoteFuture[Any]:
        """Begin the call that a process of the cluster is; this connects if need be."""
        inherited = dask.config.serialize(dask.config.global_config)
        # What tasks print is shown as they do.
        ours = {"DASK_INTERNAL_INHERIT_CONFIG": inherited, "PYTHONUNBUFFERED": "1"}
        env = {**ours, **self._options.get("env", {})}
        py: Interpreter = place.python(
            **{**self._options, "env": env},
            timeout=None,
            hide=False,
            echo=False,
            watchers=[],
            out_stream=tie.stdout,
            err_stream=tie.stderr,
            in_stream=tie,
        )
        function = RemoteFunction("dask_server", "serve")
        return py.submit(function, tie.marker, term, args, options, self._security)


class Tie:
    """What ties this side to a process: its stdin, held open, and the lines that it prints."""

    def __init__(self, announced: Callable[[str], object]) -> None:
        self.marker = secrets.token_hex(16)
        self._announced = announced
        self._over = threading.Event()
        self.lines: collections.deque[str] = collections.deque(maxlen=KEPT)
        self.stdout, self.stderr = cast(Any, _Lines(self._take)), cast(Any, _Lines(self._take))

    def text(self) -> str:
        """Return the last of what the process has printed."""
        return "\n".join(self.lines)

    def read(self, size: int) -> bytes:
        """Return nothing, once `release` is called: the end of stdin."""
        self._over.wait()
        return b""

    def release(self) -> None:
        """End the process's stdin, at which it closes."""
        self._over.set()

    def _take(self, line: str) -> None:
        before, found, address = line.partition(self.marker)
        if found:
            self._announced(json.loads(address))
        elif before.strip():
            self.lines.append(printable(before))


class _Lines:
    """A text file that hands on each whole line written to it."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take, self._rest = take, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        self._rest = self._rest[-10_000:]
        for line in lines:
            self._take(line)
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back but the beginning of a line."""


class Process(ProcessInterface):
    """A process of the cluster on a host: its start and its end."""

    what = "process"
    _cluster: Callable[[], Any] = staticmethod(lambda: None)

    def __init__(self, launch: Launch, place: Any, name: Any = None) -> None:
        self.name = name
        self._launch, self.place = launch, place
        self._call: RemoteFuture[Any] | None = None
        self._tie: Tie | None = None
        # Why it could not be started.
        self.error: BaseException | None = None
        super().__init__()

    async def begin(self, term: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Start the process and wait for its address."""
        loop = asyncio.get_running_loop()
        address: asyncio.Future[str] = loop.create_future()

        def settle(found: str | None) -> None:
            if not address.done() and found is None:
                address.set_exception(EOFError())
            elif not address.done():
                address.set_result(str(found))

        def ended(call: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed
                loop.call_soon_threadsafe(settle, None)
                loop.call_soon_threadsafe(self._end)

        def announced(found: str) -> None:
            loop.call_soon_threadsafe(settle, found)

        self._tie = self._launch.tie(self.name, announced)
        try:
            self._call = await asyncio.to_thread(
                self._launch, self.place, term, args, options, self._tie
            )
            self._call.add_done_callback(ended)
            self.address = await address
        except BaseException as error:
            self.status, self.error = Status.failed, error
            self._tie.release()
            if self._call is None or not isinstance(error, EOFError):
                self._event_finished.set()
                raise
            self.error = self._failure()
            raise self.error from self._call.exception()

    def _failure(self) -> RemoteException:
        error = self._call.exception() if self._call else None
        where = f"The {self.what} on {self.place.original_host} did not start: "
        if isinstance(error, ModuleNotFoundError) and error.name in ("dask", "distributed"):
            version = importlib.metadata.version("distributed")
            return RemoteException(
                f"{where}its interpreter has no {error.name}. Name one that has with python=, or "
                f"have it provided: requires=['distributed=={version}']."
            )
        text = self._tie.text()[-2000:] if self._tie else ""
        last = f" It printed: {text}" if text else ""
        return RemoteException(f"{where}{type(error).__name__}: {error}.{last}")

    def _end(self) -> None:
        if self._tie is not None:
            # What reads our side of its stdin would wait on, in a thread.
            self._tie.release()
        if self.status == Status.running:
            self.status = Status.closed
            self.ended()
        self._event_finished.set()

    def ended(self) -> None:
        """Take note that the process has ended, unasked by this side."""

    async def close(self) -> None:
        """End the process: it may close by itself, and is killed if it doesn't."""
        self.status = Status.closing
        if self._tie is not None and self._call is not None:
            self._tie.release()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._event_finished.wait(), CLOSING)
            self._call.cancel()
        await super().close()


class Worker(Process):
    """A worker, as a rule with its nanny."""

    what = "Dask worker"

    def __init__(
        self,
        scheduler: str,
        *,
        launch: Launch,
        place: Any,
        worker_class: str,
        name: Any = None,
        **options: Any,
    ) -> None:
        self._scheduler, self._class, self._options = scheduler, worker_class, options
        super().__init__(launch, place, name)

    async def start(self) -> None:
        """Start the worker and wait until it has its place in the cluster."""
        await self.begin(self._class, (self._scheduler,), {"name": self.name, **self._options})
        await super().start()

    def ended(self) -> None:
        """Have the cluster do without it."""
        cluster = self._cluster()
        if cluster is not None and self._call is not None:
            cluster.dropped(self, self._call.exception())

    async def close(self) -> None:
        """Have others take what the worker alone holds, if there are others, and end it."""
        cluster = self._cluster()
        ours = cluster is not None and cluster.status == self.status == Status.running
        if ours and self.name is not None:
            with contextlib.suppress(OSError):
                await cluster.scheduler_comm.retire_workers(names=[self.name])
        await super().close()


class Scheduler(Process):
    """The scheduler, and the way to it from here."""

    what = "Dask scheduler"

    def __init__(
        self,
        *,
        launch: Launch,
        place: Any,
        forward: bool,
        cluster: Callable[[], Any],
        **options: Any,
    ) -> None:
        self._forward, self._options, self._cluster = forward, options, cluster
        self._way: Way | None = None
        super().__init__(launch, place, "scheduler")

    async def start(self) -> None:
        """Start the scheduler; afterwards ``external_address`` is where this side reaches it."""
        await self.begin("distributed.Scheduler", (), self._options)
        protocol, _, rest = str(self.address).partition("://")
        host, _, port = rest.rpartition(":")
        if self._forward:
            self._way = Way(self.place, host.strip("[]"), int(port))
            self.external_address = f"{protocol}://127.0.0.1:{self._way.port}"
        elif not {"host", "interface"} & self._options.keys():
            known = self.place.host
            host = f"[{known}]" if ":" in known else known
            self.external_address = f"{protocol}://{host}:{port}"
        await super().start()

    def ended(self) -> None:
        """Have the cluster know."""
        cluster = self._cluster()
        if cluster is not None and self._call is not None:
            cluster.lost(self, self._call.exception())

    async def close(self) -> None:
        """End the scheduler and the way to it."""
        await super().close()
        if self._way is not None:
            await asyncio.to_thread(self._way.close)


__all__ = ["Launch", "Scheduler", "Worker"]
