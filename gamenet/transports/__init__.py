"""Choosing what moves bytes between the sockets and the sessions of a loop.

What stays true: a session cannot tell one transport from another. asyncio's own are the reference and work
everywhere; aiofastnet's (the extra `fast`) do the same work in C over any loop that can watch a socket.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from gamenet.session import BufferedSession, Session

TransportName = Literal["auto", "asyncio", "fast"]

TRANSPORTS = ("auto", "asyncio", "fast")


@dataclass(frozen=True, slots=True)
class Transports:
    """How one loop's connections are made: `create_server` and `create_connection` as the loop's own, and the
    session class that suits them.
    """

    name: str
    create_server: Callable[..., Any]
    create_connection: Callable[..., Any]
    session_type: type[Session]


def choose(name: TransportName, loop: asyncio.AbstractEventLoop) -> Transports:
    """The transports called `name` on `loop`. "auto" takes "fast" where aiofastnet is installed and the loop can
    watch sockets, else "asyncio".

    `ValueError` for another name, `ModuleNotFoundError` for "fast" without aiofastnet, `RuntimeError` for "fast" on
    Windows' Proactor loop, which reads by itself.
    """
    if name not in TRANSPORTS:
        raise ValueError(f"transport is {name!r}, not 'auto', 'asyncio' or 'fast'")
    reads_by_itself = _is_proactor(loop)
    if name == "auto":
        name = "fast" if not reads_by_itself and importlib.util.find_spec("aiofastnet") else "asyncio"
    if name == "asyncio":
        # a loop that reads into memory of its own would copy into ours once more
        session_type = Session if reads_by_itself else BufferedSession
        return Transports(name, loop.create_server, loop.create_connection, session_type)
    if reads_by_itself:
        raise RuntimeError("transport 'fast' needs a loop that can watch sockets; the Proactor loop cannot")
    return _fast(loop)


def _fast(loop: asyncio.AbstractEventLoop) -> Transports:
    aiofastnet = importlib.import_module("aiofastnet")

    async def create_server(*arguments: Any, **options: Any) -> Any:
        return await aiofastnet.create_server(loop, *arguments, **options)

    async def create_connection(*arguments: Any, **options: Any) -> Any:
        return await aiofastnet.create_connection(loop, *arguments, **options)

    return Transports("fast", create_server, create_connection, BufferedSession)


def _is_proactor(loop: asyncio.AbstractEventLoop) -> bool:
    return sys.platform == "win32" and isinstance(loop, asyncio.ProactorEventLoop)
