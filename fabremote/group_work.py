"""Work on each host of a group: in turn or at once, shown to a person as it goes.

::

    group.call, .run ... ──> in_turn, at_once ──> Stage.outcome ──> action(connection, streams)
                                                    |    labels of the hosts' lines
                                                    |    live view on a terminal
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import time
from collections.abc import Callable, Iterable
from typing import IO, Any

from fabremote import option_values as check
from fabremote.configuration import remotely
from fabremote.exceptions import raised_there
from fabremote.futures import await_end
from fabremote.group_result import Outcome
from fabremote.labels import Labelled, names_of
from fabremote.live import View
from fabremote.streams import local_stream

# Hosts worked on at once for each processor here, and at most, unless told otherwise: a
# connection costs some work at its start, and waits from then on.
PER_PROCESSOR = 32
MOST = 128
# How often a group that was interrupted has its connections closed, and for how long, in seconds.
CLOSINGS = 20
CLOSING = 0.5

# What gives an action the streams to show a host's output on, by the names of run()'s options:
# from what is hidden ("stdout", "stderr"), and the out_stream and err_stream that were given.
Streams = Callable[[Iterable[str], IO[str] | None, IO[str] | None], dict[str, Labelled]]
Action = Callable[[Any, Streams], Any]


def setting(group: Any, name: str) -> Any:
    """Return a group's own setting, or else what the configuration of its first host says."""
    given = getattr(group, name, None)
    return given if given is not None or not group else remotely(group[0])[name]


def max_workers(group: Any) -> int:
    """Return how many hosts of a group are worked on at once."""
    given = setting(group, "max_workers")
    if given is None:
        return min(MOST, PER_PROCESSOR * (os.cpu_count() or 1))
    return check.count("max_workers", given)


class Stage:
    """What a person sees of one piece of work on a group."""

    def __init__(self, group: Any, progress: bool = True) -> None:
        self._names = names_of(group)
        many = len(group) > 1
        self._labelled = many and setting(group, "labels") is not False
        wanted = progress and many and setting(group, "live") is not False
        self._view = View(self._names, wanted)

    def outcome(self, action: Action, place: int, one: Any) -> Outcome:
        """Do ``action`` with one host's connection; return how it went."""
        self._view.began(place)
        begun = time.monotonic()
        value: Any = None
        error: BaseException | None = None
        try:
            value = action(one, functools.partial(self._streams, place))
        except (Exception, SystemExit) as failure:
            error = failure
        except KeyboardInterrupt as failure:
            # Ctrl-C here ends the group; what a function raised there is its host's own.
            if not raised_there(failure):
                raise
            error = failure
        self._view.ended(place, error is not None)
        return Outcome(one, value, error, time.monotonic() - begun)

    def _streams(
        self, place: int, hidden: Iterable[str], out: IO[str] | None, err: IO[str] | None
    ) -> dict[str, Labelled]:
        if not self._labelled:
            return {}
        return {
            option: Labelled(local_stream(given, name), self._names[place], place)
            for option, name, given in (
                ("out_stream", "stdout", out),
                ("err_stream", "stderr", err),
            )
            if name not in hidden
        }

    def close(self) -> None:
        """Take away what was shown only meanwhile."""
        self._view.close()


def in_turn(group: Any, action: Action, progress: bool = True) -> list[Outcome]:
    """Do ``action`` with each connection of the group, one after the other."""
    stage = Stage(group, progress)
    try:
        return [stage.outcome(action, place, one) for place, one in enumerate(group)]
    finally:
        stage.close()


def at_once(group: Any, action: Action, progress: bool = True) -> list[Outcome]:
    """Do ``action`` with each connection of the group, in threads."""
    if not group:
        return []
    workers = min(len(group), max_workers(group))
    stage = Stage(group, progress)
    # Of ours: Ctrl-C amid the pool's submit() would leave one that is known to nobody.
    futures = [concurrent.futures.Future[Outcome]() for _ in group]

    def work(place: int, one: Any) -> None:
        future = futures[place]
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(stage.outcome(action, place, one))
            except BaseException as error:
                future.set_exception(error)

    pool = concurrent.futures.ThreadPoolExecutor(workers, "fabremote-group")
    ended = False
    try:
        for place, one in enumerate(group):
            pool.submit(work, place, one)
        outcomes = []
        for future in futures:
            await_end(future)
            outcomes.append(future.result())
        ended = True
        return outcomes
    except BaseException:
        # Ctrl-C: closing the connections ends what runs through them. A second one during that
        # waits for nothing any more.
        for future in futures:
            future.cancel()
        ended = _end(list(zip(group, futures, strict=True)))
        raise
    finally:
        pool.shutdown(wait=ended)
        stage.close()


def _end(work: list[tuple[Any, concurrent.futures.Future[Outcome]]]) -> bool:
    """Close the connections on which work still runs, until it has ended; return whether it has.

    Again and again: one that was just about to connect is open only after the first time.
    """
    for _ in range(CLOSINGS):
        left = [(one, future) for one, future in work if not future.done()]
        if not left:
            return True
        with concurrent.futures.ThreadPoolExecutor(min(MOST, len(left)), "fabremote-end") as pool:
            for one, _ in left:
                pool.submit(one.close)
        concurrent.futures.wait([future for _, future in left], CLOSING)
    return False


__all__ = ["Action", "Streams", "at_once", "in_turn", "max_workers"]
