"""The demo's live line: players, packets a second, round trips.

What stays true: in a terminal one line is drawn anew each second, and log lines appear above it; elsewhere plain
lines are written, less often. Figures are differences of two ledgers, by the time that lies between them.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gamenet.demo.fleet import Report

TERMINAL_INTERVAL = 1.0
PLAIN_INTERVAL = 5.0
"""Seconds between two lines where each is kept, as in a file."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the line is made of. `now` is in seconds, the packets are counts since the server was made."""

    now: float
    players: int
    packets_in: int
    packets_out: int

    @classmethod
    def of(cls, now: float, players: int, stats: dict[str, Any]) -> Figures:
        """The figures of `Server.stats()`."""
        return cls(now, players, stats["packets_dispatched"], stats["packets_out"])

    def line(self, before: Figures, report: Report | None) -> str:
        """The line for the time since `before`; `report` is that of the bots, if there are any."""
        seconds = max(self.now - before.now, 0.001)
        packets_in = (self.packets_in - before.packets_in) / seconds
        packets_out = (self.packets_out - before.packets_out) / seconds
        line = f"players {self.players:<4}  packets/s in {packets_in:>7,.0f}  out {packets_out:>9,.0f}"
        return line if report is None else f"{line}  {_bots(report)}"


def _bots(report: Report) -> str:
    p99 = "-" if report.p99 is None else f"{report.p99 * 1000:.1f} ms"
    ended = f", {report.ended} ended" if report.ended else ""
    return f"round trip p99 {p99:>8}  bots {report.playing} of {report.bots}{ended}"


async def show(figures: Callable[[], Figures], report: Callable[[], Report | None]) -> None:
    """Show the line again and again, until cancelled."""
    console = Console()
    if not console.is_interactive:
        return await _repeat(PLAIN_INTERVAL, figures, report, _print_plain)
    # stderr is drawn above the line if it is the same screen; a file it was sent to keeps what belongs there
    with Live(console=console, auto_refresh=False, redirect_stderr=sys.stderr.isatty()) as live:
        await _repeat(TERMINAL_INTERVAL, figures, report, lambda line: live.update(_one_row(line), refresh=True))


async def _repeat(
    seconds: float, figures: Callable[[], Figures], report: Callable[[], Report | None], put: Callable[[str], None]
) -> None:
    before, wait = figures(), min(seconds, TERMINAL_INTERVAL)  # the first line comes soon, to see that it works
    while True:
        await asyncio.sleep(wait)
        now = figures()
        put(now.line(before, report()))
        before, wait = now, seconds


def _one_row(line: str) -> Text:
    return Text(line, no_wrap=True, overflow="ellipsis")


def _print_plain(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
