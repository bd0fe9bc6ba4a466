"""Our docstrings as Markdown: a line that begins with a ``name``: begins an item of a list."""

import re

import griffe

ITEM = re.compile(r"^(?=``\w+``(?:, ``\w+``)*(?:,\s+``\w+``)*:)", re.MULTILINE)


class Items(griffe.Extension):
    """Make lists of what docstrings say of arguments and options."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Return a docstring's text with its items as those of a list."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        if ITEM.match(paragraph):
            items = [item for item in ITEM.split(paragraph) if item]
            paragraph = "\n".join("- " + item.rstrip().replace("\n", "\n  ") for item in items)
        paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)
