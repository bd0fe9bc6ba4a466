"""The live agents of a connection or context."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from fabremote.options import Options
from fabremote.session import Session


class Sessions:
    """The live agents of one connection or context, by what started them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # Held as long as connecting takes; closing doesn't wait for it.
        self.opening = threading.RLock()
        # The interpreters of environments, by the options that ask for them.
        self._environments: dict[tuple[Any, ...], str] = {}
        self._live: dict[tuple[Any, ...], Session] = {}
        self._starting: dict[tuple[Any, ...], threading.Lock] = {}

    def get(self, options: Options, carrier: Any, make: Callable[[], Session]) -> Session:
        """Return the session for these options over ``carrier``, by ``make`` if there is none."""
        key = _key(options, options.python)
        with self.lock:
            gate = self._starting.setdefault(key, threading.Lock())
        with gate:
            session = self._find(key, carrier)
            if session is None:
                session = make()
                session.carrier = carrier
                with self.lock:
                    self._live[key] = session
            return session

    def live(self, options: Options, carrier: Any) -> Session | None:
        """Return the session for these options over ``carrier`` if there is one that lives."""
        if options.requires is not None:
            python = self._environments.get(_environment_key(options))
            return self._find(_key(options, python), carrier) if python else None
        return self._find(_key(options, options.python), carrier)

    def provided(self, options: Options, python: str) -> None:
        """Note the interpreter of the environment that these options require."""
        self._environments[_environment_key(options)] = python

    def _find(self, key: tuple[Any, ...], carrier: Any) -> Session | None:
        session = self._live.get(key)
        alive = session is not None and session.alive and session.carrier is carrier
        return session if alive else None

    def close(self) -> None:
        """End every agent and the calls that run in it."""
        with self.lock:
            sessions, self._live = list(self._live.values()), {}
        for session in sessions:
            session.close()


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


__all__ = ["Sessions", "sessions_of"]
