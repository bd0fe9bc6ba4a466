"""Names of cases, the same in every process that collects the tests."""

from __future__ import annotations

import re


def label(value: object) -> str:
    """``repr(value)``, shortened, without the addresses of objects."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:40]
