"""A client's seat on a server: what it needs to go on with the same session over another connection.

What stays true: there is a transport exactly while there is a session that can be resumed; the seat's number and secret
are those that the server gave for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gamenet._core import PoolAllocator, RawPacket
from gamenet.errors import CloseReason, InvalidPacketError
from gamenet.limits import Limits
from gamenet.resumable import Link, ResumableTransport
from gamenet.resume import MAGIC, SECRET_SIZE, VERSION, Hello, Welcome, new_pool, read_welcome, record
from gamenet.session import Session


class ClientSeat:
    """`new_session()` is asked for a session when one begins, and has to end the one before; `on_lost(reason)` is told
    when its link was lost.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        new_session: Callable[[], Session],
        on_lost: Callable[[str], object],
    ) -> None:
        self.transport: ResumableTransport | None = None
        self.number = 0
        self.secret = bytes(SECRET_SIZE)
        self._loop = loop
        self._limits = limits
        self._pool = new_pool(1)
        self._new_session = new_session
        self._on_lost = on_lost

    async def connect(self, create_connection: Callable[[Callable[[], Link]], Awaitable[object]]) -> bool:
        """Make a connection, and go on over it; False if a new session has begun. `OSError` as connecting raises it,
        `ConnectionResetError` if the server does not welcome us.
        """
        link = ClientLink(self, self._loop, self._limits, self._pool)
        try:
            await create_connection(lambda: link)
            resumed = await link.resumed
        except BaseException:
            link.abort()
            if self.transport is not None and link.owner is self.transport:  # it was welcomed a moment too late
                link.owner = None
                self.transport.lost(CloseReason.CLOSED)
            raise
        if resumed is None:
            raise ConnectionResetError(
                f"the connection ended before a WELCOME ({link.reason}): the server is full, or has no resume=True"
            )
        return resumed

    def hello(self) -> Hello:
        """What to say first."""
        seat, secret, received = 0, bytes(SECRET_SIZE), 0
        if self.transport is not None:
            seat, secret, received = self.number, self.secret, self.transport.stream.promise()
        window = self._limits.max_resume_buffer
        return Hello(magic=MAGIC, version=VERSION, seat=seat, secret=secret, received=received, window=window)

    def welcomed(self, link: Link, welcome: Welcome) -> bool:
        """Serve the session over `link`; whether it goes on. `InvalidPacketError` for what cannot be."""
        if not welcome.resumed:
            session = self._new_session()
            self.transport = ResumableTransport(self._loop, self._limits, session, self._lost, self._gone)
        transport = self.transport
        if transport is None:
            raise InvalidPacketError("a WELCOME back to a session that has ended meanwhile, or never was")
        self.number, self.secret = welcome.seat, welcome.secret
        if not transport.stream.reaches(welcome.received):
            self._abandon(transport)
            raise InvalidPacketError(f"a WELCOME of {welcome.received} bytes received, which were not sent")
        transport.attach(link, welcome.received, welcome.window)
        link.write(transport.stream.ack())  # the server opens a new session when it has heard of us
        if not transport.is_open:
            transport.open()
        return welcome.resumed

    def _abandon(self, transport: ResumableTransport) -> None:
        if transport.is_open:
            transport.session.abort(CloseReason.INVALID_PACKET)
        else:
            transport.abort()

    def _lost(self, transport: ResumableTransport, reason: str) -> None:
        if transport is self.transport:
            self._on_lost(reason)

    def _gone(self, transport: ResumableTransport) -> None:
        if transport is self.transport:
            self.transport = None


class ClientLink(Link):
    """A link of a client. `resumed` is the result of its handshake, None if the connection ended before."""

    def __init__(
        self, seat: ClientSeat, loop: asyncio.AbstractEventLoop, limits: Limits, pool: PoolAllocator
    ) -> None:
        super().__init__(loop, limits, pool)
        self.resumed: asyncio.Future[bool | None] = loop.create_future()
        self._seat = seat

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.reason is None:
            self.write(record(self._seat.hello()))

    def handshake(self, packet: RawPacket) -> None:
        resumed = self._seat.welcomed(self, read_welcome(packet))  # at once: what follows is behind it in the chunk
        if not self.resumed.done():
            self.resumed.set_result(resumed)

    def on_ended(self, reason: str, error: Exception | None) -> None:
        if not self.resumed.done():
            self.resumed.set_result(None)
