"""`python -m bench micro`: the contenders of every workload in turn, then the tables and the chart."""

import sys
from pathlib import Path
from subprocess import CalledProcessError

from bench.cc import NoCompiler
from bench.chart import NoMatplotlib, require_matplotlib
from bench.micro.workload import Run, UnequalOutput, Workload
from bench.micro.workloads import WORKLOADS
from bench.net.progress import progress
from bench.report import write
from bench.results import Row, row_of
from bench.timing import CoreTime, alternate

MAX_LOST = 0.03
"""The share of the time that other programs may take before the run says so; a quiet machine takes under 1 %."""


def main(rounds: int, names: list[str] | None, table: Path | None, plot: Path | None) -> None:
    """Measure and print; exits with a line if a chart cannot be drawn, or outputs differ."""
    chosen = [workload for workload in WORKLOADS if names is None or workload.name in names]
    try:
        if plot is not None:
            require_matplotlib()
        with progress(len(chosen)) as step:
            rows, core_time = [], CoreTime()
            for workload in chosen:
                step(workload.name)
                rows.append(_measure(workload, rounds, core_time))
        write(rows, _about(rounds, core_time), table, plot)
    except (NoMatplotlib, UnequalOutput, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nstopped before the end: no table")


def _about(rounds: int, core_time: CoreTime) -> str:
    about = f"{rounds} rounds, each contender once in every one; ranges are those of the rounds."
    if core_time.lost > MAX_LOST:
        about += f"\nOther programs took {core_time.lost:.0%} of the time: measure again on a quieter machine."
    return about


def _measure(workload: Workload, rounds: int, core_time: CoreTime) -> Row:
    workload.require_equal_output()
    contenders: dict[str, Run] = {}
    for name, make in workload.contenders.items():
        try:
            contenders[name] = make()
        except (NoCompiler, CalledProcessError) as error:
            print(f"left out of {workload.name}: {name} ({error})")
    with core_time.measuring():
        measured = alternate(contenders, rounds)
    return row_of(workload.name, workload.title, workload.unit, workload.count, measured)
