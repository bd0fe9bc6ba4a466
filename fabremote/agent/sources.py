"""Code objects from the caller's source, and that source for whoever asks for its lines.

The source of one function comes as text that puts it at its own line, inside
empty functions and classes like those around it, so that Python compiles it as
it did there: free variables, private names and ``super()`` included. Nothing of
it runs but the function's own code, which is dug out.

Tracebacks, warnings and ``inspect`` all ask ``linecache``. It is filled as soon
as anybody imports it, and not imported here.
"""

import _warnings
import marshal
import sys

from . import loader

Code = type((lambda: None).__code__)
# The caller's lines by file: {number of the first: text}.
LINES = {}  # type: dict[str, dict[int, str]]
# A generator that lets StopIteration out raises RuntimeError; the default from 3.7 on.
GENERATOR_STOP = 0x80000
QUIET = ("ignore", None, Warning, None, 0)


def unpacked(make, packed):
    """Return the code object that ``make`` makes of arguments sent as constant bytes."""
    return make(*marshal.loads(packed))


def marshalled(data, first=0, text=None):
    """Return the code object in ``data``, made by a Python of this minor version."""
    made = marshal.loads(data)
    show(made.co_filename, first, text)
    return made


def compiled(
    name, file, first, head, body, place=0, future=False, before="", shown=None, awaited=False
):
    """Return the code of a function from its source.

    ``head``: the lines right before it, made up; ``body``: its own from ``def``
    on; ``place``: which code object of that name and line it is; ``before``: its
    decorators. ``shown``: what others may see, unless it is those and ``body``.
    ``awaited``: whether types.coroutine has marked it.
    """
    show(file, first, before + body if shown is None else shown)
    flags = 0
    if future and sys.version_info >= (3, 7):
        flags = __import__("__future__").annotations.compiler_flag
    elif sys.version_info < (3, 7):
        flags = GENERATOR_STOP
    filters, mutated = _warnings.filters, getattr(_warnings, "_filters_mutated", None)
    # Whoever compiled it first was warned of its escapes and comparisons.
    if mutated is not None:
        filters.insert(0, QUIET)
        mutated()
    try:
        text = placed(first + before.count("\n"), head, body)
        found = find(text, file, name, first, flags)[place]
        return awaitable(found) if awaited else found
    finally:
        if mutated is not None:
            filters.remove(QUIET)
            mutated()


def awaitable(code):
    """Return a generator's code as types.coroutine marks it."""
    cell = (lambda x: lambda: x)(0).__closure__
    made = type(placed)(code, {}, None, None, cell * len(code.co_freevars))
    return __import__("types").coroutine(made).__code__


def placed(line, head, body):
    """Return the text of a unit in which ``body`` is at this line, right after ``head``."""
    return "\n" * (line - 1 - head.count("\n")) + head + body


def find(text, file, name, first, flags):
    """Return the code objects of this name and first line in ``text``, outer ones first."""
    return within(compile(text, file, "exec", flags, True), name, first)


def within(code, name, first):
    """Return the code objects of this name and first line in another, outer ones first."""
    found, queue = [], [code]
    while queue:
        each = queue.pop()
        if each.co_name == name and each.co_firstlineno == first:
            found.append(each)
        queue.extend([part for part in each.co_consts if type(part) is Code][::-1])
    return found


def show(file, first, text):
    """Let ``text`` be the lines of ``file`` from ``first`` on, for whoever asks linecache."""
    loader.SHIPPED_FILES.add(file)
    if text is None or LINES.setdefault(file, {}).get(first) == text:
        return
    LINES[file][first] = text
    module = sys.modules.get("linecache")
    if hasattr(module, "updatecache"):
        module.cache[file] = Entry(module, file)
    elif Filler not in sys.meta_path:
        sys.meta_path.insert(0, Filler)


class Entry:
    """What linecache keeps of a file: (size, None, lines, name), made when it is looked at."""

    def __init__(self, module, file):
        self.module = module
        self.file = file
        self.values = None

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.read()[index]

    def __iter__(self):
        return iter(self.read())

    def read(self):
        if self.values is None:
            cache = self.module.cache
            cache.pop(self.file, None)
            # Those of a file of this host, and over them the caller's.
            lines = list(self.module.updatecache(self.file))
            for first, text in LINES[self.file].items():
                new = [line + "\n" for line in text.split("\n")]
                if new[-1] == "\n":
                    new.pop()
                lines += ["\n"] * (first - 1 + len(new) - len(lines))
                lines[first - 1 : first - 1 + len(new)] = new
            # Without a time, so that linecache keeps it.
            self.values = len(lines), None, lines, self.file
            cache[self.file] = self
        return self.values


class Filler:
    """Fills linecache at its import; after that, it is out of the way."""

    spec = None

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "linecache":
            return None
        sys.meta_path.remove(cls)
        module = __import__(name)
        cls.spec = module.__spec__
        for file in LINES:
            module.cache[file] = Entry(module, file)
        # The import goes on with a module's own spec, and would load it again.
        module.__spec__ = type(cls.spec)(name, cls)
        return module.__spec__

    @staticmethod
    def create_module(spec):
        return sys.modules[spec.name]

    @classmethod
    def exec_module(cls, module):
        module.__spec__ = cls.spec
