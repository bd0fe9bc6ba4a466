"""Folders and modules that calls meet by chance, and that must not end them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from fabremote import ShippingError, wrap
from fabremote.shipping import modules, sources


@pytest.fixture
def local() -> Iterator[Any]:
    with wrap(Context()) as made:
        made.call(abs, -1)
        yield made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on ``sys.path``."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_nested_namespace_that_is_not_loaded_is_no_error(folder: Path) -> None:
    (folder / "outer_ns" / "sub").mkdir(parents=True)
    (folder / "outer_ns" / "sub" / "mod.py").write_text("X = 1\n")
    assert sources.find_spec("outer_ns.sub.other") is None
    sources.find_spec("outer_ns.sub.mod")


def test_a_folder_that_may_not_be_read_holds_no_modules(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "closed").mkdir()
    (folder / "mine.py").write_text("")

    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert set(modules._names_in(str(folder), bare=True)) == {"mine"}


def test_a_module_of_another_encoding_is_refused_by_name(folder: Path, local: Any) -> None:
    (folder / "latin_pkg").mkdir()
    (folder / "latin_pkg" / "__init__.py").write_text("")
    (folder / "latin_pkg" / "old.py").write_bytes(b"# \xe9t\xe9\n")
    with pytest.raises(ShippingError, match=r"latin_pkg\.old"):
        local.python(python=sys.executable, modules=["latin_pkg"]).call(abs, -1)


def test_an_installed_package_that_is_not_loaded_can_be_named() -> None:
    pytest.importorskip("numpy")
    code = (
        "from fabremote.shipping.modules import Modules, Scope\n"
        "Scope(Modules(('numpy',)), (3, 11))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "KeyError" not in done.stderr
    assert "numpy" in done.stderr


def test_an_invalid_escape_hides_no_import_where_warnings_are_errors(folder: Path) -> None:
    (folder / "escaping_helper.py").write_text("X = 1\n")
    text = (
        "import escaping_helper\nPATTERN = '\\d'\ndef use(): return escaping_helper.X, PATTERN\n"
    )
    (folder / "escaping.py").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: Any = importlib.import_module("escaping")
    with wrap(Context()) as made, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made.python(python=sys.executable).call(module.use) == (1, "\\d")
        assert modules.modules_of(()).why_by_value("escaping") is None
        assert set(modules.modules_of(()).closure("escaping")) == {"escaping", "escaping_helper"}
