"""Run the tests on extensions built with the address and undefined-behaviour sanitizers.

    python .ci/sanitize.py [PYTEST_ARGUMENT ...]

Builds a copy of the package in build/sanitize by the project's own setup.py, as a debug build: checks on, and C that
names the lines of the .pyx. Pools re-use no block and classes have no freelist, for both hide a use after free.
Tests of the pure twin alone are left out.
Needs gcc on Linux, and the `test` extra installed beside this Python.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "sanitize"
PACKAGE = BUILD / "gamenet"
CFLAGS = "-O1 -g -UNDEBUG -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
FREELIST = re.compile(r"^@cython\.freelist\(.*\)$", re.MULTILINE)
IS_COMPILED = "import gamenet; assert gamenet.backend == 'compiled', gamenet.__file__"


def main() -> int:
    copy_sources()
    build()
    environment = sanitizer_environment()
    python = [sys.executable, "-P"]
    subprocess.run([*python, "-c", IS_COMPILED], cwd=ROOT, env=environment, check=True)
    # what the sanitizers say must reach the terminal, so only Python's own output is captured
    pytest = ["-m", "pytest", "-m", "not no_sanitizer", "--capture=sys"]
    return subprocess.run([*python, *pytest, *sys.argv[1:]], cwd=ROOT, env=environment).returncode


def copy_sources() -> None:
    shutil.rmtree(BUILD, ignore_errors=True)
    built = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    shutil.copytree(ROOT / "gamenet", PACKAGE, ignore=built)
    shutil.copy(ROOT / "setup.py", BUILD)
    for pyx in PACKAGE.rglob("*.pyx"):
        source = pyx.read_text(encoding="utf-8")
        pyx.write_text(FREELIST.sub("# no freelist here", source), encoding="utf-8")


def build() -> None:
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *requires], check=True)
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", f"--parallel={os.cpu_count()}"]
    environment = {**os.environ, "GAMENET_DEBUG": "1", "CFLAGS": CFLAGS}
    subprocess.run(command, cwd=BUILD, env=environment, check=True)
    modules = list(PACKAGE.rglob("*.pyx"))
    sanitized = [so for so in PACKAGE.rglob("*.so") if b"__asan_init" in so.read_bytes()]
    if not modules or len(sanitized) != len(modules):
        sys.exit(f"{len(sanitized)} of {len(modules)} modules were built with sanitizers")


def sanitizer_environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(BUILD),
        "PYTHONMALLOC": "malloc",
        "GAMENET_TESTED_TWIN": "compiled",
        "GAMENET_POOL_REUSE": "0",
        # leaks at exit are CPython's own; abort() lets faulthandler add which test it was
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:handle_segv=2:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
        "LD_PRELOAD": " ".join(map(library, ("libasan.so", "libubsan.so"))),
    }


def library(name: str) -> str:
    done = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
