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
from gamenet._core import Mailbox

PRODUCERS = 4
BASELINE = "loop.call_soon_threadsafe"

CallSoon = Callable[..., object]


async def _seconds(hand_over: CallSoon, items: int) -> float:
    """How long `items` calls take, from the barrier to the last one made."""
    done = asyncio.Event()
    left = PRODUCERS * items
    barrier = threading.Barrier(PRODUCERS + 1)

    def arrived() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    def produce() -> None:
        barrier.wait()
        for _ in range(items):
            while hand_over(arrived) is False:
                time.sleep(0.0005)  # full: what a bounded mailbox asks of its producers

    threads = [threading.Thread(target=produce) for _ in range(PRODUCERS)]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    await done.wait()
    passed = time.perf_counter() - began
    for thread in threads:
        thread.join()
    return passed


def _mailbox(loop: asyncio.AbstractEventLoop) -> Mailbox:
    """A bare one of functions, which the loop calls."""

    def take() -> None:
        functions = mailbox.take()
        for function in functions:
            function()
        if functions:
            loop.call_soon(take)

    mailbox = Mailbox(lambda: loop.call_soon_threadsafe(take))
    return mailbox


async def _measure(items: int, rounds: int) -> dict[str, list[float]]:
    loop = asyncio.get_running_loop()
    async with gamenet.Server(watchdog_timeout=None) as server:
        ways: dict[str, CallSoon] = {
            BASELINE: loop.call_soon_threadsafe,
            "Mailbox.put": _mailbox(loop).put,
            "server.call_soon": server.call_soon,
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, hand_over in ways.items():
                seconds[name].append(await _seconds(hand_over, items))
        stats = server.stats()["mailbox"]
        assert stats["accepted"] == stats["delivered"] == PRODUCERS * items * rounds
    return seconds


def main(items: int, rounds: int) -> None:
    """Measure on every loop that is installed, and print a table."""
    print(f"{PRODUCERS} threads x {items:,} calls of a function that counts them, {rounds} rounds. Calls/s, and how")
    print(f"many times as many as by {BASELINE} in the same round: medians and ranges.\n")
    for place, (name, new_loop) in enumerate(_loops().items()):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            seconds = runner.run(_measure(items, rounds))
        if not place:
            print(f"| loop | {' | '.join(seconds)} |\n|---|{'---:|' * len(seconds)}")
        print(f"| {name} | {' | '.join(_cell(values, seconds[BASELINE], items) for values in seconds.values())} |")


def _cell(seconds: list[float], baseline: list[float], items: int) -> str:
    ratios = [theirs / ours for theirs, ours in zip(baseline, seconds, strict=True)]
    rate = f"{PRODUCERS * items / statistics.median(seconds):,.0f}"
    return rate if seconds is baseline else f"{rate}: {spread(ratios)}"


def _loops() -> dict[str, Callable[[], Any]]:
    fast = [name for name in ("uvloop", "winloop") if importlib.util.find_spec(name)]
    return {
        "asyncio": asyncio.new_event_loop, **{name: importlib.import_module(name).new_event_loop for name in fast}
    }
