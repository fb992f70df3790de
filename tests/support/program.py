"""A server as a program of its own, to be ended by signals."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

FRAME = """
import asyncio, gamenet, ssl, time
server = gamenet.Server({options})
{source}
gamenet.run(server, port=0, loop="{loop}", on_ready=lambda: print(server.port, flush=True))
print("after", server.stats()["closed"], flush=True)
"""

ON_WINE = sys.platform == "win32" and hasattr(ctypes.windll.ntdll, "wine_get_version")
STOP = signal.SIGTERM if os.name == "posix" else signal.CTRL_BREAK_EVENT


def program(source, loop="asyncio", options=""):
    """A process that serves with these handlers, as `running()` gives it."""
    return running(FRAME.format(source=source, loop=loop, options=options))


@contextmanager
def running(program):
    """A process that prints its port and listens: (process, port). It never outlives its test."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        creationflags=subprocess.CREATE_NEW_PROCESS_GROUP if os.name == "nt" else 0,
    )
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


async def outcome(process, seconds=30):
    """Exit code, what it said after its port, and what it complained of."""
    out, err = await asyncio.to_thread(process.communicate, timeout=seconds)
    return process.returncode, out.strip(), err.strip()
