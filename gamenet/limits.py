"""Every limit of a server or client: its name, its default, and why it exists.

What stays true: limits are checked together when they are made, and do not change while sessions live.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, TypedDict

from gamenet.errors import wrong_type

SMALL_BLOCKS = (256, 2048)
_LARGEST_MAILBOX = 1 << 28  # what its ring can count where a pointer has 32 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds; None switches off what has None in its type. Sizes and numbers are 1 or more,
    times and rates above 0 (docs/sessions.md says what each one is for). `ValueError`, naming the limit, if it is out
    of range, `TypeError` if it is no number.
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
    """Bytes that wait for a slow receiver before it is aborted. One turn may send 16 times as much to a peer that had
    taken everything: it had no chance yet. Under a slow policy each packet counts 256 more."""
    link_timeout: float | None = 15.0
    """With `resume`: how long a connection may be silent, asked twice, before it counts as lost. Half-dead
    connections of mobile players are many, and the seat is kept anyway."""
    resume_timeout: float = 30.0
    """With `resume`: how long a seat is kept for a peer that lost its connection: a change of cell or a tunnel, and
    two or three attempts to come back."""
    max_resume_buffer: int = 65_536
    """With `resume`: bytes that were sent and not acknowledged before a session waits; also what it may send per round
    trip. What is sent meanwhile waits as for any slow receiver, up to `max_write_buffer`."""
    max_seats_away: int = 1000
    """With `resume`: seats kept for peers that are away; above, the one that was lost first is given up, of the
    same address if that has more than its share. Each may hold `max_resume_buffer` and `max_write_buffer`."""
    max_packets_per_second: float | None = None
    """Packets of cost 1 that a session may send; see `Server(rate_exceeded=)`."""
    max_bytes_per_second: float | None = None
    """Bytes that a session may send, in the same bucket as its packets."""
    rate_burst: float = 1.0
    """Seconds of its rate that a session may use at once."""
    dispatch_budget: float | None = 0.005
    """Seconds that packets are dispatched in one turn of the loop; then sessions that have many wait for the next."""
    max_mailbox: int = 65_536
    """Calls and sends of other threads that wait for the loop; more are refused, and counted. A thread that sends as
    fast as it can fills it in the tenth of a second that a handler may hold up the loop."""
    watchdog_timeout: float | None = 1.0
    """A callback that holds up a server's loop for this long is named in the log; a client has no watchdog."""

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Sizes of pooled blocks beside `max_packet_size`: what most packets of games need, so that a session whose
        packet is incomplete, or whose answer waits, does not hold a block for the largest.
        """
        return tuple(size for size in SMALL_BLOCKS if 2 * size <= self.max_packet_size)

    def __post_init__(self) -> None:
        for name in (
            "max_packet_size", "max_sessions", "max_read_buffer", "max_write_buffer", "high_watermark", "max_mailbox",
        ):
            self._at_least(name, 1)
        if self.max_mailbox > _LARGEST_MAILBOX:
            raise ValueError(f"max_mailbox {self.max_mailbox} is above {_LARGEST_MAILBOX}")
        self._at_least("max_resume_buffer", 16_384)  # eight times what is received before it is acknowledged
        self._at_least("max_seats_away", 1)
        self._at_least("low_watermark", 0)
        if self.low_watermark > self.high_watermark:
            raise ValueError(f"low_watermark {self.low_watermark} is above high_watermark {self.high_watermark}")
        if self.max_sessions_per_address is not None:
            self._at_least("max_sessions_per_address", 1)
        for name in (
            "idle_timeout", "assembly_timeout", "login_timeout", "write_timeout", "handler_timeout",
            "watchdog_timeout", "link_timeout", "max_packets_per_second", "max_bytes_per_second",
            "max_accepts_per_second", "dispatch_budget",
        ):
            if getattr(self, name) is not None:
                self._above_zero(name)
        for name in ("handshake_timeout", "close_timeout", "resume_timeout", "rate_burst"):
            self._above_zero(name)

    def _above_zero(self, name: str) -> None:
        unit = "" if name.endswith("per_second") else " seconds"
        check_above_zero(name, getattr(self, name), unit)

    def _at_least(self, name: str, lowest: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, Integral):
            raise wrong_type(name, "an int", value)
        if value < lowest:
            raise ValueError(f"{name} {value} is below {lowest}")


def check_above_zero(name: str, value: Any, unit: str = " seconds") -> None:
    """`TypeError` for what is no number (None is told as out of range), `ValueError` unless it is above 0."""
    is_number = isinstance(value, Real)
    if not is_number and value is not None:
        raise wrong_type(name, "a number", value)
    if value is None or not value > 0:
        raise ValueError(f"{name} {value} is not above 0{unit}")


class LimitOptions(TypedDict, total=False):
    """The fields of `Limits` as keywords, for type checkers and editors; a test holds the two together."""

    max_packet_size: int
    max_sessions: int
    max_sessions_per_address: int | None
    max_accepts_per_second: float | None
    handshake_timeout: float
    idle_timeout: float | None
    assembly_timeout: float | None
    login_timeout: float | None
    write_timeout: float | None
    handler_timeout: float | None
    close_timeout: float
    max_read_buffer: int
    high_watermark: int
    low_watermark: int
    max_write_buffer: int
    link_timeout: float | None
    resume_timeout: float
    max_resume_buffer: int
    max_seats_away: int
    max_packets_per_second: float | None
    max_bytes_per_second: float | None
    rate_burst: float
    dispatch_budget: float | None
    max_mailbox: int
    watchdog_timeout: float | None


def limits_of(taker: Callable[..., Any], options: Mapping[str, Any]) -> Limits:
    """The limits that are among the keywords of `taker`. `TypeError`, with the name that was probably meant, for a
    keyword that it does not have; else errors as `Limits`.
    """
    names = [field.name for field in fields(Limits)]
    for option in options:
        if option not in names:
            own = [name for name in inspect.signature(taker).parameters if name != "limits"]
            meant = get_close_matches(option, own + names, 1)
            hint = f"; did you mean {meant[0]!r}?" if meant else ""
            raise TypeError(f"{taker.__name__}() has no keyword {option!r}{hint}")
    return Limits(**options)
