"""A server under load for as long as you like, with one client in a hundred hostile; everything must add up.

    python tests/soak.py                       60 s, 200 sessions, 2,000 packets/s
    python tests/soak.py --sessions 1000 --rate 10000 --seconds 3600

This process serves; a second one holds the clients. Honest clients come and go, number their packets and compare
every answer; hostile ones flip and lose bytes, read nothing or slowly, stop in the middle of a packet, flood, and
reset. The rate and the joins that were asked for must have been reached, the ledgers of both ends must balance, and
memory and descriptors must be where they were. Exit code 0 if all of it holds, 1 if not. Ctrl+C ends the load early:
what ran until then is checked all the same; a second one ends at once, with code 130.
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
import re
import signal
import socket
import statistics
import struct
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

import gamenet
from gamenet.run import StopRequest, loop_factory

HELLO, ECHO, SAY, FLOOD = 1, 2, 3, 4
HONEST = b"an honest client"  # in a HELLO: flipped bytes must not make one of those
ROOM_SIZE = 10
MAX_DRIFT = 3 * 1024 * 1024
"""Bytes that the server's resident memory may grow by, from the end of the warm-up to the end."""
REACHED = 0.9
"""The part of the rate, and of the joins a second, that must have been reached: else it was another test."""
MIN_SECONDS = 30.0
"""Of a load that is judged by its rates: who joins leaves up to three seconds later."""
MAX_COMPLAINTS = 5
"""Of one kind, which is a text but for its numbers."""

_DRAIN_SECONDS = 20.0  # for answers that are on their way when the load ends
_PASSING = 8  # descriptors of connections that were accepted and are no sessions yet, or are no sessions any more


class Say(gamenet.Packet, id=SAY):
    """A client's number, and how many it has said before."""

    client: gamenet.u32
    number: gamenet.u32


# -- both sides


class Complaints(list[str]):
    """What is wrong; the same thing may be found every second of an hour, and must not hide others."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()

    def add(self, text: str) -> None:
        kind = re.sub(r"\d+", "", text)
        self.kinds[kind] += 1
        if self.kinds[kind] <= MAX_COMPLAINTS:
            self.append(text)


class Watch:
    """Resident memory and descriptors of this process, sampled while the load runs."""

    def __init__(self) -> None:
        self.memory: list[int] = []
        self.descriptors: list[int] = []

    def sample(self, connections: int) -> None:
        """Now that `connections` are open: each has a descriptor of its own."""
        if sys.platform == "linux":
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            self.memory.append(pages * os.sysconf("SC_PAGE_SIZE"))
            self.descriptors.append(descriptors() - connections)

    def drift(self) -> int:
        """Bytes between the calm after the warm-up and the end: medians, for both ends jitter."""
        part = max(1, len(self.memory) // 5)
        if len(self.memory) < 3 * part:
            return 0
        return int(statistics.median(self.memory[-part:]) - statistics.median(self.memory[part : 2 * part]))

    def check(self, before: int, complaints: Complaints) -> None:
        """At the end; `before` descriptors were open before the first connection."""
        if descriptors() > before + 1:  # the loop may have made one of its own
            complaints.add(f"descriptors: {before} before, {descriptors()} after")
        most = max(self.descriptors, default=before)
        if most > before + _PASSING:
            complaints.add(f"descriptors: {before} before, up to {most} besides one for each connection")

    def __str__(self) -> str:
        if not self.memory:
            return "unknown on this system"
        return f"{self.memory[-1] / 2**20:.1f} MiB, drift {self.drift() / 2**20:+.2f} MiB"


def descriptors() -> int:
    """Open descriptors of this process; 0 where the system does not tell."""
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


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
        if packet.body == HONEST:
            session.data = HONEST
            server.sessions.room(f"room {session.id // ROOM_SIZE}").add(session)
        session.reply(packet)

    @server.on(ECHO)
    def echo(session: gamenet.Session, packet: gamenet.RawPacket) -> None:
        honest["echo"] += session.data is HONEST
        session.reply(packet)

    @server.on(Say)
    async def say(session: gamenet.Session, packet: Say) -> None:
        honest["say"] += session.data is HONEST
        if packet.number % 50 == 0:
            await asyncio.sleep(0.001)
        for room in session.rooms:
            room.broadcast(packet)

    return server, honest


async def soak(options: argparse.Namespace) -> list[str] | None:
    """Run it; returns what is wrong, or None if it was told to end at once."""
    loop = asyncio.get_running_loop()
    complaints = Complaints()
    loop.set_exception_handler(lambda _, context: complaints.add(f"the loop's exception handler: {context}"))
    server, honest = make_server(options)
    stop, watch = StopRequest(), Watch()
    with stop.on_signals():
        await server.start()
        context = server._context
        load = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--clients-of", str(server.port), *passed_on(options),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        before = descriptors()
        try:
            line = await follow(server, options, load, stop, watch, complaints)
        finally:
            load.stdin.close()  # its sign to end, also if we are gone
        if line is None:
            return None
    code = await load.wait()
    if code or not line:
        complaints.add(f"the clients ended with code {code}")
    if not line:
        return complaints
    await wait_until_empty(server, complaints)
    watch.check(before, complaints)
    if watch.drift() > MAX_DRIFT:
        complaints.add(f"resident memory grew by {watch.drift() / 2**20:.1f} MiB, limit {MAX_DRIFT / 2**20:.0f}")
    await server.stop()
    clients = json.loads(line)
    check_end(server, context, honest, clients, complaints)
    show(server.stats(), clients, watch)
    return complaints


async def follow(server, options, load, stop: StopRequest, watch: Watch, complaints: Complaints) -> bytes | None:
    """Look at the server until the load is over; returns what that has to say. None: we were told not to wait."""
    answer = asyncio.ensure_future(load.stdout.readline())
    stopping = [asyncio.ensure_future(stop.wait(times)) for times in (1, 2)]
    began = last = time.monotonic()
    before = server.stats()
    while not answer.done():
        await asyncio.wait([answer], timeout=1.0)
        stats = server.stats()
        check_balance(stats, complaints)
        if watch.memory or stats["sessions"] >= options.sessions:  # all are there: it is warm
            watch.sample(stats["sessions"] + stats["connecting"])
        if stopping[1].done():
            return None
        if stopping[0].done() and not load.stdin.is_closing():
            print(f"{time.monotonic() - began:6.0f} s  told to end", flush=True)
            load.stdin.close()
        if (now := time.monotonic()) - last >= options.report_every:
            report(now - began, now - last, before, stats, watch, complaints)
            last, before = now, stats
    for waiting in stopping:
        waiting.cancel()
    return answer.result()


def report(passed: float, seconds: float, before, stats, watch: Watch, complaints: Complaints) -> None:
    """A line of progress: what there is now, and how much a second since the line before."""
    joined, received, sent = (
        (stats[name] - before[name]) / seconds for name in ("accepted", "packets_dispatched", "packets_out")
    )
    left = sum(stats["closed"].values()) - sum(before["closed"].values())
    megabytes = watch.memory[-1] / 2**20 if watch.memory else 0.0
    print(
        f"{passed:6.0f} s  sessions {stats['sessions']:5}  a second: joins {joined:4.1f}  leaves {left / seconds:4.1f}"
        f"  in {received:7,.0f}  out {sent:7,.0f}  {megabytes:7.1f} MiB  wrong {len(complaints)}",
        flush=True,
    )


async def wait_until_empty(server: gamenet.Server, complaints: Complaints) -> None:
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while len(server.sessions):
                await asyncio.sleep(0.05)
    except TimeoutError:
        left = [f"{session!r} with {session.unsent_size} bytes unsent" for session in server.sessions]
        complaints.add(f"{len(left)} sessions are left though every client is gone: {', '.join(left[:5])}")


def check_balance(stats: dict[str, object], complaints: Complaints) -> None:
    names = ("bytes_dispatched", "bytes_rejected", "bytes_discarded", "bytes_buffered")
    accounted = sum(stats[name] for name in names)
    if stats["bytes_in"] != accounted:
        complaints.add(f"bytes_in {stats['bytes_in']} is not the {accounted} that are accounted for")
    ended = stats["sessions"] + sum(stats["closed"].values())
    if stats["accepted"] != ended:
        complaints.add(f"accepted {stats['accepted']} is not the {ended} that live or are closed")


def check_end(server, context, honest, clients, complaints: Complaints) -> None:
    stats = server.stats()
    check_balance(stats, complaints)
    zeros = {
        "sessions": stats["sessions"], "connecting": stats["connecting"], "bytes_buffered": stats["bytes_buffered"],
        "pool blocks": stats["pool"]["outstanding"], "views": stats["pool"]["viewed"],
        "mailbox": stats["mailbox"]["waiting"], "rooms": len(server.sessions.rooms()), "timers": len(context.timer),
        "handlers": len(context.tasks), "handler_errors": stats["handler_errors"],
    }
    for name, value in zeros.items():
        if value:
            complaints.add(f"{name} is {value} at the end")
    for problem in clients["problems"]:
        complaints.add(f"clients: {problem}")
    for name in ("echo", "say"):
        if honest[name] != clients["counts"].get(name, 0):
            complaints.add(f"honest clients sent {clients['counts'].get(name)} {name}, the server handled {honest[name]}")
    for name in ("echoed", "heard"):
        if not clients["counts"].get(name):
            complaints.add(f"nothing was {name}: the load did not run")


def show(stats: dict[str, object], clients: dict[str, object], watch: Watch) -> None:
    rows = {name: stats[name] for name in ("accepted", "closed", "refused", "rejected", "packets_dispatched",
                                           "packets_out", "yields", "rate_waits")}
    rows |= {"clients": clients["counts"], "attacks": clients["attacks"], "a second": clients["rates"]}
    rows |= {"resident memory": watch, "of the clients": clients["memory"]}
    for name, value in rows.items():
        print(f"  {name:20} {value}")


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
            await client.request(HELLO, HONEST, timeout=_DRAIN_SECONDS)
            self.client = client
            self.load.living.append(self)
            self.load.counts["joined"] += 1
            try:
                await self.stay(client, seconds)
            finally:
                self.load.living.remove(self)
            await self.answers()
        self.load.counts["left"] += 1
        self.check_ledger(client)

    async def stay(self, client: gamenet.Client, seconds: float) -> None:
        """Until its time is over, or the whole load's."""
        closed, over = (asyncio.ensure_future(wait()) for wait in (client.wait_closed, self.load.over.wait))
        await asyncio.wait([closed, over], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if closed.done():
            self.load.problems.add(f"client {self.number}: sent away, {client.close_reason}")
        closed.cancel()
        over.cancel()

    async def answers(self) -> None:
        """Wait for them, and for its own words: what we had not read when we close would reset the connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self.is_answered() and self.client.is_connected:
                    await asyncio.sleep(0.01)
        if not self.is_answered():
            why, heard = self.client.close_reason, self.heard.get(self.number, 0)
            text = f"{self.answered} of {self.sent} answered and {heard} of {self.said} heard, ended by {why}"
            self.load.problems.add(f"client {self.number}: {text}")

    def is_answered(self) -> bool:
        return (self.answered, self.heard.get(self.number, 0)) == (self.sent, self.said)

    def check_ledger(self, client: gamenet.Client) -> None:
        """What it sent and received is accounted for, and everything it had is given back."""
        ledger, context = client._ledger, client._context
        accounted = ledger.bytes_dispatched + ledger.bytes_rejected + ledger.bytes_discarded
        if ledger.bytes_in != accounted:
            self.load.problems.add(f"client {self.number}: {ledger.bytes_in} bytes in, {accounted} accounted for")
        if ledger.packets_out != 1 + self.sent + self.said:
            text = f"client {self.number}: {ledger.packets_out} packets out, {1 + self.sent + self.said} sent"
            self.load.problems.add(text)
        left = context.pool.stats()["outstanding"], len(context.timer), len(context.tasks), ledger.handler_errors
        if any(left):
            self.load.problems.add(f"client {self.number}: blocks, timers, handlers and errors are {left} at its end")

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
            self.load.problems.add(f"client {self.number}: answer {packet.sequence} came as the {self.answered}th")

    def on_say(self, session: gamenet.Session, packet: Say) -> None:
        self.load.counts["heard"] += 1
        before = self.heard.get(packet.client, 0)
        if packet.number <= before:
            self.load.problems.add(f"client {self.number}: word {packet.number} of {packet.client} came after {before}")
        self.heard[packet.client] = packet.number


class Load:
    """All clients of one server."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.port = options.clients_of
        self.rng = random.Random(options.seed)
        self.living: list[Honest] = []
        self.counts: Counter[str] = Counter()
        self.attacks: Counter[str] = Counter()
        self.problems = Complaints()
        self.tasks: set[asyncio.Task[None]] = set()
        self.numbers = 0
        self.over = asyncio.Event()
        self.watch = Watch()
        self.warm: tuple[float, Counter[str]] | None = None  # when all were there, and what had been done until then

    def start(self, coroutine) -> None:
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.ended)

    def ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.problems.add("".join(traceback.format_exception(error)))

    def join(self, seconds: float) -> None:
        self.numbers += 1
        self.start(Honest(self, self.numbers).live(seconds))

    async def run(self) -> dict[str, object]:
        options, loop = self.options, asyncio.get_running_loop()
        before = descriptors()
        ends = loop.time() + options.seconds
        for index in range(options.sessions):
            self.join(ends - loop.time())
            if index % 50 == 49:
                await asyncio.sleep(0.05)
        for _ in range(max(3, options.sessions // 100)):
            self.start(self.attack(ends))
        await self.pace(ends)
        rates = self.rates()
        while self.tasks:
            await asyncio.wait(self.tasks)
        await asyncio.sleep(0.1)  # sockets are closed in a later turn
        self.watch.check(before, self.problems)
        return {"counts": self.counts, "attacks": self.attacks, "rates": rates, "memory": str(self.watch),
                "problems": self.problems}

    async def pace(self, ends: float) -> None:
        """Send at the rate asked for, and let clients come and go."""
        loop, options = asyncio.get_running_loop(), self.options
        sent = joined = 0
        began = sampled = loop.time()
        while (now := loop.time()) < ends - 0.5 and not self.over.is_set():
            due = int((now - began) * options.rate)
            for _ in range(min(due - sent, options.rate)):
                if self.living:
                    self.rng.choice(self.living).send(self.rng)
            sent = due
            while joined < (now - began) * options.churn:
                joined += 1
                self.join(self.rng.uniform(0.2, 3.0))
            if self.warm is None and len(self.living) >= options.sessions:
                self.warm = now, self.counts.copy()
            if self.warm is not None and now - sampled >= 1.0:
                sampled = now
                self.watch.sample(len(self.tasks))  # each has a connection at most
            await asyncio.sleep(0.01)

    def rates(self) -> dict[str, float]:
        """What was done a second since all were there; a complaint if it is not what was asked for."""
        options = self.options
        if self.warm is None:
            self.problems.add(f"only {len(self.living)} of {options.sessions} clients were there")
            return {}
        began, before = self.warm
        done, seconds = self.counts - before, max(1e-9, asyncio.get_running_loop().time() - began)
        rates = {name: round(done[name] / seconds, 2) for name in ("joined", "left", "echo", "say", "echoed", "heard")}
        asked = {"packets": (rates["echo"] + rates["say"], options.rate), "answers": (rates["echoed"], rates["echo"]),
                 "joins": (rates["joined"], options.churn), "leaves": (rates["left"], options.churn)}
        for name, (reached, wanted) in asked.items():
            if seconds > MIN_SECONDS and reached < REACHED * wanted:
                self.problems.add(f"{reached:,.1f} {name} a second of {wanted:,.1f}: this machine is too slow for it")
        return rates

    # -- hostile ones: each attack is one connection

    async def attack(self, ends: float) -> None:
        loop = asyncio.get_running_loop()
        kinds = (self.mutate, self.garble, self.read_nothing, self.read_slowly, self.stop_in_the_middle, self.flood,
                 self.reset, self.be_silent)
        left: list = []
        while loop.time() < ends - 6.0 and not self.over.is_set():
            left = left or self.rng.sample(kinds, len(kinds))  # each of them, in any order
            kind = left.pop()
            self.attacks[kind.__name__] += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                async with asyncio.timeout(8.0):
                    await kind(reader, writer)
            except (ConnectionError, TimeoutError):
                self.attacks["ended by the server"] += 1
            finally:
                writer.transport.abort()
            await asyncio.sleep(0)

    def packets(self, count: int, size: int = 64) -> bytes:
        return b"".join(
            struct.pack("<HHI", ECHO, 8 + size, number) + self.rng.randbytes(size) for number in range(count)
        )

    async def mutate(self, reader, writer) -> None:
        """Bytes that are others, half of them in headers."""
        stream = bytearray(self.packets(40))
        for _ in range(self.rng.randrange(1, 8)):
            place = self.rng.randrange(len(stream))
            stream[self.rng.choice((place, place - place % 72 + place % 8))] = self.rng.randrange(256)
        await self.send_and_look(reader, writer, stream)

    async def garble(self, reader, writer) -> None:
        """Bytes that are missing, twice there, or mere noise."""
        stream = bytearray(self.packets(40))
        for _ in range(self.rng.randrange(1, 5)):
            start = self.rng.randrange(len(stream))
            piece = stream[start : start + self.rng.randrange(1, 100)]
            stream[start : start + len(piece)] = self.rng.choice((b"", piece * 2, self.rng.randbytes(50)))
        await self.send_and_look(reader, writer, stream)

    async def send_and_look(self, reader, writer, stream: bytes) -> None:
        writer.write(stream)
        await writer.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader.read(1 << 16), 1.0)

    async def read_nothing(self, reader, writer) -> None:
        writer.transport.pause_reading()
        block = self.packets(16, 4000)
        while not writer.is_closing():
            writer.write(block)
            await writer.drain()

    async def read_slowly(self, reader, writer) -> None:
        """So little at a time that it never takes what it asks for, and never stops taking."""
        block = self.packets(256, 4000)
        while not writer.is_closing():
            writer.write(block)
            for _ in range(20):
                await reader.read(1000)
                await asyncio.sleep(0.02)
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
        """As many as come through in a second, but no more than are read soon: they are read though we are gone."""
        block, ends = struct.pack("<HHI", FLOOD, 8, 0) * 8000, asyncio.get_running_loop().time() + 1.0
        for _ in range(25):
            if asyncio.get_running_loop().time() > ends or writer.is_closing():
                return
            writer.write(block)
            await writer.drain()

    async def reset(self, reader, writer) -> None:
        linger_no_time = struct.pack("ii" if sys.platform != "win32" else "hh", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_no_time)
        writer.write(self.packets(30)[:-20])
        await asyncio.sleep(self.rng.uniform(0, 0.05))

    async def be_silent(self, reader, writer) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, 2.0))


async def run_clients(options: argparse.Namespace) -> dict[str, object]:
    """The load, until it is over or the server's process closes our standard input, by its end at the latest."""
    load, loop = Load(options), asyncio.get_running_loop()

    def wait_for_the_end() -> None:
        os.read(0, 1)  # sys.stdin has a lock, which the interpreter wants at its end
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(load.over.set)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    return await load.run()


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
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server's process says when to end
            answer = json.dumps(runner.run(run_clients(options)))
            with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(1, f"{answer}\n".encode())
            return 0
        print(f"{gamenet.backend}, {options.sessions} sessions, {options.rate} packets/s, seed {options.seed}")
        complaints = runner.run(soak(options))
    if complaints is None:
        return 130
    for complaint in complaints:
        print(f"WRONG: {complaint}")
    print("everything adds up" if not complaints else f"{len(complaints)} things are wrong")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
