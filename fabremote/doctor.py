"""What `python -m fabremote doctor` looks at: everything on the way of a call to a host.

::

    examine -> connect -> find interpreters -> start the agent -> call -> transfer
                  |                                                         |
               host key, login                                     Report <-+

Each step writes what it finds into the `Report`; the first that fails ends it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import operator
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import fabric
from paramiko import AuthenticationException, SSHException

from fabremote.bootstrap import RemotePython, candidates
from fabremote.connection import RemoteHost
from fabremote.doctor_host_key import Witness
from fabremote.doctor_interpreters import find_interpreters
from fabremote.doctor_report import (
    Agent,
    Found,
    Login,
    Report,
    Transfer,
    language,
)
from fabremote.exceptions import (
    RemoteException,
    RemoteHostKeyRejected,
    RemoteInterpreterMissing,
)
from fabremote.hostkeys import Verifier
from fabremote.hosts import HostConnection, open_connection
from fabremote.options import PythonOptions, resolve
from fabremote.refusals import refused
from fabremote.ssh_target import Target, parse_target
from fabremote.upload import FLOOR

PROGRAM = "python -m fabremote"
CONNECT_TIMEOUT = 10  # seconds, unless there is a setting
CALL_TIMEOUT = 60.0
WARM_CALLS = 20
SIZE = 8 << 20
# paramiko's words for a host that accepts the connection, but doesn't finish the handshake.
UNFINISHED = "No existing session"
BLOCK = 1 << 16  # more than compression looks back, so that it can't shrink repetitions

# What may go wrong with a host without anything being wrong with us. The
# resolver raises UnicodeError for names that can't be any.
FAILURES = (RemoteException, SSHException, OSError, EOFError, UnicodeError)


def examine(
    target: Target,
    *,
    key: str | None = None,
    password: str | None = None,
    python: str | None = None,
    ssh_options: Mapping[str, Any] | None = None,
) -> Report:
    """Return what there is to know about a host.

    Nobody is asked anything, unless ``ssh_options`` switch BatchMode off.

    ``key``, ``password``, ``ssh_options``: as for `open_connection`. ``python``:
    the interpreter to look for. What fails with the host becomes a problem in
    the report, not an exception.
    """
    report = Report(target.given, target.host, target.port or 22)
    report.login = Login(target.user or "")
    with _warnings(report):
        try:
            connection = _make(target, key, password, dict(ssh_options or {}))
        except ValueError as error:
            report.add("settings", str(error), ["See what ~/.ssh/config sets for this host."])
            return report
        try:
            _Examination(connection, report, python).run()
        finally:
            _close(connection)
    return report


def _make(
    target: Target, key: str | None, password: str | None, ssh_options: dict[str, Any]
) -> HostConnection:
    given = {name.lower() for name in ssh_options}
    if "batchmode" not in given:
        ssh_options["BatchMode"] = True

    def opened() -> HostConnection:
        made = open_connection(
            target.host,
            port=target.port,
            user=target.user,
            key=key,
            password=password,
            ssh_options=ssh_options,
        )
        assert isinstance(made, HostConnection)
        return made

    if "connecttimeout" not in given:
        ssh_options["ConnectTimeout"] = math.ceil(opened().connect_timeout or CONNECT_TIMEOUT)
    return opened()


def _close(connection: fabric.Connection) -> None:
    """Close a connection whether or not it got as far as the login, and those it went through."""
    with contextlib.suppress(*FAILURES):
        connection.close()
    with contextlib.suppress(*FAILURES):
        connection.client.close()
    if isinstance(connection.gateway, fabric.Connection):
        _close(connection.gateway)


@contextlib.contextmanager
def _warnings(report: Report) -> Iterator[None]:
    """Note what is logged meanwhile, such as a file that can't be read."""
    log = logging.getLogger("fabremote")
    handler = _Noting(report)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Noting(logging.Handler):
    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report.warn("settings", record.getMessage())


class _Examination:
    """The steps of looking at one host."""

    def __init__(self, connection: HostConnection, report: Report, python: str | None) -> None:
        self.connection, self.report = connection, report
        self.options: PythonOptions = {"hide": True, "timeout": CALL_TIMEOUT, "requires": None}
        if python is not None:
            self.options["python"] = python

    def run(self) -> None:
        """Take each step until one fails."""
        steps: tuple[tuple[str, Callable[[], None]], ...] = (
            ("connection", self.connect),
            ("interpreters", self.find_interpreters),
            ("agent", self.start_agent),
            ("calls", self.time_calls),
            ("transfer", self.time_transfer),
        )
        for part, step in steps:
            try:
                step()
            except FAILURES as error:
                self.explain(part, error)
                return

    def connect(self) -> None:
        """Open the connection, noting the host's key and the login."""
        connection, report = self.connection, self.report
        settings = connection.settings
        report.host = settings.hostname or connection.host
        report.port, report.login.user = int(connection.port), connection.user
        gateway = connection.gateway
        if isinstance(gateway, fabric.Connection):
            report.gateway = f"{gateway.user}@{gateway.original_host}:{gateway.port}"
        elif gateway:
            report.gateway = str(gateway)
        verifier = Verifier(report.host, report.port, settings.host_keys)
        witness = Witness(verifier, report)
        connection.client.set_missing_host_key_policy(witness)
        started = time.perf_counter()
        tried = connection.open()
        report.connect_ms = _since(started)
        # The last of those tried is the one that was accepted.
        report.login.method = tried[-1] if isinstance(tried, list) and tried else "none"
        report.login.ok = True
        witness.look_again()
        if report.host_key and report.host_key.state == "accepted":
            report.warn(
                "host key",
                "The host key was not verified: anybody may be at the other end.",
                ["Leave StrictHostKeyChecking and UserKnownHostsFile as they are by default."],
            )

    def find_interpreters(self) -> None:
        """List what is on the PATH there."""
        self.report.interpreters = find_interpreters(self.connection)

    def start_agent(self) -> None:
        """Start the agent, and note under which interpreter it runs."""
        options = resolve(self.connection, self.options)
        started = time.perf_counter()
        python = RemoteHost(self.connection).session(options).python
        took = _since(started)
        version = ".".join(map(str, python.version))
        report = self.report
        report.agent = Agent(version, python.implementation, python.executable, took)
        names = [options.python] if options.python else candidates()
        picked = _pick(report.interpreters, python, names, version)
        if picked is not None:
            picked.picked = True
        self._compare(python.version, python.implementation)

    def _compare(self, version: tuple[int, int, int], implementation: str) -> None:
        there = f"{language(implementation)} {version[0]}.{version[1]}"
        here = f"{language(sys.implementation.name)} {sys.version_info[0]}.{sys.version_info[1]}"
        if there == here:
            return
        self.report.warn(
            "agent",
            f"Calls run under {there}, and this is {here}. So functions travel as source: one "
            "without a source file can't be called, and each may use only the syntax and the "
            f"standard library that {there} has.",
            [f"If that is too little, install {here} there, or name one with --python."],
        )

    def time_calls(self) -> None:
        """Time a first call, and the median of more."""
        agent = self.report.agent
        assert agent is not None
        call = self.connection.python(**self.options).call

        def once() -> float:
            started = time.perf_counter()
            call(os.getpid)
            return _since(started)

        agent.first_call_ms = once()
        agent.warm_call_ms = statistics.median(once() for _ in range(WARM_CALLS))

    def time_transfer(self) -> None:
        """Time a large argument, and a large result."""
        call = self.connection.python(**self.options).call
        block = os.urandom(BLOCK)
        data = block * (SIZE // BLOCK)
        started = time.perf_counter()
        call(len, data)
        self.report.transfer = transfer = Transfer(SIZE, _rate(started))
        started = time.perf_counter()
        call(operator.mul, block, SIZE // BLOCK)
        transfer.down = _rate(started)

    def explain(self, part: str, error: BaseException) -> None:
        """Note a failure, and what would help."""
        report = self.report
        if isinstance(error, RemoteHostKeyRejected):
            key = report.host_key
            if key is not None and key.state == "known":
                key.state = "misplaced"
            text, *commands = str(error).split("\n  ")
            report.add("host key", text, commands)
        elif part == "connection":
            if str(error) == UNFINISHED:
                error = TimeoutError("the SSH handshake timed out")
            if isinstance(error, AuthenticationException):
                part, report.login.ok = "login", False
            report.add(part, str(refused(self.connection, error)), self._for_connection(error))
        else:
            report.add(part, str(error) or type(error).__name__, self._for_interpreter(error))

    def _for_connection(self, error: BaseException) -> list[str]:
        report = self.report
        if isinstance(self.connection.gateway, fabric.Connection):
            return ["Look at the way there first:", f"{PROGRAM} doctor {report.gateway}"]
        if report.gateway:
            return ["Check that the ProxyCommand can be run:", report.gateway]
        if isinstance(error, TimeoutError):
            return ["Wait longer with --ssh-option ConnectTimeout=SECONDS."]
        target = f"-p {report.port} {shlex.quote(f'{report.login.user}@{report.host}')}"
        if isinstance(error, AuthenticationException):
            return [
                "Name the user as USER@HOST, the key with --key, or use --password-prompt. "
                "See what OpenSSH does, or let the host know your key, with:",
                f"ssh -v {target}",
                f"ssh-copy-id {target}",
            ]
        return []

    def _for_interpreter(self, error: BaseException) -> list[str]:
        usable = [x for x in self.report.interpreters if x.minor >= FLOOR]
        if not isinstance(error, RemoteInterpreterMissing) or not usable:
            return []
        best = max(usable, key=lambda x: (x.minor == sys.version_info[:2], x.minor))
        return ["One that can be used is there:", f"--python {shlex.quote(best.path)}"]


def _pick(
    found: list[Found], python: RemotePython, names: Sequence[str], version: str
) -> Found | None:
    """Return which of ``found`` the agent runs under, one of these names if several do."""
    same = [x for x in found if (x.version, x.executable) == (version, python.executable)]
    named = [x for name in names for x in same if name in (x.name, x.path)]
    return next(iter([*named, *same]), None)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3


def _rate(started: float) -> float:
    """Return MB/s for SIZE bytes since ``started``."""
    return SIZE / 1e6 / (time.perf_counter() - started)


__all__ = ["FAILURES", "Target", "examine", "parse_target"]
