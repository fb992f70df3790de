"""The states of a session: what the server is told, what the client does, and how the server knows that it is there.

What stays true: a state is entered by real bytes over a real connection; the figures of `reached` are the server's own.
"""

import struct
from dataclasses import dataclass, field, replace
from typing import Any

from bench.memory.server import ECHO, GIVE, KEEP, LABEL, WAIT

KIB = 1024
BODY_SIZE = 64  # bytes of body where the size is of no matter


@dataclass(frozen=True, eq=False)
class State:
    """`options` are the server's; `sends` is what a client says once, `answer_size` the bytes it reads thereafter.

    `reached`: figures per session at which the server has it in that state, at least. With `leaves` every client goes
    again; as many come and go `waves_before`. With `is_silent` it does not even begin TLS, and is no session.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    sends: bytes = b""
    answer_size: int = 0
    reached: dict[str, int] = field(default_factory=dict)
    small_buffers: bool = False
    leaves: bool = False
    waves_before: int = 0
    is_silent: bool = False
    most_sessions: int | None = None  # where each takes much
    on_pure: bool = False  # measured on the pure twin too

    @property
    def tls(self) -> bool:
        """Whether the clients speak TLS."""
        return bool(self.options.get("tls"))

    def totals(self, sessions: int) -> dict[str, int]:
        """The server's figures when so many sessions are in this state."""
        totals = {name: figure * sessions for name, figure in self.reached.items()}
        return {**totals, "sessions": 0 if self.is_silent else sessions}


def packet(packet_id: int, body_size: int = BODY_SIZE) -> bytes:
    """A packet under the book's header."""
    return struct.pack("<HHI", packet_id, 8 + body_size, 1) + b"x" * body_size


def _idle(name: str, on_pure: bool = False, **options: Any) -> State:
    """Silent after one packet and its answer."""
    asked = packet(ECHO)
    return State(name, options, asked, len(asked), {"packets": 1}, on_pure=on_pure)


def _incomplete(max_packet_size: int) -> State:
    """The largest packet has arrived but for its last byte: all of its block is in use."""
    largest = min(max_packet_size, 65_535)  # what the header's 16 bits can say
    arrived = packet(ECHO, largest - 8)[:-1]
    options = {"limits": {"max_packet_size": max_packet_size}}
    return State(
        f"incomplete packet, max_packet_size {max_packet_size:,}", options, arrived, reached={"inbox": len(arrived)}
    )


def _begun(arrived: int) -> State:
    """The first bytes of a small packet have arrived: most of what waits in a game."""
    asked = packet(ECHO, 248)[:arrived]
    return State(f"{arrived} bytes of a packet of 256", {}, asked, reached={"inbox": len(asked)})


def _slow(name: str, **options: Any) -> State:
    options = {"small_buffers": True, "unsent_size": 64 * KIB, **options}
    return State(name, options, reached={"unsent": 64 * KIB}, small_buffers=True)


def _flood(name: str, size: int, at_least: int) -> State:
    behind = packet(ECHO) * (size // (8 + BODY_SIZE))
    reached = {"waiting": 1, "inbox": at_least or len(behind)}
    return State(name, {}, packet(WAIT) + behind, reached=reached, most_sessions=100 if at_least else None)


def _gone(name: str, before: State, waves_before: int = 0) -> State:
    """As `before`, and then all of them leave."""
    return replace(before, name=name, leaves=True, waves_before=waves_before, on_pure=False)


IDLE = _idle("idle after one packet", on_pure=True)
TLS_IDLE = _idle("TLS, idle after one packet", tls=True)
INCOMPLETE = _incomplete(8_192)

STATES = [
    State("silent since connecting", on_pure=True),
    IDLE,
    _idle("the same, in three rooms", rooms=3),
    State("before the login", {"login": True}),
    _idle("logged in, idle", login=True),
    _idle("idle, with a rate limit", limits={"max_packets_per_second": 1000.0}),
    _idle("idle, with a heartbeat", heartbeat=True),
    _begun(100),
    _incomplete(1_024),
    INCOMPLETE,
    _incomplete(65_536),
    _flood("async handler that waits", 0, 0),
    _flood("the same, 10 packets behind it", 10 * (8 + BODY_SIZE), 0),
    _flood("the same, flooded", 384 * KIB, 64 * KIB),
    _slow("slow receiver, 64 KiB unsent"),
    _slow("the same under keep_latest", policy="keep_latest"),
    State(
        "asks for much, never reads", {"small_buffers": True}, packet(GIVE, 0) * 125,
        # it stops at 64 KiB; of those the system may still take what its small buffers hold
        reached={"unsent": 48 * KIB}, small_buffers=True, most_sessions=100,
    ),
    State("packet of 64 bytes kept by user", {}, packet(KEEP), reached={"packets": 1}),
    State("session.data is a small dict", {}, packet(LABEL), reached={"packets": 1}),
    State("TLS, silent since handshake", {"tls": True}),
    TLS_IDLE,
    State("TLS, handshake never begun", {"tls": True}, reached={"connections": 1}, is_silent=True),
    _gone("gone, first wave", IDLE),
    _gone("gone, fifth wave", IDLE, 4),
    _gone("gone within a packet, first wave", INCOMPLETE),
    _gone("gone within a packet, fifth wave", INCOMPLETE, 4),
]
