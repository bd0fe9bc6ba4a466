"""The agent's way to the host: one command, and everything else on its stdin.

The command is ``exec sh -c '...'``, whose quoting every login shell reads the
same way. It reads one line from stdin, a script that picks the interpreter and
starts it with a short stub; the stub reads the marker and the runner (the
sources of ``fabremote.agent``, compressed) from stdin too. Nothing is written
to a file, and nothing but the stub shows in a process list.

The marker, random for each start, tells the agent's words from whatever a
login shell or a wrapper printed: ``<marker> try <interpreter>`` before an
interpreter is started, ``<marker> hello <fields>`` by the stub's Python. Frames
follow the hello.
"""

from __future__ import annotations

import ast
import functools
import importlib.resources
import re
import secrets
import shlex
import sys
import threading
import zlib
from dataclasses import dataclass

from fabremote.printing import printable

# Run is nothing but that line: a login shell's own start may have read some of what is sent.
GREETING = ": fabremote;"
STRAYED = 121  # the exit status if another came
READ_LINE = (
    f'IFS= read -r line; case $line in "{GREETING}"*) eval "$line";; *) exit {STRAYED};; esac'
)
COMMAND = f"exec sh -c '{READ_LINE}'"
MARKER_SIZE = 32
FLOOR = (3, 6)

# In the order in which they import each other.
AGENT_MODULES = (
    "wire",
    "paths",
    "kinds_arrays",
    "kinds",
    "loader",
    "sources",
    "bundle",
    "answers",
    "processes",
    "raising",
    "worker",
    "forker",
    "turns",
    "workers",
    "supervisor",
)

# Sent only before the first call that needs them, in the order in which they import each other.
EXTRA_MODULES = (
    "classes",
    "importing",
    "streaming",
    "lasting",
    "standins",
    "class_sources",
    "third_party",
    "records",
    "terminal",
)

# Read by any Python from 2.6 up, so that an old one can say what it is.
# Until the agent has imported what it uses, PYTHONPATH can't put others in its place.
_STUB = r"""import os,sys
k=[p for p in sys.path if p]
x=[p.rstrip("/") for p in os.environ.get("PYTHONPATH","").split(os.pathsep)]
sys.path[:]=[p for p in k if p.rstrip("/") not in x]
import zlib
d=b""
while len(d)<%d:
 c=os.read(0,%d-len(d))
 if not c: os._exit(3)
 d+=c
exec(compile(zlib.decompress(d[32:]),"<fabremote.bootstrap>","exec"),{"MARKER":d[:32].decode(),"PATH":k})
"""

_RUNNER = r"""
import os, sys

def hello():
    version = sys.version_info
    implementation = getattr(getattr(sys, "implementation", None), "name", "cpython")
    fields = (MARKER,) + tuple(version[:3]) + (
        implementation, sys.flags.optimize, os.getpid(), sys.executable or "python")
    line = "\n%%s hello %%d.%%d.%%d %%s %%d %%d %%s\n" %% fields
    os.write(1, line.encode("utf-8", "replace"))
    if version < %r:
        os._exit(4)

def start(sources):
    import gc
    gc.disable()
    Module = type(sys)
    package = Module("_fabremote_agent")
    package.__path__ = []
    sys.modules[package.__name__] = package
    def add(name, source):
        module = Module(package.__name__ + "." + name)
        module.__package__ = package.__name__
        sys.modules[module.__name__] = module
        setattr(package, name, module)
        exec(compile(source, "<fabremote.agent.%%s>" %% name, "exec"), module.__dict__)
    package.add = add
    for name, source in sources:
        add(name, source)
    null = 0
    while null < 3:
        # The first three may be closed, and must not be ours then.
        null = os.open(os.devnull, os.O_RDWR)
    stdin, stdout = os.dup(0), os.dup(1)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    sys.path[:] = PATH
    try:
        package.supervisor.main(stdin, stdout)
    except BaseException:
        os.dup2(stdout, 1)
        raise

hello()
try:
    start(%r)
except BaseException as error:
    # Two frames: CRASH, of call 0; the second without a text.
    text = ("%%s: %%s" %% (type(error).__name__, error)).encode("utf-8", "replace")[:200]
    crash = b"\x15" + bytes(7)
    os.write(1, crash + bytes([len(text)]) + text + crash + bytes(1))
    os._exit(1)
"""


_making = threading.Lock()
# Each field as long as it may be: a host that lies chooses what it says.
_HELLO = (
    rb"\n%s hello (\d{1,2})\.(\d{1,3})\.(\d{1,3}) "
    rb"([A-Za-z0-9_-]{1,40}) ([0-9]) (\d{1,9}) ([^\n]{0,4096})\n"
)


@dataclass(frozen=True)
class RemotePython:
    """The interpreter that an agent runs under, as its hello tells."""

    version: tuple[int, int, int]
    implementation: str
    optimize: int
    pid: int
    executable: str

    @property
    def reads(self) -> tuple[str, tuple[int, int], int]:
        """What a payload for it depends on: implementation, minor version, optimisation."""
        return self.implementation, self.version[:2], self.optimize

    def __str__(self) -> str:
        version = ".".join(map(str, self.version))
        name = "Python" if self.implementation == "cpython" else self.implementation
        return f"{name} {version} ({self.executable})"


def this_python() -> RemotePython:
    """Return this process's own interpreter, the likeliest to be found on the far side."""
    major, minor, micro = sys.version_info[:3]
    name, level = sys.implementation.name, sys.flags.optimize
    return RemotePython((major, minor, micro), name, level, 0, sys.executable)


def runner() -> bytes:
    """Return the compressed runner, the same for every host and interpreter."""
    # A group's threads all want it at once, and a cache lets each of them make it.
    with _making:
        return _runner()


@functools.cache
def _runner() -> bytes:
    sources = [(name, agent_source(name)) for name in AGENT_MODULES]
    return zlib.compress((_RUNNER % (FLOOR, sources)).encode("utf-8"), 9)


@functools.cache
def extra(name: str) -> bytes:
    """Return the data of the frame that gives an agent one of `EXTRA_MODULES`."""
    return name.encode() + b"\0" + zlib.compress(agent_source(name).encode("utf-8"), 9)


@functools.cache
def agent_source(name: str) -> str:
    """Return the source of a module of the agent's, as it is sent."""
    file = importlib.resources.files("fabremote.agent").joinpath(f"{name}.py")
    return condensed(file.read_text("utf-8"))


def condensed(source: str) -> str:
    """Return Python source without docstrings, comments and deep indents.

    Each line keeps its number.
    """
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        first = node.body[0] if isinstance(node, _DOCUMENTED) and node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            end = first.end_lineno or first.lineno
            lines[first.lineno - 1] = " " * first.col_offset + '""'
            lines[first.lineno : end] = [""] * (end - first.lineno)
    kept = ["" if line.lstrip().startswith("#") else line for line in lines]
    return "\n".join(map(_shallow, kept)) + "\n"


def _shallow(line: str) -> str:
    """Return a line indented by a blank for each four; the agent has no text of several lines."""
    rest = line.lstrip(" ")
    return " " * ((len(line) - len(rest)) // 4) + rest


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def candidates() -> tuple[str, ...]:
    """Return the interpreters looked for where none is asked for, in order."""
    return (f"python{sys.version_info[0]}.{sys.version_info[1]}", "python3")


class Start:
    """One attempt to start an agent: what is sent first, and how the hello is found."""

    def __init__(
        self, python: str | None, py_options: str, prefixes: list[str], tried: tuple[str, ...] = ()
    ) -> None:
        self.marker = secrets.token_hex(MARKER_SIZE // 2)
        self.asked = python
        self.choices = (python,) if python else tuple(c for c in candidates() if c not in tried)
        self.py_options = py_options
        self.prefixes = prefixes

    def message(self) -> bytes:
        """Return the bytes to send on the agent's stdin."""
        body = self.marker.encode() + runner()
        return self.script().encode("utf-8", "surrogateescape") + b"\n" + body

    def script(self) -> str:
        """Return the one line of shell that starts the interpreter."""
        size = MARKER_SIZE + len(runner())
        stub = f"exec({_STUB % (size, size)!r})"
        tail = shlex.join([*shlex.split(self.py_options), "-c", stub])
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

    def hello(self, received: bytes) -> tuple[RemotePython, bytes] | None:
        """Return the interpreter and the bytes after its hello, once that is in ``received``."""
        match = re.search(_HELLO % self.marker.encode(), received)
        if match is None:
            return None
        version = (int(match[1]), int(match[2]), int(match[3]))
        words = [printable(group.decode("utf-8", "replace")) for group in match.groups()[3:]]
        python = RemotePython(version, words[0], int(words[1]), int(words[2]), words[3])
        return python, received[match.end() :]

    def started(self, received: bytes) -> str | None:
        """Return the interpreter that was started, as far as ``received`` tells."""
        found = re.findall(rb"%s try ([^\n]*)\n" % self.marker.encode(), received)
        return printable(found[-1].decode("utf-8", "replace")) if found else None

    def noise(self, received: bytes) -> str:
        """Return what else was printed, for a message: the last lines of it."""
        lines = received.decode("utf-8", "replace").splitlines()
        kept = [line for line in lines if line.strip() and self.marker not in line]
        return "\n".join(kept[-10:])[-2000:]


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
