"""What fuzzing has begun with and found is read as it must be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import target

CORPUS = sorted((Path(__file__).parent / "fuzz" / "corpus").iterdir())


@pytest.mark.timeout(60)
def test_the_corpus_of_fuzzing_is_read_without_a_hole() -> None:
    assert len(CORPUS) > 100
    for path in CORPUS:
        target.run(path.read_bytes())


@pytest.mark.parametrize("data", [b"V\x80\x04N.", b"F\x05abc"])
def test_a_hole_would_be_told(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("a hole")

    monkeypatch.setattr(target, "read_answer", fail)
    monkeypatch.setattr(target.wire.Decoder, "feed", fail)
    with pytest.raises((target.Escaped, RuntimeError)):
        target.run(data)
