"""What free-threaded builds of CPython need: every extension says that it does without the GIL, and how it may be used."""

import importlib
import inspect
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import gamenet

SOURCES = sorted((Path(__file__).parents[1] / "gamenet").rglob("*.pyx"))
EXTENSIONS = [".".join(("gamenet", *path.relative_to(path.parents[1]).with_suffix("").parts)) for path in SOURCES]
IS_COMPILED = gamenet.backend == "compiled"

if not SOURCES:
    pytest.skip("the sources are not beside these tests", allow_module_level=True)


def modules_of(twin):
    package = importlib.import_module(f"gamenet.{twin}")
    files = [path.name.partition(".")[0] for path in Path(package.__file__).parent.glob("*.p*")]  # batch.cp313-win.pyd
    names = sorted(name for name in files if name != "__init__")
    found = [f"gamenet.{twin}.{name}" for name in dict.fromkeys(names)]
    return [importlib.import_module(name) for name in found if importlib.util.find_spec(name)]  # refcounts.pxd has none


def classes_of(module):
    """Those that are made there, and are no description of what lies above it."""
    found = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
    return [value for value in found if not getattr(value, "_is_protocol", False)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_extension_says_that_it_does_without_the_gil(path):
    directives = re.match(r"(?:#[^\n]*\n)*", path.read_text(encoding="utf-8"))[0]
    assert "# cython: freethreading_compatible=True\n" in directives


@pytest.mark.skipif(not IS_COMPILED, reason="there is one twin only")
@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this CPython has a GIL")
def test_no_extension_brings_the_gil_back():
    """In a process of its own: here something that is no part of gamenet may have brought it back already."""
    names = [name for name in EXTENSIONS if importlib.util.find_spec(name)]
    code = f"import sys, {', '.join(names)}; sys.exit(sys._is_gil_enabled())"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("twin", ["_pure", *(["_compiled"] if IS_COMPILED else [])])
def test_every_class_of_the_twins_states_its_locking_rule(twin):
    classes = [made for module in modules_of(twin) for made in classes_of(module)]
    assert len(classes) > 20
    assert [made.__qualname__ for made in classes if "Locking rule: " not in (made.__doc__ or "")] == []


@pytest.mark.skipif(not IS_COMPILED or sys.platform != "linux", reason="there is no epoll transport")
def test_the_transport_states_its_locking_rule():
    epoll = importlib.import_module("gamenet.transports.epoll")
    assert [made.__qualname__ for made in classes_of(epoll) if "Locking rule: " not in made.__doc__] == []


@pytest.mark.parametrize(
    "name",
    [
        "Server", "Session", "SessionGroup", "Client", "ReconnectingClient", "Room", "SessionManager",
        "Packet", "ObjectPool", "Lease", "Decoder", "DispatchTable", "TimeoutManager", "Deadline",
    ],
)
def test_what_users_hold_states_its_locking_rule(name):
    assert "Locking rule: " in getattr(gamenet, name).__doc__
