"""`python -m bench net`: which peers and modes can be had here, then measure, print, draw."""

import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError

from bench.cc import NoCompiler, build
from bench.chart import NoMatplotlib, require_matplotlib
from bench.net.measure import Commands, Result, measure_idle, measure_talk
from bench.net.modes import MODES, Mode
from bench.net.peer import BASELINES, PEERS, LeftOut, Peer
from bench.net.plot import plot
from bench.net.processes import SPARE_FILES, Failed, cores, ended_in_order, raise_file_limit
from bench.net.progress import progress
from bench.net.report import print_result, print_summary


def main(
    rounds: int, seconds: float, mode_names: list[str] | None, peer_names: list[str] | None, plot_path: Path | None
) -> None:
    """Measure and print; exits with a line if this machine cannot, or a server answers wrongly."""
    try:
        if plot_path is not None:
            require_matplotlib()
        with ended_in_order():
            results = _measure(rounds, seconds, mode_names, peer_names)
    except (NoCompiler, CalledProcessError, NoMatplotlib, Failed) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nstopped before the end: no table")
    for result in results:
        print_result(result)
    print_summary(results)
    if plot_path is not None:
        plot(results, plot_path)
        print(f"\ndrawn: {plot_path}")


def _measure(
    rounds: int, seconds: float, mode_names: list[str] | None, peer_names: list[str] | None
) -> list[Result]:
    generator = build(Path(__file__).with_name("loadgen.c"))
    modes = list(_runnable_modes(mode_names))
    commands = dict(_runnable_peers(peer_names))
    if not modes or not commands:
        raise Failed("nothing left to measure")
    if len(set(cores())) == 1:
        print("there is one core only: server and generator share it, and the figures say little")
    plan = {mode: _able(mode, commands) for mode in modes}
    steps = sum(len(able) * (1 if mode.kind == "idle" else 1 + rounds) for mode, able in plan.items())
    with progress(steps) as step:
        return [
            measure_idle(generator, mode, able, step)
            if mode.kind == "idle"
            else measure_talk(generator, mode, able, rounds, seconds, step)
            for mode, able in plan.items()
        ]


def _able(mode: Mode, commands: Commands) -> Commands:
    """Those that can do `mode`; says who cannot."""
    for peer in commands:
        if not peer.supports(mode):
            print(f"left out of {mode.name}: {peer.name} (it has no such mode)")
    return {peer: command for peer, command in commands.items() if peer.supports(mode)}


def _runnable_modes(names: list[str] | None) -> Iterator[Mode]:
    files = raise_file_limit()
    for mode in MODES:
        needed = mode.connections + SPARE_FILES
        if names and mode.name not in names:
            continue
        if needed > files:
            print(f"left out: {mode.name} (it needs {needed:,} open files, this system allows {files:,})")
        else:
            yield mode


def _runnable_peers(names: list[str] | None) -> Iterator[tuple[Peer, list[str]]]:
    has_baseline = False
    for peer in PEERS:
        is_baseline = peer.name in BASELINES and not has_baseline
        if names and peer.name not in names and not is_baseline:
            continue
        try:
            yield peer, peer.command()
            has_baseline |= is_baseline
        except LeftOut as reason:
            print(f"left out: {peer.name} ({reason})")
