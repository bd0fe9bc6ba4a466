"""Large arguments and results: whole, in little memory, compressed, their progress told."""

from __future__ import annotations

import array
import contextlib
import importlib.util
import json
import os
import pty
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context
from invoke.watchers import Responder, StreamWatcher

from fabremote import Connection, ResultError, wrap
from fabremote.agent import wire
from fabremote.agent.wire import LARGE
from fabremote.links import ProcessLink
from fabremote.receiving import Answer, Buffers
from fabremote.shipping.answers import Decoder
from fabremote.watching import WINDOW, Watching
from tests import interpreters

VERSIONS = [version for version in interpreters.found() if version != "2.7"]
SIZE = 24 << 20


@pytest.fixture
def local() -> Iterator[Any]:
    """This machine."""
    with wrap(Context()) as context:
        yield context


def echo(value: Any) -> Any:
    return value


# Values


def test_large_values_come_back_as_they_went(local: Any) -> None:
    shared, text = b"\0shared" * LARGE, "\N{SNOWMAN}\udc80" * LARGE
    values = [os.urandom(LARGE + more) for more in (-1, 0, 1)]
    values += [
        bytearray(LARGE),
        text,
        {shared: text, text: shared},
        array.array("d", [0.5] * LARGE),
    ]
    values += [[shared, shared, (shared, bytearray(shared))], "", b"", bytearray()]
    for trust in (False, True):
        found = local.python(trust=trust, hide=True).call(echo, values)
        assert found == values
        assert [type(value) for value in found] == [type(value) for value in values]
        assert found[7][0] is found[7][1]
        found[3][0] = 7


def test_large_arrays_come_back_as_they_went(local: Any) -> None:
    numpy = pytest.importorskip("numpy")
    matrix = numpy.arange(LARGE, dtype="f8").reshape(256, -1)
    frozen = matrix.copy()
    frozen.setflags(write=False)
    values = [matrix, numpy.asfortranarray(matrix), matrix[::2, ::3], frozen, matrix > 7]
    values += [matrix.astype("M8[s]"), matrix.astype("U9"), matrix.T[None]]
    values += [numpy.zeros(LARGE, [("a", "u1"), ("b", "<f4", (2,))])]
    for found, value in zip(local.call(echo, values), values, strict=True):
        assert (found == value).all()
        assert found.dtype == value.dtype
        assert found.shape == value.shape
        assert found.flags.writeable
        assert found.flags.f_contiguous == value.flags.f_contiguous or value is values[2]
    assert local.call(lambda sent: sent.flags.writeable, matrix)


@pytest.mark.parametrize("version", VERSIONS)
def test_large_values_reach_any_python_and_come_back(local: Any, version: str) -> None:
    values = [b"x" * LARGE, bytearray(LARGE), "\N{SNOWMAN}" * LARGE, {"y": b"z" * (LARGE - 1)}]
    assert local.python(python=interpreters.found()[version]).call(echo, values) == values


# Memory

PEAKS = """
import json, sys, threading, time
import numpy
from fabremote import Connection

SIZE = {size}

def status(pid, name):
    for line in open("/proc/%s/status" % pid):
        if line.startswith(name):
            return int(line.split()[1]) << 10

def parents():
    forker = __import__("os").getppid()
    return forker, int(open("/proc/%d/stat" % forker).read().rsplit(")", 1)[1].split()[1])

def forget(pid):
    with open("/proc/%s/clear_refs" % pid, "w") as file:
        file.write("5")

def take(value):
    return len(value)

def give(kind):
    made = {{"bytes": bytes, "bytearray": bytearray, "str": lambda size: "s" * size}}
    made["array"] = lambda size: numpy.ones(size // 8)
    return made.get(kind, bytes)(SIZE if kind in made else 1)

def measure(work):
    # Of workers, the largest that there was beside numpy.
    forget("self"), forget(supervisor)
    before, far = status("self", "VmRSS"), status(supervisor, "VmRSS")
    worker, done = 0, threading.Event()
    def watch():
        nonlocal worker
        children = "/proc/%d/task/%d/children" % (forker, forker)
        while not done.wait(0.002):
            for pid in open(children).read().split():
                try:
                    worker = max(worker, status(pid, "VmHWM") or 0)
                except OSError:
                    pass
    thread = threading.Thread(target=watch)
    thread.start()
    value = work()
    done.set(), thread.join()
    local, far = status("self", "VmHWM") - before, status(supervisor, "VmHWM") - far
    return [number / SIZE for number in (local, worker, far)]

with Connection(**json.loads(sys.argv[1])) as conn:
    py = conn.python(python=sys.executable)
    forker, supervisor = py.call(parents)
    small = measure(lambda: [py.call(take, numpy.ones(9)), py.call(give, "nothing")])[1]
    found = {{}}
    for kind in ("bytes", "bytearray", "str", "array"):
        sent = give(kind)
        found["up " + kind] = measure(lambda: py.call(take, sent))
        del sent
        found["down " + kind] = measure(lambda: py.call(give, kind))
    for peaks in found.values():
        peaks[1] -= small
    print(json.dumps(found))
"""


@pytest.mark.timeout(180)
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
def test_little_memory_beyond_the_payload_itself(openssh: Any, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    script = tmp_path / "peaks.py"
    script.write_text(PEAKS.format(size=SIZE))
    place = {"host": openssh.hosts[0], "user": openssh.user, "port": openssh.port}
    place["connect_kwargs"] = openssh.connect_kwargs
    # What is freed goes back to the system at once, so that it counts but once.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "100000", "MALLOC_TRIM_THRESHOLD_": "100000"}
    command = [sys.executable, str(script), json.dumps(place, default=str)]
    answer = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
    found = json.loads(answer.stdout)
    assert len(found) == 8
    for case, (here, worker, supervisor) in found.items():
        # Text is encoded and decoded; of the rest there is nothing but the value itself.
        copies = (1 if case.startswith("down") else 0) + (1 if case.endswith("str") else 0)
        assert here < copies + 0.4, case
        assert worker < 1 + (1 if case.endswith("str") else 0) + 0.4, case
        assert supervisor < 0.4, case


# An answer's bytes


def pieces_of(head: bytes, *parts: bytes) -> bytes:
    body = head + b"".join(parts)
    return struct.pack(">Q", len(body)) + body


def beside(*codes: int) -> bytes:
    return struct.pack(f">cI{len(codes)}Q", b"B", len(codes), *codes)


@pytest.mark.parametrize("step", [1, 3, 7, 100, wire.LARGE + 1])
def test_an_answer_comes_in_any_pieces(step: int) -> None:
    size = wire.LARGE
    parts = b"12345" * size, b"abc" * size, b"de" * size
    codes = len(parts[0]) << 2 | wire.BYTES, len(parts[1]) << 2, len(parts[2]) << 2 | wire.TEXT
    data = pieces_of(beside(*codes), b"Vp", *parts)
    answer = Answer(len(data))
    for start in range(0, len(data), step):
        assert not answer.complete()
        answer.add(data[start : start + step])
    assert answer.complete()
    first, buffers = answer.take()
    assert bytes(first) == b"Vp"
    assert list(buffers) == [parts[0], bytearray(parts[1]), parts[2].decode()]
    assert answer.received == answer.total == len(data)


@pytest.mark.parametrize(
    "data",
    [
        pieces_of(b"Vp") + b"x",
        pieces_of(b""),
        pieces_of(beside(1 << 2), b"x"),
        pieces_of(beside(0), b"Vp"),
        pieces_of(beside(1 << 2 | 3), b"Vpx"),
        pieces_of(beside((1 << 64) - 4), b"Vp"),
        pieces_of(struct.pack(">cI", b"B", 1 << 30), b"Vp"),
    ],
    ids=["more", "nothing", "no pickle", "empty", "unknown", "huge", "many"],
)
def test_an_answer_whose_parts_do_not_fit_is_refused(data: bytes) -> None:
    with pytest.raises(wire.ProtocolError):
        Answer(1 << 20).add(data)


def test_a_pickle_that_asks_for_more_than_is_beside_it_is_refused() -> None:
    decoder = Decoder("f()", [], frozenset(), ())
    room = wire.Room(3 << 2)
    room.add(b"abc")
    assert decoder.value(memoryview(b"\x80\x05\x97."), Buffers([room], 20)) == b"abc"
    for buffers in (None, Buffers([], 20)):
        with pytest.raises(ResultError):
            decoder.value(memoryview(b"\x80\x05\x97."), buffers)
    broken = wire.Room(1 << 2 | wire.TEXT)
    broken.add(b"\xff")
    with pytest.raises(ResultError):
        decoder.value(memoryview(b"\x80\x05\x97."), Buffers([broken], 20))


# Compression

WORDS = b"a few words, again and again. " * (LARGE // 2)


@pytest.fixture
def travelled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes went to local agents, and came from them."""
    found = [0, 0]
    send, receive = ProcessLink.send, ProcessLink.receive

    def sending(self: ProcessLink, data: bytes | memoryview) -> None:
        found[0] += len(data)
        send(self, data)

    def receiving(self: ProcessLink) -> bytes:
        data = receive(self)
        found[1] += len(data)
        return data

    monkeypatch.setattr(ProcessLink, "send", sending)
    monkeypatch.setattr(ProcessLink, "receive", receiving)
    return found


def test_what_can_be_compressed_travels_so_and_the_rest_as_it_is(
    local: Any, travelled: list[int]
) -> None:
    noise = os.urandom(len(WORDS))
    local.call(abs, 1)
    mixed = noise + WORDS
    for compress, value, most in (
        (None, WORDS, 1.1),
        (True, WORDS, 0.1),
        (True, WORDS.decode(), 0.1),
        (True, noise, 1.1),
        (True, mixed, 0.8),
    ):
        travelled[:] = 0, 0
        assert local.python(compress=compress).call(echo, value) == value
        least = 0.9 if compress is None or value is noise else 0
        assert [least < count / len(value) < most for count in travelled] == [True, True]


def test_a_lasting_process_answers_compressed(local: Any, travelled: list[int]) -> None:
    with local.python(compress=True) as py:
        py.call(abs, 1)
        travelled[:] = 0, 0
        assert py.call(echo, WORDS) == WORDS
    assert max(travelled) < len(WORDS) / 10


@pytest.mark.parametrize(
    "data", [b"", b"no", zlib.compress(b"x")[:-1], zlib.compress(bytes(wire.MAX_DATA + 1))]
)
def test_a_frame_that_decompresses_to_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(wire.ProtocolError, match="decompressed"):
        wire.Decoder().feed(wire.frame(wire.REPLY | wire.PACKED, 1, data))


def test_compress_is_a_truth() -> None:
    with pytest.raises(TypeError, match="compress='zlib'"):
        wrap(Context()).python(compress="zlib")


# Progress


@pytest.mark.parametrize("how", ["call", "submit"])
def test_progress_is_told_both_ways(local: Any, how: str) -> None:
    told: list[tuple[str, int, int]] = []
    python = local.python(progress=lambda *words: told.append(words))
    # So much that it is told of more than once, however late the thread comes that tells it.
    sent = bytes(64 << 20)
    value = python.call(echo, sent) if how == "call" else python.submit(echo, sent).result()
    assert value == sent
    for direction in ("up", "down"):
        counts = [done for way, done, _ in told if way == direction]
        (total,) = {total for way, _, total in told if way == direction}
        assert len(counts) > 1
        assert counts == sorted(counts)
        assert counts[-1] == total
        assert len(sent) < total < len(sent) + 1000
    assert [way for way, _, _ in told] == sorted([way for way, _, _ in told], reverse=True)


@pytest.mark.parametrize("how", ["call", "submit"])
@pytest.mark.parametrize("when", ["up", "down"])
def test_a_progress_function_that_raises_ends_the_call(local: Any, how: str, when: str) -> None:
    class Enough(Exception):
        pass

    def progress(direction: str, done: int, total: int) -> None:
        if direction == when and done > total // 2:
            raise Enough(direction)

    python = local.python(progress=progress)
    with pytest.raises(Enough, match=when):
        python.call(echo, WORDS) if how == "call" else python.submit(echo, WORDS).result()
    assert local.call(len, "abc") == 3


def test_what_progress_may_be() -> None:
    with pytest.raises(TypeError, match="progress=5 must be True or a function"):
        wrap(Context()).python(progress=5)


def test_a_bar_needs_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"fabremote\[rich\]"):
        wrap(Context()).python(progress=True)


BAR = """
import fabremote.progress
from fabremote import wrap
from invoke.context import Context

fabremote.progress.PATIENCE = fabremote.progress.INTERVAL = 0
with wrap(Context()) as local:
    value = bytes(1 << 22)
    assert local.python(progress=True).call(bytes, value) == value
    print("done")
"""


def run_on_a_terminal(code: str) -> str:
    """What a Python prints whose stderr is a terminal; its stdout is none."""
    leader, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # as its end is told
            while data := os.read(leader, 65536):
                shown += data
        os.close(leader)
        assert process.stdout is not None
        assert process.stdout.read() == b"done\n", shown.decode()
    return shown.decode()


def test_a_bar_is_drawn_on_a_terminal_for_what_takes_long() -> None:
    pytest.importorskip("rich")
    shown = run_on_a_terminal(BAR)
    assert "bytes() \N{UPWARDS ARROW}" in shown
    assert "bytes() \N{DOWNWARDS ARROW}" in shown
    # What takes less than it has patience for has none.
    assert run_on_a_terminal(BAR.replace("INTERVAL = 0", "INTERVAL = 100")) == ""


def test_no_bar_where_there_is_no_terminal() -> None:
    pytest.importorskip("rich")
    found = subprocess.run([sys.executable, "-c", BAR], capture_output=True, check=True)
    assert (found.stdout, found.stderr) == (b"done\n", b"")


# Floods


class Counting:
    """A stream that expects the lines of `count_up`, and keeps none."""

    def __init__(self) -> None:
        self.rest, self.next = "", 0

    def write(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).split("\n")
        assert [int(line) for line in lines] == list(range(self.next, self.next + len(lines)))
        self.next += len(lines)

    def flush(self) -> None:
        pass


def count_up(count: int) -> int:
    for number in range(count):
        print(f"{number:079}")
    return resource_peak(os.getppid())


def resource_peak(forker: int) -> int:
    """The most memory that the agent's supervisor has had, in bytes."""
    with open(f"/proc/{forker}/stat") as file:
        supervisor = file.read().rsplit(")", 1)[1].split()[1]
    with open(f"/proc/{supervisor}/status") as file:
        (line,) = [line for line in file if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_flood_is_whole_in_order_and_held_nowhere(conn_openssh: Connection) -> None:
    count = 200_000
    stream: Any = Counting()
    before = conn_openssh.call(lambda: resource_peak(os.getppid()))
    flood = conn_openssh.python(out_stream=stream).submit(count_up, count)
    # Others are served meanwhile.
    while not flood.done():
        assert conn_openssh.call(len, "abc") == 3
    assert flood.result() - before < 4 << 20
    assert stream.next == count


def test_responders_keep_a_window_and_other_watchers_all_of_a_stream() -> None:
    class Longest(StreamWatcher):
        length = 0

        def submit(self, stream: str) -> list[str]:
            self.length = len(stream)
            return []

    piece, longest = "x" * (WINDOW // 4), Longest()
    watching = Watching([Responder("name: ", "Ada\n")])
    whole = Watching([longest])
    for _ in range(20):
        assert watching.responses(piece) == []
        assert watching.responses("na") == []
        assert watching.responses("me: ") == ["Ada\n"]
        whole.responses(piece)
    assert len(watching._seen) == WINDOW
    assert longest.length == 0
    assert len(whole._seen) == 20 * len(piece)
