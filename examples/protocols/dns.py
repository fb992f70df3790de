"""A name server, over TCP, for a few names and their IPv4 addresses.

Run it: python dns.py, then: dig +tcp -p 5353 @127.0.0.1 play.example
The protocol: RFC 1035, and RFC 7766 for TCP. Answers come in the order of the queries.
"""

import ipaddress
import struct

import gamenet

LAYOUT = gamenet.HeaderLayout(
    (
        gamenet.HeaderField("packet_size", 2, "big"),
        gamenet.HeaderField("sequence", 2, "big"),  # the query's id, which its answer carries
        gamenet.HeaderField("flags", 2, "big"),
        gamenet.HeaderField("questions", 2, "big"),
        gamenet.HeaderField("answers", 2, "big"),
        gamenet.HeaderField("authorities", 2, "big"),
        gamenet.HeaderField("additionals", 2, "big"),
    ),
    size_counts="after",
)

IS_ANSWER, OPCODE, IS_AUTHORITY, RECURSION_DESIRED = 0x8000, 0x7800, 0x0400, 0x0100
NO_ERROR, FORMAT_ERROR, NAME_ERROR, NOT_IMPLEMENTED, REFUSED = 0, 1, 3, 4, 5
TYPE_A, CLASS_IN = 1, 1
QUESTIONS_NAME = b"\xc0\x0c"  # a pointer to byte 12 of the message, where the question starts
TIME_TO_LIVE = 300  # seconds
LONGEST_LABEL, LONGEST_NAME = 63, 255

addresses = {
    "play.example": [ipaddress.IPv4Address("192.0.2.1"), ipaddress.IPv4Address("192.0.2.2")],
    "chat.example": [ipaddress.IPv4Address("192.0.2.3")],
}

server = gamenet.Server(layout=LAYOUT, idle_timeout=10.0)


@server.on(0)
def query(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    flags = packet.header["flags"]
    if flags & IS_ANSWER:
        return  # to no question of ours
    if flags & OPCODE:
        return answer(session, packet, NOT_IMPLEMENTED)
    try:
        name, record_type, record_class, end = read_question(packet.body)
    except (ValueError, IndexError, struct.error):
        return answer(session, packet, FORMAT_ERROR)
    question = packet.body[:end]
    if packet.header["questions"] != 1:
        answer(session, packet, FORMAT_ERROR)
    elif record_class != CLASS_IN:
        answer(session, packet, REFUSED, question)
    elif name not in addresses:
        answer(session, packet, NAME_ERROR, question)
    else:
        found = addresses[name] if record_type == TYPE_A else []
        answer(session, packet, NO_ERROR, question, *map(as_record, found))


def answer(
    session: gamenet.Session, packet: gamenet.RawPacket, code: int, question: bytes = b"", *records: bytes
) -> None:
    flags = IS_ANSWER | IS_AUTHORITY | packet.header["flags"] & (OPCODE | RECURSION_DESIRED) | code
    header = {"flags": flags, "questions": 1 if question else 0, "answers": len(records)}
    session.send(0, question + b"".join(records), packet.sequence, header)


def read_question(body: bytes) -> tuple[str, int, int, int]:
    """The name, its type and class, and where the question ends."""
    labels, at = [], 0
    while size := body[at]:
        if size > LONGEST_LABEL or at + size > LONGEST_NAME:
            raise ValueError(f"a label of {size} bytes at {at}")
        labels.append(body[at + 1 : at + 1 + size])
        at += 1 + size
    record_type, record_class = struct.unpack_from(">HH", body, at + 1)
    return b".".join(labels).decode("ascii").lower(), record_type, record_class, at + 5


def as_record(address: ipaddress.IPv4Address) -> bytes:
    return QUESTIONS_NAME + struct.pack(">HHIH", TYPE_A, CLASS_IN, TIME_TO_LIVE, 4) + address.packed


if __name__ == "__main__":
    gamenet.run(server, port=5353)
