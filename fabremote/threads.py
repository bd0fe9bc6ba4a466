"""Work in a thread of its own."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

# How long the main thread waits at a time, in seconds. A Ctrl-C that comes as another thread
# starts a third is, on a busy machine, at times given to that one: Python notes it there, and
# wakes nobody. The main thread finds it as its wait ends.
LOOK = 1.0
_thread = threading.local()
# Known ahead, as each call asks for it.
_main = threading.main_thread().ident


def _forked() -> None:
    global _main
    _main = threading.get_ident()


os.register_at_fork(after_in_child=_forked)


def start_thread(name: str, work: Callable[..., object], *arguments: Any) -> threading.Thread:
    """Call ``work`` in a thread of this name, which keeps no process alive; return the thread.

    It may have ended before the caller has it. RuntimeError: there can be no more threads.
    """
    thread = threading.Thread(target=work, name=name, args=arguments, daemon=True)
    thread.start()
    return thread


def at_a_time(rest: float | None = None) -> float | None:
    """Return how long this thread may wait before it goes on waiting, of ``rest`` seconds."""
    if threading.get_ident() != _main:
        return rest
    return LOOK if rest is None else min(rest, LOOK)


def awaited(wait: Callable[[float | None], bool], timeout: float | None = None) -> bool:
    """Return whether ``wait``, told how long it may take, comes true in ``timeout`` seconds.

    Ctrl-C ends it, whichever thread the signal is given to.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    rest = timeout
    while not wait(at_a_time(rest)):
        if deadline is not None:
            rest = deadline - time.monotonic()
            if not rest > 0:  # nor where it is no number
                return False
    return True


def awaited_for(
    condition: threading.Condition, ready: Callable[[], object], timeout: float | None = None
) -> bool:
    """Do as a condition's ``wait_for``, which is locked; see `awaited`."""
    return awaited(lambda pause: bool(condition.wait_for(ready, pause)), timeout)


def serve_here() -> None:
    """Mark this thread as a service's (see `fabremote.service`), or one that such a one waits for.

    What is the user's runs there as calls end. It must wait for no other call that has
    to end in such a thread, as that may be waiting for this one.
    """
    _thread.serves = True


def serves_here() -> bool:
    """Return whether this thread is marked so, whatever session's it is."""
    return getattr(_thread, "serves", False)


@contextlib.contextmanager
def while_wanted(wanted: Callable[[], bool]) -> Iterator[None]:
    """Have `is_wanted`, in this thread, return what ``wanted`` does."""
    before: Callable[[], bool] | None = getattr(_thread, "wanted", None)
    _thread.wanted = lambda: (before is None or before()) and wanted()
    try:
        yield
    finally:
        _thread.wanted = before


def is_wanted() -> bool:
    """Return whether what this thread does is still wanted, as far as is known."""
    wanted: Callable[[], bool] | None = getattr(_thread, "wanted", None)
    return wanted is None or wanted()


def surely(work: Callable[[], object]) -> None:
    """Do ``work``, which may be done twice; once more where Ctrl-C comes amid it."""
    try:
        work()
    except BaseException:
        work()
        raise


def apart(work: Callable[[], None]) -> None:
    """Do ``work`` where no Ctrl-C can cut an SSH packet in two, and wait for its end.

    That would break the connection for all that runs over it. Interrupted is the
    wait: ``work`` has to end by itself then, and soon.
    """
    if threading.current_thread() is not threading.main_thread():
        work()
        return
    failures: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    start_thread("fabremote-sending", run)
    awaited(ended.wait)
    if failures:
        raise failures[0]


__all__ = [
    "apart",
    "at_a_time",
    "awaited",
    "awaited_for",
    "is_wanted",
    "serve_here",
    "serves_here",
    "start_thread",
    "surely",
    "while_wanted",
]
