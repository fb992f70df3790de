"""The ledger's counters, read as `server.stats()` reads them. What counting costs is part of every stream workload."""

from collections.abc import Callable
from itertools import repeat
from operator import attrgetter
from types import ModuleType

from bench.micro.twins import twin
from bench.micro.workload import Run, Workload, drop, kept

TIMES = 1000
COUNTERS = twin("pure").Ledger.__slots__


def read(twin: ModuleType, take: Callable[..., object] = drop) -> Run:
    """All counters, `TIMES` times."""
    ledger, counters = twin.Ledger(), attrgetter(*COUNTERS)
    return lambda: take(map(counters, repeat(ledger, TIMES)))


WORKLOADS = [
    Workload("read_ledger", "every counter of the Ledger", "counter", TIMES * len(COUNTERS), read, kept(read)),
]
