"""Echo servers for strings with their size in front, for Twisted's `Int16StringReceiver` and `Int32StringReceiver`.

Run them: python length_prefixed.py 16, or 32
"""

import sys

import gamenet


def layout_of(width: int) -> gamenet.HeaderLayout:
    """A size of `width` bytes, of the string behind it; no id, so every packet has the id 0."""
    return gamenet.HeaderLayout((gamenet.HeaderField("packet_size", width, "big"),), size_counts="after")


int16_server = gamenet.Server(layout=layout_of(2), max_packet_size=2 + 65_535)
int32_server = server = gamenet.Server(layout=layout_of(4), max_packet_size=4 + 99_999)  # Twisted's MAX_LENGTH


@int16_server.on(0)
@int32_server.on(0)
def echo(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
    session.reply(packet)


if __name__ == "__main__":
    gamenet.run(int16_server if sys.argv[1:] == ["16"] else int32_server, port=9000)
