"""What one writes by hand: an asyncio Protocol, `struct`, a dict of handlers; replies leave as one write per chunk,
broadcasts as one per loop turn and connection. On asyncio's loop, on uvloop, or on uvloop with aiofastnet's transports.
"""

import asyncio
import struct
import sys

HEADER = struct.Struct("<HHI")
MAX_PACKET_SIZE = 8192


class Room:
    """Everybody who is connected; what is said within a turn of the loop leaves together."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.transports = set()
        self.said = []

    def say(self, packet):
        if not self.said:
            self.loop.call_soon(self.flush)
        self.said.append(packet)

    def flush(self):
        chunk = b"".join(self.said)
        self.said.clear()
        for transport in self.transports:
            transport.write(chunk)


class PacketProtocol(asyncio.Protocol):
    def __init__(self, room):
        self.room = room
        self.buffer = b""
        self.transport = None
        self.out = []
        self.handlers = {1001: self.on_login, 1002: self.on_chat, 1003: self.on_move}

    def connection_made(self, transport):
        self.transport = transport
        self.room.transports.add(transport)

    def connection_lost(self, error):
        self.room.transports.discard(self.transport)

    def data_received(self, data):
        if self.buffer:
            data = self.buffer + data
        at, size = 0, len(data)
        while size - at >= 8:
            packet_id, packet_size, sequence = HEADER.unpack_from(data, at)
            if not 8 <= packet_size <= MAX_PACKET_SIZE:
                self.transport.abort()
                return
            if packet_size > size - at:
                break
            handler = self.handlers.get(packet_id)
            if handler is not None:
                handler(packet_id, sequence, data[at + 8 : at + packet_size])
            at += packet_size
        self.buffer = data[at:]
        if self.out:
            self.transport.write(b"".join(self.out))
            self.out.clear()

    def reply(self, packet_id, sequence, body):
        self.out.append(HEADER.pack(packet_id, 8 + len(body), sequence))
        self.out.append(body)

    def on_login(self, packet_id, sequence, body):
        self.reply(packet_id, sequence, body)

    def on_move(self, packet_id, sequence, body):
        self.reply(packet_id, sequence, body)

    def on_chat(self, packet_id, sequence, body):
        self.room.say(HEADER.pack(packet_id, 8 + len(body), sequence) + body)


async def main(create_server):
    room = Room()
    server = await create_server(room.loop, lambda: PacketProtocol(room), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


match sys.argv[1]:
    case "asyncio":
        asyncio.run(main(asyncio.BaseEventLoop.create_server))
    case "uvloop":
        import uvloop

        uvloop.run(main(uvloop.Loop.create_server))
    case "aiofastnet":
        import aiofastnet
        import uvloop

        uvloop.run(main(aiofastnet.create_server))
