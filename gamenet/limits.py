"""Every limit of a server or client: its name, its default, and why it exists.

What stays true: limits are checked together when they are made, and do not change while sessions live.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds; None switches off what has None in its type. `ValueError`, naming the limit,
    if it is out of range.
    """

    max_packet_size: int = 8192
    """The largest packet with its header, both ways; refused on the header alone. A layout that states less counts."""
    max_sessions: int = 10_000
    """Connections served at once; the next one is closed at once, with `CloseReason.SERVER_FULL`."""
    idle_timeout: float | None = 30.0
    """A session that received nothing for this long is closed."""
    assembly_timeout: float | None = 10.0
    """How long a packet may take from its first byte to its last; more bytes do not start it anew."""
    login_timeout: float | None = 20.0
    """How long a session may take to log in, where `Server.require_login()` asks for it."""
    write_timeout: float | None = 15.0
    """How long a peer may take nothing of what waits for it; noticed within twice that."""
    handler_timeout: float | None = 60.0
    """How long an `async def` handler may take before it is cancelled: its session waits for it. One that then goes
    on for as long again costs its session."""
    close_timeout: float = 5.0
    """How long a closing session may take to hand over what it still has to send, before it is aborted."""
    max_read_buffer: int = 65_536
    """Bytes of a session that wait behind a suspended `async def` handler before reading pauses."""
    high_watermark: int = 65_536
    """Bytes that the peer did not take, above which its session is a slow receiver, and is not read from."""
    low_watermark: int = 16_384
    """Bytes up to which it is one no longer."""
    max_write_buffer: int = 1_048_576
    """Bytes that wait for a slow receiver before it is aborted."""
    max_packets_per_second: float | None = None
    """Packets of cost 1 that a session may send; see `Server(rate_exceeded=)`."""
    max_bytes_per_second: float | None = None
    """Bytes that a session may send, in the same bucket as its packets."""
    rate_burst: float = 1.0
    """Seconds of its rate that a session may use at once."""
    dispatch_budget: float = 0.005
    """Seconds that the packets of one session may take in one turn of the loop, before the others have theirs."""

    def __post_init__(self) -> None:
        for name in ("max_packet_size", "max_sessions", "max_read_buffer", "max_write_buffer", "high_watermark"):
            self._at_least(name, 1)
        self._at_least("low_watermark", 0)
        if self.low_watermark > self.high_watermark:
            raise ValueError(f"low_watermark {self.low_watermark} is above high_watermark {self.high_watermark}")
        for name in ("idle_timeout", "assembly_timeout", "login_timeout", "write_timeout", "handler_timeout"):
            self._above_zero(name, " seconds", or_none=True)
        for name in ("close_timeout", "rate_burst", "dispatch_budget"):
            self._above_zero(name, " seconds")
        for name in ("max_packets_per_second", "max_bytes_per_second"):
            self._above_zero(name, or_none=True)

    def _above_zero(self, name: str, unit: str = "", or_none: bool = False) -> None:
        value = getattr(self, name)
        if value is None and or_none:
            return
        if value is None or not value > 0:
            raise ValueError(f"{name} {value} is not above 0{unit}")

    def _at_least(self, name: str, lowest: int) -> None:
        value = getattr(self, name)
        if value < lowest:
            raise ValueError(f"{name} {value} is below {lowest}")
