"""The turns that the sessions of a loop share: what a look at the clock costs, which comes once in many packets."""

from collections.abc import Callable
from itertools import repeat
from types import ModuleType

from bench.micro.workload import Run, Workload, drop, kept

TIMES = 1000


def look(twin: ModuleType, keep: Callable[..., object] = drop) -> Run:
    """`TurnQueue.look()`, by a clock that stands."""
    turns = twin.TurnQueue(lambda callback: None, lambda: 1.0)
    return lambda: keep(map(turns.look, repeat(0.5, TIMES)))


WORKLOADS = [Workload("look_at_clock", "TurnQueue.look(), without its clock", "look", TIMES, look, kept(look))]
