"""One mode, measured: every peer in turn in each round.

What stays true: a peer's server runs for the whole mode and is idle outside its turn; every turn has connections of its
own. Values of one round stand at the same place of every peer's lists, so that they can be divided.
"""

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.net.disturbance import ProcessTime, StolenTime
from bench.net.modes import Mode
from bench.net.peer import BASELINES, Peer
from bench.net.processes import Failed, Server, generating, serving
from bench.net.progress import Step
from bench.timing import Measured

HOST = "127.0.0.1"
MAX_STOLEN = 0.01  # share of a round that the host may steal; a round with more is measured again
MAX_WAITED = 0.03  # share that server and generator may wait for their cores; waking up alone takes about 1 %
MAX_REPEATS = 3  # of rounds in a mode; then the least disturbed ones count, and what disturbed them is shown
WARM_CONNECTIONS = 100  # logged in before memory is first read: what a server allocates once is not per connection
WARM_SECONDS = 0.1
"""Of load that does not count, before the first round. A server that nobody has left yet is not itself: asyncio's
receive buffers of 256 KiB go through mmap(2) one by one until the first is freed whole, at a disconnect, and raises
malloc's threshold; until then it is three times as slow in fan-in."""
SETTLE_SECONDS = 0.05  # between turns: the server before is still busy with connections that ended

Commands = dict[Peer, list[str]]


@dataclass
class Talk:
    """What one peer did: a value per round. Rates are packets (chat: deliveries) per second; times are seconds."""

    rates: list[float]
    p50: list[float]
    p99: list[float]
    busy: list[float]  # the share of its turn that the server ran; far below 1, it waited for the generator

    def ratios_to(self, baseline: "Talk") -> list[float]:
        """How many times as fast as `baseline`, per round."""
        seconds = [Measured("", [1 / rate for rate in one.rates]) for one in (baseline, self)]
        return seconds[0].ratios_to(seconds[1])


@dataclass
class Round:
    """What the generator reported of each peer by name, and what the round lost to others (0 to 1)."""

    reports: dict[str, dict[str, float]]
    stolen: float
    waited: float

    @property
    def disturbance(self) -> float:
        """How near it is to what a round may lose; above 1 it lost more."""
        return max(self.stolen / MAX_STOLEN, self.waited / MAX_WAITED)

    @property
    def is_calm(self) -> bool:
        return self.disturbance <= 1


@dataclass
class TalkResult:
    """A mode's rounds that count, and how many had to be measured again."""

    mode: Mode
    rounds: list[Round]
    repeats: int

    @cached_property
    def by_peer(self) -> dict[str, Talk]:
        return {name: _talk([one.reports[name] for one in self.rounds]) for name in self.rounds[0].reports}

    @property
    def baseline(self) -> str:
        return next(name for name in [*BASELINES, *self.by_peer] if name in self.by_peer)

    def medians(self) -> dict[str, float]:
        """The median of each peer's ratios to the baseline."""
        baseline = self.by_peer[self.baseline]
        return {name: statistics.median(talk.ratios_to(baseline)) for name, talk in self.by_peer.items()}


@dataclass
class IdleResult:
    """Bytes of resident memory per silent connection, by peer name."""

    mode: Mode
    by_peer: dict[str, float]

    def medians(self) -> dict[str, float]:
        return self.by_peer


Result = TalkResult | IdleResult


def measure_talk(
    generator: Path, mode: Mode, commands: Commands, rounds: int, seconds: float, step: Step
) -> TalkResult:
    """Echo or chat. `Failed`, naming mode and peer, if a server does anything wrong."""
    measured: list[Round] = []
    calm = 0
    with ExitStack() as stack:
        servers = {peer.name: stack.enter_context(serving(command)) for peer, command in commands.items()}
        _round(generator, mode, servers, WARM_SECONDS, step, f"{mode.name}, warming up")
        while calm < rounds and len(measured) < rounds + MAX_REPEATS:
            label = f"{mode.name}, round {len(measured) + 1}"
            measured.append(_round(generator, mode, servers, seconds, step, label))
            calm += measured[-1].is_calm
    return TalkResult(mode, sorted(measured, key=lambda one: one.disturbance)[:rounds], len(measured) - rounds)


def measure_idle(generator: Path, mode: Mode, commands: Commands, step: Step) -> IdleResult:
    """Memory, with a fresh server for each peer. `Failed` as above."""
    result = IdleResult(mode, {})
    for peer, command in commands.items():
        step(f"{mode.name}: {peer.name}")
        warm = [*mode.generator_arguments]
        warm[0] = str(WARM_CONNECTIONS)
        try:
            with serving(command) as server, _silent(generator, server, warm):
                before = server.resident_size
                with _silent(generator, server, mode.generator_arguments):
                    grown = server.resident_size - before
        except Failed as error:
            raise Failed(f"{mode.name}, {peer.name}: {error}") from None
        result.by_peer[peer.name] = grown / mode.connections
    return result


def _talk(reports: list[dict[str, float]]) -> Talk:
    return Talk(
        [report["packets"] / report["seconds"] for report in reports],
        [report["p50"] for report in reports],
        [report["p99"] for report in reports],
        [report["busy"] for report in reports],
    )


def _round(
    generator: Path, mode: Mode, servers: dict[str, Server], seconds: float, step: Step, label: str
) -> Round:
    reports = {}
    stolen, waited = StolenTime(), 0.0
    for name, server in servers.items():
        step(f"{label}: {name}")
        reports[name] = _turn(generator, mode, name, server, seconds)
        waited += reports[name]["waited"]
        time.sleep(SETTLE_SECONDS)
    return Round(reports, stolen.share(), waited / (2 * seconds * len(servers)))


def _turn(generator: Path, mode: Mode, name: str, server: Server, seconds: float) -> dict[str, float]:
    """The generator's report, with what the server took and waited."""
    server_time, started = ProcessTime(server.process.pid), time.monotonic()
    report = _load(generator, mode, name, server, seconds)
    ran, waited = server_time.ran_and_waited()
    return {**report, "busy": ran / (time.monotonic() - started), "waited": report["waited"] + waited}


def _load(generator: Path, mode: Mode, name: str, server: Server, seconds: float) -> dict[str, float]:
    command = [str(generator), mode.kind, HOST, str(server.port), *mode.generator_arguments, str(seconds)]
    try:
        with generating(command) as process:
            output, _ = process.communicate()
    except Failed as error:
        raise Failed(f"{mode.name}, {name}: {error}") from None
    report: dict[str, float] = json.loads(output)
    return report


@contextmanager
def _silent(generator: Path, server: Server, arguments: list[str]) -> Iterator[None]:
    """Connections that are logged in and silent while this lasts."""
    with generating([str(generator), "idle", HOST, str(server.port), *arguments, "0"]) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline():
            yield
        process.stdin.close()
