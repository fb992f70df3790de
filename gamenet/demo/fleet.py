"""Many bots in one event loop, and the program around them that `BotProcess` starts.

What stays true: every bot that was started is playing, starting or ended, and each end is logged and counted with
its reason; when a fleet is left, no task of it lives. The program ends when its standard input does, so it cannot
outlive who started it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from random import Random

from gamenet.demo.bots import Bot
from gamenet.demo.round_trips import RoundTrips
from gamenet.logs import LimitedLogger
from gamenet.run import LoopName, loop_factory

MIN_INTERVAL = 0.25
MAX_INTERVAL = 10.0
"""Seconds between two actions of a bot; above it the server would take a bot for gone."""
MAX_DELIVERIES = 25_000
"""What a fleet may cause, in packets a second: everybody sees what everybody does, so n bots cause n * n of them."""
REPORT_INTERVAL = 0.5
_LOGIN_GAP = 0.005  # seconds between two connects; a server's backlog is no place to wait


@dataclass(frozen=True, slots=True)
class Plan:
    """What a fleet is to do. The bots share one password; `seed` decides what they do."""

    host: str
    port: int
    names: list[str]
    password: str
    seed: int
    loop: LoopName = "auto"

    def __repr__(self) -> str:
        return f"Plan({len(self.names)} bots for {self.host} port {self.port}, seed {self.seed})"


@dataclass(frozen=True, slots=True)
class Report:
    """How a fleet does: bots by state, round trips since it began, and the 99th percentile of the latest."""

    bots: int = 0
    playing: int = 0
    ended: int = 0
    round_trips: int = 0
    p99: float | None = None


class Fleet:
    """`async with Fleet(plan) as fleet:` the bots play inside of it."""

    def __init__(self, plan: Plan) -> None:
        self.ended: Counter[str] = Counter()
        self.round_trips = RoundTrips(time.perf_counter)
        self._plan = plan
        self._log = LimitedLogger(logging.getLogger("gamenet.demo.bots"), time.monotonic)
        self._bots = [self._bot(name) for name in plan.names]
        self._tasks: list[asyncio.Task[None]] = []

    def _bot(self, name: str) -> Bot:
        interval = min(max(len(self._plan.names) ** 2 / MAX_DELIVERIES, MIN_INTERVAL), MAX_INTERVAL)
        random = Random(f"{self._plan.seed} {name}")
        return Bot(name, self._plan.password, random, self.round_trips, interval)

    async def __aenter__(self) -> Fleet:
        self._tasks = [asyncio.create_task(self._play(bot, i * _LOGIN_GAP)) for i, bot in enumerate(self._bots)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _play(self, bot: Bot, delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            await bot.play(self._plan.host, self._plan.port)
        except Exception as error:  # whatever it is, the count must show it
            reason = str(error) or type(error).__name__
            self.ended[reason] += 1
            self._log.log(logging.WARNING, "%s has stopped playing: %s", bot.name, reason)

    @property
    def report(self) -> Report:
        """How it does now."""
        playing = sum(bot.is_playing for bot in self._bots)
        p99 = self.round_trips.percentile(0.99)
        return Report(len(self._bots), playing, self.ended.total(), self.round_trips.count, p99)


# -- the program: a plan comes in as one line of JSON, reports and log records go out as lines of JSON


def main() -> None:
    """Run the fleet of the plan on standard input until standard input ends."""
    plan = Plan(**json.loads(sys.stdin.buffer.readline()))
    logging.basicConfig(level=logging.INFO, handlers=[_JsonHandler()])
    with asyncio.Runner(loop_factory=loop_factory(plan.loop)) as runner:
        runner.run(_run(plan))


async def _run(plan: Plan) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(target=_wait_for_end_of_input, args=(loop, stop), daemon=True).start()
    async with Fleet(plan) as fleet:
        while not stop.is_set():
            _say(asdict(fleet.report))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), REPORT_INTERVAL)


def _wait_for_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # os.read and not sys.stdin: a thread that waits in there holds a lock the interpreter needs when it ends
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(stop.set)


def _say(line: dict[str, object]) -> None:
    with suppress(OSError):  # nobody reads any more: our input has ended too, and that ends us
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


class _JsonHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _say({"level": record.levelno, "message": self.format(record)})
