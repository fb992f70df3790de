"""Who is let in: how many connections in all, how many of one address, and how fast.

What stays true: whoever was admitted counts until `release()`, once; what is refused counts nowhere but in `refused`;
an address without connections takes no memory. Time comes in as an argument; no socket is known here.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import AddressValueError, IPv6Address

from gamenet.errors import CloseReason

IPV6_PREFIX = 64
"""Bits of an IPv6 address that count: the smallest network a provider hands out (RFC 6177), whose holder may use
2**64 addresses, so that a limit per single address would limit nobody."""


def network_of(peername: object) -> str:
    """What a peer counts as, made of its address as `socket.accept()` gives it: `"192.0.2.1"`, `"2001:db8::/64"`.

    An IPv4-mapped IPv6 address counts as its IPv4 address. A link-local one counts alone: all of a LAN share one
    prefix. What has no IP address (a Unix socket, a transport in memory) is `""`, which no limit per address concerns.
    """
    host = peername[0] if isinstance(peername, tuple) and peername else None
    if not isinstance(host, str):
        return ""
    if ":" not in host:
        return host
    try:
        address = IPv6Address(host)
    except AddressValueError:
        return ""
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_link_local:
        return str(address)
    prefix = int(address) >> (128 - IPV6_PREFIX) << (128 - IPV6_PREFIX)
    return f"{IPv6Address(prefix)}/{IPV6_PREFIX}"


class Admission:
    """The head count of a server, and its ledger of who was not let in.

    A limit may be changed while the server runs: it holds for those who come next.
    """

    def __init__(self, max_sessions: int, max_sessions_per_address: int | None = None) -> None:
        self.max_sessions = max_sessions
        self.max_sessions_per_address = max_sessions_per_address
        self.held = 0
        self.held_by_network: dict[str, int] = {}
        self.refused: Counter[str] = Counter()
        self.accept_errors: Counter[str] = Counter()
        """Connections and attempts that `accept()` failed for, by the name of the error."""
        self.accept_pauses = 0
        """How often nobody was accepted for a while, because the system was short of something."""
        self.accepts_delayed = 0
        """Connections that waited in the system's queue because of `max_accepts_per_second`."""

    def admit(self, network: str) -> CloseReason | None:
        """Count one more of `network`, or say why not, counting that."""
        reason = self._obstacle(network)
        if reason is not None:
            self.refused[reason] += 1
            return reason
        self.held += 1
        if network:
            self.held_by_network[network] = self.held_by_network.get(network, 0) + 1
        return None

    def release(self, network: str) -> None:
        """Somebody of `network` who was admitted is gone. `ValueError` if nobody of it is here."""
        if not self.held or (network and network not in self.held_by_network):
            raise ValueError(f"nobody of {network!r} is held")
        self.held -= 1
        if network:
            self.held_by_network[network] -= 1
            if not self.held_by_network[network]:
                del self.held_by_network[network]

    def _obstacle(self, network: str) -> CloseReason | None:
        if self.held >= self.max_sessions:
            return CloseReason.SERVER_FULL
        limit = self.max_sessions_per_address
        if limit is not None and network and self.held_by_network.get(network, 0) >= limit:
            return CloseReason.ADDRESS_FULL
        return None


class Pace:
    """A token bucket: `per_second` in the long run, and as many at once after a quiet second. None: no limit."""

    def __init__(self, per_second: float | None, now: float) -> None:
        self.per_second = per_second
        self._tokens = self._room()
        self._refilled = now

    def delay(self, now: float) -> float:
        """Seconds until the next one may pass; 0.0 if it may now."""
        if self.per_second is None:
            return 0.0
        elapsed = max(0.0, now - self._refilled)  # a clock that was set back gives nothing, and takes nothing
        self._refilled = now
        self._tokens = min(self._room(), self._tokens + elapsed * self.per_second)
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self.per_second

    def take(self) -> None:
        """One passes."""
        if self.per_second is not None:
            self._tokens -= 1

    def _room(self) -> float:
        return max(1.0, self.per_second or 0.0)
