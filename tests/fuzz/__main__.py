"""Fuzzes what reads a host's bytes, guided by coverage: ``python -m tests.fuzz [SECONDS]``.

Needs the dependency group "fuzz". What it finds of new coverage is kept in
``build/fuzz``; what fails is written there, too, as ``crash-*``: mend it, and
put the smallest such file into ``tests/fuzz/corpus``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["fabremote.shipping", "fabremote.agent"]):
    from tests.fuzz import target


def main() -> None:
    seconds = sys.argv[1] if len(sys.argv) > 1 else "120"
    found = Path("build/fuzz")
    found.mkdir(parents=True, exist_ok=True)
    corpus = Path(__file__).parent / "corpus"
    options = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=4096"]
    options += [f"-artifact_prefix={found}/", f"-dict={Path(__file__).parent / 'tags.dict'}"]
    atheris.Setup([sys.argv[0], *options, str(found), str(corpus)], target.run)
    atheris.Fuzz()


main()
