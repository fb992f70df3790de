"""The token bucket of a session whose rate is limited."""

from collections.abc import Callable
from types import ModuleType

from bench.micro.traffic import PACKET_SIZE
from bench.micro.workload import Run, Workload, drop, kept

TIMES = 1000


def take(twin: ModuleType, keep: Callable[..., object] = drop) -> Run:
    """`RateBucket.refill()` and `take()`, as for a packet; the credit after each."""
    bucket = twin.RateBucket(1000.0, 100_000.0)
    times = [number / 1024 for number in range(TIMES)]

    def pay(now: float) -> float:
        bucket.refill(now)
        bucket.take(1.0, PACKET_SIZE)
        return float(bucket.credit)

    return lambda: keep(map(pay, times))


WORKLOADS = [Workload("take_credit", "RateBucket: refill and take", "packet", TIMES, take, kept(take))]
