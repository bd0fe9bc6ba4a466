"""Has uv or pip make a virtual environment and install what is wanted.

uv is used where it is there and would do what pip, as it is set, does: pip's
own settings apply either way.
"""

import os
import shutil
import sys

from . import folders

LOG = 64 << 10
LISTS = ("requirements.txt", "constraints.txt")
# Variables that would have an installer put packages elsewhere, think that it has them, or fail.
MISLEADING = (
    "PIP_PREFIX",
    "PIP_ROOT",
    "PIP_TARGET",
    "PIP_USER",
    "PYTHONPATH",
    "PYTHONWARNINGS",
    "UV_SYSTEM_PYTHON",
    "VIRTUAL_ENV",
)
# Options of a requirements file that uv does as pip does.
FOR_UV = "--index-url --extra-index-url --find-links --no-index --no-binary --only-binary"
# Of all indexes the newest version, whatever a uv.toml says in a folder above or the user's own.
AS_PIP = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_NO_CONFIG": "1"}
# Settings of pip that mean nothing for what is installed.
IDLE = """
break-system-packages cache-dir default-timeout disable-pip-version-check log no-cache-dir no-color
no-input no-python-version-warning no-warn-script-location progress-bar quiet require-virtualenv
retries root-user-action timeout user verbose
"""
ELSEWHERE = ("prefix", "root", "target")
# The oldest pip that installs into another environment than its own.
OUTSIDE = (22, 3)
# Settings of pip that a requirements file can say to uv.
TOLD = [option[2:] for option in FOR_UV.split()] + ["constraint"]


def install(wanted, path, held):
    """Make an environment in a folder; return its interpreter. ``held``: the lock on it."""
    env = surroundings(wanted["cache_dir"])
    settings = pip_settings(env)
    for name in ELSEWHERE:
        if name in settings:
            raise folders.Failed(
                "pip's settings there have %s = %s, which would install elsewhere. Give the call "
                'env={"PIP_CONFIG_FILE": "/dev/null"}' % (name, settings[name]),
                "",
            )
    uv = find_uv(wanted, settings)
    python = os.path.join(path, "bin", "python")
    os.mkdir(path, 0o700)
    if uv:
        env.update(AS_PIP)
        if "cert" in settings:
            env.setdefault("SSL_CERT_FILE", settings["cert"])
        command = [uv, "venv", "--allow-existing", "--no-project", "--python", sys.executable]
        tool = [uv, "pip", "install", "--python", python]
        if not wanted["wheels"] and any(" --hash=" in line for line in wanted["requirements"]):
            # As pip does by itself.
            tool.append("--require-hashes")
    else:
        # pip reads its settings itself.
        settings = {}
        outside = pip_version() >= OUTSIDE
        command = [sys.executable, "-m", "venv"] + ["--without-pip"] * outside
        tool = [sys.executable, "-m", "pip", "--python", python]
        tool = tool if outside else [python, "-m", "pip"]
        tool += ["install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    run(command + [path], env, path, held)
    if wanted["requirements"]:
        run(tool + what(wanted, path, settings), env, path, held)
        # Lines of them may have passwords.
        for name in LISTS:
            if os.path.exists(os.path.join(path, name)):
                os.unlink(os.path.join(path, name))
    return python


def what(wanted, path, settings):
    """Return the arguments that say what to install, as files: others see a command's words."""
    lines = told_lines(settings, wanted["options"])
    lines += list(wanted["options"]) + list(wanted["requirements"])
    arguments = []
    if wanted["wheels"]:
        stored = folders.folder(wanted["cache_dir"], "wheels")
        folders.check_private(stored)
        for digest, _ in wanted["wheels"]:
            folders.check_owner(os.path.join(stored, digest))
        lines = [os.path.join(stored, digest, name) for digest, name in wanted["wheels"]]
        arguments = ["--no-index", "--no-deps"]
    arguments += ["-r", write(path, LISTS[0], lines)]
    if wanted["constraints"] and not wanted["wheels"]:
        arguments += ["-c", write(path, LISTS[1], wanted["constraints"])]
    return arguments


def write(path, name, lines):
    """Write lines to a file of the environment; return its path."""
    file = os.path.join(path, name)
    with open(file, "w", encoding="utf-8") as stream:
        stream.write("".join(line + "\n" for line in lines))
    return file


def surroundings(cache_dir):
    """Return the installer's environment."""
    env = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    env["PIP_USER"] = "0"
    if cache_dir:
        # Where the home folder can't be written to, uv has no other place.
        env.setdefault("UV_CACHE_DIR", folders.folder(cache_dir, "uv"))
    return env


def run(command, env, path, held):
    """Run a command, showing what it prints; raise Failed with the end of it if it fails.

    It holds the lock too: should this process be killed, nobody makes the
    environment anew while the command still writes to it.
    """
    import subprocess

    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        cwd=path,
        pass_fds=(held,),
    )
    log = b""
    try:
        for piece in iter(lambda: os.read(process.stdout.fileno(), 1 << 16), b""):
            log = (log + piece)[-LOG:]
            sys.stderr.buffer.write(piece)
            sys.stderr.buffer.flush()
    except BaseException:
        process.kill()
        raise
    finally:
        process.stdout.close()
        status = process.wait()
    if status:
        words = " ".join(os.path.basename(word) for word in command[:3])
        how = "was killed by signal %d" % -status if status < 0 else "exited with %d" % status
        raise folders.Failed("%s %s" % (words, how), log.decode("utf-8", "replace"))


def pip_version():
    """Return the version of this interpreter's pip; () if it has none."""
    try:
        import pip
    except ImportError:
        return ()
    numbers = pip.__version__.split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())


def find_uv(wanted, settings):
    """Return the path of uv if it is there and would do what pip, as it is set, does."""
    if sys.version_info < (3, 8) or not set(settings) <= {"cert"} | set(TOLD):
        return None
    if not all(option.split()[0] in FOR_UV.split() for option in wanted["options"]):
        return None
    # The PATH of a command over SSH often lacks the folders of a user's own programs.
    home = os.path.expanduser("~")
    places = [os.environ.get("PATH", os.defpath), home + "/.local/bin", home + "/.cargo/bin"]
    return shutil.which("uv", path=os.pathsep.join(places))


def pip_settings(env):
    """Return pip's settings, as its files and variables have them, that matter to an install."""
    import configparser

    found = {}
    for path in pip_files(env):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, ValueError) as error:
            raise folders.Failed("pip's settings in %s can't be read: %s" % (path, error), "")
        for section in ("global", "install"):
            if parser.has_section(section):
                found.update((key.replace("_", "-"), v) for key, v in parser.items(section))
    for name, value in env.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE":
            found[name[4:].lower().replace("_", "-")] = value
    return {k: v for k, v in found.items() if k not in IDLE.split() and v.strip()}


def pip_files(env):
    """Return pip's settings files, the later ones stronger."""
    if env.get("PIP_CONFIG_FILE") == os.devnull:
        return []
    home = os.path.expanduser("~")
    config = env.get("XDG_CONFIG_HOME") or home + "/.config"
    places = [each + "/pip" for each in (env.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")]
    if sys.platform == "darwin":
        places.append("/Library/Application Support/pip")
    places += ["/etc", home + "/.pip", config + "/pip"]
    if sys.platform == "darwin":
        places.append(home + "/Library/Application Support/pip")
    files = [os.path.join(each, "pip.conf") for each in places + [sys.prefix]]
    return files + [env["PIP_CONFIG_FILE"]] if env.get("PIP_CONFIG_FILE") else files


def told_lines(settings, options):
    """Return settings of pip as lines of a requirements file that has these options."""
    lines = []
    for name in TOLD:
        value = settings.get(name, "")
        if name == "index-url" and any(each.startswith("--index-url ") for each in options):
            continue
        if name == "no-index":
            if value.lower() not in ("", "0", "false", "no", "off"):
                lines.append("--no-index")
        else:
            lines += ["--%s %s" % (name, word) for word in value.split()]
    return lines
