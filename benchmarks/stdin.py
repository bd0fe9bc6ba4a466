"""A stream forwarded to the function's stdin: against the same bytes on a raw channel."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from typing import IO, Any

from benchmarks.far_side import BULK, count_stdin, make_bytes
from benchmarks.host import Host, read_exactly, run_raw
from benchmarks.measure import Row, medians, rates_row, take_turns

ROUNDS = 5
SIZE = 64 << 20


def measure(host: Host) -> list[Row]:
    """Return the rows of stdin: from a file, from memory, from a pipe, and as text."""
    data = make_bytes(SIZE)
    memory, text = io.BytesIO(data), io.StringIO(data.decode())
    with host.connection() as conn, host.raw() as client, tempfile.TemporaryFile("wb+") as file:
        python = conn.python(python=sys.executable)
        channel = run_raw(client, BULK % SIZE)
        file.write(data)

        def raw() -> None:
            channel.sendall(b"u")
            channel.sendall(memoryview(data))  # type: ignore[arg-type]
            read_exactly(channel, 1)

        def ours(stream: IO[Any]) -> None:
            stream.seek(0)
            check(conn.python(python=sys.executable, in_stream=stream).call(count_stdin))

        def from_pipe() -> None:
            command = ["head", "-c", str(SIZE), "/dev/zero"]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as filler:
                source = filler.stdout
                check(conn.python(python=sys.executable, in_stream=source).call(count_stdin))

        python.call(len, "")
        contenders = {
            "file": lambda: ours(file),
            "memory": lambda: ours(memory),
            "text": lambda: ours(text),
            "pipe": from_pipe,
            "raw": raw,
        }
        found = medians(take_turns(contenders, rounds=ROUNDS))
    names = {"file": "a file", "memory": "a BytesIO", "text": "a StringIO", "pipe": "a pipe"}
    return [
        rates_row(
            f"64 MiB of stdin from {name}",
            SIZE,
            found[key],
            "raw channel",
            found["raw"],
            at_least=0.6,
        )
        for key, name in names.items()
    ]


def check(size: int) -> None:
    """Raise RuntimeError if input was lost: then its speed means nothing."""
    if size != SIZE:
        raise RuntimeError(f"{size} bytes came of {SIZE} that were sent")
