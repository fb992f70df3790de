"""Two asyncio transports that are each other's peer, without any socket.

What stays true: a protocol cannot tell them from asyncio's own stream transports. Callbacks come in later turns of
the loop, `connection_lost()` once and last; at most `capacity` bytes of a direction are on the way, as in a socket's
buffers, and the rest waits in the sender's write buffer.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable
from typing import Any, cast

from gamenet.testing.chaos import Chaos, check_chaos
from gamenet.testing.shaper import Ending, Shaper

CAPACITY = 65_536
"""Bytes on the way in one direction unless it is said otherwise: a small socket buffer, so that it fills in a test."""

_HIGH_WATERMARK = 65_536  # asyncio's defaults
_MAX_READ = 262_144

Buffer = bytes | bytearray | memoryview


def memory_pair(
    first: asyncio.BaseProtocol,
    second: asyncio.BaseProtocol,
    *,
    to_first: Chaos | None = None,
    to_second: Chaos | None = None,
    capacity: int = CAPACITY,
    addresses: tuple[Any, Any] = (("127.0.0.1", 1), ("127.0.0.1", 2)),
    key: str = "",
) -> tuple[MemoryTransport, MemoryTransport]:
    """Connect two protocols on the running loop; returns their transports.

    `connection_made()` comes in the next turn, of `first` first. `to_first` and `to_second` are what happens to the
    bytes on their way there, `key` tells pairs of one seed apart, `addresses` are those of `first` and `second`.
    `ValueError` for a capacity below 1, `TypeError` for chaos that is none.
    """
    if capacity < 1:
        raise ValueError(f"capacity {capacity} is below 1")
    check_chaos(to_first=to_first, to_second=to_second)
    loop = asyncio.get_running_loop()
    one = MemoryTransport(loop, first, Shaper(to_first, f"{key}/first"), capacity, *addresses)
    two = MemoryTransport(loop, second, Shaper(to_second, f"{key}/second"), capacity, *reversed(addresses))
    one._connect(two)
    two._connect(one)
    return one, two


class MemoryTransport(asyncio.Transport):
    """One end of a pair, with the contract of `asyncio.Transport`.

    As with a socket, bytes that reach an end which is gone are lost and its peer is told by a reset; unread bytes at
    the moment of closing reset the connection too, after what is on the way has been read.
    """

    _peer: MemoryTransport

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.BaseProtocol,
        inbound: Shaper,
        capacity: int,
        sockname: Any,
        peername: Any,
    ) -> None:
        super().__init__({"sockname": sockname, "peername": peername})
        self._loop = loop
        self._protocol: asyncio.BaseProtocol | None = protocol
        self._inbound = inbound  # on the way to us
        self._capacity = capacity
        self._outbound = bytearray()  # waits for room on the way
        self._high, self._low = _HIGH_WATERMARK, _HIGH_WATERMARK // 4
        self._is_write_paused = False
        self._is_read_paused = False
        self._has_read_end = False
        self._has_written_end = False
        self._is_closing = False
        self._is_dropping = False  # what is written goes nowhere; connection_lost() was called or is to come
        self.is_gone = False
        """Whether `connection_lost()` was called."""
        self._was_reset = False
        self._wrote_to_nobody = False
        self._next_read: asyncio.Handle | None = None
        self._reads_soon = False  # in the next turn, not at a later time
        self._next_write: asyncio.Handle | None = None

    def __repr__(self) -> str:
        state = "closed" if self.is_gone else "closing" if self._is_closing else "open"
        names = self.get_extra_info("sockname"), self.get_extra_info("peername")
        return f"<MemoryTransport {names[0]} to {names[1]} {state}, {self._inbound.held} bytes to read>"

    # -- both directions

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[return-value]  # None once it is lost, as asyncio's own

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        """Read nothing more, hand over what was written, then call `connection_lost(None)`."""
        if self._is_closing:
            return
        self._stop_reading()
        if not self._outbound:
            self._lose(None)

    def abort(self) -> None:
        """Close at once; what has not left the write buffer is lost."""
        self._force_close(None)

    def reset(self) -> None:
        """Break the connection as a RST does: both ends get `ConnectionResetError`, what was on the way is lost."""
        for end in (self, self._peer):
            end._inbound.clear()
            end._force_close(_reset_error())

    def freeze(self) -> None:
        """Deliver nothing, in either direction, until `thaw()`."""
        self._inbound.is_frozen = self._peer._inbound.is_frozen = True

    def thaw(self) -> None:
        """Go on after `freeze()`."""
        for end in (self, self._peer):
            end._inbound.is_frozen = False
            end._schedule_read()

    def cut(self) -> None:
        """End the connection in order at both ends, but lose what is on the way."""
        for end in (self, self._peer):
            end._inbound.clear()
            end._inbound.finish(Ending.EOF)
            end._schedule_read()
            if end._outbound:
                end._outbound.clear()
                self._loop.call_soon(end._write)

    # -- reading

    def is_reading(self) -> bool:
        return not self._is_closing and not self._is_read_paused

    def pause_reading(self) -> None:
        self._is_read_paused = True

    def resume_reading(self) -> None:
        self._is_read_paused = False
        self._schedule_read()

    def _schedule_read(self) -> None:
        """Have the next piece read when it is due."""
        if self._next_read is not None:
            if self._reads_soon:
                return
            self._next_read.cancel()
            self._next_read = None
        if not self.is_reading() or self._has_read_end:
            return
        now = self._loop.time()
        due = self._inbound.due(now)
        if due is not None:
            self._reads_soon = soon = due <= now
            self._next_read = self._loop.call_soon(self._read) if soon else self._loop.call_at(due, self._read)

    def _read(self) -> None:
        self._next_read = None
        if not self.is_reading():
            return
        try:
            self._read_piece()
        finally:
            self._schedule_read()

    def _read_piece(self) -> None:
        protocol = self._protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            buffer = self._call("get_buffer", protocol.get_buffer, -1)
            if buffer is not None and len(buffer) == 0:
                self._fail(RuntimeError("get_buffer() returned an empty buffer"), "get_buffer() call failed")
            elif buffer is not None:
                self._read_into(protocol, memoryview(buffer).cast("B"))
        else:
            piece = self._take(_MAX_READ)
            if piece:
                self._call("data_received", cast(asyncio.Protocol, protocol).data_received, piece)

    def _read_into(self, protocol: asyncio.BufferedProtocol, buffer: memoryview) -> None:
        piece = self._take(len(buffer))
        if piece:
            buffer[: len(piece)] = piece
            self._call("buffer_updated", protocol.buffer_updated, len(piece))

    def _take(self, limit: int) -> bytes | None:
        """The next piece that is due. An ending is dealt with here."""
        piece = self._inbound.take(self._loop.time(), limit)
        self._peer._schedule_write()  # there is room now
        if piece is Ending.EOF:
            self._read_eof()
        elif piece is Ending.RESET:
            self._fail(_reset_error(), "connection reset")
            self._peer._force_close(_reset_error())
        else:
            return piece
        return None

    def _read_eof(self) -> None:
        self._has_read_end = True
        protocol = cast(asyncio.Protocol, self._protocol)
        if not self._call("eof_received", protocol.eof_received):
            self.close()

    # -- writing

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return len(self._outbound)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH_WATERMARK if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        self._pause_protocol()

    def write(self, data: Buffer) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._has_written_end:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._is_dropping or not len(data):
            return
        waits = bool(self._outbound)
        self._outbound += data
        if not waits:
            self._push()
        self._pause_protocol()

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if self._is_closing or self._has_written_end:
            return
        self._has_written_end = True
        if not self._outbound:
            self._send_ending(Ending.EOF)

    def _push(self) -> None:
        """Send what there is room for."""
        peer = self._peer
        if self._was_reset or (peer.is_gone and self._wrote_to_nobody):
            error = _reset_error() if self._was_reset else BrokenPipeError(errno.EPIPE, "Broken pipe")
            self._fail(error, "write failed")
        elif peer.is_gone:  # the first bytes leave, and the answer to them is a reset
            self._wrote_to_nobody = True
            self._outbound.clear()
        elif peer._inbound.loses_all:
            self._outbound.clear()
        else:
            room = max(0, self._capacity - peer._inbound.held)
            peer._inbound.feed(self._outbound[:room], self._loop.time())
            del self._outbound[:room]
            peer._schedule_read()

    def _schedule_write(self) -> None:
        if self._outbound and self._next_write is None:
            self._next_write = self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._next_write = None
        if self._is_dropping:
            return
        self._push()
        if self._is_dropping:
            return
        self._resume_protocol()
        if self._outbound:
            return
        if self._is_closing:
            self._lose(None)
        elif self._has_written_end:
            self._send_ending(Ending.EOF)

    def _pause_protocol(self) -> None:
        if len(self._outbound) > self._high and not self._is_write_paused:
            self._is_write_paused = True
            self._tell("pause_writing")

    def _resume_protocol(self) -> None:
        if self._is_write_paused and len(self._outbound) <= self._low:
            self._is_write_paused = False
            self._tell("resume_writing")

    def _send_ending(self, ending: Ending) -> None:
        self._peer._inbound.finish(ending)
        self._peer._schedule_read()

    # -- beginning and end

    def _connect(self, peer: MemoryTransport) -> None:
        self._peer = peer
        assert self._protocol is not None
        self._loop.call_soon(self._protocol.connection_made, self)
        self._loop.call_soon(self._schedule_read)

    def _stop_reading(self) -> None:
        self._is_closing = True
        if self._next_read is not None:
            self._next_read.cancel()
            self._next_read = None

    def _force_close(self, error: Exception | None) -> None:
        if self._is_dropping:
            return
        self._outbound.clear()
        self._stop_reading()
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        self._is_dropping = True
        self._loop.call_soon(self._connection_lost, error)

    def _connection_lost(self, error: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        try:
            if protocol is not None:
                protocol.connection_lost(error)
        finally:
            self._go()

    def _go(self) -> None:
        """What closing the socket does to the other end."""
        self.is_gone = True
        peer = self._peer
        if self._inbound.clear():
            peer._was_reset = True
            self._send_ending(Ending.RESET)
        else:
            self._send_ending(Ending.EOF)
        peer._schedule_write()

    # -- calling the protocol

    def _call(self, name: str, callback: Callable[..., Any], *values: object) -> Any:
        """What a callback of the protocol returns; if it raises, the connection ends with that."""
        try:
            return callback(*values)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._fail(error, f"protocol.{name}() call failed.")
            return None

    def _tell(self, name: str) -> None:
        try:
            getattr(self._protocol, name)()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self._complain(error, f"protocol.{name}() failed")

    def _fail(self, error: BaseException, message: str) -> None:
        if not isinstance(error, OSError):  # those are the network's, and no fault of anybody's
            self._complain(error, f"Fatal error: {message}")
        self._force_close(error)  # type: ignore[arg-type]  # connection_lost() gets what was raised, as with asyncio

    def _complain(self, error: BaseException, message: str) -> None:
        context = {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
        self._loop.call_exception_handler(context)


def _reset_error() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
