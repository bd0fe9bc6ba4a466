"""The machine's own sshd as a loopback server, for root and for an ordinary user."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from fabremote.demo import processes
from fabremote.demo.base import Server, ServerError, free_port

START_TIMEOUT = 15.0
ATTEMPTS = 5
PLACES = ("/usr/sbin", "/usr/local/sbin", "/sbin", "/opt/homebrew/sbin")


def find_sshd() -> str | None:
    """The path of sshd, which sbin directories often keep out of an ordinary user's PATH."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *PLACES))
    return shutil.which("sshd", path=path)


class _PortTaken(Exception):
    """Another process bound the port between our choice and sshd's start."""


class OpenSSHServer(Server):
    """A real sshd with a configuration and keys of its own.

    ``options`` are sshd_config settings and win over the defaults here.
    """

    kind = "openssh"

    def __init__(
        self,
        directory: Path,
        *,
        env: Mapping[str, str] | None = None,
        shell: str | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory, env=env, shell=shell)
        self.options = dict(options or {})
        self.log = self.directory / "sshd.log"
        self._sshd: subprocess.Popen[bytes] | None = None

    def _roots(self) -> list[int]:
        return [self._sshd.pid] if self._sshd else []

    def _start(self) -> None:
        program = find_sshd()
        if program is None:
            raise ServerError("there is no sshd on this machine: install openssh-server")
        if os.geteuid() == 0 and Path("/run").is_dir():
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it as root
        self._make_keys()
        for _ in range(ATTEMPTS):
            self.port = free_port(self.hosts)
            config = self._write_config(program)
            with self.log.open("wb") as log:
                self._sshd = subprocess.Popen(
                    [program, "-D", "-e", "-f", config], stdin=subprocess.DEVNULL, stderr=log
                )
            try:
                return self._wait_until_ready(self._sshd)
            except _PortTaken:
                self._stop()
        raise ServerError(f"no port to be had in {ATTEMPTS} attempts:\n{self._log_text()}")

    def _stop(self) -> None:
        if self._sshd is None:
            return
        family = self._family()
        self._sshd.terminate()  # the listener first: nothing new can start
        self._sshd.wait()
        processes.end([*family, *self._family()])
        self._sshd = None

    def _make_keys(self) -> None:
        for name in ("host_key", "client_key"):
            path = self.directory / name
            if not path.exists():
                command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path]
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        public = (self.directory / "client_key.pub").read_text()
        (self.directory / "authorized_keys").write_text(public)

    def _write_config(self, program: str) -> Path:
        path = self.directory / "sshd_config"
        lines = self._config_lines()
        path.write_text("\n".join([*lines, "PerSourcePenalties no", ""]))
        # Penalties for failed logins would lock the loopback out; older sshds don't know them.
        if subprocess.run([program, "-t", "-f", path], stderr=subprocess.DEVNULL).returncode:
            path.write_text("\n".join([*lines, ""]))
        return path

    def _config_lines(self) -> list[str]:
        """The configuration: for every keyword sshd takes the first value it meets."""
        here = self.directory
        settings = {
            "HostKey": _quoted(str(here / "host_key")),
            "AuthorizedKeysFile": _quoted(str(here / "authorized_keys").replace("%", "%%")),
            "SetEnv": " ".join(_quoted(f"{k}={v}") for k, v in self._environment().items()),
            "AcceptEnv": "LANG LC_*",
            "AllowTcpForwarding": "yes",
            "LogLevel": "INFO",
            "MaxSessions": "20",
            "MaxStartups": "200",
            "PasswordAuthentication": "no",
            "PermitRootLogin": "yes",
            "PidFile": "none",
            "PrintMotd": "no",
            "StrictModes": "no",
            "Subsystem": "sftp internal-sftp",
            "UseDNS": "no",
            "UsePAM": "no",
        }
        if self.shell:
            settings["ForceCommand"] = f'exec {self.shell} -c "$SSH_ORIGINAL_COMMAND"'
        listen = [f"ListenAddress {host}:{self.port}" for host in self.hosts]
        chosen = [f"{name} {value}" for name, value in self.options.items()]
        lower = {name.lower() for name in self.options}
        default = [f"{k} {v}" for k, v in settings.items() if k.lower() not in lower]
        return [*listen, *chosen, *default]

    def _wait_until_ready(self, sshd: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        for host in self.hosts:
            while not _greets(host, self.port):
                if re.search(r"^Bind to port .* failed", self._log_text(), re.MULTILINE):
                    raise _PortTaken
                if sshd.poll() is not None or time.monotonic() > deadline:
                    raise ServerError(f"sshd doesn't serve {host}:\n{self._log_text()}")
                time.sleep(0.01)
        # Every address was bound before the last one could greet: so a failure is in the log.
        if re.search(r"^Bind to port .* failed", self._log_text(), re.MULTILINE):
            raise _PortTaken

    def _log_text(self) -> str:
        return self.log.read_text(errors="replace")


def _greets(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=0.5) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
