"""Every limit of a server or client: its name, its default, and why it exists.

What stays true: limits are checked together when they are made, and do not change while sessions live.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds; None switches a time limit off. `ValueError`, naming the limit, if it is
    out of range.
    """

    max_packet_size: int = 8192
    """The largest packet with its header, both ways; refused on the header alone. A layout that states less counts."""
    max_sessions: int = 10_000
    """Connections served at once, TLS handshakes among them; the next one is reset, counted as `SERVER_FULL`."""
    max_sessions_per_address: int | None = None
    """The same of one address, or of one IPv6 network of 64 bits; counted as `ADDRESS_FULL`. None by default: behind a
    proxy all players have one address, behind a provider's NAT hundreds share one, and only you know which is in
    front of you. Where players connect directly, 64 keeps one host from taking all of `max_sessions`."""
    max_accepts_per_second: float | None = None
    """Connections accepted in the long run, and at once after a quiet second. Nobody is refused: the rest waits in the
    system's queue. None by default: accepting gives way to sessions as it is; for TLS, where each costs about a
    millisecond, half of what the machine can do keeps a login wave from slowing down those who play."""
    handshake_timeout: float = 10.0
    """How long a TLS handshake may take: two round trips, or three, of the slowest link and a lost packet or two."""
    idle_timeout: float | None = 30.0
    """A session that received nothing for this long is closed."""
    close_timeout: float = 5.0
    """How long a closing session may take to hand over what it still has to send, before it is aborted."""
    max_read_buffer: int = 65_536
    """Bytes of a session that wait behind a suspended `async def` handler before reading pauses."""
    high_watermark: int = 65_536
    """Bytes in the transport's queue above which its session is a slow receiver, and is not read from."""
    low_watermark: int = 16_384
    """Bytes in the transport's queue below which it is one no longer."""
    max_write_buffer: int = 1_048_576
    """Bytes that wait for a slow receiver, beside the transport's own queue, before it is aborted."""

    def __post_init__(self) -> None:
        for name in ("max_packet_size", "max_sessions", "max_read_buffer", "max_write_buffer", "high_watermark"):
            self._at_least(name, 1)
        self._at_least("low_watermark", 0)
        if self.low_watermark > self.high_watermark:
            raise ValueError(f"low_watermark {self.low_watermark} is above high_watermark {self.high_watermark}")
        if self.max_sessions_per_address is not None:
            self._at_least("max_sessions_per_address", 1)
        if self.max_accepts_per_second is not None and not self.max_accepts_per_second > 0:
            raise ValueError(f"max_accepts_per_second {self.max_accepts_per_second} is not above 0")
        for name in ("idle_timeout", "close_timeout", "handshake_timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} {value} is not above 0 seconds")

    def _at_least(self, name: str, lowest: int) -> None:
        value = getattr(self, name)
        if value < lowest:
            raise ValueError(f"{name} {value} is below {lowest}")
