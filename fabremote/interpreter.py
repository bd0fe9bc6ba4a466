"""Options bound to a place to run: what `python()` returns, and what calls go through."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import reprlib
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

import fabric
from invoke.context import Context
from invoke.exceptions import Failure, WatcherError

from fabremote.bootstrap import RemotePython, this_python
from fabremote.calls import Call, Outcome
from fabremote.exceptions import RemoteCancelled, ResultError, ShippingError
from fabremote.options import Options, resolve
from fabremote.session import Session
from fabremote.shipping import raised, records
from fabremote.shipping.answers import Decoder, plain, refusal
from fabremote.shipping.modules import explain_missing, modules_of
from fabremote.shipping.payload import Payload, check_callable, dump, name_of

P = ParamSpec("P")
T = TypeVar("T")


class Host(Protocol):
    """What an interpreter runs on: a connection, or this machine."""

    context: Context
    label: str

    def live_session(self, options: Options) -> Session | None:
        """Return the agent for these options if there is a live one; connect to nothing."""

    def session(self, options: Options) -> Session:
        """Return the live agent for these options, started if need be."""


class Result(fabric.Result, Generic[T]):
    """Fabric's Result of a call, with the function's value.

    ``value``: what the function returned. ``stdout``, ``stderr``: what it
    printed (str). ``exited``: 0. ``connection``: where it ran. ``command``: the
    call as text.
    """

    value: T

    def __init__(self, value: T, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.value = value


class Interpreter:
    """A Python on a host, with the options of its calls bound once.

    Made by ``connection.python(...)``. Each call runs in a fresh process there.
    """

    def __init__(self, host: Host, given: Mapping[str, Any]) -> None:
        self._host = host
        self._given = dict(given)
        if given:
            resolve(host.context, self._given)  # What is wrong shows at once.

    def __reduce__(self) -> Any:
        raise TypeError("an Interpreter is a live connection's, which can't leave this process")

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._given.items())
        return f"<Interpreter on {self._host.label}{' ' if options else ''}{options}>"

    @overload
    def call(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn(*args, **kwargs)`` there in a fresh process and return its value.

        An ``async`` function is run to its end. What it prints is relayed live.
        Raises what the function raised, as its own type where that is a
        built-in one or one of yours, else RemoteError; ShippingError if the
        call can't be sent; ResultError if its result can't come back; and the
        rest of `fabremote.exceptions` for what befalls the host.
        """
        return self._prepare(fn, args, kwargs).value()

    @overload
    def run(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Result[T]: ...
    @overload
    def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Result[T]: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Result[Any]:
        """Run as `call` does, and return a `Result`: what was printed, and the value."""
        return self._prepare(fn, args, kwargs, keep=True).result()

    @overload
    def submit(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> RemoteFuture[T]: ...
    @overload
    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> RemoteFuture[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> RemoteFuture[Any]:
        """Begin the call and return a Future of its value at once.

        The function and its arguments are sent, or refused with ShippingError,
        before this returns. ``cancel()`` kills the remote process.
        """
        return self._prepare(fn, args, kwargs).submit()

    def plan(self) -> tuple[Options, RemotePython]:
        """Return the options in force, and the interpreter as far as it is known.

        Nothing is started for it: until a call has run, it is taken to be this Python.
        """
        options = resolve(self._host.context, self._given)
        session = self._host.live_session(options)
        return options, session.python if session is not None else this_python()

    def _prepare(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Any, keep: bool = False
    ) -> Prepared:
        check_callable(fn)
        options = resolve(self._host.context, self._given)
        return Prepared(self._host, options, fn, args, kwargs, keep)


class RemoteFuture(concurrent.futures.Future[T]):
    """The Future of a submitted call; cancelling it kills the remote process."""

    # What must not be dropped as long as the call runs.
    _owner: object = None

    def __init__(self, name: str, cancel: Callable[[], object]) -> None:
        super().__init__()
        self._name = name
        self._kill = cancel
        self._cancelling = threading.Lock()

    def cancel(self) -> bool:
        """Kill the call unless it is done; return whether it is cancelled now."""
        with self._cancelling:
            if self.cancelled():
                return True
            if not super().cancel():
                return False
            # Tells those who wait in as_completed() or wait().
            self.set_running_or_notify_cancel()
        self._kill()
        return True

    def running(self) -> bool:
        """Return whether the call has been sent and isn't done."""
        return not self.done()

    def result(self, timeout: float | None = None) -> T:
        """Return the value; raise what the call raised, or RemoteCancelled."""
        try:
            return super().result(timeout)
        except concurrent.futures.CancelledError as error:
            raise self._as_remote(error) from None

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised, or None; raise RemoteCancelled if it was cancelled."""
        try:
            return super().exception(timeout)
        except concurrent.futures.CancelledError as error:
            raise self._as_remote(error) from None

    def _as_remote(self, error: BaseException) -> BaseException:
        if not self.cancelled():
            return error
        return RemoteCancelled(f"{self._name} was cancelled.")


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
    ) -> None:
        self._host, self._options = host, options
        self._fn, self._args, self._kwargs = fn, args, kwargs
        self._keep = keep
        self.name = name_of(fn)
        if options.echo:
            print(options.echo_format.format(command=self.text()))

    def text(self) -> str:
        """Return the call as text, for echo and Result.command."""
        words = [reprlib.repr(arg) for arg in self._args]
        words += [f"{name}={reprlib.repr(value)}" for name, value in self._kwargs.items()]
        return f"{self.name.removesuffix('()')}({', '.join(words)})"

    def _start(self) -> tuple[Call, Payload, Decoder]:
        session = self._host.live_session(self._options)
        python = session.python if session is not None else this_python()
        # Before anything is begun over there, so that what can't go does nothing.
        payload = self._dump(python, session)
        if session is None:
            session = self._host.session(self._options)
            if session.python.reads != python.reads or session.unloadable:
                payload = self._dump(session.python, session)
        what = f"{self.name} on {session.label}"
        mine = payload.classes, payload.modules
        decoder = Decoder(what, *mine, self._options.trust, payload.files)
        session.reserve()
        number = session.number()
        try:
            record = None
            if self._options.logging:
                record = records.receiver(what, session.label)
            told = payload.provide, record
            call = Call(session, number, self.name, self._options, self._keep, *told)
        except BaseException:
            session.forget(number)
            raise
        return call, payload, decoder

    def _dump(self, python: RemotePython, session: Session | None) -> Payload:
        by_value = session.unloadable if session is not None else frozenset()
        return dump(self._fn, self._args, self._kwargs, self._options, python, by_value)

    def _finish(self) -> tuple[Any, Outcome]:
        while True:
            call, payload, decoder = self._start()
            try:
                return self._run(call, payload, decoder)
            except Unloadable as failure:
                # Nothing of the function has run: it goes again, without the module.
                if not call.session.keep_from(failure.names):
                    raise failure.error from failure.error.__cause__

    def _run(self, call: Call, payload: Payload, decoder: Decoder) -> tuple[Any, Outcome]:
        call.stdin.attend()
        try:
            call.session.begin(call, payload.parcel)
        except (KeyboardInterrupt, SystemExit) as error:
            call.abort(error)
        del payload
        outcome = call.wait()
        return self._judge(outcome, decoder), outcome

    def _judge(self, outcome: Outcome, decoder: Decoder) -> Any:
        if isinstance(outcome.error, WatcherError):
            raise Failure(self._result(None, outcome, exited=None), outcome.error)
        if outcome.error is not None:
            raise outcome.error
        return read_answer(outcome.answer, decoder, self._host.label, self._options.modules)

    def value(self) -> Any:
        """Run the call and return its value."""
        return None if self._options.dry else self._finish()[0]

    def result(self) -> Result[Any]:
        """Run the call and return its Result."""
        if self._options.dry:
            return self._result(None, Outcome())
        return self._result(*self._finish())

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
        self._launch(future)
        return future

    def _launch(self, future: RemoteFuture[Any]) -> None:
        call, payload, decoder = self._start()
        service = call.session.service()
        future._kill = functools.partial(service.cancel, call)
        service.adopt(call, functools.partial(self._resolve, future, call.session, decoder))
        call.session.begin(call, payload.parcel)
        if future.cancelled():
            # Between two attempts.
            future._kill()

    def _resolve(
        self, future: RemoteFuture[Any], session: Session, decoder: Decoder, outcome: Outcome
    ) -> None:
        try:
            try:
                value = self._judge(outcome, decoder)
            except Unloadable as failure:
                if future.cancelled() or not session.keep_from(failure.names):
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


class Unloadable(Exception):
    """Own modules that the far side could not load, before the function ran.

    ``error``: what it comes to unless the call can go without them.
    """

    def __init__(self, names: frozenset[str], error: ShippingError) -> None:
        super().__init__(names, error)
        self.names, self.error = names, error


def read_answer(
    answer: memoryview | None, decoder: Decoder, label: str, modules: tuple[str, ...] = ()
) -> Any:
    """Return the value that an answer's bytes hold, or raise what they say was raised."""
    letter = bytes(answer[:1]) if answer is not None else b""
    data = answer[1:] if answer is not None else memoryview(b"")
    if letter == b"V":
        return decoder.value(data)
    if letter == b"R":
        raise refusal(decoder, plain(data))
    if letter == b"E":
        raise with_remedy(raised.rebuild(raised.records(data), decoder, label), label, modules)
    if letter == b"M" and len(data) >= 2:
        size = 2 + int.from_bytes(data[:2], "big")
        names = frozenset(bytes(data[2:size]).decode("utf-8", "replace").split("\0"))
        raise Unloadable(decoder.own(names), not_loaded(data[size:], decoder, label, modules))
    if letter == b"L":
        raise not_loaded(data, decoder, label, modules)
    raise ResultError(f"{decoder.what} answered with what is not an answer.")


def not_loaded(
    data: memoryview, decoder: Decoder, label: str, modules: tuple[str, ...]
) -> ShippingError:
    """Return the error for a call that was sent but could not be loaded there."""
    found = raised.records(data)
    cause = with_remedy(raised.rebuild(found, decoder, label), label, modules)
    why = f"{found[0].type_name}: {found[0].text}"
    if isinstance(cause, ModuleNotFoundError):
        why = str(cause)
    error = ShippingError(
        f"{decoder.what} was sent, but not loaded there: {why.rstrip('.')}. "
        "What the function uses must be importable by that interpreter."
    )
    error.__cause__ = cause
    return error


def with_remedy(error: BaseException, label: str, modules: tuple[str, ...]) -> BaseException:
    """Return the exception; where an import failed there, it says where, and what to do."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        plain_text = f"No module named {error.name!r}"
        if str(error) in (plain_text, f"{plain_text}; {error.name!r} is not a package"):
            error.msg = explain_missing(error.name, modules_of(modules), label)
            error.args = (error.msg,)
    return error


__all__ = ["Interpreter", "RemoteFuture", "Result"]
