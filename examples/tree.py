"""Call on very many hosts by way of a few, each of which carries some of the others.

Run it with the hosts that carry, and all others::

    python tree.py --by gw1,gw2 --python /opt/fabremote/bin/python web1 web2 web3 web4

A host that carries others logs in to them as its own user does there: with its keys and its
~/.ssh/config. It needs fabremote: in the interpreter that ``--python`` names, or installed for it,
with ``--requires fabremote``. The others need a Python and nothing else.
"""

import argparse
import os
import sys

from fabremote import RemoteException, ThreadingGroup, wrap


def relay(hosts, fn, *args):
    """Call a function on hosts; return its value or error for each. This runs on who carries."""
    from fabric.exceptions import GroupException

    from fabremote import ThreadingGroup

    with ThreadingGroup(*hosts) as group:
        try:
            found = group.call(fn, *args)
        except GroupException as error:
            found = error.result
        return {
            host: (None, f"{type(value).__name__}: {value}")
            if one in found.failed
            else (value, None)
            for host, (one, value) in zip(hosts, found.items(), strict=True)
        }


def call(by, hosts, fn, *args, **options):
    """Call ``fn(*args)`` on hosts by way of others; return {host: (value, error)}.

    ``by``: the group of hosts that carry the others. ``options``: of their ``python()``.
    """
    shares = [hosts[number :: len(by)] for number in range(len(by))]
    under_way, found = [], {}

    def lost(one, share, error):
        reason = f"by way of {one.original_host}: {type(error).__name__}: {error}"
        found.update((host, (None, reason)) for host in share)

    for one, share in zip(by, shares, strict=True):
        try:
            future = wrap(one).python(**options).submit(relay, share, fn, *args)
        except RemoteException as error:  # It can't be reached.
            lost(one, share, error)
        else:
            under_way.append((one, share, future))
    for one, share, future in under_way:
        try:
            found.update(future.result())
        except Exception as error:  # It has no fabremote, for one.
            lost(one, share, error)
    return {host: found[host] for host in hosts}


def main(words):
    """Show the load of each host; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("hosts", nargs="+")
    parser.add_argument("--by", required=True, help="hosts that carry the others, with commas")
    parser.add_argument("--python", help="their interpreter that has fabremote")
    parser.add_argument("--requires", action="append", help="packages to install for it")
    given = parser.parse_args(words)
    options = {"python": given.python, "requires": given.requires}
    with ThreadingGroup(*given.by.split(",")) as by:
        found = call(by, given.hosts, os.getloadavg, **options)
    for host, (value, error) in found.items():
        print(f"{host}: {error or value[0]}", file=sys.stderr if error else sys.stdout)
    return 1 if any(error for _, error in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
