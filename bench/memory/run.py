"""`python -m bench memory`: what can be measured here, then measure and print."""

import importlib.util
import sys
import tempfile
from pathlib import Path

from bench.memory.clients import Certificate, NoCertificate
from bench.memory.kinds import KINDS, Kind
from bench.memory.measure import Measurement, connections_of, measure, median
from bench.memory.report import Table, print_table
from bench.memory.states import STATES, State
from bench.net.processes import SPARE_FILES, Failed, ended_in_order, raise_file_limit
from bench.net.progress import progress


def main(
    sessions: int, rounds: int, loop: str, state_names: list[str] | None, kind_names: list[str] | None
) -> None:
    """Measure and print; exits with a line if this machine cannot, or a server does not get into a state."""
    try:
        with ended_in_order(), tempfile.TemporaryDirectory(prefix="gamenet-bench-") as folder:
            _require_files(sessions)
            certificate = _certificate(Path(folder))
            states = [state for state in STATES if not state_names or state.name in state_names]
            states = [state for state in states if certificate or not state.tls]
            kinds = [kind for kind in KINDS if not kind_names or kind.name in kind_names]
            measurement = Measurement(sessions, _loop(loop), certificate)
            table = _measure(measurement, states, [kind for kind in kinds if _is_there(kind)], rounds)
    except Failed as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nstopped before the end: no table")
    print_table(table, measurement, rounds)


def _measure(measurement: Measurement, states: list[State], kinds: list[Kind], rounds: int) -> Table:
    plan = {state: [kind for kind in kinds if kind.can(state)] for state in states}
    if not any(plan.values()):
        raise Failed("nothing left to measure")
    table: Table = {}
    with progress(rounds * sum(map(len, plan.values()))) as step:
        for state, able in plan.items():
            for kind in able:
                figures = []
                for number in range(rounds):
                    step(f"{state.name}: {kind.name}, round {number + 1}")
                    figures.append(measure(measurement, kind, state))
                table.setdefault(state, {})[kind] = median(figures)
    return table


def _require_files(sessions: int) -> None:
    files, needed = raise_file_limit(), connections_of(sessions) + SPARE_FILES
    if needed > files:
        raise Failed(
            f"{sessions:,} sessions need {needed:,} open files, this system allows {files:,}: "
            "ask for fewer with --sessions, or raise the hard limit (ulimit -Hn, limits.conf)"
        )


def _certificate(folder: Path) -> Certificate | None:
    try:
        return Certificate(folder)
    except NoCertificate as reason:
        print(f"left out: TLS ({reason})")
        return None


def _is_there(kind: Kind) -> bool:
    if kind.transport == "fast" and not importlib.util.find_spec("aiofastnet"):
        print(f"left out: {kind.name} (aiofastnet is not installed)")
        return False
    return True


def _loop(name: str) -> str:
    if name != "asyncio" and not importlib.util.find_spec(name):
        print(f"{name} is not installed: on asyncio's own loop")
        return "asyncio"
    return name
