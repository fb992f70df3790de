"""Build the extensions. Everything else about the package stands in pyproject.toml."""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("GAMENET_DEBUG") == "1"
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "cdivision": True,
    "binding": False,
    "embedsignature": True,
    "embedsignature.format": "clinic",
}


class BuildExtensions(build_ext):
    def build_extensions(self):
        if self.compiler.compiler_type == "msvc":
            for extension in self.extensions:
                extension.extra_compile_args = ["/std:c11", "/utf-8"]
        super().build_extensions()


def extensions():
    if os.environ.get("GAMENET_NO_EXTENSIONS") == "1":
        return []
    from Cython.Build import cythonize

    sources = sorted(path for path in Path("gamenet").rglob("*.pyx") if path.stem != "epoll" or sys.platform == "linux")
    macros = [("GAMENET_DEBUG", "1"), ("CYTHON_USE_FREELISTS", "0")] if DEBUG else []  # freelists hide use after free
    headers = [path.as_posix() for path in Path("gamenet").rglob("*.h")]
    modules = [
        Extension(
            ".".join(pyx.with_suffix("").parts), [pyx.as_posix()], include_dirs=[pyx.parent.as_posix()], depends=headers
        )
        for pyx in sources
    ]
    for module in modules:
        module.define_macros = macros
    # the C of a debug build is another C: cythonize itself looks at times only
    folder = "build/cython-debug" if DEBUG else "build/cython"
    return cythonize(modules, build_dir=folder, compiler_directives=DIRECTIVES, emit_linenums=DEBUG)


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExtensions})
