"""Throwaway SSH servers on the loopback interface, for the demo and the tests.

``serve`` runs the machine's own sshd where there is one (openssh.py) and otherwise a server
embedded in this process (embedded.py, which needs asyncssh). Both speak through base.Server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fabremote.demo.base import Server, ServerError
from fabremote.demo.openssh import OpenSSHServer, find_sshd

__all__ = ["OpenSSHServer", "Server", "ServerError", "find_sshd", "serve"]

NOTHING_TO_SERVE = (
    "neither an sshd nor asyncssh is installed: install your system's openssh-server, "
    "or run `pip install 'fabremote[demo]'`"
)


def serve(directory: Path, prefer: str = "openssh", **settings: Any) -> Server:
    """A server of the preferred kind ("openssh" or "asyncssh"), or of the other if it must be."""
    if prefer not in ("openssh", "asyncssh"):
        raise ValueError(f"prefer must be 'openssh' or 'asyncssh', not {prefer!r}")
    makers = {"openssh": _openssh, "asyncssh": _embedded}
    for kind in sorted(makers, key=lambda kind: kind != prefer):
        server = makers[kind](directory, settings)
        if server is not None:
            return server
    raise ServerError(NOTHING_TO_SERVE)


def _openssh(directory: Path, settings: dict[str, Any]) -> Server | None:
    return OpenSSHServer(directory, **settings) if find_sshd() else None


def _embedded(directory: Path, settings: dict[str, Any]) -> Server | None:
    try:
        from fabremote.demo.embedded import EmbeddedServer
    except ModuleNotFoundError as error:
        if error.name != "asyncssh":
            raise
        return None
    return EmbeddedServer(directory, **settings)
