"""Any data goes there and comes back as it was, under the oldest Python here, ours, the newest."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import math
import pathlib
import pickle
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invoke.context import Context

from fabremote import wrap
from fabremote.shipping import atoms, nodes
from tests import interpreters

PYTHONS = {version: path for version, path in interpreters.found().items() if version != "2.7"}
FOUND = [*PYTHONS]
VERSIONS = list(dict.fromkeys([FOUND[0], "{}.{}".format(*sys.version_info), FOUND[-1]]))


class Colour(enum.Enum):
    RED = 1
    GREEN = "green"


class Mode(enum.IntFlag):
    READ = 4
    WRITE = 2


class Point(collections.namedtuple("Point", "x y")):
    __slots__ = ()


class Bag:
    def __init__(self, content: Any) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return type(other) is Bag and same(self.content, other.content)

    __hash__ = None  # type: ignore[assignment]


ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    st.complex_numbers(allow_nan=False),
    st.text(),
    st.text(st.characters(codec=None)),
    st.binary(),
    st.binary().map(bytearray),
    st.builds(range, st.integers(-100, 100), st.integers(-100, 100), st.integers(1, 9)),
    st.builds(slice, st.none() | st.integers(), st.integers(), st.none() | st.integers()),
    st.dates(),
    st.times(),
    st.datetimes(),
    st.datetimes(timezones=st.just(datetime.timezone.utc)),
    st.timedeltas(),
    st.decimals(),
    st.fractions(),
    st.uuids(),
    st.ip_addresses(),
    st.sampled_from([*Colour, *Mode, Mode.READ | Mode.WRITE]),
    st.from_regex(r"/?[a-z./ ]{0,20}", fullmatch=True).map(pathlib.PurePosixPath),
)
HASHABLE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(), st.binary(), st.uuids(), st.dates()
)
DATA = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.lists(inner).map(collections.deque),
        st.dictionaries(HASHABLE, inner),
        st.dictionaries(HASHABLE, inner).map(collections.OrderedDict),
        st.sets(HASHABLE),
        st.frozensets(HASHABLE),
        st.builds(Point, inner, inner),
        st.builds(Bag, inner),
    ),
    max_leaves=25,
)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, with everything in them of the same types."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple, collections.deque)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, (set, frozenset)):
        return bool(one == other) and {type(x) for x in one} == {type(x) for x in other}
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, decimal.Decimal):
        return str(one) == str(other)
    return bool(one == other)


@pytest.fixture(scope="module", params=VERSIONS)
def remote(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Calls a function under one version of Python."""
    with wrap(Context()) as context:
        call = context.python(python=PYTHONS[request.param]).call
        call(abs, -1)
        yield call


anything_slow = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def unchanged(value: Any) -> Any:
    return value


@anything_slow
@given(value=DATA)
def test_data_goes_and_comes_back_as_it_was(remote: Callable[..., Any], value: Any) -> None:
    assert same(remote(unchanged, value), value)


def made_there(kind: type, *args: Any) -> Any:
    return kind(*args)


@anything_slow
@given(number=st.integers(), text=st.text(), numbers=st.lists(st.floats(allow_nan=False)))
def test_what_is_computed_there_is_what_would_be_here(
    remote: Callable[..., Any], number: int, text: str, numbers: list[float]
) -> None:
    for kind, args in ((fractions.Fraction, (number, 7)), (Point, (number, text)), (Bag, (text,))):
        assert same(remote(made_there, kind, *args), made_there(kind, *args))
    assert remote(sorted, numbers) == sorted(numbers)
    assert remote(lambda: (number + 1, text[::-1])) == (number + 1, text[::-1])


@anything_slow
@given(value=DATA)
def test_an_exception_brings_its_arguments_back(remote: Callable[..., Any], value: Any) -> None:
    def fail() -> None:
        raise LookupError(value)

    with pytest.raises(LookupError) as caught:
        remote(fail)
    assert same(caught.value.args, (value,))


@dataclasses.dataclass
class Record:
    name: str
    parts: list[Any]
    where: ipaddress.IPv4Address
    key: uuid.UUID


@anything_slow
@given(record=st.builds(Record, st.text(), st.lists(ATOMS), st.ip_addresses(v=4), st.uuids()))
def test_dataclasses_go_and_come_back(remote: Callable[..., Any], record: Record) -> None:
    if remote(eval, "__import__('sys').version_info < (3, 7)"):
        pytest.skip("no dataclasses in Python 3.6")
    found = remote(unchanged, record)
    assert type(found) is Record
    assert same(dataclasses.astuple(found), dataclasses.astuple(record))


@given(value=ATOMS, protocol=st.sampled_from([4, 5]))
def test_a_lone_value_is_read_without_an_unpickler(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    found = atoms.read(memoryview(data))
    plain = type(value) in (int, bool, float, str, bytes, type(None))
    large = isinstance(value, int) and not -(2**31) <= value < 2**31
    assert found is not None or not plain or large or len(data) > 250
    assert found is None or same(found[0], value)


@given(value=ATOMS, place=st.integers(0, 40), byte=st.integers(0, 255), cut=st.integers(0, 3))
def test_what_is_no_such_value_is_left_to_the_unpickler(
    value: Any, place: int, byte: int, cut: int
) -> None:
    data = bytearray(pickle.dumps(value, 4))
    data[place % len(data)] = byte
    found = atoms.read(memoryview(data)[: len(data) - cut])
    if found is not None:
        assert same(found[0], nodes.read(memoryview(data)[: len(data) - cut], lambda _: False)[0])


def test_the_comparison_tells_types_apart() -> None:
    assert not same([1], [True])
    assert not same({1: 0.0}, {1: -0.0})
    assert same(math.nan, math.nan)
