"""What a call comes to: its answer's bytes, or an error."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from fabremote.agent import wire

# An answer's length goes before it, in so many bytes.
TOTAL = 8

Data = bytes | memoryview


@dataclass
class Outcome:
    """How a call ended: its answer's bytes, or the error that stands for it."""

    answer: memoryview | None = None
    error: BaseException | None = None
    stdout: str = ""
    stderr: str = ""


@dataclass
class Answer:
    """An answer's bytes as they come: 8 bytes of length, then the rest, in one buffer."""

    limit: int
    head: bytes = b""
    body: bytearray | None = None
    filled: int = 0
    refused: int = 0

    def add(self, data: Data) -> None:
        if self.refused:
            return
        if self.body is None:
            self.head += bytes(data)
            if len(self.head) < TOTAL:
                return
            size = int.from_bytes(self.head[:TOTAL], "big")
            if size > self.limit:
                self.refused, self.head = size, b""
                return
            self.body, data, self.head = bytearray(size), self.head[TOTAL:], b""
        end = self.filled + len(data)
        if end > len(self.body):
            raise wire.ProtocolError("more bytes of an answer than it has")
        self.body[self.filled : end] = data
        self.filled = end

    def complete(self) -> memoryview | None:
        if self.body is None or self.filled != len(self.body):
            return None
        return memoryview(self.body)


def signal_name(number: int) -> str:
    """Return a signal's name, such as ``"SIGSEGV"``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


__all__ = ["TOTAL", "Answer", "Data", "Outcome", "signal_name"]
