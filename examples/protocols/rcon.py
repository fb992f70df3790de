"""A remote console as Source and Minecraft servers have it (RCON): a password, then commands and their answers.

Run it: RCON_PASSWORD=secret python rcon.py, then: mcrcon -H 127.0.0.1 -P 25575 -p secret
The protocol: https://developer.valvesoftware.com/wiki/Source_RCON_Protocol. As with Minecraft, a login is answered by
one packet, not two.
"""

import hmac
import os

import gamenet

LAYOUT = gamenet.HeaderLayout(
    (gamenet.HeaderField("packet_size", 4), gamenet.HeaderField("sequence", 4), gamenet.HeaderField("packet_id", 4)),
    size_counts="after",
    trailer=b"\0\0",  # ends the body, and an empty string that nobody uses
    max_packet_size=4 + 4096,
)
LONGEST_BODY = 4096 - 10

LOGIN, COMMAND = 3, 2
LOGIN_ANSWER, ANSWER = 2, 0
DENIED = 2**32 - 1  # -1, in the place of the request's number

PASSWORD = os.environ.get("RCON_PASSWORD", "secret").encode()

server = gamenet.Server(layout=LAYOUT, idle_timeout=300.0)


@server.on(LOGIN)
def login(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    if hmac.compare_digest(packet.body, PASSWORD):
        session.data = "logged in"
        session.reply(packet, gamenet.RawPacket(LOGIN_ANSWER))
    else:
        deny(session)


@server.on(COMMAND)
def command(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    if session.data != "logged in":
        return deny(session)
    answer = execute(packet.body.decode(errors="replace")).encode()
    for start in range(0, len(answer) or 1, LONGEST_BODY):
        session.reply(packet, gamenet.RawPacket(ANSWER, answer[start : start + LONGEST_BODY]))


def deny(session: gamenet.Session) -> None:
    session.send(LOGIN_ANSWER, sequence=DENIED)
    session.close("wrong password")


def execute(text: str) -> str:
    """Your game's commands."""
    match text.removeprefix("/").split(maxsplit=1):
        case ["list"]:
            return f"There are {len(server.sessions)} consoles open"
        case ["say", message]:
            return f"[Rcon] {message}"
        case _:
            return "Commands: list, say <message>"


if __name__ == "__main__":
    gamenet.run(server, port=25575)
