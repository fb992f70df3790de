"""A server in a process that can be short of file descriptors: `starved.py TRANSPORT LOOP [CERTIFICATE]`.

It prints its port, then answers each line of its input: `starve` leaves it a dozen descriptors, `relieve` gives them
back, `stats` says what it counted and what processor time it used, as JSON.
"""

import asyncio
import importlib
import json
import os
import resource
import ssl
import sys
import time

import gamenet

SPARE = 12


def tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def main(transport, certificate=None):
    context = tls(certificate) if certificate else None
    server = gamenet.Server(transport=transport, idle_timeout=None, handshake_timeout=60.0, ssl=context)
    server.on(1)(lambda session, packet: session.reply(packet))
    await server.start("127.0.0.1", 0)
    print(server.port, flush=True)
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    while command := (await commands.readline()).decode().strip():
        if command == "stats":
            print(json.dumps({**server.stats(), "cpu": time.process_time()}), flush=True)
            continue
        if command == "starve":
            # the limit is on the number of a descriptor: those that are open keep theirs
            used = max(int(name) for name in os.listdir("/dev/fd"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + SPARE, limits[1]))
        else:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        print(command, flush=True)
    await server.stop()


if __name__ == "__main__":
    new_loop = importlib.import_module(sys.argv[2]).new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main(sys.argv[1], *sys.argv[3:]))
