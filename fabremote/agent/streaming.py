"""Streams of values: a generator's items go out as they are wanted, iterators come in.

Sent with the calls that stream. Messages have `bundle.STREAMED` in their total;
from the worker they are one letter, and the rest:

``G`` the function made a generator: ``s``, or ``a`` for an asynchronous one.
``Y`` an item: flags (1 byte) and its pickle. ``N`` the function wants items of
an iterator: its channel and how many (4 bytes each), and whether it waits for
one (1 byte). The generator's end is the call's answer, its return value or what
it raised.

To the worker they are a channel (4 bytes), a letter, and the rest. For the
generator, channel 0: ``C`` so many items (4 bytes) and bytes (8) more may be
sent; ``N`` go on; ``S`` go on with a value sent; ``T`` with an exception raised
in it; ``X`` close it. For an iterator: ``I`` an item; ``R`` its end, with its
return value; ``E`` with an exception. Values are payloads, see `worker`.

The generator runs ahead of its consumer as far as ``C`` goes, unless it uses
what its ``yield`` returns: then it waits for each ``N``, ``S`` or ``T``.
"""

import _thread
import collections
import opcode
import os
import select
import signal
import struct
import threading

from . import bundle, loader, worker

ADDRESS = struct.Struct(">IB")
CREDIT = struct.Struct(">IQ")
PULL = struct.Struct(">BII?")
# Flags of an item: the generator waits to be told to go on; it answers ``T``.
WAITS = 1
THROWN = 2
# The channel of what comes once a call in a lasting process has ended.
LAST = ADDRESS.unpack(bundle.LAST)[0]
# The most bytes of items that are on the way to a consumer that hasn't taken them.
AHEAD = 4 << 20

GO, SEND, THROW, CLOSE = range(4)


class Inbox:
    """The messages to this process, read from its pipe by whoever waits for one."""

    def __init__(self, fd):
        self.fd = fd
        self.pid = os.getpid()
        # Locked by itself: as a condition is, a signal's handler may raise, and it stays locked.
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        # By channel; None has the answers to requests. How many have come for each, too.
        self.queues = collections.defaultdict(collections.deque)
        self.arrived = collections.Counter()
        # Whether somebody reads, nothing comes any more, or that is for the call's end alone.
        self.reading = self.ended = self.over = False
        self.rest = b""
        self.ready = select.poll()
        self.ready.register(fd, select.POLLIN)

    def get(self, channel, here=False):
        """Return the next message for a channel, or None if there will be none.

        ``here``: read in this thread. Otherwise in one that ends with the message: what
        a signal handler raises in the function must not end that halfway.
        """
        queue = self.queues[channel]
        while True:
            with self.lock:
                if self.over and channel != LAST:
                    return None
                if queue or self.ended:
                    return queue.popleft() if queue else None
                if self.reading:
                    self.changed.wait()
                    continue
                self.reading = True
                if not here:
                    try:
                        _thread.start_new_thread(self.read, ())
                        self.changed.wait()
                        continue
                    except RuntimeError:
                        pass
            self.read()

    def poll(self, channel):
        """Return the next message for a channel if it is there already, or None."""
        queue = self.queues[channel]
        while not queue and (self.rest or self.ready.poll(0)):
            with self.lock:
                if self.reading or self.ended:
                    break
                self.reading = True
            self.read()
        return queue.popleft() if queue else None

    def read(self):
        received, begun = None, False
        try:
            if not self.rest:
                # Where a signal's handler raises here, nothing is lost.
                self.ready.poll()
            begun = True
            received = bundle.receive(self.fd, self.rest)
        finally:
            with self.lock:
                self.reading = False
                if received is not None:
                    self.sort(*received)
                elif begun:
                    self.ended = True
                self.changed.notify_all()

    def sort(self, total, body, rest):
        """Put a message where it is waited for."""
        self.rest = rest
        if not total & bundle.STREAMED:
            self.queues[None].append((total, body, rest))
        elif len(body) >= ADDRESS.size and not (self.over and body != bundle.LAST):
            channel, letter = ADDRESS.unpack_from(body)
            self.queues[channel].append((letter, memoryview(body)[ADDRESS.size :]))
            self.arrived[channel] += 1

    def close(self):
        """Read all that came for a call that has ended; return what is there of the next.

        None if that isn't known any more.
        """
        with self.lock:
            self.over = True
            self.changed.notify_all()
        return None if self.get(LAST, True) is None else self.rest


def inbox():
    """Return the one `Inbox` of this process, from now on also for answers to requests."""
    if not INBOX:
        with bundle._TURN:
            INBOX.append(Inbox(bundle.CHANNEL[0]))
            bundle.RECEIVE[0] = lambda fd: INBOX[0].get(None)
    return INBOX[0]


INBOX = []  # type: list[Inbox]


def left():
    """Let go of the inbox of a call that has ended; return what has come of the next."""
    CALLS[0] += 1
    if not INBOX:
        return b""
    bundle.RECEIVE[0] = bundle.receive
    return INBOX.pop().close()


# How many calls have ended in this process.
CALLS = [0]


def put(pieces):
    """Write a message; return False if the call has ended."""
    with bundle._WRITING:
        if bundle.CHANNEL is None:
            return False
        worker.write_all(bundle.CHANNEL[1], pieces, bundle.STREAMED)
        return True


def value_of(data):
    """Return what a payload in a message stands for."""
    return loader.load(worker.parse(data)[1], ())


def known(number):
    """Return one of the caller's classes that is here already."""
    return next(cls for cls in loader.CLASSES if loader.CLASSES[cls] == number)


# What the function makes


def respond(generator, encoder):
    """Send a generator's items as they are wanted; return the answer's pieces."""
    is_async = not hasattr(generator, "__next__")
    stream = Stream(generator, encoder)
    put([b"Ga" if is_async else b"Gs"])
    if is_async:
        return worker.run_coroutine(stream.run_async())
    before = signal.signal(signal.SIGURG, stream.nudged)
    try:
        return stream.run()
    except BaseException:
        # Read halfway, or nothing is to be said any more.
        stream.inbox.ended = stream.inbox.ended or stream.inbox.reading
        raise
    finally:
        signal.signal(signal.SIGURG, before)


class Stream:
    """A generator, and how far it may go."""

    def __init__(self, generator, encoder):
        self.generator, self.encoder = generator, encoder
        self.inbox = inbox()
        self.items, self.bytes = 0, AHEAD
        # What it does: whether it waits to be told to go on, runs, or is being closed.
        self.waits = self.running = self.closing = False
        self.pid = os.getpid()

    def nudged(self, number=None, frame=None):
        """The consumer closes the stream: end what the generator does now."""
        first, self.closing = not self.closing, True
        if first and self.running:
            raise GeneratorExit

    def order(self, message):
        """Return (how to go on, with what) as a message says, or None if it doesn't."""
        if message is None:
            return CLOSE, None
        letter, data = message
        if letter == b"C"[0]:
            items, size = CREDIT.unpack(data)
            self.items += items
            self.bytes += size
            return None
        self.items += 1
        if letter == b"S"[0]:
            return SEND, value_of(data)
        if letter == b"T"[0]:
            return THROW, value_of(data)
        return (CLOSE if letter == b"X"[0] else GO), None

    def next_order(self):
        """Return how to go on, without waiting; None if that must be waited for."""
        found = None
        while found is None and not self.closing:
            free = not self.waits and self.items > 0 and self.bytes > 0
            message = self.inbox.poll(0)
            if message is None:
                return (GO, None) if free else None
            found = self.order(message)
        return (CLOSE, None) if self.closing else found

    def yielded(self, value, thrown):
        """Send an item; return None, or an answer that says why it can't be sent."""
        pieces = worker.succeeded(value, self.encoder)
        if pieces[0] != b"V":
            return pieces
        self.waits = uses_value(self.generator)
        self.items -= 1
        self.bytes -= sum(map(len, pieces[1:]))
        worker.flush()
        flags = (WAITS if self.waits else 0) | (THROWN if thrown else 0)
        put([bytes([b"Y"[0], flags])] + pieces[1:])
        return None

    # Generators, and other iterators

    def run(self):
        while True:
            order = self.next_order()
            while order is None:
                message = self.inbox.get(0, True)
                order = self.order(message) or self.next_order()
            how, value = order
            if how == CLOSE:
                self.closing = True
                return self.close()
            try:
                self.running = True
                value = self.step(how, value)
                self.running = False
            except StopIteration as stop:
                self.running = False
                return worker.succeeded(stop.value, self.encoder)
            except GeneratorExit:
                self.running = False
                if not self.closing:
                    raise
                return self.close()
            if os.getpid() != self.pid:
                # The generator forked, and both sides go on; one is enough.
                return worker.succeeded(None, self.encoder)
            refused = self.yielded(value, how == THROW)
            if refused is not None:
                self.close()
                return refused

    def step(self, how, value):
        if how == SEND and hasattr(self.generator, "send"):
            return self.generator.send(value)
        if how == THROW:
            if hasattr(self.generator, "throw"):
                return self.generator.throw(value)
            raise value
        return next(self.generator)

    def close(self):
        if hasattr(self.generator, "close"):
            self.generator.close()
        return worker.succeeded(None, self.encoder)

    # Asynchronous generators

    async def run_async(self):
        import asyncio

        loop, cancelled = asyncio.get_event_loop(), asyncio.CancelledError
        current = getattr(asyncio, "current_task", None) or asyncio.Task.current_task
        self.task = current(loop)
        loop.add_signal_handler(signal.SIGURG, self.nudged_async)
        while True:
            order = self.next_order()
            while order is None:
                message = await loop.run_in_executor(None, self.inbox.get, 0)
                order = self.order(message) or self.next_order()
            how, value = order
            if how == CLOSE:
                self.closing = True
                return await self.aclose()
            try:
                self.running = True
                value = await self.astep(how, value)
                self.running = False
            except StopAsyncIteration:
                self.running = False
                return worker.succeeded(None, self.encoder)
            except (cancelled, GeneratorExit):
                self.running = False
                if not self.closing:
                    raise
                return await self.aclose()
            refused = self.yielded(value, how == THROW)
            if refused is not None:
                await self.aclose()
                return refused

    def nudged_async(self):
        first, self.closing = not self.closing, True
        if first and self.running:
            self.task.cancel()

    def astep(self, how, value):
        if how == THROW:
            return self.generator.athrow(value)
        return self.generator.asend(value if how == SEND else None)

    async def aclose(self):
        await self.generator.aclose()
        return worker.succeeded(None, self.encoder)


# By (id of the code, last instruction): the code, and whether a value is used there.
USES = {}  # type: dict[tuple[int, int], tuple[object, bool]]
PASSED = {opcode.opmap.get(name) for name in ("YIELD_VALUE", "RESUME", "NOP", "CACHE")}


def uses_value(generator):
    """Return whether a suspended generator may use what its ``yield`` returns."""
    inner = generator
    while inner is not None:
        generator = inner
        inner = getattr(generator, "gi_yieldfrom", None)
    frame = getattr(generator, "gi_frame", None) or getattr(generator, "ag_frame", None)
    if frame is None:
        return hasattr(generator, "send")
    code, at = frame.f_code, frame.f_lasti
    found = USES.get((id(code), at))
    if found is None:
        found = USES[id(code), at] = code, used(code.co_code, at)
    return found[1]


def used(code, at):
    """Return whether the value on the stack after a ``yield`` is used."""
    while 0 <= at < len(code) and code[at] in PASSED:
        at += 2
    return not 0 <= at < len(code) or code[at] != opcode.opmap.get("POP_TOP")
