"""Starts an agent: the interpreter found, the runner sent, its hello awaited."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from fabremote.bootstrap import STRAYED, RemotePython, Start, runs_code
from fabremote.exceptions import RemoteConnectionLost, RemoteInterpreterMissing
from fabremote.heartbeat import CLOCK, beat
from fabremote.links import Link, discard
from fabremote.options import Options
from fabremote.printing import clipped, printable
from fabremote.threads import start_thread
from fabremote.upload import FLOOR

if TYPE_CHECKING:
    from fabremote.early import Early
    from fabremote.session import Session

# What a login shell may print before the agent's hello, in bytes.
MAX_NOISE = 64 << 20
KEEP_NOISE = 1 << 16
# By label, python= and prefixes: where an interpreter asked for source.
SOURCE_WANTED: set[tuple[str, str | None, tuple[str, ...]]] = set()


def start(
    open_link: Callable[[], Link],
    label: str,
    options: Options,
    kill: Callable[[int], None],
    early: Early | None = None,
) -> Session:
    """Start an agent under the interpreter that ``options`` asks for.

    ``kill`` ends a process on the host by its pid, should it not say hello in
    time. ``early``: a call that may go ahead of the hello. Raises
    RemoteInterpreterMissing if there is no interpreter that can be used,
    RemoteConnectionLost if the link breaks before its hello, and whatever ``open_link`` raises.
    """
    tried: tuple[str, ...] = ()
    place = label, options.python, options.prefixes
    coded = runs_code(options.python) and place not in SOURCE_WANTED
    # The agent's first frame.
    first = beat(options.heartbeat) if options.heartbeat else b""
    prefixes = list(options.prefixes)
    while True:
        link = open_link()
        try:
            attempt = Start(options.python, options.py_options, prefixes, tried, coded, first)
            if early is not None and coded:
                send_along(attempt, early, link)
            greeting = Greeting(link, attempt, options, early)
            session = greeting.wait(label, kill)
            if session is not None:
                if coded and not attempt.coded:
                    SOURCE_WANTED.add(place)
                return session
            status = None if greeting.late else link.status(1.0)
            if greeting.late:
                greeting.end(kill)
            if status is None and not greeting.late and greeting.python is None:
                begun = attempt.in_doubt(status)
                raise RemoteConnectionLost(broken(label, greeting, begun), begun)
        except BaseException:
            discard(link)
            raise
        discard(link)
        name = attempt.started(greeting.received)
        tried += (name,) if name and name not in tried else ()
        # A candidate that is there but can't run, such as a version manager's
        # shim: the next one may.
        if options.python is None and status in (126, 127) and name and name != "python3":
            continue
        raise missing(label, options, attempt, greeting, tried, status)


def send_along(attempt: Start, early: Early, link: Link) -> None:
    """Have a call go with what is sent first, if the link takes it all at once."""
    attempt.ahead = early.frames
    if not link.ready(len(attempt.message())):
        attempt.ahead = b""


class Greeting:
    """What comes from a started command until its hello, or instead of it.

    ``late``: whether it was given up. ``received``: the last of what it
    printed. ``before``: what came before the script did, if that has come back, as from a shell
    that shows what it reads. ``python``: the interpreter, if it said hello at all.
    """

    def __init__(self, link: Link, attempt: Start, options: Options, early: Early | None) -> None:
        self._link, self._attempt, self._options, self._early = link, attempt, options, early
        self.late = False
        # Whether what comes no longer counts, and what closes the link then.
        self._over = False
        self._closing: threading.Thread | None = None
        self._lock = threading.Lock()
        self.received = b""
        self.before: bytes | None = None
        self.python: RemotePython | None = None

    def wait(self, label: str, kill: Callable[[int], None]) -> Session | None:
        """Send the runner; return the session if the hello of a new enough Python comes.

        Whatever is raised meanwhile, such as by Ctrl-C, what was started is killed, once its pid
        has come.
        """
        try:
            return self._wait(label)
        except BaseException:
            self._link.close()
            self.end(kill)
            raise

    def end(self, kill: Callable[[int], None]) -> None:
        """Kill what has not come to the agent, which ends with its link, if its pid is known."""
        pid = self._attempt.pid(self.received)
        if pid is not None:
            kill(pid)

    def _wait(self, label: str) -> Session | None:
        # Of the one clock that all have: a thread for each start would cost more than it does.
        CLOCK.add(self, self._options.start_timeout)
        try:
            self._send(self._attempt.message())
            rest = self._read()
        finally:
            CLOCK.remove(self)
            with self._lock:
                self._over = True
            if self._closing is not None:
                self._closing.join()
        if self.python is None or self.python.version < FLOOR or self.late:
            return None
        # Not imported before the first call.
        session = importlib.import_module("fabremote.session")
        early = self._early if self._attempt.runs_ahead(self.python) else None
        made: Session = session.Session(
            self._link, label, self.python, rest, self._options.heartbeat, early
        )
        return made

    def noise(self) -> str:
        """Return what else was printed, for a message."""
        said = self.received if self.before is None else self.before
        return clipped(printable(self._attempt.noise(said + b"\n" + self._link.errors())))

    def said(self) -> str:
        """Return the sentence that quotes it, after a space, or "" if nothing was printed."""
        noise = self.noise()
        return f" It said: {noise.rstrip('.')}." if noise else ""

    @property
    def comes_back(self) -> bool:
        """Whether what was sent has come back."""
        return self.before is not None or self._attempt.sent_back(self.received) is not None

    def tick(self) -> None:
        """The time is up, unless there was a hello just now."""
        CLOCK.remove(self)
        with self._lock:
            if self._over or self.late:
                return
            self.late = True
            self._closing = start_thread("fabremote-link", self._link.close)

    def _send(self, data: bytes) -> None:
        # If the far side is gone, that shows in what is received.
        with contextlib.suppress(OSError):
            self._link.send(data)

    def _read(self) -> bytes:
        total = 0
        # What has come is left there once it is late: in small packets it may be very many.
        while total < MAX_NOISE and not self.late:
            piece = self._link.receive()
            if not piece:
                break
            total += len(piece)
            self.received += piece
            if self._attempt.wants_source(self.received):
                self._send(self._attempt.source())
            found = self._attempt.hello(self.received)
            if found is not None:
                self.python, rest = found
                return rest
            if self.before is None:
                self.before = self._attempt.before_script(self.received)
            self.received = self.received[-KEEP_NOISE:]
        return b""


def broken(label: str, greeting: Greeting, doubtful: bool) -> str:
    """Return what to say of a link that ended; ``doubtful``: after a call was sent."""
    said = greeting.said()
    if not doubtful:
        return f"The link to {label} ended before an interpreter had started there.{said}"
    return (
        f"The link to {label} ended before an interpreter there said that it runs.{said} "
        "Whether the call, which was sent along, has run is not known."
    )


def missing(
    label: str,
    options: Options,
    attempt: Start,
    greeting: Greeting,
    tried: tuple[str, ...],
    status: int | None,
) -> RemoteInterpreterMissing:
    """Return the error for an interpreter that could not be started."""
    wanted = options.python or " or ".join(attempt.choices)
    if greeting.python is not None and greeting.python.version < FLOOR:
        version = ".".join(map(str, greeting.python.version))
        return RemoteInterpreterMissing(
            f"{wanted} on {label} is Python {version}; fabremote needs 3.6 or newer there. "
            "Name another one with python=.",
            wanted,
            tried or (wanted,),
        )
    names = tried or attempt.choices
    remedy = " Install Python 3.6 or newer there, or name one with python=."
    silent = attempt.started(greeting.received) is None
    begun = False
    if greeting.late:
        why = f"{wanted} on {label} did not start within {options.start_timeout:g} seconds."
        remedy = " If it may take longer, raise start_timeout; or name another with python=."
        if greeting.comes_back:
            remedy = " What is sent to it comes back: look what its login shell runs as it starts."
        begun = attempt.in_doubt(status)
    elif options.prefixes and silent and status is not None:
        before = " && ".join(options.prefixes)
        why = f"The command before the interpreter, {before!r}, failed on {label}"
        why += f" with exit status {status}."
        remedy = " Mend it, or call outside of its prefix()."
    elif status == STRAYED:
        why = f"What the login shell of {label} runs as it starts reads what is sent to it."
        remedy = " Have it leave its stdin alone where it is no terminal."
    elif status == 0 and silent:
        why = f"The login shell of {label} ended before it ran anything."
        remedy = " Look what it runs as it starts."
    elif status in (126, 127) or (status is None and not tried):
        why = f"{label} has no interpreter {wanted} that can be run (tried {', '.join(names)})."
    elif status == 2 and options.py_options:
        why = f"{wanted} on {label} does not take py_options={options.py_options!r}."
        remedy = ""
    else:
        why = f"{wanted} on {label} isn't a Python that runs (it exited with status {status})."
    return RemoteInterpreterMissing(why + greeting.said() + remedy, wanted, names, begun)


__all__ = ["start"]
