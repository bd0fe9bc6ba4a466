"""What a small answer may cost to rebuild or to show, whatever it refers to again and again."""

from __future__ import annotations

import linecache
import pickle
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fabremote import ResultError
from fabremote.shipping import raised, timed
from fabremote.shipping.nodes import shown
from tests import test_hostile as hostile
from tests.test_hostile import NUMBER, Frozen, Guarded, decoder, described, tag, value


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    started = time.process_time()
    yield
    assert time.process_time() - started < 20


def refused(data: bytes) -> str:
    with pytest.raises(ResultError) as caught:
        decoder().value(memoryview(b"\x80\x04" + data + b"."))
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def frozen(state: bytes) -> bytes:
    return tag("instance") + b"(" + value(NUMBER[Frozen]) + b"NNtR\x94" + state + b"N\x86b"


def doubled_instances(times: int) -> bytes:
    """Instances that hold the one before twice; the last is a key, and is hashed by its fields."""
    parts = [frozen(b"}")]
    for n in range(1, times):
        parts.append(frozen(b"}" + value("x") + b"h%ch%c\x86s" % (n, n)))
    return b"]\x94(" + b"".join(parts) + b"}h%cNse" % times


def test_keys_of_instances_that_hold_each_other_are_counted() -> None:
    assert "far more than it holds" in refused(doubled_instances(40))


def test_a_heavy_key_is_counted_whenever_it_is_hashed_again() -> None:
    pairs = b"".join(b"h%ch%c\x86\x94" % (n, n) for n in range(1, 21))
    start = b"]\x94()\x85\x94" + pairs + b"}\x94h\x15Ns"
    again = tag("OrderedDict") + b"h\x16\x85R"
    assert "far more than it holds" in refused(start + again * 2000 + b"e")


@pytest.mark.parametrize("kind", ["slice", "tuple"])
def test_a_key_of_objects_in_objects_is_refused(kind: str) -> None:
    end = b"NN\x87R" if kind == "slice" else b"\x85\x85R"
    assert refused(b"}" + tag(kind) * 5000 + b"N" + end * 5000 + b"Ns")


@pytest.mark.parametrize("around", [b"\x85", b"K\x05\x86"])
def test_a_long_path_is_cut(around: bytes) -> None:
    instance = hostile.instance(Guarded, None, None, {})
    assert "[0][0][0]" in refused(instance + around * 100_000)


def test_a_path_quotes_keys_briefly() -> None:
    instance = hostile.instance(Guarded, None, None, {})
    key = value("\x1b" * 90)
    assert "\x1b" not in refused((b"}" + key) * 1000 + instance + b"s" * 1000)


@pytest.mark.parametrize("name", ["deque", "defaultdict", "slice"])
def test_a_chain_that_python_could_not_drop_is_refused(name: str) -> None:
    inside = {"deque": (b"](", b"eNtR"), "defaultdict": (b"N}N", b"stR"), "slice": (b"", b"NNtR")}
    before, after = inside[name]
    data = tag(name) + b"\x940" + (b"h\x00(" + before) * 20_000 + b"N" + after * 20_000
    assert "nests objects too deeply" in refused(data)


# Keys that collide

MODULUS = sys.hash_info.modulus


def alike(number: int) -> int | None:
    """What makes (number, it) hash like all others of its kind, if anything does."""
    mask, state = (1 << 64) - 1, 2870177450012600261
    state = (state + number * 14029467366897019727) & mask
    state = (((state << 31) | (state >> 33)) * 11400714785074694791) & mask
    found = ((0x1234567 - state) * pow(14029467366897019727, -1, 1 << 64)) & mask
    found -= (found >> 63) << 64
    return found if abs(found) < MODULUS and found != -1 else None


PAIRS = [(n, other) for n in range(120_000) if (other := alike(n)) is not None][:20_000]


def keys(batch: int, objects: list[Any]) -> bytes:
    """A dict of these, put in so many at a time."""
    parts = [value(each) + b"N" for each in objects]
    batches = [parts[at : at + batch] for at in range(0, len(parts), batch)]
    return b"}" + b"".join(b"(" + b"".join(each) + b"u" for each in batches)


@pytest.mark.skipif(MODULUS != (1 << 61) - 1, reason="a hash of 64 bits")
def test_keys_that_collide_are_refused() -> None:
    assert len({hash(pair) for pair in PAIRS}) == 1
    multiples = [number * MODULUS for number in range(1, 50_000)]
    assert "far more than it holds" in refused(keys(1000, multiples))
    assert "more keys at once" in refused(keys(20_000, PAIRS))
    frozen = b"(" + b"".join(map(value, PAIRS)) + b"\x91"
    assert "takes far longer" in refused(frozen)
    uuids = [
        hostile.call("UUID", value((n * MODULUS).to_bytes(16, "big")), value("safe")) + b"N"
        for n in range(8000)
    ]
    batches = [b"(" + b"".join(uuids[at : at + 1000]) + b"u" for at in range(0, 8000, 1000)]
    assert "far more than it holds" in refused(b"}" + b"".join(batches))


@pytest.mark.skipif(MODULUS != (1 << 61) - 1, reason="a hash of 64 bits")
def test_reading_an_answer_is_given_up_when_it_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timed, "PATIENCE", 0.0)
    monkeypatch.setattr(timed, "SLOWER", 1)
    assert "far longer to read" in refused(keys(1000, PAIRS))


def test_an_instance_whose_hash_fails_is_no_key() -> None:
    assert "can't be rebuilt" in refused(b"}" + frozen(b"}" + value("x") + b"]s") + b"Ns")


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        ("a", "'a'"),
        ("\x1b", "'\\x1b'"),
        (5, "5"),
        (None, "None"),
        (1 << 300, "int"),
        (("a", 1), "('a', 1)"),
        ((("a",),), "tuple"),
        ((1, 2, 3, 4), "tuple"),
        ([1], "list"),
        (b"a", "bytes"),
    ],
)
def test_messages_show_only_what_is_small(obj: Any, text: str) -> None:
    assert shown(obj) == text


def test_a_shown_text_is_short() -> None:
    assert len(shown("a" * 10**6)) < 110


# Descriptions of exceptions


def test_texts_are_counted_as_often_as_they_are_shown() -> None:
    record = hostile.changed(2, "x" * 1_000_000)
    with pytest.raises(ResultError):
        raised.records(described(*[record] * 200))


def test_groups_in_a_circle_are_shown_once_each() -> None:
    records = [(*hostile.GOOD[:9], [(n + 1) % 100, 0], None) for n in range(100)]
    text = raised.render(raised.records(described(*records)), 0, "host")
    # As deep as Python itself shows groups.
    assert text.count("Traceback on host") == 11


def chain(link: int, text: str) -> list[Any]:
    """Descriptions of 200 exceptions, each of which refers to the next."""
    records: list[Any] = []
    for number in range(200):
        record = list(hostile.changed(2, text))
        record[link] = [number + 1] if link == 9 else number + 1
        records.append(tuple(record))
    return [*records[:-1], hostile.changed(2, text)]


@pytest.mark.parametrize("link", [6, 7, 9])
def test_a_long_chain_is_shown_briefly(link: int) -> None:
    found = raised.records(described(*chain(link, "a\n" * 20_000)))
    made: BaseException | None = raised.rebuild(found, decoder(), "host")
    size = 0
    while made is not None:
        size += len(str(made)) + len(getattr(made, "traceback", ""))
        made = made.__cause__ or made.__context__
    assert size < 200 * 200_000


@pytest.mark.parametrize("index", [3, 4, 5, 9])
@pytest.mark.parametrize("part", ["text", ("a",), {"a": 1}, {"a"}, 5, b"a"])
def test_lists_in_a_description_are_lists(index: int, part: Any) -> None:
    with pytest.raises(ResultError):
        raised.records(described(hostile.changed(index, part)))


def test_a_frames_line_is_shown_if_its_file_was_shipped() -> None:
    line = linecache.getline(__file__, 1).strip()
    found = raised.records(described(hostile.changed(5, [(__file__, 1, "f", None, True)])))
    assert line in raised.render(found, 0, "host", frozenset([__file__]))
    assert line not in raised.render(found, 0, "host")


class Stubborn(Exception):
    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


def test_a_frozen_exception_still_gets_its_cause_and_notes() -> None:
    data = pickle.dumps(("parts", 0, ("a",), {}), 4)
    record = (*hostile.GOOD[:4], ["a note"], *hostile.GOOD[5:10], data)
    mine = raised.Decoder("f() on host", [Stubborn], frozenset(), ())
    made = raised.rebuild(raised.records(described(record)), mine, "host")
    assert type(made) is Stubborn
    assert made.__notes__ == ["a note"]
    assert made.__cause__ is not None
