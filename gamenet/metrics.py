"""Metrics for Prometheus: the ledger of each server, and on request the times of its handlers.

What stays true: nothing is counted twice, for the numbers are read when they are asked for; the number of label
values is bounded, whoever chooses them; a server whose handlers are not timed runs exactly as without this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from gamenet.errors import CloseReason
from gamenet.handler_times import OTHER, HandlerTimes
from gamenet.logs import escape
from gamenet.server import Server

try:
    from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "prometheus_client":
        raise
    raise ModuleNotFoundError(
        "gamenet.metrics needs prometheus-client: pip install 'gamenet[metrics]'", name="prometheus_client"
    ) from None

MAX_LABELS = 50
"""Values of one label that a program or a peer may choose, such as close reasons of your own; the rest is `other`."""
MAX_LABEL_SIZE = 100
"""Characters of a label's value."""


@dataclass(frozen=True, slots=True)
class _Family:
    """How an entry of `server.stats()` is exported. With `label` it is a dict of numbers, by that label."""

    kind: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    help: str
    label: str | None = None


_COUNTER, _GAUGE = CounterMetricFamily, GaugeMetricFamily

FAMILIES = {
    "sessions": _Family(_GAUGE, "gamenet_sessions", "Sessions that are open."),
    "seats.away": _Family(_GAUGE, "gamenet_seats_away", "Sessions kept for peers that lost their connection."),
    "seats.resumed": _Family(_COUNTER, "gamenet_seats_resumed", "Sessions that went on over another connection."),
    "seats.expired": _Family(_COUNTER, "gamenet_seats_expired", "Kept sessions whose peer did not come in time."),
    "seats.given_up": _Family(_COUNTER, "gamenet_seats_given_up", "Kept sessions that were given up for others."),
    "seats.unknown": _Family(_COUNTER, "gamenet_seats_unknown", "Peers whose session was not there any more."),
    "seats.refused": _Family(_COUNTER, "gamenet_seats_refused", "Connections that said no HELLO in time."),
    "accepted": _Family(_COUNTER, "gamenet_accepted", "Connections that became sessions."),
    "refused": _Family(_COUNTER, "gamenet_refused", "Connections that were refused, by cause.", "reason"),
    "connecting": _Family(_GAUGE, "gamenet_connecting", "TLS handshakes in progress."),
    "accept_errors": _Family(_COUNTER, "gamenet_accept_errors", "Failures to accept a connection, by name.", "error"),
    "accept_pauses": _Family(_COUNTER, "gamenet_accept_pauses", "Times that nobody was accepted: no descriptor left."),
    "accepts_delayed": _Family(_COUNTER, "gamenet_accepts_delayed", "Connections that waited for their pace."),
    "closed": _Family(_COUNTER, "gamenet_closed", "Sessions that ended, by reason.", "reason"),
    "packets_dispatched": _Family(_COUNTER, "gamenet_packets_dispatched", "Packets given to handlers."),
    "packets_discarded": _Family(_COUNTER, "gamenet_packets_discarded", "Packets that arrived for a closed session."),
    "packets_out": _Family(_COUNTER, "gamenet_packets_out", "Packets sent."),
    "rejected": _Family(_COUNTER, "gamenet_packets_rejected", "Packets refused, by cause.", "reason"),
    "dropped": _Family(_COUNTER, "gamenet_packets_dropped", "Packets left out for slow receivers.", "policy"),
    "yields": _Family(_COUNTER, "gamenet_yields", "Times that a session's packets waited for another turn."),
    "rate_waits": _Family(_COUNTER, "gamenet_rate_waits", "Times that a session waited for credit to send more."),
    "handler_errors": _Family(_COUNTER, "gamenet_handler_errors", "Handlers and hooks that raised."),
    "sends_refused": _Family(_COUNTER, "gamenet_sends_refused", "Packets sent to sessions that were closed."),
    "blocked": _Family(_COUNTER, "gamenet_blocked", "Times the event loop was held up for watchdog_timeout."),
    "mailbox.accepted": _Family(_COUNTER, "gamenet_mailbox_accepted", "Calls and sends of other threads: accepted."),
    "mailbox.delivered": _Family(_COUNTER, "gamenet_mailbox_delivered", "The same: carried out."),
    "mailbox.discarded": _Family(_COUNTER, "gamenet_mailbox_discarded", "The same: server or session ended before."),
    "mailbox.refused": _Family(_COUNTER, "gamenet_mailbox_refused", "The same: not accepted, too many waited."),
    "mailbox.waiting": _Family(_GAUGE, "gamenet_mailbox_waiting", "The same: accepted, and not carried out yet."),
    "bytes_in": _Family(_COUNTER, "gamenet_bytes_in", "Bytes received."),
    "bytes_dispatched": _Family(_COUNTER, "gamenet_bytes_dispatched", "Bytes of packets given to handlers."),
    "bytes_rejected": _Family(_COUNTER, "gamenet_bytes_rejected", "Bytes of packets that were refused."),
    "bytes_discarded": _Family(_COUNTER, "gamenet_bytes_discarded", "Bytes that arrived for closed sessions."),
    "bytes_buffered": _Family(_GAUGE, "gamenet_bytes_buffered", "Bytes received that wait: parts of packets."),
    "bytes_out": _Family(_COUNTER, "gamenet_bytes_out", "Bytes given to the transports."),
    "pool.outstanding": _Family(_GAUGE, "gamenet_pool_blocks_outstanding", "Blocks of the pool in use."),
    "pool.viewed": _Family(_GAUGE, "gamenet_pool_blocks_viewed", "Blocks of the pool that a view shows."),
    "pool.free": _Family(_GAUGE, "gamenet_pool_blocks_free", "Blocks the pool keeps for later."),
    "pool.waiting": _Family(_GAUGE, "gamenet_pool_waiting", "Requests that wait for a block."),
    "pool.fallbacks": _Family(_COUNTER, "gamenet_pool_fallbacks", "Blocks taken from the heap: the pool was empty."),
    "pool.refused": _Family(_COUNTER, "gamenet_pool_refused", "Blocks refused: the pool was empty."),
}
"""Entries of `server.stats()`, dicts in it as `outer.inner` or by a label. One that is not here is a gauge under its
own name."""


class Export:
    """A server whose figures are exported, until `close()`; made by `export()`."""

    def __init__(self, server: Server, name: str, handlers: bool, registry: CollectorRegistry) -> None:
        self.server = server
        self.name = name
        self.times = HandlerTimes() if handlers else None
        self._collector = _collector_of(registry)
        self._collector.add(self)
        if self.times is not None:
            try:
                server.dispatch.wrap_handlers(self.times.wrap)
            except BaseException:
                self._collector.remove(self)
                raise

    def close(self) -> None:
        """Export the server no longer, and time its handlers no longer. Closing twice does nothing."""
        if self._collector.remove(self) and self.times is not None:
            self.server.dispatch.wrap_handlers(None)


def export(
    server: Server, *, name: str = "server", handlers: bool = False, registry: CollectorRegistry = REGISTRY
) -> Export:
    """Have `registry` collect the figures of `server.stats()`, with `name` as the label `server` of each.

    With `handlers` each handler, those registered later too, is called through a function that takes its times:
    how long it kept the event loop, and how long until it was done. Call it in the thread of the server's loop.
    `ValueError` if the name is in use, `RuntimeError` if the server's handlers are timed already.
    """
    return Export(server, name, handlers, registry)


@contextmanager
def serving(port: int, host: str = "127.0.0.1", registry: CollectorRegistry = REGISTRY) -> Iterator[int]:
    """Answer Prometheus on `http://host:port/metrics` while this lasts, in a thread; gives the port (0: a free one).

    `OSError` if the address cannot be had.
    """
    httpd, thread = start_http_server(port, addr=host, registry=registry)
    try:
        yield httpd.server_port
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


# -- collecting


class _ServersCollector(Collector):
    """Everything exported to one registry: a family of metrics may stand there once only."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._exports: dict[str, Export] = {}

    def add(self, export: Export) -> None:
        if export.name in self._exports:
            raise ValueError(f"a server named {export.name!r} is exported already; give each a name of its own")
        if not self._exports:
            self._registry.register(self)
        self._exports[export.name] = export

    def remove(self, export: Export) -> bool:
        if self._exports.get(export.name) is not export:
            return False
        del self._exports[export.name]
        if not self._exports:
            self._registry.unregister(self)
        return True

    def describe(self) -> Iterable[Metric]:
        return ()  # which ones there are depends on the servers

    def collect(self) -> Iterable[Metric]:
        exports = list(self._exports.values())
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for exported in exports:
            for family, label, value in _samples(exported.server.stats()):
                names = ["server"] if family.label is None else ["server", family.label]
                metric = families.setdefault(family.name, family.kind(family.name, family.help, labels=names))
                metric.add_metric([exported.name] if label is None else [exported.name, label], value)
        return [*families.values(), *_handler_families(exports)]


_collectors: WeakKeyDictionary[CollectorRegistry, _ServersCollector] = WeakKeyDictionary()


def _collector_of(registry: CollectorRegistry) -> _ServersCollector:
    if registry not in _collectors:
        _collectors[registry] = _ServersCollector(registry)
    return _collectors[registry]


def _samples(stats: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[_Family, str | None, float]]:
    """(family, value of its label, number) for every number in `stats`, also in dicts in it."""
    for key, value in stats.items():
        path = prefix + key
        family = FAMILIES.get(path)
        if isinstance(value, Mapping):
            if family is None:
                yield from _samples(value, path + ".")
            else:
                for label, number in bounded_labels(value).items():
                    yield family, label, number
        elif isinstance(value, (int, float)):
            yield family or _undescribed(path), None, value


def _undescribed(path: str) -> _Family:
    return _Family(_GAUGE, "gamenet_" + re.sub(r"\W", "_", path), f"{path} of server.stats().")


def bounded_labels(numbers: Mapping[str, float]) -> dict[str, float]:
    """At most `MAX_LABELS` entries beside our own reasons, in the order they came up; the rest is summed as `other`.
    Entries stay where they are as others come, so that no counter ever falls.
    """
    bounded: dict[str, float] = {}
    own = 0
    for key, number in numbers.items():
        label = escape(key)[:MAX_LABEL_SIZE]
        if label not in bounded and label not in _OUR_REASONS:
            own += 1
            if own > MAX_LABELS:
                label = OTHER
        bounded[label] = bounded.get(label, 0) + number
    return bounded


_OUR_REASONS = {str(reason) for reason in CloseReason}


def _handler_families(exports: Iterable[Export]) -> list[Metric]:
    timed = [export for export in exports if export.times is not None]
    if not timed:
        return []
    labels = ["server", "packet_id"]
    loop = HistogramMetricFamily(
        "gamenet_handler_loop_seconds", "Time for which a call of a handler kept the event loop.", labels=labels
    )
    duration = HistogramMetricFamily(
        "gamenet_handler_duration_seconds", "Time from the call of a handler until it was done.", labels=labels
    )
    packets = CounterMetricFamily("gamenet_handler_packets", "Packets whose handlers are done.", labels=labels)
    failures = CounterMetricFamily("gamenet_handler_failures", "Calls of handlers that raised.", labels=labels)
    for export in timed:
        assert export.times is not None
        for label, times in export.times.items():
            values = [export.name, label]
            on_loop, until_done = times.at_once.plus(times.on_loop), times.at_once.plus(times.until_done)
            loop.add_metric(values, on_loop.buckets(), on_loop.sum)
            duration.add_metric(values, until_done.buckets(), until_done.sum)
            packets.add_metric(values, on_loop.count - times.batches + times.batched)
            failures.add_metric(values, times.failures)
    return [loop, duration, packets, failures]
