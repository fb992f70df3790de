"""Listening sockets, and what is done to an accepted one.

What stays true: all addresses of a host are listened on, or none; no other program can take a port of ours over.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress

from gamenet.errors import wrong_type

MAX_PORT = 65535

BACKLOG = 4096
"""Connections the system may hold for us before we accept them. A login wave after a restart needs the room: where
the queue is full the peer's SYN is dropped and comes again a second later. Linux takes at most `net.core.somaxconn`
(4096 by default), Windows what it thinks fit."""

_PORT_ATTEMPTS = 10  # to find one number that is free in both families

_SWITCHED_OFF = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}

_RESET_AT_CLOSE = struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0)  # struct linger: on, 0 seconds


def check_port(port: int) -> None:
    """`TypeError` or `ValueError` for what is no port: `getaddrinfo()` would take 70000 for 4464."""
    if not isinstance(port, int):
        raise wrong_type("port", "an int", port)
    if not 0 <= port <= MAX_PORT:
        raise ValueError(f"port {port} is outside 0 to {MAX_PORT}")


async def listen(
    loop: asyncio.AbstractEventLoop, host: str | None, port: int, backlog: int = BACKLOG
) -> list[socket.socket]:
    """Non-blocking sockets that listen on every address of `host` (None: all of this machine); port 0: one that the
    system chooses, the same for all. `OSError`, naming the place, if one cannot be had.

    An address whose family is switched off on this machine is passed over, if another one is left.
    """
    try:
        return await _listen(loop, host, port, backlog)
    except OSError as error:  # the system's text says neither where nor what
        error.strerror = f"cannot listen on {host or 'every address'} port {port}: {error.strerror}"
        raise


async def _listen(
    loop: asyncio.AbstractEventLoop, host: str | None, port: int, backlog: int
) -> list[socket.socket]:
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    for _ in range(_PORT_ATTEMPTS - 1):
        try:
            return _listen_on_all(addresses, host, backlog)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE:
                raise
    return _listen_on_all(addresses, host, backlog)


def _listen_on_all(
    addresses: Iterable[tuple[int, tuple[object, ...]]], host: object, backlog: int
) -> list[socket.socket]:
    listening: list[socket.socket] = []
    switched_off = OSError(errno.EADDRNOTAVAIL, f"no address of {host!r} can be listened on")
    try:
        for family, (name, port, *rest) in addresses:
            if not port and listening:
                port = listening[0].getsockname()[1]
            try:
                listening.append(_listen_on(family, (name, port, *rest), backlog))
            except OSError as error:
                if error.errno not in _SWITCHED_OFF:
                    raise
                switched_off = error
        if not listening:
            raise switched_off
    except BaseException:
        for sock in listening:
            sock.close()
        raise
    return listening


def _listen_on(family: int, address: tuple[object, ...], backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # SO_REUSEADDR there lets any program of this machine take the port over while we listen
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # else connections of before that are in TIME_WAIT would keep a restarted server from its port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # on Linux an IPv6 socket takes the IPv4 port too, and "::" beside "0.0.0.0" would be in use
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def prepare(sock: socket.socket) -> None:
    """Make an accepted socket what transports expect: non-blocking, and small packets leave at once."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def reset(sock: socket.socket) -> None:
    """Refuse a connection that nothing was read from or sent to: close it by a reset (RST).

    An orderly end (FIN) would leave each refused connection in TIME_WAIT on our side for a minute, which a flood turns
    into hundreds of thousands, and a client would take it for a server that said good-bye. Nothing can be lost by the
    reset, since nothing was under way.
    """
    with suppress(OSError):  # macOS takes no option any more once the peer has reset the connection itself
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    sock.close()
