"""Heartbeats: ping packets that are answered below the handlers, and the round-trip time that ours bring.

What stays true: no handler and no Python code runs for a peer's ping; at most one ping of ours is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass

from gamenet import errors
from gamenet._core import HeaderCodec, PingRoute, PongRoute
from gamenet.dispatch import DispatchTable
from gamenet.limits import check_above_zero
from gamenet.packets import Packet, packet_id_of


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`ping` and `pong` are packet classes or ids. A peer's ping is answered with its own body and sequence number.

    Every `interval` seconds (None: never) an empty ping of ours is sent; the answer gives `session.round_trip_time`,
    and counts as a sign of life. It must bring back the sequence number, if the layout has one. A pong that does not
    come is given up after three intervals. `ValueError` for ids that are the same, or an interval that is not above 0.
    """

    ping: type[Packet] | int
    pong: type[Packet] | int
    interval: float | None = 10.0

    def __post_init__(self) -> None:
        if self.ping_id == self.pong_id:
            raise ValueError(f"ping and pong are both packet id {self.ping_id}")
        if self.interval is not None:
            check_above_zero("interval", self.interval)

    @property
    def patience(self) -> float | None:
        """Seconds after which a pong is not waited for any longer; None: without end."""
        return None if self.interval is None else 3 * self.interval

    @property
    def ping_id(self) -> int:
        """The packet id of a ping."""
        return packet_id_of(self.ping)

    @property
    def pong_id(self) -> int:
        """The packet id of its answer."""
        return packet_id_of(self.pong)


def answer_heartbeats(heartbeat: Heartbeat | None, dispatch: DispatchTable, codec: HeaderCodec) -> None:
    """Have both ids answered. `ValueError` if one does not fit the header, `TypeError` for what is no heartbeat."""
    if heartbeat is None:
        return
    if not isinstance(heartbeat, Heartbeat):
        raise errors.wrong_type("heartbeat", "a Heartbeat", heartbeat)
    for packet_id in (heartbeat.ping_id, heartbeat.pong_id):
        codec.frame(packet_id)
    dispatch.register_route(heartbeat.ping_id, PingRoute(heartbeat.pong_id))
    dispatch.register_route(heartbeat.pong_id, PongRoute())
