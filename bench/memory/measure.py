"""One figure: a fresh server, sessions in one state, and what its memory grew by.

What stays true: memory is read only after the server said that every session is in the state and nothing is left to
collect; what a server allocates once (the warm-up) is not counted.
"""

import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.memory.clients import Certificate, Clients
from bench.memory.kinds import Kind
from bench.memory.states import State
from bench.net.measure import WARM_CONNECTIONS
from bench.net.processes import Failed, Server, serving

SERVER = Path(__file__).with_name("server.py")


@dataclass(frozen=True)
class Measurement:
    """What all figures of a run have in common."""

    sessions: int
    loop: str
    certificate: Certificate | None


@dataclass(frozen=True)
class Figure:
    """Bytes per session: resident memory of the server, and of what arrived or is to be sent, how much waits."""

    memory: float
    waiting: float


def median(figures: list[Figure]) -> Figure:
    """Of each part on its own."""
    return Figure(
        statistics.median(figure.memory for figure in figures), statistics.median(figure.waiting for figure in figures)
    )


def connections_of(sessions: int) -> int:
    """How many connections are open at once to measure so many."""
    return sessions + WARM_CONNECTIONS


def measure(measurement: Measurement, kind: Kind, state: State) -> Figure:
    """A fresh server's figure. `Failed`, naming state and transport, if it does not get there."""
    sessions = min(measurement.sessions, state.most_sessions or measurement.sessions)
    try:
        command = _command(measurement, kind, state)
        with serving(command) as server, Clients(state, server.port, measurement.certificate) as clients:
            before, _ = _enter(server, clients, WARM_CONNECTIONS)
            for _ in range(state.waves_before):
                before, _ = _enter(server, clients, sessions)
            after, waiting = _enter(server, clients, sessions)
    except Failed as error:
        raise Failed(f"{state.name}, {kind.name}: {error}") from None
    return Figure((after - before) / sessions, waiting)


def _command(measurement: Measurement, kind: Kind, state: State) -> list[str]:
    path = None if measurement.certificate is None else str(measurement.certificate.path)
    options = {**state.options, "transport": kind.transport, "loop": measurement.loop, "certificate": path}
    twin = ["env", f"GAMENET_PURE={int(kind.is_pure)}"]
    return [*twin, sys.executable, str(SERVER), json.dumps(options)]


def _enter(server: Server, clients: Clients, count: int) -> tuple[int, float]:
    """The server's memory with `count` more sessions in the state, and how many bytes wait at each session."""
    clients.enter(count)
    figures = _ask(server, clients.state.totals(len(clients.open)))
    if clients.state.leaves:
        clients.leave()
        figures = _ask(server, {"sessions": 0})
    return server.resident_size, (figures["inbox"] + figures["unsent"]) / max(1, figures["sessions"])


def _ask(server: Server, totals: dict[str, int]) -> dict[str, int]:
    """The server's figures, once they reached `totals`. `Failed` if they did not in time."""
    assert server.process.stdin is not None
    assert server.process.stdout is not None
    try:
        print(json.dumps(totals), file=server.process.stdin, flush=True)
    except BrokenPipeError:
        raise Failed("the server is gone") from None
    line = server.process.stdout.readline()
    if not line:
        raise Failed("the server is gone")
    return _look(json.loads(line), totals)


def _look(figures: dict[str, int], totals: dict[str, int]) -> dict[str, int]:
    if figures["sessions"] != totals["sessions"] or any(figures[name] < totals[name] for name in totals):
        raise Failed(f"the server has {figures} and not {totals}")
    return figures
