"""The live agents of a connection or context."""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from paramiko import Channel, ChannelException, SSHException

from fabremote.configuration import remotely
from fabremote.exceptions import RemoteCancelled, RemoteInterpreterMissing
from fabremote.options import Bound, Options
from fabremote.threads import apart

if TYPE_CHECKING:
    from fabremote.session import Session

# Between attempts to begin a session that sshd refuses, at first and at most, in seconds.
PAUSE, LONGEST_PAUSE = 0.02, 0.5
# How long sshd may take to count one less, once none is open here any more, in seconds.
COUNTING = 2.0


class Sessions:
    """The live agents of one connection or context, by what started them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # How often it was closed.
        self.closings = 0
        # Held as long as connecting takes; closing doesn't wait for it.
        self.opening = threading.RLock()
        # The interpreters of environments, by the options that ask for them.
        self._environments: dict[tuple[Any, ...], str] = {}
        self._live: dict[tuple[Any, ...], Session] = {}
        self._starting: dict[tuple[Any, ...], threading.Lock] = {}
        # Starts that took all their time in vain: the monotonic clock's span, and the error.
        self._late: dict[tuple[Any, ...], tuple[float, float, Callable[[], Exception]]] = {}
        # The connection's sessions: agents, Fabric's commands, SFTP.
        self._channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        # The options where none are given, by the class of the context.
        self.defaults: dict[type, Bound] = {}

    def get(self, options: Options, carrier: Any, make: Callable[[], Session]) -> Session:
        """Return the session for these options over ``carrier``, by ``make`` if there is none.

        Raises what ``make`` does, for all that waited while it took its time in vain, if they
        gave it no more; RemoteCancelled if it was closed meanwhile.
        """
        key, came = _key(options, options.python), time.monotonic()
        with self.lock:
            closings = self.closings
            gate = self._starting.setdefault(key, threading.Lock())
        with gate:
            session = self._find(key, carrier)
            if session is None:
                began, ended, late = self._late.get(key, (came, came, None))
                if late is not None and ended > came and ended - began >= options.start_timeout:
                    raise late()
                session = self._made(key, options, make)
                session.carrier = carrier
                with self.lock:
                    # Over SSH the session has ended with its connection.
                    closed = carrier is None and self.closings != closings
                    if not closed:
                        self._live[key] = session
                if closed:
                    session.close()
                    text = f"The connection to {session.label} was closed from this side."
                    raise RemoteCancelled(text)
            return session

    def _made(
        self, key: tuple[Any, ...], options: Options, make: Callable[[], Session]
    ) -> Session:
        began = time.monotonic()
        try:
            return make()
        except RemoteInterpreterMissing as error:
            now = time.monotonic()
            if now - began >= options.start_timeout:
                # Anew for each, and without what this one was raised amid.
                again = str(error), error.interpreter, error.tried
                self._late[key] = began, now, functools.partial(RemoteInterpreterMissing, *again)
            raise

    def live(self, options: Options, carrier: Any) -> Session | None:
        """Return the session for these options over ``carrier`` if there is one that lives."""
        if options.requires is not None:
            python = self._environments.get(_environment_key(options))
            return self._find(_key(options, python), carrier) if python else None
        return self._find(_key(options, options.python), carrier)

    def provided(self, options: Options, python: str) -> None:
        """Note the interpreter of the environment that these options require."""
        self._environments[_environment_key(options)] = python

    def in_turn(self, begin: Callable[[], Any], limit: float) -> Any:
        """Begin a session by ``begin``, which returns a channel or has one.

        Where sshd refuses it, an idle agent is ended for it, or one that ends is
        waited for, ``limit`` seconds. Raises what sshd's refusal raises after that.
        """
        began = seen = time.monotonic()
        pause, closings = PAUSE, self.closings
        while True:
            if self.closings != closings:
                raise SSHException("it was closed from this side")
            try:
                made = _begun(begin)
            except SSHException as error:
                if not is_refusal(error):
                    raise
                now = time.monotonic()
                with self.lock:
                    seen = now if any(not one.closed for one in self._channels) else seen
                if now - began >= limit or now - seen >= COUNTING:
                    raise
            else:
                with self.lock:
                    self._channels.add(made if isinstance(made, Channel) else made.get_channel())
                return made
            if not self._evict():
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _evict(self) -> bool:
        """End the agent that has had no call for longest; return whether there was one."""
        with self.lock:
            idle = sorted(self._live.items(), key=lambda item: item[1].places.rested)
            found = next((key for key, session in idle if session.retire()), None)
            session = None if found is None else self._live.pop(found)
        if session is None:
            return False
        session.close()
        return True

    def _find(self, key: tuple[Any, ...], carrier: Any) -> Session | None:
        session = self._live.get(key)
        alive = session is not None and session.alive and session.carrier is carrier
        return session if alive else None

    def close(self) -> None:
        """End every agent and the calls that run in it."""
        with self.lock:
            self.closings += 1
            sessions, self._live = list(self._live.values()), {}
        for session in sessions:
            session.close()


def _begun(begin: Callable[[], Any]) -> Any:
    """Return what ``begin`` does; interrupted, it is closed once it is there.

    sshd would count it for ever, and paramiko knows nothing of it then.
    """
    made: list[Any] = []
    apart(lambda: made.append(begin()))
    return made.pop()


def in_turn(connection: Any, begin: Callable[[], Any]) -> Any:
    """Begin a session of an open connection in its turn, see `Sessions.in_turn`."""
    connection.open()
    limit = float(remotely(connection)["start_timeout"])
    return sessions_of(connection).in_turn(begin, limit)


def renewed(connection: Any, begin: Callable[[], Any]) -> Any:
    """Likewise; where the connection turns out to be broken, over a new one, once."""
    sessions = sessions_of(connection)
    closings = sessions.closings
    connection.open()
    transport = connection.transport
    try:
        return in_turn(connection, begin)
    except (EOFError, OSError, SSHException) as error:
        if sessions.closings != closings or not _is_broken(error):
            raise
        transport.close()  # Its own thread doesn't know yet. Nothing has been run.
        return in_turn(connection, begin)


def _is_broken(error: Exception) -> bool:
    """Return whether a connection broke before it had a new session."""
    # paramiko's words for one that did after it was looked at.
    return isinstance(error, (EOFError, ConnectionError)) or str(error) == "SSH session not active"


def renewed_sftp(connection: Any, begin: Callable[[], Any]) -> Any:
    """Likewise for the SFTP client that Fabric keeps; one whose session ended is forgotten."""
    client = connection._sftp
    if client is not None and client.get_channel().closed:
        connection._set(_sftp=None)
    return renewed(connection, begin)


def is_refusal(error: Exception) -> bool:
    """Return whether sshd refused a session, as it does beyond MaxSessions."""
    # paramiko tells one thread why; of two that were refused at once, the other hears this.
    return isinstance(error, ChannelException) or str(error) == "Unable to open channel."


def _key(options: Options, python: str | None) -> tuple[Any, ...]:
    """Return what an agent is started with: calls that agree in it share one."""
    return python, options.py_options, options.prefixes, options.sudo, options.user


def _environment_key(options: Options) -> tuple[Any, ...]:
    """Return what an environment's interpreter depends on, for one connection."""
    base = options.python, options.prefixes, options.sudo, options.user
    return *base, options.requires, options.cache_dir


def sessions_of(context: Any) -> Sessions:
    """Return the agents of a context, kept with it."""
    found: Sessions | None = vars(context).get("_fabremote_sessions")
    # setdefault is atomic, so that two threads get the same one.
    return found or vars(context).setdefault("_fabremote_sessions", Sessions())


def bound(context: Any, given: Mapping[str, Any]) -> Bound:
    """Return options bound for a context; what its configuration comes to is kept with it."""
    if given:
        return Bound(context, given)
    # Two objects of different classes may share a context's state.
    kept = sessions_of(context).defaults
    return kept.get(type(context)) or kept.setdefault(type(context), Bound(context, {}))


__all__ = ["Sessions", "bound", "in_turn", "is_refusal", "renewed", "renewed_sftp", "sessions_of"]
