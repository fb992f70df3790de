"""What the machine itself allows: loops in C over the same bytes. `NoCompiler` where there is none."""

import ctypes
from collections.abc import Callable
from pathlib import Path

from bench.cc import build
from bench.micro.streams import empty_handler
from bench.micro.traffic import PACKETS, move_burst

WALK = Path(__file__).with_name("walk.c")
FLOOR = Path(__file__).with_name("floor.c")


def walk_headers(bursts: list[bytes] | None = None) -> Callable[[], int]:
    """The headers of the bursts (default: one) walked by a C loop; returns the number of packets."""
    library = ctypes.CDLL(str(build(WALK, shared=True)))
    library.walk.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.POINTER(ctypes.c_uint64)]
    library.walk.restype = ctypes.c_size_t
    walked, total = bursts or [move_burst()], ctypes.c_uint64()

    def run() -> int:
        return sum(library.walk(data, len(data), 8192, ctypes.byref(total)) for data in walked)

    assert run() == PACKETS * len(walked)
    return run


def call_empty_handler() -> Callable[[], int]:
    """An empty Python handler called from C, once for each packet of the burst, without any packet."""
    library = ctypes.PyDLL(str(build(FLOOR, shared=True, python=True)))
    library.call_handler.argtypes = [ctypes.py_object, ctypes.py_object, ctypes.py_object, ctypes.c_ssize_t]
    return lambda: int(library.call_handler(empty_handler, None, None, PACKETS))
