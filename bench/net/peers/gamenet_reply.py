"""gamenet: one Python handler that answers each packet with itself."""

import sys

import gamenet

server = gamenet.Server()


@server.on(1003)
def move(session, packet):
    session.reply(packet)


gamenet.run(server, port=0, loop=sys.argv[1], on_ready=lambda: print(server.port, flush=True))
