"""A PostgreSQL server of one query, in the simple and in the extended protocol. Run it: python postgresql.py, then
psql "host=127.0.0.1 port=5432 user=player" --command="select 1"

https://www.postgresql.org/docs/current/protocol.html
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import gamenet

STARTUP = gamenet.HeaderLayout(
    (gamenet.HeaderField("packet_size", 4, "big"),),  # counts itself
    min_packet_size=8,
    max_packet_size=10_000,
)
MESSAGES = gamenet.HeaderLayout(
    (gamenet.HeaderField("packet_id", 1), gamenet.HeaderField("packet_size", 4, "big")),
    size_counts=1,  # it counts itself and the body, but not the type in front
)
PROTOCOL_3_0, CANCEL_REQUEST, SSL_REQUEST, GSSENC_REQUEST = 3 << 16, 80877102, 80877103, 80877104
PARAMETERS = {
    "server_version": "15.0",
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "integer_datetimes": "on",
    "standard_conforming_strings": "on",
}
INT4 = 23
TEXT, BINARY = 0, 1

# connections rest in pools; a body that is not what it should be makes its handler raise
server = gamenet.Server(
    layout=STARTUP, max_packet_size=1 << 16, idle_timeout=600.0, unknown_packets="close", handler_errors="close"
)


@dataclass
class Backend:
    user: str
    is_prepared: bool = False  # there is but one statement: nothing to remember of it
    result_format: int | None = None  # of the portal; None without one
    is_skipping: bool = False  # after an error in the extended protocol, up to its Sync


class QueryError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


# -- start-up


@server.on(0)  # the start-up layout has no packet id
def start_up(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    if session.data is not None:
        raise ValueError("a message of type 0 after the start-up")
    (code,) = struct.unpack_from(">I", packet.body)
    if code in (SSL_REQUEST, GSSENC_REQUEST):
        session.send_frame(b"N")  # one byte without a frame: no; the client goes on as it is, or leaves
    elif code == CANCEL_REQUEST:
        session.close()
    else:
        session.layout = MESSAGES  # what arrived behind this packet is read as messages, too
        log_in(session, code, packet.body[4:])


def log_in(session: gamenet.Session, protocol: int, options: bytes) -> None:
    texts = options.decode().split("\0")
    user = dict(zip(texts[::2], texts[1::2], strict=False)).get("user")
    if protocol != PROTOCOL_3_0 or not user:
        send_error(session, QueryError("08P01", "protocol 3.0 and a user are needed"), "FATAL")
        return session.close("protocol_error")
    session.data = Backend(user)
    send(session, "R", struct.pack(">I", 0))  # everybody may come in
    for name, value in PARAMETERS.items():
        send(session, "S", f"{name}\0{value}\0".encode())
    send(session, "K", struct.pack(">II", session.id & 0x7FFFFFFF, 0))
    send_ready(session)


@server.on(ord("X"))
def terminate(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    session.close(gamenet.CloseReason.PEER_CLOSED)


# -- the simple protocol


@server.on(ord("Q"))
def query(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    try:
        check(packet.body)
    except QueryError as error:
        send_error(session, error)
    else:
        send_description(session, TEXT)
        send_result(session, TEXT)
    send_ready(session)


# -- the extended protocol: after an error everything up to Sync is skipped

Handler = Callable[[gamenet.Session, bytes], None]


def extended(kind: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        @server.on(ord(kind))
        def handle(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
            if session.data.is_skipping:
                return
            try:
                handler(session, packet.body)
            except QueryError as error:
                session.data.is_skipping = True
                send_error(session, error)

        return handler

    return register


@extended("P")
def parse(session: gamenet.Session, body: bytes) -> None:
    check(body[body.index(b"\0") + 1 :])  # behind the statement's name
    session.data.is_prepared = True
    send(session, "1")


@extended("B")
def bind(session: gamenet.Session, body: bytes) -> None:
    require(session.data.is_prepared, "26000", "there is no prepared statement")
    at = body.index(b"\0", body.index(b"\0") + 1) + 1  # behind the portal's and the statement's name
    (formats,) = struct.unpack_from(">H", body, at)
    parameters, results = struct.unpack_from(">HH", body, at + 2 + 2 * formats)
    require(parameters == 0, "08P01", f"got {parameters} parameters, the statement needs 0")
    (result_format,) = struct.unpack_from(">H", body, at + 6 + 2 * formats) if results else (TEXT,)
    session.data.result_format = result_format
    send(session, "2")


@extended("D")
def describe(session: gamenet.Session, body: bytes) -> None:
    if body[:1] == b"S":
        require(session.data.is_prepared, "26000", "there is no prepared statement")
        send(session, "t", struct.pack(">H", 0))  # its parameters
        send_description(session, TEXT)  # not chosen yet
    else:
        send_description(session, portal_format(session))


@extended("E")
def execute(session: gamenet.Session, body: bytes) -> None:
    send_result(session, portal_format(session))


@extended("C")
def close(session: gamenet.Session, body: bytes) -> None:
    send(session, "3")


@extended("H")
def flush(session: gamenet.Session, body: bytes) -> None:
    """Every answer leaves with the turn of the loop."""


@server.on(ord("S"))
def sync(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    session.data.is_skipping = False
    session.data.result_format = None
    send_ready(session)


# -- small parts


def check(statement: bytes) -> None:
    text = statement[: statement.index(b"\0")].decode().strip().rstrip(";").lower()
    require(text == "select 1", "42601", "this server knows `select 1`")


def require(condition: bool, code: str, message: str) -> None:
    if not condition:
        raise QueryError(code, message)


def portal_format(session: gamenet.Session) -> int:
    require(session.data.result_format is not None, "34000", "there is no portal")
    return int(session.data.result_format)


def send(session: gamenet.Session, kind: str, body: bytes = b"") -> None:
    session.send(ord(kind), body)


def send_description(session: gamenet.Session, result_format: int) -> None:
    """One column, of no table: name, table, number in it, type, its size, its modifier, format."""
    column = b"?column?\0" + struct.pack(">IHIhiH", 0, 0, INT4, 4, -1, result_format)
    send(session, "T", struct.pack(">H", 1) + column)


def send_result(session: gamenet.Session, result_format: int) -> None:
    require(result_format in (TEXT, BINARY), "22023", f"there is no format {result_format}")
    value = struct.pack(">i", 1) if result_format == BINARY else b"1"
    send(session, "D", struct.pack(">HI", 1, len(value)) + value)
    send(session, "C", b"SELECT 1\0")


def send_error(session: gamenet.Session, error: QueryError, severity: str = "ERROR") -> None:
    send(session, "E", f"S{severity}\0V{severity}\0C{error.code}\0M{error}\0\0".encode())


def send_ready(session: gamenet.Session) -> None:
    send(session, "Z", b"I")  # in no transaction


if __name__ == "__main__":
    gamenet.run(server, port=5432)
