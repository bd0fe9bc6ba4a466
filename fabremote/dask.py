"""`FabricCluster`: a Dask cluster whose scheduler and workers run on the hosts of a group.

::

    Client ── TCP, or a port that SSH forwards ──> scheduler <── TCP ──> workers
                                                       |                    |
    FabricCluster (a SpecCluster) ── SSH: one call each, as long as it serves

Each process is a call like any other: it is started over the connection, in the
interpreter that the options say, and ends with it. What it prints comes back.
`distributed` does the rest: this module tells it how to start and end a process.

Needs ``pip install 'fabremote[dask]'``.
"""

from __future__ import annotations

import asyncio
import collections
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import fabric

from fabremote.connection import wrap_context
from fabremote.hosts import open_connection
from fabremote.options import PythonOptions, check_names

try:
    from distributed.core import Status
    from distributed.deploy.spec import SpecCluster
    from distributed.security import Security

    from fabremote.dask_servers import Launch, Scheduler, Worker
except ImportError as error:
    raise ImportError(
        f"fabremote.dask needs Dask's distributed, which can't be imported here: {error}. "
        "Run: pip install 'fabremote[dask]'"
    ) from error

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Those of python()'s options that mean something for a process that serves.
OPTIONS = (
    "python",
    "py_options",
    "env",
    "cwd",
    "sudo",
    "user",
    "password",
    "start_timeout",
    "requires",
    "wheels",
    "cache_dir",
    "build_timeout",
)


class FabricCluster(SpecCluster):
    """A Dask cluster on the hosts of a group; ``Client(cluster)`` connects to it.

    ``group``: a group, or a list of connections and host names. The scheduler
    runs on the first, a worker on each. ``n_workers``: how many workers at the
    start, one for each host unless given; they go where the fewest are, as do
    those of `scale` and `adapt`. ``scheduler_on``: a connection or host name for
    the scheduler, if it isn't to run on the first.
    ``worker_class``, ``worker_options``, ``scheduler_options``: the class of the
    workers, by default ``"distributed.Nanny"``, and the arguments of it, such as
    ``{"nthreads": 2, "memory_limit": "2GiB"}``, and of
    ``distributed.Scheduler``, such as ``{"port": 8786}``.
    ``forward``: whether this side reaches the scheduler through a port that SSH
    forwards; otherwise it connects to the host. None forwards if the
    scheduler's connection has a gateway.
    ``security``: True encrypts what the processes send each other, with keys
    made for this cluster, so that nobody else can use it; False doesn't; or a
    ``distributed.Security``, whose keys are sent to the hosts.
    ``asynchronous``, ``name``, ``silence_logs``, ``shutdown_on_close``: as for
    Dask's other clusters. ``options``: those of ``python()`` that say which
    interpreter runs and as whom; it must have ``distributed``, in the version
    that is here: ``requires=`` can provide it.

    Raises RuntimeError if the scheduler can't be started, and RemoteException
    or what ``python()`` raises if a worker can't.
    """

    def __init__(
        self,
        group: Any,
        *,
        n_workers: int | None = None,
        scheduler_on: Any = None,
        worker_class: str = "distributed.Nanny",
        worker_options: Mapping[str, Any] | None = None,
        scheduler_options: Mapping[str, Any] | None = None,
        forward: bool | None = None,
        security: bool | Security = True,
        asynchronous: bool = False,
        name: str | None = None,
        silence_logs: Any = False,
        shutdown_on_close: bool = True,
        **options: Unpack[PythonOptions],
    ) -> None:
        _check_options(options)
        self._opened: list[Any] = []
        # How often no worker could be started somewhere, since one last could.
        self._failures: collections.Counter[int] = collections.Counter()
        self._places = [self._place(one) for one in _each(group)]
        if not self._places:
            raise ValueError("FabricCluster() was given no hosts.")
        first = self._places[0] if scheduler_on is None else self._place(scheduler_on)
        keys: Security | None = Security.temporary() if security is True else security or None
        self._launch = Launch(options, _sendable(keys) if keys else None)
        self._worker = self._worker_spec(worker_class, worker_options or {})
        workers: dict[Any, Any] = {}
        for number in range(len(self._places) if n_workers is None else n_workers):
            workers[number] = self._next(workers)
        forward = bool(first.gateway) if forward is None else forward
        self._begin(
            workers=workers,
            scheduler=self._scheduler_spec(first, forward, scheduler_options or {}),
            worker=self._worker,
            asynchronous=asynchronous,
            security=keys,
            name=name or "FabricCluster",
            silence_logs=silence_logs,
            shutdown_on_close=shutdown_on_close,
        )

    def _begin(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except BaseException:
            # Its own thread goes on if it is the scheduler that could not be started.
            runner = vars(self).get("_loop_runner")
            if runner is not None and not given["asynchronous"]:
                runner.stop()
            self._close_opened()
            raise

    def _worker_spec(self, term: str, options: Mapping[str, Any]) -> dict[str, Any]:
        # One that can't reach the scheduler says so, instead of trying for ever.
        defaults = {"launch": self._launch, "worker_class": term, "death_timeout": 60}
        return {"cls": Worker, "options": {**defaults, **options}}

    def _scheduler_spec(
        self, place: Any, forward: bool, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        # Ports that nobody else uses by default.
        defaults = {"port": 0, "dashboard_address": ":0"}
        own = {"launch": self._launch, "place": place, "forward": forward}
        own["cluster"] = weakref.ref(self)
        return {"cls": Scheduler, "options": {**own, **defaults, **options}}

    def _place(self, where: Any) -> Any:
        if isinstance(where, str):
            connection = open_connection(where)
            self._opened.append(connection)
            return connection
        if not isinstance(where, fabric.Connection):
            raise TypeError(f"FabricCluster() runs on connections and host names, not {where!r}.")
        return wrap_context(where)

    def _next(self, workers: Mapping[Any, Any]) -> dict[str, Any]:
        """Return the spec of one more worker, where the fewest are.

        One that could not be started counts as one, so that another host gets its turn.
        """
        used = [spec["options"]["place"] for spec in workers.values()]
        count = [
            sum(one is place for one in used) + self._failures[id(place)] for place in self._places
        ]
        place = self._places[count.index(min(count))]
        return {**self._worker, "options": {**self._worker["options"], "place": place}}

    def new_worker_spec(self) -> dict[Any, Any]:
        """Return the name and spec of the next worker."""
        return {name: self._next(self.worker_spec) for name in super().new_worker_spec()}

    def output(self) -> dict[Any, str]:
        """Return the last of what each process printed: ``"scheduler"``, and workers by name.

        Those that have ended are there, too. What those that run have logged is
        in ``get_logs()``.
        """
        return {name: tie.text() for name, tie in self._launch.ties.items()}

    def scale(self, n: int = 0, memory: Any = None, cores: int | None = None) -> Any:
        """Have ``n`` workers, or as many as have this much memory or these cores.

        Raises RuntimeError if the scheduler has ended.
        """
        if self.status == Status.failed:
            raise RuntimeError("The scheduler has ended: close this cluster, and make another.")
        return super().scale(n, memory, cores)

    scale_up = scale

    async def _correct_state_internal(self) -> None:
        try:
            await super()._correct_state_internal()
        finally:
            for worker in list(self.workers.values()):
                if worker.status == Status.failed:
                    self._failures[id(worker.place)] += 1
                    self.dropped(worker, worker.error)
                else:
                    self._failures.pop(id(worker.place), None)

    def lost(self, scheduler: Scheduler, error: BaseException | None) -> None:
        """Take note that the scheduler has ended: there is nothing more to do but to close."""
        if self.status == Status.running and self.scheduler is scheduler:
            where = scheduler.place.original_host
            self._log(f"The scheduler on {where} ended: {error or 'it closed itself'}")
            self.status = Status.failed
            if self.scheduler_comm is not None:
                # Nobody is there who could answer.
                self.scheduler_comm.timeout = 0.5

    def dropped(self, worker: Worker, error: BaseException | None) -> None:
        """Do without a worker whose process has ended; `scale` and `adapt` start another."""
        where = worker.place.original_host
        self._log(f"Worker {worker.name} on {where} ended: {error or 'it closed itself'}")
        if self.workers.get(worker.name) is worker:
            del self.workers[worker.name]
            self.worker_spec.pop(worker.name, None)

    async def _close(self) -> None:
        await super()._close()
        await asyncio.to_thread(self._close_opened)

    def _close_opened(self) -> None:
        opened, self._opened = self._opened, []
        for connection in opened:
            connection.close()


def _each(group: Any) -> list[Any]:
    if isinstance(group, (str, fabric.Connection)) or not isinstance(group, Sequence):
        raise TypeError(
            f"FabricCluster({group!r:.100}): give a group, or a list of connections or host names."
        )
    return list(group)


def _check_options(options: PythonOptions) -> None:
    check_names(options)
    for name in options:
        if name not in OPTIONS:
            raise TypeError(f"FabricCluster() has no use for {name}=. It takes {OPTIONS}.")


def _sendable(security: Security) -> dict[str, Any]:
    """Return the arguments that make the same Security elsewhere: files as their contents."""
    found = {}
    for name in security.__slots__:
        value = getattr(security, name)
        if name.startswith("tls_") and isinstance(value, str) and os.path.isfile(value):
            with open(value, encoding="ascii") as stream:
                value = stream.read()
        if name not in ("extra_conn_args", "tls_min_version", "tls_max_version") and value:
            found[name] = value
    return found


__all__ = ["FabricCluster"]
