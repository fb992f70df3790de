"""A gamenet server that says when its sessions are in the state that was asked for, so that its memory can be read.

`server.py OPTIONS`, a JSON object: see `State.options`. Every line on its standard input is a JSON object of totals;
it is answered by one line, the figures of now, as soon as they are reached, or `GIVE_UP_SECONDS` later without them.
What stays true: nothing runs between that answer and the next question, and what could be collected was.
"""

import asyncio
import gc
import json
import os
import socket
import ssl
import sys

import gamenet
from gamenet import Heartbeat, Packet, raw, u32

ECHO, WAIT, GIVE, KEEP, LABEL, PING, PONG, WORLD = range(1, 9)
GIVE_UP_SECONDS = 60.0
LOOK_SECONDS = 0.005  # between two looks at figures that are not there yet
SMALL_BUFFER = 4096  # bytes asked of the system for a socket, so that what is sent waits in us and not there
GIVEN_SIZE = 8184  # bytes of body that one request brings
LONG = 3600.0  # seconds: the deadlines exist, and none comes up
DEADLINES = ("idle", "assembly", "login", "write", "handler")


class World(Packet, id=WORLD):
    """What a slow receiver is behind with: 1 KiB with its header."""

    entity: u32
    state: bytes = raw(1012)


class Bench:
    """The server, and how its sessions get where they are wanted."""

    def __init__(self, options):
        self.unsent_size = options.get("unsent_size", 0)  # bytes that shall wait at every session
        self.rooms = options.get("rooms", 0)
        self.small_buffers = options.get("small_buffers", False)
        self.own_files = 0  # open before the first connection
        self.waiting = 0
        self.entity = 0
        self.server = gamenet.Server(
            transport=options["transport"],
            ssl=_tls(options["certificate"]) if options.get("tls") else None,
            heartbeat=Heartbeat(PING, PONG, interval=LONG) if options.get("heartbeat") else None,
            close_timeout=0.5,
            max_sessions=1_000_000,
            **{f"{name}_timeout": LONG for name in DEADLINES},
            **options.get("limits", {}),
        )
        self.register(options)

    def register(self, options):
        server = self.server
        server.on_opened(self.opened)
        server.on(ECHO)(self.echo)
        server.on(WAIT)(self.wait)
        server.on(GIVE)(self.give)
        server.on(KEEP)(self.keep)
        server.on(LABEL)(self.label)
        if options.get("login"):
            server.require_login(ECHO)
        if options.get("policy"):
            server.when_slow(World, options["policy"], key="entity")

    # -- hooks and handlers

    def opened(self, session):
        for number in range(self.rooms):
            self.server.sessions.room(f"room {number}").add(session)
        if self.small_buffers:
            session.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)

    def echo(self, session, packet):
        session.is_logged_in = True
        session.reply(packet)

    async def wait(self, session, packet):
        self.waiting += 1
        await asyncio.get_running_loop().create_future()  # as for the answer of a database

    def give(self, session, packet):
        session.send(GIVE, b"x" * GIVEN_SIZE)

    def keep(self, session, packet):
        session.data = packet

    def label(self, session, packet):
        session.data = {"name": f"player {session.id}", "level": session.id, "position": (session.id + 0.5, 0.5)}

    def fill(self, session):
        """Send until `unsent_size` bytes wait: what the system takes in between is not of them."""
        while session.unsent_size < self.unsent_size:
            self.entity += 1
            session.send(World(self.entity % 4096, b"x" * 1012))
            if not session.is_write_paused:
                session.flush()

    # -- asked from outside

    def figures(self):
        sessions = list(self.server.sessions)
        return {
            "sessions": len(sessions),
            "packets": self.server.stats()["packets_dispatched"],
            "waiting": self.waiting,
            "inbox": sum(session.inbox_size for session in sessions),
            "unsent": sum(session.unsent_size for session in sessions),
        }

    async def answer(self, totals):
        for _ in range(int(GIVE_UP_SECONDS / LOOK_SECONDS)):
            for session in self.server.sessions:
                self.fill(session)
            figures = self.figures()
            if "connections" in totals:  # not otherwise: the list of names takes memory itself
                figures["connections"] = len(os.listdir("/proc/self/fd")) - self.own_files
            if figures["sessions"] == totals["sessions"] and all(figures[name] >= totals[name] for name in totals):
                break
            await asyncio.sleep(LOOK_SECONDS)
        gc.collect()
        print(json.dumps(figures), flush=True)

    def ready(self):
        tasks = set()

        def asked():
            line = sys.stdin.readline()
            if line:
                task = loop.create_task(self.answer(json.loads(line)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            else:
                loop.remove_reader(sys.stdin.fileno())

        loop = asyncio.get_running_loop()
        self.own_files = len(os.listdir("/proc/self/fd"))
        loop.add_reader(sys.stdin.fileno(), asked)
        print(self.server.port, flush=True)


def _tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    bench = Bench(options)
    gamenet.run(bench.server, port=0, loop=options["loop"], on_ready=bench.ready)
