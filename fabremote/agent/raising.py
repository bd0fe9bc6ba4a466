"""What was raised, as records that the caller rebuilds exceptions from.

A record: (module, class, text, argument texts, notes, frames, cause, context,
suppress, members, data). ``cause``, ``context`` and ``members`` are indices of
records, or None. ``data`` is the pickle of the exception as an answer, or None
where it can't be had. A frame: (file, line number, function, source line or
None, whether the code is the caller's).
"""

import builtins
import io

from . import answers, loader

MAX_CHAIN = 100


def raised(error, encoder):
    """Return the records of an exception and of all that it refers to."""
    found, records = [error], []
    for one in found:
        group = getattr(one, "exceptions", None) if is_group(one) else None
        related = [one.__cause__, one.__context__] + list(group or [])
        links = [number_of(found, other) for other in related]
        name = type(one).__module__, type(one).__qualname__
        texts = [short(repr_of(arg)) for arg in one.args]
        records.append(
            name
            + (text_of(one), texts, notes_of(one), frames_of(one), links[0], links[1])
            + (bool(one.__suppress_context__), links[2:] if group is not None else None)
            + (data_of(one, encoder),)
        )
    return records


def number_of(found, error):
    """Return the index of ``error`` in ``found``, appending it if there is room."""
    if error is None:
        return None
    for index, other in enumerate(found):
        if other is error:
            return index
    if len(found) >= MAX_CHAIN:
        return None
    found.append(error)
    return len(found) - 1


def is_group(error):
    """Return whether ``error`` is an exception group (3.11 or newer)."""
    kind = getattr(builtins, "BaseExceptionGroup", None)
    return kind is not None and isinstance(error, kind)


def data_of(error, encoder):
    """Return the pickle of the exception as data, as far as it can be had.

    It is ``("whole", exception)`` for a trusted class, else ``("parts", class
    reference, arguments, attributes)``; a group's members travel as records.
    """
    attempts = []
    if encoder.trust is True or type(error) in encoder.indices:
        attempts.append(lambda: ("whole", error))
    attempts.append(lambda: ("parts",) + parts_of(error))
    attempts.append(lambda: ("parts",) + what_travels(parts_of(error), encoder))
    for attempt in attempts:
        try:
            return b"".join(encoder.encode(attempt()).pieces)
        except Exception:
            continue
    return None


def what_travels(parts, encoder):
    """Return the parts of an exception without the attributes that can't be sent."""
    ref, args, state = parts
    kept = {}
    for name, value in state.items():
        try:
            encoder.encode(value)
        except Exception:
            continue
        kept[name] = value
    return ref, args, kept


def parts_of(error):
    """Return (class reference, arguments, attributes) of an exception."""
    args, state = answers.exception_parts(error)
    return answers.exception_reference(error), args[:1] if is_group(error) else args, state


def frames_of(error):
    """Return the frames of the exception's traceback, less the agent's own."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        file = code.co_filename
        if not file.startswith("<fabremote."):
            mine = file in loader.SHIPPED_FILES
            line = None if mine else source_line(file, trace.tb_lineno)
            frames.append((file, trace.tb_lineno, code.co_name, line, mine))
        trace = trace.tb_next
    # A RecursionError has a thousand of them; its ends tell.
    return frames if len(frames) <= 200 else frames[:100] + frames[-100:]


def source_line(file, number):
    """Return line ``number`` of a file of this host, or None."""
    try:
        with io.open(file, "rb") as stream:
            for _ in range(number - 1):
                stream.readline()
            return stream.readline(1000).decode("utf-8", "replace").strip()
    except (OSError, ValueError):
        return None


def notes_of(error):
    """Return the texts of the exception's notes."""
    notes = getattr(error, "__notes__", None)
    return [text_of(note) for note in notes] if isinstance(notes, (list, tuple)) else []


def name_of(cls):
    """Return a class's name as a message gives it."""
    return (
        cls.__qualname__
        if cls.__module__ == "builtins"
        else "%s.%s" % (cls.__module__, cls.__qualname__)
    )


def text_of(obj):
    """Return ``str(obj)``, whatever the class does."""
    try:
        return str.__str__(str(obj))
    except BaseException as error:
        return "<no text: str() raised %s>" % type(error).__name__


def repr_of(obj):
    """Return ``repr(obj)``, whatever the class does."""
    try:
        return str.__str__(repr(obj))
    except BaseException as error:
        return "<%s: repr() raised %s>" % (type(obj).__name__, type(error).__name__)


def short(text, limit=200):
    """Return ``text``, cut to ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
