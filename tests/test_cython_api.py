"""Users' own Cython code can `cimport` the buffer and the header from the installed package."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig

import pytest
from wire import wire

import gamenet

pytestmark = [
    pytest.mark.no_sanitizer,
    pytest.mark.skipif(gamenet.backend != "compiled", reason="the compiled twin is not here"),
    pytest.mark.skipif(not importlib.util.find_spec("Cython"), reason="Cython is not installed"),
    pytest.mark.skipif(
        sys.platform == "win32" or not shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]),
        reason="needs the C compiler that Python was built with",
    ),
]

SOURCE = """
from gamenet._compiled.buffer cimport PacketBuffer, next_packet
from gamenet._compiled.header cimport HeaderCodec

def sums(codec, chunks):
    cdef PacketBuffer buffer = PacketBuffer(codec)
    cdef unsigned long long ids = 0, body_bytes = 0
    for chunk in chunks:
        buffer.add(chunk)
        while next_packet(buffer):
            ids += buffer.header.packet_id
            body_bytes += <unsigned long long>buffer.body_size
    return ids, body_bytes, (<HeaderCodec>codec).header_size
"""

SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup
setup(name="users", ext_modules=cythonize([Extension("users_own", ["users_own.pyx"])], language_level=3))
"""


def test_a_users_extension_cimports_the_buffer(tmp_path):
    (tmp_path / "users_own.pyx").write_text(SOURCE)
    (tmp_path / "setup.py").write_text(SETUP)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    built = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    assert built.returncode == 0, built.stdout
    data = wire(1, b"abc") + wire(200, b"defg") + wire(3)
    code = "import sys, users_own; from gamenet import HeaderCodec; data = sys.stdin.buffer.read(); " \
        "print(*users_own.sums(HeaderCodec(), [data[:5], data[5:]]))"
    asked = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**environment, "PYTHONSAFEPATH": ""}, input=data, capture_output=True,
    )
    assert asked.stdout.split() == [b"204", b"7", b"8"], asked.stderr
