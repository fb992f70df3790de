"""A fleet of bots in a process of its own, so that it does not take the server's loop its time.

What stays true: the process ends when we close its standard input, and so too when we die; it gets no Ctrl+C of ours,
so ending stays in one hand. The password goes through the pipe: a command line or environment can be read by others.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any

from gamenet.demo.fleet import Plan, Report

logger = logging.getLogger("gamenet.demo.bots")

_PROGRAM = "import sys; sys.path[:] = {path!r}; from gamenet.demo.fleet import main; main()"


class BotProcess:
    """Starts the bots of `plan`. `report` is the latest one; log records pass on while `is_wanted()` is true."""

    def __init__(self, plan: Plan, is_wanted: Callable[[], bool]) -> None:
        self.report = Report(bots=len(plan.names))
        self._is_wanted = is_wanted
        # with our own sys.path: -m would look into the current folder first, and could find another gamenet
        command = [sys.executable, "-c", _PROGRAM.format(path=sys.path)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **_own_process_group()
        )
        self._reader = threading.Thread(target=self._read, args=(_pipe(self._process.stdout),), daemon=True)
        self._reader.start()
        self._write(plan)

    def stop(self, timeout: float = 5.0) -> None:
        """End the bots and wait for it; after `timeout` seconds they are killed."""
        with suppress(OSError):
            _pipe(self._process.stdin).close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout)
        _pipe(self._process.stdout).close()

    def _write(self, plan: Plan) -> None:
        stdin = _pipe(self._process.stdin)
        with suppress(OSError):  # it has died already: `_read` says so
            stdin.write(json.dumps(asdict(plan)).encode() + b"\n")
            stdin.flush()

    def _read(self, stdout: IO[bytes]) -> None:
        for line in stdout:
            self._take(json.loads(line))
        if self._is_wanted():
            logger.error("the bots' process has ended with exit code %d", self._process.wait())
            self.report = Report(bots=self.report.bots, ended=self.report.bots)

    def _take(self, said: dict[str, Any]) -> None:
        if "message" not in said:
            self.report = Report(**said)
        elif self._is_wanted():
            logger.log(said["level"], "%s", said["message"])


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # asked for in Popen
    return pipe


def _own_process_group() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
