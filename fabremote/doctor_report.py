"""What doctor finds out about a host, and how it is shown: a table, or data for JSON."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from fabremote.printing import printable

WIDTH = 80
LABEL = 15  # columns before what a row says
MIB = 1 << 20

KeyState = Literal[
    "known", "certified", "stored", "accepted", "unknown", "changed", "revoked", "misplaced"
]
# What the table says of a host key; "known" is said with its places.
_STATES: dict[KeyState, str] = {
    "known": "known in",
    "certified": "certified by an authority in",
    "stored": "new, now stored in",
    "accepted": "unknown, and accepted without being stored",
    "unknown": "UNKNOWN",
    "changed": "CHANGED, known is another in",
    "revoked": "REVOKED in",
    "misplaced": "not the one known for the host's address",
}


@dataclass
class HostKey:
    """The key that the host presented; ``places`` are the known_hosts lines, as FILE:LINE."""

    type: str
    fingerprint: str
    state: KeyState
    places: list[str]


@dataclass
class Login:
    """Who logs in, whether that worked (None if it was not come to) and by what."""

    user: str
    ok: bool | None = None
    method: str = ""


@dataclass
class Found:
    """An interpreter on the PATH there. ``version`` is "" if it doesn't run.

    ``executable``: what it calls itself, ``real`` with links followed; ``prefix``
    tells a virtual environment from the Python that it was made with.
    """

    name: str
    path: str
    version: str = ""
    implementation: str = ""
    executable: str = ""
    real: str = ""
    prefix: str = ""
    picked: bool = False

    @property
    def minor(self) -> tuple[int, ...]:
        """The version's first two numbers; empty if it doesn't run."""
        return tuple(map(int, self.version.split(".")[:2])) if self.version else ()


@dataclass
class Agent:
    """The interpreter that calls run under, and times in milliseconds."""

    version: str
    implementation: str
    executable: str
    start_ms: float
    first_call_ms: float | None = None
    warm_call_ms: float | None = None


@dataclass
class Transfer:
    """How fast ``size`` bytes travel as an argument and as a result, in MB/s."""

    size: int
    up: float
    down: float | None = None


@dataclass
class Problem:
    """What is wrong, and what would help; a warning doesn't stop calls from working."""

    severity: Literal["problem", "warning"]
    part: str
    text: str
    remedies: list[str] = field(default_factory=list)


@dataclass
class Report:
    """All that was found out about one host. Empty parts were not come to."""

    given: str
    host: str
    port: int
    address: str | None = None
    gateway: str | None = None
    connect_ms: float | None = None
    login: Login = field(default_factory=lambda: Login(""))
    host_key: HostKey | None = None
    interpreters: list[Found] = field(default_factory=list)
    agent: Agent | None = None
    transfer: Transfer | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, warnings apart."""
        return all(problem.severity == "warning" for problem in self.problems)

    def add(self, part: str, text: str, remedies: Iterable[str] = ()) -> None:
        """Note a problem."""
        self.problems.append(Problem("problem", part, text, list(remedies)))

    def warn(self, part: str, text: str, remedies: Iterable[str] = ()) -> None:
        """Note a warning, once."""
        warning = Problem("warning", part, text, list(remedies))
        if warning not in self.problems:
            self.problems.append(warning)

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON can hold them."""
        return {**dataclasses.asdict(self), "ok": self.ok}

    def as_text(self) -> str:
        """Return the facts as a table, control characters shown instead of obeyed."""
        lines = [self._title()]
        for label, content in (
            ("login", self._login()),
            ("host key", self._host_key()),
            ("interpreters", self._interpreters()),
            ("agent", self._agent()),
            ("calls", self._calls()),
            ("transfer", self._transfer()),
            *((problem.severity.upper(), _explained(problem)) for problem in self.problems),
            ("result", [self._result()]),
        ):
            lines += _row(label, content)
        return "\n".join(printable(line).rstrip() for line in lines)

    def _title(self) -> str:
        real = [] if self.host == self.given else [self.host]
        at = [self.address] if self.address and self.address != self.host else []
        where = ", ".join([*real, *at, f"port {self.port}"])
        return f"{self.given} ({where}{f', through {self.gateway}' if self.gateway else ''})"

    def _login(self) -> list[str]:
        login = self.login
        if login.ok is None:
            return []
        if not login.ok:
            return [f"{login.user}, FAILED"]
        took = "" if self.connect_ms is None else f", connected in {_ms(self.connect_ms)}"
        return _wrapped(f"{login.user}, by {login.method}{took}")

    def _host_key(self) -> list[str]:
        key = self.host_key
        if key is None:
            return []
        places = f" {', '.join(key.places)}" if key.places else ""
        return [f"{key.type} {key.fingerprint}", *_wrapped(_STATES[key.state] + places)]

    def _interpreters(self) -> list[str]:
        found = self.interpreters
        if not found:
            return ["none on the PATH there"] if self.login.ok else []
        name = max(len(each.name) for each in found)
        version = max(len(_version(each)) for each in found)
        return [
            f"{each.name:{name}}  {_version(each):{version}}  {each.path}"
            f"{'  <- picked' if each.picked else ''}"
            for each in found
        ]

    def _agent(self) -> list[str]:
        agent = self.agent
        if agent is None:
            return []
        python = f"{language(agent.implementation)} {agent.version} ({agent.executable})"
        return [python, f"started in {_ms(agent.start_ms)}"]

    def _calls(self) -> list[str]:
        agent = self.agent
        if agent is None or agent.first_call_ms is None:
            return []
        warm = "" if agent.warm_call_ms is None else f", then {_ms(agent.warm_call_ms)} (median)"
        return [f"the first {_ms(agent.first_call_ms)}{warm}"]

    def _transfer(self) -> list[str]:
        transfer = self.transfer
        if transfer is None:
            return []
        down = "" if transfer.down is None else f", down {_rate(transfer.down)}"
        return [f"{transfer.size // MIB} MiB: up {_rate(transfer.up)}{down}"]

    def _result(self) -> str:
        if not self.problems:
            return "all fine"
        return "works, with a warning" if self.ok else "doesn't work yet"


def language(implementation: str) -> str:
    """Return what to call an implementation of Python."""
    return "Python" if implementation == "cpython" else implementation


def _row(label: str, content: list[str]) -> list[str]:
    labels = [f"  {label}", *[""] * len(content)]
    return [f"{first:{LABEL}}{line}" for first, line in zip(labels, content, strict=False)]


def _explained(problem: Problem) -> list[str]:
    text = [line for part in problem.text.splitlines() for line in _wrapped(part)]
    # Commands stay whole, to be copied; sentences are told from them by their end.
    remedies = [
        line
        for remedy in problem.remedies
        for line in (_wrapped(remedy) if remedy.endswith((".", ":")) else [f"  {remedy}"])
    ]
    return text + remedies


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH - LABEL, break_long_words=False, break_on_hyphens=False) or [
        ""
    ]


def _version(found: Found) -> str:
    if not found.version:
        return "doesn't run"
    other = "" if found.implementation == "cpython" else f" {found.implementation}"
    return found.version + other


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _rate(value: float) -> str:
    return f"{value:.0f} MB/s" if value >= 10 else f"{value:.2f} MB/s"


__all__ = ["Agent", "Found", "HostKey", "Login", "Problem", "Report", "Transfer", "language"]
