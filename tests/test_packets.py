"""What a channel receives is handed on as it comes, whatever else happens to the channel."""

from __future__ import annotations

import threading

from fabremote.bootstrap import GREETING
from fabremote.demo.server import Server
from fabremote.links import ChannelLink
from fabremote.packets import Packets
from tests.faults import dial, settled


def test_a_channel_may_end_while_what_it_received_is_handed_on(openssh: Server) -> None:
    with dial(openssh) as c:
        c.open()
        transport = c.transport
        assert transport is not None
        link = ChannelLink(transport.open_session(), "there", 30)
        try:
            link.send(f"{GREETING} printf hello; read -r line\n".encode())
            assert settled(lambda: len(link._packets) == 5)
            taken, ended = [], threading.Event()

            def take(data: bytes) -> None:
                taken.append(data)
                # The shell ends, and paramiko marks the channel before it closes what it received.
                link.send(b"end\n")
                assert settled(lambda: link._channel.eof_received)

            link.attend(take, ended.set, "there")
            assert ended.wait(30)
            assert taken == [b"hello"]
        finally:
            link.close()
    assert settled(lambda: not transport.is_alive())


def test_packets_keep_their_order_while_one_begins_to_attend() -> None:
    packets = Packets()
    taken: list[bytes] = []
    first, more = threading.Event(), threading.Event()

    def feed() -> None:
        assert first.wait(30)
        for number in range(2, 1000):
            packets.feed(b"%d" % number)
            if number == 500:
                more.set()
        packets.close()

    def take(data: bytes) -> None:
        taken.append(data)
        if data == b"1":
            first.set()
            assert more.wait(30)

    ended = threading.Event()
    packets.feed(b"0")
    packets.feed(b"1")
    feeder = threading.Thread(target=feed)
    feeder.start()
    packets.push(take, ended.set)
    feeder.join()
    assert ended.wait(30)
    assert taken == [b"%d" % number for number in range(1000)]


def test_the_end_is_told_once_and_after_the_last_packet() -> None:
    packets, told = Packets(), list[bytes]()
    packets.feed(b"last")
    packets.close()
    packets.push(told.append, lambda: told.append(b"end"))
    packets.close()
    assert told == [b"last", b"end"]
