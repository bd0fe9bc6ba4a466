"""Users of the tests' own, whom sudo lets do different things, and an sshd they log in to."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabremote import Connection
from fabremote.demo.openssh import OpenSSHServer, find_sshd

PASSWORD = "a rotten Wurst, 7 %u \\' eggs"
RULES = """\
{asks} ALL=({target}) ALL
{free} ALL=(ALL) NOPASSWD: ALL
{tty} ALL=(ALL) ALL
{once} ALL=(ALL) ALL
Defaults:{asks} !use_pty, timestamp_timeout=0
Defaults:{free} use_pty, env_reset
Defaults:{tty} requiretty, use_pty, timestamp_timeout=0
Defaults:{once} requiretty, !use_pty, passwd_tries=1, timestamp_timeout=0
"""
# What each may do: give its password to run as ``target`` alone, run all without one, run all with
# one on a terminal, the same with one try, nothing, nothing.
ROLES = ("asks", "free", "tty", "once", "none", "target")


def why_not() -> str | None:
    """Why there can be no such users here, if so."""
    if os.geteuid():
        return "making users for sudo needs root"
    tools = ("sudo", "useradd", "userdel", "chpasswd", "visudo")
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    secure = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    if not shutil.which("python3", path=secure):
        return "no python3 where sudo looks"
    missing = [tool for tool in tools if not shutil.which(tool, path=path)]
    if missing or find_sshd() is None or not Path("/etc/sudoers.d").is_dir():
        return f"no {', '.join(missing) or 'sshd or sudoers.d'} on this machine"
    return None


class SudoHost:
    """An sshd where each role is a user; ``connection(role)`` logs in as one."""

    def __init__(self, server: OpenSSHServer, users: dict[str, str]) -> None:
        self.server, self.users = server, users

    def connection(self, role: str, **kwargs: object) -> Connection:
        """Return a connection of a role's user, not yet open."""
        server = self.server
        return Connection(
            server.hosts[0],
            user=self.users[role],
            port=server.port,
            connect_kwargs=server.connect_kwargs,
            **kwargs,
        )

    def processes_of(self, role: str) -> list[str]:
        """Return the command lines of what runs as a role's user."""
        uid = pwd.getpwnam(self.users[role]).pw_uid
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == uid and (text := (entry / "cmdline").read_bytes()):
                    found.append(text.replace(b"\0", b" ").decode("utf-8", "replace"))
        return found


_run = functools.partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def sudo_host() -> Iterator[SudoHost]:
    """Make the users, their rules and the server; take all away again."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    users = {role: f"fr{os.getpid()}{role}" for role in ROLES}
    rules = Path(f"/etc/sudoers.d/fabremote-tests-{os.getpid()}")
    with tempfile.TemporaryDirectory(prefix="fabremote-sudo-") as folder:
        os.chmod(folder, 0o755)
        try:
            for user in users.values():
                _run(["useradd", "--system", "--create-home", "--shell", "/bin/sh", user])
            lines = "".join(f"{user}:{PASSWORD}\n" for user in users.values())
            _run(["chpasswd"], input=lines.encode())
            rules.touch(0o440)
            rules.write_text(RULES.format(**users))
            _run(["visudo", "-c", "-q", "-f", rules])
            env = {"PATH": os.defpath + ":/usr/local/bin"}
            with OpenSSHServer(Path(folder), env=env) as server:
                yield SudoHost(server, users)
        finally:
            rules.unlink(missing_ok=True)
            for user in users.values():
                subprocess.run(["userdel", "--remove", user], stderr=subprocess.DEVNULL)
