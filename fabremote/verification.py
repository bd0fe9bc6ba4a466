"""Host keys of connections that the user made with Fabric, where the configuration asks for it.

Fabric accepts any key. With ``remotely.verify_host_keys`` a connection is held
to OpenSSH's rules, and ~/.ssh/config's options about them: as it opens, or, if
it is open already, before the first call.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import fabric

if TYPE_CHECKING:
    from fabremote.hostkeys import Verifier

# Set on a connection that verifies its host's key by itself as it opens.
VERIFIES = "_fabremote_verifies"


def prepare(connection: fabric.Connection) -> None:
    """Have a connection, and the gateways on its way, verify its host's key as it opens.

    A ``transport_factory`` of the caller's stays, whatever types of key it asks for.
    """
    for one in way(connection):
        if not one.is_connected and not vars(one).get(VERIFIES):
            verifier = _verifier(one)
            one.client.set_missing_host_key_policy(verifier.policy)
            factory = {"transport_factory": verifier.transport_factory}
            one._set(connect_kwargs={**factory, **one.connect_kwargs}, **{VERIFIES: True})


def check(connection: fabric.Connection) -> None:
    """Raise RemoteHostKeyRejected unless the host of an open connection is known.

    The gateways on its way likewise.
    """
    for one in way(connection):
        transport = one.transport
        if transport is not None and not _hostkeys().is_verified(transport):
            _verifier(one).check_open(transport)


def way(connection: fabric.Connection) -> list[fabric.Connection]:
    """Return the connections that lead to a host, the first of them first."""
    found: list[Any] = [connection]
    while isinstance(found[0].gateway, fabric.Connection):
        found.insert(0, found[0].gateway)
    return found


def _verifier(connection: fabric.Connection) -> Verifier:
    settings = importlib.import_module("fabremote.ssh_options").host_keys_of(connection)
    made: Verifier = _hostkeys().Verifier(connection.host, int(connection.port), settings)
    return made


def _hostkeys() -> Any:
    # Imported where it is needed: Fabric's connections verify nothing unless told to.
    return importlib.import_module("fabremote.hostkeys")


__all__ = ["VERIFIES", "check", "prepare", "way"]
