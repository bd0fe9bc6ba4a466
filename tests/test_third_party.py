"""Objects of NumPy and pandas reach hosts that have other versions of these."""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from fabremote import ShippingError, wrap
from tests.packages import make_environment

np: Any = pytest.importorskip("numpy")
pd: Any = pytest.importorskip("pandas")

OLDER = ("numpy==1.26.4", "pandas==2.1.4")


@pytest.fixture(scope="session")
def older_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with older libraries than those that run the tests."""
    if np.__version__.startswith("1."):
        pytest.skip("the NumPy that runs the tests is an older one itself")
    folder = tmp_path_factory.mktemp("older")
    try:
        return Path(make_environment(folder, sys.executable, *OLDER))
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def older(older_python: Path) -> Iterator[Any]:
    """A host with older libraries."""
    with wrap(Context()) as made:
        python = made.python(python=str(older_python))
        python.call(abs, -1)
        yield python


@pytest.fixture(scope="module")
def same() -> Iterator[Any]:
    """A host with the libraries of the tests."""
    with wrap(Context()) as made:
        python = made.python(python=sys.executable)
        python.call(abs, -1)
        yield python


@pytest.fixture(scope="module")
def hosts(older: Any, same: Any) -> dict[str, Any]:
    """Both, by name."""
    return {"older": older, "same": same}


def described(array: Any) -> Any:
    return array.dtype.str, array.shape, array.tolist(), array.flags.writeable


FIELDS = [("a", "<i4"), ("b", "<f8")]
ARRAYS = {
    "floats": lambda: np.arange(6.0),
    "fortran": lambda: np.asfortranarray(np.arange(6).reshape(2, 3)),
    "transposed": lambda: np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
    "stepped": lambda: np.arange(10)[::2],
    "text": lambda: np.array(["ab", "c"]),
    "structured": lambda: np.array([(1, 2.5)], dtype=FIELDS),
    "dates": lambda: np.array(["2020-01-01"], "M8[D]"),
    "complex": lambda: np.array([1 + 2j]),
    "no dimension": lambda: np.array(3),
    "empty": lambda: np.empty((0, 3)),
    "big-endian": lambda: np.arange(3, dtype=">i4"),
    "objects": lambda: np.array([1, "a", None], object),
    "records": lambda: np.rec.array([(1, 2.5)], dtype=FIELDS),
    "masked": lambda: np.ma.array([1, 2], mask=[0, 1]),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("host", ["older", "same"])
def test_arrays_reach_another_numpy(host: str, name: str, hosts: dict[str, Any]) -> None:
    array = ARRAYS[name]()
    assert hosts[host].call(described, array)[:3] == described(array)[:3]


def test_scalars_reach_another_numpy(older: Any) -> None:
    assert older.call(lambda one, two: (float(one), bool(two)), np.float64(3), np.bool_(1)) == (
        3.0,
        True,
    )


def days(**more: Any) -> Any:
    return pd.date_range("2020-01-01", periods=3, **more)


FRAMES = {
    "frame": lambda: pd.DataFrame({"a": [1, 2], "b": [1.0, 2.0]}),
    "text": lambda: pd.DataFrame({"a": ["x", "y"]}, index=["i", "j"]),
    "dates": lambda: pd.Series(days(), index=days(freq="D", name="day")),
    "zone": lambda: pd.Series(days(tz="UTC")),
    "spans": lambda: pd.Series([1, 2], index=pd.to_timedelta([1, 2], unit="h")),
    "levels": lambda: pd.Series([1], index=pd.MultiIndex.from_tuples([(1, 2)])),
    "numbers": lambda: pd.Series([1, 2], dtype="Int64"),
    "categories": lambda: pd.Series(["a", "b"]).astype("category"),
    "periods": lambda: pd.Series([1, 2], index=pd.period_range("2020-01", periods=2, freq="M")),
}


def told(frame: Any) -> Any:
    return frame.astype(str).values.tolist(), [str(one) for one in frame.index], frame.index.name


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("host", ["older", "same"])
def test_frames_reach_another_pandas(host: str, name: str, hosts: dict[str, Any]) -> None:
    frame = FRAMES[name]()
    assert hosts[host].call(told, frame) == told(frame)


def test_a_missing_text_and_time_stay_missing(older: Any) -> None:
    def missing(texts: Any, time: Any) -> Any:
        import pandas

        return texts.isna().tolist(), time is pandas.NaT

    assert older.call(missing, pd.Series(["x", None]), pd.NaT) == ([False, True], True)


def test_an_index_keeps_its_frequency(older: Any, same: Any) -> None:
    for host in (older, same):
        assert host.call(lambda index: (index.freqstr, index.name), days(name="day")) == (
            "D",
            "day",
        )


def test_text_of_the_same_pandas_keeps_its_dtype(same: Any) -> None:
    for series in (pd.Series(["x", None]), pd.Series(["x", None], dtype="string")):
        assert same.call(lambda one: repr(one.array), series) == repr(series.array)


@pytest.mark.parametrize("host", ["older", "same"])
def test_times_keep_their_values_whatever_they_are_counted_in(
    host: str, hosts: dict[str, Any]
) -> None:
    frame = pd.DataFrame({"t": days(tz="Europe/Berlin", unit="s"), "p": days(unit="us")})
    given = [frame, frame.t[1], frame.p[2], pd.Timedelta(5, "s"), pd.to_timedelta([1, None], "s")]
    told = [str(each) for each in given[1:]]
    assert hosts[host].call(lambda all: [str(each) for each in all[1:]], given)[:3] == told[:3]
    back = hosts[host].call(lambda all: all, given)
    assert back[1:4] == given[1:4]
    assert back[0].astype(str).values.tolist() == frame.astype(str).values.tolist()
    assert back[4].astype("m8[ns]").asi8.tolist() == given[4].astype("m8[ns]").asi8.tolist()


def drawn(source: Any) -> Any:
    """Numbers that a source of random ones gives next."""
    for name in ("random_raw", "random", "rand", "generate_state"):
        if hasattr(source, name):
            return getattr(source, name)(3).tolist()


def random_sources() -> dict[str, Any]:
    """One of each kind, used before."""
    found = {name: getattr(np.random, name)(3) for name in ("MT19937", "PCG64", "Philox", "SFC64")}
    found["PCG64DXSM"] = np.random.PCG64DXSM(np.random.SeedSequence(5).spawn(2)[1])
    found["Generator"] = np.random.default_rng(4)
    found["over MT19937"] = np.random.Generator(np.random.MT19937(4))
    found["RandomState"] = np.random.RandomState(5)
    found["SeedSequence"] = np.random.SeedSequence(6, spawn_key=(1, 2))
    for each in found.values():
        drawn(each)
    found["RandomState"].standard_normal()
    return found


@pytest.mark.parametrize("host", ["older", "same"])
def test_sources_of_random_numbers_go_on_there(host: str, hosts: dict[str, Any]) -> None:
    given = random_sources()

    def draw(all: dict[str, Any]) -> Any:
        return {name: drawn(each) for name, each in all.items()}

    assert hosts[host].call(draw, given) == draw(given)


def test_exceptions_go_without_tblib_which_is_here(
    same: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickling_support = pytest.importorskip("tblib.pickling_support")
    monkeypatch.setitem(copyreg.dispatch_table, KeyError, pickling_support.pickle_exception)

    def there(error: KeyError) -> tuple[str, bool]:
        return repr(error), "tblib" in sys.modules

    assert same.call(there, KeyError("a")) == ("KeyError('a')", False)


def test_an_error_names_both_versions(older: Any) -> None:
    if not hasattr(np.dtypes, "StringDType"):
        pytest.skip("no such dtype here")
    array = np.array(["a"], np.dtypes.StringDType())
    with pytest.raises(ShippingError) as caught:
        older.call(len, array)
    assert f"It is numpy 1.26.4 there, {np.__version__} here" in str(caught.value)
