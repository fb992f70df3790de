"""An MQTT 3.1.1 broker with wildcards, retained messages, QoS 0 and 1.

Run it: python mqtt_broker.py, then: mosquitto_sub -t 'game/#', and: mosquitto_pub -t game/chat -m hello
The protocol: https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html. Left out: wills, passwords, QoS 2, and
subscriptions that outlive their connection.
"""

import itertools
import struct
from collections.abc import Callable

import gamenet

LAYOUT = gamenet.HeaderLayout(  # the first byte is a type and four flags
    (gamenet.HeaderField("packet_id", 1), gamenet.VarIntField("packet_size", max_bytes=4)), size_counts="after"
)

CONNECT, CONNACK, PUBLISH, PUBACK = 0x10, 0x20, 0x30, 0x40
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 0x82, 0x90, 0xA2, 0xB0
PINGREQ, PINGRESP, DISCONNECT = 0xC0, 0xD0, 0xE0
RETAIN, QOS_1, DUPLICATE = 0x01, 0x02, 0x08

server = gamenet.Server(layout=LAYOUT, max_packet_size=1 << 20, idle_timeout=90.0, unknown_packets="close")
retained: dict[str, tuple[bytes, int]] = {}  # topic: payload and QoS
numbers = itertools.cycle(range(1, 65536))  # of what is delivered under QoS 1


def on(*packet_ids: int) -> Callable:
    """As `server.on`, but CONNECT comes first and once, and a body that cannot be read ends the session."""

    def register(handler: Callable) -> Callable:
        def checked(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
            try:
                if (packet.packet_id == CONNECT) != (session.data is None):
                    raise ValueError("CONNECT comes first and once")
                handler(session, packet)
            except (ValueError, struct.error):
                session.close("protocol violation")

        for packet_id in packet_ids:
            server.on(packet_id)(checked)
        return handler

    return register


@on(CONNECT)
def connect(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    protocol, at = read_text(packet.body, 0)
    level, _, _ = struct.unpack_from(">BBH", packet.body, at)
    if (protocol, level) == ("MQTT", 4):
        session.data = {}  # topic filter: QoS
        session.send(CONNACK, b"\0\0")
    else:
        session.send(CONNACK, b"\0\1")
        session.close("another protocol level")


@on(*(PUBLISH | flags for flags in (0, RETAIN, QOS_1, QOS_1 | RETAIN, QOS_1 | DUPLICATE, QOS_1 | DUPLICATE | RETAIN)))
def publish(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    topic, at = read_text(packet.body, 0)
    if not topic or "+" in topic or "#" in topic:
        raise ValueError(f"{topic!r} is no topic")
    qos = packet.packet_id >> 1 & 1
    if qos:
        session.send(PUBACK, struct.pack(">H", *struct.unpack_from(">H", packet.body, at)))
        at += 2
    payload = packet.body[at:]
    if packet.packet_id & RETAIN:
        retained[topic] = payload, qos
        if not payload:
            del retained[topic]
    for subscriber in server.sessions:
        deliver(subscriber, subscriber.data or {}, topic, payload, qos)


@on(SUBSCRIBE)
def subscribe(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    at, wanted, answer = 2, {}, packet.body[:2]
    while at < packet.body_size:
        topic_filter, at = read_text(packet.body, at)
        wanted[topic_filter] = min(1, *struct.unpack_from("B", packet.body, at))
        answer += bytes((wanted[topic_filter],))
        at += 1
    session.data |= wanted
    session.send(SUBACK, answer)
    for topic, (payload, qos) in retained.items():
        deliver(session, wanted, topic, payload, qos, RETAIN)


@on(UNSUBSCRIBE)
def unsubscribe(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    at = 2
    while at < packet.body_size:
        topic_filter, at = read_text(packet.body, at)
        session.data.pop(topic_filter, None)
    session.send(UNSUBACK, packet.body[:2])


@on(PUBACK)
def acknowledged(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    """Nothing waits to be sent again: TCP does that."""


@on(PINGREQ)
def ping(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    session.send(PINGRESP)


@on(DISCONNECT)
def disconnect(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    session.close("disconnected")


def deliver(
    session: gamenet.Session, subscriptions: dict[str, int], topic: str, payload: bytes, qos: int, flags: int = 0
) -> None:
    granted = [limit for topic_filter, limit in subscriptions.items() if matches(topic_filter, topic)]
    if granted:
        name = topic.encode()
        body = struct.pack(">H", len(name)) + name
        if min(qos, max(granted)):
            flags, body = flags | QOS_1, body + struct.pack(">H", next(numbers))
        session.send(PUBLISH | flags, body + payload)


def matches(topic_filter: str, topic: str) -> bool:
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted, levels = wanted[:-1], levels[: len(wanted) - 1]
    return len(wanted) == len(levels) and all(one in ("+", level) for one, level in zip(wanted, levels, strict=True))


def read_text(body: bytes, at: int) -> tuple[str, int]:
    """The text behind its u16 size at `body[at:]`, and where it ends."""
    end = at + 2 + struct.unpack_from(">H", body, at)[0]
    if end > len(body):
        raise ValueError(f"a text ends at {end}, its packet at {len(body)}")
    return body[at + 2 : end].decode(), end


if __name__ == "__main__":
    gamenet.run(server, port=1883)
