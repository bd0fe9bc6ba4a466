"""Writes the corpus that fuzzing starts from: ``python -m tests.fuzz.seed``.

It holds honest answers of each kind and hostile ones of each family; files that
fuzzing has found stand beside them.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
from pathlib import Path
from typing import Any

from fabremote.agent import wire
from fabremote.agent.answers import Encoder
from fabremote.shipping.kinds import BUILDERS
from tests import test_hostile as hostile
from tests.kind_cases import PRELUDE, STANDARD

FOLDER = Path(__file__).parent / "corpus"
EVERY = 23


def seeds() -> list[bytes]:
    """Return the answers and frames of the corpus."""
    names: dict[str, Any] = {}
    exec(PRELUDE, names)
    found = []
    for case in STANDARD:
        with contextlib.suppress(Exception):  # newer than this Python
            made = Encoder().encode(eval(case.source, names))
            found.append(b"V" + b"".join(made.pieces))
    found = [data for data in found if len(data) < 600]
    found += [b"V" + data for _, data in hostile.ALL[::EVERY] if len(data) < 2000]
    found += [b"E" + pickle.dumps([hostile.GOOD], 4), b"L" + pickle.dumps([hostile.GOOD], 4)]
    found += [b"R" + pickle.dumps(("why", "type", "path", True), 4), b"M\0\1a"]
    found += [b"F\x05" + wire.frame(kind, 1, b"x" * kind) for kind in (16, 18, 20)]
    return found


def tags() -> str:
    """Return libFuzzer's dictionary: the tags, as a pickle names them."""
    names = ["instance", "member", "raised", "trusted", *sorted(BUILDERS)]
    lines = [hostile.tag(name) for name in names]
    return "".join('"' + "".join(f"\\x{byte:02x}" for byte in line) + '"\n' for line in lines)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for data in seeds():
        (FOLDER / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    (FOLDER.parent / "tags.dict").write_text(tags())


if __name__ == "__main__":
    main()
