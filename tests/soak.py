"""A server under load for as long as you like, with one client in a hundred hostile; everything must add up.

    python tests/soak.py                       60 s, 200 sessions, 2,000 packets/s
    python tests/soak.py --sessions 1000 --rate 10000 --seconds 3600

This process serves; a second one holds the clients. Honest clients come and go, number their packets and compare
every answer; hostile ones flip bytes, read nothing, stop in the middle of a packet, flood, and reset. At the end the
ledgers of both ends must balance, and memory and descriptors must be where they were. Exit code 0 if all of it holds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import random
import socket
import statistics
import struct
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import gamenet
from gamenet.run import loop_factory

HELLO, ECHO, SAY = 1, 2, 3
ROOM_SIZE = 10
MAX_DRIFT = 3 * 1024 * 1024
"""Bytes that resident memory may grow by, from the end of the warm-up to the end."""

_DRAIN_SECONDS = 20.0  # for answers that are on their way when the load ends


class Say(gamenet.Packet, id=SAY):
    """A client's number, and how many it has said before."""

    client: gamenet.u32
    number: gamenet.u32


# -- the server's side


def make_server(options: argparse.Namespace) -> tuple[gamenet.Server, Counter[str]]:
    """A server whose limits the hostile clients meet, and counts of what honest sessions did."""
    server = gamenet.Server(
        transport=options.transport, idle_timeout=20.0, assembly_timeout=3.0, write_timeout=3.0, close_timeout=3.0,
        max_write_buffer=256 * 1024, max_packets_per_second=100_000.0, max_sessions=options.sessions * 2 + 64,
    )
    honest: Counter[str] = Counter()

    @server.on(HELLO)
    def hello(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
        session.data = packet.sequence
        server.sessions.room(f"room {session.id // ROOM_SIZE}").add(session)
        session.reply(packet)

    @server.on(ECHO)
    def echo(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
        honest["echo"] += session.data is not None
        session.reply(packet)

    @server.on(Say)
    async def say(session: gamenet.Session, packet: Say) -> None:
        honest["say"] += session.data is not None
        if packet.number % 50 == 0:
            await asyncio.sleep(0.001)
        for room in session.rooms:
            room.broadcast(packet)

    return server, honest


class Watch:
    """Resident memory and descriptors of this process, sampled while the load runs."""

    def __init__(self) -> None:
        self.memory: list[int] = []

    def sample(self) -> None:
        if sys.platform == "linux":
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            self.memory.append(pages * os.sysconf("SC_PAGE_SIZE"))

    def drift(self) -> int:
        """Bytes between the calm after the warm-up and the end: medians, for both ends jitter."""
        part = max(1, len(self.memory) // 5)
        if len(self.memory) < 3 * part:
            return 0
        return int(statistics.median(self.memory[-part:]) - statistics.median(self.memory[part : 2 * part]))


def descriptors() -> int:
    """Open descriptors of this process; 0 where the system does not tell."""
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


async def soak(options: argparse.Namespace) -> list[str]:
    """Run it; returns what is wrong."""
    loop = asyncio.get_running_loop()
    complaints: list[str] = []
    loop.set_exception_handler(lambda _, context: complaints.append(f"the loop's exception handler: {context}"))
    server, honest = make_server(options)
    before = descriptors()
    await server.start()
    context = server._context
    load = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--clients-of", str(server.port), *passed_on(options), stdout=asyncio.subprocess.PIPE
    )
    assert load.stdout is not None
    watch = Watch()
    answer = asyncio.ensure_future(load.stdout.readline())
    began = last = time.monotonic()
    while not answer.done():
        await asyncio.wait([answer], timeout=1.0)
        watch.sample()
        check_balance(server.stats(), complaints)
        if time.monotonic() - last >= options.report_every:
            last = time.monotonic()
            stats = server.stats()
            megabytes = watch.memory[-1] / 2**20 if watch.memory else 0.0
            print(
                f"{last - began:6.0f} s  sessions {stats['sessions']:5}  accepted {stats['accepted']:7}  "
                f"in {stats['packets_dispatched']:10,}  out {stats['packets_out']:10,}  {megabytes:7.1f} MiB",
                flush=True,
            )
    line = answer.result()
    if not line:
        return [*complaints, f"the clients ended with code {await load.wait()}"]
    clients = json.loads(line)
    await load.wait()
    await wait_until_empty(server, complaints)
    gc.collect()
    await server.stop()
    check_end(server, context, honest, clients, complaints)
    if descriptors() > before + 1:  # the loop may have made one of its own
        complaints.append(f"descriptors: {before} before, {descriptors()} after")
    if watch.drift() > MAX_DRIFT:
        complaints.append(f"resident memory grew by {watch.drift() / 2**20:.1f} MiB, limit {MAX_DRIFT / 2**20:.0f}")
    show(server.stats(), clients, watch)
    return complaints


async def wait_until_empty(server: gamenet.Server, complaints: list[str]) -> None:
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while len(server.sessions):
                await asyncio.sleep(0.05)
    except TimeoutError:
        left = [f"{session!r} with {session.unsent_size} bytes unsent" for session in server.sessions]
        complaints.append(f"{len(left)} sessions are left though every client is gone: {', '.join(left[:5])}")


def check_balance(stats: dict[str, object], complaints: list[str]) -> None:
    names = ("bytes_dispatched", "bytes_rejected", "bytes_discarded", "bytes_buffered")
    accounted = sum(stats[name] for name in names)
    if stats["bytes_in"] != accounted:
        complaints.append(f"bytes_in {stats['bytes_in']} is not the {accounted} that are accounted for")
    ended = stats["sessions"] + sum(stats["closed"].values())
    if stats["accepted"] != ended:
        complaints.append(f"accepted {stats['accepted']} is not the {ended} that live or are closed")


def check_end(server, context, honest, clients, complaints) -> None:
    stats = server.stats()
    check_balance(stats, complaints)
    zeros = {
        "sessions": stats["sessions"], "bytes_buffered": stats["bytes_buffered"],
        "pool blocks": stats["pool"]["outstanding"], "rooms": len(server.sessions.rooms()),
        "timers": len(context.timer), "handlers": len(context.tasks), "handler_errors": stats["handler_errors"],
    }
    complaints.extend(f"{name} is {value} at the end" for name, value in zeros.items() if value)
    complaints.extend(f"clients: {problem}" for problem in clients["problems"])
    for name in ("echo", "say"):
        if honest[name] != clients[name]:
            complaints.append(f"honest clients sent {clients[name]} {name}, the server handled {honest[name]}")
    for name in ("echoed", "heard"):
        if not clients[name]:
            complaints.append(f"nothing was {name}: the load did not run")


def show(stats: dict[str, object], clients: dict[str, object], watch: Watch) -> None:
    for name in ("accepted", "closed", "refused", "rejected", "packets_dispatched", "packets_out", "yields"):
        print(f"  {name:20} {stats[name]}")
    print(f"  {'clients':20} { {name: value for name, value in clients.items() if name != 'problems'} }")
    if watch.memory:
        print(f"  {'resident memory':20} {watch.memory[-1] / 2**20:.1f} MiB, drift {watch.drift() / 2**20:+.2f} MiB")


# -- the clients' side


class Honest:
    """One client that numbers what it sends and compares what comes back."""

    def __init__(self, load: Load, number: int) -> None:
        self.load = load
        self.number = number
        self.sent = self.answered = self.said = 0
        self.heard: dict[int, int] = {}
        self.client: gamenet.Client | None = None

    async def live(self, seconds: float) -> None:
        options = {"packets": [], "transport": self.load.options.transport, "idle_timeout": None}
        async with gamenet.connect("127.0.0.1", self.load.port, **options) as client:
            client.dispatch.register(ECHO, self.on_echo)
            client.dispatch.register(Say, self.on_say)
            await client.request(HELLO)
            self.client = client
            self.load.living.append(self)
            try:
                await asyncio.wait([asyncio.ensure_future(client.wait_closed())], timeout=seconds)
            finally:
                self.load.living.remove(self)
            await self.answers()

    async def answers(self) -> None:
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while self.answered < self.sent and self.client.is_connected:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass
        if self.answered != self.sent:
            why = self.client.close_reason
            self.load.problem(f"client {self.number}: {self.answered} of {self.sent} answered, ended by {why}")

    def send(self, rng: random.Random) -> None:
        if rng.random() < 0.05:
            self.said += 1
            self.client.send(Say(self.number, self.said))
            self.load.counts["say"] += 1
        else:
            self.sent += 1
            self.client.send(ECHO, rng.randbytes(rng.choice((0, 8, 64, 1000))), self.sent)
            self.load.counts["echo"] += 1

    def on_echo(self, session: gamenet.Session, packet: gamenet.RawPacket) -> None:
        self.answered += 1
        self.load.counts["echoed"] += 1
        if packet.sequence != self.answered:
            self.load.problem(f"client {self.number}: answer {packet.sequence} came as the {self.answered}th")

    def on_say(self, session: gamenet.Session, packet: Say) -> None:
        self.load.counts["heard"] += 1
        before = self.heard.get(packet.client, 0)
        if packet.number <= before:
            self.load.problem(f"client {self.number}: word {packet.number} of {packet.client} came after {before}")
        self.heard[packet.client] = packet.number


class Load:
    """All clients of one server."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.port = options.clients_of
        self.rng = random.Random(options.seed)
        self.living: list[Honest] = []
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.numbers = 0

    def problem(self, text: str) -> None:
        if len(self.problems) < 20:
            self.problems.append(text)

    def start(self, coroutine) -> None:
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.ended)

    def ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.problem("".join(traceback.format_exception(error)))

    def join(self, seconds: float) -> None:
        self.numbers += 1
        self.start(Honest(self, self.numbers).live(seconds))

    async def run(self) -> dict[str, object]:
        options, loop = self.options, asyncio.get_running_loop()
        began = loop.time()
        ends = began + options.seconds
        for index in range(options.sessions):
            self.join(ends - loop.time())
            if index % 50 == 49:
                await asyncio.sleep(0.05)
        hostile = max(3, options.sessions // 100)
        for _ in range(hostile):
            self.start(self.attack(ends))
        await self.pace(ends)
        while self.tasks:
            await asyncio.wait(self.tasks)
        return {**{name: self.counts[name] for name in ("echo", "say", "echoed", "heard", "attacks", "joined")},
                "problems": self.problems}

    async def pace(self, ends: float) -> None:
        """Send at the rate asked for, and let clients come and go."""
        loop, options = asyncio.get_running_loop(), self.options
        sent = joined = 0
        began = loop.time()
        while (now := loop.time()) < ends - 0.5:
            due = int((now - began) * options.rate)
            for _ in range(min(due - sent, options.rate)):
                if self.living:
                    self.rng.choice(self.living).send(self.rng)
            sent = due
            while joined < (now - began) * options.churn:
                joined += 1
                self.join(self.rng.uniform(0.2, 3.0))
            await asyncio.sleep(0.01)
        self.counts["joined"] = self.numbers

    # -- hostile ones: each attack is one connection

    async def attack(self, ends: float) -> None:
        loop = asyncio.get_running_loop()
        attacks = (self.mutate, self.read_nothing, self.stop_in_the_middle, self.flood, self.reset, self.be_silent)
        while loop.time() < ends - 6.0:
            self.counts["attacks"] += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                async with asyncio.timeout(8.0):
                    await self.rng.choice(attacks)(reader, writer)
            except (ConnectionError, TimeoutError):
                self.counts["ended by the server"] += 1
            finally:
                writer.transport.abort()
            await asyncio.sleep(0)

    def packets(self, count: int, size: int = 64) -> bytes:
        return b"".join(
            struct.pack("<HHI", ECHO, 8 + size, number) + self.rng.randbytes(size) for number in range(count)
        )

    async def mutate(self, reader, writer) -> None:
        stream = bytearray(self.packets(40))
        for _ in range(self.rng.randrange(1, 8)):
            stream[self.rng.randrange(len(stream))] = self.rng.randrange(256)
        writer.write(stream)
        await writer.drain()
        await asyncio.wait_for(reader.read(1 << 16), 1.0)

    async def read_nothing(self, reader, writer) -> None:
        writer.transport.pause_reading()
        block = self.packets(16, 4000)
        while not writer.is_closing():
            writer.write(block)
            await writer.drain()

    async def stop_in_the_middle(self, reader, writer) -> None:
        packet = self.packets(1, 500)
        for byte in packet[: self.rng.randrange(1, len(packet))]:
            if writer.is_closing():
                return
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)
        await reader.read()

    async def flood(self, reader, writer) -> None:
        block, ends = struct.pack("<HHI", 4, 8, 0) * 8000, asyncio.get_running_loop().time() + 1.0
        while asyncio.get_running_loop().time() < ends and not writer.is_closing():
            writer.write(block)
            await writer.drain()

    async def reset(self, reader, writer) -> None:
        linger_no_time = struct.pack("ii" if sys.platform != "win32" else "hh", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_no_time)
        writer.write(self.packets(30)[:-20])
        await asyncio.sleep(self.rng.uniform(0, 0.05))

    async def be_silent(self, reader, writer) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, 2.0))


# -- the command


def passed_on(options: argparse.Namespace) -> list[str]:
    names = ("seconds", "sessions", "rate", "churn", "seed", "transport", "loop")
    return [part for name in names for part in (f"--{name}", str(getattr(options, name)))]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load (default: 60)")
    parser.add_argument("--sessions", type=int, default=200, help="honest ones at once (default: 200)")
    parser.add_argument("--rate", type=int, default=2000, help="honest packets a second, all together (default: 2000)")
    parser.add_argument("--churn", type=float, default=5.0, help="joins and leaves a second (default: 5)")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run's choices (default: a new one)")
    parser.add_argument("--transport", default="auto", help="as gamenet.Server's (default: auto)")
    parser.add_argument("--loop", default="auto", help="auto, asyncio, uvloop or winloop (default: auto)")
    parser.add_argument("--report-every", type=float, default=10.0, help="seconds between two lines (default: 10)")
    parser.add_argument("--clients-of", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 32)
    return options


def main() -> int:
    options = parse()
    logging.getLogger("gamenet").setLevel(logging.CRITICAL)  # the hostile clients are meant to be reported
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        if options.clients_of is not None:
            print(json.dumps(runner.run(Load(options).run())), flush=True)
            return 0
        print(f"{gamenet.backend}, {options.sessions} sessions, {options.rate} packets/s, seed {options.seed}")
        with contextlib.suppress(KeyboardInterrupt):
            complaints = runner.run(soak(options))
            for complaint in complaints:
                print(f"WRONG: {complaint}")
            print("everything adds up" if not complaints else f"{len(complaints)} things are wrong")
            return 1 if complaints else 0
    return 130


if __name__ == "__main__":
    sys.exit(main())
