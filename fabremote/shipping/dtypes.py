"""Rebuilds the dtypes of NumPy arrays from what an answer says of them.

A dtype is a short text, as in ``"<i8"``, or for a structure ``(fields, size)``
with each field ``(name, dtype, offset, shape)``. Objects, long doubles (which
differ between machines), fields that overlap and dtypes without a size are
refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fabremote.shipping.builders import check_items, extra, require

DTYPE = (
    r"[|](?:b1|[iu]1|S[1-9][0-9]{0,8})"
    r"|[<>](?:[iu][248]|f[248]|c8|c16|U[1-9][0-9]{0,7})"
    r"|[<>][mM]8(?:\[(?:[1-9][0-9]{0,8})?(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
)
MAX_FIELDS = 10_000
MAX_DEPTH = 16


def read_dtype(kind: object) -> Any:
    """Return the dtype that ``kind`` describes, or raise ValueError."""
    return _read(kind, iter(range(MAX_FIELDS)), MAX_DEPTH)


def _read(kind: Any, budget: Iterator[int], depth: int) -> Any:
    numpy = extra("numpy")
    if type(kind) is str:
        require(re.fullmatch(DTYPE, kind) is not None, "the dtype isn't a known one")
        return numpy.dtype(kind)
    check_items([kind], tuple)
    fields, size = kind
    check_items([fields], tuple)
    check_items([size], int)
    require(depth > 0, "the dtype is nested too deeply")
    parts = [_read_field(field, budget, depth - 1) for field in fields]
    ends = [0]
    for _, inner, offset in sorted(parts, key=lambda part: part[2]):
        require(offset >= ends[-1], "fields overlap")
        ends.append(offset + inner.itemsize)
    require(0 < ends[-1] <= size, "the fields don't fit the size")
    names, formats, offsets = zip(*parts, strict=True)
    return numpy.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


def _read_field(field: Any, budget: Iterator[int], depth: int) -> tuple[str, Any, int]:
    # Pickles can repeat a part without repeating its bytes, so fields are counted.
    require(next(budget, None) is not None, "there are too many fields")
    check_items([field], tuple)
    name, kind, offset, shape = field
    check_items([name], str)
    check_items([offset], int)
    check_items([shape], tuple)
    check_items(shape, int)
    require(all(0 < length < 1 << 31 for length in shape), "a field's shape is malformed")
    inner = _read(kind, budget, depth)
    return name, extra("numpy").dtype((inner, shape)) if shape else inner, offset
