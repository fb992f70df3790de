"""A listener whose connections are served by one epoll set.

What stays true: a connection that was accepted is never lost because another one could not be.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Iterable

from gamenet.transports.epoll import Poller

RETRY_SECONDS = 1.0
"""For which nobody is accepted when the system has no file descriptor or memory left, as asyncio does."""

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_SWITCHED_OFF = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
_GONE_ALREADY = (BlockingIOError, InterruptedError, ConnectionAbortedError)


async def create_server(
    loop: asyncio.AbstractEventLoop,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: str | None,
    port: int,
    *,
    ssl: None = None,
    backlog: int,
) -> EpollServer:
    """Listen on every address of `host` (None: all of this machine), without TLS. `OSError` if one cannot be had.

    An address whose family is switched off on this machine is passed over, if another one is left.
    """
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    switched_off = OSError(errno.EADDRNOTAVAIL, f"no address of {host!r} can be listened on")
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            try:
                listeners.append(socket.create_server(address, family=family, backlog=backlog))
            except OSError as error:
                if error.errno not in _SWITCHED_OFF:
                    raise
                switched_off = error
        if not listeners:
            raise switched_off
        return EpollServer(loop, protocol_factory, listeners, backlog)
    except BaseException:
        _close(listeners)
        raise


class EpollServer:
    """What `loop.create_server()` returns elsewhere."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        listeners: list[socket.socket],
        backlog: int,
    ) -> None:
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._listeners = listeners
        self._backlog = backlog
        self._poller = Poller(loop)
        for listener in listeners:
            listener.setblocking(False)
            loop.add_reader(listener.fileno(), self._accept, listener)

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:
        """The listening sockets; none once it is closed."""
        return tuple(TransportSocket(listener) for listener in self._listeners)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop it serves on."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return bool(self._listeners)

    def close(self) -> None:
        """Accept nobody any more; connections that exist go on."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            self._loop.remove_reader(listener.fileno())
        _close(listeners)
        self._poller.finish()

    async def wait_closed(self) -> None:
        """Return when it is closed and its last connection is gone."""
        await asyncio.shield(self._poller.finished)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(self._backlog):
            if listener not in self._listeners:  # closed by a protocol
                return
            try:
                sock, peername = listener.accept()
            except _GONE_ALREADY:
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                return self._pause(listener, error)
            self._connect(sock, peername)

    def _connect(self, sock: socket.socket, peername: object) -> None:
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            protocol = self._protocol_factory()
        except BaseException:
            sock.close()
            raise
        self._poller.connect(sock, peername, protocol)

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(RETRY_SECONDS, self._go_on, listener)
        message = "socket.accept() out of system resource"
        self._loop.call_exception_handler({"message": message, "exception": error, "socket": TransportSocket(listener)})

    def _go_on(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)


def _close(listeners: Iterable[socket.socket]) -> None:
    for listener in listeners:
        listener.close()
