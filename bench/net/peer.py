"""The servers to compare: how each is started, and what it needs to be there.

What stays true: a peer runs for real or says why it does not; every one does the same work (reassemble, look the id
up, call a handler, answer). "aiofastnet" in a name means its transports on uvloop.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.cc import NoCompiler, build
from bench.net.modes import MODES, Mode

FOLDER = Path(__file__).with_name("peers")


class LeftOut(Exception):
    """Why a peer cannot run here."""


@dataclass(frozen=True)
class Peer:
    """A program in `peers/`: a Python script with its arguments and the modules it needs, or a C or C++ source."""

    name: str
    source: str
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    modes: frozenset[str] = frozenset(mode.name for mode in MODES)

    def command(self) -> list[str]:
        """What starts it, compiled first if need be. `LeftOut` if this machine lacks something."""
        path = FOLDER / self.source
        if path.suffix == ".cpp":
            return [str(_build_asio(path))]
        if path.suffix == ".c":
            try:
                return [str(build(path))]
            except (NoCompiler, subprocess.CalledProcessError) as error:
                raise LeftOut(str(error)) from None
        for module in self.needs:
            if importlib.util.find_spec(module) is None:
                raise LeftOut(f"{module} is not installed")
        return [sys.executable, str(path), *self.arguments]

    def supports(self, mode: Mode) -> bool:
        return mode.name in self.modes


RAW_C = Peer("raw C epoll", "raw_epoll.c")
ASYNCIO = Peer("asyncio + struct", "asyncio_struct.py", ("asyncio",))

PEERS = [
    RAW_C,
    Peer("Boost.Asio", "boost_asio.cpp"),
    ASYNCIO,
    Peer("asyncio + struct, uvloop", "asyncio_struct.py", ("uvloop",), ("uvloop",)),
    Peer("asyncio + struct, aiofastnet", "asyncio_struct.py", ("aiofastnet",), ("uvloop", "aiofastnet")),
    Peer("asyncio streams", "asyncio_streams.py", ("asyncio",)),
    Peer("Twisted + struct", "twisted_struct.py", (), ("twisted",)),
    Peer("gamenet, asyncio", "gamenet_reply.py", ("asyncio", "asyncio")),
    Peer("gamenet, uvloop", "gamenet_reply.py", ("uvloop", "asyncio"), ("uvloop",)),
    Peer("gamenet, aiofastnet", "gamenet_reply.py", ("uvloop", "fast"), ("uvloop", "aiofastnet")),
    Peer("gamenet, epoll", "gamenet_reply.py", ("asyncio", "epoll")),
    Peer("gamenet, epoll, uvloop", "gamenet_reply.py", ("uvloop", "epoll"), ("uvloop",)),
    Peer(
        "gamenet, epoll, batch", "gamenet_reply.py", ("asyncio", "epoll", "batch"),
        modes=frozenset({"pipelined", "fan-in"}),  # where packets come in runs
    ),
]

BASELINES = [RAW_C.name, ASYNCIO.name]
"""What rates are multiples of: the first of these that runs."""


def _build_asio(source: Path) -> Path:
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise LeftOut("no C++ compiler found (c++, g++ or clang++; or name one in CXX)")
    language = [compiler, "-std=c++17", "-x", "c++"]
    probe = "#include <boost/asio/version.hpp>\n"
    if subprocess.run([*language, "-E", "-"], input=probe, text=True, capture_output=True).returncode:
        raise LeftOut("Boost.Asio's headers are not installed")
    target = Path(tempfile.mkdtemp(prefix="gamenet-bench-")) / source.stem
    built = subprocess.run(
        [*language, "-O2", "-pthread", str(source), "-o", str(target)], text=True, capture_output=True
    )
    if built.returncode:
        raise LeftOut(f"it does not compile here: {built.stderr.strip().splitlines()[0]}")
    return target
