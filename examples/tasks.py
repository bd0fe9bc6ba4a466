"""Tasks of a project, for plain `inv`: some run here in fresh Pythons, some on hosts.

Run it in this folder::

    inv --list
    inv check
    inv publish --hosts web1,web2 --folder /srv/docs

``publish`` has ``build`` run before it and ``clean`` after it; ``build`` has ``check``.
"""

import hashlib
import io
import shutil
import zipfile
from pathlib import Path

from fabric.exceptions import GroupException
from invoke import Exit

from fabremote import ThreadingGroup, task

HERE = Path(__file__).parent
BUILD = HERE / "build"


def compiled(folder):
    """Return the modules of a folder, all of which compile; raise SyntaxError if one doesn't."""
    paths = sorted(Path(folder).glob("*.py"))
    for path in paths:
        compile(path.read_bytes(), path, "exec")
    return [path.name for path in paths]


def unpack(folder, data):
    """Unpack an archive into a folder; return how many files it has. This runs on the hosts."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(folder)
        return len(archive.namelist())


@task
def check(c):
    """See whether the examples compile, in a fresh Python of this machine."""
    print(f"check: {len(c.call(compiled, str(HERE)))} modules compile")


@task(pre=[check])
def build(c):
    """Pack the examples."""
    BUILD.mkdir(exist_ok=True)
    with zipfile.ZipFile(BUILD / "examples.zip", "w") as archive:
        for path in sorted(HERE.glob("*.py")):
            archive.write(path, path.name)
    print(f"build: {path.parent.name}/build/examples.zip")


@task
def clean(c):
    """Remove what was built."""
    shutil.rmtree(BUILD, ignore_errors=True)
    print("clean: done")


@task(
    pre=[build],
    post=[clean],
    help={"hosts": "names with commas between", "folder": "where to unpack it there"},
)
def publish(c, hosts, folder):
    """Put the examples on hosts."""
    data = (BUILD / "examples.zip").read_bytes()
    names = [host.strip() for host in hosts.split(",") if host.strip()]
    if not names:
        raise Exit("--hosts names no host", 1)
    with ThreadingGroup(*names) as group:
        try:
            found = group.call(unpack, folder, data)
        except GroupException as error:
            raise Exit(error.result.summary(), 1) from None
    for connection, count in found.items():
        print(f"publish: {count} files on {connection.original_host}")
    print(f"publish: {hashlib.sha256(data).hexdigest()[:12]}")
