"""What one writes by hand: an asyncio Protocol, `struct`, a dict of handlers, one write per chunk."""

import asyncio
import struct
import sys

HEADER = struct.Struct("<HHI")
MAX_PACKET_SIZE = 8192


class EchoProtocol(asyncio.Protocol):
    def __init__(self):
        self.buffer = b""
        self.transport = None
        self.out = []
        self.handlers = {1003: self.on_move}

    def connection_made(self, transport):
        self.transport = transport

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

    def on_move(self, packet_id, sequence, body):
        self.out.append(HEADER.pack(packet_id, 8 + len(body), sequence))
        self.out.append(body)


async def main():
    server = await asyncio.get_running_loop().create_server(EchoProtocol, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if sys.argv[1] == "uvloop":
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
