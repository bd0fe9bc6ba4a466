"""What an agent keeps of what it was sent, so that nothing constant is sent to it twice.

Large constant parts of payloads, module sources and functions' code, are
*blobs*: a call names them by digest, and those that its agent hasn't got go
ahead of it. This side decides what an agent drops, so that it never keeps more
than `LIMIT` bytes beyond the calls that run.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fabremote.agent import wire
from fabremote.upload import EXTRA_MODULES, extra

# The most that an agent keeps between calls, in bytes.
LIMIT = 64 << 20


class Blob:
    """Constant bytes, named by their digest."""

    __slots__ = ("data", "digest")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.digest = hashlib.blake2b(data, digest_size=wire.DIGEST).digest()


@dataclass(frozen=True)
class BlobList:
    """Blobs that go together often, named by one digest: that of the list of theirs."""

    blob: Blob
    members: tuple[Blob, ...]

    @classmethod
    def of(cls, members: Iterable[Blob]) -> BlobList:
        """Return the list of these blobs."""
        kept = tuple(members)
        return cls(Blob(b"".join(blob.digest for blob in kept)), kept)


@dataclass(frozen=True)
class Parcel:
    """A call's bytes: its own, in pieces, and what they refer to: blobs, and agent modules."""

    pieces: list[bytes | memoryview]
    blobs: tuple[Blob, ...] = ()
    listed: BlobList | None = None
    extras: tuple[str, ...] = ()

    @functools.cached_property
    def needed(self) -> list[Blob]:
        """All blobs of the call."""
        if self.listed is None:
            return list(self.blobs)
        return [self.listed.blob, *self.listed.members, *self.blobs]

    @functools.cached_property
    def size(self) -> int:
        """How many bytes its own pieces have."""
        return sum(map(len, self.pieces))

    def opening(self, flags: int = 0, process: int | None = None) -> bytes:
        """Return the data of the call's OPEN frame; ``process``: that of which it is inside."""
        named = [blob.digest for blob in self.blobs] if self.blobs else []
        if self.listed is not None:
            flags |= wire.HAS_LIST
            named.insert(0, self.listed.blob.digest)
        if process is None:
            return bytes([flags]) + b"".join(named)
        inside = wire.PROCESS.pack(process)
        return bytes([flags | wire.INSIDE]) + inside + b"".join(named)


class Store:
    """Which agent modules one agent has, and which blobs, the least recently used first.

    Not safe for several threads by itself: its frames must be sent in the order
    in which they were asked for, under one lock. ``coded``: whether its modules go as code.
    """

    def __init__(self, limit: int = LIMIT, coded: bool = False) -> None:
        self._limit, self._coded = limit, coded
        self._kept: dict[bytes, int] = {}
        self._extras: set[str] = set()
        self.size = 0

    def has(self, extras: Sequence[str]) -> bool:
        """Return whether the agent was sent these modules of its own."""
        return self._extras.issuperset(extras)

    def sending(self, blobs: Sequence[Blob], extras: Sequence[str] = ()) -> list[bytes]:
        """Return the frames that give the agent what it hasn't got of a call's."""
        frames: list[bytes] = []
        for name in EXTRA_MODULES:
            if name in extras and name not in self._extras:
                self._extras.add(name)
                frames.append(wire.frame(wire.EXTEND, 0, extra(name, self._coded)))
        for blob in blobs:
            size = self._kept.pop(blob.digest, None)
            if size is None:
                size = len(blob.data)
                self.size += size
                frames += _frames(blob)
            self._kept[blob.digest] = size
        return frames

    def dropping(self) -> bytes:
        """Return the frames that make the agent drop what is beyond the limit, if anything.

        The call that needs it has them by then: its OPEN frame goes first.
        """
        dropped: list[bytes] = []
        while self.size > self._limit:
            digest = next(iter(self._kept))
            self.size -= self._kept.pop(digest)
            dropped.append(digest)
        step = wire.MAX_DATA // wire.DIGEST
        return b"".join(
            wire.frame(wire.DROP, 0, b"".join(dropped[start : start + step]))
            for start in range(0, len(dropped), step)
        )


def _frames(blob: Blob) -> list[bytes]:
    step = wire.MAX_DATA - wire.DIGEST
    # Empty ones, too, have to be there.
    starts = range(0, len(blob.data) or 1, step)
    return [
        wire.frame(wire.STORE, 0, blob.digest + blob.data[start : start + step])
        for start in starts
    ]


__all__ = ["LIMIT", "Blob", "BlobList", "Parcel", "Store"]
