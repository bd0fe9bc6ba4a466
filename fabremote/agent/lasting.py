"""A process that serves one call after another, with what they leave behind.

Sent before the first such process starts. Its payloads come one by one: the
supervisor sends the next when a call has been answered.
"""

import _signal  # type: ignore[import-not-found]
import os

from . import answers, bundle, classes, loader, streaming, worker


def serve(payload_fd, reply_fd, received):
    """Run the calls that arrive on ``payload_fd`` until its end; never returns."""
    me = os.getpid()
    handler = rest(_signal.default_int_handler)
    loader.MADE = {}
    while received is not None:
        bundle.connect(payload_fd, reply_fd)
        pieces, handler = respond(received, handler)
        worker.flush()
        if os.getpid() != me:
            # The function forked and both sides came back; one answer is enough.
            os._exit(0 if pieces[0][:1] in b"BV" else worker.STATUS)
        forget_unfinished()
        with bundle._TURN:
            # A thread that asks or logs reads its own answer, not the next payload.
            bundle.disconnect()
        worker.write_all(reply_fd, pieces)
        ahead = streaming.left()
        received = None if ahead is None else worker.read_payload(payload_fd, ahead)
        if received is not None:
            # Its environment and folder are what the calls before have made of them.
            received[0].update(env=None, cwd=None)
    worker.end()
    os._exit(0)


def respond(received, handler):
    """Run a call, in which Ctrl-C has its handler; return its answer's pieces, and the handler."""
    try:
        if handler is not None:
            _signal.signal(_signal.SIGINT, handler)
        pieces = worker.respond(received)
        return pieces, rest(handler)
    except KeyboardInterrupt as error:
        # It came when the function had returned.
        handler = rest(handler)
        return worker.failed(b"E", error, answers.Encoder()), handler


def rest(handler):
    """Have a Ctrl-C that comes late, between calls, do nothing; return the handler it had."""
    before = _signal.getsignal(_signal.SIGINT)
    _signal.signal(_signal.SIGINT, late)
    return handler if before is late else before


def late(number, frame):
    """A call's Ctrl-C has come after it."""


def forget_unfinished():
    """Forget what a call left that could not be loaded."""
    for cls in classes.UNFINISHED:
        loader.CLASSES.pop(cls, None)
    classes.UNFINISHED.clear()
    del classes.WAITING[:], bundle.FAILED[:]
