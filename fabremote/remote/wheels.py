"""What wheels the host's interpreter takes, and those that callers send."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig

from . import folders

# The oldest glibc that wheels are made for, and older names of some.
OLDEST = {"x86_64": 5, "i686": 5}
ALIASES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
# The machine of a 32-bit Python, by that of the kernel.
ON_32_BITS = {"x86_64": "i686", "aarch64": "armv7l", "armv8l": "armv7l"}
MAC_FORMATS = {"x86_64": ("x86_64", "universal2", "intel", "fat64", "fat32", "universal")}


def facts():
    """Return what decides which wheels fit, and what markers in requirements mean here."""
    implementation, abis = interpreter()
    return {
        "platforms": platforms(),
        "python": "%d.%d.%d" % sys.version_info[:3],
        "implementation": implementation,
        "abis": abis,
        "markers": markers(),
    }


def interpreter():
    """Return the short name of the implementation, and the ABIs of its extension modules."""
    words = (sysconfig.get_config_var("SOABI") or "").split("-")
    if words[0] == "cpython":
        # Without a global lock there is no stable ABI.
        stable = [] if "t" in words[1] else ["abi3"]
        return "cp", ["cp" + words[1]] + stable + ["none"]
    if words[0].startswith("pypy"):
        return "pp", ["_".join(words[:2]), "none"]
    return "py", ["none"]


def platforms():
    """Return the platform tags of wheels that run here, the likeliest first."""
    own = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    if own.startswith("linux_"):
        machine = own[len("linux_") :]
        if sys.maxsize < 2**32:
            machine = ON_32_BITS.get(machine, machine)
        return ["linux_" + machine] + c_library(machine)
    if own.startswith("macosx_"):
        return mac(platform.mac_ver()[0], platform.machine()) + [own]
    return [own]


def c_library(machine):
    """Return the tags of the C library: glibc's for all versions up to this one's, or musl's."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        name = version = ""
    if name == "glibc":
        found = []
        for minor in range(int(version.split(".")[1]), OLDEST.get(machine, 17) - 1, -1):
            found.append("manylinux_2_%d_%s" % (minor, machine))
            if minor in ALIASES:
                found.append("%s_%s" % (ALIASES[minor], machine))
        return found
    return ["musllinux_1_%d_%s" % (minor, machine) for minor in range(musl(), -1, -1)]


def musl(lib="/lib"):
    """Return the minor version of musl 1, as its loader tells; -1 if it isn't there."""
    for name in sorted(os.listdir(lib)) if os.path.isdir(lib) else []:
        if name.startswith("ld-musl-"):
            done = subprocess.Popen([os.path.join(lib, name)], stderr=subprocess.PIPE)
            for line in done.communicate()[1].decode("ascii", "replace").splitlines():
                words = line.split()
                if words[:1] == ["Version"] and words[1].startswith("1."):
                    return int(words[1].split(".")[1])
    return -1


def mac(version, machine):
    """Return the tags of macOS for all versions up to this one."""
    major, minor = map(int, (version.split(".") + ["0"])[:2])
    releases = ["%d_0" % number for number in range(major, 10, -1)]
    if machine == "x86_64":
        newest = minor if major == 10 else 16
        releases += ["10_%d" % number for number in range(newest, 3, -1)]
    formats = MAC_FORMATS.get(machine, (machine, "universal2"))
    return ["macosx_%s_%s" % (release, each) for release in releases for each in formats]


def markers():
    """Return the variables of environment markers."""
    version = "%d.%d.%d" % sys.version_info[:3]
    kind = sys.version_info[3]
    if kind != "final":
        version += kind[0] + str(sys.version_info[4])
    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": version,
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": version,
        "python_version": "%d.%d" % sys.version_info[:2],
        "sys_platform": sys.platform,
    }


def missing(cache_dir, digests):
    """Return those of the wheels that aren't there, by their digests."""
    stored, found = folders.folder(cache_dir, "wheels"), []
    for digest in digests:
        try:
            # So that `clean` takes them for used.
            os.utime(os.path.join(stored, digest))
        except OSError:
            found.append(digest)
    return found


def receive(cache_dir, digest, name, token, at, data, last):
    """Take a piece of a wheel; with the last, check it and put it in its place.

    Return (), or ("failed", why, log). ``token``: the sender's own.
    """
    try:
        stored = folders.folder(cache_dir, "wheels")
        folders.make_private(stored)
        part = os.path.join(stored, "%s.%s.part" % (digest, token))
        os.makedirs(part, 0o700, exist_ok=True)
        with open(os.path.join(part, name), "r+b" if at else "wb") as stream:
            stream.seek(at)
            stream.write(data)
        if last:
            place(part, name, os.path.join(stored, digest), digest)
    except folders.Failed as error:
        return ("failed",) + error.args
    except OSError as error:
        return "failed", "no wheel could be stored there: %s" % error, ""
    return ()


def place(part, name, target, digest):
    """Put a wheel that has arrived where it is looked for, unless another's copy is there."""
    import hashlib

    found = hashlib.sha256()
    with open(os.path.join(part, name), "rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            found.update(piece)
    whole = found.hexdigest() == digest
    try:
        if whole:
            os.rename(part, target)
    except OSError:
        if not os.path.isdir(target):
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    if not whole:
        raise folders.Failed("%s did not arrive whole" % name, "")
