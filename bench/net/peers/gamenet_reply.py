"""gamenet: Python handlers that answer packets with themselves, or say them to everybody.

`gamenet_reply.py LOOP TRANSPORT [batch]`; with `batch`, a handler is called once per run of moves.
"""

import sys

import gamenet

loop, transport, *batch = sys.argv[1:]
server = gamenet.Server(transport=transport)


@server.on(1001)
def login(session, packet):
    session.reply(packet)


@server.on(1002)
def chat(session, packet):
    server.sessions.broadcast(packet, sequence=packet.sequence)


def move(session, packet):
    session.reply(packet)


def moves(session, packets):
    packets.reply()


if batch:
    server.on_batch(1003)(moves)
else:
    server.on(1003)(move)
gamenet.run(server, port=0, loop=loop, on_ready=lambda: print(server.port, flush=True))
