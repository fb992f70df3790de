"""Choosing what moves bytes between the sockets and the sessions of a loop.

What stays true: a session cannot tell one transport from another. asyncio's own are the reference and work
everywhere; aiofastnet's (the extra `fast`) do the same work in C over any loop that can watch a socket; the epoll
transport serves all plain-TCP connections of a server on Linux at once.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Literal

from gamenet._core import backend
from gamenet.session import BufferedSession, Session
from gamenet.transports.acceptors import Acceptor, Failed, FastLoop, TaskAcceptor, Tls

TransportName = Literal["auto", "asyncio", "fast", "epoll"]

TRANSPORTS = ("auto", "asyncio", "fast", "epoll")


@dataclass(frozen=True, slots=True)
class Transports:
    """How one loop's connections are made: `new_acceptor(failed, tls)` makes what connects accepted sockets,
    `create_connection` takes the arguments of the loop's own; `session_type` is the session class that suits them.
    Where no sockets are listened on, `listen(host, port, new_session)` gives a server its listener.
    """

    name: str
    new_acceptor: Callable[[Failed, Tls | None], Acceptor]
    create_connection: Callable[..., Any]
    session_type: type[Session]
    listen: Callable[[str | None, int, Callable[[], Session]], Any] | None = None


def check_name(name: str | Transports) -> None:
    """`ValueError` unless it is the name of a transport, "auto", or the transports themselves."""
    if name not in TRANSPORTS and not isinstance(name, Transports):
        raise ValueError(f"transport is {name!r}, not 'auto', 'asyncio', 'fast' or 'epoll'")


def choose_server(
    name: TransportName | Transports, loop: asyncio.AbstractEventLoop, has_tls: bool = False
) -> Transports:
    """The transports called `name` for a server on `loop`.

    "auto" takes the first of these that is there: "epoll" (Linux, the compiled twin, no TLS), "fast" (aiofastnet is
    installed, the loop can watch sockets), "asyncio". `ValueError` for another name, `ModuleNotFoundError` for "fast"
    without aiofastnet, `RuntimeError` for "fast" on Windows' Proactor loop and for "epoll" where it cannot be. What is
    a `Transports` already, is taken as it is.
    """
    check_name(name)
    if isinstance(name, Transports):
        return name
    obstacle = _why_no_epoll(has_tls)
    if name == "epoll" and obstacle:
        raise RuntimeError(f"transport 'epoll' {obstacle}; 'auto' takes what is there")
    if name == "epoll" or (name == "auto" and not obstacle):
        return _epoll(loop)
    return choose_client(name, loop)


def choose_client(name: TransportName | Transports, loop: asyncio.AbstractEventLoop) -> Transports:
    """The transports called `name` for single connections on `loop`; errors as `choose_server`.

    There is no epoll set for them: with "epoll" they are those of "auto".
    """
    check_name(name)
    if isinstance(name, Transports):
        return name
    reads_by_itself = _is_proactor(loop)
    if name in ("auto", "epoll"):
        name = "fast" if not reads_by_itself and importlib.util.find_spec("aiofastnet") else "asyncio"
    if name == "asyncio":
        # a loop that reads into memory of its own would copy into ours once more
        session_type = Session if reads_by_itself else BufferedSession
        new_acceptor = partial(TaskAcceptor, loop, loop.connect_accepted_socket)
        is_libuv = not isinstance(loop, asyncio.BaseEventLoop)
        connect = partial(_libuv_connection, loop) if is_libuv else loop.create_connection
        return Transports(name, new_acceptor, connect, session_type)
    if reads_by_itself:
        raise RuntimeError("transport 'fast' needs a loop that can watch sockets; the Proactor loop cannot")
    return _fast(loop)


async def _libuv_connection(
    loop: asyncio.AbstractEventLoop, factory: Callable[[], Any], *values: Any, ssl: Any = None, **options: Any
) -> Any:
    """As `loop.create_connection()`. Who is cancelled between `connection_made()` and its result has uvloop close the
    connection without a `connection_lost()`, for which sessions would wait for ever.
    """
    protocols: list[Any] = []

    def made() -> Any:
        protocols.append(factory())
        return protocols[-1]

    try:
        return await loop.create_connection(made, *values, ssl=ssl, **options)
    except BaseException:
        for protocol in protocols:
            if ssl is None and protocol.transport is not None:  # it was connected; its handle is closed by now
                protocol.abort()
                protocol.connection_lost(None)
        raise


def _fast(loop: asyncio.AbstractEventLoop) -> Transports:
    aiofastnet = import_optional("aiofastnet", "transport 'fast'")

    def new_acceptor(failed: Failed, tls: Tls | None) -> Acceptor:
        connect = partial(aiofastnet.connect_accepted_socket, FastLoop(loop, tls is not None))
        return TaskAcceptor(loop, connect, failed, tls)

    async def create_connection(*values: Any, ssl: Any = None, **options: Any) -> Any:
        if not ssl:
            return await aiofastnet.create_connection(FastLoop(loop, is_tls=False), *values, **options)
        handshake_loop = FastLoop(loop, is_tls=True)
        with handshake_loop.timers_ended_on_failure():
            return await aiofastnet.create_connection(handshake_loop, *values, ssl=ssl, **options)

    return Transports("fast", new_acceptor, create_connection, BufferedSession)


def import_optional(name: str, what: str) -> ModuleType:
    """The module that `what` needs; `ModuleNotFoundError`, with what to install, if it is not there."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # something that it misses itself
        raise ModuleNotFoundError(f"{what} needs {name}: pip install {name}", name=name) from None


def _epoll(loop: asyncio.AbstractEventLoop) -> Transports:
    epoll_acceptor = importlib.import_module("gamenet.transports.epoll_acceptor")
    new_acceptor = partial(epoll_acceptor.EpollAcceptor, loop)
    return Transports("epoll", new_acceptor, loop.create_connection, BufferedSession)


def _why_no_epoll(has_tls: bool) -> str | None:
    if sys.platform != "linux":
        return "is for Linux"
    if backend != "compiled":
        return "needs the compiled gamenet"
    if has_tls:
        return "serves plain TCP, not TLS"
    return None


def _is_proactor(loop: asyncio.AbstractEventLoop) -> bool:
    return sys.platform == "win32" and isinstance(loop, asyncio.ProactorEventLoop)
