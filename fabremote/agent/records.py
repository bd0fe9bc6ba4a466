"""Sends the log records of a call to its caller, with ``logging=True``.

One handler, at the root logger, and the caller's levels. A record goes as plain
data: its text is made here. It travels as a request on the reply's pipe, see
`bundle`, which the supervisor answers once it has sent on what was printed before
and there is room for more: so the order is kept, and a flood is held up.

Sent with the first call that logs so.
"""

import logging
import sys
from _pickle import dumps

from . import bundle, raising, wire

# The most characters of a message or traceback; the first with which a record fits a frame.
LONGEST = (40000, 10000, 1000)
# The most attributes that ``extra=`` may give to a record.
EXTRAS = 50

NUMBERS = ("levelno", "lineno", "created", "msecs", "relativeCreated", "thread", "process")
TEXTS = ("name", "levelname", "pathname", "funcName", "threadName", "processName", "taskName")
# What a record has anyway.
OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def install(levels):
    """Log to the caller what it wants: {logger's name: level}, "" for the root, None for all."""
    logging.disable(levels.pop(None))
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
    root = logging.getLogger()
    if not any(isinstance(each, Handler) for each in root.handlers):
        root.addHandler(Handler())


class Handler(logging.Handler):
    """Sends each record, and returns when it is on its way."""

    def emit(self, record):
        try:
            for stream in (sys.stdout, sys.stderr):
                flush(stream)
            for most in LONGEST:
                data = dumps(described(record, most), 4)
                if len(data) <= wire.MAX_DATA:
                    break
            if not bundle.send(data, bundle.ASKING | bundle.RECORD):
                in_child(record)
        except Exception:
            self.handleError(record)


def flush(stream):
    """Have what was printed go first."""
    try:
        stream.flush()
    except Exception:
        pass  # Closed by the function, or none.


def in_child(record):
    """Log as a process without handlers does: this one has no way to the caller."""
    last = logging.lastResort
    if last is not None and record.levelno >= last.level:
        last.handle(record)


def described(record, most):
    """Return a record as built-in values: its message, its numbers, its texts, and its extras."""
    found = {name: number(getattr(record, name, None)) for name in NUMBERS}
    found.update((name, cut(getattr(record, name, None), most // 10)) for name in TEXTS)
    # Those that a caller needs, whatever made the record.
    found.update(name=found["name"] or "", levelname=found["levelname"] or "")
    found.update(levelno=int(found["levelno"] or 0), created=found["created"] or 0.0)
    found["msg"] = cut(record.getMessage(), most)
    if record.exc_info and not record.exc_text:
        # Kept in the record, as any formatter does.
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    found["exc_text"] = cut(record.exc_text, most)
    found["stack_info"] = cut(record.stack_info, most)
    extras = [item for item in vars(record).items() if item[0] not in OWN][:EXTRAS]
    found["extras"] = {cut(name, 100): plain(value, most // 10) for name, value in extras}
    return found


def number(value):
    """Return a number as a plain one that a caller takes, or None."""
    if isinstance(value, int) and abs(value) < 1 << 63:
        return int(value)
    return float(value) if isinstance(value, float) else None


def plain(value, most):
    """Return a value of ``extra=`` as it is if it is plain, else as text."""
    if value is None or type(value) is bool:
        return value
    found = number(value)
    return found if type(found) is type(value) else cut(value, most)


def cut(value, most):
    """Return text as a str that UTF-8 can hold, its middle left out if it is long."""
    if value is None:
        return None
    text = raising.text_of(value).encode("utf-8", "backslashreplace").decode()
    if len(text) <= most:
        return text
    half = most // 2
    return "%s [... %d characters ...] %s" % (text[:half], len(text) - 2 * half, text[-half:])
