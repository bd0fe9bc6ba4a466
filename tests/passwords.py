"""A real sshd that takes a password of ours, with a shadow file of its own."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fabremote.demo import openssh

PAM = """\
auth required pam_unix.so nodelay
account required pam_permit.so
session required pam_permit.so
"""
OPTIONS = {
    "AllowAgentForwarding": "yes",
    "AcceptEnv": "FR_*",
    "KbdInteractiveAuthentication": "yes",
    "LogLevel": "DEBUG3",
    "MaxAuthTries": "20",
    "PasswordAuthentication": "yes",
    "UsePAM": "yes",
}
_find_sshd = openssh.find_sshd  # `started` puts another in its place
KEYS = {"rsa": ["-b", "2048"], "ecdsa": []}


def possible() -> bool:
    """Whether there can be such a server here."""
    if os.geteuid() or not Path("/etc/pam.d/sshd").exists() or not shutil.which("unshare"):
        return False
    return (
        subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode == 0
    )


class PasswordServer(openssh.OpenSSHServer):
    """An sshd on the loopback with a known password, three host keys and a CA for users.

    Besides ``client_key``, the keys ``user_rsa`` and ``user_ecdsa`` may log in;
    ``user_new`` may not, but has a certificate.
    """

    def __init__(self, directory: Path, password: str, options: dict[str, str]) -> None:
        usual = OPTIONS if possible() else {**OPTIONS, "UsePAM": "no"}
        super().__init__(directory, options={**usual, **options})
        self.password = password

    def path(self, name: str) -> str:
        """The path of a file of the server's."""
        return str(self.directory / name)

    def read(self, start: int = 0) -> str:
        """The log from an offset on."""
        return self._log_text()[start:]

    @property
    def pid(self) -> int:
        """The listener's process."""
        assert self._sshd is not None
        return self._sshd.pid

    def _make_keys(self) -> None:
        super()._make_keys()
        for kind, options in KEYS.items():
            self._keygen("-t", kind, *options, "-N", "", "-f", self.path(f"host_{kind}"))
            self._keygen("-t", kind, *options, "-N", "", "-f", self.path(f"user_{kind}"))
        for name, phrase in (("ca", ""), ("user_new", ""), ("user_locked", "sesame")):
            self._keygen("-t", "ed25519", "-N", phrase, "-C", name, "-f", self.path(name))
        self._keygen("-s", self.path("ca"), "-I", "x", "-n", self.user, self.path("user_new.pub"))
        os.rename(self.path("user_new-cert.pub"), self.path("new.cert"))
        with open(self.path("authorized_keys"), "a") as lines:
            for name in ("user_rsa", "user_ecdsa", "user_locked"):
                lines.write(Path(self.path(f"{name}.pub")).read_text())

    def _keygen(self, *arguments: str) -> None:
        subprocess.run(["ssh-keygen", "-q", *arguments], check=True, stdin=subprocess.DEVNULL)

    def _config_lines(self) -> list[str]:
        keys = [f"HostKey {self.path(f'host_{kind}')}" for kind in KEYS]
        return [
            f"ListenAddress [::1]:{self.port}",
            *super()._config_lines(),
            *keys,
            f"TrustedUserCAKeys {self.path('ca.pub')}",
        ]

    def wrapper(self) -> str:
        """The path of a program that starts sshd where the password is ours."""
        if not possible():
            return _find_sshd() or ""
        self.directory.mkdir(exist_ok=True)
        command = ["openssl", "passwd", "-6", "-stdin"]
        made = subprocess.run(command, input=self.password, capture_output=True, text=True)
        # All of /etc: a file mounted there alone is gone as soon as useradd, as other tests run
        # it, puts another in its place.
        etc = Path(self.path("etc"))
        with contextlib.suppress(shutil.Error):  # of what was removed meanwhile
            shutil.copytree("/etc", etc, symlinks=True, dirs_exist_ok=True)
        (etc / "shadow").unlink(missing_ok=True)
        (etc / "shadow").touch(0o600)
        (etc / "shadow").write_text(f"{self.user}:{made.stdout.strip()}:19000:0:99999:7:::\n")
        (etc / "pam.d" / "sshd").write_text(PAM)
        script = f'mount --bind {shlex.quote(str(etc))} /etc && exec {_find_sshd()} "$@"'
        path = Path(self.path("sshd"))
        path.write_text(f'#!/bin/sh\nexec unshare --mount sh -c {shlex.quote(script)} sshd "$@"\n')
        path.chmod(0o700)
        return str(path)


def started(directory: Path, patch: pytest.MonkeyPatch, **options: str) -> PasswordServer:
    """Such a server, to be entered; its password is of this run alone."""
    server = PasswordServer(directory, os.urandom(12).hex(), options)
    wrapper = server.wrapper()
    patch.setattr(openssh, "find_sshd", lambda: wrapper)
    return server


RELAY = """\
import os, socket, sys, threading
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def out():
    while data := link.recv(65536): os.write(1, data)
    os._exit(0)
threading.Thread(target=out, daemon=True).start()
while data := os.read(0, 65536): link.sendall(data)
"""


def relay(directory: Path) -> str:
    """A command that, with a host and a port after it, relays its stdin and stdout there."""
    path = directory / "relay.py"
    path.write_text(RELAY)
    return shlex.join([sys.executable, str(path)])
