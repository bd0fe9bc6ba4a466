"""The interpreters on a host's PATH, found by its shell, as there may be none to ask."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import threading
from collections.abc import Iterator

import fabric

from fabremote.bootstrap import GREETING
from fabremote.doctor_report import Found
from fabremote.links import ChannelLink, release
from fabremote.printing import printable

PROBE_TIMEOUT = 30.0
MAX_ANSWER = 1 << 20

_ASK = (
    "import os,sys;"
    "i=getattr(getattr(sys,'implementation',None),'name','cpython');"
    "print('|'.join(['%d.%d.%d'%tuple(sys.version_info[:3]),i,"
    "sys.executable,os.path.realpath(sys.executable),sys.prefix]))"
)
_NAMES = ("python", "python[23]", "python[23].[0-9]", "python[23].[0-9][0-9]")


def find_interpreters(connection: fabric.Connection) -> list[Found]:
    """Return the interpreters on the PATH there, in its order, each asked for its version."""
    marker = secrets.token_hex(16)
    link = ChannelLink(connection.create_session(), str(connection.host), PROBE_TIMEOUT)
    timer = threading.Timer(PROBE_TIMEOUT, link.close)
    timer.daemon = True
    timer.start()
    received = bytearray()
    try:
        link.send(_script(marker).encode() + b"\n")
        link.finish()
        while len(received) < MAX_ANSWER:
            piece = link.receive()
            if not piece:
                break
            received += piece
    finally:
        timer.cancel()
        timer.join()
        link.close()
        release(link)
    return _distinct(_parse(received.decode("utf-8", "replace"), marker))


def _script(marker: str) -> str:
    """Return one line of shell. It writes before each interpreter, and so ends with the link."""
    patterns = " ".join(f'"$d"/{name}' for name in _NAMES)
    ask = f'$t "$p" -c {shlex.quote(_ASK)} </dev/null 2>/dev/null'
    return (
        f"{GREETING} "
        't=; command -v timeout >/dev/null 2>&1 && t="timeout 5"; '
        "set -f; IFS=:; set -- $PATH; unset IFS; set +f; "
        f'for d do for p in {patterns}; do if [ -f "$p" ] && [ -x "$p" ]; then '
        f'echo; echo "{marker} at $p"; {ask}; fi; done; done'
    )


def _parse(text: str, marker: str) -> Iterator[Found]:
    for part in text.split(f"\n{marker} at ")[1:]:
        path, *answer = part.splitlines()
        path = printable(path)
        found = Found(os.path.basename(path), path)
        for line in answer:
            fields = line.split("|")
            if len(fields) == 5 and re.fullmatch(r"\d+\.\d+\.\d+", fields[0]):
                found.version, found.implementation = fields[:2]
                found.executable, found.real, found.prefix = map(printable, fields[2:])
        yield found


def _distinct(found: Iterator[Found]) -> list[Found]:
    """Leave out what is found again under the same name, as in /usr/bin and /bin."""
    seen: dict[tuple[str, ...], Found] = {}
    for each in found:
        real = each.real or each.path
        seen.setdefault((each.name, each.version, real, each.prefix), each)
    return list(seen.values())


__all__ = ["find_interpreters"]
