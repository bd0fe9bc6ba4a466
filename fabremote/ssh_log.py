"""paramiko's log where nobody has configured logging: less of it than Python would show.

Python then prints warnings and errors of any library to stderr. Of a connection of ours, what
paramiko logs there is what the error that is raised says, too: once is enough. Whoever
configures logging gets all records, and so does stderr those of other connections.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from paramiko import Channel, Transport

from fabremote.sockets import PromptSocket, ProxySocket

_opening: list[None] = []  # one item for each opening under way


class LastResort(logging.Handler):
    """Stands in for `logging.lastResort` among paramiko's loggers."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record as Python would without us, unless it is about our connections."""
        last = logging.lastResort
        if last is None or record.levelno < last.level or self._is_configured(record.name):
            return
        if not _opening and not _is_ours(threading.current_thread()):
            last.handle(record)

    def _is_configured(self, name: str) -> bool:
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False


def _is_ours(thread: threading.Thread) -> bool:
    """Whether a thread, which is paramiko's transport itself, serves a socket of ours."""
    sock = thread.sock if isinstance(thread, Transport) else None
    while isinstance(sock, Channel):
        sock = sock.get_transport().sock
    return isinstance(sock, (PromptSocket, ProxySocket))


@contextlib.contextmanager
def told_by_errors() -> Iterator[None]:
    """While something is opened whose failure will be raised, whoever made its socket."""
    _opening.append(None)
    try:
        yield
    finally:
        _opening.pop()


logging.getLogger("paramiko").addHandler(LastResort())

__all__ = ["told_by_errors"]
