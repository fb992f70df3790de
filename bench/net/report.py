"""`python -m bench net`: every server in turn under the same load, pinned to a core of its own."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.cc import NoCompiler, build
from bench.timing import Measured, spread

HERE = Path(__file__).parent
SERVER_CORE, GENERATOR_CORE = 0, 1


@dataclass(frozen=True)
class Mode:
    """A shape of load: connections, requests on their way on each, bytes of a body."""

    name: str
    connections: int
    in_flight: int
    body_size: int


MODES = [Mode("pipelined", 16, 64, 64), Mode("fan-in", 200, 4, 32), Mode("pingpong", 64, 1, 32)]

PEERS = {
    "asyncio + struct": ["asyncio_struct.py", "asyncio"],
    "asyncio + struct, uvloop": ["asyncio_struct.py", "uvloop"],
    "gamenet, asyncio": ["gamenet_reply.py", "asyncio"],
    "gamenet, uvloop": ["gamenet_reply.py", "uvloop"],
}
BASELINE = "asyncio + struct"


def main(rounds: int, seconds: float, only: list[str] | None) -> None:
    """Measure and print one table per mode."""
    if sys.platform != "linux":
        sys.exit("bench net needs Linux: its load generator uses epoll")
    try:
        generator = build(HERE / "loadgen.c")
    except NoCompiler as error:
        sys.exit(str(error))
    peers = dict(_available())
    for mode in MODES:
        if not only or mode.name in only:
            _report(mode, _measure(generator, mode, peers, rounds, seconds))


def _available() -> Iterator[tuple[str, list[str]]]:
    for name, (script, loop) in PEERS.items():
        if loop == "asyncio" or importlib.util.find_spec(loop):
            yield name, [script, loop]
        else:
            print(f"left out: {name} ({loop} is not installed)")


def _measure(
    generator: Path, mode: Mode, peers: dict[str, list[str]], rounds: int, seconds: float
) -> dict[str, tuple[Measured, list[float]]]:
    """Seconds per packet and p99 of every peer, a value per round; the peers take turns in each round."""
    found: dict[str, tuple[Measured, list[float]]] = {name: (Measured(name, []), []) for name in peers}
    for number in range(rounds):
        for name, arguments in peers.items():
            _progress(f"{mode.name}: round {number + 1} of {rounds}, {name}")
            result = _load(generator, mode, arguments, seconds)
            found[name][0].seconds.append(result["seconds"] / result["packets"])
            found[name][1].append(result["p99"])
    _progress("")
    return found


def _load(generator: Path, mode: Mode, arguments: list[str], seconds: float) -> dict[str, float]:
    numbers = [mode.connections, mode.in_flight, mode.body_size, seconds]
    with _serving(arguments) as port:
        done = subprocess.run(
            [str(generator), "127.0.0.1", str(port), *map(str, numbers)],
            preexec_fn=_pinned(GENERATOR_CORE),
            capture_output=True,
            text=True,
            timeout=60 + seconds,
        )
    if done.returncode:
        sys.exit(f"{mode.name}, {' '.join(arguments)}: {done.stderr.strip()}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


@contextmanager
def _serving(arguments: list[str]) -> Iterator[int]:
    """The peer as a process; gives its port."""
    script, *options = arguments
    process = subprocess.Popen(
        [sys.executable, str(HERE / "peers" / script), *options],
        preexec_fn=_pinned(SERVER_CORE),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(10)


def _pinned(core: int):  # type: ignore[no-untyped-def]
    cores = sorted(os.sched_getaffinity(0))
    return lambda: os.sched_setaffinity(0, {cores[min(core, len(cores) - 1)]})


def _report(mode: Mode, found: dict[str, tuple[Measured, list[float]]]) -> None:
    print(
        f"\n{mode.name}: {mode.connections} connections, {mode.in_flight} in flight, {mode.body_size}-byte bodies; "
        "every reply checked"
    )
    print(f"  {'':<28}{'packets/s':>12}{'p99 ms':>9}   rate, as a multiple of {BASELINE} (median, range)")
    baseline = found[BASELINE][0]
    for name, (measured, p99) in found.items():
        rate, worst = 1 / measured.median, sorted(p99)[len(p99) // 2] * 1000
        print(f"  {name:<28}{rate:>12,.0f}{worst:>9.2f}   {spread(baseline.ratios_to(measured))}")


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
