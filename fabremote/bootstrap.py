"""The agent's way to the host: one command, and everything else on its stdin.

The command is ``exec sh -c '...'``, whose quoting every login shell reads the
same way. It reads one line from stdin, a script that picks the interpreter and
starts it with a short stub; the stub reads the marker and the runner
(``fabremote.agent``, see `upload`) from stdin too. Nothing is written
to a file, and nothing but the stub shows in a process list.

The marker, random for each start, tells the agent's words from whatever a
login shell or a wrapper printed: ``<marker> try <interpreter>`` before an
interpreter is started; ``<marker> source`` by a Python that can't run the
runner's code, to have its source; ``<marker> hello <fields>`` by the runner.
Frames follow the hello; this side's may have gone before it, see `early`.
"""

from __future__ import annotations

import functools
import re
import secrets
import shlex
import sys
from dataclasses import dataclass

from fabremote.printing import printable
from fabremote.upload import CODE_TAG, runner

# Run is nothing but that line: a login shell's own start may have read some of what is sent.
GREETING = ": fabremote;"
STRAYED = 121  # the exit status if another came
READ_LINE = (
    f'IFS= read -r line; case $line in "{GREETING}"*) eval "$line";; *) exit {STRAYED};; esac'
)
COMMAND = f"exec sh -c '{READ_LINE}'"
MARKER_SIZE = 32
DIGITS = 8
# What is sent has come back if so many bytes of it have, of which more than so many differ.
BACK, VARIED = 32, 8

# Read by any Python from 2.6 up, so that an old one can say what it is.
# Until the agent has imported what it uses, PYTHONPATH can't put others in its place.
# The agent's code, of which the host is told for which Python it is, may be of no use to it: it
# asks for the source then, which comes with its length ahead, and drops what came behind the code.
# A call that was made for another kind of Python it drops too; the hello tells which kind it is.
_STUB = r"""import os,sys
k=[p for p in sys.path if p]
x=[p.rstrip("/") for p in os.environ.get("PYTHONPATH","").split(os.pathsep)]
sys.path[:]=[p for p in k if p.rstrip("/") not in x]
import zlib,marshal
def r(n):
 d=b""
 while len(d)<n:
  c=os.read(0,n-len(d))
  if not c: os._exit(3)
  d+=c
 return d
m=r({marker})
d=r({size})
t={tag!r}
if t:
 try:
  import _frozen_importlib_external as f
  t=t==(sys.implementation.cache_tag,f.MAGIC_NUMBER)
 except ImportError: t=0
 if not t:
  r({behind})
  os.write(1,b"\n"+m+b" source\n")
  d=r(int(r({digits})))
 elif (sys.implementation.name,sys.version_info[:2],sys.flags.optimize)!={reads!r}: r({ahead})
d=zlib.decompress(d)
c,s=marshal.loads(d) if t else (compile(d,"<fabremote.bootstrap>","exec"),())
exec(c,{{"MARKER":m.decode(),"PATH":k,"SOURCES":s}})
"""


# Each field as long as it may be: a host that lies chooses what it says. One for all markers:
# compiling one for each would take as long as all else of a start here.
_HELLO = (
    rb"\n([0-9a-f]{%d}) hello (\d{1,2})\.(\d{1,3})\.(\d{1,3}) "
    rb"([A-Za-z0-9_-]{1,40}) ([0-9]) (\d{1,9}) ([^\n]{0,4096})\n" % MARKER_SIZE
)

# The lines in which the marker comes of itself.
_OURS = rb"%s (?:pid \d+|try .*|source|hello .*)"


@dataclass(frozen=True)
class RemotePython:
    """The interpreter that an agent runs under, as its hello tells."""

    version: tuple[int, int, int]
    implementation: str
    optimize: int
    pid: int
    executable: str
    coded: bool = False  # whether it was sent code, which it runs

    @functools.cached_property
    def reads(self) -> tuple[str, tuple[int, int], int]:
        """What a payload for it depends on: implementation, minor version, optimisation."""
        return self.implementation, self.version[:2], self.optimize

    def __str__(self) -> str:
        version = ".".join(map(str, self.version))
        name = "Python" if self.implementation == "cpython" else self.implementation
        return f"{name} {version} ({self.executable})"


@functools.cache
def this_python() -> RemotePython:
    """Return this process's own interpreter, the likeliest to be found on the far side."""
    major, minor, micro = sys.version_info[:3]
    name, level = sys.implementation.name, sys.flags.optimize
    coded = CODE_TAG is not None
    return RemotePython((major, minor, micro), name, level, 0, sys.executable, coded)


def candidates() -> tuple[str, ...]:
    """Return the interpreters looked for where none is asked for, in order."""
    return (f"python{sys.version_info[0]}.{sys.version_info[1]}", "python3")


def runs_code(python: str | None) -> bool:
    """Return whether the interpreter asked for, by its name, may run this Python's code."""
    named = re.search(r"python\d+\.\d+(?=[^/]*$)", python or "")
    return CODE_TAG is not None and (named is None or named[0] == candidates()[0])


class Start:
    """One attempt to start an agent: what is sent first, and how the hello is found.

    ``coded``: whether to send code, or source at once. ``behind``: the agent's first frames.
    ``ahead``: those of a call, see `early`; with code only.
    """

    def __init__(
        self,
        python: str | None,
        py_options: str,
        prefixes: list[str],
        tried: tuple[str, ...] = (),
        coded: bool = True,
        behind: bytes = b"",
        ahead: bytes = b"",
    ) -> None:
        self.marker = secrets.token_hex(MARKER_SIZE // 2)
        self.asked = python
        self.choices = (python,) if python else tuple(c for c in candidates() if c not in tried)
        self.py_options = py_options
        self.prefixes = prefixes
        self.coded = coded
        self.behind = behind
        self.ahead = ahead

    def message(self) -> bytes:
        """Return the bytes to send on the agent's stdin."""
        body = self.marker.encode() + runner(self.coded) + self.ahead + self.behind
        return self.script().encode("utf-8", "surrogateescape") + b"\n" + body

    def source(self) -> bytes:
        """Return the bytes to send if the source is asked for; from then on it is sent."""
        self.coded, self.ahead = False, b""
        found = runner()
        return b"%0*d" % (DIGITS, len(found)) + found + self.behind

    def script(self) -> str:
        """Return the one line of shell that starts the interpreter."""
        stub = _STUB.format(
            marker=MARKER_SIZE,
            size=len(runner(self.coded)),
            tag=CODE_TAG if self.coded else None,
            behind=len(self.ahead + self.behind),
            ahead=len(self.ahead),
            reads=this_python().reads,
            digits=DIGITS,
        )
        tail = shlex.join([*shlex.split(self.py_options), "-c", f"exec({stub!r})"])
        tell = f"echo; echo {self.marker} pid $$; echo {self.marker} try"
        if self.asked is not None:
            words = shlex.join(shlex.split(self.asked))
            if words.startswith("'~/"):
                words = '"$HOME"/' + "'" + words[3:]
            script = f"{tell} {shlex.quote(self.asked)}; exec {words} {tail}"
        else:
            names = " ".join(map(shlex.quote, self.choices))
            start = f'{tell} "$p"; exec "$p" {tail}'
            found = f'if command -v "$p" >/dev/null 2>&1; then {start}; fi'
            script = f"for p in {names}; do {found}; done; exit 127"
        steps = [*map(_one_line, self.prefixes), f"{{ {script}; }}"]
        return f"{GREETING} {' && '.join(steps)}"

    def pid(self, received: bytes) -> int | None:
        """Return the process that was started, as far as ``received`` tells."""
        found = re.findall(rb"%s pid (\d{1,9})\n" % self.marker.encode(), received)
        return int(found[-1]) if found else None

    def runs_ahead(self, python: RemotePython) -> bool:
        """Return whether an interpreter, by its hello, runs what went ahead of that."""
        return bool(self.ahead) and python.coded and python.reads == this_python().reads

    def in_doubt(self, status: int | None) -> bool:
        """Return whether what went ahead may run though no hello came; ``status``: the exit's.

        What exits without a hello has run nothing else.
        """
        return bool(self.ahead) and status is None

    def wants_source(self, received: bytes) -> bool:
        """Return whether the interpreter asks for source in place of code, in ``received``."""
        return self.coded and b"\n%s source\n" % self.marker.encode() in received

    def hello(self, received: bytes) -> tuple[RemotePython, bytes] | None:
        """Return the interpreter and the bytes after its hello, once that is in ``received``."""
        marker = self.marker.encode()
        found = (one for one in re.finditer(_HELLO, received) if one[1] == marker)
        match = next(found, None)
        if match is None:
            return None
        version = (int(match[2]), int(match[3]), int(match[4]))
        words = [printable(group.decode("utf-8", "replace")) for group in match.groups()[4:]]
        numbers = int(words[1]), int(words[2])
        python = RemotePython(version, words[0], *numbers, words[3], self.coded)
        return python, received[match.end() :]

    def started(self, received: bytes) -> str | None:
        """Return the interpreter that was started, as far as ``received`` tells."""
        found = re.findall(rb"%s try ([^\n]*)\n" % self.marker.encode(), received)
        return printable(found[-1].decode("utf-8", "replace")) if found else None

    def noise(self, received: bytes) -> str:
        """Return what else was printed, for a message: the last lines of it."""
        at = self.sent_back(received)
        if at is not None:
            # What is secret may be among it, from the line on that it begins in.
            received = received[: received.rfind(b"\n", 0, at) + 1]
        lines = received.decode("utf-8", "replace").splitlines()
        kept = [line for line in lines if line.strip() and self.marker not in line]
        return "\n".join(kept[-10:])[-2000:]

    def sent_back(self, received: bytes) -> int | None:
        """Return where in ``received`` what was sent begins to come back, if it does.

        The script aside, which names what is said of the start, and which errors quote.
        """
        sent = runner(self.coded) + self.ahead + self.behind
        for at in range(0, len(received) - BACK + 1, BACK):
            piece = received[at : at + BACK]
            if piece in sent and len(set(piece)) > VARIED:
                return at
        return None

    def before_script(self, received: bytes) -> bytes | None:
        """Return what is in ``received`` before a line of the script's, if one has come back."""
        marker = self.marker.encode()
        if marker not in received:
            return None
        lines = received.split(b"\n")
        for number, line in enumerate(lines[:-1]):
            if marker in line and not re.fullmatch(_OURS % marker, line.rstrip(b"\r")):
                return b"\n".join(lines[:number])
        return None


def _one_line(command: str) -> str:
    """Return shell text that does what ``command`` does, on one line."""
    if "\n" not in command:
        return command
    return f"""eval "$(printf '%s\\n' {shlex.join(command.splitlines())})\""""


@functools.cache
def check_py_options(text: str) -> tuple[str, ...]:
    """Return the words of ``py_options``, or raise ValueError saying what is wrong with it."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(
            f"py_options={text!r} can't be split into words as a shell would: {error}. "
            "Close the quotation, or escape the quote."
        ) from None
    if "\n" in text or "\0" in text:
        raise ValueError(f"py_options={text!r} must be on one line, without NUL.")
    takes_value = False
    for before, word in zip(["", *words], words, strict=False):
        if _chatters(before if takes_value else "", word):
            raise ValueError(
                f"py_options={text!r}: with {word!r} the interpreter prints what it imports, amid "
                "what the agent says. Have the function start such a Python itself."
            )
        if takes_value:
            takes_value = False
        elif word in ("-X", "-W", "--check-hash-based-pycs"):
            takes_value = True
        elif not word.startswith("-") or word in ("-", "--") or _runs_else(word):
            raise ValueError(
                f"py_options={text!r}: {word!r} is not an option that an interpreter running "
                "a function can take. Give only options such as '-O', '-X utf8', '-W error'."
            )
    if takes_value:
        raise ValueError(f"py_options={text!r}: {words[-1]} needs a value after it.")
    return tuple(words)


def _chatters(option: str, word: str) -> bool:
    """Whether this word, the value of ``option`` if that isn't "", has imports traced."""
    if option:
        return option == "-X" and word.startswith("importtime")
    return word.startswith("-Ximporttime") or bool(re.match("-[A-VY-Za-z?]*v", word))


def _runs_else(word: str) -> bool:
    if word.startswith("--"):
        return word.startswith(("--help", "--version"))
    letters = re.match(r"-([A-VY-Za-z?]*)", word)
    return letters is not None and bool(set(letters[1]) & set("cmhV?"))


@functools.cache
def check_python(text: str) -> None:
    """Raise ValueError if ``python=`` can't name an interpreter."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"python={text!r} can't be split into words: {error}.") from None
    if not words or "\n" in text or "\0" in text:
        raise ValueError(
            f"python={text!r} names no interpreter. Give a name, a path or a command "
            "such as 'python3.12' or '/opt/venv/bin/python'."
        )
