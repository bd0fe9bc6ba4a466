"""Names the place of an object inside another, for messages: ``[0].parent['key']``."""

_ATOMS = frozenset([type(None), bool, int, float, complex, str, bytes, bytearray])
_LIMIT = 100000


def children(obj):
    """Return the (label, object) pairs that ``obj`` directly holds."""
    kind = type(obj)
    if kind in _ATOMS:
        return []
    if isinstance(obj, (list, tuple)):
        found = [("[%d]" % index, item) for index, item in enumerate(obj)]
    elif isinstance(obj, dict):
        found = [("[%s]" % _short(key), value) for key, value in obj.items()]
        found += [(".keys()", key) for key in obj]
    elif isinstance(obj, (set, frozenset)):
        found = [("{%s}" % _short(item), item) for item in obj]
    else:
        found = []
    if not isinstance(obj, type):
        found += [("." + name, value) for name, value in state_of(obj).items()]
    return found


def state_of(obj):
    """Return the instance attributes of ``obj``, from its ``__dict__`` and its slots."""
    state = {}
    for cls in type(obj).__mro__:
        if cls.__module__ == "builtins":
            continue
        for name, member in vars(cls).items():
            if type(member).__name__ == "member_descriptor" and not name.startswith("__"):
                try:
                    state[name] = member.__get__(obj, cls)
                except AttributeError:
                    pass
    try:
        state.update(object.__getattribute__(obj, "__dict__"))
    except (AttributeError, TypeError):
        pass
    return state


def find(root, target):
    """Return the path from ``root`` to the object ``target``, or None if it is not found."""
    return search(root, lambda obj: obj is target)


def search(root, wanted):
    """Return the path to the nearest object inside ``root`` for which ``wanted`` is true."""
    seen = {id(root)}
    queue = [("", root)]
    for path, obj in queue:
        if wanted(obj):
            return path
        if len(queue) > _LIMIT:
            return None
        for label, child in children(obj):
            if type(child) not in _ATOMS and id(child) not in seen:
                seen.add(id(child))
                queue.append((path + label, child))
    return None


def _short(key):
    try:
        text = repr(key)
    except Exception:
        text = "<%s>" % type(key).__name__
    return text if len(text) <= 40 else text[:37] + "..."
