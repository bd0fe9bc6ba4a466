"""A host that speaks the agent's protocol and lies: its calls end, with an error that says so."""

from __future__ import annotations

import io
import pickle
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fabremote import (
    Connection,
    RemoteConnectionLost,
    RemoteException,
    RemoteInterpreterMissing,
    RemoteProcessDied,
    RemoteTimeout,
    ResultError,
)
from fabremote.agent import wire
from tests.lying import LyingHost, answer, done, lying_python

FIVE = answer(b"V" + pickle.dumps(5, 4))
NOISE = "\x1b]0;owned\x07\x1b[31m\x9b1m"
REPLY, STDOUT, TAKEN = wire.REPLY, wire.STDOUT, wire.TAKEN


def frame(kind: int, data: bytes = b"", call: int = 1) -> bytes:
    return wire.frame(kind, call, data)


# What is said, and what comes of it: a value or the type of an error.
# `abs` goes by name, so that its call answers no requests: see test_requests for those that do.
LIES: dict[str, tuple[bytes, Any]] = {
    "frames of unknown calls": (b"".join(frame(k, b"x", 9) for k in range(30)) + FIVE, 5),
    "frames of no call": (b"".join(frame(k, b"x", 0) for k in range(21)) + FIVE, 5),
    "frames of the last call there can be": (frame(STDOUT, b"x", 0xFFFFFFFF) + FIVE, 5),
    "unknown kinds": (b"".join(frame(k, b"x") for k in range(30, wire.PACKED)) + FIVE, 5),
    "what is not compressed": (frame(REPLY + wire.PACKED, b"x") + FIVE, RemoteConnectionLost),
    "the caller's own kinds": (b"".join(frame(k, b"x") for k in range(1, 8)) + FIVE, 5),
    "a call's failure as its agent's": (frame(wire.CRASH, b"x") + FIVE, 5),
    "everything after the end": (
        FIVE + b"".join(frame(k, b"x" * 8) for k in range(16, 24) if k != wire.DONE),
        5,
    ),
    "the end twice": (FIVE + done() + FIVE, 5),
    "another answer after the end": (FIVE + answer(b"V" + pickle.dumps(6, 4)), 5),
    "an empty piece": (frame(REPLY) * 1000 + FIVE, 5),
    "the end before the answer": (done() + FIVE, RemoteProcessDied),
    "an end without an answer": (done(), RemoteProcessDied),
    "a signal that there is not": (done(data=wire.STATUS.pack(0, 255, 0)), RemoteProcessDied),
    "cancelled by nobody": (done(data=wire.STATUS.pack(2, 0, 0)), RemoteConnectionLost),
    "an end of no bytes": (done(data=b""), RemoteConnectionLost),
    "an end of many bytes": (done(data=b"\1" * 100), RemoteConnectionLost),
    "a TAKEN of no bytes": (frame(TAKEN) + FIVE, RemoteConnectionLost),
    "a TAKEN of nine bytes": (frame(TAKEN, b"\xff" * 9) + FIVE, RemoteConnectionLost),
    "a TAKEN of all there is": (frame(TAKEN, b"\xff" * 8) + FIVE, 5),
    "a frame beyond the limit": (wire.HEADER.pack(STDOUT, 1, 65537), RemoteConnectionLost),
    "a frame of four gigabytes": (wire.HEADER.pack(STDOUT, 1, 0xFFFFFFFF), RemoteConnectionLost),
    "half a frame": (wire.HEADER.pack(STDOUT, 1, 5) + b"ab", RemoteConnectionLost),
    "half a header": (b"\x10\0", RemoteConnectionLost),
    "what is not the protocol": (b"GET / HTTP/1.1\r\n\r\n", RemoteConnectionLost),
    "a failure of escapes": (frame(wire.CRASH, NOISE.encode(), 0), RemoteConnectionLost),
    "failures for ever": (frame(wire.CRASH, b"\x1b" * 60000, 0) * 200, RemoteConnectionLost),
    "half of the length": (frame(REPLY, b"\0" * 4) + done(), RemoteProcessDied),
    "less than its length": (frame(REPLY, wire.NUMBER.pack(9) + b"V") + done(), RemoteProcessDied),
    "more than its length": (frame(REPLY, wire.NUMBER.pack(1) + b"Vx"), RemoteConnectionLost),
    "more than nothing": (frame(REPLY, wire.NUMBER.pack(0) + b"V"), RemoteConnectionLost),
    "no answer at all": (answer(b""), RemoteConnectionLost),
    "an unknown answer": (answer(b"?"), ResultError),
    "the largest length": (frame(REPLY, wire.NUMBER.pack(1 << 30)) + done(), RemoteProcessDied),
    "a length just beyond": (frame(REPLY, wire.NUMBER.pack((1 << 30) + 1)) + done(), ResultError),
    "a length beyond the limit": (frame(REPLY, b"\xff" * 8) + done(), ResultError),
    "a request of no kind": (frame(wire.ASK, b"exec\0x") + FIVE, 5),
    "a request that is no text": (frame(wire.ASK, b"\xff\xfe\0\xff") + FIVE, 5),
    "an empty request": (frame(wire.ASK) + FIVE, 5),
    "a request larger than any": (frame(wire.ASK, b"x" * 60000) + FIVE, ResultError),
    # Answered one by one, or too many at once.
    "many requests": (frame(wire.ASK, b"module\0os") * 2000 + FIVE, (5, ResultError)),
}


@pytest.fixture
def hosts() -> Iterator[Callable[..., LyingHost]]:
    """Makes hosts that say these frames."""
    made: list[LyingHost] = []

    def make(*frames: bytes, **settings: Any) -> LyingHost:
        made.append(LyingHost(*frames, **settings))
        return made[-1]

    yield make
    for host in made:
        host.close()


def outcome(python: Any, way: str = "call") -> Any:
    """The value of a call, or the error, whose text a terminal can be shown."""
    try:
        return python.call(abs, -5) if way == "call" else python.submit(abs, -5).result()
    except RemoteException as error:
        found = error
    assert len(str(found)) < 20_000
    assert all(char in "\n\t" or char.isprintable() for char in str(found)), ascii(str(found))
    return found


def check(found: Any, expected: Any) -> None:
    """An outcome must be this value, or of such a type."""
    if isinstance(expected, tuple):
        assert found == expected[0] or isinstance(found, expected[1]), repr(found)
    elif isinstance(expected, int):
        assert found == expected
    else:
        assert isinstance(found, expected), repr(found)


@pytest.mark.parametrize("way", ["call", "submit"])
@pytest.mark.parametrize("name", LIES)
def test_a_lie_ends_its_call_with_an_error(hosts: Any, name: str, way: str) -> None:
    said, expected = LIES[name]
    found = outcome(hosts(said, ends=True).python(hide=True), way)
    check(found, expected)


@pytest.mark.parametrize("name", ["the end twice", "an end of no bytes", "no answer at all"])
def test_a_lie_in_pieces_is_the_same_lie(hosts: Any, name: str) -> None:
    said, expected = LIES[name]
    pieces = [said[at : at + 7] for at in range(0, 7000, 7)] + [said[7000:]]
    found = outcome(hosts(*pieces, ends=True).python(hide=True))
    check(found, expected)


def peak_of(work: Callable[[], None]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Standing(io.StringIO):
    """A terminal that stands still until the host has said all."""

    def __init__(self, host: LyingHost) -> None:
        super().__init__()
        self.host = host

    def write(self, text: str) -> int:
        assert self.host.link.taken.wait(60)
        return len(text)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("size", [0, 1, 30_000])
def test_output_that_ignores_flow_control_is_not_kept(
    hosts: Any, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabremote.calls.UNHANDLED", limit := 1 << 13)
    # Each frame came with much for a call that there is not, which must not be kept beside it.
    piece = frame(STDOUT, b"x" * size) + frame(STDOUT, b"y" * 2000, 9)
    host = hosts(frame(STDOUT, b"first"), *[piece * 50] * (4 * limit // max(1, size) // 50 + 1))

    def work() -> None:
        python = host.python(out_stream=Standing(host))
        assert "sent more than its agent" in str(outcome(python))

    assert peak_of(work) < 20 << 20


def test_a_length_alone_takes_no_memory(hosts: Any) -> None:
    host = hosts(frame(REPLY, wire.NUMBER.pack(1 << 30) + b"V"))
    assert peak_of(lambda: outcome(host.python(timeout=0.2)) and None) < 10 << 20


@pytest.mark.timeout(180)  # each allocation is traced
def test_pieces_of_an_answer_without_bytes_are_not_kept(hosts: Any) -> None:
    host = hosts(*[frame(REPLY) * 10_000] * 30, ends=True)
    assert peak_of(lambda: outcome(host.python()) and None) < 20 << 20


def test_a_small_call_to_a_host_that_reads_nothing_ends(hosts: Any) -> None:
    host = hosts(reads=0)
    started = time.monotonic()
    with pytest.raises((RemoteConnectionLost, RemoteTimeout)):
        host.python(timeout=0.2).call(abs, -5)
    assert time.monotonic() - started < 10
    assert host.link.closed.is_set()


def test_a_failed_reader_ends_its_calls(hosts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise MemoryError("enough")

    monkeypatch.setattr("fabremote.calls.Call.admit", fail)
    assert "MemoryError" in str(outcome(hosts(FIVE).python()))


# Over a real channel

SAID: dict[str, tuple[list[tuple[bytes, int]], Any]] = {
    "a value": ([(FIVE, 1)], 5),
    "a failure": ([(frame(wire.CRASH, NOISE.encode(), 0), 1)], RemoteConnectionLost),
    "no protocol": ([(b"Segmentation fault\n", 1)], RemoteConnectionLost),
    "an end of no bytes": ([(done(data=b""), 1)], RemoteConnectionLost),
    "a global": ([(answer(b"Vcos\nsystem\n."), 1)], ResultError),
    "an endless answer": (
        [(frame(REPLY, wire.NUMBER.pack(1 << 62)), 1), (frame(REPLY, b"x" * 60000), 100)],
        ResultError,
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_a_lying_host_leaves_the_connection_usable(
    conn_openssh: Connection, name: str, tmp_path: Path
) -> None:
    said, expected = SAID[name]
    conn_openssh.config.remotely.heartbeat = 2  # what stays silent is given up soon
    found = outcome(conn_openssh.python(python=lying_python(tmp_path, said), hide=True))
    check(found, expected)
    assert conn_openssh.call(abs, -6) == 6


HELLOS = [
    b"\nMARKER hello 99.999.999 cpython 9 999999999 /x\n",
    b"\nMARKER hello 3.6.0 jython 0 1 \x1b[31m/x\n",
    b"\nMARKER hello 3.6.0 cpython 0 1 " + b"x" * 100_000 + b"\n",
    b"\nMARKER hello 3.6.0 " + b"x" * 100_000 + b" 0 1 /x\n",
    b"\nMARKER hello 2.7.18 cpython 0 1 /x\n",
    b"\nMARKER hello -1.0.0 cpython 0 1 /x\n",
    b"\nMARKER hello 3.6.0 cpython\n",
    b"\n" + b"f" * 32 + b" hello 3.6.0 cpython 0 1 /x\n",
]


@pytest.mark.parametrize("number", range(len(HELLOS)))
def test_an_odd_hello_is_refused_or_harmless(
    conn_openssh: Connection, number: int, tmp_path: Path
) -> None:
    conn_openssh.config.remotely.heartbeat = 2  # one with whom no call begins stays silent
    liar = lying_python(tmp_path, [(FIVE, 1)], HELLOS[number])
    found = outcome(conn_openssh.python(python=liar, start_timeout=1))
    assert found == 5 or isinstance(found, (RemoteInterpreterMissing, RemoteException))
    assert conn_openssh.call(abs, -6) == 6


def test_what_a_host_prints_is_shown_as_it_is(hosts: Any) -> None:
    shown = io.StringIO()
    host = hosts(frame(STDOUT, NOISE.encode()) + FIVE)
    assert host.python(out_stream=shown).call(abs, -5) == 5
    assert shown.getvalue() == NOISE
