"""Work in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

_thread = threading.local()


def start_thread(name: str, work: Callable[..., object], *arguments: Any) -> threading.Thread:
    """Call ``work`` in a thread of this name, which keeps no process alive; return the thread.

    It may have ended before the caller has it. RuntimeError: there can be no more threads.
    """
    thread = threading.Thread(target=work, name=name, args=arguments, daemon=True)
    thread.start()
    return thread


def serve_here() -> None:
    """Mark this thread as a service's (see `fabremote.service`), or one that such a one waits for.

    What is the user's runs there as calls end. It must wait for no other call that has
    to end in such a thread, as that may be waiting for this one.
    """
    _thread.serves = True


def serves_here() -> bool:
    """Return whether this thread is marked so, whatever session's it is."""
    return getattr(_thread, "serves", False)


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
    ended.wait()
    if failures:
        raise failures[0]


__all__ = ["apart", "serve_here", "serves_here", "start_thread", "surely"]
