"""A process that serves one call after another, with what they leave behind.

Sent before the first such process starts. Its payloads come one by one: the
supervisor sends the next when a call has been answered.
"""

import os

from . import bundle, classes, loader, streaming, worker


def serve(payload_fd, reply_fd, received):
    """Run the calls that arrive on ``payload_fd`` until its end; never returns."""
    me = os.getpid()
    loader.MADE = {}
    while received is not None:
        bundle.connect(payload_fd, reply_fd)
        pieces = worker.respond(received)
        worker.flush()
        if os.getpid() != me:
            # The function forked and both sides came back; one answer is enough.
            os._exit(0 if pieces[0][:1] in b"BV" else worker.STATUS)
        forget_unfinished()
        with bundle._TURN:
            # A thread that asks or logs reads its own answer, not the next payload.
            bundle.disconnect()
        worker.write_all(reply_fd, pieces)
        received = worker.read_payload(payload_fd, streaming.left())
        if received is not None:
            # Its environment and folder are what the calls before have made of them.
            received[0].update(env=None, cwd=None)
    worker.end()
    os._exit(0)


def forget_unfinished():
    """Forget what a call left that could not be loaded."""
    for cls in classes.UNFINISHED:
        loader.CLASSES.pop(cls, None)
    classes.UNFINISHED.clear()
    del classes.WAITING[:], bundle.FAILED[:]
