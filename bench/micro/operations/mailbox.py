"""What a thread hands over to another one: the cost of an item, beside the queues that one would take instead."""

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from types import ModuleType

from bench.micro.workload import Run, Workload, Yardstick, kept

ITEMS = 1000
BATCH = 250


def hand_over(twin: ModuleType, keep: Callable[..., object] = len) -> Run:
    """`put()` of an item, over and over, then `take()` of all in batches."""
    mailbox = twin.Mailbox(lambda: None)
    put, take = mailbox.put, mailbox.take

    def run() -> object:
        for item in range(ITEMS):
            put(item)
        taken: list[int] = []
        while batch := take(BATCH):
            taken += batch
        return keep(taken)

    return run


def simple_queue(keep: Callable[..., object] = len) -> Run:
    """`queue.SimpleQueue`: unbounded, its taker waits in a thread of its own and takes one at a time."""
    queue: SimpleQueue[int] = SimpleQueue()
    put, get = queue.put, queue.get

    def run() -> object:
        for item in range(ITEMS):
            put(item)
        return keep([get() for _ in range(ITEMS)])

    return run


def plain_deque(keep: Callable[..., object] = len) -> Run:
    """`collections.deque`: unbounded, wakes nobody, counts nothing, never closes."""
    items: deque[int] = deque()
    append, popleft = items.append, items.popleft

    def run() -> object:
        for item in range(ITEMS):
            append(item)
        return keep([popleft() for _ in range(ITEMS)])

    return run


WORKLOADS = [
    Workload(
        "hand_over", "Mailbox: put, and take in batches", "item", ITEMS, hand_over, kept(hand_over),
        (
            Yardstick("queue.SimpleQueue", simple_queue, kept(simple_queue)),
            Yardstick("collections.deque", plain_deque, kept(plain_deque)),
        ),
    ),
]
