"""Lets ``inspect`` find the source of a class that travelled by value.

Sent by value with the class. ``inspect`` looks for a class's source in its
module's file, which isn't there, and each version in a way of its own.
"""


def describe(cls, show, also_doing, file, first, text):
    """Have ``inspect`` say that a class is from line ``first`` of ``file`` on.

    ``text``: its lines, in UTF-8. ``show``, ``also_doing``: the agent's functions.
    """
    import sys

    show(file, first, text.decode())
    found = [each for each in sys.meta_path if hasattr(each, "fabremote_classes")]
    if found:
        found[0].fabremote_classes[id(cls)] = cls, file, first
        return
    # By id, as a metaclass may have no hash.
    known = {id(cls): (cls, file, first)}

    def mend(inspect):
        usual_file, usual_source = inspect.getfile, inspect.findsource

        def place(asked):
            found = known.get(id(asked), (None,))
            return found[1:] if found[0] is asked else None

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

        fabremote_classes = known

        @staticmethod
        def find_spec(name, path=None, target=None):
            if name != "inspect":
                return None
            from _frozen_importlib_external import PathFinder

            return also_doing(PathFinder.find_spec(name, path), mend)

    sys.meta_path.insert(0, Finder)
    if "inspect" in sys.modules:
        mend(sys.modules["inspect"])
