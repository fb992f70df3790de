"""Building a C file with the system's compiler, for yardsticks and load generators."""

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path


class NoCompiler(RuntimeError):
    """This machine has no C compiler that we know how to call."""


@functools.cache
def build(source: Path, shared: bool = False, python: bool = False) -> Path:
    """Compile `source` with optimisation, against Python's headers if asked; returns the program or shared library.

    `NoCompiler` without a compiler.
    """
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise NoCompiler("no C compiler found (cc, gcc or clang; or name one in CC)")
    folder = Path(tempfile.mkdtemp(prefix="gamenet-bench-"))
    suffix = (".dll" if sys.platform == "win32" else ".so") if shared else (".exe" if sys.platform == "win32" else "")
    target = folder / (source.stem + suffix)
    options = ["-shared", "-fPIC"] if shared else []
    options += ["-I" + sysconfig.get_path("include")] if python else []
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", *options, str(source), "-o", str(target)], check=True)
    return target
