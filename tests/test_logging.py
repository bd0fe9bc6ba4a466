"""``logging=True``: what a function logs arrives in the local loggers, as they want it."""

from __future__ import annotations

import io
import logging
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import invoke
import pytest

from fabremote import Connection, ResultError, ThreadingGroup, wrap
from fabremote.agent import wire
from fabremote.calls import UNHANDLED
from fabremote.demo.server import Server
from fabremote.shipping import records
from fabremote.shipping.nodes import Malformed
from tests import interpreters
from tests.conftest import connect

VERSIONS = [version for version in interpreters.found() if version != "2.7"]
LOCAL = {"remotely": {"python": sys.executable, "logging": True}}


@pytest.fixture
def local() -> Iterator[Any]:
    """This machine, whose calls log to here."""
    with wrap(invoke.Context(invoke.Config(overrides=LOCAL))) as context:
        yield context


@pytest.fixture
def level() -> Iterator[Any]:
    """Sets loggers' levels until the end of the test."""
    before: dict[logging.Logger, int] = {}

    def set_level(name: str, value: int) -> logging.Logger:
        logger = logging.getLogger(name or None)
        before.setdefault(logger, logger.level)
        logger.setLevel(value)
        return logger

    yield set_level
    for logger, value in before.items():
        logger.setLevel(value)


def log_all_kinds() -> int:
    import logging

    logger = logging.getLogger("far.away")
    logger.warning("%d per cent: %s", 90, ["a"], extra={"disk": "/", "part": 3, "what": object})
    try:
        raise KeyError("lost")
    except KeyError:
        logging.exception("it failed")
    logger.error("where", stack_info=True)
    return os.getpid()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_record_arrives_as_it_was_made(version: str, caplog: pytest.LogCaptureFixture) -> None:
    python = interpreters.found()[version]
    before = time.time()
    with wrap(invoke.Context()) as context:
        result = context.python(python=python, logging=True).run(log_all_kinds)
    assert (result.stdout, result.stderr) == ("", "")
    first, second, third = caplog.records
    assert (first.name, first.levelno, first.levelname) == ("far.away", 30, "WARNING")
    assert (first.getMessage(), first.args) == ("90 per cent: ['a']", ())
    assert (first.funcName, first.filename) == ("log_all_kinds", "test_logging.py")
    assert (first.process, first.threadName) == (result.value, "MainThread")
    assert first.lineno == log_all_kinds.__code__.co_firstlineno + 4
    assert before - 1 < first.created < time.time() + 1
    here: Any = first
    assert (here.host, here.disk, here.part, here.what) == (
        "localhost",
        "/",
        3,
        "<class 'object'>",
    )
    assert (second.name, second.exc_info) == ("root", None)
    assert second.exc_text is not None
    assert second.exc_text.endswith("KeyError: 'lost'")
    assert "log_all_kinds" in str(third.stack_info)


def log_at_each_level() -> list[bool]:
    import logging

    names = ("", "app", "app.part", "other")
    for name in names:
        for number in (10, 20, 30, 40):
            logging.getLogger(name).log(number, "%s %d", name or "root", number)
    return [logging.getLogger(name).isEnabledFor(20) for name in names]


def test_the_levels_here_decide_what_is_sent(
    local: Any, level: Any, caplog: pytest.LogCaptureFixture
) -> None:
    level("", logging.ERROR)
    level("app", logging.INFO)
    level("app.part", logging.WARNING)
    assert local.call(log_at_each_level) == [False, True, False, False]
    assert caplog.messages == [
        *("root 40", "app 20", "app 30", "app 40"),
        *("app.part 30", "app.part 40", "other 40"),
    ]
    logging.disable(logging.WARNING)
    try:
        local.call(log_at_each_level)
        assert caplog.messages[7:] == ["root 40", "app 40", "app.part 40", "other 40"]
    finally:
        logging.disable(logging.NOTSET)


def log_below() -> None:
    import logging

    logging.getLogger("quiet").setLevel(logging.DEBUG)
    logging.getLogger("quiet").debug("asked for there alone")


def test_a_level_set_there_shows_no_more_here(
    local: Any, caplog: pytest.LogCaptureFixture
) -> None:
    local.call(log_below)
    assert caplog.messages == []


def log_and_print(count: int) -> None:
    import logging

    for number in range(count):
        print("printed", number, end="")
        logging.warning("logged %d", number)
        os.write(1, b"!\n")


class Teller(logging.Handler):
    """Writes records on a file."""

    def __init__(self, file: io.StringIO) -> None:
        super().__init__()
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        self.file.write(f" {record.getMessage()} ")


@pytest.mark.parametrize("pty", [False, True])
def test_records_and_output_keep_their_order(conn: Connection, pty: bool) -> None:
    told = io.StringIO()
    teller = Teller(told)
    logging.getLogger().addHandler(teller)
    try:
        py = conn.python(logging=True, out_stream=told, err_stream=told, pty=pty)
        py.call(log_and_print, 200)
    finally:
        logging.getLogger().removeHandler(teller)
    end = "!\r\n" if pty else "!\n"
    lines = [f"printed {number} logged {number} {end}" for number in range(200)]
    assert told.getvalue() == "".join(lines)


def log_from_everywhere() -> None:
    import atexit
    import logging
    import threading

    atexit.register(logging.warning, "exit handler")
    names = [f"thread {number}" for number in range(8)]
    threads = [threading.Thread(target=logging.warning, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if os.fork() == 0:
        logging.info("dropped")
        logging.warning("child")
        os._exit(0)
    os.wait()


def test_threads_exit_handlers_and_children_may_log(
    local: Any, caplog: pytest.LogCaptureFixture
) -> None:
    result = local.python(hide=True).run(log_from_everywhere)
    assert sorted(caplog.messages[:8]) == [f"thread {number}" for number in range(8)]
    assert caplog.messages[8:] == ["exit handler"]
    # It has no way to here: it does as a process does that nobody told where to log.
    assert result.stderr == "child\n"


def log_as_interrupted() -> int:
    import logging
    import signal

    handled = []

    def handle(*_: object) -> None:
        logging.warning("signal")
        handled.append(1)

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    number = 0
    while number < 300 or len(handled) < 10:
        logging.warning("loop %d", number)
        number += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    return number


def test_signal_handlers_may_log(local: Any, caplog: pytest.LogCaptureFixture) -> None:
    count = local.python(timeout=40).call(log_as_interrupted)
    loops = [message for message in caplog.messages if message != "signal"]
    assert loops == [f"loop {number}" for number in range(count)]
    assert len(loops) + 10 <= len(caplog.messages)


def log(text: str, count: int = 1) -> None:
    import logging

    for _ in range(count):
        logging.warning(text)


def test_submitted_calls_log_too(openssh: Server, caplog: pytest.LogCaptureFixture) -> None:
    with connect(openssh) as c:
        futures = [c.python(logging=True).submit(log, f"call {n}", 5) for n in range(10)]
        for number, future in enumerate(futures):
            future.result()
            assert caplog.messages.count(f"call {number}") == 5


stopped: list[bool] = []
beside: list[bool] = []


def log_until_stopped() -> None:
    def run() -> None:
        while not stopped:
            logging.getLogger("beside").warning("still here")
            beside.append(True)

    threading.Thread(target=run).start()


def log_during_this_call() -> None:
    # The second record from now on begins and ends within this call.
    seen = len(beside)
    while len(beside) < seen + 2:
        time.sleep(0.001)


def stop_logging() -> None:
    stopped.append(True)


def test_the_calls_of_a_block_log_each_in_its_turn(
    local: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with local.python(err_stream=io.StringIO()) as py:
        py.call(log, "first")
        py.call(log_until_stopped)
        # The thread logs during calls and between them, and takes no answer that is not its own.
        assert [py.call(abs, number) for number in range(-100, 0)] == [*range(100, 0, -1)]
        py.call(log_during_this_call)
        py.call(stop_logging)
        py.call(log, "last")
    texts = [record.getMessage() for record in caplog.records]
    assert (texts[0], texts[-1]) == ("first", "last")
    assert "still here" in texts


def test_each_record_of_a_group_has_its_host(
    openssh: Server, caplog: pytest.LogCaptureFixture
) -> None:
    keys = openssh.connect_kwargs
    with ThreadingGroup(
        *openssh.hosts[:2], user=openssh.user, port=openssh.port, connect_kwargs=keys
    ) as group:
        group.python(logging=True).call(log, "here")
    assert {vars(record)["host"] for record in caplog.records} == set(openssh.hosts[:2])


def test_a_flood_of_records_is_held_up_by_a_slow_handler(local: Any) -> None:
    seen: list[int] = []
    text = "x" * 20_000

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not seen:
                # The rest must not come meanwhile: the call would be ended for a flood.
                threading.Event().wait(0.7)
            seen.append(len(record.getMessage()))

    slow = Slow()
    logging.getLogger().addHandler(slow)
    try:
        local.call(log, text, 500)
    finally:
        logging.getLogger().removeHandler(slow)
    # 10 MB: more than may wait here unhandled.
    assert sum(seen) > UNHANDLED
    assert seen == [20_000] * 500


def test_a_record_too_large_for_a_frame_is_cut(
    local: Any, caplog: pytest.LogCaptureFixture
) -> None:
    local.call(log, "\N{SNOWMAN}" * 300_000 + "\ud800 end")
    (message,) = caplog.messages
    assert len(message) < wire.MAX_DATA
    assert message.startswith("\N{SNOWMAN}" * 1000)
    assert message.endswith("\\ud800 end")


FORGED = "2026-01-01 other.example ERROR root: all is lost"


def log_many_lines(forged: str) -> None:
    import logging
    import threading

    threading.current_thread().name = f"t\n{forged}"
    text = f"one\n{forged}\r\n{forged}\x85\u2028{forged}"
    logging.getLogger(f"far\n{forged}").warning(text, stack_info=True, extra={"disk": text})
    try:
        raise KeyError(f"\n{forged}\n")
    except KeyError:
        logging.exception("%s", f"\n{forged}\n")
    logging.addLevelName(35, f"L\n{forged}")
    logging.getLogger().log(35, "a\n\n\tb")


def test_no_line_of_a_record_passes_for_another_hosts(
    conn_openssh: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    form = "%(asctime)s %(host)s %(levelname)s %(name)s %(threadName)s: %(message)s %(disk)s"
    handler.setFormatter(logging.Formatter(form, defaults={"disk": ""}))
    logging.getLogger().addHandler(handler)
    try:
        conn_openssh.python(logging=True).call(log_many_lines, FORGED)
    finally:
        logging.getLogger().removeHandler(handler)
    heads = [line for line in written.getvalue().splitlines() if line[:4] != "    "]
    assert [line.split()[2] for line in heads] == [conn_openssh.host] * 3
    assert caplog.messages[0].split("\n")[0] == "one"
    assert caplog.messages[2] == "a\n    \n    \tb"


def log_oddly() -> None:
    import logging

    class Odd:
        def __str__(self) -> str:
            raise ValueError("no text")

    logging.warning("%s %s", 1)
    logging.warning("odd", extra={"odd": Odd(), "big": 1 << 100})
    logging.getLogger().handle(
        logging.makeLogRecord({"msg": "made", "levelno": 30, "created": None})
    )


def test_what_cannot_be_formatted_is_told_there(
    local: Any, caplog: pytest.LogCaptureFixture
) -> None:
    result = local.python(hide=True).run(log_oddly)
    assert "not enough arguments for format string" in result.stderr
    assert caplog.messages == ["odd", "made"]
    assert vars(caplog.records[0])["big"] == str(1 << 100)


def test_a_handler_that_fails_here_ends_the_call(local: Any) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    broken = Broken()
    logging.getLogger().addHandler(broken)
    try:
        with pytest.raises(OSError, match="disk full"):
            local.call(log, "text")
    finally:
        logging.getLogger().removeHandler(broken)
    assert local.call(max, 1, 2) == 2


def test_without_the_option_records_stay_there(
    local: Any, caplog: pytest.LogCaptureFixture
) -> None:
    result = local.python(logging=False, hide=True).run(log, "printed there")
    assert (result.stderr, caplog.messages) == ("WARNING:root:printed there\n", [])


def test_the_environment_may_switch_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for text, count in (("yes", 1), ("no", 0)):
        monkeypatch.setenv("INVOKE_REMOTELY_LOGGING", text)
        caplog.clear()
        with wrap(invoke.Context()) as context:
            context.python(hide=True).call(log, "text")
        assert len(caplog.messages) == count


# A host that lies

GOOD: dict[str, Any] = {
    "name": "made.up",
    "levelname": "WARNING",
    "levelno": 30,
    "msg": "text",
    "created": 1e9,
    "extras": {},
}


class Text(str):
    pass


@pytest.mark.parametrize(
    "change",
    [
        {"name": None},
        {"name": 5},
        {"msg": b"bytes"},
        {"msg": Text("odd")},
        {"levelno": "30"},
        {"levelno": True},
        {"levelno": 1 << 70},
        {"levelno": 30.0},
        {"created": float("nan")},
        {"created": 1e300},
        {"created": -1},
        {"lineno": "1"},
        {"thread": [1]},
        {"exc_text": ("a",)},
        {"extras": None},
        {"extras": {"a": []}},
        {"extras": {5: 5}},
        {"extras": {"a": 1 << 64}},
    ],
    ids=str,
)
def test_what_is_no_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        records.rebuild({**GOOD, **change}, "web1")


def test_a_record_cannot_replace_what_makes_one_up() -> None:
    names = (
        "getMessage",
        "__class__",
        "host",
        "exc_info",
        "args",
        "msg",
        "not a name",
        "taskName",
    )
    extras: dict[str, Any] = dict.fromkeys(names, "odd")
    record = records.rebuild({**GOOD, "extras": extras}, "web1")
    assert (record.getMessage(), record.args, vars(record)["host"]) == ("text", (), "web1")
    assert record.exc_info is None
    assert "not a name" not in vars(record)
    assert "made.up" in logging.Formatter("%(name)s %(asctime)s").format(record)


def test_records_make_no_loggers(caplog: pytest.LogCaptureFixture) -> None:
    receive = records.receiver("f() on web1", "web1")
    before = len(logging.root.manager.loggerDict)
    for number in range(100):
        receive(pickle.dumps({**GOOD, "name": f"made.up{number}"}, 4))
    assert len(caplog.records) == 100
    assert len(logging.root.manager.loggerDict) == before
    with pytest.raises(ResultError, match=r"f\(\) on web1 sent what is not a log record"):
        receive(pickle.dumps(print, 4))
