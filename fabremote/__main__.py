"""The command line: ``python -m fabremote doctor HOST [HOST...]``.

Exit status: 0 if all is fine with every host, 1 if there is a problem, 2 for
wrong usage, 130 if interrupted.
"""

from __future__ import annotations

import argparse
import getpass
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from fabremote import ssh_options
from fabremote.bootstrap import check_python
from fabremote.doctor import PROGRAM, Target, examine, parse_target
from fabremote.doctor_report import Report
from fabremote.hosts import find_key

ABOUT = """\
Log in to each host, look at all that a call needs there, and say what is wrong
and what to do about it. Host keys are verified, and nothing is sent to a host
whose key isn't known. Nobody is asked: BatchMode is on unless switched off."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    parser, doctor = _parsers()
    options = parser.parse_args(arguments)
    try:
        targets = _targets(options.hosts)
        given = _ssh_options(options.ssh_option)
        ssh_options.parse(given)
        if options.key is not None:
            find_key(options.key)
        if options.python is not None:
            check_python(options.python)
    except ValueError as error:
        doctor.error(str(error))
    try:
        password = getpass.getpass("Password: ") if options.password_prompt else None
        login = {"key": options.key, "password": password, "ssh_options": given}
        return _doctor(targets, {**login, "python": options.python}, options.json)
    except (KeyboardInterrupt, EOFError):
        print("\nInterrupted; all connections are closed.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Nobody reads on, as in `| head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(PROGRAM, description="Tools of fabremote.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    doctor = commands.add_parser(
        "doctor",
        help="look at all that a call to a host needs, and say what to do about problems",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 if all is fine, 1 if there is a problem, 2 for wrong usage.",
    )
    add = doctor.add_argument
    add("hosts", nargs="+", metavar="HOST", help="[user@]host[:port], or several with commas")
    add("--key", metavar="FILE", help="private key, as given or in ~/.ssh")
    add(
        "--password-prompt",
        action="store_true",
        help="ask for a password, for the login and for the key",
    )
    add("--python", metavar="COMMAND", help="the interpreter there: a name, path or command")
    add(
        "--ssh-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of ssh_config, as in docs/ssh_options.md; may be repeated",
    )
    add("--json", action="store_true", help="print one JSON document: a list of hosts")
    return parser, doctor


def _targets(words: list[str]) -> list[Target]:
    names = [part.strip() for word in words for part in word.split(",")]
    found = [parse_target(name) for name in dict.fromkeys(names) if name]
    if not found:
        raise ValueError("no host is named")
    return found


def _ssh_options(words: list[str]) -> dict[str, Any]:
    """Return options by name; what is given several times is a list."""
    found: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise ValueError(f"--ssh-option {word!r} is not NAME=VALUE")
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _doctor(targets: list[Target], settings: dict[str, Any], as_json: bool) -> int:
    # Without a handler, logging would print what the reports tell better.
    for name in ("paramiko", "fabremote"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    reports: list[Report] = []
    for target in targets:
        report = examine(target, **settings)
        if not as_json:
            print(("\n" if reports else "") + report.as_text(), flush=True)
        reports.append(report)
    if as_json:
        print(json.dumps([report.as_dict() for report in reports], indent=2), flush=True)
    return 0 if all(report.ok for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
