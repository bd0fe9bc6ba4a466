"""Lets ``inspect`` find the source of a class that travelled by value.

It looks for a class's source in its module's file, which isn't here, and each
version in a way of its own.
"""

import sys

from . import importing, sources

# By id, as a metaclass may have no hash: id -> (class, file, its first line).
PLACES = {}  # type: dict[int, tuple[type, str, int]]


def describe(cls, file, first, text):
    """Have ``inspect`` say that a class is ``text``, from line ``first`` of ``file`` on."""
    sources.show(file, first, text.decode("utf-8", "surrogatepass"))
    if not PLACES:
        sys.meta_path.insert(0, Finder)
        if "inspect" in sys.modules:
            mend(sys.modules["inspect"])
    PLACES[id(cls)] = cls, file, first


def place(asked):
    """Return the (file, first line) of a class, or None."""
    found = PLACES.get(id(asked))
    return found[1:] if found is not None and found[0] is asked else None


def mend(inspect):
    """Let the module ``inspect`` ask here first."""
    usual_file, usual_source = inspect.getfile, inspect.findsource

    def getfile(object):
        found = place(object)
        return usual_file(object) if found is None else found[0]

    def findsource(object):
        found = place(object)
        if found is None:
            return usual_source(object)
        return inspect.linecache.getlines(found[0]), found[1] - 1

    inspect.getfile, inspect.findsource = getfile, findsource


class Finder:
    """Mends ``inspect`` as it is imported, if it ever is."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "inspect":
            return None
        return importing.also_doing(importing.PathFinder.find_spec(name, path), mend)
