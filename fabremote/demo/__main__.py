"""A tour of fabremote against throwaway SSH servers: ``python -m fabremote.demo``.

It needs no host, no root and no configuration. Every step checks what it shows; the exit status
is 1 if one of them failed or no server could be started.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fabric
from paramiko import SSHConfig

from fabremote import Connection, Interpreter, RemoteTraceback, UntrustedResult
from fabremote.demo.server import Server, ServerError, serve

WIDTH = 78
INDENT = "   "
PAUSE = 0.3
NAP = 1.0
HELP = "A tour of fabremote against throwaway SSH servers on this machine's loopback."
NAMES = {"openssh": "this machine's OpenSSH sshd", "asyncssh": "an embedded asyncssh server"}


# What runs on the far side. This file is __main__, so these travel by value.


def count_down(start: int, pause: float) -> dict[str, Any]:
    """Print slowly, and say where that was."""
    import socket

    for number in range(start, 0, -1):
        print(number, "..." if number > 1 else "lift-off")
        time.sleep(pause)
    return {"host": socket.gethostname(), "pid": os.getpid(), "counted": start}


class OutOfStock(Exception):
    """An exception class of the caller's own."""

    def __init__(self, item: str, wanted: int, left: int) -> None:
        super().__init__(item, wanted, left)
        self.item, self.wanted, self.left = item, wanted, left

    def __str__(self) -> str:
        return f"{self.wanted} of {self.item} wanted, {self.left} left"


def check_stock(item: str, wanted: int) -> None:
    left = len(item)
    if wanted > left:
        raise OutOfStock(item, wanted, left)


def reserve(item: str, wanted: int) -> str:
    check_stock(item, wanted)
    return f"{wanted} of {item} reserved"


class Trojan:
    """What a host that was broken into may answer: it runs code wherever it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def answer_with_a_trojan(path: str) -> Trojan:
    return Trojan(path)


def nap(seconds: float) -> str:
    """Sleep, and say at which address."""
    time.sleep(seconds)
    return os.environ["SSH_CONNECTION"].split()[2]


# The steps


class Failed(Exception):
    """A step did not show what it should have."""


@dataclass
class Tour:
    """What the steps share: three hosts, the Python to use there, a directory, the screen."""

    hosts: list[Connection]
    python: str
    directory: Path
    screen: Screen

    def host(self, index: int = 0, **options: Any) -> Interpreter:
        """The Python of one host."""
        return self.hosts[index].python(python=self.python, **options)


def live_output(tour: Tour) -> None:
    """A call: its output arrives while it runs"""
    tour.screen.say("c.call(count_down, 4, 0.3)")
    live = Live(tour.screen)
    value = tour.host(out_stream=live).call(count_down, 4, PAUSE)
    live.finish()
    tour.screen.say(f"returned {value}")
    check(live.lines == ["4 ...", "3 ...", "2 ...", "1 lift-off"], "the output is incomplete")
    check(value["counted"] == 4 and value["pid"] != os.getpid(), "the value is wrong")
    spread = live.times[-1] - live.times[0]
    check(spread > PAUSE, f"all lines arrived within {spread:.2f} s: not while it ran")


def remote_exception(tour: Tour) -> None:
    """An exception: its own type, with the far side's traceback"""
    tour.screen.say("c.call(reserve, 'spanner', 12)")
    try:
        tour.host().call(reserve, "spanner", 12)
    except OutOfStock as error:
        cause = error.__cause__
        check(isinstance(cause, RemoteTraceback), "no remote traceback came along")
        tour.screen.quote(str(cause).strip().strip('"').strip())
        tour.screen.say(f"caught here as {type(error).__name__}, with error.left == {error.left}")
        check("in check_stock" in str(cause), "the traceback doesn't show where it was raised")
        check((error.wanted, error.left) == (12, 7), "its attributes are wrong")
    else:
        raise Failed("nothing was raised")


def refused_answer(tour: Tour) -> None:
    """An answer that would run code here: refused"""
    target = tour.directory / "created-by-the-answer"
    tour.screen.say("c.call(answer_with_a_trojan, path)")
    try:
        tour.host().call(answer_with_a_trojan, str(target))
    except UntrustedResult as error:
        tour.screen.quote(f"{type(error).__name__}: {error}")
    else:
        raise Failed("the answer was taken")
    check(not target.exists(), "its code ran here")
    tour.screen.say("and none of its code ran here")


def three_hosts(tour: Tour) -> None:
    """Three hosts at once"""
    hosts = [tour.host(index) for index in range(3)]
    started = time.perf_counter()
    for host in hosts:
        host.call(os.getpid)
    tour.screen.say(f"connected to all three in {since(started)}")
    tour.screen.say("[host.submit(nap, 1.0) for host in hosts]")
    started = time.perf_counter()
    futures = [host.submit(nap, NAP) for host in hosts]
    answers = []
    for future in futures:
        answers.append(future.result())
        tour.screen.row(started, f"{answers[-1]} has slept {NAP} s")
    took = time.perf_counter() - started
    tour.screen.say(f"{len(answers)} naps of {NAP} s took {took:.2f} s together")
    check(len(answers) == 3, "not all answered")
    check(took < 2.5 * NAP, "they ran one after the other")


STEPS = (live_output, remote_exception, refused_answer, three_hosts)


def check(good: bool, complaint: str) -> None:
    """Fail the step unless ``good``."""
    if not good:
        raise Failed(complaint)


def since(started: float) -> str:
    """The time since ``started`` as text."""
    return f"{time.perf_counter() - started:.2f} s"


# What it looks like


class Screen:
    """Plain text in 80 columns, with a little colour on a terminal."""

    def __init__(self) -> None:
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._colour = sys.stdout.isatty() and not plain

    def paint(self, code: int, text: str) -> str:
        """The text in this colour, if there are any."""
        return f"\033[{code}m{text}\033[0m" if self._colour else text

    def line(self, text: str = "") -> None:
        """Show one line now; end the tour if nobody reads on, as in ``| head``."""
        try:
            print(text, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise SystemExit(1) from None

    def say(self, text: str) -> None:
        """Show a text of a step, folded."""
        for line in textwrap.wrap(text, WIDTH - len(INDENT)):
            self.line(INDENT + line)

    def quote(self, text: str) -> None:
        """Show what came from fabremote, its own lines kept."""
        for line in text.splitlines():
            for part in textwrap.wrap(line, WIDTH - 9, subsequent_indent="  ") or [""]:
                self.line(f"{INDENT}  {self.paint(2, '|')} {part}")

    def row(self, started: float, text: str) -> None:
        """Show what happened this long after ``started``."""
        self.line(f"{INDENT}  {self.paint(2, since(started) + ' |')} {text}")

    def verdict(self, good: bool, started: float) -> None:
        """Show how a step ended, and its time at the right."""
        word = self.paint(32, "ok") if good else self.paint(31, "FAILED")
        self.line(INDENT + word + since(started).rjust(WIDTH - 3 - (2 if good else 6)))


class Live(io.StringIO):
    """An out_stream that shows each line with the time at which it came."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen
        self._started = time.perf_counter()
        self._rest = ""
        self.lines: list[str] = []
        self.times: list[float] = []

    def write(self, text: str) -> int:
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self.lines.append(line)
            self.times.append(time.perf_counter())
            self._screen.row(self._started, line)
        return len(text)

    def finish(self) -> None:
        """Show an unfinished last line too."""
        if self._rest:
            self.write("\n")


# The whole


def main() -> int:
    """Run the tour and return the exit status."""
    options = parse()
    try:
        with ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fabremote-demo-"))
            server = stack.enter_context(serve(Path(directory), options.server))
            hosts = stack.enter_context(connections(server))
            return show(server, Tour(hosts, options.python, Path(directory), Screen()))
    except ServerError as error:
        print(f"The demo has no server: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; all that was started has been ended.", file=sys.stderr)
        return 130


def parse() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser("python -m fabremote.demo", description=HELP)
    parser.add_argument(
        "--server",
        choices=sorted(NAMES, reverse=True),
        default="openssh",
        help="the kind of server to prefer (default: %(default)s)",
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="the interpreter that the far side uses (default: the one that runs this)",
    )
    return parser.parse_args()


@contextmanager
def connections(server: Server) -> Iterator[list[Connection]]:
    """Connections to three hosts, which are loopback addresses of one server."""
    made = [connect(server, address) for address in (server.hosts * 3)[:3]]
    try:
        yield made
    finally:
        for connection in made:
            connection.close()


def connect(server: Server, address: str) -> Connection:
    """A connection to the server, whatever the user's own SSH configuration says."""
    return Connection(
        address,
        user=server.user,
        port=server.port,
        connect_kwargs=server.connect_kwargs,
        config=fabric.Config(lazy=True, ssh_config=SSHConfig()),
    )


def show(server: Server, tour: Tour) -> int:
    """Run every step; return the exit status."""
    screen = tour.screen
    screen.line(screen.paint(1, f"fabremote {version('fabremote')}: a tour"))
    screen.line(f"Server: {NAMES[server.kind]} ({server.kind})")
    screen.line(f"Hosts:  {', '.join(server.hosts)}, port {server.port}")
    screen.line(f"Python: {platform.python_version()} here")
    started = time.perf_counter()
    failed = [number for number, step in enumerate(STEPS, 1) if not shown(number, step, tour)]
    screen.line()
    if failed:
        numbers = ", ".join(map(str, failed))
        screen.line(screen.paint(31, f"FAILED: step {numbers} of {len(STEPS)}"))
        return 1
    screen.line(screen.paint(32, f"All {len(STEPS)} steps worked, in {since(started)}."))
    return 0


def shown(number: int, step: Callable[[Tour], None], tour: Tour) -> bool:
    """Run one step; return whether it showed what it should."""
    tour.screen.line()
    tour.screen.line(tour.screen.paint(1, f"{number}. {step.__doc__}"))
    started = time.perf_counter()
    good = False
    try:
        step(tour)
        good = True
    except Failed as error:
        tour.screen.quote(str(error))
    except Exception as error:
        tour.screen.quote(f"{type(error).__name__}: {error}")
    tour.screen.verdict(good, started)
    return good


if __name__ == "__main__":
    sys.exit(main())
