"""Log records of a function, in the loggers of this process: what it shall send, and what came.

A record is data: its message, numbers and texts, each of exactly its type. It is
handled by the local logger of its name if that is enabled for its level. No
logger is made for it: a host could make up any number of names. Nor can its lines
pass for records of another host: names are in one line, and of a text every line
but the message's first is indented.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from fabremote.exceptions import ResultError
from fabremote.printing import folded, printable
from fabremote.shipping.answers import plain
from fabremote.shipping.nodes import Malformed

# The largest number, and the latest time: the end of the year 9999.
_LARGEST = 1 << 63
_LATEST = 253402300799.0
# The most levels of a logger's name that are looked for here.
_DEEPEST = 100
# The texts that a record has to have, those that may be None, and its other numbers.
_TEXTS = ("name", "levelname", "msg")
_MORE_TEXTS = (
    "pathname",
    "funcName",
    "threadName",
    "processName",
    "taskName",
    "exc_text",
    "stack_info",
)
_OF_LINES = ("msg", "exc_text", "stack_info")
_NUMBERS = ("lineno", "thread", "process", "msecs", "relativeCreated")
# What is no attribute of its own to give: a record's attributes and methods.
_TAKEN = frozenset([*dir(logging.makeLogRecord({})), "host", "message", "asctime", "taskName"])


def levels() -> dict[str | None, int]:
    """Return the levels of the local loggers: "" is the root's, None what all are disabled to."""
    manager = logging.root.manager
    found: dict[str | None, int] = {None: manager.disable, "": logging.root.level}
    for name, logger in list(manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET:
            found[name] = logger.level
    return found


def receiver(what: str, host: str) -> Callable[[bytes | memoryview], None]:
    """Return what handles each record that comes: ``what`` names the call, ``host`` its place."""

    def receive(data: bytes | memoryview) -> None:
        try:
            record = rebuild(plain(memoryview(data)), host)
        except Malformed as error:
            raise ResultError(f"{what} sent what is not a log record: {error}.") from None
        handle(record)

    return receive


def rebuild(fields: Any, host: str) -> logging.LogRecord:
    """Return the record that a host's data describe; raise Malformed if that is none."""
    if type(fields) is not dict:
        raise Malformed("a record is no dict")
    found: dict[str, Any] = {name: _text(fields.get(name), name) for name in _TEXTS}
    for name in _MORE_TEXTS:
        found[name] = None if fields.get(name) is None else _text(fields[name], name)
    for name in _NUMBERS:
        # Formats such as %(lineno)d need one.
        found[name] = 0 if fields.get(name) is None else _number(fields[name], name)
    found["levelno"], found["created"] = (
        _number(fields.get(name), name) for name in ("levelno", "created")
    )
    if type(found["levelno"]) is not int or not 0 <= found["created"] <= _LATEST:
        raise Malformed("a record has a level or a time that is none")
    path = found["pathname"] or ""
    found["filename"] = path.rpartition("/")[2]
    found["module"] = found["filename"].rpartition(".")[0] or found["filename"]
    for name in ("exc_text", "stack_info"):
        # A formatter begins a line with it.
        found[name] = found[name] and "    " + found[name]
    found["args"], found["host"] = (), host
    return logging.makeLogRecord({**_extras(fields.get("extras")), **found})


def _extras(given: Any) -> dict[str, Any]:
    """Return what ``extra=`` gave to a record and can be an attribute of one here, too."""
    if type(given) is not dict:
        raise Malformed("a record's extras are no dict")
    found: dict[str, Any] = {}
    for name, value in given.items():
        if _text(name, "extra").isidentifier() and name not in _TAKEN and name[:2] != "__":
            if type(value) is str:
                found[name] = folded(value)
            else:
                plain_value = value is None or type(value) is bool
                found[name] = value if plain_value else _number(value, "extra")
    return found


def _text(value: Any, name: str) -> str:
    if type(value) is not str:
        raise Malformed(f"a record's {name} is no text")
    # It may go to a terminal.
    return folded(value) if name in _OF_LINES else printable(value).replace("\n", "\\n")


def _number(value: Any, name: str) -> int | float:
    if type(value) is float and (math.isfinite(value) or name == "extra"):
        return value
    if type(value) is int and abs(value) < _LARGEST:
        return value
    raise Malformed(f"a record's {name} is no number")


def handle(record: logging.LogRecord) -> None:
    """Have a record handled as if the logger of its name had made it here."""
    manager, name = logging.root.manager, record.name
    known = None if name == logging.root.name else manager.loggerDict.get(name)
    if isinstance(known, logging.Logger):
        if known.isEnabledFor(record.levelno):
            known.handle(record)
        return
    nearest: logging.Logger = logging.root
    name = ".".join(name.split(".", _DEEPEST)[:_DEEPEST])
    while name:
        name = name.rpartition(".")[0]
        above = manager.loggerDict.get(name)
        if isinstance(above, logging.Logger):
            nearest = above
            break
    # Its filters are for its own records, not for those of loggers below it.
    if manager.disable < record.levelno >= nearest.getEffectiveLevel():
        if nearest is logging.root and record.name == logging.root.name:
            nearest.handle(record)
        else:
            nearest.callHandlers(record)


__all__ = ["levels", "receiver"]
