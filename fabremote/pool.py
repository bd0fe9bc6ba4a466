"""The hosts of an executor, their slots, and the work that waits for one.

::

    submit ──> queue ──> slot: a thread of one host ──> Prepared.value ──> future
                 ^                   |
                 └─ lost work, as often as it may be repeated

A slot connects before it takes work, so that none waits for a host that isn't
there. A host that can't be reached, or is lost again and again, is dropped.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from fabremote.connection import wrap_context
from fabremote.exceptions import (
    EnvironmentBuildError,
    NoHostsLeft,
    RemoteCancelled,
    RemoteConnectionLost,
    RemoteConnectionRefused,
    RemoteInterpreterMissing,
    raised_there,
)
from fabremote.futures import RemoteFuture
from fabremote.labels import Labelled, names_of
from fabremote.options import Options, PythonOptions, resolve
from fabremote.prepared import Prepared
from fabremote.printing import folded
from fabremote.shipping.payload import check_callable, name_of
from fabremote.streams import local_stream

# So many times in a row a host may be lost before it is dropped.
LOSSES = 3
# How long `join` waits for slots that only connect, once there is nothing to do, in seconds.
PATIENCE = 5.0
# Of a call that had to connect anew and could not: it hasn't begun.
NOT_BEGUN = (RemoteConnectionRefused, RemoteInterpreterMissing, EnvironmentBuildError)

log = logging.getLogger("fabremote.executor")


class WorkFuture(RemoteFuture[Any]):
    """The Future of an executor's work; cancelling it kills the remote process."""

    begun = False

    def running(self) -> bool:
        """Return whether a host works on it."""
        return self.begun and not self.done()


class Work:
    """A call that waits for a slot, or is in one."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]):
        check_callable(fn)
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self.name = name_of(fn)
        self.future = WorkFuture(self.name, self._kill)
        self.prepared: Prepared | None = None
        self.lost_on: list[Host] = []

    def _kill(self) -> None:
        if self.prepared is not None:
            self.prepared.cancel()

    def run(self, place: Any, options: Options) -> Any:
        """Run the call on a host in this thread; return its value."""
        if self.future.cancelled():
            return None
        prepared = Prepared(place, options, self.fn, self.args, self.kwargs, False)
        self.prepared = prepared
        try:
            if self.future.cancelled():
                return None
            self.future.begun = True
            return prepared.value()
        finally:
            self.prepared = None

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Give the future its result, unless it was cancelled meanwhile."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(value)


class Host:
    """One of the connections, and how it fares."""

    def __init__(self, connection: Any, options: PythonOptions, lock: threading.RLock) -> None:
        self.connection = connection
        self.place = wrap_context(connection)._calls_host()
        self.options = resolve(connection, options)
        self.name = str(self.place.label)
        self.slots = self.losses = 0
        self.ready = self.connecting = False
        self.failure: BaseException | None = None
        # Notified when `ready` or `failure` changes.
        self.changed = threading.Condition(lock)

    def streams(self, number: int) -> dict[str, Any]:
        """Return labelled streams for one call's output."""
        return {
            option: Labelled(local_stream(given, name), self.name, number)
            for option, name, given in (
                ("out_stream", "stdout", self.options.out_stream),
                ("err_stream", "stderr", self.options.err_stream),
            )
            if name not in self.options.hide
        }

    def give_up_connecting(self) -> None:
        """Have a connection that isn't open yet fail in the thread that waits for it."""
        connection = self.connection
        if self.connecting and not getattr(connection, "is_connected", True):
            connection.close()


class Pool:
    """Runs work in slots, ``per_host`` of them on each host, one thread each."""

    def __init__(
        self, options: PythonOptions, per_host: int, retries: int, connecting: int, labels: bool
    ) -> None:
        self._options, self._per_host, self._retries = options, per_host, retries
        self._labels = labels
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._gate = threading.BoundedSemaphore(connecting)
        self._hosts: list[Host] = []
        self._threads: list[threading.Thread] = []
        self._queue: deque[Work] = deque()
        self._running: set[Work] = set()
        self._idle = 0
        self._begun = self._shut = False

    # From outside

    def add(self, connection: Any) -> None:
        """Take in another host."""
        host = Host(connection, self._options, self._lock)
        with self._lock:
            self._check_open()
            self._hosts.append(host)
            names = names_of(one.connection for one in self._hosts)
            for one, name in zip(self._hosts, names, strict=True):
                one.name = name
            if self._begun:
                self._start(host)

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> WorkFuture:
        """Queue a call; return its future."""
        work = Work(fn, args, kwargs)
        with self._lock:
            self._check_open()
            if not self.live():
                raise self._nowhere(work)
            self._queue.append(work)
            if not self._begun:
                self._begun = True
                for host in self.live():
                    self._start(host)
            self._changed.notify()
            self._grow()
        return work.future

    def live(self) -> list[Host]:
        """Return the hosts that weren't dropped."""
        return [host for host in self._hosts if host.failure is None]

    def dropped(self) -> list[tuple[Any, BaseException]]:
        """Return the connections that were dropped, and why."""
        return [(host.connection, host.failure) for host in self._hosts if host.failure]

    def places(self) -> int:
        """Return how many calls may run at once."""
        return self._per_host * len(self.live())

    def finish(self) -> None:
        """Take no more work; the threads end when what there is has been done."""
        with self._lock:
            self._shut = True
            self._wake()

    # What is left of an executor that was dropped.
    close = finish

    def cancel(self, running: bool) -> None:
        """Cancel what waits, and if ``running`` kill what runs."""
        with self._lock:
            every = [*self._queue, *(self._running if running else ())]
        for work in every:
            work.future.cancel()

    def join(self) -> None:
        """Wait until all is done and the threads have ended."""
        me, since = threading.current_thread(), None
        while alive := [one for one in self._threads if one.is_alive() and one is not me]:
            if self._over():
                since = since or time.monotonic()
                if time.monotonic() - since > PATIENCE:
                    return  # Those that still connect end when that fails.
                with self._lock:
                    self._wake()
                for host in self._hosts:
                    host.give_up_connecting()
            alive[0].join(0.2)

    # Slots

    def _start(self, host: Host) -> None:
        host.slots += 1
        name = f"fabremote-executor-{host.name}-{host.slots}"
        thread = threading.Thread(target=self._serve, args=(host,), name=name, daemon=True)
        # Known before it runs, for Ctrl-C amid its start not to leave it to nobody.
        self._threads.append(thread)
        thread.start()

    def _grow(self) -> None:
        """Start another slot if work waits that no idle one will take."""
        if len(self._queue) <= self._idle:
            return
        free = [one for one in self.live() if one.ready and one.slots < self._per_host]
        if free:
            self._start(min(free, key=lambda host: host.slots))

    def _serve(self, host: Host) -> None:
        while host.failure is None:
            if not host.ready and not self._connect(host):
                return
            work = self._take(host)
            if work is None:
                return
            self._do(host, work)

    def _connect(self, host: Host) -> bool:
        with self._gate:
            if self._over():
                return False
            host.connecting = True
            try:
                if not host.options.dry:
                    host.place.session(host.options)
            except BaseException as error:
                host.connecting = False
                if not self._over():
                    self._drop(host, error)
                return False
            host.connecting = False
        with self._lock:
            host.ready = True
            host.changed.notify_all()
        return True

    def _take(self, host: Host) -> Work | None:
        with self._lock:
            while host.failure is None:
                work = self._pick(host) if host.ready else None
                if work is not None:
                    self._running.add(work)
                    self._grow()
                    return work
                if self._over():
                    self._wake()
                    return None
                if host.ready:
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                else:
                    host.changed.wait()
        return None

    def _pick(self, host: Host) -> Work | None:
        for work in self._queue:
            # Lost work goes elsewhere, unless there is no elsewhere.
            if host not in work.lost_on or all(one in work.lost_on for one in self.live()):
                self._queue.remove(work)
                return work
        return None

    def _do(self, host: Host, work: Work) -> None:
        value = error = None
        try:
            value = self._run(host, work)
        except BaseException as failure:
            error = failure
        again = self._again(host, work, error)
        with self._lock:
            self._running.discard(work)
            if again and not self.live():
                again, error = False, self._nowhere(work)
            if again:
                self._queue.appendleft(work)
                self._grow()
            if again or self._over():
                self._wake()
        if not again:
            work.settle(value, error)

    def _run(self, host: Host, work: Work) -> Any:
        if not self._labels or len(self._hosts) < 2:
            return work.run(host.place, host.options)
        shown = host.streams(self._hosts.index(host))
        return work.run(host.place, dataclasses.replace(host.options, **shown))

    # Losses

    def _again(self, host: Host, work: Work, error: BaseException | None) -> bool:
        """Note how a host fared with work; return whether that is to be done once more."""
        cancelled = work.future.cancelled()
        if error is None or raised_there(error):
            host.losses = 0
            return False
        lost = isinstance(error, (RemoteConnectionLost, RemoteInterpreterMissing))
        if (lost or isinstance(error, NOT_BEGUN)) and not getattr(error, "begun", False):
            self._lose(host, error)
            return not cancelled
        if isinstance(error, RemoteCancelled) and not cancelled:
            self._drop(host, error)  # Somebody closed its connection.
        elif lost:
            self._lose(host, error)
        else:
            return False
        work.lost_on.append(host)
        return len(work.lost_on) <= self._retries and not cancelled

    def _lose(self, host: Host, error: BaseException) -> None:
        with self._lock:
            host.ready = False
            host.losses += 1
        if host.losses >= LOSSES:
            self._drop(host, error)

    def _drop(self, host: Host, error: BaseException) -> None:
        with self._lock:
            if host.failure is not None:
                return
            host.failure = error
            left: list[Work] = []
            if not self.live():
                left, self._queue = list(self._queue), deque()
            self._wake()
        # Whoever closed its connection knows.
        level = logging.INFO if isinstance(error, RemoteCancelled) else logging.WARNING
        log.log(level, "%s takes no more work: %s", host.name, folded(str(error)))
        for work in left:
            work.settle(None, self._nowhere(work))

    # Under the lock

    def _over(self) -> bool:
        with self._lock:
            # What was cancelled while it waited needs no host that would take it.
            while self._shut and self._queue and self._queue[0].future.cancelled():
                self._queue.popleft()
            return self._shut and not self._queue and not self._running

    def _wake(self) -> None:
        self._changed.notify_all()
        for host in self._hosts:
            host.changed.notify_all()

    def _check_open(self) -> None:
        if self._shut:
            raise RuntimeError("the executor was shut down: it takes no more work and hosts")

    def _nowhere(self, work: Work) -> NoHostsLeft:
        dropped = [host for host in self._hosts if host.failure]
        if not dropped:
            return NoHostsLeft(f"{work.name} has no host to run on: add() one to the executor.")
        last = dropped[-1]
        error = NoHostsLeft(
            f"None of the executor's {len(dropped)} hosts is left to run {work.name}. "
            f"{last.name}: {last.failure} Add another with add()."
        )
        error.__cause__ = last.failure
        return error


__all__ = ["Pool", "WorkFuture"]
