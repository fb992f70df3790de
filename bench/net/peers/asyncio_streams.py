"""asyncio's streams, as its documentation shows them: a coroutine per connection, `readexactly`, `write`, `drain`."""

import asyncio
import struct
import sys

HEADER = struct.Struct("<HHI")
MAX_PACKET_SIZE = 8192

writers = set()


async def on_login(writer, packet):
    writer.write(packet)
    await writer.drain()


async def on_chat(writer, packet):
    for other in writers:
        other.write(packet)
    await writer.drain()


async def on_move(writer, packet):
    writer.write(packet)
    await writer.drain()


HANDLERS = {1001: on_login, 1002: on_chat, 1003: on_move}


async def serve(reader, writer):
    writers.add(writer)
    try:
        while True:
            packet_id, packet_size, sequence = HEADER.unpack(await reader.readexactly(8))
            if not 8 <= packet_size <= MAX_PACKET_SIZE:
                break
            body = await reader.readexactly(packet_size - 8)
            handler = HANDLERS.get(packet_id)
            if handler is not None:
                await handler(writer, HEADER.pack(packet_id, 8 + len(body), sequence) + body)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writers.discard(writer)
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if sys.argv[1] == "uvloop":
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
