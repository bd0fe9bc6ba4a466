"""What the loopback servers have in common: addresses, directories, environment, the context."""

from __future__ import annotations

import os
import pwd
import socket
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from fabremote.demo.processes import Process, family

SomeServer = TypeVar("SomeServer", bound="Server")
ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
MARK = "FABREMOTE_DEMO_SERVER"


class ServerError(RuntimeError):
    """The server can't be started; the text says why and what would help."""


class Server(ABC):
    """An SSH server on the loopback interface, running for as long as the ``with`` block.

    It keeps everything in ``directory``: keys, configuration, log and the home directory that
    sessions see. ``env`` is added to the environment of every session; ``shell`` runs the
    commands in place of the account's own login shell.
    """

    kind: ClassVar[str]

    def __init__(
        self, directory: Path, *, env: Mapping[str, str] | None = None, shell: str | None = None
    ) -> None:
        self.directory = Path(directory).resolve()
        self.home = self.directory / "home"
        self.hosts = loopback_hosts()
        self.port = 0
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.key = str(self.directory / "client_key")
        self.shell = shell
        self._mark = uuid.uuid4().hex
        self._env = dict(env or {})

    @property
    def connect_kwargs(self) -> dict[str, Any]:
        """What Fabric's ``connect_kwargs`` needs to log in here; a new dictionary each time."""
        return {"key_filename": self.key, "look_for_keys": False, "allow_agent": False}

    def processes(self) -> list[Process]:
        """What sessions have running at the moment, sshd's own processes left out."""
        return [process for process in self._family() if not process.is_sshd]

    def __enter__(self: SomeServer) -> SomeServer:
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def _environment(self) -> dict[str, str]:
        """What a session finds in its environment, beyond what its login gives it."""
        path = [os.environ.get("PATH", os.defpath), os.path.dirname(sys.executable)]
        defaults = {"HOME": str(self.home), "PATH": os.pathsep.join(path)}
        return {**defaults, **self._env, MARK: self._mark}

    def _family(self) -> list[Process]:
        return family(self._roots(), f"{MARK}={self._mark}")

    @abstractmethod
    def _roots(self) -> list[int]:
        """The pids from which everything that this server runs descends."""

    @abstractmethod
    def _start(self) -> None:
        """Start to serve; return when connections are accepted."""

    @abstractmethod
    def _stop(self) -> None:
        """Stop and leave nothing behind; harmless if never started."""


def loopback_hosts() -> list[str]:
    """The loopback addresses that can be served: only Linux has more than 127.0.0.1 ready."""
    return [address for address in ADDRESSES if _free_port(address) is not None]


def free_port(hosts: list[str]) -> int:
    """A port that is free on every one of ``hosts`` at the moment."""
    for _ in range(100):
        port = _free_port(hosts[0])
        if port is not None and all(_free_port(host, port) for host in hosts[1:]):
            return port
    raise ServerError("no port is free on all of " + ", ".join(hosts))


def _free_port(host: str, port: int = 0) -> int | None:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return None
        return int(probe.getsockname()[1])
