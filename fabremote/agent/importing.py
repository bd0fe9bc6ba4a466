"""Makes the modules of the caller's importable: those sent with the call, and those it has.

Sent with the first call that has modules of its caller's, see `bundle`.
"""

import marshal
import os
import sys

# What importlib.machinery gives names to; that would have to be imported.
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import PathFinder

from . import forker, loader, worker
from .bundle import BUNDLE, CODES, DIGEST, FAILED, MIXED, MODULE, NAMESPACE, ask, compiled

# What the entry in a sent package's __path__ begins with; no folder of this host.
VIRTUAL = "<sent>/"

# What the forker has read of the modules that it was given, by digest.
PARTS = {}  # type: dict[bytes, tuple[str, str, str, int]]
# The modules of this call that the forker compiled ahead.
READY = {}  # type: dict[str, object]
# What takes long to import and does nothing else: done ahead where own modules import it.
SHARED = frozenset(
    ["__future__", "contextlib", "copy", "dataclasses", "datetime", "enum", "fnmatch", "glob"]
    + ["json", "math", "pathlib", "re", "string", "textwrap", "typing"]
)
# The most source that the forker keeps, and of one module that it compiles, in bytes.
KEPT = 1 << 24
LARGEST = 100000
# The lists of modules that are installed; one, but in a lasting process.
INSTALLED = set()  # type: set[bytes]
# The top-level names below which the caller has modules, and what it hasn't there.
ROOTS = set()  # type: set[str]
ABSENT = set()  # type: set[str]


def install(digest):
    """Make the caller's modules importable, ahead of this host's own."""
    if digest in INSTALLED:
        return
    listed = loader.BLOBS[digest]
    digests = [listed[n : n + DIGEST] for n in range(0, len(listed), DIGEST)]
    parts = [PARTS.get(each) or marshal.loads(loader.BLOBS[each]) for each in digests]
    ROOTS.update(parts[0])
    take(parts[1:])
    for each, part in zip(digests, parts):
        if each in CODES:
            READY[part[0]] = CODES[each]
    if sys.version_info[:2] == (3, 9) and "importlib._common" in sys.modules:
        serve_files(sys.modules["importlib._common"])
    if not INSTALLED:
        sys.meta_path.insert(0, Finder)
        sys.path_hooks.insert(0, Entry)
    INSTALLED.add(digest)


def take(modules):
    """Take in modules: a list of (name, text, file, kind)."""
    for name, text, file, kind in modules:
        BUNDLE[name] = text, file, kind
        ROOTS.add(name.partition(".")[0])
        if file:
            loader.SHIPPED_FILES.add(file)


def package(name, file, parent):
    """Return this process's module for a package whose globals travel by value."""
    made = loader.module(name, file, parent)
    made.__spec__ = Finder.find_spec(name)
    made.__loader__ = Finder
    made.__path__ = made.__spec__.submodule_search_locations
    return made


def fetch(name):
    """Return whether the caller has a module, whose source is here now."""
    if name in BUNDLE:
        return True
    if name.partition(".")[0] not in ROOTS or name in ABSENT:
        return False
    found = ask("module", name)
    if isinstance(found, str):
        raise ImportError(found, name=name)
    take(found or ())
    if name not in BUNDLE:
        ABSENT.add(name)
    return name in BUNDLE


class Finder:
    """Imports the caller's modules: a finder and their loader in one."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "importlib._common" and sys.version_info[:2] == (3, 9):
            return also_doing(PathFinder.find_spec(name, path), serve_files)
        sent = name in BUNDLE
        if not sent and not fetch(name):
            return None
        _, file, kind = BUNDLE[name]
        here = PathFinder.find_spec(name, path) if kind >= NAMESPACE else None
        if here is not None and here.origin is not None and not sent:
            # Of a mere folder there and a package here, this is the one.
            return None
        origin = file if kind < NAMESPACE else None
        spec = ModuleSpec(name, Finder, origin=origin, is_package=kind != MODULE)
        spec.has_location = origin is not None
        if kind != MODULE:
            spec.submodule_search_locations.append(VIRTUAL + name)
        if kind == MIXED and here is not None:
            spec.submodule_search_locations += here.submodule_search_locations or ()
        return spec

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(target):
        try:
            exec(Finder.get_code(target.__name__), target.__dict__)
        except Exception:
            FAILED.append(target.__name__)
            raise

    @staticmethod
    def get_code(name):
        return READY.get(name) or compiled(name, *BUNDLE[name][:2])

    @staticmethod
    def get_source(name):
        return BUNDLE[name][0]

    @staticmethod
    def get_filename(name):
        return BUNDLE[name][1]

    @staticmethod
    def is_package(name):
        return BUNDLE[name][2] != MODULE

    @staticmethod
    def get_data(path):
        """Return a data file's bytes by its path over there, as pkgutil.get_data asks."""
        for name, (_, file, kind) in BUNDLE.items():
            folder = file if kind >= NAMESPACE else os.path.dirname(file)
            if kind != MODULE and path.startswith(folder + "/"):
                data = ask("data", name, os.path.normpath(path[len(folder) + 1 :]))
                if data is not None:
                    return data
        raise not_sent(path)

    @staticmethod
    def get_resource_reader(name):
        return Reader(name) if Finder.is_package(name) else None


class Entry:
    """What pkgutil finds in a sent package's __path__."""

    def __init__(self, path):
        if not isinstance(path, str) or not path.startswith(VIRTUAL):
            raise ImportError("not a package that was sent", path=path)
        self.name = path[len(VIRTUAL) :]

    def find_spec(self, name, target=None):
        return None

    def iter_modules(self, prefix=""):
        """Return the (name, whether it is a package) of the package's modules."""
        found = {}
        for name, is_folder, is_package in ask("list", self.name, "") or ():
            base, dot, end = name.partition(".")
            if is_package or (not is_folder and dot and end == "py" and base != "__init__"):
                found[base] = is_package
        return [(prefix + base, found[base]) for base in sorted(found)]


# Data files


def not_sent(path):
    """Return the error for a data file that the caller hasn't got or doesn't send."""
    return FileNotFoundError(2, "No such data file in a package that was sent", path)


def also_doing(spec, work):
    """Return a module's spec, for ``work`` to be called with the module once it is loaded."""
    execute = spec.loader.exec_module

    def exec_module(target):
        execute(target)
        work(target)

    spec.loader.exec_module = exec_module
    return spec


def serve_files(common):
    """Have files() of Python 3.9 ask a package's loader, as any later one does."""
    usual = common.from_package

    def from_package(package):
        sent = package.__spec__.loader is Finder
        return Resource(package.__name__, ()) if sent else usual(package)

    common.from_package = from_package


class Reader:
    """The data files of a sent package, for importlib.resources."""

    def __init__(self, package):
        self.package = package

    def files(self):
        return Resource(self.package, ())

    def open_resource(self, name):
        return self.files().joinpath(name).open("rb")

    def resource_path(self, name):
        # There is none here; importlib.resources then makes a temporary file.
        raise not_sent(name)

    def is_resource(self, name):
        return self.files().joinpath(name).is_file()

    def contents(self):
        return [entry.name for entry in self.files().iterdir()]


class Resource:
    """A file or folder of a sent package, read from the caller when it is asked for."""

    def __init__(self, package, parts, is_folder=None):
        self.package, self.parts = package, parts
        self.known = is_folder

    @property
    def name(self):
        return self.parts[-1] if self.parts else self.package.rpartition(".")[2]

    def __str__(self):
        return VIRTUAL + "/".join((self.package,) + self.parts)

    def __repr__(self):
        return "Resource(%r)" % str(self)

    def joinpath(self, *names):
        parts = [part for name in names for part in str(name).split("/") if part not in ("", ".")]
        return Resource(self.package, self.parts + tuple(parts)) if parts else self

    def __truediv__(self, name):
        return self.joinpath(name)

    def listed(self):
        return ask("list", self.package, "/".join(self.parts))

    def is_dir(self):
        if self.known is None:
            self.known = not self.parts or self.listed() is not None
        return self.known

    def is_file(self):
        if not self.parts:
            return False
        if self.known is None:
            entries = Resource(self.package, self.parts[:-1]).listed() or ()
            found = {name: is_folder for name, is_folder, _ in entries}
            if self.name not in found:
                return False
            self.known = found[self.name]
        return not self.known

    def iterdir(self):
        entries = self.listed()
        if entries is None:
            raise not_sent(str(self))
        return iter([Resource(self.package, self.parts + (e[0],), e[1]) for e in entries])

    def read_bytes(self):
        data = ask("data", self.package, "/".join(self.parts))
        if data is None:
            raise not_sent(str(self))
        return data

    def read_text(self, encoding=None, errors=None):
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode="r", *args, **kwargs):
        import io

        stream = io.BytesIO(self.read_bytes())
        if "b" in mode:
            return stream
        if not args:
            kwargs["encoding"] = kwargs.get("encoding") or "utf-8"
        return io.TextIOWrapper(stream, *args, **kwargs)


# Ahead of calls


class Compiling:
    """In the supervisor: what the forker was given to keep and to compile."""

    def __init__(self, supervisor):
        self.supervisor = supervisor
        # How many calls there were for each list of modules.
        self.uses = {}
        # What the forker has, which each worker forked from then on is born with:
        # digest -> size; and its room.
        self.told = {}
        self.room = KEPT

    def use(self, digest, listed):
        """Have modules there ahead of the calls to come, the second time that they are used."""
        self.uses[digest] = self.uses.get(digest, 0) + 1
        if self.uses[digest] == 2:
            # Neither the list nor its first is a module.
            modules = set(listed[1:])
            for each in modules.union((digest, listed[0])).difference(self.told):
                blob = each + b"".join(self.supervisor.blobs[each])
                if len(blob) <= self.room:
                    self.told[each] = len(blob)
                    self.room -= len(blob)
                    small = each in modules and len(blob) <= LARGEST
                    size = worker.LENGTH.pack(len(blob))
                    self.supervisor.tell((forker.COMPILE if small else forker.KEEP) + size + blob)

    def drop(self, digest):
        """Have what no later call needs forgotten."""
        self.uses.pop(digest, None)
        if digest in self.told:
            self.room += self.told.pop(digest)
            self.supervisor.tell(forker.FORGET + digest)


def prepare(digest):
    """In the forker, keep the code of a module, and have what it imports of `SHARED`."""
    try:
        PARTS[digest] = name, text, file, _ = marshal.loads(loader.BLOBS[digest])
        del loader.BLOBS[digest]
        CODES[digest] = code = compiled(name, text, file)
        for each in SHARED.intersection(code.co_names):
            __import__(each)
    except Exception:
        # A worker finds out what is wrong.
        pass
    worker.freeze()


def forget(digest, waiting):
    """In the forker, drop what it has by a digest, which may wait to be compiled."""
    waiting[:] = [each for each in waiting if each != digest]
    for kept in loader.BLOBS, PARTS, CODES:
        kept.pop(digest, None)
