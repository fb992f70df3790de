"""A MongoDB server without a database: it says hello and answers pings. Run it: python mongodb.py, then
python -c "import pymongo; print(pymongo.MongoClient(port=27017).admin.command('ping'))"

https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/ and https://bsonspec.org/spec.html
"""

import struct

import gamenet

LAYOUT = gamenet.HeaderLayout(
    (
        gamenet.HeaderField("packet_size", 4),  # messageLength: counts the header too
        gamenet.HeaderField("request_id", 4, signed=True),
        gamenet.HeaderField("response_to", 4, signed=True),
        gamenet.HeaderField("packet_id", 4),  # opCode
    )
)
OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
MORE_TO_COME, REQUIRED_FLAGS = 0x0002, 0xFFFF & ~0x0003
MAX_MESSAGE_SIZE = 1 << 16

HELLO: dict[str, object] = {
    "ismaster": True,  # what legacy drivers look for
    "isWritablePrimary": True,
    "helloOk": True,
    "maxBsonObjectSize": MAX_MESSAGE_SIZE // 2,
    "maxMessageSizeBytes": MAX_MESSAGE_SIZE,
    "maxWriteBatchSize": 1000,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "readOnly": False,
    "ok": 1.0,
}

# drivers look in every 10 seconds; a body that is not what it should be makes its handler raise
server = gamenet.Server(
    layout=LAYOUT, max_packet_size=MAX_MESSAGE_SIZE, unknown_packets="close", handler_errors="close"
)


@server.on(OP_MSG)
def message(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    flags, kind = struct.unpack_from("<IB", packet.body)
    if flags & REQUIRED_FLAGS or kind != 0:
        raise ValueError(f"flags {flags:#x} and a section of kind {kind} in front, not a command")
    document = answer(command_name(packet.body[5:]))
    if not flags & MORE_TO_COME:
        respond(session, packet, OP_MSG, struct.pack("<IB", 0, 0) + bson(document))


@server.on(OP_QUERY)
def legacy_query(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    collection_end = packet.body.index(b"\0", 4) + 1  # then: how many to skip, how many to return, the command
    document = answer(command_name(packet.body[collection_end + 8 :]))
    respond(session, packet, OP_REPLY, struct.pack("<iqii", 0, 0, 0, 1) + bson(document))


def respond(session: gamenet.Session, request: gamenet.RawPacket, code: int, body: bytes) -> None:
    session.send(code, body, header={"response_to": request.header["request_id"]})


def answer(command: str) -> dict[str, object]:
    if command.lower() in ("hello", "ismaster"):
        return HELLO
    if command in ("ping", "endSessions"):
        return {"ok": 1.0}
    return {"ok": 0.0, "errmsg": f"no such command: '{command}'", "code": 59, "codeName": "CommandNotFound"}


def command_name(document: bytes) -> str:
    """The key of the first element: that is how a command is called."""
    (size,) = struct.unpack_from("<i", document)
    if not 5 < size <= len(document):
        raise ValueError(f"a document of {size} bytes in {len(document)}")
    return document[5 : document.index(b"\0", 5, size)].decode()


def bson(document: dict[str, object]) -> bytes:
    """A document of numbers, truths and texts."""
    elements = b"".join(element(key.encode() + b"\0", value) for key, value in document.items())
    return struct.pack("<i", len(elements) + 5) + elements + b"\0"


def element(key: bytes, value: object) -> bytes:
    match value:
        case bool():
            return b"\x08" + key + struct.pack("<?", value)
        case int():
            return b"\x10" + key + struct.pack("<i", value)
        case float():
            return b"\x01" + key + struct.pack("<d", value)
        case str():
            text = value.encode() + b"\0"
            return b"\x02" + key + struct.pack("<i", len(text)) + text
    raise TypeError(f"{key!r} is a {type(value).__name__}")


if __name__ == "__main__":
    gamenet.run(server, port=27017)
