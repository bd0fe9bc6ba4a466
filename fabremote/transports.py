"""paramiko's transport, with quick ciphers first, which goes on while keys are renewed.

If the host closes a channel meanwhile, paramiko answers that in the thread that
reads, where it waits until keys are renewed, which takes the same thread to read
on: until it gives up, 30 seconds later, the connection stands still.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from typing import Any

import paramiko
from paramiko import SSHException

from fabremote.sockets import PromptSocket
from fabremote.threads import start_thread

# How long the thread of a connection waits for bytes before it looks whether it is to keep it
# alive or to renew its keys, in seconds. paramiko's wait of 0.1 takes, with 500 hosts, half a
# processor for nothing.
IDLE = 1.0


class RenewingTransport(paramiko.Transport):
    """Sends from another thread, in order, what its own can't send before keys are renewed.

    It asks for AES-GCM first, which paramiko prefers less than AES with a hash of each packet.
    The hashes it compares byte by byte in Python (measured: with them connecting takes
    a tenth more processor time here, and a small exchange a seventh).
    """

    def __init__(self, sock: Any, **options: Any) -> None:
        super().__init__(sock, **options)
        offered = self.get_security_options()
        offered.ciphers = sorted(offered.ciphers, key=lambda name: "-gcm@" not in name)
        self._late: deque[Any] = deque()
        self._late_lock = threading.Lock()

    def rest(self) -> None:
        """Wait longer for what comes, now that the connection is open."""
        if isinstance(self.sock, PromptSocket):
            # Its thread has closed it where the host has gone since.
            with contextlib.suppress(OSError):
                self.sock.settimeout(IDLE)

    def stop_thread(self) -> None:
        """End the connection's thread at once, however long it may wait."""
        self.active = False
        if isinstance(self.sock, PromptSocket):
            # Before it is closed, which the thread that waits would not notice.
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
        super().stop_thread()

    def _send_user_message(self, data: Any) -> None:
        if threading.current_thread() is self:
            with self._late_lock:
                late = bool(self._late) or not self.clear_to_send.is_set()
                if late:
                    self._late.append(data)
                    if len(self._late) > 1:
                        return  # the thread that sends the others sends it, too
            if late:
                start_thread(f"fabremote-late-{self.name}", self._send_late)
                return
        super()._send_user_message(data)  # type: ignore[misc]

    def _send_late(self) -> None:
        while True:
            # Where the connection is no more, its own thread finds that, too.
            with contextlib.suppress(SSHException, OSError, EOFError):
                super()._send_user_message(self._late[0])  # type: ignore[misc]
            with self._late_lock:
                self._late.popleft()
                if not self._late:
                    return


__all__ = ["RenewingTransport"]
