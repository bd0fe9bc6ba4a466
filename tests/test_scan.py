"""What an agent's pickler writes passes the scan; what would harm the unpickler doesn't."""

from __future__ import annotations

import contextlib
import pickle
import random
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from fabremote.shipping import nodes, scan
from fabremote.shipping.collisions import Longs
from fabremote.shipping.scan import Malformed
from tests import interpreters

SHARED = ("shared", 1)


def in_itself() -> list[Any]:
    """A list in tuples of each size, in itself."""
    found: list[Any] = []
    for size in range(6):
        found.append((found, *range(size)))
    return found


HONEST: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "numbers": lambda: [0, -1, 255, 256, 65536, -(1 << 31), 1 << 40, 1 << 300, 1 << 3000, 0.5, 1j],
    "texts": lambda: ["a" * n for n in (0, 1, 63, 64, 65, 255, 256, 65535, 65536, 70000)],
    "bytes": lambda: [b"\x94." * n for n in (0, 1, 31, 32, 100, 128, 40000, 90000)],
    "text that ends in MEMOIZE": lambda: [b"\x94" * n for n in (63, 64, 300, 70000)],
    "dicts of each size": lambda: [{i: i for i in range(n)} for n in (0, 1, 2, 999, 1000, 2000)],
    "lists of each size": lambda: [list(range(n)) for n in (0, 1, 2, 999, 1000, 2000)],
    "sets of each size": lambda: [set(range(n)) for n in (0, 1, 2, 999, 1000, 2000)],
    "frozensets of each size": lambda: [frozenset(range(n)) for n in (0, 1, 2, 1000, 2000)],
    "tuples of each size": lambda: [{}, *(tuple(range(n)) for n in range(70))],
    "records": lambda: [{"n": n, "t": (n, str(n)), "s": SHARED} for n in range(20000)],
    "tuples as keys": lambda: {(n, (str(n), SHARED)): {(n,)} for n in range(20000)},
    "shared texts in tuples": lambda: [{"a": (n, "b")} for n in range(20000)],
    "long texts in tuples": lambda: {("a" * n, n): ("b" * 70000, n) for n in range(20)},
    "deep tuples": lambda: [{1: 2}, nested(300)],
    "deep keys": lambda: {nested(300): 1},
    "in itself": in_itself,
}


def nested(times: int) -> tuple[Any, ...]:
    found: tuple[Any, ...] = ()
    for _ in range(times):
        found = (found, 1)
    return found


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("name", HONEST)
def test_what_an_agent_writes_passes(name: str, protocol: int) -> None:
    obj = HONEST[name]()
    if name == "numbers":
        obj.remove(1j)  # travels as a tag
    data = pickle.dumps(obj, protocol)
    # However it is sorted, the whole of it can be followed.
    scan._walk(scan.check(memoryview(data)), Longs())


@pytest.mark.parametrize("protocol", [4, 5])
def test_large_frozensets_are_made_in_steps(protocol: int) -> None:
    pairs = frozenset((n, str(n)) for n in range(10500))
    inner = frozenset(frozenset([n, (n,)]) for n in range(10500))
    data = [pairs, {pairs: b"\x91" * 300}, (1, inner), {inner}, pairs, frozenset(range(10500))]
    found, tagged = nodes.read(memoryview(pickle.dumps(data, protocol)), lambda name: False)
    assert found == data
    assert [type(part) for part in found] == [frozenset, dict, tuple, set, frozenset, frozenset]
    assert found[4] is found[0] is next(iter(found[1]))
    assert not tagged


def test_a_large_frozenset_of_whatever_is_made_in_steps() -> None:
    # Ints can be in each other's way though their hashes differ.
    for obj, made in ((frozenset(range(10_500)), b"tQ"), (frozenset(range(9000)), b"\x91")):
        data = memoryview(pickle.dumps(obj, 4))
        assert bytes(scan.check(data)[:-1].tobytes().rstrip(b"\x94")).endswith(made)


WRITE = """
import pickle, sys
objects = [
    [{"n": n, "t": (n, str(n)), (n, (n, "s")): "s"} for n in range(9000)],
    {n: ("x" * 70000, b"y" * 70000, (1 << n)) for n in range(20)},
    [set(range(1000)), frozenset("ab"), [frozenset()] * 3, {str(n): None for n in range(2000)}],
]
objects.append((objects, objects))
objects[0].append((objects,))
sys.stdout.buffer.write(pickle.dumps(objects, int(sys.argv[1])))
"""


@pytest.mark.parametrize("version", [each for each in interpreters.found() if each != "2.7"])
def test_what_other_pythons_write_passes(version: str) -> None:
    protocol = "4" if version in ("3.6", "3.7") else "5"
    command = [interpreters.found()[version], "-c", WRITE, protocol]
    data = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    checked = scan.check(memoryview(data))
    scan._walk(checked, Longs())
    assert pickle.loads(checked)[1].keys() == set(range(20))


# What may be in a random pickle, with what none of the common cases allows.
PIECES = [b"N", b"K\x05", b")", b"\x8c\x01a\x94", b"\x8c\x40" + b"b" * 64, b"\x8a\x01\x05"]
PIECES += [b"]\x94", b"}\x94", b"\x8f\x94", b"(", b"(", b"h\x00", b"h\x01", b"h\x02", b"a", b"e"]
PIECES += [b"s", b"u", b"\x90", b"\x91\x94", b"\x85\x94", b"\x86\x94", b"\x87\x94", b"t\x94"]
PIECES += [b"\x86", b"u", b"b", b"R", b"0", b"1", b"\x86N\x86\x94"]


def test_what_is_taken_for_flat_has_no_costly_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[scan.Cost] = []
    monkeypatch.setattr(scan.Budget, "hash", lambda budget, cost: hashed.append(cost))
    dice = random.Random(7)
    taken = 0
    for _ in range(60_000):
        data = memoryview(b"".join(dice.choices(PIECES, k=dice.randint(1, 14))) + b".")
        hashed.clear()
        flat = scan._consists(data, "tuples are flat") or scan._consists(data, "no tuples")
        with contextlib.suppress(Malformed):
            scan._walk(data, Longs())
        if flat:
            taken += bool(hashed)
            assert all(weight <= 33 and depth <= 1 for weight, depth in hashed), bytes(data)
        if scan._consists(data, "nothing is hashed"):
            assert not hashed
    assert taken > 100


REFUSED = {
    "empty": b"",
    "not a pickle": b"abc.",
    "no STOP": b"\x80\x04N",
    "more after STOP": b"\x80\x04N.N.",
    "protocol 3": b"\x80\x03N.",
    "protocol 6": b"\x80\x06N.",
    "PROTO twice": b"\x80\x04\x80\x04N.",
    "PUT": b"\x80\x04Np0\n.",
    "BINPUT": b"\x80\x04Nq\x00.",
    "LONG_BINPUT": b"\x80\x04Nr\xff\xff\xff\xff.",
    "GET": b"\x80\x04N\x94g0\n.",
    "GLOBAL": b"\x80\x04c_fabremote\nDecimal\n.",
    "INST": b"\x80\x04(i_fabremote\nDecimal\n.",
    "OBJ": b"\x80\x04(No.",
    "NEWOBJ": b"\x80\x04N)\x81.",
    "NEWOBJ_EX": b"\x80\x04N)}\x92.",
    "EXT1": b"\x80\x04\x82\x01.",
    "EXT2": b"\x80\x04\x83\x01\x01.",
    "EXT4": b"\x80\x04\x84\x01\x01\x01\x01.",
    "PERSID": b"\x80\x04Pa\n.",
    "BINPERSID": b"\x80\x04NQ.",
    "DUP": b"\x80\x04N2\x86.",
    "READONLY_BUFFER": b"\x80\x05N\x98.",
    "LIST": b"\x80\x04(Nl.",
    "DICT": b"\x80\x04(NNd.",
    "INT": b"\x80\x04I1\n.",
    "STRING": b"\x80\x04S'a'\n.",
    "a number in the memo": b"\x80\x04\x8b\x01\x00\x00\x00\x05\x94.",
    "a length beyond the data": b"\x80\x04X\x05\x00\x00\x00abc.",
    "a length up to STOP": b"\x80\x04X\x04\x00\x00\x00abc.",
    "a short length beyond the data": b"\x80\x04\x8c\x05abc.",
    "an argument beyond the data": b"\x80\x04J\x05.",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_agent_writes_is_refused(name: str) -> None:
    with pytest.raises(Malformed):
        scan.check(memoryview(REFUSED[name]))


def many(times: int, key: bytes) -> bytes:
    return b"\x80\x04]\x94(" + (b"}" + key + b"Ns") * times + b"e."


DOUBLED = b")\x85\x94" + b"".join(b"h%ch%c\x86\x94" % (n, n) for n in range(22))
COSTLY = {
    "a doubled key": b"\x80\x04}" + DOUBLED + b"h\x16h\x16\x86\x94h\x17h\x17\x86Ns.",
    "a heavy key again and again": many(200, b"h\x14").replace(b"]\x94(", DOUBLED + b"]("),
    "a deep key": b"\x80\x04})" + b"\x85" * 1001 + b"Ns.",
    "a deep key in a set": b"\x80\x04\x8f()" + b"\x85" * 1001 + b"\x90.",
    "a deep key in a frozenset": b"\x80\x04()" + b"\x85" * 1001 + b"\x91.",
    "a deep key in a dict": b"\x80\x04}()" + b"\x85" * 1001 + b"Nu.",
    "a large number again and again": b"\x80\x04\x8b\x00\x00\x04\x00"
    + bytes(1 << 18)
    + b"\x85\x94]("
    + b"}h\x00Ns" * 5000
    + b"e.",
}


@pytest.mark.parametrize("name", COSTLY)
def test_what_would_be_hashed_for_long_is_refused(name: str) -> None:
    with pytest.raises(Malformed):
        scan.check(memoryview(COSTLY[name]))
