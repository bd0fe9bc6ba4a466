"""Tiny packages, and an index that serves them on the loopback interface."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def make_environment(folder: Path, python: str, *packages: str) -> str:
    """Make a virtual environment with these packages by uv, or else by pip; return its Python.

    Raises OSError if they can't be had.
    """
    made = str(folder / "bin" / "python")
    uv = [sys.executable, "-m", "uv"]
    binary = "--only-binary=:all:"
    ways = (
        ([*uv, "venv", "-q", "--python", python], [*uv, "pip", "install", "--python", made]),
        ([python, "-m", "venv", "--clear"], [made, "-m", "pip", "install"]),
    )
    for make, install in ways:
        for command in ([*make, str(folder)], [*install, "-q", binary, *packages]):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                break
        else:
            return made
    raise OSError(f"{packages} can't be installed: {done.stderr.strip()[-300:]}")


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    body: str = "",
    requires: Iterable[str] = (),
    tag: str = "py3-none-any",
) -> Path:
    """A wheel of one module with ``VERSION``, ``TAG`` and ``body``."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {each}\n" for each in requires)
    pure = "true" if tag.endswith("-any") else "false"
    files = {
        f"{name}.py": f"VERSION = {version!r}\nTAG = {tag!r}\n{body}",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: {tag}\n",
    }
    record = "".join(f"{file},,\n" for file in files) + f"{info}/RECORD,,\n"
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(zipfile.ZipInfo(file, (2020, 1, 1, 0, 0, 0)), text)
    return path


def make_sdist(folder: Path, name: str, backend: str) -> Path:
    """A source distribution with a build backend of its own, so that it needs no other."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        "pyproject.toml": (
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        ),
        "backend.py": backend,
    }
    path = folder / f"{name}-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file, text in files.items():
            entry = tarfile.TarInfo(f"{name}-1.0/{file}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


class Index:
    """A simple index over a folder's files; ``requests`` are the paths asked for so far.

    Files are not given out while ``gate`` is clear.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.url = ""

    def files(self) -> list[str]:
        """The files asked for so far."""
        return [path for path in self.requests if path.endswith((".whl", ".gz"))]

    def page(self, project: str) -> str:
        """The page of one project."""
        found = [
            path
            for path in sorted(self.folder.iterdir())
            if path.name.partition("-")[0].lower() == project
        ]
        return "".join(map(_link, found))

    def content(self, path: str) -> bytes:
        """What a path stands for; nothing if there is no such thing."""
        kind, _, name = path.strip("/").partition("/")
        if kind == "simple":
            return self.page(name.lower()).encode()
        if name.endswith(".metadata"):
            with zipfile.ZipFile(self.folder / name.removesuffix(".metadata")) as archive:
                return archive.read(next(n for n in archive.namelist() if n.endswith("/METADATA")))
        file = self.folder / name
        return file.read_bytes() if kind == "files" and file.is_file() else b""


def _link(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    metadata = ' data-core-metadata="true"' if path.suffix == ".whl" else ""
    return f'<a href="/files/{path.name}#sha256={digest}"{metadata}>{path.name}</a>\n'


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, index: Index, *args: object) -> None:
        self.index = index
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.index.requests.append(self.path)
        if self.path.endswith((".whl", ".gz")):
            self.index.gate.wait(30)
        self.wfile.write(self._head())

    def do_HEAD(self) -> None:
        self._head()

    def _head(self) -> bytes:
        content = self.index.content(self.path)
        self.send_response(200 if content else 404)
        page = self.path.startswith("/simple/")
        self.send_header("Content-Type", "text/html" if page else "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return content

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Index]:
    """An index over ``folder`` that is there until the block ends."""
    index = Index(folder)
    handler = functools.partial(_Handler, index)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *args: None  # type: ignore[method-assign]  # clients are killed
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    index.url = f"http://127.0.0.1:{server.server_port}/simple"
    try:
        yield index
    finally:
        index.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
