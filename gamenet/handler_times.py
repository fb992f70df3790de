"""How long the handlers of a server take, by packet id: histograms that a wrapper around each handler fills.

What stays true: without a wrapper nothing is measured and nothing costs anything; the number of ids is bounded.
"""

from __future__ import annotations

import inspect
import types
from bisect import bisect_left
from collections.abc import Coroutine, Generator
from functools import wraps
from itertools import accumulate
from time import perf_counter
from typing import Any

from gamenet._core import Route
from gamenet.dispatch import Handler

MAX_PACKET_IDS = 1000
"""Packet ids that are timed apart; those registered later are `other`."""
BUCKETS = (1e-05, 5e-05, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
"""Upper bounds of the histograms, in seconds: from a move to what a watchdog reports."""
OTHER = "other"
"""The label of what is not counted apart: ids beyond `MAX_PACKET_IDS`, and those the default handler takes."""


class HandlerTimes:
    """The times of the handlers of one server, by packet id."""

    def __init__(self) -> None:
        self._by_label: dict[str, Times] = {}

    def wrap(self, packet_id: int | None, route: Route) -> Handler:
        """What is called in place of the route's handler; see `DispatchTable.wrap_handlers`."""
        times = self._times_of(OTHER if packet_id is None else str(packet_id))
        handler = route.handler
        if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004
            return _timed_coroutine(handler, times, route.is_batch)
        return _timed_function(handler, times, route.is_batch)

    def items(self) -> list[tuple[str, Times]]:
        """The times by the label `packet_id`."""
        return list(self._by_label.items())

    def _times_of(self, label: str) -> Times:
        if label not in self._by_label and len(self._by_label) >= MAX_PACKET_IDS:
            label = OTHER
        return self._by_label.setdefault(label, Times())


class Histogram:
    """How many times lay between two bounds, and their sum, in seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def plus(self, other: Histogram) -> Histogram:
        both = Histogram()
        both.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        both.sum = self.sum + other.sum
        return both

    @property
    def count(self) -> int:
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has them: how many up to each bound."""
        return list(zip([*map(str, BUCKETS), "+Inf"], accumulate(self.counts), strict=True))


class Times:
    """What is known of one packet id's handlers. A function's time is both of the exported ones, and stored once."""

    __slots__ = ("at_once", "batched", "batches", "failures", "on_loop", "until_done")

    def __init__(self) -> None:
        self.at_once = Histogram()
        self.on_loop = Histogram()
        self.until_done = Histogram()
        self.failures = 0
        self.batches = 0  # calls of batch handlers, and the packets in them
        self.batched = 0


def _timed_function(handler: Handler, times: Times, is_batch: bool) -> Handler:
    observe = times.at_once.observe

    @wraps(handler)
    def timed(session: Any, packet: Any) -> Any:
        started = perf_counter()
        try:
            result = handler(session, packet)
        except BaseException as error:
            observe(perf_counter() - started)
            times.failures += isinstance(error, Exception)
            raise
        finally:
            if is_batch:
                times.batches += 1
                times.batched += len(packet)
        if result is not None and result is not True and inspect.isawaitable(result):
            coroutine = result if inspect.iscoroutine(result) else _awaiting(result)
            return _finish(coroutine, times, started, perf_counter() - started)
        observe(perf_counter() - started)
        return result

    return timed


def _timed_coroutine(handler: Handler, times: Times, is_batch: bool) -> Handler:
    @wraps(handler)
    async def timed(session: Any, packet: Any) -> Any:
        if is_batch:
            times.batches += 1
            times.batched += len(packet)
        return await _stepped(handler(session, packet), times, perf_counter())

    return timed


async def _awaiting(awaitable: Any) -> Any:
    return await awaitable


async def _finish(coroutine: Coroutine[Any, Any, Any], times: Times, started: float, on_loop: float) -> Any:
    return await _stepped(coroutine, times, started, on_loop)


@types.coroutine
def _stepped(
    coroutine: Coroutine[Any, Any, Any], times: Times, started: float, on_loop: float = 0.0
) -> Generator[Any, Any, Any]:
    """Await `coroutine`, and take the time of each of its steps."""
    step, value = coroutine.send, None
    try:
        while True:
            resumed = perf_counter()
            try:
                waits_for = step(value)
            except StopIteration as stop:
                return stop.value
            finally:
                on_loop += perf_counter() - resumed
            try:
                step, value = coroutine.send, (yield waits_for)
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as thrown:
                step, value = coroutine.throw, thrown
    except Exception:
        times.failures += 1
        raise
    finally:
        times.on_loop.observe(on_loop)
        times.until_done.observe(perf_counter() - started)
