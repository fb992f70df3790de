"""What another thread's call costs the loop's: put, taken and made."""

import math
import time
from collections import deque
from collections.abc import Callable
from types import ModuleType

from bench.micro.workload import Run, Workload, Yardstick, kept

CALLS = 1000


def carry_out(twin: ModuleType, keep: Callable[..., object] = len) -> Run:
    """`put()` of a call, over and over, then a turn that makes them all."""
    mailbox = twin.Mailbox(lambda: None)
    runner = twin.CallRunner(mailbox, time.perf_counter, math.inf, print)
    put, run_calls = mailbox.put, runner.run

    def run() -> object:
        done: list[int] = []
        call = done.append
        for item in range(CALLS):
            put((call, (item,)))
        run_calls()
        return keep(done)

    return run


def plain_calls(keep: Callable[..., object] = len) -> Run:
    """The same calls from a `collections.deque`, in a loop of Python."""
    calls: deque[tuple[Callable[[int], None], tuple[int]]] = deque()
    put, take = calls.append, calls.popleft

    def run() -> object:
        done: list[int] = []
        call = done.append
        for item in range(CALLS):
            put((call, (item,)))
        while calls:
            function, arguments = take()
            function(*arguments)
        return keep(done)

    return run


WORKLOADS = [
    Workload(
        "carry_out", "CallRunner: put a call, and make it", "call", CALLS, carry_out, kept(carry_out),
        (Yardstick("collections.deque and a loop", plain_calls, kept(plain_calls)),),
    ),
]
