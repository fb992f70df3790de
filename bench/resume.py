"""How a fleet of clients comes back, and what `resume=True` costs: `python -m bench.resume`.

`spread`: 200 clients lose their server at one moment; it is back after some time. In virtual time, in memory, with
`Backoff()` and for comparison with the same delays without jitter.
`cost`: a client and a server in this process, over loopback; processor time of both ends together, per packet that goes
there and comes back.
"""

import argparse
import asyncio
import gc
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable

import gamenet
from gamenet.testing import MemoryNetwork, VirtualTimeLoop

FLEET = 200
OUTAGES = 0.0, 3.0, 20.0
WINDOW = 0.1  # seconds, for the busiest moment
BODY = bytes(24)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.resume", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--rounds", type=int, default=7, help="of the cost, medians are shown (default: 7)")
    parser.add_argument("--packets", type=int, default=5000, help="per round (default: 5,000)")
    options = parser.parse_args()
    print(f"{FLEET} clients come back, seconds after the server did")
    print(f"{'delays':>14} {'outage':>7} {'first':>7} {'1/4':>7} {'1/2':>7} {'3/4':>7} {'last':>7} {'in 0.1 s':>9}")
    for name, backoff in (("full jitter", gamenet.Backoff(attempts=None)), ("no jitter", (1, 2, 4, 8, 16, *[30] * 9))):
        for outage in OUTAGES:
            with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
                back = sorted(runner.run(come_back(backoff, outage)))
            figures = [back[0], *statistics.quantiles(back), back[-1]]
            busiest = max(sum(start <= moment < start + WINDOW for moment in back) for start in back)
            print(f"{name:>14} {outage:7.1f} " + " ".join(f"{figure:7.2f}" for figure in figures) + f" {busiest:9}")
    print(f"\nprocessor time of both ends per packet and answer of {len(BODY)} bytes each, µs ({gamenet.backend})")
    print(f"{'at a time':>14} {'plain':>7} {'resume':>7}")
    for at_a_time in (1, 10, 100):
        plain, resumed = measure(at_a_time, options.packets, options.rounds)
        print(f"{at_a_time:14} {plain:7.1f} {resumed:7.1f}")


async def come_back(backoff: gamenet.Backoff | Iterable[float], outage: float) -> list[float]:
    """When each client was connected again, in seconds after the server was back."""
    loop, back = asyncio.get_running_loop(), []
    server = gamenet.Server(idle_timeout=None)
    async with MemoryNetwork() as net:
        await net.serve(server, 4000)
        options = {"backoff": backoff, "transport": net.transports}
        fleet = [gamenet.ReconnectingClient("game", 4000, rng=random.Random(n), **options) for n in range(FLEET)]
        for client in fleet:
            client.start()
            await client.connected()
        await asyncio.sleep(60)
        await server.stop(0)
        await asyncio.sleep(outage)
        await server.start("127.0.0.1", 4000)
        began = loop.time()
        server.on_opened(lambda session: back.append(loop.time() - began))
        await asyncio.sleep(120)
        for client in fleet:
            await client.close()
    return back


def measure(at_a_time: int, packets: int, rounds: int) -> tuple[float, float]:
    """Microseconds per packet, without resume and with it: both take their turn in every round."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for resume, taken in times.items():
            taken.append(asyncio.run(echo(resume, at_a_time, packets)) * 1e6)
    return statistics.median(times[False]), statistics.median(times[True])


async def echo(resume: bool, at_a_time: int, packets: int) -> float:
    """Seconds of processor time per packet."""
    server = gamenet.Server(resume=resume, transport="asyncio")
    server.on(1)(lambda session, packet: session.reply(packet))
    async with server:
        options = {"resume": resume, "transport": "asyncio"}
        async with gamenet.ReconnectingClient("127.0.0.1", server.port, **options) as client:
            await client.connected()
            exchange = exchange_of(client, at_a_time)
            await exchange()
            gc.collect()
            began = time.process_time()
            for _ in range(packets // at_a_time):
                await exchange()
            return (time.process_time() - began) / (packets // at_a_time * at_a_time)


def exchange_of(client: gamenet.ReconnectingClient, count: int) -> Callable[[], Awaitable[None]]:
    """Sends so many packets, and takes their answers."""

    async def exchange() -> None:
        for number in range(1, count + 1):
            client.send(1, BODY, number)
        for number in range(1, count + 1):
            assert (await anext(client)).sequence == number

    return exchange


if __name__ == "__main__":
    main()
