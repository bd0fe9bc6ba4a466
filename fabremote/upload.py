"""What an agent is made of, as a host is sent it: as this Python's code, or as source.

A host whose Python has this one's minor version runs the modules' code as it is,
which spares it compiling them: 29 ms of processor time of the 56 that a start and a
first call took, measured under 3.11. Any other compiles their source, half as large.
"""

from __future__ import annotations

import ast
import functools
import importlib.resources
import importlib.util
import marshal
import sys
import threading
import types
import zlib
from typing import Any

# The oldest Python that an agent runs under.
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
    "workers",
    "supervisor",
)

# Sent only before the first call that needs them, in the order in which they import each other.
EXTRA_MODULES = (
    "classes",
    "importing",
    "streaming",
    "incoming",
    "turns",
    "lasting",
    "standins",
    "class_sources",
    "third_party",
    "records",
    "terminal",
)

# Runs with MARKER, PATH (what sys.path is to be), and SOURCES: (name, source or code) of modules.
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

def start():
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
        if isinstance(source, str):
            source = compile(source, "<fabremote.agent.%%s>" %% name, "exec")
        exec(source, module.__dict__)
    package.add = add
    for name, source in SOURCES:
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
    start()
except BaseException as error:
    # Two frames: CRASH, of call 0; the second without a text.
    text = ("%%s: %%s" %% (type(error).__name__, error)).encode("utf-8", "replace")[:200]
    crash = b"\x15" + bytes(7)
    os.write(1, crash + bytes([len(text)]) + text + crash + bytes(1))
    os._exit(1)
"""

# What a Python must agree in to run this one's code: None where code isn't sent.
CODE_TAG = (
    (sys.implementation.cache_tag, importlib.util.MAGIC_NUMBER)
    if sys.implementation.name == "cpython"
    else None
)
# The flag of a function's code that has a docstring; before 3.13 its first constant tells.
_HAS_DOCSTRING = 0x4000000
_IS_FUNCTION = 2
# From 3.11 on: that up to 8 instructions are on the line that those before were on.
_SAME_LINE = bytes([0x80 | 13 << 3 | 7, 0])

_making = threading.Lock()


def runner(coded: bool = False) -> bytes:
    """Return the compressed runner, the same for every host; ``coded``: as code, not source."""
    # A group's threads all want it at once, and a cache lets each of them make it.
    with _making:
        return _coded_runner() if coded else _runner()


@functools.cache
def _runner() -> bytes:
    sources = [(name, agent_source(name)) for name in AGENT_MODULES]
    return zlib.compress(f"SOURCES = {sources!r}\n{_RUNNER % (FLOOR,)}".encode(), 9)


@functools.cache
def _coded_runner() -> bytes:
    code = compile(_RUNNER % (FLOOR,), "<fabremote.bootstrap>", "exec", dont_inherit=True)
    return zlib.compress(marshal.dumps((code, [(n, agent_code(n)) for n in AGENT_MODULES])))


@functools.cache
def extra(name: str, coded: bool = False) -> bytes:
    """Return the data of the frame that gives an agent one of `EXTRA_MODULES`."""
    # Of text, any Python reads version 2.
    data = marshal.dumps(agent_code(name)) if coded else marshal.dumps(agent_source(name), 2)
    return name.encode() + b"\0" + zlib.compress(data, 9)


def agent_code(name: str) -> types.CodeType:
    """Return the code of a module of the agent's, as it is sent."""
    full = f"fabremote.agent.{name}"
    spec = importlib.util.find_spec(full)
    loader: Any = spec and spec.loader
    # Most likely compiled already, on disk.
    return _stripped(loader.get_code(full), f"<{full}>")


def _stripped(code: types.CodeType, file: str) -> types.CodeType:
    """Return code without docstrings and the tables of its lines, half of what it takes.

    Each function then is on the line where it begins.
    """
    consts = tuple(
        _stripped(one, file) if isinstance(one, types.CodeType) else one for one in code.co_consts
    )
    if consts and isinstance(consts[0], str) and _documented(code):
        consts = ("", *consts[1:])
    changed: dict[str, Any] = {"co_filename": file, "co_consts": consts}
    if sys.version_info >= (3, 11):
        changed["co_linetable"] = _SAME_LINE * -(-len(code.co_code) // 16)
    return code.replace(**changed)


def _documented(code: types.CodeType) -> bool:
    """Return whether the code's first constant, a text, is its docstring; a class's isn't."""
    if code.co_name.startswith("<"):
        return code.co_name == "<module>"
    return bool(code.co_flags & (_HAS_DOCSTRING if sys.version_info >= (3, 13) else _IS_FUNCTION))


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
