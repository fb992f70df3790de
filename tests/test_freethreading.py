"""Every compiled module says that it runs without the GIL, and every class of it which threads may come."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import gamenet

if gamenet.backend == "pure":
    pytest.skip("no compiled twin here", allow_module_level=True)

SOURCES = sorted((Path(__file__).parents[1] / "gamenet").rglob("*.pyx"))
COMPILED = [
    f"{package.__name__}.{found.name}"
    for package in (importlib.import_module("gamenet._compiled"), importlib.import_module("gamenet.transports"))
    for found in pkgutil.iter_modules(package.__path__)
    if Path(found.module_finder.find_spec(found.name).origin).suffix in (".so", ".pyd")
]


def test_all_of_them_are_looked_at():
    assert "gamenet._compiled.pool" in COMPILED
    assert not SOURCES or len(COMPILED) <= len(SOURCES)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_it_declares_that_it_needs_no_gil(source):
    assert source.read_text(encoding="utf-8").startswith("# cython: freethreading_compatible=True\n")


@pytest.mark.parametrize("name", COMPILED)
def test_each_class_tells_its_locking_rule(name):
    module = importlib.import_module(name)
    classes = [thing for thing in vars(module).values() if inspect.isclass(thing) and thing.__module__ == name]
    classes = [thing for thing in classes if not issubclass(thing, tuple)]  # tuples never change
    silent = [thing.__name__ for thing in classes if not re.search(r"Locking\s+rule:", thing.__doc__ or "")]
    assert silent == []


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
@pytest.mark.no_sanitizer
def test_importing_them_does_not_bring_the_gil_back():
    imports = "; ".join(f"import {name}" for name in COMPILED)
    code = f"import sys; {imports}; print(sys._is_gil_enabled())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
