"""What ``requires=`` asks for: a list, a requirements file or a script's block, normalised.

All of it is read and checked here, before anything is sent. What an installer
would take from a file of the machine it runs on (editable and local projects)
is refused: the environment is made on the host. Nothing that an option could
be smuggled in by passes: a requirement begins with a name, an option is one of
`OPTIONS`, and neither has room for a line break.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fabremote.printing import masked
from fabremote.python_versions import clauses, holds

# Of a requirements file, by their long names: whether each takes a value.
OPTIONS = {
    "--index-url": True,
    "--extra-index-url": True,
    "--find-links": True,
    "--trusted-host": True,
    "--only-binary": True,
    "--no-binary": True,
    "--no-index": False,
    "--pre": False,
    "--prefer-binary": False,
    "--require-hashes": False,
}
_SHORT = {
    "-i": "--index-url",
    "-f": "--find-links",
    "-r": "--requirement",
    "-c": "--constraint",
    "-e": "--editable",
}
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_REQUIREMENT = re.compile(rf"({_NAME})\s*(?:\[([^\[\]]*)\])?\s*(.*)", re.DOTALL)
_SPECIFIER = re.compile(r"(===|==|~=|!=|<=|>=|<|>)\s*([A-Za-z0-9.*+!_-]+)")
_URL = re.compile(r"(?:(?:git|hg|svn|bzr)\+)?(?:https?|ssh)://[^\s\\]+")
# What pip and uv would take for an option, a comment or a line's continuation is none of it.
_TEXT = r"""'(?:(?!\s[-#])[^'\\])*'|"(?:(?!\s[-#])[^"\\])*\""""
_MARKER = re.compile(rf"(?:[A-Za-z_][\w.]*(?![\w.])|{_TEXT}|[=!<>~]{{1,3}}(?![=!<>~])|[()\s])+")
_HASH = re.compile(r"hash=(sha256|sha384|sha512):[0-9a-f]+")
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tar.bz2", ".tgz")


@dataclasses.dataclass(frozen=True)
class Requirements:
    """What an environment holds; equal for all that asks for the same.

    ``lines``: requirements as a requirements file has them, sorted;
    ``constraints``: likewise; ``options``: of the index, in order, one a line;
    ``python``: the versions of Python allowed, such as ``>=3.11``, or "";
    ``origin``: the file they are from, or "".
    """

    lines: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    python: str = ""
    origin: str = ""

    def __str__(self) -> str:
        if self.origin:
            return self.origin
        return masked(", ".join(self.lines[:5])) + (", ..." if len(self.lines) > 5 else "")

    def admits(self, version: Sequence[int]) -> bool:
        """Return whether this version of Python, such as (3, 12, 1), is allowed."""
        return all(holds(operator, wanted, version) for operator, wanted in clauses(self.python))

    def is_current(self) -> bool:
        """Return whether the files that these are from still say the same."""
        return not self.origin or _known(Path(self.origin)) is self


def parse(value: object) -> Requirements | None:
    """Return what a value of ``requires=`` asks for; None or an empty list asks for nothing.

    Raises TypeError or ValueError naming what is wrong.
    """
    if value is None:
        return None
    if isinstance(value, (str, os.PathLike)):
        return _from_file(os.fspath(value))
    if not isinstance(value, Iterable) or isinstance(value, (bytes, dict)):
        raise TypeError(
            f"requires={value!r} must be a list of requirements, such as ['numpy>=2'], or the "
            "path of a requirements file or of a script with a '# /// script' block."
        )
    items = tuple(value)
    for item in items:
        if not isinstance(item, str):
            raise TypeError(f"requires={value!r}: {item!r} must be a str, such as 'numpy>=2'.")
    return _from_list(items) if items else None


def check_wheels(found: Requirements, wheels: str | None) -> None:
    """Raise ValueError if what is asked for can't be had in this way; see ``wheels=``."""
    for option in found.options:
        if wheels != "local" and option.startswith("--find-links") and "://" not in option:
            raise ValueError(
                f"{found.origin}: {masked(option)!r} is a folder of this machine, which "
                "the host doesn't see. Give wheels='local', to send what is needed of it; or "
                "name a URL."
            )
    for line in found.lines:
        url = line.partition(" ; ")[0].partition(" --hash=")[0]
        if wheels == "local" and "://" in url and not url.partition("#")[0].endswith(".whl"):
            raise ValueError(
                f"requires: {masked(line)!r} must be built, and with wheels='local' only "
                "wheels travel. Build a wheel of it, and name its folder with --find-links."
            )


@functools.lru_cache(256)
def _from_list(items: tuple[str, ...]) -> Requirements:
    where = masked(f"requires={list(items)!r}")
    return Requirements(_sorted(requirement(item, where) for item in items))


def _sorted(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(lines)))


# Files

# What an error about the value of ``requires=`` itself begins with.
_GIVEN = "requires="
# By path: the state of each file that was read, and what it said.
_read: dict[Path, tuple[dict[Path, tuple[int, ...]], Requirements]] = {}


def _from_file(given: str) -> Requirements:
    """Return what a file asks for; it is read again if it or one it includes has changed."""
    whole = Path(os.path.abspath(Path(given).expanduser()))
    if (found := _known(whole)) is None:
        states: dict[Path, tuple[int, ...]] = {}
        reading = _from_script if whole.suffix == ".py" else _from_text
        found = reading(whole, states, f"{_GIVEN}{given!r}")
        _read[whole] = states, found
    return found


def _known(path: Path) -> Requirements | None:
    """Return what a file said when it was read; None if that, or one it includes, has changed."""
    states, found = _read.get(path, ({}, None))
    return found if all(_state(one) == state for one, state in states.items()) else None


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _text(path: Path, states: dict[Path, tuple[int, ...]], where: str) -> str:
    states[path] = _state(path)
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        message = f"{where}: there is no file {str(path)!r} here."
        if where.startswith(_GIVEN):
            message += f" A requirement goes into a list: requires=[{where[len(_GIVEN) :]}]."
        raise ValueError(masked(message)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: {str(path)!r} can't be read: {error}.") from None


def _from_text(path: Path, states: dict[Path, tuple[int, ...]], where: str) -> Requirements:
    reader = _Reader(states)
    reader.read(path, reader.lines, where)
    lines, constraints = _sorted(reader.lines), _sorted(reader.constraints)
    return Requirements(lines, constraints, tuple(reader.options), origin=str(path))


class _Reader:
    """Reads requirements files and what they include."""

    def __init__(self, states: dict[Path, tuple[int, ...]]) -> None:
        self.lines: list[str] = []
        self.constraints: list[str] = []
        self.options: list[str] = []
        self._begun: set[tuple[Path, bool]] = set()
        self._states = states

    def read(self, path: Path, into: list[str], where: str) -> None:
        """Add the requirements of a file to ``into``, and what else it says."""
        if (path, into is self.lines) in self._begun:
            return
        self._begun.add((path, into is self.lines))
        for number, line in _logical_lines(_text(path, self._states, where)):
            here = f"{path}, line {number}"
            if line.startswith("-"):
                self._option(line, path, into, here)
            else:
                into.append(_with_hashes(line, here))

    def _option(self, line: str, path: Path, into: list[str], where: str) -> None:
        pattern = r"(--[\w-]+)(?:\s*=\s*|\s+|$)(.*)" if line[:2] == "--" else r"(-\w)\s*=?\s*(.*)"
        match = re.fullmatch(pattern, line)
        name = _SHORT.get(match[1], match[1]) if match else line
        value = match[2].strip() if match else ""
        if name in ("--requirement", "--constraint"):
            if "://" in value or not value:
                raise ValueError(f"{where}: {masked(line)!r} must name a file of this machine.")
            target = Path(os.path.normpath(path.parent / value))
            self.read(target, into if name == "--requirement" else self.constraints, where)
            return
        if name == "--editable":
            raise ValueError(_local(where, line))
        if name == "--find-links" and "://" not in value:
            value = str(path.parent / Path(value).expanduser())
        takes = OPTIONS.get(name)
        if takes is None:
            known = ", ".join(["-r", "-c", *OPTIONS])
            raise ValueError(
                f"{where}: the option {masked(line)!r} isn't honoured; these are: {known}."
            )
        if takes != bool(value) or re.search(r"[\s'\"\\]|[^ -~]", value):
            needs = "needs one value, without spaces or quotes" if takes else "takes no value"
            raise ValueError(f"{where}: {masked(line)!r}: {name} {needs}.")
        option = f"{name} {value}" if takes else name
        if name == "--index-url":
            # The last one counts.
            self.options = [one for one in self.options if not one.startswith(f"{name} ")]
        if option not in self.options:
            self.options.append(option)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Return the lines that say something, without comments, continued ones joined."""
    pending, first = "", 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        first = first if pending else number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            pending += line[:-1] + " "
            continue
        whole = re.sub(r"(^|\s)#.*$", "", pending + line).strip()
        pending = ""
        if whole:
            yield first, whole


def _with_hashes(line: str, where: str) -> str:
    """Return a line of a requirements file, its hashes sorted behind its requirement."""
    text, *options = re.split(r"\s--(?=\w)", line)
    for option in options:
        if not _HASH.fullmatch(option.strip()):
            raise ValueError(
                f"{where}: the option '--{masked(option.strip())}' of a requirement isn't "
                "honoured; only --hash=sha256:..., sha384 and sha512 are."
            )
    return " --".join([requirement(text, where), *sorted(option.strip() for option in options)])


# Scripts


def _from_script(path: Path, states: dict[Path, tuple[int, ...]], where: str) -> Requirements:
    """Return what the ``# /// script`` block of a Python file asks for."""
    block = _block(_text(path, states, where), path)
    # tomllib is new in 3.11.
    toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        table = toml.loads(block)
    except toml.TOMLDecodeError as error:
        raise ValueError(f"{path}: its '# /// script' block isn't TOML: {error}.") from None
    listed, python = table.get("dependencies", []), table.get("requires-python", "")
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise ValueError(f"{path}: dependencies = {listed!r} must be a list of requirements.")
    if not isinstance(python, str):
        raise ValueError(f"{path}: requires-python = {python!r} must be text, such as '>=3.11'.")
    try:
        clauses(python)
    except ValueError as error:
        raise ValueError(f"{path}: requires-python = {python!r}: {error}") from None
    lines = _sorted(requirement(each, str(path)) for each in listed)
    return Requirements(lines, python=python, origin=str(path))


def _block(text: str, path: Path) -> str:
    """Return the TOML in a script's block: comment lines from ``# /// script`` to ``# ///``."""
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if line == "# /// script"]
    if len(starts) != 1:
        raise ValueError(
            f"requires={str(path)!r} has {'no' if not starts else 'more than one'} block that "
            "begins with the line '# /// script'; a script says there what it requires."
        )
    held: list[str] = []
    end = None
    for line in lines[starts[0] + 1 :]:
        if line != "#" and not line.startswith("# "):
            break
        end = len(held) if line == "# ///" else end
        held.append(line[2:])
    if end is None:
        raise ValueError(f"{path}: its '# /// script' block isn't closed by a line '# ///'.")
    return "\n".join(held[:end])


# One requirement


def requirement(text: str, where: str) -> str:
    """Return a requirement normalised, or raise ValueError saying what is wrong with it."""
    whole = text.strip()
    if not whole.isprintable():
        raise ValueError(f"{where}: {masked(text)!r} must be one line of text.")
    if whole.startswith("-"):
        raise ValueError(
            f"{where}: {masked(text)!r} is an option, not a requirement. Options of the index "
            "go into a requirements file: requires='requirements.txt'."
        )
    if _URL.match(whole):
        return _direct(whole, where, text)
    match = _REQUIREMENT.fullmatch(whole)
    if _is_path(whole) and not (match and match[3].startswith("@")):
        raise ValueError(_local(where, text))
    if match is None:
        raise ValueError(_malformed(where, text))
    name = re.sub(r"[-_.]+", "-", match[1]).lower()
    extras = sorted(re.sub(r"[-_.]+", "-", each.strip()).lower() for each in _extras(match[2]))
    if not all(re.fullmatch(_NAME, each) for each in extras):
        raise ValueError(_malformed(where, text))
    if extras:
        name += f"[{','.join(extras)}]"
    if match[3].startswith("@"):
        return f"{name} @ {_direct(match[3][1:].strip(), where, text)}"
    rest, semicolon, marker = match[3].partition(";")
    specifiers = _specifiers(rest)
    if specifiers is None:
        raise ValueError(_malformed(where, text))
    return name + specifiers + (f"; {_marker(marker, where, text)}" if semicolon else "")


def _extras(text: str | None) -> list[str]:
    return text.split(",") if text and text.strip() else []


def _specifiers(text: str) -> str | None:
    """Return version specifiers normalised, or None if they aren't any."""
    text = text.strip()
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    if not text:
        return ""
    matches = [_SPECIFIER.fullmatch(part.strip()) for part in text.removesuffix(",").split(",")]
    return ",".join(sorted(m[1] + m[2] for m in matches if m)) if all(matches) else None


def _direct(text: str, where: str, whole: str) -> str:
    """Return a URL, and the marker behind it, normalised."""
    url, semicolon, marker = (part.strip() for part in text.partition(" ;"))
    if not _URL.fullmatch(url):
        local = _is_path(url) and not _URL.match(url)
        raise ValueError((_local if local else _malformed)(where, whole))
    return url + (f" ; {_marker(marker, where, whole)}" if semicolon else "")


def _marker(text: str, where: str, whole: str) -> str:
    text = " ".join(text.split())
    if not _MARKER.fullmatch(text):
        raise ValueError(
            f"{_malformed(where, whole)} Behind the semicolon there must be a marker, such as "
            "\"python_version >= '3.9'\"."
        )
    return text


def _is_path(text: str) -> bool:
    head = text.partition(";")[0].strip()
    return head.startswith((".", "/", "~", "file:")) or head.lower().endswith(_ARCHIVES)


def _local(where: str, text: str) -> str:
    return (
        f"{where}: {masked(text.strip())!r} is a file or folder of one machine, and the "
        "environment is made on another. Name it by an index or URL; or build a wheel of it "
        "here, and give wheels='local' with a requirements file that has '--find-links FOLDER'."
    )


def _malformed(where: str, text: str) -> str:
    return f"{where}: {masked(text.strip())!r} is no requirement; one looks like 'numpy>=2,<3'."


__all__ = ["Requirements", "check_wheels", "parse", "requirement"]
