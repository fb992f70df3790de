"""Every limit of a server or client: its name, its default, and why it exists.

What stays true: limits are checked together when they are made, and do not change while sessions live.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, TypedDict

from gamenet import errors

SMALL_BLOCKS = (256, 2048)
MIN_RESUME_BUFFER = 16_384  # eight times what is received before it is acknowledged
_LARGEST_MAILBOX = 1 << 28  # what its ring can count where a pointer has 32 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds; None switches off what has None in its type. docs/sessions.md says what each
    one is for. `ValueError`, naming the limit, if it is out of range; `TypeError` for a size or a number of things that
    is no int, or a time that is no number.
    """

    max_packet_size: int = 8192
    """The largest packet with its header, both ways; refused on the header alone. A layout that states less counts.
    A list of some hundred entities fits, and 10,000 peers that send half of one take 80 MB."""
    max_sessions: int = 10_000
    """Connections served at once, TLS handshakes among them; the next one is reset, counted as `SERVER_FULL`. Idle,
    so many take 25 MB; ten packets a second of each are about what one core does."""
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
    """A session that received nothing for this long is closed: three intervals of the default heartbeat, of which one
    may be lost and one late."""
    assembly_timeout: float | None = 10.0
    """How long a packet may take from its first byte to its last; more bytes do not start it anew. The largest of
    8 KiB comes in time on any link above 7 kbit/s."""
    login_timeout: float | None = 20.0
    """How long a session may take to log in, where `Server.require_login()` asks for it: for a program that knows its
    password, an attempt that failed and another. Who asks a human first should connect afterwards."""
    write_timeout: float | None = 15.0
    """How long a peer may take nothing of what waits for it; noticed within twice that. A link that lost a packet and
    three attempts to send it again, which TCP makes after 1, 2 and 4 seconds, has its next after 8."""
    handler_timeout: float | None = 60.0
    """How long an `async def` handler may take before it is cancelled: its session waits for it. One that then goes
    on for as long again costs its session. Databases give up a query or a connection after 30 s, and say why."""
    close_timeout: float = 5.0
    """How long a closing session may take to hand over what it still has to send, before it is aborted: 64 KiB, what
    a receiver that is not slow has at most, on 105 kbit/s. As long does a server take to stop."""
    max_read_buffer: int = 65_536
    """Bytes of a session that wait behind a suspended `async def` handler before reading pauses: what one read brings
    on most transports, so that there is work at hand when the handler ends."""
    high_watermark: int = 65_536
    """Bytes that the peer did not take, above which its session is a slow receiver, and is not read from: asyncio's
    own number; three seconds of a game that sends 20 KiB/s, beside what the system holds."""
    low_watermark: int = 16_384
    """Bytes up to which it is one no longer: a quarter, so that reading is not switched with every packet taken."""
    max_write_buffer: int = 1_048_576
    """Bytes that wait for a slow receiver before it is aborted. One turn may send 16 times as much to a peer that had
    taken everything: it had no chance yet. Under a slow policy each packet counts 256 more. Who is 50 seconds behind,
    at 20 KiB/s, has no use for what waits."""
    link_timeout: float | None = 15.0
    """With `resume`: how long a connection may be silent, asked twice, before it counts as lost. Half-dead
    connections of mobile players are many, and the seat is kept anyway."""
    resume_timeout: float = 30.0
    """With `resume`: how long a seat is kept for a peer that lost its connection: a change of cell or a tunnel, and
    two or three attempts to come back."""
    max_resume_buffer: int = 65_536
    """With `resume`: bytes that were sent and not acknowledged before a session waits; also what it may send per round
    trip: 640 KiB/s on one of 100 ms. What is sent meanwhile waits as for any slow receiver, up to
    `max_write_buffer`."""
    max_seats_away: int = 1000
    """With `resume`: seats kept for peers that are away; above, the one that was lost first is given up, of the
    same address if that has more than its share. Each may hold `max_resume_buffer` and `max_write_buffer`: 1.1 GB in
    all at worst. A tenth of `max_sessions`, for a mast that fails and not for a whole network."""
    max_packets_per_second: float | None = None
    """Packets of cost 1 that a session may send; see `Server(rate_exceeded=)`. None: only you know what a player of
    your game sends."""
    max_bytes_per_second: float | None = None
    """Bytes that a session may send, in the same bucket as its packets. None, as above."""
    rate_burst: float = 1.0
    """Seconds of its rate that a session may use at once: what TCP held back behind one lost packet comes at once."""
    dispatch_budget: float | None = 0.005
    """Seconds that packets are dispatched in one turn of the loop; then sessions that have many wait for the next. A
    tenth of the 50 ms that others may be kept waiting, and a thousand quick packets."""
    max_mailbox: int = 65_536
    """Calls and sends of other threads that wait for the loop; more are refused, and counted. A thread that sends as
    fast as it can fills it in the tenth of a second that a handler may hold up the loop."""
    watchdog_timeout: float | None = 1.0
    """A callback that holds up a server's loop for this long is named in the log; a client has no watchdog. Players
    notice far less, but so long no machine sleeps by itself: it is a fault of the program."""

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Sizes of pooled blocks beside `max_packet_size`: what most packets of games need, so that a session whose
        packet is incomplete, or whose answer waits, does not hold a block for the largest.
        """
        return tuple(size for size in SMALL_BLOCKS if 2 * size <= self.max_packet_size)

    @property
    def max_backlog(self) -> int:
        """Bytes of memory above which packets are left out for a slow receiver, where `high_watermark` bytes of small
        ones take more: with as much in the transport's hands nobody is aborted for what may be left out.
        """
        return self.max_write_buffer // 2

    def __post_init__(self) -> None:
        for name in (
            "max_packet_size", "max_sessions", "max_read_buffer", "max_write_buffer", "high_watermark",
            "max_seats_away",
        ):
            self._check_int(name, 1)
        self._check_int("max_mailbox", 1, _LARGEST_MAILBOX)
        self._check_int("max_resume_buffer", MIN_RESUME_BUFFER)
        self._check_int("low_watermark", 0)
        if self.low_watermark > self.high_watermark:
            raise ValueError(f"low_watermark {self.low_watermark} is above high_watermark {self.high_watermark}")
        if self.max_sessions_per_address is not None:
            self._check_int("max_sessions_per_address", 1)
        for name in (
            "idle_timeout", "assembly_timeout", "login_timeout", "write_timeout", "handler_timeout",
            "watchdog_timeout", "link_timeout", "max_packets_per_second", "max_bytes_per_second",
            "max_accepts_per_second", "dispatch_budget",
        ):
            if getattr(self, name) is not None:
                self._check_above_zero(name)
        for name in ("handshake_timeout", "close_timeout", "resume_timeout", "rate_burst"):
            self._check_above_zero(name)

    def _check_above_zero(self, name: str) -> None:
        unit = "" if name.endswith("per_second") else " seconds"
        check_above_zero(name, getattr(self, name), unit)

    def _check_int(self, name: str, lowest: int, highest: int = sys.maxsize) -> None:
        value = getattr(self, name)
        if not isinstance(value, Integral):
            raise errors.wrong_type(name, "an int", value)
        if int(value) < lowest:
            raise ValueError(f"{name} {value} is below {lowest}")
        if int(value) > highest:
            raise ValueError(f"{name} {value} is above {highest}")


def check_above_zero(name: str, value: Any, unit: str = " seconds") -> None:
    """`TypeError` for what is no number (None is told as out of range), `ValueError` unless it is above 0."""
    is_number = isinstance(value, Real)
    if not is_number and value is not None:
        raise errors.wrong_type(name, "a number", value)
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
