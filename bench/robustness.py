"""What one client can do to the others: `python -m bench.robustness`.

`flood`: clients send header-only packets as fast as they can, while another client asks and waits for its answer.
`stuck`: 1 of 200 receivers does not read, while the other 199 get 1,000 broadcasts of 1 KiB.
Server and clients are processes of their own. Times are those of the clients that behave.
"""

import argparse
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

FLOOD, PING, STATS, BROADCAST = 1, 2, 3, 4
PING_INTERVAL = 0.002  # seconds
BROADCAST_INTERVAL = 0.01
BROADCASTS = 1000
RECEIVERS = 200
HEADER = struct.Struct("<HHI")
COLUMNS = (
    "scenario", "twin", "transport", "loop", "budget", "clients", "handler", "p50 ms", "p99 ms", "max ms", "packets/s"
)
WIDTHS = 8, 8, 9, 7, 7, 7, 7, 8, 8, 8, 12


def main() -> None:
    options = parse_arguments()
    if options.role:
        ROLES[options.role](*json.loads(options.arguments))
        return
    print(row(COLUMNS))
    for twin in options.twin:
        for loop in options.loop:
            for transport in options.transport:
                if twin == "pure" and transport == "epoll":
                    continue
                for line in measure(options, {"loop": loop, "transport": transport}, twin):
                    print(row(line), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.robustness", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--scenario", nargs="+", choices=["flood", "stuck"], default=["flood", "stuck"])
    parser.add_argument("--twin", nargs="+", choices=["compiled", "pure"], default=["compiled", "pure"])
    parser.add_argument("--transport", nargs="+", default=["asyncio"], help="asyncio, fast, epoll (default: asyncio)")
    parser.add_argument("--loop", nargs="+", default=["asyncio"], help="asyncio, uvloop (default: asyncio)")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 20], help="that flood (default: 1 20)")
    parser.add_argument("--packets", type=int, default=1_000_000, help="of each that floods (default: 1,000,000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="after which a flood ends anyway (default: 5)")
    parser.add_argument(
        "--handler", nargs="+", type=float, default=[0.0, 20.0], help="microseconds it takes (default: 0 20)"
    )
    parser.add_argument(
        "--budget", nargs="+", type=float, default=[0.005],
        help="dispatch_budget in seconds; inf: none (default: 0.005)",
    )
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--arguments", help=argparse.SUPPRESS)
    return parser.parse_args()


def row(values: tuple[object, ...]) -> str:
    return " ".join(f"{value:>{width}}" for value, width in zip(values, WIDTHS, strict=True))


def measure(options: argparse.Namespace, server: dict[str, str], twin: str) -> Iterator[tuple[object, ...]]:
    for budget in options.budget:
        facts = twin, server["transport"], server["loop"], f"{budget * 1e3:g} ms"
        if "flood" in options.scenario:
            for handler in options.handler:
                for clients in options.clients:
                    times, rate = flooded(server, twin, budget, handler, clients, options.packets, options.seconds)
                    yield "flood", *facts, clients, f"{handler:g} us", *shown(times), f"{rate:,.0f}"
        if "stuck" in options.scenario:
            times, rate = one_is_stuck(server, twin, budget)
            yield "stuck", *facts, RECEIVERS, "-", *shown(times), f"{rate:,.0f}"


def shown(times: list[float]) -> tuple[str, str, str]:
    ordered = sorted(times)
    parts = [ordered[len(ordered) * percent // 100] for percent in (50, 99)]
    return f"{parts[0] * 1e3:.2f}", f"{parts[1] * 1e3:.2f}", f"{ordered[-1] * 1e3:.2f}"


# -- the scenarios


def flooded(
    server: dict[str, str], twin: str, budget: float, handler: float, clients: int, packets: int, seconds: float
) -> tuple[list[float], float]:
    """Round trips of a client that asks while others flood, in seconds; the flood's packets per second."""
    with serving(twin, server, budget, handler) as port, socket.create_connection(("127.0.0.1", port)) as ours:
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times = []
        with child(twin, "flood", port, clients, packets, seconds) as flood:
            assert flood.stdout is not None
            flood.stdout.readline()
            before, started = dispatched(ours), time.perf_counter()
            while flood.poll() is None:
                asked = time.perf_counter()
                ask(ours, PING)
                times.append(time.perf_counter() - asked)
                time.sleep(PING_INTERVAL)
            passed = time.perf_counter() - started
            rate = (dispatched(ours) - before) / passed
        return times, rate


def one_is_stuck(server: dict[str, str], twin: str, budget: float) -> tuple[list[float], float]:
    """How long broadcasts took to each that reads, in seconds; how many arrived per second."""
    with (
        serving(twin, server, budget, 0.0) as port,
        socket.create_connection(("127.0.0.1", port)) as stuck,
        child(twin, "receive", port, RECEIVERS - 1) as receivers,
    ):
        assert receivers.stdout is not None
        receivers.stdout.readline()
        started = time.perf_counter()
        stuck.sendall(HEADER.pack(BROADCAST, 8, 0))
        times = json.loads(receivers.stdout.readline())
        return times, len(times) / (time.perf_counter() - started)


def ask(ours: socket.socket, packet_id: int) -> bytes:
    ours.sendall(HEADER.pack(packet_id, 8, 0))
    answer = b""
    while len(answer) < 8 or len(answer) < HEADER.unpack_from(answer)[1]:
        answer += ours.recv(4096)
    return answer[8:]


def dispatched(ours: socket.socket) -> int:
    return int.from_bytes(ask(ours, STATS), "little")


@contextmanager
def serving(twin: str, server: dict[str, str], budget: float, handler: float) -> Iterator[int]:
    with child(twin, "serve", server, budget, handler) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextmanager
def child(twin: str, role: str, *arguments: object) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-m", "bench.robustness", "--role", role, "--arguments", json.dumps(arguments)]
    environment = {**os.environ, "GAMENET_PURE": "1" if twin == "pure" else "0"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.terminate()


# -- the processes


def serve(options: dict[str, str], budget: float, handler: float) -> None:
    import asyncio

    import gamenet

    # the figure of `stuck` is about a receiver that stays: it is not to be ended within the run
    server = gamenet.Server(
        transport=options["transport"], dispatch_budget=budget, max_write_buffer=64 << 20, write_timeout=None
    )
    handler /= 1e6

    @server.on(FLOOD)
    def flooded(session, packet):
        if handler:
            until = time.perf_counter() + handler
            while time.perf_counter() < until:
                pass

    server.on(PING)(lambda session, packet: session.reply(packet))
    server.on(STATS)(
        lambda session, packet: session.send(STATS, server.stats()["packets_dispatched"].to_bytes(8, "little"))
    )

    @server.on(BROADCAST)
    def start(session, packet):
        tasks.add(asyncio.ensure_future(broadcast()))

    async def broadcast():
        for number in range(BROADCASTS):
            server.sessions.broadcast(BROADCAST, struct.pack("<Id", number, time.monotonic()).ljust(1024, b"\0"))
            await asyncio.sleep(BROADCAST_INTERVAL)

    tasks = set()
    gamenet.run(server, port=0, loop=options["loop"], on_ready=lambda: print(server.port, flush=True))


def flood(port: int, clients: int, packets: int, seconds: float) -> None:
    piece = HEADER.pack(FLOOD, 8, 0) * 8192
    left = {connected(port): packets * 8 for _ in range(clients)}
    print("ready", flush=True)
    end = time.perf_counter() + seconds
    with selectors.DefaultSelector() as selector:
        for sock in left:
            selector.register(sock, selectors.EVENT_WRITE)
        while left and time.perf_counter() < end:
            for key, _ in selector.select(0.1):
                sock = key.fileobj
                # a piece ends at any byte; what follows begins where it ended
                at = -left[sock] % 8
                left[sock] -= sock.send(piece[at : at + left[sock]])
                if not left[sock]:
                    selector.unregister(sock)
                    del left[sock]


def receive(port: int, clients: int) -> None:
    size = 8 + 1024
    waiting = {connected(port): bytearray() for _ in range(clients)}
    for sock in waiting:  # the server knows them all
        sock.setblocking(True)
        ask(sock, PING)
        sock.setblocking(False)
    numbers = dict.fromkeys(waiting, 0)
    times = []
    print("ready", flush=True)
    with selectors.DefaultSelector() as selector:
        for sock in waiting:
            selector.register(sock, selectors.EVENT_READ)
        while len(times) < clients * BROADCASTS:
            for key, _ in selector.select():
                sock = key.fileobj
                held = waiting[sock]
                held += sock.recv(1 << 16)
                now = time.monotonic()
                while len(held) >= size:
                    number, sent = struct.unpack_from("<Id", held, 8)
                    if number != numbers[sock]:
                        sys.exit(f"broadcast {number} came where {numbers[sock]} was due")
                    numbers[sock] += 1
                    times.append(now - sent)
                    del held[:size]
    print(json.dumps(times), flush=True)


def connected(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


ROLES = {"serve": serve, "flood": flood, "receive": receive}

if __name__ == "__main__":
    main()
