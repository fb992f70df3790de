"""A MySQL server of one query: it knows who logs in, and `select 1`. Run it: python mysql.py, then
mysql --host=127.0.0.1 --port=3306 --user=player --password=secret --execute="select 1"

https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html
"""

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass

import gamenet

LAYOUT = gamenet.HeaderLayout(
    (gamenet.HeaderField("packet_size", 3), gamenet.HeaderField("sequence", 1)),
    size_counts="body",
    min_packet_size=5,  # nothing that a client sends here is empty
)
USERS = {b"player": b"secret"}

VERSION = b"8.0.0-gamenet"
LONG_PASSWORD, CONNECT_WITH_DB, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH = 1, 1 << 3, 1 << 9, 1 << 15, 1 << 19
CAPABILITIES = LONG_PASSWORD | CONNECT_WITH_DB | PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH
UTF8MB4, BINARY, LONGLONG = 45, 63, 8
AUTOCOMMIT = 2  # the status of every answer
COM_QUIT, COM_QUERY, COM_PING = 1, 3, 14

OK = struct.pack("<BBBHH", 0, 0, 0, AUTOCOMMIT, 0)  # no rows changed, no id made, no warnings
EOF = struct.pack("<BHH", 0xFE, 0, AUTOCOMMIT)

# connections rest in pools; a body that is not what it should be makes its handler raise
server = gamenet.Server(layout=LAYOUT, max_packet_size=1 << 16, idle_timeout=600.0, handler_errors="close")


@dataclass
class Connection:
    challenge: bytes
    user: bytes | None = None  # None before the login


@server.on_opened
def greet(session: gamenet.Session) -> None:
    """The server speaks first."""
    challenge = bytes(33 + secrets.randbelow(94) for _ in range(20))  # printable: a NUL would end it
    session.data = Connection(challenge)
    greeting = [
        b"\x0a" + VERSION + b"\0" + struct.pack("<I8sx", session.id & 0xFFFFFFFF, challenge[:8]),
        struct.pack("<HBHHB10x", CAPABILITIES & 0xFFFF, UTF8MB4, AUTOCOMMIT, CAPABILITIES >> 16, 21),
        challenge[8:] + b"\0",
        b"mysql_native_password\0",
    ]
    session.send(0, b"".join(greeting), sequence=0)


@server.on(0)
def received(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    """The header has no packet id: what a packet is depends on what came before it, and on its first byte."""
    is_login = session.data.user is None
    if packet.sequence != (1 if is_login else 0):  # every command starts at 0 again
        answer(session, packet, error(1156, "08S01", "Got packets out of order"))
        session.close(gamenet.CloseReason.INVALID_PACKET)
    elif is_login:
        login(session, packet)
    elif packet.body[0] == COM_QUERY:
        query(session, packet)
    elif packet.body[0] == COM_PING:
        answer(session, packet, OK)
    elif packet.body[0] == COM_QUIT:
        session.close(gamenet.CloseReason.PEER_CLOSED)
    else:
        answer(session, packet, error(1047, "08S01", "Unknown command"))


def login(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    user, _, rest = packet.body[32:].partition(b"\0")  # behind capabilities, packet size and character set
    proof = rest[1 : 1 + rest[0]]
    if user in USERS and hmac.compare_digest(proof, native_password(USERS[user], session.data.challenge)):
        session.data.user = user
        answer(session, packet, OK)
    else:
        answer(session, packet, error(1045, "28000", "Access denied"))
        session.close("access_denied")


def query(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    statement = packet.body[1:].decode().strip().rstrip(";").lower()
    if statement == "select 1":
        answer(session, packet, b"\x01", column(b"1"), EOF, text(b"1"), EOF)
    elif statement.startswith("set "):  # drivers set character sets and autocommit
        answer(session, packet, OK)
    else:
        answer(session, packet, error(1064, "42000", "This server knows `select 1`"))


def answer(session: gamenet.Session, request: gamenet.RawPacket, *bodies: bytes) -> None:
    """Packets of one exchange are numbered through, whoever sends them."""
    for sequence, body in enumerate(bodies, request.sequence + 1):
        session.send(0, body, sequence=sequence & 0xFF)


def error(code: int, state: str, message: str) -> bytes:
    return struct.pack("<BH", 0xFF, code) + f"#{state}{message}".encode()


def column(name: bytes) -> bytes:
    """A column of numbers that is in no table."""
    names = b"".join(map(text, (b"def", b"", b"", b"", name, b"")))  # catalog, schema, table, its own, name, its own
    return names + struct.pack("<BHIBHB2x", 12, BINARY, 20, LONGLONG, 0, 0)


def text(value: bytes) -> bytes:
    """With its length in front, which is one byte below 251."""
    return bytes((len(value),)) + value


def native_password(password: bytes, challenge: bytes) -> bytes:
    """What proves the password, by mysql_native_password: SHA1(p) xor SHA1(challenge + SHA1(SHA1(p)))."""
    once = hashlib.sha1(password).digest()
    mask = hashlib.sha1(challenge + hashlib.sha1(once).digest()).digest()
    return bytes(a ^ b for a, b in zip(once, mask, strict=True))


if __name__ == "__main__":
    gamenet.run(server, port=3306)
