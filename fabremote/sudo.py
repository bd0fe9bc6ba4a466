"""The way into another user's processes: sudo asked, its password given, before an agent starts.

::

    start ── open_link ──> Entry: `sudo -S ... sh`  ──>  the same command line, as that user
                             |  <─ prompt, password ─>  |

What is entered is where a fresh link leads too: a shell that reads one line.
So all that starts, serves and kills an agent is the same with sudo as without.

sudo reads the password from its stdin (``-S``), byte by byte, so that what
follows is the shell's. It is sent once sudo has printed a prompt with a random
marker in it, never ahead of need, and never in arguments, variables or files.

Nothing depends on sudo's cached credentials: without a terminal they count for
one session's processes only (``timestamp_type``), so a ticket taken in one
session is of no use to the next one. Under ``requiretty`` sudo wants its process
to have a terminal, whatever its stdin is. It gets one of its own from a short
Python script of the login's user: a pty as its controlling terminal, whose other
end is read and dropped. The link stays on pipes, as a terminal in between would
change what goes through, and show no end of file.

The environment is as sudo's rules make it, and HOME that user's (``-H``). The
variables of ``env=`` go to the agent, not through sudo: they are the function's.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import sys
import threading
from collections.abc import Callable
from typing import Any

import fabric
from paramiko import SSHException

from fabremote.bootstrap import GREETING, READ_LINE, candidates
from fabremote.exceptions import RemoteAuthFailure, RemoteException, RemoteSudoRefused
from fabremote.links import Link, discard
from fabremote.options import Options
from fabremote.passwords import typed
from fabremote.printing import printable
from fabremote.threads import is_wanted

KEEP = 1 << 16
# How long a command that kills what another user runs may take, in seconds.
KILLING = 10.0
# What sudo and sudo-rs say of it, where they speak English.
_WRONG = re.compile("incorrect (password|authentication) attempt")
# Gives its argument, a command, a controlling terminal. Its own ends with it.
_TERMINAL = r"""
import os,sys,fcntl,termios,_thread
m,s=os.openpty()
p=os.fork()
if not p:
 os.setsid();fcntl.ioctl(s,termios.TIOCSCTTY,0);os.close(m);os.close(s)
 try: os.execvp(sys.argv[1],sys.argv[1:])
 finally: os._exit(127)
n=os.open(os.devnull,os.O_RDWR)
for d in 0,1,2: os.dup2(n,d)
def drain():
 while os.read(m,4096): pass
_thread.start_new_thread(drain,())
e=os.waitpid(p,0)[1]
os._exit(e>>8 or e and 128+e)
"""


class Asker:
    """Who is asked for sudo's password, and for whom.

    ``context``: the connection or Invoke context. ``label``: its name in
    messages. ``login``: the user whose password sudo asks for. ``batch``:
    whether nobody is to be asked.
    """

    def __init__(self, context: Any, label: str, login: str, batch: bool = False) -> None:
        self.context, self.label, self.login, self._batch = context, label, login, batch

    def password(self, options: Options, wanted: Callable[[], bool]) -> str:
        """Return the password; raise RemoteSudoRefused if it can't be had.

        Nobody is asked any more once it is not ``wanted``.
        """
        if options.password is not None:
            return options.password
        if self._batch or sys.stdin is None or not sys.stdin.isatty():
            raise RemoteSudoRefused(
                f"sudo on {self.label} asks for the password of {self.login}, and nobody can be "
                "asked here. Give password=, set sudo.password in Fabric's configuration, or "
                "allow it there with NOPASSWD in sudoers."
            )
        try:
            prompt = options.prompt.rstrip().removesuffix(":")
            return typed.get(self.login, f"{prompt} of {self.login}: ", wanted)
        except EOFError:
            raise RemoteSudoRefused(
                f"sudo on {self.label} asks for the password of {self.login}; none was typed."
            ) from None

    def rejected(self, options: Options, password: str, said: str) -> RemoteAuthFailure:
        """Return the error for a wrong password."""
        if options.password is None:
            typed.forget(self.login, password)
        command = shlex.join(_sudo(options, options.prompt))
        result = fabric.Result(connection=self.context, command=command, stdout=said, exited=None)
        return RemoteAuthFailure(
            f"sudo on {self.label} did not take the password of {self.login}.",
            result,
            options.prompt,
        )


def enter(open_link: Callable[[], Link], options: Options, asker: Asker) -> Link:
    """Return a link to a shell of the user that ``options`` name, which reads one line.

    Raises RemoteAuthFailure for a wrong password, RemoteSudoRefused if sudo
    doesn't let in for another reason, and whatever ``open_link`` raises.
    """
    refusal: RemoteSudoRefused | None = None
    # The second time with a terminal: what sudo says of it is in the host's language.
    for terminal in (False, True):
        link = open_link()
        entry = Entry(link, options, asker, terminal)
        try:
            if entry.succeeds():
                return link
            status = link.status(1.0)
        except BaseException:
            discard(link)
            raise
        discard(link)
        if refusal is None or status != 127:
            refusal = entry.refusal(status)
        if entry.asked or entry.late or (not terminal and status == 127):
            break
    assert refusal is not None
    raise refusal


class Entry:
    """One run of sudo: what it prints until the shell behind it speaks.

    ``asked``: how often it has asked for a password. ``late``: whether it was
    given up.
    """

    def __init__(self, link: Link, options: Options, asker: Asker, terminal: bool) -> None:
        self._link, self._options, self._asker = link, options, asker
        self._terminal = terminal
        self._marker = secrets.token_hex(16)
        self._prompt = f"{self._marker} password:"
        self._shell = f"echo; echo {self._marker} in; {READ_LINE}"
        self.asked = 0
        self.late = False
        self._new = self._said = b""

    def succeeds(self) -> bool:
        """Have sudo start a shell, given the password if it asks; return whether it did."""
        self._send(self._script())
        password = ""
        while self._await_word() == "asks":
            if self.asked > 1:
                raise self._asker.rejected(self._options, password, self._text())
            password = self._asker.password(
                self._options, lambda: is_wanted() and not self._link.ended()
            )
            self._send(password)
        entered = f"{self._marker} in\n".encode() in self._said
        # Allowed one try only, it does not ask again.
        if not entered and self.asked and _WRONG.search(self._text()):
            raise self._asker.rejected(self._options, password, self._text())
        return entered

    def _send(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._link.send(line.encode("utf-8", "surrogateescape") + b"\n")

    def _script(self) -> str:
        words = [*_sudo(self._options, self._prompt), "--", "sh", "-c", self._shell]
        # It asks on stderr, which a link keeps apart.
        sudo = shlex.join(words)
        if not self._terminal:
            return f"{GREETING} exec {sudo} 2>&1"
        names = shlex.join([*candidates(), "python"])
        python = f'exec "$p" -c {shlex.quote(f"exec({_TERMINAL!r})")} {sudo} 2>&1'
        found = f'if command -v "$p" >/dev/null 2>&1; then {python}; fi'
        return f"{GREETING} for p in {names}; do {found}; done; exit 127"

    def _await_word(self) -> str:
        """Read until sudo asks or the shell speaks; return which, or "" at the end."""
        words = {f"\n{self._marker} in\n".encode(): "in", self._prompt.encode(): "asks"}
        timer = threading.Timer(self._options.start_timeout, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            while True:
                for word, meaning in words.items():
                    before, found, after = self._new.partition(word)
                    if found:
                        self._said, self._new = self._said + before + found, after
                        self.asked += meaning == "asks"
                        return meaning
                piece = self._link.receive()
                if not piece:
                    self._said += self._new
                    return ""
                self._new = (self._new + piece)[-KEEP:]
        finally:
            timer.cancel()
            timer.join()

    def _give_up(self) -> None:
        self.late = True
        self._link.close()

    def _text(self) -> str:
        """Return what was printed, our own words aside."""
        text = self._said.decode("utf-8", "replace").replace(self._prompt, "\n")
        # What may not be run is named with all its arguments.
        text = text.replace(f" -c {self._shell}", "")
        lines = [line for line in text.splitlines() if line.strip() and self._marker not in line]
        return printable("\n".join(lines[-10:])[-2000:])

    def refusal(self, status: int | None) -> RemoteSudoRefused:
        """Return the error for a run that ended before there was a shell."""
        label, options = self._asker.label, self._options
        whom = options.user or "root"
        said = f" It said: {self._text().rstrip('.')}." if self._text() else ""
        if self.late:
            return RemoteSudoRefused(
                f"sudo on {label} did not come to an end within {options.start_timeout:g} seconds."
                f"{said} If it may take longer, raise start_timeout=."
            )
        if status == 127:
            return RemoteSudoRefused(
                f"{label} has no sudo that can be run.{said} Install it there, or connect as "
                f"{whom}."
            )
        return RemoteSudoRefused(
            f"sudo on {label} does not let {self._asker.login} run a shell as {whom} (it exited "
            f"with status {status}).{said} Allow it in sudoers there."
        )


def _sudo(options: Options, prompt: str) -> list[str]:
    """Return sudo's command up to what it is to run."""
    user = [] if options.user is None else ["-u", options.user]
    return ["sudo", "-S", "-p", prompt, "-H", *user]


def kill_by(opener: Callable[[], Link], pid: int) -> None:
    """Kill a process of another user by the way that it was started."""
    with contextlib.suppress(OSError, SSHException, EOFError, RemoteException):
        link = opener()
        # It leads its session's processes, if a login shell didn't come in between.
        link.send(f"{GREETING} kill -9 -{pid} || kill -9 {pid}\n".encode())
        link.status(KILLING)
        discard(link)


__all__ = ["Asker", "enter", "kill_by"]
