"""The micro benchmarks as a picture: times on the left, ratios with their ranges on the right."""

import importlib.util
from pathlib import Path
from typing import Any

from bench.results import COMPILED, PURE, Row, figures

COLOURS = {COMPILED: "tab:blue", PURE: "tab:gray"}
BESIDE = "tab:orange"  # whatever is neither twin
GAP = 0.6  # between two workloads, in bars


class NoMatplotlib(Exception):
    """Why no chart can be drawn, and what to do."""


def require_matplotlib() -> None:
    """`NoMatplotlib` if it is not installed: to be asked before minutes are spent on measuring."""
    if importlib.util.find_spec("matplotlib") is None:
        raise NoMatplotlib("--plot needs matplotlib, which is not installed: pip install matplotlib")


def draw(rows: list[Row], path: Path) -> None:
    """Write a picture of the kind that the suffix of `path` names."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    height = sum(len(row.ns) + GAP for row in rows)
    figure, (times, ratios) = pyplot.subplots(
        1, 2, figsize=(12, 1 + 0.17 * height), sharey=True, layout="constrained"
    )
    place, ticks = 0.0, {}
    for row in rows:
        for contender in row.ns:
            _draw_bar(times, ratios, row, contender, place)
            ticks[place] = f"{row.name}: {contender}" if contender == next(iter(row.ns)) else contender
            place += 1
        place += GAP
    times.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    times.set_ylim(height, -1)
    _name_axes(times, ratios)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw_bar(times: Any, ratios: Any, row: Row, contender: str, place: float) -> None:
    colour = COLOURS.get(contender, BESIDE)
    times.barh(place, row.ns[contender], color=colour)
    times.annotate(f" {figures(row.ns[contender])}", (row.ns[contender], place), va="center", fontsize=7)
    ratio = row.ratios.get(contender)
    if ratio is not None:
        spread = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
        ratios.errorbar(ratio.median, place, xerr=spread, fmt="o", color=colour, capsize=2, markersize=4)
        ratios.annotate(f"  {figures(ratio.median)}", (ratio.high, place), va="center", fontsize=7)


def _name_axes(times: Any, ratios: Any) -> None:
    times.set_xscale("log")
    times.set_xlabel("ns per packet (or what else is counted)")
    ratios.set_xscale("log")
    ratios.set_xlabel(f"time / {COMPILED}: median and range; right of 1, {COMPILED} is faster")
    ratios.axvline(1, color=COLOURS[COMPILED], linewidth=1)
    for panel in (times, ratios):
        panel.margins(x=0.1)  # room for the figures
        panel.grid(axis="x", linewidth=0.3)
        panel.set_axisbelow(True)
    times.set_xlim(left=1)  # a bar's length means something only from 1 ns on
