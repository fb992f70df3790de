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
    """Connections served at once; the next one is closed at once, with `CloseReason.SERVER_FULL`."""
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
    watchdog_timeout: float | None = 1.0
    """A callback that holds up a server's loop for this long is named in the log; a client has no watchdog."""

    def __post_init__(self) -> None:
        for name in ("max_packet_size", "max_sessions", "max_read_buffer", "max_write_buffer", "high_watermark"):
            self._at_least(name, 1)
        self._at_least("low_watermark", 0)
        if self.low_watermark > self.high_watermark:
            raise ValueError(f"low_watermark {self.low_watermark} is above high_watermark {self.high_watermark}")
        for name in ("idle_timeout", "close_timeout", "watchdog_timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} {value} is not above 0 seconds")

    def _at_least(self, name: str, lowest: int) -> None:
        value = getattr(self, name)
        if value < lowest:
            raise ValueError(f"{name} {value} is below {lowest}")
