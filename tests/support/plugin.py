"""gamenet's pytest plugin where only the package itself is installed: then it is taken from the tree of these tests."""

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path


def find_plugin(monkeypatch):
    """Have `pytest_gamenet` found, here and in processes that are started; the package is found where it was before."""
    if PathFinder.find_spec("pytest_gamenet") is None:
        root = str(Path(__file__).parents[2])
        monkeypatch.setattr(sys, "path", [*sys.path, root])
        before = os.environ.get("PYTHONPATH")
        monkeypatch.setenv("PYTHONPATH", root if before is None else f"{before}{os.pathsep}{root}")
