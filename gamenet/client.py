"""The other end: one connection to a server, for bots, tests and tools.

What stays true: an answer reaches the request with its sequence number, every other packet the iteration, each
packet once; when the connection ends, nobody waits for it any longer.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl as ssl_module
from collections import deque
from collections.abc import AsyncIterator, Callable, Container, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Unpack

from gamenet import errors
from gamenet._core import Ledger, PoolAllocator, RawPacket, codec_for
from gamenet.context import SessionContext
from gamenet.dispatch import DispatchTable
from gamenet.errors import CloseReason, SessionClosedError
from gamenet.heartbeat import Heartbeat, answer_heartbeats
from gamenet.layout import BOOK_HEADER, Layout, packet_limit
from gamenet.limits import LimitOptions, Limits, check_above_zero, limits_of
from gamenet.packets import Packet
from gamenet.session import Session
from gamenet.transports import TransportName, Transports, choose_client
from gamenet.transports.sockets import check_port

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

logger = logging.getLogger("gamenet.client")

_ORDERLY = frozenset((CloseReason.PEER_CLOSED, CloseReason.CLOSED))


class Client:
    """One connection, made by `gamenet.connect()`.

    `async for packet in client` gives what arrives, as instances of the packet classes that `connect` was told of;
    it ends when the connection does, and raises `SessionClosedError` if that was not in order. Up to `max_queued`
    packets wait for it, then the connection is not read any further.
    Locking rule: the thread of its loop only, but for `send_threadsafe()` and `call_soon()`.
    """

    def __init__(
        self,
        transports: Transports,
        limits: Limits,
        layout: Layout,
        packets: Iterable[type[Packet]],
        max_queued: int,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        if max_queued < 1:
            raise ValueError(f"max_queued {max_queued} is below 1")
        self.dispatch = DispatchTable()
        self.dispatch.set_default(self._received)
        for packet in _packet_classes(packets):
            self.dispatch.register(packet, self._received)
        loop = asyncio.get_running_loop()
        codec = codec_for(layout, packet_limit(layout, limits.max_packet_size))
        pool = PoolAllocator(limits.max_packet_size, sizes=limits.block_sizes)
        answer_heartbeats(heartbeat, self.dispatch, codec)
        self._ledger = Ledger()
        self._context = SessionContext(
            self, loop, limits, codec, pool, self.dispatch.routes, self._ledger, logger, heartbeat=heartbeat,
            reads_on=True,
        )
        self._mailbox = self._context.mailbox
        self._mailbox.open(loop, self._context.log, self._ledger)
        self._transports = transports
        self.session = self._new_session()
        self._loop = loop
        self._max_queued = max_queued
        self._queue: deque[RawPacket] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._requests: dict[int, asyncio.Future[RawPacket]] = {}
        self._sequence = 0
        self._closed = loop.create_future()

    @property
    def is_connected(self) -> bool:
        """Whether packets can be sent."""
        return self.session.is_open

    @property
    def close_reason(self) -> str | None:
        """Why the connection ended; None while it lives."""
        return self.session.close_reason

    @property
    def layout(self) -> Layout:
        """How packets are framed; may be set, see `Session.layout`. Packets that wait to be received were cut under
        the old one: set it before sending what the server answers in the new one, or in a handler of `dispatch`.
        """
        return self.session.layout

    @layout.setter
    def layout(self, layout: Layout) -> None:
        self.session.layout = layout

    def send(
        self, packet: RawPacket | int, body: ReadableBuffer = b"", sequence: int | None = None,
        header: Mapping[str, int] | None = None,
    ) -> bool:
        """Send a packet; arguments, result and errors as in `Session.send`."""
        return self.session.send(packet, body, sequence, header)

    def send_threadsafe(
        self, packet: RawPacket | int, body: ReadableBuffer = b"", sequence: int | None = None,
        header: Mapping[str, int] | None = None,
    ) -> bool:
        """Send a packet from any thread; arguments, result and errors as in `Session.send_threadsafe`."""
        return self.session.send_threadsafe(packet, body, sequence, header)

    def call_soon(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Have `function(*arguments)` called in the thread of the client's loop; as `Server.call_soon`."""
        if not callable(function):
            raise errors.wrong_type("function", "callable", function)
        return self._mailbox.put((function, arguments)) or self._mailbox.refuse()

    async def request(
        self, packet: RawPacket | int, body: ReadableBuffer = b"", *, header: Mapping[str, int] | None = None,
        timeout: float = 5.0,
    ) -> Any:
        """Send a packet under a new sequence number and wait for the packet that comes back with it.

        `TimeoutError` after `timeout` seconds, `SessionClosedError` if the connection ends before, `ValueError` if
        the layout has no sequence number, `RuntimeError` if each of them waits for its answer already.
        """
        sequence = self._next_sequence()
        answer: asyncio.Future[RawPacket] = self._loop.create_future()
        if not self.send(packet, body, sequence, header):
            raise self._closed_error()
        self._requests[sequence] = answer
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise TimeoutError(f"no answer to sequence {sequence} within {timeout} s") from None
        finally:
            self._requests.pop(sequence, None)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while not self._queue:
            if self._closed.done():
                if self.close_reason in _ORDERLY:
                    raise StopAsyncIteration
                raise self._closed_error()
            if self._reader is not None:
                raise RuntimeError("somebody else waits for this client's next packet already")
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        packet = self._queue.popleft()
        if self.session.is_suspended and len(self._queue) <= self._max_queued // 2:
            self.session.resume_reading()
        return packet

    async def receive(self, *, timeout: float | None = None) -> Any:
        """The next packet that the iteration would give, in at most `timeout` seconds (None: whenever it comes).

        `TimeoutError` if none came, and none is lost by that; `SessionClosedError` when the connection has ended, in
        order or not, and nothing is left; `RuntimeError` if somebody else waits for the next packet already.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self.__anext__()
        except StopAsyncIteration:
            raise self._closed_error() from None
        except TimeoutError:
            raise TimeoutError(f"no packet within {timeout} s") from None

    async def close(self) -> None:
        """End the connection in order and wait until it is gone. What other threads sent before still leaves."""
        try:
            await self._mailbox.settle(self._context.limits.close_timeout)
        finally:  # also when it is cancelled
            self.session.close()
        await self.wait_closed()

    async def wait_closed(self) -> str:
        """Wait until the connection has ended; returns the reason."""
        await asyncio.shield(self._closed)
        return str(self.close_reason)

    # -- told by the session

    def session_opened(self, session: Session) -> None:
        """Called when the connection was made."""
        if self._closed.done():  # too late
            session.abort()

    def session_closed(self, session: Session, reason: str) -> None:
        """Called when the connection is gone."""
        self._end_requests(reason)
        self._end()

    def abandon(self) -> None:
        """End it at once, also a connection that is only being made."""
        self.session.abort()
        self._end()

    def _new_session(self) -> Session:
        return self._transports.session_type(self._context)

    def _closed_error(self) -> SessionClosedError:
        return SessionClosedError(f"the connection has ended: {self.close_reason}")

    def _end_requests(self, reason: str) -> None:
        queued = self._queued_sequences()
        for sequence, answer in self._requests.items():
            if not answer.done() and sequence not in queued:
                answer.set_exception(SessionClosedError(f"the connection has ended: {reason}"))

    def _queued_sequences(self) -> Container[int | None]:
        """Of requests that no connection has seen."""
        return ()

    def _end(self) -> None:
        """Nothing will arrive any more."""
        self._mailbox.close()
        self._context.log.close()
        if not self._closed.done():
            self._closed.set_result(None)
        self._wake_reader()

    def _received(self, session: Session, packet: RawPacket) -> None:
        answer = self._requests.pop(packet.sequence, None)
        if answer is not None:
            if not answer.done():
                answer.set_result(packet)
            return
        self._queue.append(packet)
        if len(self._queue) >= self._max_queued:
            session.suspend()
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _next_sequence(self) -> int:
        highest = self.layout.max_sequence
        if not highest:
            raise ValueError("this layout has no sequence number: an answer cannot be told from other packets")
        if len(self._requests) >= highest:
            raise RuntimeError(f"{highest} requests wait for an answer, as many as there are sequence numbers")
        while True:
            self._sequence = self._sequence % highest + 1  # 0 is for packets that answer nothing
            if self._sequence not in self._requests:
                return self._sequence


def _packet_classes(packets: Iterable[type[Packet]]) -> Iterable[type[Packet]]:
    if isinstance(packets, type):
        raise errors.wrong_type("packets", "a list of packet classes", packets)
    for packet in packets:
        if not isinstance(packet, type):
            raise errors.wrong_type("packets", "a list of packet classes", packet)
        yield packet


@asynccontextmanager
async def connect(
    host: str,
    port: int,
    *,
    packets: Iterable[type[Packet]] = (),
    layout: Layout = BOOK_HEADER,
    ssl: ssl_module.SSLContext | None = None,
    transport: TransportName | Transports = "auto",
    connect_timeout: float = 10.0,
    max_queued: int = 1024,
    heartbeat: Heartbeat | None = None,
    **limits: Unpack[LimitOptions],
) -> AsyncIterator[Client]:
    """Connect to a server: `async with gamenet.connect(host, port) as client`.

    `packets` are the classes that arriving packets are made of; others come as `RawPacket`. `ssl` asks for TLS,
    `transport` and `heartbeat` are as in `gamenet.Server`.
    Further keywords are fields of `gamenet.Limits`; a client has no `idle_timeout` unless it is given one.
    `OSError` if the server cannot be reached, `TimeoutError` after `connect_timeout` seconds; `ValueError` or
    `TypeError`, naming it, for an argument that cannot be.
    """
    check_attempt(port, ssl, connect_timeout)
    limits.setdefault("idle_timeout", None)
    transports = choose_client(transport, asyncio.get_running_loop())
    client = Client(transports, limits_of(connect, limits), layout, packets, max_queued, heartbeat)
    try:
        async with connect_deadline(host, port, connect_timeout):
            await transports.create_connection(lambda: client.session, host, port, ssl=ssl)
    except BaseException:
        client.abandon()
        raise
    try:
        yield client
    finally:
        await client.close()


def check_attempt(port: int, ssl: ssl_module.SSLContext | None, connect_timeout: float) -> None:
    """`TypeError` or `ValueError` for what no connection can be made with."""
    check_port(port)
    if not isinstance(ssl, ssl_module.SSLContext | bool | None):  # True: the system's certificates, as asyncio has it
        raise errors.wrong_type("ssl", "an ssl.SSLContext", ssl)
    check_above_zero("connect_timeout", connect_timeout)


@asynccontextmanager
async def connect_deadline(host: str, port: int, seconds: float) -> AsyncIterator[None]:
    """`TimeoutError`, with a text that says so, if connecting takes longer; a failed look-up names the host."""
    try:
        async with asyncio.timeout(seconds) as deadline:
            yield
    except socket.gaierror as error:
        error.strerror = f"cannot look up {host!r}: {error.strerror}"
        raise
    except TimeoutError:
        if not deadline.expired():  # the system's own, which came sooner
            raise
        raise TimeoutError(f"no connection to {host} port {port} within {seconds} s") from None
