"""What can go wrong, as data: error codes, the exception tree, and why a session ended.

Imports nothing of gamenet. Every text that names a number is made here, so that the pure and the compiled
twin cannot say the same thing in two ways.
"""

import logging
from enum import IntEnum, StrEnum


class ErrorCode(IntEnum):
    """Codes a server tells its clients, numbered as in the book (9.3.1). `level` is how loud a log line is."""

    SUCCESS = 0
    NETWORK_ERROR = 1000
    INVALID_PACKET = 1001
    SESSION_NOT_FOUND = 1002
    AUTHENTICATION_FAILED = 1003
    DATABASE_ERROR = 1004
    MEMORY_ALLOCATION_FAILED = 1005

    @property
    def level(self) -> int:
        """The `logging` level of this code."""
        return _LEVELS[self]


_LEVELS = {
    ErrorCode.SUCCESS: logging.DEBUG,
    ErrorCode.NETWORK_ERROR: logging.ERROR,
    ErrorCode.INVALID_PACKET: logging.WARNING,
    ErrorCode.SESSION_NOT_FOUND: logging.INFO,
    ErrorCode.AUTHENTICATION_FAILED: logging.WARNING,
    ErrorCode.DATABASE_ERROR: logging.ERROR,
    ErrorCode.MEMORY_ALLOCATION_FAILED: logging.CRITICAL,
}


class CloseReason(StrEnum):
    """Why a session ended. Each session ends with exactly one; `server.stats()["closed"]` counts them."""

    PEER_CLOSED = "peer_closed"
    """The peer ended the connection in order (FIN, or TLS close_notify)."""
    NETWORK_ERROR = "network_error"
    """The connection broke: a reset, an unreachable network, an error of the socket."""
    CLOSED = "closed"
    """Our side called `close()` and gave no other reason."""
    IDLE_TIMEOUT = "idle_timeout"
    """Nothing arrived for `idle_timeout` seconds."""
    LOGIN_TIMEOUT = "login_timeout"
    """Not logged in within `login_timeout` seconds, on a server that requires a login."""
    ASSEMBLY_TIMEOUT = "assembly_timeout"
    """A packet began and was not complete within `assembly_timeout` seconds."""
    WRITE_TIMEOUT = "write_timeout"
    """The peer took nothing of what waits for it for `write_timeout` seconds."""
    INCOMPLETE_PACKET = "incomplete_packet"
    """The peer ended the connection in the middle of a packet."""
    INVALID_PACKET = "invalid_packet"
    """A header that cannot be true; where the next packet starts is unknown."""
    UNKNOWN_PACKET = "unknown_packet"
    """A packet id without a handler, under `unknown_packets="close"`."""
    HANDLER_ERROR = "handler_error"
    """A handler raised, under `handler_errors="close"`."""
    RATE_EXCEEDED = "rate_exceeded"
    """More packets or bytes a second than the session may send, under `rate_exceeded="close"`."""
    SLOW_RECEIVER = "slow_receiver"
    """More than `max_write_buffer` bytes waited for a peer that did not read them."""
    LINK_TIMEOUT = "link_timeout"
    """Of one connection of a session that can be resumed: nothing arrived for `link_timeout` seconds."""
    RESUME_TIMEOUT = "resume_timeout"
    """The peer of a session that could be resumed did not come back within `resume_timeout` seconds."""
    SEAT_GIVEN_UP = "seat_given_up"
    """It could be resumed, but more than `max_seats_away` others were lost after it."""
    SEAT_UNKNOWN = "seat_unknown"
    """Of a client's session: the server does not know it any more."""
    OUT_OF_MEMORY = "out_of_memory"
    """There was no block, or no memory, for a packet that is incomplete."""
    SERVER_STOPPED = "server_stopped"
    """The server stopped."""
    SERVER_FULL = "server_full"
    """The server already held `max_sessions`, or its `session_data` had nothing left to lend."""
    ADDRESS_FULL = "address_full"
    """The peer's address already had `max_sessions_per_address`."""
    HANDSHAKE_FAILED = "handshake_failed"
    """No TLS: plain text, garbage, no certificate or version in common, or an end in the middle."""
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    """The TLS handshake was not done after `handshake_timeout` seconds."""


class GameNetError(Exception):
    """The root of everything gamenet raises by itself. `code` is what a client may be told."""

    code = ErrorCode.NETWORK_ERROR


class InvalidPacketError(GameNetError):
    """The peer sent bytes that cannot be a packet, so that its session ends with `CloseReason.INVALID_PACKET`.

    Handlers may raise it for a body that cannot be.
    """

    code = ErrorCode.INVALID_PACKET


class SessionClosedError(GameNetError):
    """The session or client is closed: there is nothing left to wait for."""

    code = ErrorCode.SESSION_NOT_FOUND


class AuthenticationError(GameNetError):
    """The peer's credentials were refused."""

    code = ErrorCode.AUTHENTICATION_FAILED


class PoolExhaustedError(GameNetError):
    """A pool has everything out and may not make more, or too many wait for it already."""

    code = ErrorCode.MEMORY_ALLOCATION_FAILED


class PoolCorruptedError(GameNetError):
    """A block was written to after its release; `GAMENET_POOL_DEBUG=fill` looks for that."""

    code = ErrorCode.MEMORY_ALLOCATION_FAILED


class WrongThreadError(GameNetError, RuntimeError):
    """A session was used from a thread that does not run its event loop."""


def packet_size_too_small(packet_size: int, smallest: int) -> InvalidPacketError:
    return InvalidPacketError(f"packet_size {packet_size} is below the smallest packet of {smallest} bytes")


def packet_size_too_large(packet_size: int, max_packet_size: int) -> InvalidPacketError:
    return InvalidPacketError(f"packet_size {packet_size} is above the limit of {max_packet_size} bytes")


def cannot_decode(error: Exception) -> InvalidPacketError:
    return InvalidPacketError(f"decode() raised {type(error).__name__}: {error}")


def wrong_trailer(found: bytes, trailer: bytes) -> InvalidPacketError:
    return InvalidPacketError(f"the packet ends with {found!r}, not with its trailer {trailer!r}")


def varint_is_overlong(name: str, size: int) -> InvalidPacketError:
    return InvalidPacketError(f"{name} is a VarInt of {size} bytes, more than it needs")


def varint_too_large(name: str, highest: int) -> InvalidPacketError:
    return InvalidPacketError(f"{name} is a VarInt above {highest}")


def varint_does_not_end(name: str, max_bytes: int) -> InvalidPacketError:
    return InvalidPacketError(f"{name} is a VarInt that does not end within {max_bytes} bytes")


def header_too_long(max_packet_size: int) -> InvalidPacketError:
    return InvalidPacketError(f"the header does not end within the limit of {max_packet_size} bytes")


def no_delimiter(delimiter: bytes, max_packet_size: int) -> InvalidPacketError:
    return InvalidPacketError(f"no delimiter {delimiter!r} within the limit of {max_packet_size} bytes")


def body_has_delimiter(delimiter: bytes, index: int) -> ValueError:
    return ValueError(f"the body has the delimiter {delimiter!r} at byte {index}; the packet would end there")


def no_such_header_field(name: object, known: list[str]) -> ValueError:
    return ValueError(f"header has no extra field {name!r}, it has {', '.join(known) or 'none'}")


def packet_falls_short(packet_size: int, smallest: int) -> ValueError:
    return ValueError(f"a packet of {packet_size} bytes is below the smallest of {smallest}")


def packet_does_not_fit(packet_size: int, max_packet_size: int) -> ValueError:
    return ValueError(f"a packet of {packet_size} bytes does not fit, limit {max_packet_size}")


def header_does_not_fit(held: int, header_size: int) -> ValueError:
    return ValueError(f"{held} bytes do not hold a {header_size}-byte header")


def frame_is_not_whole(held: int) -> ValueError:
    return ValueError(f"a frame of {held} bytes is not a whole packet")


def number_does_not_fit(name: str, value: object, lowest: float, highest: float) -> ValueError:
    return ValueError(f"{name} {value} is outside {lowest} to {highest}")


def not_above_zero(name: str, value: object) -> ValueError:
    return ValueError(f"{name} {value} is not above 0")


def text_does_not_fit(name: str, held: int, size: int) -> ValueError:
    return ValueError(f"{name} takes {size} bytes, got {held}")


def text_has_nul(name: str, index: int) -> ValueError:
    return ValueError(f"{name} has a NUL at byte {index}; a char[] ends there")


def body_too_short(name: str, held: int, size: int) -> ValueError:
    return ValueError(f"{name} needs a body of {size} bytes, got {held}")


def no_such_field(name: str, field: object) -> AttributeError:
    return AttributeError(f"{name} has no field {field!r}")


def no_such_packet(index: int, held: int) -> IndexError:
    return IndexError(f"packet {index} of a batch of {held}")


def wrong_type(name: str, wanted: str, value: object) -> TypeError:
    got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    return TypeError(f"{name} must be {wanted}, got {got}")


def pool_is_empty(max_blocks: int, size: int) -> PoolExhaustedError:
    return PoolExhaustedError(f"all {max_blocks} blocks of {size} bytes are out")


def too_many_wait(max_waiters: int) -> PoolExhaustedError:
    return PoolExhaustedError(f"{max_waiters} wait already, which is the limit")


def pool_fails_as_asked(every: int) -> PoolExhaustedError:
    return PoolExhaustedError(f"GAMENET_POOL_DEBUG lets every request of {every} fail")


def block_too_small(size: int, largest: int) -> ValueError:
    return ValueError(f"no block holds {size} bytes, the largest has {largest}")


def block_was_written_to(address: int, size: int, offset: int, found: int, expected: int) -> PoolCorruptedError:
    return PoolCorruptedError(
        f"the free block of {size} bytes at 0x{address:x} was written to after its release: "
        f"byte {offset} is 0x{found:02x}, expected 0x{expected:02x}"
    )


def wrong_thread(owner: int, caller: int) -> WrongThreadError:
    return WrongThreadError(
        f"this session belongs to thread {owner} and was used from thread {caller}; "
        "hand it over: session.send_threadsafe(), room.broadcast_threadsafe() or server.call_soon(function, *args)"
    )
