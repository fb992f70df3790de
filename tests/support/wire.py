"""The book's packets as plain bytes, made and read by hand: the other end of every test over a socket."""

import asyncio
import socket
import struct
import sys


def wire(packet_id, body=b"", sequence=0):
    """A whole packet."""
    return struct.pack("<HHI", packet_id, 8 + len(body), sequence) + body


async def read_packet(reader, seconds=10):
    """The next packet of a stream: (id, sequence, body)."""
    header = await asyncio.wait_for(reader.readexactly(8), seconds)
    packet_id, size, sequence = struct.unpack("<HHI", header)
    return packet_id, sequence, await asyncio.wait_for(reader.readexactly(size - 8), seconds)


async def echo_server(net, **options):
    """A server that answers packets of id 1 with themselves."""
    server = await net.server(**options)
    server.on(1)(lambda session, packet: session.reply(packet))
    return server


def reset(transport):
    """End a connection by a TCP reset, as a crashed peer's system does."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0))
    transport.abort()
    if hasattr(asyncio.get_running_loop(), "_proactor"):
        sock._sock.close()  # or it would be shut down first, which the other side takes for an end in order
