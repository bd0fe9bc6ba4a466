"""Which modules of the caller's reach the far side, and what is never sent."""

from __future__ import annotations

import importlib
import json
import marshal
import os
import subprocess
import sys
import sysconfig
import textwrap
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from invoke.context import Context

from fabremote import Connection, RemoteCancelled, RemoteTimeout, ShippingError, remotely, wrap
from fabremote.bootstrap import this_python
from fabremote.options import Options
from fabremote.shipping import sources
from fabremote.shipping.forwarding import Forwarder
from fabremote.shipping.modules import Modules, Scope
from fabremote.shipping.payload import dump
from tests import interpreters


@pytest.fixture
def context() -> Iterator[Any]:
    """This machine without SSH."""
    made = wrap(Context())
    yield made
    made.close()


@pytest.fixture(scope="module")
def local() -> Iterator[Any]:
    """A fresh process of this Python, each call."""
    made = wrap(Context())
    python = made.python(python=sys.executable)
    python.call(abs, -1)
    yield python
    made.close()


@pytest.fixture
def bare(context: Any) -> Any:
    """The same without site-packages."""
    return context.python(python=sys.executable, py_options="-S")


class Project:
    """A folder of the user's own on ``sys.path``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str = "") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    yield from making(tmp_path / "project", monkeypatch)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The same, as pip would have installed it."""
    yield from making(tmp_path / "lib" / "site-packages", monkeypatch)


def making(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    folder.mkdir(parents=True)
    before = set(sys.modules)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(folder)
        yield Project(folder)
    for name in set(sys.modules) - before:
        del sys.modules[name]
        sources._sources.pop(name, None)
    importlib.invalidate_caches()


def scope(*given: str) -> Scope:
    return Scope(Modules(given), sys.version_info[:2])


def sent(fn: Callable[..., Any], *args: Any, modules: tuple[str, ...] = ()) -> set[str]:
    """The modules that a call sends ahead of need."""
    payload = dump(fn, args, {}, Options(modules=modules), this_python())
    return set(payload.modules)


# How own modules are used

USES = {
    "at the top": "import own.deep.leaf as leaf\ndef work(): return leaf.VALUE\n",
    "inside": "def work():\n    from own.deep import leaf\n    return leaf.VALUE\n",
    "by name": """
        import importlib
        def work():
            name = "le" + "af"
            return importlib.import_module("own.deep." + name).VALUE
    """,
    "by __import__": "def work(): return __import__('own.deep.' + 'leaf').deep.leaf.VALUE\n",
    "in a thread": """
        import importlib, threading
        def work():
            found = []
            def get(): found.append(importlib.import_module("own.deep." + "leaf").VALUE)
            threads = [threading.Thread(target=get) for _ in range(4)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            assert len(found) == 4
            return found[0]
    """,
    "by runpy": """
        import runpy
        def work(): return runpy.run_module("own.deep." + "leaf")["VALUE"]
    """,
}
TREE = {
    "own/__init__.py": "",
    "own/deep/__init__.py": "",
    "own/deep/leaf.py": "from . import other\nfrom ..top import TOP\nVALUE = other.OTHER + TOP\n",
    "own/deep/other.py": "OTHER = 'o'\n",
    "own/top.py": "TOP = 't'\n",
}


@pytest.fixture
def tree(project: Project) -> Project:
    for name, text in TREE.items():
        project.write(name, text)
    return project


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("goes", ["by reference", "by value"])
def test_an_own_module_is_used(local: Any, tree: Project, use: str, goes: str) -> None:
    extra = "import pytest\n" if goes == "by value" else ""
    tree.write("user.py", extra + textwrap.dedent(USES[use]))
    user: Any = importlib.import_module("user")
    assert scope().by_reference("user") is (goes == "by reference")
    assert local.call(user.work) == "ot"


@pytest.mark.parametrize("use", USES)
def test_an_own_module_is_used_over_ssh(conn_openssh: Connection, tree: Project, use: str) -> None:
    tree.write("user.py", USES[use])
    user: Any = importlib.import_module("user")
    python = conn_openssh.python(python=sys.executable, timeout=20)
    assert python.submit(user.work).result() == python.call(user.work) == "ot"


@pytest.mark.parametrize("version", [v for v in interpreters.found() if v != "2.7"])
def test_own_modules_go_to_any_version(context: Any, tree: Project, version: str) -> None:
    tree.write("own/data.txt", "data\n")
    tree.write("user.py", USES["by name"] + DATA)
    python = context.python(python=interpreters.found()[version], timeout=20)
    user: Any = importlib.import_module("user")
    assert python.call(user.work) == "ot"
    assert python.call(user.get_data) == b"data\n"
    assert python.call(user.names) == ["deep", "top"]
    if version != "3.6":
        assert python.call(user.read_text) == "data\n"
        assert python.call(user.path) == b"data\n"
    if version not in ("3.6", "3.7", "3.8"):
        assert python.call(user.files) == "data\n"


DATA = """
        import pkgutil
        import own
        def get_data(): return pkgutil.get_data("own", "data.txt")
        def names(): return [each.name for each in pkgutil.iter_modules(own.__path__)]
        def files():
            import importlib.resources
            return importlib.resources.files("own").joinpath("data.txt").read_text()
        def read_text():
            import importlib.resources, warnings
            warnings.simplefilter("ignore")
            if hasattr(importlib.resources, "read_text"):
                return importlib.resources.read_text(own, "data.txt")
            return files()
        def path():
            import importlib.resources, warnings
            warnings.simplefilter("ignore")
            if hasattr(importlib.resources, "path"):
                found = importlib.resources.path(own, "data.txt")
            else:
                found = importlib.resources.as_file(importlib.resources.files(own) / "data.txt")
            with found as place:
                return place.read_bytes()
"""


def test_a_module_is_one_object_however_it_is_reached(local: Any, tree: Project) -> None:
    tree.write("own/user.py", "from . import top\nfrom .deep import other\n")

    def same() -> list[bool]:
        import importlib

        import own.deep.other
        import own.user  # type: ignore[import-not-found]

        found = importlib.import_module("own." + "top")
        return [
            found is own.user.top is sys.modules["own.top"],
            own.user.other is own.deep.other,
            own.user.__package__ == "own",
        ]

    assert local.call(same) == [True, True, True]


def test_a_package_that_goes_by_value_has_its_submodules_and_files(
    local: Any, project: Project
) -> None:
    project.write(
        "valued/__init__.py",
        """
        import importlib, importlib.resources, pytest
        FACTOR = 2
        def work(name):
            from . import part
            found = importlib.import_module(f".{name}", __package__)
            text = importlib.resources.files(__package__).joinpath("data.txt").read_text()
            return [part.VALUE * FACTOR, found.VALUE, text, __name__]
        """,
    )
    project.write("valued/part.py", "VALUE = 4\n")
    project.write("valued/late.py", "from valued.part import VALUE\n")
    project.write("valued/data.txt", "data")
    valued: Any = importlib.import_module("valued")
    valued.FACTOR = 3
    assert not scope().by_reference("valued")
    assert local.call(valued.work, "late") == [12, 4, "data", "valued"]


def test_modules_that_import_each_other_in_a_circle(local: Any, project: Project) -> None:
    project.write("ring/__init__.py", "from . import left\n")
    project.write("ring/left.py", "import ring.right\ndef size(): return ring.right.SIZE\n")
    project.write(
        "ring/right.py", "from . import left\nSIZE = 3\ndef again(): return left.size()\n"
    )
    ring: Any = importlib.import_module("ring")
    assert local.call(ring.left.size) == 3
    assert local.call(lambda: ring.right.again()) == 3


def test_a_namespace_package_is_used(local: Any, project: Project) -> None:
    project.write("space/inner/mod.py", "VALUE = __package__\n")
    project.write("space/inner/late.py", "VALUE = 5\n")
    project.write("space/inner/file.txt", "text")
    mod: Any = importlib.import_module("space.inner.mod")

    def look() -> list[Any]:
        import importlib.resources

        space = sys.modules["space"]
        late = importlib.import_module("space.inner." + "late")
        text = importlib.resources.files("space.inner").joinpath("file.txt").read_text()
        return [mod.VALUE, late.VALUE, getattr(space, "__file__", None), text]

    assert local.call(look) == ["space.inner", 5, None, "text"]


def test_a_namespace_package_is_joined_with_what_is_installed_there(
    context: Any, project: Project, installed: Project
) -> None:
    project.write("joint/mine.py", "VALUE = 1\n")
    installed.write("joint/theirs.py", "VALUE = 2\n")
    mine: Any = importlib.import_module("joint.mine")

    def both() -> list[int]:
        import joint.theirs  # type: ignore[import-not-found]

        return [mine.VALUE, joint.theirs.VALUE]

    assert "joint.theirs" not in sent(both)
    there = context.python(python=sys.executable, env={"PYTHONPATH": str(installed.folder)})
    assert there.call(both) == [1, 2]


def test_an_editable_install_is_own_code(
    local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Project
) -> None:
    """Found by a finder of its own, not through sys.path."""
    source = tmp_path / "checkout" / "src" / "edited"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text("from . import part\n")
    (source / "part.py").write_text("VALUE = 7\n")
    (source / "late.py").write_text("VALUE = 8\n")

    class Editable:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
            if name != "edited":
                return None
            from importlib.util import spec_from_file_location

            return spec_from_file_location(name, source / "__init__.py")

    monkeypatch.setattr(sys, "meta_path", [Editable, *sys.meta_path])

    def unloaded() -> int:
        import edited  # type: ignore[import-not-found]

        return edited.part.VALUE  # type: ignore[no-any-return]

    assert local.call(unloaded) == 7
    edited: Any = importlib.import_module("edited")
    assert local.call(lambda: importlib.import_module("edited.la" + "te").VALUE + 0) == 8
    assert local.call(lambda: edited.part.VALUE) == 7


def test_a_module_in_a_zip_file_is_used(local: Any, project: Project) -> None:
    place = project.folder / "code.zip"
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("zipped/__init__.py", "from . import inner\n")
        archive.writestr("zipped/inner.py", "def work(): return 'zipped'\n")
    sys.path.insert(0, str(place))
    try:
        zipped: Any = importlib.import_module("zipped")
        assert local.call(zipped.inner.work) == "zipped"
    finally:
        sys.path.remove(str(place))


def test_a_module_made_by_hand_goes_by_value(local: Any, monkeypatch: Any) -> None:
    made = ModuleType("made")
    exec("LIMIT = 4\ndef work(): return LIMIT + 1\n", made.__dict__)
    monkeypatch.setitem(sys.modules, "made", made)
    assert local.call(made.work) == 5
    assert local.call(lambda: made.work() + made.LIMIT) == 9


def test_a_sent_package_has_no_folder_there(local: Any, tree: Project) -> None:
    import own.top

    def look() -> list[Any]:
        path = list(own.__path__)
        assert not any(map(os.path.exists, path))
        return [path, own.__file__, own.top.__file__]

    assert local.call(look) == [
        ["<sent>/own"],
        str(tree.folder / "own/__init__.py"),
        str(tree.folder / "own/top.py"),
    ]


def test_tracebacks_there_show_the_source(local: Any, tree: Project) -> None:
    tree.write("failing.py", "def fail():\n    raise ValueError('here')\n")
    failing: Any = importlib.import_module("failing")

    def report() -> str:
        import inspect
        import traceback

        try:
            failing.fail()
        except ValueError:
            return traceback.format_exc() + inspect.getsource(failing.fail)
        return ""

    text = local.call(report)
    assert "    raise ValueError('here')" in text
    assert text.endswith("def fail():\n    raise ValueError('here')\n")


def test_a_class_of_a_module_that_was_asked_for_comes_back_as_itself(
    local: Any, project: Project
) -> None:
    project.write(
        "things.py", "class Thing:\n    size = 3\ndef fail(): raise KeyError(Thing.size)\n"
    )
    things: Any = importlib.import_module("things")

    def make(fail: bool) -> Any:
        found = importlib.import_module("thi" + "ngs")
        return found.fail() if fail else found.Thing()

    assert type(local.call(make, False)) is things.Thing
    with pytest.raises(KeyError) as caught:
        local.call(make, True)
    assert "raise KeyError(Thing.size)" in str(caught.value.__cause__)


def test_what_was_asked_for_is_asked_for_once(local: Any, tree: Project) -> None:
    import own

    asked: list[bytes] = []
    answer = Forwarder.answer

    def counted(self: Forwarder, request: bytes) -> bytes:
        asked.append(request)
        return answer(self, request)

    def twice() -> list[str]:
        found = []
        for _ in range(2):
            for name in ("own.deep.leaf", "own.nothing", "own.nothing"):
                try:
                    found.append(importlib.import_module(name).__name__)
                except ImportError as error:
                    found.append(type(error).__name__)
        return [*found, own.__name__]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forwarder, "answer", counted)
        missing = "ModuleNotFoundError"
        assert local.call(twice) == ["own.deep.leaf", missing, missing] * 2 + ["own"]
        assert asked == [b"module\0own.deep", b"module\0own.deep.leaf", b"module\0own.nothing"]
        asked.clear()
        import own.deep.leaf

        assert local.call(lambda: [__import__("json").__name__, own.deep.leaf.VALUE]) == [
            "json",
            "ot",
        ]
        assert asked == []


def test_a_call_without_own_modules_is_given_none(tree: Project) -> None:
    payload = dump(len, ("",), {}, Options(), this_python())
    assert payload.parcel.listed is None
    assert payload.provide is not None
    for request in (b"module\0own", b"data\0own\0__init__.py", b"list\0own\0"):
        assert marshal.loads(payload.provide(request)[8:]) is None


def test_a_forked_child_is_told_that_there_is_no_such_module(local: Any, tree: Project) -> None:
    import own

    def forked() -> tuple[int, str]:
        pid = os.fork()
        if pid == 0:
            try:
                importlib.import_module(own.__name__ + ".top")
            except ImportError:
                os._exit(9)
            os._exit(1)
        status = os.waitpid(pid, 0)[1]
        return os.WEXITSTATUS(status), importlib.import_module("own." + "top").TOP

    assert local.call(forked) == (9, "t")


# Deadlines and cancelling


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_a_call_that_waits_for_a_module_can_be_ended(
    local: Any, context: Any, tree: Project, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import own

    asked = threading.Event()

    def stuck(self: Forwarder, request: bytes) -> bytes:
        asked.set()
        return b""

    def ask() -> str:
        return importlib.import_module(own.__name__ + ".top").__name__

    # An answer of no bytes never completes one.
    monkeypatch.setattr("fabremote.calls.Call.send_message", lambda self, pieces: None)
    monkeypatch.setattr(Forwarder, "answer", stuck)
    if how == "timeout":
        with pytest.raises(RemoteTimeout):
            context.python(python=sys.executable, timeout=0.5).call(ask)
    else:
        future = context.python(python=sys.executable).submit(ask)
        assert asked.wait(30)
        assert future.cancel()
        with pytest.raises(RemoteCancelled):
            future.result(30)
    monkeypatch.undo()


# What isn't sent


def test_only_own_code_is_sent_unasked(tree: Project) -> None:
    import own.deep.leaf

    def work() -> Any:
        import json

        import cloudpickle
        import fabric

        return json, cloudpickle, fabric, own.deep.leaf.VALUE

    assert sent(work) == {"own", "own.deep", "own.deep.leaf", "own.deep.other", "own.top"}
    assert sent(lambda: pytest.raises) == set()
    assert sent(len) == set()


def test_what_is_missing_there_is_named_with_the_remedy(
    local: Any, bare: Any, conn_openssh: Connection
) -> None:
    def missing() -> None:
        import cloudpickle  # noqa: F401

    with pytest.raises(ModuleNotFoundError) as caught:
        bare.call(missing)
    assert str(caught.value) == (
        "No module named 'cloudpickle' on localhost. Send it with modules=[\"cloudpickle\"], or "
        'install it there, as with requires=["cloudpickle"].'
    )
    assert caught.value.name == "cloudpickle"

    def nowhere() -> None:
        import no_such_module_at_all  # type: ignore[import-not-found] # noqa: F401

    python = conn_openssh.python(python=sys.executable)
    with pytest.raises(ModuleNotFoundError, match=r"on 127\.0\.0\.1.* Nor is it here: install"):
        python.call(nowhere)


def test_a_message_of_the_functions_own_stays(local: Any) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("mine", name="json")

    with pytest.raises(ModuleNotFoundError, match=r"^mine$"):
        local.call(fail)


# The option


def test_an_installed_package_is_sent_if_asked_for(
    context: Any, bare: Any, installed: Project
) -> None:
    installed.write("lib/__init__.py", "from lib.core import core\n")
    installed.write("lib/core.py", "def core(): return __name__\n")
    installed.write("lib/plugins/extra.py", "VALUE = 'extra'\n")
    installed.write("lib/data.txt", "data")
    lib: Any = importlib.import_module("lib")

    def use() -> list[str]:
        import importlib.resources

        extra = importlib.import_module("lib.plugins." + "extra")
        text = importlib.resources.files(lib).joinpath("data.txt").read_text()
        return [lib.core(), extra.VALUE, text]

    with pytest.raises(ShippingError, match=r'No module named .lib.*modules=\["lib"\]'):
        bare.call(use)
    for given in ("lib", lib):
        python = context.python(python=sys.executable, py_options="-S", modules=[given])
        assert python.call(use) == ["lib.core", "extra", "data"]
        assert python.call(lib.core) == "lib.core"
    names = {"lib", "lib.core", "lib.plugins", "lib.plugins.extra"}
    assert sent(use, modules=("lib",)) == sent(len, modules=("lib",)) == names


def test_an_own_module_may_be_kept_from_going(local: Any, context: Any, tree: Project) -> None:
    import own.top

    def work() -> str:
        return own.top.TOP  # type: ignore[no-any-return]

    python = context.python(python=sys.executable, modules=["-own"])
    with pytest.raises(ShippingError, match=r"No module named 'own' .* modules= keeps it"):
        python.call(work)
    assert sent(work, modules=("-own",)) == set()
    there = context.python(
        python=sys.executable, modules=["-own"], env={"PYTHONPATH": str(tree.folder)}
    )
    assert there.call(lambda: [work(), list(own.__path__)]) == ["t", [str(tree.folder / "own")]]


def test_the_nearest_rule_counts(tree: Project) -> None:
    import own.deep.leaf

    def work() -> str:
        return own.deep.leaf.VALUE  # type: ignore[no-any-return]

    assert sent(work, modules=("-own.deep",)) == {"own"}
    assert "own.deep.other" not in sent(work, modules=("own", "-own.deep.other"))
    assert "own.deep.leaf" in sent(work, modules=("-own", "own.deep.leaf"))


def test_a_compiled_extension_is_refused_by_name(context: Any, installed: Project) -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    installed.write(
        "fast/__init__.py", "try:\n    from . import _core\nexcept ImportError: pass\n"
    )
    installed.write("fast/_core" + suffix, "not really")

    def use() -> str:
        import fast  # type: ignore[import-not-found]

        return fast.__name__  # type: ignore[no-any-return]

    python = context.python(python=sys.executable, py_options="-S", modules=["fast"])
    with pytest.raises(ShippingError, match=r"fast\._core: it is a compiled extension.*'-fast\._"):
        python.call(use)
    without = context.python(
        python=sys.executable, py_options="-S", modules=["fast", "-fast._core"]
    )
    assert without.call(use) == "fast"


def test_an_own_compiled_extension_is_named(local: Any, project: Project) -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    project.write("mine/__init__.py", "")
    project.write("mine/_core" + suffix, "not really")

    def use() -> None:
        import mine._core  # type: ignore[import-not-found] # noqa: F401

    with pytest.raises(ImportError, match=r"mine\._core isn't sent: only Python source is"):
        local.call(use)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ("own", TypeError, "must be a list"),
        (7, TypeError, "must be a list"),
        ([7], TypeError, "it takes modules and their names"),
        (["no name"], ValueError, "names no module"),
        (["__main__"], ValueError, "names no module"),
        (["--own"], ValueError, "names no module"),
        (["json.decoder"], ValueError, "the standard library is never sent"),
    ],
)
def test_what_the_option_refuses(
    context: Any, given: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        context.python(modules=given)


def test_the_decorator_takes_the_option(context: Any, installed: Project) -> None:
    installed.write("decorated.py", "VALUE = 4\n")

    @remotely(context, python=sys.executable, py_options="-S", modules=["decorated"])
    def use() -> int:
        return importlib.import_module("decorated").VALUE  # type: ignore[no-any-return]

    assert use() == 4


def test_what_is_not_here_cannot_be_sent(context: Any) -> None:
    python = context.python(python=sys.executable, modules=["nowhere_to_be_found"])
    with pytest.raises(ShippingError, match="there is no module nowhere_to_be_found here"):
        python.call(len, "")


def test_the_option_comes_from_the_configuration(installed: Project, tmp_path: Path) -> None:
    from invoke.config import Config

    installed.write("configured.py", "VALUE = 3\n")
    settings = {"remotely": {"modules": ["configured"]}}
    context = wrap(Context(Config(overrides=settings)))

    def use() -> int:
        return importlib.import_module("configured").VALUE  # type: ignore[no-any-return]

    try:
        assert context.python(python=sys.executable, py_options="-S").call(use) == 3
    finally:
        context.close()


# What changes


def test_a_reloaded_module_is_sent_anew(local: Any, project: Project) -> None:
    project.write("changing.py", "def value(): return 1\n")
    changing: Any = importlib.import_module("changing")
    assert local.call(changing.value) == 1
    project.write("changing.py", "LIMIT = 20\n\ndef value(): return LIMIT\n")
    # What is loaded here is what runs there.
    assert local.call(changing.value) == 1
    importlib.reload(changing)
    assert local.call(changing.value) == local.call(lambda: changing.value()) == 20


def test_a_module_that_is_not_loaded_here_is_read_when_it_changes(
    local: Any, project: Project
) -> None:
    def value() -> int:
        import unloaded  # type: ignore[import-not-found]

        return unloaded.VALUE  # type: ignore[no-any-return]

    project.write("unloaded.py", "VALUE = 1\n")
    assert local.call(value) == 1
    project.write("unloaded.py", "VALUE = 1 + 1\n")
    assert local.call(value) == 2
    assert "unloaded" not in sys.modules


@pytest.mark.parametrize("bytecode", [True, False])
def test_a_file_that_changed_before_it_was_sent_is_not_sent(
    local: Any, project: Project, monkeypatch: pytest.MonkeyPatch, bytecode: bool
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", not bytecode)
    project.write("edited_early.py", "def value(): return 1\n")
    module: Any = importlib.import_module("edited_early")
    path = project.write("edited_early.py", "def value(): return 20\n")

    def importing() -> int:
        import edited_early  # type: ignore[import-not-found]

        return edited_early.value()  # type: ignore[no-any-return]

    # A function goes as it is loaded, whatever its file says now.
    assert local.call(module.value) == 1
    with pytest.raises(ShippingError, match=f"{path} has changed since it was loaded here"):
        local.call(importing)
    importlib.reload(module)
    assert local.call(importing) == 20


@pytest.mark.parametrize("loaded", [True, False])
def test_only_files_of_modules_that_are_not_loaded_are_looked_at(
    tree: Project, monkeypatch: pytest.MonkeyPatch, loaded: bool
) -> None:
    def work() -> Any:
        import own.deep.leaf

        return own.deep.leaf.VALUE

    if loaded:
        importlib.import_module("own.deep.leaf")
    sent(work)
    sent(len)
    stat, looked = os.stat, []

    def counted(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        looked.append(path)
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", counted)
    assert sent(work) >= {"own.deep.leaf"}
    assert bool(looked) is not loaded
    looked.clear()
    assert sent(len) == set()
    assert sent(lambda: [os.getpid(), json.dumps({})]) == set()
    assert looked == []


# What a hostile host may ask for


@pytest.fixture
def forwarder(tree: Project) -> Forwarder:
    tree.write("own/data/inner.txt", "inner")
    tree.write("own/.env", "secret")
    tree.write("own/.git/config", "secret")
    tree.write("outside.txt", "secret")
    tree.write("documents/letter.txt", "secret")
    tree.write("documents/note.py", "secret = 1")
    (tree.folder / "own" / "link.txt").symlink_to(tree.folder / "outside.txt")
    (tree.folder / "own" / "hidden.txt").symlink_to(tree.folder / "own" / ".env")
    importlib.import_module("own.deep.leaf")
    made = scope()
    made.need("own.deep.leaf")
    made.need("importlib")
    return Forwarder(made, set())


def ask(forwarder: Forwarder, *words: str) -> Any:
    import marshal

    return marshal.loads(forwarder.answer("\0".join(words).encode()))


def test_a_host_gets_the_files_of_what_was_sent(forwarder: Forwarder) -> None:
    assert ask(forwarder, "data", "own", "data/inner.txt") == b"inner"
    assert ("data", True, False) in ask(forwarder, "list", "own", "")
    assert ask(forwarder, "list", "own", "data") == [("inner.txt", False, False)]
    assert ask(forwarder, "data", "own", "top.py") == b"TOP = 't'\n"


@pytest.mark.parametrize(
    "words",
    [
        ("data", "own", "../outside.txt"),
        ("data", "own", "data/../../outside.txt"),
        ("data", "own", "/etc/passwd"),
        ("data", "own", "//etc/passwd"),
        ("data", "own", ""),
        ("data", "own", "."),
        ("data", "own", "data"),
        ("data", "own", "link.txt"),
        ("data", "own", "hidden.txt"),
        ("data", "own", ".env"),
        ("data", "own", ".git/config"),
        ("data", "own", "data//inner.txt"),
        ("data", "own.deep.leaf", "other.py"),
        ("data", "json", "decoder.py"),
        ("data", "fabric", "main.py"),
        ("data", "documents", "letter.txt"),
        ("list", "own", ".."),
        ("list", "own", ".git"),
        ("list", "json", ""),
        ("list", "documents", ""),
        ("module", "fabric"),
        ("module", "json"),
        ("module", "os.path"),
        ("module", "own.no"),
        ("module", "own...top"),
        ("module", "own/top"),
        ("module", ""),
        ("module", "__main__"),
        ("module", "conftest"),
        ("module", "own.top", "more"),
        ("eval", "1"),
        ("", ""),
        ("data", "own", "x" * 5000),
        ("data", "own", "\udcff"),
    ],
    ids=repr,
)
def test_a_host_gets_nothing_else(forwarder: Forwarder, words: tuple[str, ...]) -> None:
    import marshal

    request = "\0".join(words).encode("utf-8", "surrogateescape")
    assert marshal.loads(forwarder.answer(request)) is None


def test_a_host_gets_no_files_of_what_is_kept_from_going(tree: Project) -> None:
    made = scope("-own.deep")
    made.need("own.top")
    kept = Forwarder(made, set())
    assert ask(kept, "data", "own", "top.py") == b"TOP = 't'\n"
    assert ask(kept, "data", "own", "deep/leaf.py") is None
    assert ask(kept, "list", "own", "deep") is None
    assert ask(kept, "module", "own.deep.leaf") is None


def test_a_folder_of_modules_gives_no_files_unless_it_is_imported_here(
    forwarder: Forwarder,
) -> None:
    assert ask(forwarder, "module", "documents") is not None
    assert ask(forwarder, "data", "documents", "letter.txt") is None
    assert ask(forwarder, "list", "documents", "") is None


def test_names_beside_the_script_are_announced_only_to_who_imports_by_name(tree: Project) -> None:
    import own.top

    tree.write("beside.py")

    def plain() -> str:
        return own.top.TOP  # type: ignore[no-any-return]

    def dynamic() -> Any:
        return importlib.import_module("own." + "top")

    made = scope()
    made.need("own.top")
    assert made.roots() == {"own"}
    made.need("importlib")
    assert made.roots() >= {"own", "beside"}
    assert dump(plain, (), {}, Options(), this_python()).provide is not None
    assert dump(dynamic, (), {}, Options(), this_python()).provide is not None


def test_a_fabfile_uses_its_folder(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "one.py").write_text("from shared import BASE\nVALUE = BASE + 1\n")
    (tmp_path / "shared.py").write_text("BASE = 10\n")
    (tmp_path / "fabfile.py").write_text(
        textwrap.dedent(
            """
            import importlib, sys
            from fabric import task
            from invoke import Context
            from fabremote import wrap

            def load(name):
                return importlib.import_module("plugins." + name).VALUE

            @task
            def run(c):
                print(wrap(Context()).python(python=sys.executable).call(load, "one"))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "fabric", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.stdout.strip(), done.returncode) == ("11", 0), done.stderr


def test_a_module_made_after_a_call_that_lacked_it_is_found_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "not_there_yet"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.syspath_prepend(str(tmp_path))

    def use() -> int:
        import made_later  # type: ignore[import-not-found]

        return made_later.X  # type: ignore[no-any-return]

    with wrap(Context()) as context:
        for place in (folder / "made_later.py", tmp_path / "made_later.py"):
            os.utime(tmp_path, (10**9, 10**9))
            with pytest.raises(ModuleNotFoundError, match="Nor is it here"):
                context.python(python=sys.executable).call(use)
            place.parent.mkdir(exist_ok=True)
            place.write_text("X = 42\n")
            # As where a folder's time is kept in seconds.
            os.utime(tmp_path, (10**9, 10**9))
            assert context.python(python=sys.executable).call(use) == 42
            place.unlink()
