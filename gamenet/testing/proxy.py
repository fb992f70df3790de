"""A TCP proxy on loopback that does to real connections what `Chaos` says, and what it is told to.

What stays true: bytes are read only while less than `capacity` of a direction wait, so backpressure passes through;
an end of one side becomes the same end of the other. Works on every loop, with TLS too: it never looks inside.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from dataclasses import replace
from types import TracebackType
from typing import cast

from gamenet.testing.chaos import Chaos, check_chaos
from gamenet.testing.memory import CAPACITY
from gamenet.testing.shaper import Ending, Shaper
from gamenet.transports.proactor import is_proactor

_LINGER_ZERO = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)  # closing then sends a RST


class ChaosProxy:
    """`async with ChaosProxy(host, port, chaos(...)) as proxy`: connect to `proxy.host` and `proxy.port` instead.

    `to_server` and `to_client` are the settings of each direction, `chaos` is for both; `seed` replaces theirs. Each
    connection has its own randomness, from the seed and its number. The system may glue pieces again that follow
    each other too fast for the receiver; in memory they stay apart.
    """

    def __init__(
        self,
        host: str,
        port: int,
        chaos: Chaos | None = None,
        *,
        to_server: Chaos | None = None,
        to_client: Chaos | None = None,
        seed: int | None = None,
        capacity: int = CAPACITY,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity {capacity} is below 1")
        check_chaos(chaos=chaos, to_server=to_server, to_client=to_client)
        self.host = "127.0.0.1"
        self._target = host, port
        self._to_server = _seeded(chaos if to_server is None else to_server, seed)
        self._to_client = _seeded(chaos if to_client is None else to_client, seed)
        self._capacity = capacity
        self._port = 0
        self._listener: asyncio.Task[None] | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self._links: set[_Link] = set()
        self._accepted = 0
        self._is_frozen = False

    @property
    def port(self) -> int:
        """Where it listens; the same before, during and after `refuse()`. `RuntimeError` before it was started."""
        if not self._port:
            raise RuntimeError("this proxy was not started; use it with `async with`")
        return self._port

    @property
    def connections(self) -> int:
        """How many connections pass through it now."""
        return len(self._links)

    async def __aenter__(self) -> ChaosProxy:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening and end every connection at once. Closing again does nothing."""
        await self.refuse()
        await _cancel(*self._connecting)
        for link in [*self._links]:
            link.abort()
            await link.done
            self._links.discard(link)  # its callback may be a turn behind

    # -- disturbances, as those of `MemoryNetwork`

    async def refuse(self) -> None:
        """Stop listening: new connections get `ConnectionRefusedError`, until `accept()`. Those that exist go on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await _cancel(listener)

    async def accept(self) -> None:
        """Listen, again on the same port after `refuse()`. `OSError` if that was taken in the meantime."""
        if self._listener is None:
            sock = socket.create_server((self.host, self._port), backlog=128)
            sock.setblocking(False)
            self._port = sock.getsockname()[1]
            self._listener = asyncio.ensure_future(self._listen(sock))
            await asyncio.sleep(0)  # a task that never ran would not close the socket when it is cancelled

    def cut(self) -> None:
        """End every connection in order on both sides, without what was on the way."""
        for link in self._links:
            link.cut()

    def reset(self) -> None:
        """Break every connection with a RST on both sides."""
        for link in self._links:
            link.reset()

    def freeze(self) -> None:
        """Deliver nothing any more, on any connection that exists or comes, until `thaw()`."""
        self._set_frozen(True)

    def thaw(self) -> None:
        """Go on after `freeze()`: what was sent in the meantime arrives."""
        self._set_frozen(False)

    def _set_frozen(self, is_frozen: bool) -> None:
        self._is_frozen = is_frozen
        for link in self._links:
            link.set_frozen(is_frozen)

    # -- making connections

    async def _listen(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                sock, _ = await loop.sock_accept(listener)
                task = asyncio.ensure_future(self._link(sock))
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)

    async def _link(self, client: socket.socket) -> None:
        """Connect to the target and pass bytes from now on; a target that cannot be reached is a RST."""
        key, self._accepted = str(self._accepted), self._accepted + 1
        client.setblocking(False)
        try:
            server = await _connect(*self._target)
        except OSError:
            return _close_with_reset(client)
        except BaseException:
            client.close()
            raise
        to_server, to_client = Shaper(self._to_server, f"{key}/second"), Shaper(self._to_client, f"{key}/first")
        link = _Link(_End(client, to_server, self._capacity), _End(server, to_client, self._capacity))
        self._links.add(link)
        link.done.add_done_callback(lambda _: self._links.discard(link))
        link.set_frozen(self._is_frozen)
        task = asyncio.current_task()
        assert task is not None
        self._connecting.discard(task)  # no longer to be cancelled: half a link has nobody to end it
        await link.start()


class _Link:
    """One connection through the proxy: two ends. `done` is set when both are gone."""

    def __init__(self, client: _End, server: _End) -> None:
        self._ends = client, server
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for end, other in ((client, server), (server, client)):
            end.link, end.other = self, other

    async def start(self) -> None:
        """Read and write from now on."""
        loop = asyncio.get_running_loop()
        client, server = self._ends
        try:
            await loop.create_connection(lambda: server, sock=server.sock)
            await loop.connect_accepted_socket(lambda: client, client.sock)
        except OSError:  # reset by now, and a system that minds
            return self._never_made()
        for end in self._ends:
            end.started()

    def _never_made(self) -> None:
        self.abort()
        for end in self._ends:
            end.drop_unconnected()
        self.ended()

    def cut(self) -> None:
        """EOF on both sides, now; what they still send is lost."""
        for end in self._ends:
            end.shaper.clear()
            end.shaper.finish(Ending.EOF)
            end.schedule()

    def reset(self) -> None:
        """A RST on both sides."""
        for end in self._ends:
            end.reset()

    def abort(self) -> None:
        """Close both sockets; what is on the way is lost."""
        for end in self._ends:
            end.abort()

    def set_frozen(self, is_frozen: bool) -> None:
        """Whether anything is delivered."""
        for end in self._ends:
            end.shaper.is_frozen = is_frozen
            end.schedule()

    def ended(self) -> None:
        """Told by an end whose direction has ended, or whose connection is gone."""
        if all(end.shaper.ending is not None for end in self._ends):
            for end in self._ends:
                end.close()
        if all(end.is_gone for end in self._ends) and not self.done.done():
            self.done.set_result(None)


class _End(asyncio.Protocol):
    """The proxy's socket to one side. `shaper` has what was read here, on its way to `other`."""

    link: _Link
    other: _End

    def __init__(self, sock: socket.socket, shaper: Shaper, capacity: int) -> None:
        self.sock = sock
        self.shaper = shaper
        self.is_gone = False
        self._capacity = capacity
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._is_full = False  # what was written here has not left yet
        self._is_aborted = False
        self._next: asyncio.Handle | None = None

    def reset(self) -> None:
        """Close the socket at once, by a RST."""
        if not self.is_gone and self.sock.fileno() != -1:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.abort()
        if is_proactor(self._loop):
            self.sock.close()  # or it would be shut down first, which the other side takes for an end in order

    def abort(self) -> None:
        """Close the socket at once, or when the loop has taken it over."""
        self._is_aborted = True
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close the socket when what was written has left."""
        if self._transport is not None:
            self._transport.close()

    def started(self) -> None:
        """Both ends are connected. Not before: uvloop knows a socket's object only when `create_connection()` returns,
        and would close its number without it.
        """
        if self._is_aborted:
            self.abort()
        self.schedule()

    def drop_unconnected(self) -> None:
        """Close the socket if the loop never had it."""
        if self._transport is None and not self.is_gone:
            self.is_gone = True
            self.sock.close()

    # -- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(0)  # bytes wait in the shaper and nowhere else

    def data_received(self, data: bytes) -> None:
        self.shaper.feed(data, self._loop.time())
        if self.shaper.held >= self._capacity and self._transport is not None:
            self._transport.pause_reading()
        self.schedule()

    def eof_received(self) -> bool:
        self.shaper.finish(Ending.EOF)
        self.schedule()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.is_gone = True
        self._transport = None
        self.shaper.finish(Ending.EOF if error is None else Ending.RESET)
        self.schedule()
        if self.shaper.ending is not None and error is not None:  # it read its end, and refused what we wrote
            self.link.reset()
        self.other.shaper.clear()
        self.link.ended()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self.other.schedule()

    # -- passing on

    def schedule(self) -> None:
        """Have the next piece passed on when it is due and the other side takes it."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        target = self.other
        if target._transport is None or target._is_full:
            return
        now = self._loop.time()
        due = self.shaper.due(now)
        if due is not None:
            # one piece in a turn, so that a receiver on this loop may see it on its own
            self._next = self._loop.call_soon(self._pass) if due <= now else self._loop.call_at(due, self._pass)

    def _pass(self) -> None:
        self._next = None
        target = self.other._transport
        if target is None:
            return
        piece = self.shaper.take(self._loop.time())
        if isinstance(piece, bytes):
            target.write(piece)
            if self._transport is not None and self.shaper.held < self._capacity:
                self._transport.resume_reading()
        elif piece is Ending.EOF:
            try:
                target.write_eof()
            except OSError:  # that side was reset, and the loop has not seen it yet
                target.abort()
            self.link.ended()
        elif piece is Ending.RESET:
            self.link.reset()
        self.schedule()


async def _connect(host: str, port: int) -> socket.socket:
    """A connected socket; of the addresses of `host` the first that works."""
    loop = asyncio.get_running_loop()
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _close_with_reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    sock.close()


def _seeded(chaos: Chaos | None, seed: int | None) -> Chaos | None:
    return chaos if chaos is None or seed is None else replace(chaos, seed=seed)
