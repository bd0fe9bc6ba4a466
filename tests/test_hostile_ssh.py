"""An SSH server that lies about its channels: calls end in time, with what it means for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from paramiko import common as ssh

from fabremote import RemoteConnectionLost, RemoteInterpreterMissing
from tests.faults import within
from tests.lying_ssh import Lie, Session, lying

LOST, MISSING = RemoteConnectionLost, RemoteInterpreterMissing
SOON = {"start_timeout": 0.5}
STARTS = 30.0  # seconds that what is honest may take
HUGE = 0xFFFFFFFF


def sending(shape: Callable[[Session, bytes], Any]) -> Lie:
    """A server that is honest but for the shape in which output goes out."""

    def lie(session: Session, command: bytes) -> None:
        session.accept()
        session.run(command, lambda data: shape(session, data))
        session.status(0)
        session.eof()
        session.close()

    return lie


def byte_by_byte(session: Session, data: bytes) -> None:
    for at in range(len(data)):
        session.data(data[at : at + 1])


def among_empty_packets(session: Session, data: bytes) -> None:
    for _ in range(3):
        session.data(b"")
        session.extended(1, b"")
    session.data(data)


def beside_unknown_streams(session: Session, data: bytes) -> None:
    for code in (0, 2, HUGE):
        session.extended(code, b"x" * 1000)
    session.data(data)


def beside_errors(session: Session, data: bytes) -> None:
    for _ in range(30):
        session.extended(1, b"\x1b[31m" * 6000)
    session.data(data)


def with_endless_windows(session: Session, data: bytes) -> None:
    for _ in range(3):
        session.adjust(HUGE)
    session.say(ssh.cMSG_CHANNEL_WINDOW_ADJUST)  # by no number
    session.data(data)


def among_requests(session: Session, data: bytes) -> None:
    for name in (b"keepalive@openssh.com", b"exit-signal", b"shell", b""):
        session.request(name)
    session.data(data)


SHAPES = [
    byte_by_byte,
    among_empty_packets,
    beside_unknown_streams,
    beside_errors,
    with_endless_windows,
    among_requests,
]


def answer(size: int) -> bytes:
    return bytes(size)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_calls_work_whatever_the_shape_of_what_comes(shape: Any) -> None:
    with lying(sending(shape)) as c, within(50):
        assert c.call(max, 1, 2) == 2
        assert c.call(answer, 1000) == bytes(1000)


def opened_narrow(session: Session, command: bytes) -> None:
    session.adjust(1 << 31)
    sending(Session.data)(session, command)


@pytest.mark.parametrize("packet", [0, 1, 64, 65, HUGE])
def test_calls_work_whatever_packets_are_wished_for(packet: int) -> None:
    with lying(sending(Session.data), packet=packet) as c, within(50):
        assert c.call(len, bytes(1 << 20)) == 1 << 20


@pytest.mark.parametrize("window", [0, 1, HUGE])
def test_a_window_may_open_late(window: int) -> None:
    with lying(opened_narrow, window=window) as c, within(50):
        assert c.call(len, bytes(1 << 20)) == 1 << 20


def unread(session: Session, command: bytes) -> None:
    session.accept()
    session.wait()


def unanswered(session: Session, command: bytes) -> None:
    session.wait()


@pytest.mark.parametrize(
    ("lie", "window"),
    [(unread, 0), (unread, 1), (unread, 1 << 21), (unanswered, 1 << 21)],
)
def test_a_server_that_does_nothing_is_given_up(lie: Lie, window: int) -> None:
    with lying(lie, SOON, window=window) as c, within(20), pytest.raises((LOST, MISSING)):
        c.call(max, 1, 2)


def stuttering(session: Session, command: bytes) -> None:
    """Prints for ever, a byte at a time."""
    session.accept()
    while True:
        session.data(b"x")


def talking(session: Session, command: bytes) -> None:
    session.accept()
    while True:
        session.data(b"x" * 30000)


@pytest.mark.parametrize("lie", [stuttering, talking], ids=lambda lie: lie.__name__)
def test_a_server_that_never_ends_is_given_up(lie: Lie) -> None:
    with lying(lie, SOON) as c, within(20), pytest.raises((LOST, MISSING)):
        c.call(max, 1, 2)


# What is said instead of the command's output, or amid it


def eof_then_data(session: Session) -> None:
    session.eof()
    session.data(b"x" * 1000)
    session.eof()


def close_then_data(session: Session) -> None:
    session.close()
    session.data(b"x" * 1000)
    session.status(0)
    session.close()


def close_twice(session: Session) -> None:
    session.close()
    session.close()


def refusal(session: Session) -> None:
    session.say(ssh.cMSG_CHANNEL_FAILURE)


def many_statuses(session: Session) -> None:
    for number in (0, 1, HUGE, 0):
        session.status(number)


def status_and_close(session: Session) -> None:
    session.status(7)
    session.close()


def no_name(session: Session) -> None:
    session.request(b"\xff")


LIES = [
    eof_then_data,
    close_then_data,
    close_twice,
    refusal,
    many_statuses,
    status_and_close,
    no_name,
]


@pytest.mark.parametrize("what", LIES, ids=lambda what: what.__name__)
def test_a_session_may_end_before_anything_is_said(what: Callable[[Session], None]) -> None:
    def lie(session: Session, command: bytes) -> None:
        if session.number != 1:
            return sending(Session.data)(session, command)
        session.accept()
        what(session)
        session.wait()

    with lying(lie, SOON) as c, within(50):
        try:
            c.call(max, 1, 2)
            # It ended the connection, which is opened once more if nothing has been sent.
            assert what is no_name
        except (LOST, MISSING):
            pass
        assert c.python(start_timeout=STARTS).call(max, 1, 2) == 2


@pytest.mark.parametrize("what", LIES, ids=lambda what: what.__name__)
def test_a_session_may_end_amid_a_call(what: Callable[[Session], None]) -> None:
    told = threading.Event()

    def lie(session: Session, command: bytes) -> None:
        def send(data: bytes) -> None:
            session.data(data)
            if session.number == 1 and told.wait(0):
                told.clear()
                what(session)

        sending(lambda _, data: send(data))(session, command)

    with lying(lie) as c, within(50):
        assert c.call(max, 1, 2) == 2
        told.set()
        with pytest.raises(LOST):
            c.call(print_and_wait)
        assert c.call(max, 1, 2) == 2


def print_and_wait() -> None:
    print("here", flush=True)
    time.sleep(60)
