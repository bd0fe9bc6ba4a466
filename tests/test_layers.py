"""Imports go one way, and what the package offers is what it says."""

from __future__ import annotations

import ast
import graphlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import fabremote

ROOT = Path(fabremote.__file__).parent
NAME = fabremote.__name__

# A module may import those of its own line and of the lines above it. A folder is one module,
# and so are those whose names start with ssh_.
LAYERS = (
    {"agent"},  # runs on the remote host, and shares its frames with this side
    {"remote"},  # runs there too, sent with the calls that need it
    {"bootstrap", "closing", "exceptions", "printing", "sockets", "terminals"}
    | {"threads", "transports", "upload"},
    {"hostkey_certificate", "hostkey_offer", "hostkeys", "known_hosts"},
    {"ssh_*"},
    {"persistence"},
    {"configuration", "option_values", "python_versions", "requirements"},
    {"options", "verification"},
    {
        "futures",
        "heartbeat",
        "links",
        "notices",
        "outbox",
        "packets",
        "places",
        "progress",
        "receiving",
    },
    {"refusals"},
    {"inboxes", "inert", "items"},
    {
        "calls",
        "early",
        "feeding",
        "messages",
        "service",
        "session",
        "starting",
        "stdin",
        "store",
        "streams",
    }
    | {"watching"},
    {"labels", "live", "passwords", "sudo", "summary"},
    {"shipping"},
    {"lasting", "outcomes", "stream_sources"},
    {"generators"},
    {"prepared"},
    {"interpreter"},
    {"environments", "sessions"},
    {"connection"},
    {"executor", "group_result", "group_work", "hosts", "pool"},
    {"group"},
    {"decorator", "joblib", "stateful", "targets", "tasks", "wrapping"},
    {"__init__"},
    {"dask", "dask_servers", "dask_way"},
    {"doctor", "doctor_host_key", "doctor_interpreters", "doctor_report", "__main__"},
)
# Beside the library: nothing of it imports these.
APART = {"demo"}
# What is imported only where it is needed, as it need not be installed.
OPTIONAL = {"asyncssh", "dask", "distributed", "joblib", "numpy", "pandas", "rich", "zoneinfo"}


def modules() -> dict[str, Path]:
    """The package's modules by full name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def part_of(name: str) -> str:
    part = name.split(".")[1] if "." in name else "__init__"
    return "ssh_*" if part.startswith("ssh_") else part


def allowed(part: str) -> set[str]:
    """What a part may import."""
    found: set[str] = set()
    for layer in LAYERS:
        found |= layer
        if part in layer:
            break
    return found


def imports(name: str) -> set[str]:
    """The modules of the package that a module imports when it runs."""
    path = modules()[name]
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in running_code(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            names = {f"{source}.{alias.name}" for alias in node.names}
            found |= names & set(modules()) or {source}
    return found & set(modules())


def running_code(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker looks at."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from running_code(child)


def test_every_module_has_its_layer() -> None:
    known = set().union(*LAYERS, APART)
    assert not {part_of(name) for name in modules()} - known, "complete the table above"


@pytest.mark.parametrize("name", modules())
def test_a_module_imports_nothing_above_it(name: str) -> None:
    part = part_of(name)
    assert not {part_of(other) for other in imports(name)} - {part} - allowed(part)


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: imports(name) - {name} for name in modules()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


@pytest.mark.parametrize(
    "name", [name for name in modules() if part_of(name) not in ("agent", "demo", "remote")]
)
def test_imports_stand_at_the_top_but_for_what_is_optional(name: str) -> None:
    tree = ast.parse(modules()[name].read_text("utf-8"))
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                tops = {alias.name.partition(".")[0] for alias in node.names}
                assert tops <= OPTIONAL, f"line {node.lineno}"
            elif isinstance(node, ast.ImportFrom):
                assert str(node.module).partition(".")[0] in OPTIONAL, f"line {node.lineno}"


def test_all_is_sorted_and_names_what_is_public() -> None:
    public = {
        name
        for name in dir(fabremote)
        if not name.startswith("_") and not isinstance(getattr(fabremote, name), ModuleType)
    }
    assert fabremote.__all__ == sorted(fabremote.__all__)
    assert set(fabremote.__all__) == public


@pytest.mark.parametrize("name", [name for name in modules() if part_of(name) != "demo"])
def test_what_a_module_says_it_offers_is_there(name: str) -> None:
    module = importlib.import_module(name)
    offered = getattr(module, "__all__", [])
    assert len(set(offered)) == len(offered)
    assert all(hasattr(module, each) for each in offered)


@pytest.mark.parametrize("name", fabremote.__all__)
def test_what_is_public_is_documented(name: str) -> None:
    assert getattr(fabremote, name).__doc__


def test_importing_the_package_imports_nothing_optional() -> None:
    code = "import sys, fabremote; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split()
    assert not (OPTIONAL - {"zoneinfo"}) & set(found)
    assert not any(name.startswith(f"{NAME}.demo") for name in found)
