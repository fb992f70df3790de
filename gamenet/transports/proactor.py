"""What is different on Windows' Proactor loop: which one it is, and accepting so that a connection which was gone too
soon leaves no traceback behind.

What stays true: `sock_accept()` does what the loop's own does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


async def sock_accept(loop: asyncio.AbstractEventLoop, listening: socket.socket) -> tuple[socket.socket, object]:
    """As `loop.sock_accept()`.

    For each accept the Proactor starts a task that only looks whether it is cancelled. When the accept fails, as it
    does where the peer has reset the connection, nobody asks that task for its exception, and the loop's exception
    handler is told so, with a traceback: once for each connection that somebody resets (seen on CPython 3.13).
    """
    proactor = getattr(loop, "_proactor", None)
    if proactor is None:
        sock, peername = await loop.sock_accept(listening)
        return sock, peername
    with _tasks_started(loop) as tasks:
        accepted = proactor.accept(listening)
    for task in tasks:
        task.add_done_callback(_retrieve)
    sock, peername = await accepted
    return sock, peername


def is_proactor(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether `loop` is Windows' Proactor loop."""
    return getattr(loop, "_proactor", None) is not None


@contextmanager
def _tasks_started(loop: asyncio.AbstractEventLoop) -> Iterator[list[asyncio.Future[Any]]]:
    """The tasks that are started while this lasts, which must not wait for anything."""
    tasks: list[asyncio.Future[Any]] = []
    factory = loop.get_task_factory()

    def start(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Future[Any]:
        if factory is None:
            task: asyncio.Future[Any] = asyncio.Task(coroutine, loop=loop, **options)
        else:
            task = factory(loop, coroutine, **options)
        tasks.append(task)
        return task

    loop.set_task_factory(start)
    try:
        yield tasks
    finally:
        loop.set_task_factory(factory)


def _retrieve(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()
