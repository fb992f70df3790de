"""The twins are one thing in two sources: same names, same signatures, and the compiled one is really there."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gamenet

if os.environ.get("GAMENET_PURE") == "1":
    pytest.skip("only the pure twin was asked for", allow_module_level=True)

MODULES = [
    "batch", "buffer", "calls", "codec", "delimiter", "header", "ledger", "mailbox", "outbox", "packet", "pool", "receiver", "rate",
    "routes", "stream", "turns",
]


def pure_and_compiled():
    from gamenet import _compiled, _pure

    return _pure, _compiled


def test_the_compiled_twin_is_what_is_installed():
    assert gamenet.backend == "compiled"
    for name in MODULES:
        module = importlib.import_module(f"gamenet._compiled.{name}")
        assert Path(module.__file__).suffix in (".so", ".pyd")


def test_same_public_names():
    pure, compiled = pure_and_compiled()
    assert pure.__all__ == compiled.__all__
    for name in pure.__all__:
        ours, theirs = getattr(pure, name), getattr(compiled, name)
        assert public_names(ours) == public_names(theirs), name


def public_names(thing):
    return {name for name in dir(thing) if not name.startswith("_")} if isinstance(thing, type) else set()


@pytest.mark.parametrize("name", pure_and_compiled()[0].__all__)
def test_same_parameters(name):
    pure, compiled = (getattr(twin, name) for twin in pure_and_compiled())
    if not isinstance(pure, type):
        assert parameters(pure) == parameters(compiled)
        return
    for method in sorted(public_names(pure)):
        ours, theirs = inspect.getattr_static(pure, method), inspect.getattr_static(compiled, method)
        if callable(ours):
            assert parameters(ours) == parameters(theirs), f"{name}.{method}"


def parameters(function):
    """The names of a function's parameters; Cython puts them into the docstring's first line."""
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:
        first_line = (function.__doc__ or "").partition("\n")[0]
        inside = re.fullmatch(r"[\w.]+\((.*)\)", first_line)
        assert inside, f"{function} has no signature"
        return [part.split("=")[0].split()[-1] for part in inside[1].split(",") if part.strip()]


def test_every_public_thing_has_the_same_docstring():
    pure, compiled = pure_and_compiled()
    for name in pure.__all__:
        ours, theirs = getattr(pure, name), getattr(compiled, name)
        assert (ours.__doc__ or "").partition("\n")[0] == (theirs.__doc__ or "").partition("\n")[0], name


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.no_sanitizer
def test_the_environment_selects_the_pure_twin():
    done = run_python("import gamenet; print(gamenet.backend)", GAMENET_PURE="1")
    assert done.stdout.strip() == "pure", done.stderr


@pytest.mark.no_sanitizer
def test_a_broken_extension_is_an_error():
    code = (
        "import sys\n"
        "class Breaker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'gamenet._compiled.pool': raise ImportError('undefined symbol', name=name)\n"
        "sys.meta_path.insert(0, Breaker())\n"
        "import gamenet\n"
    )
    done = run_python(code)
    assert done.returncode != 0
    assert "undefined symbol" in done.stderr


@pytest.mark.no_sanitizer
def test_without_extensions_the_pure_twin_takes_over():
    code = (
        "import sys\n"
        "class Hider:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('gamenet._compiled.'): raise ModuleNotFoundError('not built', name=name)\n"
        "sys.meta_path.insert(0, Hider())\n"
        "import gamenet\n"
        "print(gamenet.backend)\n"
    )
    done = run_python(code)
    assert done.stdout.strip() == "pure", done.stderr
