"""A Minecraft server as the list of servers sees it: it tells its status and answers pings; nobody can log in.

Run it: python minecraft_status.py, then: mcstatus 127.0.0.1 status
The protocol: https://minecraft.wiki/w/Java_Edition_protocol/Server_List_Ping, from Minecraft 1.7 on.
"""

import json

import gamenet

SIZE = gamenet.VarIntField("packet_size", max_bytes=3)
LAYOUT = gamenet.HeaderLayout((SIZE, gamenet.VarIntField("packet_id")), size_counts="after")
TEXT = gamenet.HeaderCodec(gamenet.HeaderLayout((SIZE,), size_counts="after"), max_packet_size=32_000)
"""A string has its size in front, as a packet has."""

HANDSHAKE = STATUS = LOGIN = DISCONNECT = 0  # what an id means depends on what the handshake asked for
PING = 1

ASKS_STATUS, ASKS_LOGIN, IS_TRANSFERRED = 1, 2, 3
SHORTEST_HANDSHAKE = 5  # version, an empty host, port, what is asked for

status = {
    "version": {"name": "1.21", "protocol": 767},
    "players": {"max": 20, "online": 0, "sample": []},
    "description": {"text": "A gamenet server"},
}

server = gamenet.Server(layout=LAYOUT, max_packet_size=32_768, idle_timeout=10.0, unknown_packets="close")


@server.on(HANDSHAKE)
def handshake_status_or_login(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    if session.data is None:
        shake_hands(session, packet.body)
    elif session.data == ASKS_STATUS:
        session.send(STATUS, as_text(status))
    else:
        session.send(DISCONNECT, as_text({"text": "There is no game here, only its status."}))
        session.close("login refused")


@server.on(PING)
def ping(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    if session.data == ASKS_STATUS and packet.body_size == 8:
        session.reply(packet)
    else:
        session.close("protocol violation")


def shake_hands(session: gamenet.Session, body: bytes) -> None:
    """The last byte says what the client asks for; its version, host and port before that are all the same to us."""
    if len(body) >= SHORTEST_HANDSHAKE and body[-1] in (ASKS_STATUS, ASKS_LOGIN, IS_TRANSFERRED):
        session.data = body[-1]
    else:
        session.close("protocol violation")


def as_text(value: object) -> bytes:
    return TEXT.frame(0, json.dumps(value).encode())


if __name__ == "__main__":
    gamenet.run(server, port=25565)
