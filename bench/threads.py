"""`python -m bench threads`: four threads hand calls over to an event loop; how many arrive in a second, by which way.

What stays true: every way is used in each round, in turn, and each call is made before a round counts; ratios are taken
per round. The threads start behind a barrier, and the clock runs from there to the last call.
"""

import asyncio
import importlib
import importlib.util
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import gamenet
from bench.timing import spread

PRODUCERS = 4
BASELINE = "loop.call_soon_threadsafe"

CallSoon = Callable[..., object]


class _Counter:
    """Is called once per item; the last one ends the round."""

    def __init__(self, items: int) -> None:
        self._left = items
        self.done = asyncio.Event()

    def __call__(self) -> None:
        self._left -= 1
        if not self._left:
            self.done.set()


async def _seconds(hand_over: CallSoon, items: int) -> float:
    """How long `items` calls take, from the barrier to the last one made."""
    counter = _Counter(PRODUCERS * items)
    barrier = threading.Barrier(PRODUCERS + 1)

    def produce() -> None:
        barrier.wait()
        for _ in range(items):
            while hand_over(counter) is False:
                time.sleep(0.0005)  # full: what a bounded mailbox asks of its producers

    threads = [threading.Thread(target=produce) for _ in range(PRODUCERS)]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    await counter.done.wait()
    passed = time.perf_counter() - began
    for thread in threads:
        thread.join()
    return passed


async def _measure(items: int, rounds: int) -> dict[str, list[float]]:
    loop = asyncio.get_running_loop()
    async with gamenet.Server(watchdog_timeout=None) as server:
        ways: dict[str, CallSoon] = {BASELINE: loop.call_soon_threadsafe, "server.call_soon": server.call_soon}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, hand_over in ways.items():
                seconds[name].append(await _seconds(hand_over, items))
        stats = server.stats()["mailbox"]
        assert stats["accepted"] == stats["delivered"] == PRODUCERS * items * rounds
    return seconds


def main(items: int, rounds: int) -> None:
    """Measure on every loop that is installed, and print a table."""
    print(f"{PRODUCERS} threads x {items:,} calls of an empty function, {rounds} rounds; rates are medians in calls/s.\n")
    print(f"| loop | {BASELINE} | server.call_soon | times as many |\n|---|---:|---:|---:|")
    for name, new_loop in _loops().items():
        with asyncio.Runner(loop_factory=new_loop) as runner:
            seconds = runner.run(_measure(items, rounds))
        rates = [f"{PRODUCERS * items / statistics.median(values):,.0f}" for values in seconds.values()]
        theirs, ours = seconds.values()
        print(f"| {name} | {' | '.join(rates)} | {spread([a / b for a, b in zip(theirs, ours, strict=True)])} |")


def _loops() -> dict[str, Callable[[], Any]]:
    fast = [name for name in ("uvloop", "winloop") if importlib.util.find_spec(name)]
    return {
        "asyncio": asyncio.new_event_loop, **{name: importlib.import_module(name).new_event_loop for name in fast}
    }
