"""The hand-written Protocol with `struct`, on Twisted's epoll reactor."""

import struct

from twisted.internet import epollreactor

epollreactor.install()

from twisted.internet import reactor  # noqa: E402  the reactor is chosen by what is imported first
from twisted.internet.protocol import Factory, Protocol  # noqa: E402

HEADER = struct.Struct("<HHI")
MAX_PACKET_SIZE = 8192


class Room:
    """Everybody who is connected; what is said within a turn of the reactor leaves together."""

    def __init__(self):
        self.transports = set()
        self.said = []

    def say(self, packet):
        if not self.said:
            reactor.callLater(0, self.flush)
        self.said.append(packet)

    def flush(self):
        chunk = b"".join(self.said)
        self.said.clear()
        for transport in self.transports:
            transport.write(chunk)


class PacketProtocol(Protocol):
    def __init__(self, room):
        self.room = room
        self.buffer = b""
        self.out = []
        self.handlers = {1001: self.on_login, 1002: self.on_chat, 1003: self.on_move}

    def connectionMade(self):
        self.transport.setTcpNoDelay(True)
        self.room.transports.add(self.transport)

    def connectionLost(self, reason):
        self.room.transports.discard(self.transport)

    def dataReceived(self, data):
        if self.buffer:
            data = self.buffer + data
        at, size = 0, len(data)
        while size - at >= 8:
            packet_id, packet_size, sequence = HEADER.unpack_from(data, at)
            if not 8 <= packet_size <= MAX_PACKET_SIZE:
                self.transport.abortConnection()
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


class PacketFactory(Factory):
    noisy = False

    def __init__(self):
        self.room = Room()

    def buildProtocol(self, address):
        return PacketProtocol(self.room)


listening = reactor.listenTCP(0, PacketFactory(), backlog=1024, interface="127.0.0.1")
print(listening.getHost().port, flush=True)
reactor.run()
