"""Servers and generators as processes, each pinned to a core of its own.

What stays true: whoever starts one gets it as a context, and it is gone when the context ends, also by Ctrl+C.
"""

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

SPARE_FILES = 200  # a server's own, beside its connections
_END_SECONDS = 5.0  # after which a process that was asked to end is killed


class Failed(Exception):
    """A server or the generator ended when it should not have, or the generator found a wrong byte."""


def cores() -> tuple[int, int]:
    """The server's core and the generator's; the same one on a machine that has no second."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[min(1, len(usable) - 1)]


def raise_file_limit() -> int:
    """Allow as many open files as the system lets us; returns how many. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


@contextmanager
def ended_in_order() -> Iterator[None]:
    """SIGTERM ends us as Ctrl+C does, so that our servers end too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Server:
    """A running peer: its port, and the memory it holds."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    @property
    def resident_size(self) -> int:
        """Bytes of memory that its pages hold now (`VmRSS`, see proc(5))."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


@contextmanager
def serving(command: list[str]) -> Iterator[Server]:
    """The peer that `command` starts, once it listens. `Failed` if it does not, or if it ends by itself."""
    server_core, _ = cores()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryFile("w+") as errors, _running(command, server_core, errors, environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise Failed(f"{' '.join(command)} did not start: {_last_line(errors)}")
        try:
            yield Server(process, int(line))
        finally:
            if process.poll() is not None:
                raise Failed(f"{' '.join(command)} ended by itself: {_last_line(errors)}")


@contextmanager
def generating(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The generator. `Failed` with its words if it found a fault."""
    _, generator_core = cores()
    with tempfile.TemporaryFile("w+") as errors, _running(command, generator_core, errors) as process:
        yield process
        if process.wait():
            raise Failed(_last_line(errors))


@contextmanager
def _running(
    command: list[str], core: int, errors: IO[str], environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        preexec_fn=_pin_to(core),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment,
        process_group=0,  # Ctrl+C reaches us only, and we end the children in order
    )
    try:
        yield process
    finally:
        _end(process)


def _pin_to(core: int) -> Callable[[], None]:
    return lambda: os.sched_setaffinity(0, {core})


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _last_line(errors: IO[str]) -> str:
    errors.seek(0)
    lines = errors.read().strip().splitlines()
    return lines[-1] if lines else "it said nothing"
