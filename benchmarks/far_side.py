"""What runs on the host: functions that fabremote sends, and scripts for a raw channel."""

from __future__ import annotations

from typing import Any


def nothing() -> None:
    """Do nothing."""


def make_bytes(size: int) -> bytes:
    """Return ``size`` bytes."""
    return b"\x5a" * size


def count_stdin() -> int:
    """Read stdin to its end; return how many bytes that were."""
    import os

    count = 0
    while data := os.read(0, 1 << 20):
        count += len(data)
    return count


def make_array(size: int) -> Any:
    """Return an array of ``size`` bytes."""
    import numpy

    return numpy.ones(size // 8)


def sleep(seconds: float) -> None:
    """Sleep."""
    import time

    time.sleep(seconds)


def print_lines(count: int, width: int) -> None:
    """Print ``count`` lines of ``width`` characters."""
    line = "x" * width
    for _ in range(count):
        print(line)


# One fork per request, as little as can be: a length and a pickle in; the child
# computes and writes a length and a pickle out; the parent waits for it.
FORK_PER_CALL = """
import os, pickle, struct

def read(size):
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            os._exit(0)
        data += piece
    return data

while True:
    body = read(*struct.unpack(">I", read(4)))
    pid = os.fork()
    if not pid:
        fn, args = pickle.loads(body)
        reply = pickle.dumps(fn(*args))
        os.write(1, struct.pack(">I", len(reply)) + reply)
        os._exit(0)
    os.waitpid(pid, 0)
"""

# Sends back what comes, 100 bytes at a time.
ECHO = """
import os

while True:
    data = os.read(0, 100)
    if not data:
        break
    os.write(1, data)
"""

# Forever: "u", then SIZE bytes come in and one goes out; "d", then SIZE bytes go out.
BULK = """
import os

SIZE = %d

def receive():
    data = bytearray(SIZE)
    view = memoryview(data)
    at = 0
    while at < SIZE:
        at += os.readv(0, [view[at:]])
    os.write(1, b"k")

def send():
    view = memoryview(b"\\x5a" * SIZE)
    while view:
        view = view[os.write(1, view):]

while True:
    order = os.read(0, 1)
    if not order:
        break
    receive() if order == b"u" else send()
"""

# To a pipe Python prints by the block; with true, by the line, as to a terminal.
PRINTING = """
import sys
if %r:
    sys.stdout = open(1, "w", 1)
line = "x" * %d
for _ in range(%d):
    print(line)
"""

# Forever: "e", then one item goes out; "i", then so many, each written by itself.
ITEMS = """
import os

item = b"x" * %d
while True:
    order = os.read(0, 1)
    if not order:
        break
    for _ in range(1 if order == b"e" else %d):
        os.write(1, item)
"""
