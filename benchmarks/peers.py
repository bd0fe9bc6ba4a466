"""``python -m benchmarks.peers``: fabremote beside others, over SSH to the same server.

Prints a table in Markdown. Each row's contenders take turns; the figures are
medians. "-" stands where a peer has no such thing: a call in a process of its
own, say, or output that is shown as it is printed. Needs the dependency group
``peers``, an sshd, and ssh.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fabric

from benchmarks.__main__ import machine, version
from benchmarks.far_side import PRINTING, make_bytes, print_lines
from benchmarks.host import Host, same_python
from benchmarks.measure import take_turns
from fabremote.demo.server import Server, serve

SIZE = 64 << 20
LINES, WIDTH = 50_000, 79
PRINTED = LINES * (WIDTH + 1)
IN_FLIGHT, CALLS = 8, 200
PEERS = ("mitogen", "execnet", "rpyc", "fabric")
OPTIONS = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes")
QUIET = "LogLevel=ERROR"

# What a contender can do, by the row that it is measured in.
Actions = dict[str, Callable[[], object]]
# Title, unit, runs in a row, rounds; and how much of the unit one run is.
ROWS: dict[str, tuple[str, str, int, int, float]] = {
    "first": ("connect and first result", "ms", 1, 7, 1e3),
    "fresh": ("a call in a process of its own", "ms", 10, 10, 1e3),
    "lasting": ("a call in a process that stays", "ms", 50, 10, 1e3),
    "eight": ("8 calls in flight in such a process", "/s", 1, 5, CALLS),
    "up": ("64 MiB of bytes as an argument", "MB/s", 1, 5, SIZE / 1e6),
    "down": ("64 MiB of bytes as a result", "MB/s", 1, 5, SIZE / 1e6),
    "prints": ("4 MB of printed lines, kept", "MB/s", 1, 3, PRINTED / 1e6),
}


def main() -> None:
    """Measure the rows named on the command line, or all, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    chosen = parser.parse_args().rows or list(ROWS)
    for name in chosen:
        if name not in ROWS:
            parser.error(f"no row {name!r}; there are {', '.join(ROWS)}")
    print(machine() + "; " + ", ".join(f"{name} {version(name)}" for name in PEERS), end="\n\n")
    with (
        tempfile.TemporaryDirectory() as directory,
        serve(Path(directory), env=same_python(Path(directory))) as server,
    ):
        print("\n".join(table(measure(server, chosen))))
    # Threads of the peers' may still wait for what has gone.
    sys.stdout.flush()
    os._exit(0)


def measure(server: Server, chosen: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the median seconds of each contender, by row."""
    found = {}
    with ExitStack() as opened:
        able = {name: opened.enter_context(make(server)) for name, make in CONTENDERS.items()}
        for row in chosen:
            _, _, each, rounds, _ = ROWS[row]
            actions = {name: can[row] for name, can in able.items() if row in can}
            seconds = take_turns(actions, rounds=rounds, each=each)
            found[row] = {name: statistics.median(values) for name, values in seconds.items()}
            print(f"measured: {ROWS[row][0]}", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, dict[str, float]]) -> list[str]:
    """Return the lines of the table."""
    lines = ["| | " + " | ".join(CONTENDERS) + " |", "|---|" + "---|" * len(CONTENDERS)]
    for row, seconds in found.items():
        title, unit, _, _, amount = ROWS[row]
        cells = [_cell(seconds.get(name), unit, amount) for name in CONTENDERS]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _cell(seconds: float | None, unit: str, amount: float) -> str:
    if seconds is None:
        return "-"
    value = seconds * amount if unit == "ms" else amount / seconds
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def _ssh_options(server: Server) -> list[str]:
    """Return the options of the ssh command for this server, for peers that run it."""
    words = ["-p", str(server.port), "-i", server.key]
    return words + [word for option in (*OPTIONS, QUIET) for word in ("-o", option)]


def _few_at_once(begin: Callable[[], Any], end: Callable[[Any], object]) -> None:
    """Begin all the calls, few at once, and wait for the end of each."""
    waiting = []
    for _ in range(CALLS):
        waiting.append(begin())
        if len(waiting) == IN_FLIGHT:
            end(waiting.pop(0))
    for call in waiting:
        end(call)


# The contenders: each yields what it can do, over a connection that is open.


@contextmanager
def fabremotes(server: Server) -> Iterator[Actions]:
    """Yield fabremote's actions."""
    host, data = Host(server), make_bytes(SIZE)
    with host.connection() as conn, ExitStack() as stack:
        fresh, bound = (conn.python(python=sys.executable, hide=True) for _ in range(2))
        lasting = stack.enter_context(bound)

        def first() -> None:
            with host.connection() as another:
                another.python(python=sys.executable).call(len, "abc")

        yield {
            "first": first,
            "fresh": lambda: fresh.call(len, "abc"),
            "lasting": lambda: lasting.call(len, "abc"),
            "eight": lambda: _few_at_once(
                lambda: lasting.submit(len, "abc"), lambda one: one.result()
            ),
            "up": lambda: fresh.call(len, data),
            "down": lambda: fresh.call(make_bytes, SIZE),
            "prints": lambda: fresh.run(print_lines, LINES, WIDTH),
        }


@contextmanager
def mitogens(server: Server) -> Iterator[Actions]:
    """Yield mitogen's: a context over SSH, and children forked off it."""
    import mitogen.core
    import mitogen.master

    broker = mitogen.master.Broker()
    router = mitogen.master.Router(broker)
    settings = {
        "hostname": server.hosts[0],
        "port": server.port,
        "username": server.user,
        "identity_file": server.key,
        "python_path": sys.executable,
        "check_host_keys": "ignore",
    }
    blob = mitogen.core.Blob(make_bytes(SIZE))
    try:
        context = router.ssh(**settings)

        def first() -> None:
            # A context is known by its host: another name of it is another connection.
            another = router.ssh(**settings, remote_name=f"another-{next(numbers)}")
            another.call(len, "abc")
            another.shutdown(wait=True)

        def fresh() -> None:
            child = router.fork(via=context)
            child.call(len, "abc")
            child.shutdown(wait=True)

        def eight() -> None:
            _few_at_once(lambda: context.call_async(len, "abc"), lambda one: one.get().unpickle())

        numbers = iter(range(1000))
        yield {
            "first": first,
            "fresh": fresh,
            "lasting": lambda: context.call(len, "abc"),
            "eight": eight,
            "up": lambda: context.call(len, blob),
            "down": lambda: context.call(make_bytes, SIZE),
        }
    finally:
        broker.shutdown()
        broker.join()


@contextmanager
def execnets(server: Server) -> Iterator[Actions]:
    """Yield execnet's: a loop in a gateway, which serves one item of its channel after another."""
    import execnet

    # A path with blanks would need quoting that execnet doesn't take back.
    place = f"{server.user}@{server.hosts[0]}"
    spec = f"ssh={' '.join(_ssh_options(server))} {place}//python={sys.executable}"
    loop = "for name, args in channel: channel.send(eval(name)(*args))"
    data = make_bytes(SIZE)
    group = execnet.Group()
    channel = group.makegateway(spec).remote_exec(loop)

    def first() -> None:
        gateway = group.makegateway(spec)
        channel = gateway.remote_exec("channel.send(len('abc'))")
        channel.receive()
        gateway.exit()

    def call(name: str, *args: Any) -> Any:
        channel.send((name, args))
        return channel.receive()

    def eight() -> None:
        for number in range(CALLS + IN_FLIGHT):
            if number < CALLS:
                channel.send(("len", ("abc",)))
            if number >= IN_FLIGHT:
                channel.receive()

    try:
        yield {
            "first": first,
            "lasting": lambda: call("len", "abc"),
            "eight": eight,
            "up": lambda: call("len", data),
            "down": lambda: call("bytes", SIZE),
        }
    finally:
        group.terminate(2)


@contextmanager
def rpycs(server: Server) -> Iterator[Actions]:
    """Yield RPyC's: a connection to its server forks a process."""
    from rpyc.utils.helpers import async_

    data = make_bytes(SIZE)

    def first() -> None:
        with _deployed(server) as another:
            once(another)

    def once(place: Any) -> None:
        connection = place.classic_connect()
        connection.builtins.len("abc")
        connection.close()

    with _deployed(server) as found:
        lasting = found.classic_connect()
        length = lasting.builtins.len
        later = async_(length)

        yield {
            "first": first,
            "fresh": lambda: once(found),
            "lasting": lambda: length("abc"),
            "eight": lambda: _few_at_once(lambda: later("abc"), lambda one: one.wait()),
            "up": lambda: length(data),
            "down": lambda: lasting.builtins.bytes(SIZE),
        }
        lasting.close()


@contextmanager
def _deployed(server: Server) -> Iterator[Any]:
    """Yield RPyC's server, deployed there without installation."""
    from plumbum import SshMachine
    from rpyc.utils.zerodeploy import DeployedServer

    options = _ssh_options(server)[4:]
    with (
        SshMachine(
            server.hosts[0],
            user=server.user,
            port=server.port,
            keyfile=server.key,
            ssh_opts=options,
            scp_opts=options,
        ) as machine,
        DeployedServer(
            machine,
            server_class="rpyc.utils.server.ForkingServer",
            python_executable=sys.executable,
        ) as found,
    ):
        yield found


@contextmanager
def fabrics(server: Server) -> Iterator[Actions]:
    """Yield Fabric's own: commands, and files for what is large."""
    data = make_bytes(SIZE)
    python = shlex.quote(sys.executable)

    def connect() -> fabric.Connection:
        return fabric.Connection(
            server.hosts[0], server.user, server.port, connect_kwargs=server.connect_kwargs
        )

    def run(conn: fabric.Connection, script: str) -> str:
        return str(
            conn.run(f"{python} -c {shlex.quote(script)}", hide=True, in_stream=False).stdout
        )

    def first() -> None:
        with connect() as another:
            run(another, "print(3)")

    with connect() as conn, contextlib.closing(io.BytesIO()) as target:
        path = str(server.home / "payload")

        def get() -> None:
            target.seek(0)
            conn.get(path, target)

        yield {
            "first": first,
            "fresh": lambda: run(conn, "print(3)"),
            "up": lambda: conn.put(io.BytesIO(data), path),
            "down": get,
            "prints": lambda: run(conn, PRINTING % (False, WIDTH, LINES)),
        }


CONTENDERS: dict[str, Callable[[Server], Any]] = {
    "fabremote": fabremotes,
    "mitogen": mitogens,
    "execnet": execnets,
    "RPyC": rpycs,
    "plain Fabric": fabrics,
}


if __name__ == "__main__":
    main()
