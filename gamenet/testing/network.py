"""Servers and clients of gamenet without sockets: the real sessions, over in-memory transports.

What stays true: what is behind the transport is what runs in production; nothing here knows packets. When a network
closes, its clients are closed and every server that `serve()` started has stopped.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gamenet.client import Client, connect
from gamenet.session import BufferedSession, Session
from gamenet.testing.chaos import Chaos, check_chaos
from gamenet.testing.memory import CAPACITY, MemoryTransport, memory_pair
from gamenet.transports import Transports
from gamenet.transports.acceptors import Acceptor

if TYPE_CHECKING:
    from gamenet.server import Server

HOST = "127.0.0.1"
"""What every address of a memory network shows; nothing listens there."""

_FIRST_PORT, _FIRST_CLIENT_PORT = 1024, 49_152

_Factory = Callable[[], asyncio.BaseProtocol]


class MemoryNetwork:
    """A network inside one event loop: `async with MemoryNetwork(...) as net`.

    `to_server` and `to_client` are what happens to the bytes of each direction, `chaos` is for both; each connection
    has its own randomness, from the seed and its number. `capacity` is how many bytes of a direction are on the way
    before its sender has to wait. `to_server`, `to_client` and `capacity` may be set anew for connections to come.
    `buffered=False` has sessions get `data_received(bytes)`, as on Windows' Proactor loop, instead of reading into
    the shared receive buffer.
    """

    def __init__(
        self,
        chaos: Chaos | None = None,
        *,
        to_server: Chaos | None = None,
        to_client: Chaos | None = None,
        capacity: int = CAPACITY,
        buffered: bool = True,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity {capacity} is below 1")
        check_chaos(chaos=chaos, to_server=to_server, to_client=to_client)
        self.transports = Transports(
            "memory",
            _no_sockets,
            self._create_connection,
            BufferedSession if buffered else Session,
            self._listen,
        )
        self.to_server = chaos if to_server is None else to_server
        self.to_client = chaos if to_client is None else to_client
        self.capacity = capacity
        self._listeners: dict[int, MemoryListener] = {}
        self._pairs: list[MemoryTransport] = []  # the clients' ends of those that are open
        self._ports = itertools.count(_FIRST_PORT)
        self._numbers = itertools.count()
        self._is_refusing = False
        self._is_frozen = False
        self._stack = AsyncExitStack()

    # -- what a test uses

    async def serve(self, server: Server, port: int = 0) -> int:
        """Start `server` here instead of on a socket; returns its port. It stops when the network closes.

        Errors as `Server.start`; `ValueError` for a server with TLS, which memory does not carry.
        """
        if server.ssl is not None:
            raise ValueError("in-memory transports carry no TLS; use a socket, and a ChaosProxy for chaos")
        before, server.transport = server.transport, self.transports
        self._stack.callback(setattr, server, "transport", before)
        await server.start(HOST, port)
        self._stack.push_async_callback(server.stop)
        return server.port

    async def connect(self, port: int | None = None, **options: Any) -> Client:
        """A client of the server on `port` (None: the first there is), closed when the network closes.

        Options as for `gamenet.connect`. `ConnectionRefusedError` if nobody listens there, or after `refuse()`.
        """
        connecting = connect(HOST, self._port(port), transport=self.transports, **options)
        return await self._stack.enter_async_context(connecting)

    async def open(self, port: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As `connect`, but plain bytes: asyncio's streams, as `asyncio.open_connection` gives them."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await self._create_connection(lambda: protocol, HOST, self._port(port))
        self._stack.callback(transport.close)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def close(self) -> None:
        """Close every client and stop every server; then nothing is left. Closing again does nothing."""
        self.thaw()
        await self._stack.aclose()

    async def __aenter__(self) -> MemoryNetwork:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- disturbances, as those of `ChaosProxy`

    async def refuse(self) -> None:
        """Refuse new connections, with `ConnectionRefusedError`, until `accept()`. Those that exist go on."""
        self._is_refusing = True

    async def accept(self) -> None:
        """Take connections again after `refuse()`."""
        self._is_refusing = False

    def cut(self) -> None:
        """End every connection in order at both ends, without what was on the way."""
        for end in self._open_pairs():
            end.cut()

    def reset(self) -> None:
        """Break every connection as a RST does: `ConnectionResetError` at both ends."""
        for end in self._open_pairs():
            end.reset()

    def freeze(self) -> None:
        """Deliver nothing any more, on any connection that exists or comes, until `thaw()`."""
        self._is_frozen = True
        for end in self._open_pairs():
            end.freeze()

    def thaw(self) -> None:
        """Go on after `freeze()`: what was sent in the meantime arrives."""
        self._is_frozen = False
        for end in self._open_pairs():
            end.thaw()

    # -- what `Transports` asks for

    def _listen(self, host: str | None, port: int, new_session: Callable[[], Session]) -> MemoryListener:
        if not port:
            port = next(number for number in self._ports if number not in self._listeners)
        if port in self._listeners:
            raise OSError(errno.EADDRINUSE, f"port {port} of this network is in use")
        self._listeners[port] = MemoryListener(self, new_session, port)
        return self._listeners[port]

    async def _create_connection(
        self, protocol_factory: _Factory, host: str, port: int, *, ssl: object = None, **_: Any
    ) -> tuple[asyncio.Transport, Any]:
        if ssl is not None:
            raise ValueError("in-memory transports carry no TLS; use a socket, and a ChaosProxy for chaos")
        listener = self._listeners.get(port)
        if listener is None or self._is_refusing:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody accepts connections to port {port}")
        number = next(self._numbers)
        protocol = protocol_factory()
        transport, _end = memory_pair(
            protocol,
            listener.new_session(),
            to_first=self.to_client,
            to_second=self.to_server,
            capacity=self.capacity,
            addresses=((HOST, _FIRST_CLIENT_PORT + number), (HOST, port)),
            key=str(number),
        )
        self._pairs = [*self._open_pairs(), transport]
        if self._is_frozen:
            transport.freeze()
        made = asyncio.get_running_loop().create_future()
        made.get_loop().call_soon(_settle, made)  # behind connection_made() of both ends
        try:
            await made
        except BaseException:
            transport.abort()
            raise
        return transport, protocol

    def _open_pairs(self) -> list[MemoryTransport]:
        return [end for end in self._pairs if not end.is_gone]

    def _port(self, port: int | None) -> int:
        if port is not None:
            return port
        if not self._listeners:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "no server listens on this network; serve() one first")
        return next(iter(self._listeners))

    def _stopped_listening(self, port: int) -> None:
        self._listeners.pop(port, None)


class MemoryListener:
    """What brings a server its connections, in place of listening sockets."""

    connecting = 0

    def __init__(self, network: MemoryNetwork, new_session: Callable[[], Session], port: int) -> None:
        self.new_session = new_session
        self._network = network
        self._port: int | None = port

    @property
    def addresses(self) -> list[Any]:
        """The address it has in its network; none once it is closed."""
        return [] if self._port is None else [(HOST, self._port)]

    def start(self) -> None:
        """It does from the beginning."""

    def close(self) -> None:
        """Accept nobody any more; connections that exist go on."""
        if self._port is not None:
            self._network._stopped_listening(self._port)
            self._port = None

    async def wait_closed(self) -> None:
        """There is nothing to wait for: connections are sessions at once."""


def _settle(made: asyncio.Future[None]) -> None:
    if not made.done():  # whoever connects was cancelled
        made.set_result(None)


def _no_sockets(*_: object, **__: object) -> Acceptor:
    raise RuntimeError("a memory network accepts no sockets")


@asynccontextmanager
async def serve(
    server: Server,
    chaos: Chaos | None = None,
    *,
    to_server: Chaos | None = None,
    to_client: Chaos | None = None,
    capacity: int = CAPACITY,
    buffered: bool = True,
) -> AsyncIterator[MemoryNetwork]:
    """Run `server` in memory: `async with serve(server) as net: client = await net.connect(packets=[Chat])`.

    At the end clients are closed and the server is stopped. Options as for `MemoryNetwork`.
    """
    network = MemoryNetwork(chaos, to_server=to_server, to_client=to_client, capacity=capacity, buffered=buffered)
    async with network:
        await network.serve(server)
        yield network
