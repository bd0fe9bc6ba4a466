"""Roll a release out, host after host: each must be well before the next one's turn.

Run it in this folder, on any hosts that you can log in to::

    fab -c rollout deploy --hosts web1,web2,web3 --archive app-2.tar.gz --folder /srv/app
    fab -c rollout deploy ... --restart "systemctl restart app" --check "curl -fs localhost:8000"
    fab -c rollout back --hosts web1,web2,web3 --folder /srv/app

A host's folder has ``releases/NAME`` for each release and ``current``, a link to the one in use.
``{host}`` in it stands for the host's name. Where anything fails, that host and those done before
go back to what they had, and the rest are left alone.
"""

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

from fabric import Connection
from invoke import Exit

from fabremote import task, wrap

# These run on the hosts.


def install(folder, name, data):
    """Unpack an archive as a release; return whether it is new."""
    release = Path(folder, "releases", name)
    if release.is_dir():
        return False
    staged = release.with_name(f".{name}.{os.getpid()}")
    staged.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(staged, **safe)
        staged.rename(release)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return True


def switch(folder, name):
    """Have ``current`` lead to a release; return the name of the one before, or None."""
    current = Path(folder, "current")
    before = current.resolve().name if current.is_symlink() else None
    link = current.with_name(f".current.{os.getpid()}")
    link.symlink_to(Path("releases", name))
    link.replace(current)  # in one step: there is always one
    return before


def use(folder, restart):
    """Run the command that has the current release used, if there is one."""
    if restart:
        subprocess.run(restart, shell=True, check=True, cwd=Path(folder, "current"))


def is_well(folder, check, tries, pause):
    """Return whether a command succeeds in the release within so many tries."""
    for left in reversed(range(tries)):
        if subprocess.run(check, shell=True, cwd=Path(folder, "current")).returncode == 0:
            return True
        if left:
            time.sleep(pause)
    return False


def remember(folder, name):
    """Note the release to go back to; return the one that was noted before."""
    note = Path(folder, "previous")
    before = note.read_text() if note.exists() else ""
    note.write_text(name or "")
    return before


# These run here.


def listed(hosts):
    """Return the names in a text that has commas between them."""
    names = [host.strip() for host in hosts.split(",") if host.strip()]
    if not names:  # As with a variable of the shell that isn't set.
        raise Exit("--hosts names no host", 1)
    return names


def place_of(folder, host):
    """Return the folder of a host."""
    try:
        return folder.format(host=host)
    except LookupError:
        raise Exit(f"{folder}: nothing but {{host}} can stand for something", 1) from None


@task(
    help={
        "hosts": "names with commas between",
        "archive": "a tar file of the release, whose name is the release's",
        "folder": "where it goes; {host} is the host's name",
        "check": "a command that succeeds in a healthy release",
        "restart": "a command that has the new release used",
        "tries": "how often to check before giving up",
        "pause": "seconds between two tries",
    }
)
def deploy(c, hosts, archive, folder, check="./check", restart="", tries=5, pause=1.0):
    """Roll a release out with checks; roll it back where one fails."""
    try:
        data, name = Path(archive).read_bytes(), Path(archive).name.partition(".tar")[0]
    except OSError as error:
        raise Exit(str(error), 1) from None
    done = []
    with contextlib.ExitStack() as stack:
        for host in listed(hosts):
            place = place_of(folder, host)
            try:
                there = wrap(stack.enter_context(Connection(host)))
                new = there.call(install, place, name, data)
                before = there.call(switch, place, name)
                done.append((host, there, place, before))
                print(
                    f"{host}: {name} {'installed' if new else 'was there'}, in place of {before}"
                )
                there.call(use, place, restart)
                well = there.call(is_well, place, check, tries, pause)
                problem = "" if well else f"{name} is not well"
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            if problem:
                back = "all hosts have" if undo(done, restart) else "not all hosts have"
                raise Exit(f"{host}: {problem}; {back} what they had", 1)
            print(f"{host}: {name} is well")
        for _, there, place, before in done:
            if before != name:
                there.call(remember, place, before)


def undo(done, restart):
    """Have hosts use again what they used before, the last one first; return whether all do."""
    all_do = True
    for host, there, place, before in reversed(done):
        try:
            if before is None:
                raise LookupError("has nothing to go back to")
            there.call(switch, place, before)
            there.call(use, place, restart)
            print(f"{host}: back to {before}")
        except Exception as error:
            all_do = False
            print(f"{host}: {error}")
    return all_do


@task(help={"hosts": "names with commas between", "folder": "as for deploy"})
def back(c, hosts, folder, restart=""):
    """Have hosts use the release before the current one."""
    for host in listed(hosts):
        place = place_of(folder, host)
        with Connection(host) as connection:
            there = wrap(connection)
            try:
                name = there.call(remember, place, None)
                if not name:
                    raise LookupError("has nothing to go back to")
                there.call(switch, place, name)
                there.call(use, place, restart)
            except Exception as error:
                raise Exit(f"{host}: {error}", 1) from None
            print(f"{host}: back to {name}")
