"""What a small answer may have this side copy, hash, drop or show, beyond what it looks like."""

from __future__ import annotations

import logging
import pickle
import socket
import subprocess
import time
import tracemalloc
from typing import Any

import invoke
import paramiko
import pytest

from fabremote import ResultError, ShippingError, sockets
from fabremote.agent import bundle, wire
from fabremote.group_result import GroupResult
from fabremote.items import Items
from fabremote.outcomes import read_answer
from fabremote.receiving import Answer, Outcome
from fabremote.shipping import extents, records
from tests.test_hostile import call, decoder, le, tag, value


def rebuilt(data: bytes) -> Any:
    return decoder().value(memoryview(b"\x80\x04" + data + b"."))


def array(items: int) -> bytes:
    data = b"\x8e" + le(8 * items, 8) + bytes(8 * items)
    return call("numpy_array", value("<i8"), value((items,)), value("C"), data) + b"\x94"


COPIES = {
    "pandas_Index": b"h\x01N",
    "pandas_Categorical": b"h\x01h\x02\x89",
    "pandas_DatetimeArray": b"h\x01" + value("ns") + b"N",
    "pandas_MultiIndex": b"](h\x02e](h\x01e](Ne",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", COPIES)
def test_an_array_is_copied_only_so_often(name: str) -> None:
    pytest.importorskip("pandas")
    many = b"]\x94(" + array(1 << 17) + array(1) + call(name, COPIES[name]) * 200 + b"e"
    with pytest.raises(ResultError, match="far more than it holds"):
        rebuilt(many)


def test_columns_are_copied_only_so_often() -> None:
    pytest.importorskip("pandas")
    index = call("pandas_RangeIndex", value(0), value(1 << 17), value(1), b"N") + b"\x94"
    columns = call("pandas_Index", b"]N\x61", b"N") + b"\x94"
    frame = call("pandas_DataFrame", b"](h\x01e", b"h\x03", b"h\x02")
    start = b"]\x94(" + array(1 << 17) + index + columns
    assert rebuilt(start + frame + b"e")[3].shape == (1 << 17, 1)
    with pytest.raises(ResultError, match="far more than it holds"):
        rebuilt(start + frame * 200 + b"e")


def large(count: int) -> bytes:
    """A dict of so many ints."""
    parts = [value(n) + b"N" for n in range(count)]
    batches = [parts[at : at + 1000] for at in range(0, count, 1000)]
    return b"}" + b"".join(b"(" + b"".join(batch) + b"u" for batch in batches)


MADE = {
    "by a constructor": tag("OrderedDict") + large(5000) + b"\x85R",
    "anew": large(5000) + value("k") + call("Ellipsis") + b"s",
    "as a set": b"(" + call("Ellipsis") + b"".join(map(value, range(5000))) + b"\x91",
}


@pytest.mark.parametrize("how", MADE)
def test_making_dicts_and_sets_takes_only_so_long(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    assert len(rebuilt(MADE[how])) >= 5000
    monkeypatch.setattr(extents, "PATIENCE", -1.0)
    with pytest.raises(ResultError, match="keys take far longer"):
        rebuilt(MADE[how])


def test_an_items_length_alone_takes_no_memory() -> None:
    items = Items(1 << 30)
    tracemalloc.start()
    try:
        items.feed(bundle.TOTAL.pack(bundle.STREAMED | 1 << 30) + b"Y")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_an_answer_has_no_more_buffers_than_room_for_them() -> None:
    answer = Answer(1 << 30)
    with pytest.raises(wire.ProtocolError, match="more buffers"):
        answer.add(
            wire.NUMBER.pack(1 << 30) + b"B" + ((1 << 14) + 1).to_bytes(4, "big") + b"\0" * 8
        )


def test_a_loggers_name_of_many_parts_takes_no_time() -> None:
    started = time.process_time()
    for _ in range(20):
        records.handle(logging.makeLogRecord({"name": "." * 60_000, "levelno": 0}))
    assert time.process_time() - started < 2


def test_a_records_texts_are_shown_not_obeyed() -> None:
    texts = ("name", "levelname", "msg", "exc_text", "stack_info", "threadName", "pathname")
    given: dict[str, Any] = dict.fromkeys(texts, "\x1b[31m\na\tb\r\n")
    given["extras"] = {"user": given["msg"]}
    record = records.rebuild({**given, "levelno": 20, "created": 1.0}, "host")
    lines, line = "\\x1b[31m\n    a\tb\\r\n    ", "\\x1b[31m\\na\tb\\r\\n"
    for name in (*texts, "user"):
        expected = lines if name in ("msg", "user") else line
        if name in ("exc_text", "stack_info"):
            expected = "    " + lines
        assert vars(record)[name] == expected, name


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "x" + ".x" * 5000, 5, "/", "x.\0"])
def test_a_missing_modules_name_is_shown_not_obeyed(name: Any) -> None:
    text = f"No module named {name!r}" if name == 5 else f"No module named '{name}'"
    data = pickle.dumps(("parts", ("builtins", "ModuleNotFoundError"), (text,), {"name": name}), 4)
    record = ("builtins", "ModuleNotFoundError", text, [], [], [], None, None, True, None, data)
    outcome = Outcome(memoryview(b"L" + pickle.dumps([record], 4)))
    with pytest.raises(ShippingError) as caught:
        read_answer(outcome, decoder(), "host")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 20_000


def test_a_client_is_let_go_before_its_transport_was_started() -> None:
    near, far = socket.socketpair()
    with near, far, paramiko.SSHClient() as client:
        client._transport = paramiko.Transport(near)  # as `connect` does, just before starting it
        sockets.let_go(client)
        assert client.get_transport() is None


class Spy(Exception):
    """The caller's own, whose text needs what a host may have left out."""

    def __str__(self) -> str:
        return str(self.args[0])


def test_a_summary_is_shown_whatever_came() -> None:
    title = "\x1b]0;owned\x07"
    came: list[Any] = [
        rebuilt(call("SimpleNamespace", value({"exited": title, "stdout": ""}))),
        rebuilt(call("SimpleNamespace", value({"exited": 1}))),
        10**5000,
    ]
    failure = KeyError("k")
    failure.result = came[0]  # type: ignore[attr-defined]
    died = subprocess.CalledProcessError.__new__(subprocess.CalledProcessError)
    raised: list[BaseException] = [failure, Spy(), died, ValueError(title + "x" * 100_000)]
    connections = [invoke.Context() for _ in came + raised]
    outcomes = [(value, None) for value in came] + [(None, error) for error in raised]
    text = GroupResult(
        (connection, *outcome) for connection, outcome in zip(connections, outcomes, strict=True)
    ).summary()
    assert all(char == "\n" or char.isprintable() for char in text)
    assert len(text) < 10_000
    assert "CalledProcessError that can't be shown: AttributeError" in text
    assert text.endswith("3 ok, 4 failed")
