"""One call: sent to an agent, again if nothing of it has run, and its outcome judged."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import reprlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from invoke.context import Context
from invoke.exceptions import Failure, WatcherError

from fabremote.bootstrap import RemotePython, this_python
from fabremote.calls import Call, Outcome
from fabremote.early import Early, early
from fabremote.exceptions import (
    RemoteCancelled,
    RemoteConnectionLost,
    RemoteException,
    RemoteProcessDied,
)
from fabremote.futures import RemoteFuture
from fabremote.generators import RemoteAsyncGenerator, RemoteGenerator
from fabremote.inert import is_inert
from fabremote.lasting import Lasting
from fabremote.options import Options
from fabremote.outcomes import NotRun, Result, read_answer
from fabremote.session import Session
from fabremote.shipping import atoms, records
from fabremote.shipping.answers import Decoder
from fabremote.shipping.feeds import Feeds, makes_stream
from fabremote.shipping.payload import Payload, check_callable, dump, name_of
from fabremote.stream_sources import AsyncSource, ServedSource, Source
from fabremote.threads import surely, while_wanted

T = TypeVar("T")

# Agents that may end before a call that was to run there: retired for others, or as they start.
ATTEMPTS = 3


class Host(Protocol):
    """What an interpreter runs on: a connection, or this machine."""

    context: Context
    label: str

    def live_session(self, options: Options) -> Session | None:
        """Return the agent for these options if there is a live one; connect to nothing."""

    def session(self, options: Options, early: Early | None = None) -> Session:
        """Return the live agent for these options, started if need be.

        ``early``: a call that may go to it as it starts; it is the session's then.
        """


class Prepared:
    """One call, ready to go."""

    def __init__(
        self,
        host: Host,
        options: Options,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        keep: bool,
        lasting: Lasting | None = None,
    ) -> None:
        self._host, self._lasting = host, lasting
        self._options = options if lasting is None else lasting.call_options(options)
        self._fn, self._args, self._kwargs = fn, args, kwargs
        self._keep = keep
        self._repeated = False
        self.name = name_of(fn)
        self._call: Call | None = None
        self._reserving: Session | None = None
        # What was sent as its agent was started.
        self._early: Early | None = None
        self._cancelled = False
        # How long it has waited for a place in its agent, in seconds.
        self._waited = 0.0
        if options.echo:
            # Of one piece: other threads may print too.
            print(options.echo_format.format(command=self.text()) + "\n", end="")

    def text(self) -> str:
        """Return the call as text, for echo and Result.command."""
        words = [reprlib.repr(arg) for arg in self._args]
        words += [f"{name}={reprlib.repr(value)}" for name, value in self._kwargs.items()]
        return f"{self.name.removesuffix('()')}({', '.join(words)})"

    def connects(self) -> bool:
        """Return whether the call must connect first, or have an agent started."""
        return self._lasting is None and self._host.live_session(self._options) is None

    def _reserve(self, session: Session) -> bool:
        begun, self._reserving = time.monotonic(), session
        timeout, waited = self._options.timeout, self._waited
        reserved = session.reserve(self.name, timeout, waited, lambda: self._cancelled)
        self._waited += time.monotonic() - begun
        if self._cancelled and not reserved:
            raise RemoteCancelled(f"{self.name} was cancelled.")
        return reserved

    def _start(self) -> tuple[Call, Payload, Decoder]:
        self._waited = 0.0
        if self._lasting is not None:
            return self._start_inside(self._lasting)
        session = self._host.live_session(self._options)
        if session is None or not self._reserve(session):
            # Before anything is begun over there, so that what can't go does nothing.
            return self._start_anew(self._dump(this_python(), None))
        return self._open(session, None)

    def _start_anew(self, payload: Payload) -> tuple[Call, Payload, Decoder]:
        """The same in an agent that is started if need be, with which the call may go."""
        opened: list[tuple[Call, Payload, Decoder]] = []

        def open_first(session: Session) -> Call:
            opened.append(self._open(session, payload))
            return opened[0][0]

        ahead = self._early = early(self._options, payload.parcel, open_first)
        try:
            for _ in range(ATTEMPTS):
                with while_wanted(lambda: not self._cancelled):
                    session = self._host.session(self._options, ahead)
                if opened:
                    return opened[0]
                if self._reserve(session):
                    return self._open(session, payload)
        except BaseException as error:
            if ahead is not None:
                ahead.drop(error)
            raise
        raise session.loss(self.name, begun=False)

    def _start_inside(self, lasting: Lasting) -> tuple[Call, Payload, Decoder]:
        """The same in a lasting process."""
        lasting.check(self.name)
        payload = lasting.dump(self._fn, self._args, self._kwargs, self._options)
        if not self._reserve(lasting.session):
            raise lasting.gone(self.name)
        return self._open(lasting.session, payload)

    def _open(self, session: Session, payload: Payload | None) -> tuple[Call, Payload, Decoder]:
        """Return the call, for which there is a place reserved."""
        number = session.number()
        try:
            same = session.python.reads == this_python().reads and not session.unloadable
            if payload is None or not (same or self._lasting):
                payload = self._dump(session.python, session)
            what = f"{self.name} on {session.label}"
            mine = payload.classes, payload.modules
            decoder = Decoder(what, *mine, self._options.trust, payload.files)
            logs = self._options.logging
            call = Call(
                session,
                number,
                self.name,
                self._options,
                self._keep,
                payload.provide,
                payload.feeds,
                self._lasting,
                record=records.receiver(what, session.label) if logs else None,
                waited=self._waited,
            )
        except BaseException:
            session.forget(number)
            raise
        return call, payload, decoder

    def _begin(self, call: Call, payload: Payload) -> None:
        ahead, self._early = self._early, None
        if ahead is not None and call is ahead.call:
            return
        place = call.session if self._lasting is None else self._lasting
        place.begin(call, payload.parcel)

    def _dump(self, python: RemotePython, session: Session | None) -> Payload:
        by_value = session.unloadable if session is not None else frozenset()
        return dump(self._fn, self._args, self._kwargs, self._options, python, by_value)

    def _finish(self) -> tuple[Any, Outcome]:
        while True:
            call, payload, decoder = self._start()
            self._call = call
            if self._cancelled:
                self.cancel()
            try:
                return self._run(call, payload, decoder)
            except NotRun as failure:
                if not self._goes_again(failure, call):
                    raise failure.error from failure.error.__cause__

    def cancel(self) -> None:
        """Have the call killed that another thread makes, or waits for, or is about to."""
        self._cancelled = True
        call, session = self._call, self._reserving
        if call is not None:
            call.cancel()
        if session is not None:
            session.places.wake()

    def _goes_again(self, failure: NotRun, call: Call, wanted: bool = True) -> bool:
        """Return whether a call that has not run is to be sent again, in another way."""
        wanted = wanted and not self._cancelled
        if failure.names and wanted:
            again = call.session.keep_from(failure.names)
        else:
            # What was read of its in_stream would be missing; and a dead link is told at once.
            again = not (self._repeated or call.stdin.used or call.session.silent) and wanted
            self._repeated = True
        if not again:
            call.close_feeds()
        return again

    def _run(self, call: Call, payload: Payload, decoder: Decoder) -> tuple[Any, Outcome]:
        call.stdin.attend()
        try:
            self._begin(call, payload)
        except BaseException as error:
            call.abort(error)
        feeds = payload.feeds
        del payload
        try:
            outcome = call.wait(lambda: bool(call.items.kind))
        except BaseException as error:  # Ctrl-C where it was just about to be handled.
            surely(functools.partial(call.abort, error))
            call.finish()
            raise
        if outcome is None:
            return self._stream(call, feeds, decoder), Outcome()
        return self._judge(outcome, decoder), outcome

    def _stream(self, call: Call, feeds: Feeds | None, decoder: Decoder) -> Any:
        """Return the generator that stands for the one that the function has made."""
        assert feeds is not None
        if self._lasting is not None:
            self._lasting.occupied_by(call)
        judge = functools.partial(self._judge, decoder=decoder)
        if call.items.kind == "s":
            kind = Source if call.inboxed else ServedSource
            return RemoteGenerator(kind(call, feeds, decoder, judge))
        if call.inboxed:
            call.session.service().adopt(call, lambda _: None)
        return RemoteAsyncGenerator(AsyncSource(call, feeds, decoder, judge))

    def _judge(self, outcome: Outcome, decoder: Decoder) -> Any:
        if isinstance(outcome.error, WatcherError):
            raise Failure(self._result(None, outcome, exited=None), outcome.error)
        error = outcome.error
        if isinstance(error, (RemoteConnectionLost, RemoteProcessDied)) and not error.begun:
            raise NotRun(frozenset(), error)
        if outcome.error is not None:
            raise outcome.error
        return read_answer(outcome, decoder, self._host.label, self._options.modules)

    def value(self) -> Any:
        """Run the call and return its value."""
        return None if self._options.dry else self._finish()[0]

    def result(self) -> Result[Any]:
        """Run the call and return its Result."""
        if self._options.dry:
            return self._result(None, Outcome())
        if makes_stream(self._fn):
            raise self._unending()
        value, outcome = self._finish()
        if isinstance(value, (RemoteGenerator, RemoteAsyncGenerator)):
            value.drop()
            raise self._unending()
        return self._result(value, outcome)

    def _unending(self) -> TypeError:
        return TypeError(
            f"run() can't return the Result of {self.name}, which makes a generator: what it "
            "prints isn't known before its end. Use call(), and out_stream= for what it prints."
        )

    def _result(self, value: Any, outcome: Outcome, exited: int | None = 0) -> Result[Any]:
        return Result(
            value,
            connection=self._host.context,
            stdout=outcome.stdout,
            stderr=outcome.stderr,
            encoding=self._options.encoding,
            command=self.text(),
            env=dict(self._options.env),
            exited=exited,
            hide=self._options.hide,
            pty=self._options.pty,
        )

    def submit(self) -> RemoteFuture[Any]:
        """Begin the call and return its Future."""
        if self._options.dry:
            future: RemoteFuture[Any] = RemoteFuture(self.name, lambda: None)
            future.set_result(None)
            return future
        future = RemoteFuture(self.name, lambda: None)
        try:
            self._launch(future)
        except BaseException:
            # Nobody has it.
            future.cancel()
            raise
        return future

    def _launch(self, future: RemoteFuture[Any]) -> None:
        self._call = None
        call, payload, decoder = self._start()
        try:
            self._call = call
            if self._cancelled:
                call.cancel()
            self._serve(future, call, payload, decoder)
        except BaseException as error:
            call.abort(error)
            call.finish()
            raise

    def _serve(
        self, future: RemoteFuture[Any], call: Call, payload: Payload, decoder: Decoder
    ) -> None:
        """Begin a call and have its session's service handle its frames, to the future's end."""
        try:
            service = call.session.service()
        except RemoteException as error:
            ahead, self._early = self._early, None
            if ahead is not None and call is ahead.call:
                # It may have run. What came of it, or that the link broke, is there or comes.
                self._resolve(future, call, decoder, call.wait() or Outcome())
                return
            call.abort(error)
            call.finish()
            lost = isinstance(error, RemoteConnectionLost)
            if not (lost and self._goes_again(NotRun(frozenset(), error), call)):
                raise
            self._launch(future)
            return
        future._kill = functools.partial(service.cancel, call)
        if self._lasting is not None:
            future._drop = functools.partial(self._lasting.skip, call)
        resolve = functools.partial(self._resolve, future, call, decoder)
        streams = self._options.out_stream, self._options.err_stream
        inert = is_inert(self._fn, *self._args, *self._kwargs.values(), *streams)
        alone = functools.partial(_settled, future) if inert else None
        # First: what went early may have ended by now, which is told as it is adopted.
        call.changed = functools.partial(self._begun, future, call, payload.feeds, decoder)
        service.adopt(call, resolve, alone)
        self._begin(call, payload)
        if future.cancelled():
            # Between two attempts.
            future._kill()

    def _begun(
        self, future: RemoteFuture[Any], call: Call, feeds: Feeds | None, decoder: Decoder
    ) -> None:
        """A frame was handled: is it a stream that has begun?"""
        if call.items.kind and not future.done():
            stream = self._stream(call, feeds, decoder)
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                future.set_result(stream)

    def _resolve(
        self, future: RemoteFuture[Any], call: Call, decoder: Decoder, outcome: Outcome
    ) -> None:
        if future.done() and not future.cancelled():
            # Its result is a stream, which tells the rest.
            return
        try:
            try:
                value = self._judge(outcome, decoder)
            except NotRun as failure:
                if not self._goes_again(failure, call, not future.cancelled()):
                    raise failure.error from failure.error.__cause__
                self._launch(future)
                return
        except BaseException as error:
            settle = functools.partial(future.set_exception, error)
        else:
            settle = functools.partial(future.set_result, value)
        # It may have been cancelled meanwhile.
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            settle()


def _settled(future: RemoteFuture[Any], answer: memoryview, end: Callable[[], None]) -> bool:
    """End a call in the thread that receives, if its answer takes no time and calls nobody."""
    return atoms.read(answer) is not None and future.settled_by(end)


__all__ = ["Host", "Prepared", "check_callable"]
