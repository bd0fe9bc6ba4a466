"""The kinds of objects that travel as data: described on every interpreter, rebuilt here."""

from __future__ import annotations

import builtins
import collections
import decimal
import functools
import marshal
import subprocess
import sys
import warnings
from array import array, typecodes
from pathlib import Path
from typing import Any

import pytest

from fabremote.agent import kinds, kinds_arrays
from fabremote.shipping.kinds import BUILDERS
from tests import interpreters
from tests.kind_cases import GROUPS, PRELUDE, Case
from tests.labels import label

AGENT = str(Path(kinds.__file__).parent)
# Those of the machine have none of the venv's libraries, which the arrays need.
EXECUTABLES = {v: path for v, path in interpreters.found().items() if v != "2.7"}
HERE = "{}.{}".format(*sys.version_info)

# Loads the agent's modules by their folder: there is no fabremote where they run.
LOAD = """
import sys
package = type(sys)("agent")
package.__path__ = [sys.argv[1]]
sys.modules["agent"] = package
import _pickle  # as answers does
from agent import wire
before = set(sys.modules)
from agent import kinds
after = set(sys.modules)
"""
DESCRIBE = (
    LOAD
    + """
import marshal

def encode(obj):
    kind = type(obj)
    if kind in (type(None), bool, int, float, str, bytes):
        return obj
    if kind is dict:
        return ("dict", [(encode(key), encode(obj[key])) for key in obj])
    if kind in (list, tuple, set, frozenset):
        return (kind.__name__, [encode(item) for item in obj])
    tag, args = kinds.describe(obj)
    assert type(tag) is str and type(args) is tuple, (tag, args)
    return ("tag", tag, [encode(arg) for arg in args])

def answer(source, detail):
    try:
        names["x"] = eval(source, names)
        return encode(names["x"]), repr(eval(detail, names))
    except Exception as error:
        return repr(error), ""

names = {}
prelude, cases = marshal.loads(sys.stdin.buffer.read())
exec(prelude, names)
sys.stdout.buffer.write(marshal.dumps([answer(*case) for case in cases], 2))
"""
)


def run(executable: str, script: str, given: bytes = b"") -> bytes:
    """What a script prints that an interpreter runs."""
    command = [executable, "-W", "ignore", "-c", script, AGENT]
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True).stdout


@functools.cache
def answers(executable: str, version: str, group: str) -> dict[Case, tuple[Any, str]]:
    """What an interpreter says of the cases of a group that it can make."""
    cases = [case for case in GROUPS[group] if case.since <= as_tuple(version)]
    given = marshal.dumps((PRELUDE, [(case.source, case.detail) for case in cases]), 2)
    return dict(zip(cases, marshal.loads(run(executable, DESCRIBE, given)), strict=True))


def as_tuple(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def rebuild(encoded: Any) -> Any:
    """Turn what ``encode`` of `DESCRIBE` made into a value, with the constructors under test."""
    if type(encoded) is not tuple:
        return encoded
    kind, *rest = encoded
    if kind == "tag":
        return BUILDERS[rest[0]](*map(rebuild, rest[1]))
    if kind == "dict":
        return {rebuild(key): rebuild(value) for key, value in rest[0]}
    return getattr(builtins, kind)(map(rebuild, rest[0]))


def check_round_trip(executable: str, version: str, group: str, case: Case) -> None:
    """Compare a value that an interpreter described with the original, there and here."""
    if case.since > min(as_tuple(version), sys.version_info[:2]):
        pytest.skip("newer than the interpreter")
    encoded, detail = answers(executable, version, group)[case]
    assert encoded[:2] == ("tag", case.tag), encoded
    names: dict[str, Any] = {}
    exec(PRELUDE, names)
    original = eval(case.source, names)
    rebuilt = names["x"] = rebuild(encoded)
    assert type(rebuilt).__name__ == case.type_name or type(rebuilt) is type(original)
    assert repr(eval(case.detail, names)) == detail
    if case.same:
        check_equal(rebuilt, original)


def check_equal(rebuilt: Any, original: Any) -> None:
    name = type(original).__name__
    if name == "ndarray":
        assert rebuilt.dtype == original.dtype
        assert rebuilt.shape == original.shape
        assert repr(rebuilt.tolist()) == repr(original.tolist())
    elif name in ("DataFrame", "Series"):
        same = {"DataFrame": "assert_frame_equal", "Series": "assert_series_equal"}[name]
        getattr(sys.modules["pandas"].testing, same)(rebuilt, original)
    elif name.endswith("Index"):
        assert rebuilt.equals(original)
        assert rebuilt.names == original.names
    else:
        assert rebuilt == original


def named(case: Case) -> str:
    return f"{case.tag}-{case.source[:40]}"


@pytest.mark.parametrize("case", GROUPS["standard"], ids=named)
@pytest.mark.parametrize("version", EXECUTABLES)
def test_standard_objects_come_back_as_they_were(version: str, case: Case) -> None:
    check_round_trip(EXECUTABLES[version], version, "standard", case)


@pytest.mark.parametrize("case", GROUPS["numpy"], ids=named)
def test_numpy_objects_come_back_as_they_were(case: Case) -> None:
    pytest.importorskip("numpy")
    check_round_trip(sys.executable, HERE, "numpy", case)


@pytest.mark.parametrize("case", GROUPS["pandas"], ids=named)
def test_pandas_objects_come_back_as_they_were(case: Case) -> None:
    pytest.importorskip("pandas")
    check_round_trip(sys.executable, HERE, "pandas", case)


@pytest.mark.parametrize("version", EXECUTABLES)
def test_the_agent_imports_nothing_for_kinds(version: str) -> None:
    found = run(EXECUTABLES[version], LOAD + "print(sorted(after - before))").decode()
    assert found.strip() == "['agent.kinds', 'agent.kinds_arrays']"


def described_tags() -> set[str]:
    tables = [kinds._KINDS, kinds_arrays._NUMPY, kinds_arrays._PANDAS]
    return {kind[0] for table in tables for kind in table.values()} | {"numpy_dtype"}


def test_both_halves_have_the_same_tags() -> None:
    assert described_tags() == set(BUILDERS)
    assert all(tag.isidentifier() for tag in BUILDERS)


def test_every_tag_has_a_case() -> None:
    tested = {case.tag for cases in GROUPS.values() for case in cases}
    assert set(BUILDERS) - tested == {"WindowsPath", *ARRAYS_OF_COLUMNS}


# Columns and indexes hold them; alone they are rare.
ARRAYS_OF_COLUMNS = {
    *("pandas_DatetimeArray", "pandas_TimedeltaArray", "pandas_Categorical"),
    *("pandas_StringArray", "pandas_IntegerArray", "pandas_FloatingArray", "pandas_BooleanArray"),
}


def states() -> list[tuple[str, tuple[Any, ...]]]:
    """Parts of sources of random numbers that would have NumPy read where it must not."""
    key = array("I", range(624))
    twister = {"bit_generator": "MT19937", "state": {"key": key, "pos": 3}}
    pcg = {"state": {"state": 1, "inc": 1}, "has_uint32": 0, "uinteger": 0}
    return [
        ("numpy_bit_generator", ("MT19937", None, twister)),
        ("numpy_bit_generator", ("PCG64", None, {**pcg, "has_uint32": 2})),
        ("numpy_bit_generator", ("PCG64", None, {**pcg, "state": {"state": -1, "inc": 1}})),
        ("numpy_bit_generator", ("PCG64", 3, pcg)),
        ("numpy_bit_generator", ("default_rng", None, pcg)),
        ("numpy_generator", ("PCG64",)),
        ("numpy_random_state", ("MT19937", key, 625, 0, 0.0)),
        ("numpy_random_state", ("PCG64", key, 3, 0, 0.0)),
        ("numpy_seed_sequence", (1 << (1 << 21), (), 4, 0)),
        ("numpy_seed_sequence", (1, (), 1 << 30, 0)),
        ("numpy_seed_sequence", ("1", (), 4, 0)),
    ]


@pytest.mark.parametrize("state", states(), ids=lambda state: state[0])
def test_a_state_of_random_numbers_is_checked(state: tuple[str, tuple[Any, ...]]) -> None:
    pytest.importorskip("numpy")
    with pytest.raises(ValueError, match=state[0]):
        BUILDERS[state[0]](*state[1])


@pytest.mark.parametrize("position", [-1, 625, 1 << 40])
def test_a_position_outside_of_the_table_is_refused(position: int) -> None:
    numpy = pytest.importorskip("numpy")
    key = numpy.arange(624, dtype="u4")
    state = {"state": {"key": key, "pos": position}}
    with pytest.raises(ValueError, match="its pos is out of range"):
        BUILDERS["numpy_bit_generator"]("MT19937", None, state)
    with pytest.raises(ValueError, match="its pos is out of range"):
        BUILDERS["numpy_random_state"]("MT19937", key, position, 0, 0.0)
    assert BUILDERS["numpy_random_state"]("MT19937", key, 624, 0, 0.0) is not None


class Deque(collections.deque[int]):
    pass


class Number(decimal.Decimal):
    pass


@pytest.mark.parametrize(
    "value",
    [
        Deque(),
        Number(1),
        collections.defaultdict(lambda: 0),
        collections.defaultdict(Deque),
        collections.UserDict(),
        object(),
        len,
        Deque,
        ValueError(),
        iter([]),
        sys.flags,
    ],
    ids=label,
)
def test_other_objects_are_not_described(value: object) -> None:
    assert kinds.describe(value) is None


@pytest.mark.parametrize(
    "source",
    [
        "np.array([None])",
        "np.zeros(1, [('a', 'O')])",
        "np.dtype([('a', 'O')])",
        "np.longdouble(1)",
        "np.zeros(1, 'g')",
        "np.zeros(1, 'V3')",
        "np.zeros(1, [])",
        "np.ma.masked_array([1])",
        "np.rec.array([(1,)])",
        "np.matrix([[1]])",
    ],
)
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_other_objects_of_numpy_are_not_described(source: str) -> None:
    assert kinds.describe(eval(source, {"np": pytest.importorskip("numpy")})) is None


@pytest.mark.parametrize("source", ["pd.Interval(0, 1)", "pd.Period('2024')", "pd.arrays"])
def test_other_objects_of_pandas_are_not_described(source: str) -> None:
    assert kinds.describe(eval(source, {"pd": pytest.importorskip("pandas")})) is None


@pytest.mark.parametrize("order", [(), (1, 2, 3), (-5, 2**40)])
@pytest.mark.parametrize("there", ["little", "big"])
def test_arrays_of_other_machines_are_converted(order: tuple[int, ...], there: str) -> None:
    data = b"".join(number.to_bytes(8, there, signed=True) for number in order)  # type: ignore[arg-type]
    assert BUILDERS["array"]("q", 8, there, data) == array("q", order)
    assert BUILDERS["array"]("l", 8, there, data) == array("l", order)


def test_ints_of_other_sizes_are_converted() -> None:
    assert BUILDERS["array"]("l", 4, sys.byteorder, array("i", [1, -2]).tobytes()) == array(
        "l", [1, -2]
    )
    with pytest.raises(ValueError, match=r"array: .*"):
        BUILDERS["array"]("i", 8, sys.byteorder, array("q", [1 << 40]).tobytes())


@pytest.mark.parametrize("code", ["u", "w"])
def test_arrays_of_characters_go_as_text(code: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if code not in typecodes:
            pytest.skip("no such type code here")
        characters = array(code, "aé€")
        described = kinds.describe(characters)
        assert described is not None
        assert described[1][3] == "aé€"
        assert BUILDERS["array"](*described[1]) == characters


def test_unknown_fields_of_structures_are_left_out() -> None:
    fields = tuple(range(10))
    stat = BUILDERS["stat_result"](fields, {"st_birthtime_of_the_future": 5, "st_mtime_ns": 7})
    assert (stat[0], stat.st_mtime_ns) == (0, 7)  # type: ignore[index, attr-defined]


def test_windows_paths_come_back_pure() -> None:
    assert repr(BUILDERS["WindowsPath"]("c:\\x\\y")) == "PureWindowsPath('c:/x/y')"


def test_arrays_over_bytearrays_are_not_copied() -> None:
    pytest.importorskip("numpy")
    data = bytearray(16)
    made: Any = BUILDERS["numpy_array"]("<i8", (2,), "C", data)
    made[0] = 1
    assert data[0] == 1


def test_an_unknown_frequency_is_dropped() -> None:
    pandas = pytest.importorskip("pandas")
    values = pandas.DatetimeIndex(["2024-01-01", "2024-01-02"]).array
    for frequency in ("W", "cbh", "NOSUCH", "99999999999999999D"):
        made: Any = BUILDERS["pandas_DatetimeIndex"](values, None, frequency)
        assert made.freq is None


def test_a_frequency_may_have_its_old_name() -> None:
    pandas = pytest.importorskip("pandas")
    index = pandas.date_range("2024", periods=3, freq="2h")
    assert BUILDERS["pandas_DatetimeIndex"](index.array, None, "2H").freq == index.freq  # type: ignore[attr-defined]


def test_a_missing_library_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ValueError, match="numpy_str: numpy is needed"):
        BUILDERS["numpy_str"]("a")
