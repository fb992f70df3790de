"""Objects: lent and given back, beside made anew. A pool pays where making is dear, and costs where it is cheap.

What stays true: an object that was lent is as new; what it holds is compared, field by field, before anything is timed.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from bench.micro.twins import package
from bench.micro.workload import Run, Workload, Yardstick

OBJECTS = 500
SIDE = 64


class Plain:
    """Six fields, as the demo's player."""

    __slots__ = ("hit_points", "id", "may_attack_at", "name", "x", "y")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.id = 0
        self.name = ""
        self.x = self.y = self.may_attack_at = 0.0
        self.hit_points = 100

    def fields(self) -> list[Any]:
        return [getattr(self, name) for name in self.__slots__]


class Explorer:
    """What a player has seen of a map of 64 x 64 fields: a list for each row."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen = [[0] * SIDE for _ in range(SIDE)]

    def reset(self) -> None:
        for row in self.seen:
            row[:] = _UNSEEN

    def fields(self) -> list[Any]:
        return self.seen


_UNSEEN = [0] * SIDE


class Tracker(Explorer):
    """The same, but its reset undoes what was done and touches nothing else."""

    __slots__ = ("visited",)

    def __init__(self) -> None:
        super().__init__()
        self.visited: list[tuple[int, int]] = []

    def see(self, x: int, y: int) -> None:
        self.seen[y][x] = 1
        self.visited.append((x, y))

    def reset(self) -> None:
        for x, y in self.visited:
            self.seen[y][x] = 0
        self.visited.clear()

    def fields(self) -> list[Any]:
        return [*self.seen, self.visited]


def lend(kind: Any) -> Callable[[ModuleType], Run]:
    def make(twin: ModuleType) -> Run:
        acquire = package(twin).ObjectPool(kind).acquire

        def run() -> None:
            for _ in range(OBJECTS):
                acquire().release()

        return run

    return make


def use(thing: Any) -> None:
    """Leave something behind in it."""
    if isinstance(thing, Tracker):
        thing.see(3, 4)
    elif isinstance(thing, Explorer):
        thing.seen[4][3] = 1
    else:
        thing.name, thing.hit_points = "somebody", 7


def lent(kind: Any) -> Callable[[ModuleType], object]:
    """What the second holder sees."""

    def output(twin: ModuleType) -> object:
        pool = package(twin).ObjectPool(kind)
        with pool.acquire() as first:
            use(first)
        with pool.acquire() as used:
            return used.fields()

    return output


def make_anew(kind: Any) -> Run:
    def run() -> None:
        for _ in range(OBJECTS):
            kind()

    return run


def workload(name: str, title: str, kind: Any) -> Workload:
    return Workload(
        name, f"ObjectPool: {title} lent and given back", "object", OBJECTS, lend(kind), lent(kind),
        beside=(Yardstick("made anew", lambda: make_anew(kind), lambda: kind().fields()),),
    )


WORKLOADS = [
    workload("lend_plain_object", "a player of six fields", Plain),
    workload("lend_large_object", "a list of 64 lists, all of it reset,", Explorer),
    workload("lend_tracked_object", "the same, what was done undone,", Tracker),
]
