"""Metrics: what Prometheus reads of a server, by a real scrape."""

import asyncio
import importlib
import sys
import urllib.request
from functools import partial

import pytest
from wire import echo_server, read_packet, wire

prometheus_client = pytest.importorskip("prometheus_client")
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from gamenet import metrics  # noqa: E402  # the same for both twins: it only reads what servers count
from gamenet.handler_times import MAX_PACKET_IDS, HandlerTimes  # noqa: E402


@pytest.fixture
def registry():
    return prometheus_client.CollectorRegistry()


def parsed(text):
    """{(sample name, label values but the server's): value}, and {family: type}."""
    samples, types = {}, {}
    for family in text_string_to_metric_families(text):
        types[family.name] = family.type
        assert family.documentation
        for sample in family.samples:
            labels = {**sample.labels}
            key = (sample.name, labels.pop("server"), *sorted(labels.values()))
            assert key not in samples
            samples[key] = sample.value
    return samples, types


def read(registry):
    return parsed(prometheus_client.generate_latest(registry).decode())


async def scrape(registry):
    """Over HTTP, as Prometheus does."""
    with metrics.serving(0, registry=registry) as port:
        answer = await asyncio.to_thread(fetch, port)
    with pytest.raises(OSError):
        fetch(port)
    return parsed(answer.decode())


def fetch(port):
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read()


async def test_a_scrape_shows_the_ledger(net, registry, until):
    server = await echo_server(net)
    server.on(2)(lambda session, packet: 1 / 0)
    server.on(3)(lambda session, packet: session.close(packet.body.decode()))
    exported = metrics.export(server, name="lobby", registry=registry)
    reader, writer = await net.open(server)
    writer.write(wire(1, b"x") * 3 + wire(2) + wire(9) + wire(1))
    for _ in range(4):
        await read_packet(reader)
    samples, types = await scrape(registry)
    assert samples["gamenet_sessions", "lobby"] == 1
    assert samples["gamenet_packets_dispatched_total", "lobby"] == 5
    assert samples["gamenet_packets_rejected_total", "lobby", "unknown"] == 1
    assert samples["gamenet_handler_errors_total", "lobby"] == 1
    assert samples["gamenet_bytes_in_total", "lobby"] == 3 * 9 + 3 * 8
    assert (types["gamenet_sessions"], types["gamenet_bytes_in"]) == ("gauge", "counter")
    assert not [name for name in types if name.startswith("gamenet_handler_") and name != "gamenet_handler_errors"]
    writer.write(wire(3, b"banned"))
    await until(lambda: len(server.sessions) == 0)
    samples, _ = await scrape(registry)
    assert samples["gamenet_closed_total", "lobby", "banned"] == 1
    assert samples["gamenet_sessions", "lobby"] == 0
    exported.close()
    exported.close()
    assert read(registry) == ({}, {})


def test_every_entry_of_the_ledger_is_exported_and_described(gamenet, registry):
    """A new entry of `stats()` needs a line in `gamenet.metrics.FAMILIES`: a name, a kind and a help text."""
    server = gamenet.Server(resume=True)
    metrics.export(server, registry=registry)
    distinct = {}

    def marked(stats, path=""):
        for key, value in stats.items():
            if isinstance(value, dict):
                marked(value, f"{path}{key}.")
            else:
                distinct[f"{path}{key}"] = stats[key] = 1000 + len(distinct)
        return stats

    stats = server.stats()
    stats["refused"]["server_full"] = stats["closed"]["peer_closed"] = 0
    stats = marked(stats)
    server.stats = lambda: stats
    samples, _ = read(registry)
    missing = {path for path, value in distinct.items() if value not in samples.values()}
    assert missing == set()
    undescribed = {
        path for path in distinct if path not in metrics.FAMILIES and path.rpartition(".")[0] not in metrics.FAMILIES
    }
    assert undescribed == set(), "add them to gamenet.metrics.FAMILIES"
    names = [family.name for family in metrics.FAMILIES.values()]
    assert len(set(names)) == len(names)


def test_an_entry_nobody_described_is_exported_too(gamenet, registry):
    server = gamenet.Server()
    stats = {**server.stats(), "brand new": 3, "outer": {"inner": {"deep": 4}, "text": "no number"}}
    server.stats = lambda: stats
    metrics.export(server, registry=registry)
    samples, types = read(registry)
    assert samples["gamenet_brand_new", "server"] == 3
    assert samples["gamenet_outer_inner_deep", "server"] == 4
    assert types["gamenet_brand_new"] == "gauge"


async def test_several_servers_are_told_apart(net, registry):
    lobby, match = await echo_server(net), await echo_server(net)
    exported = metrics.export(lobby, name="lobby", registry=registry)
    metrics.export(match, name="match", handlers=True, registry=registry)
    with pytest.raises(ValueError, match="a server named 'lobby' is exported already"):
        metrics.export(match, name="lobby", registry=registry)
    with pytest.raises(RuntimeError, match="the handlers are wrapped already"):
        metrics.export(match, name="another", handlers=True, registry=registry)
    await net.open(lobby)
    while not len(lobby.sessions):
        await asyncio.sleep(0.001)
    samples, _ = read(registry)
    assert (samples["gamenet_sessions", "lobby"], samples["gamenet_sessions", "match"]) == (1, 0)
    assert ("gamenet_sessions", "another") not in samples
    exported.close()
    samples, _ = read(registry)
    assert ("gamenet_sessions", "lobby") not in samples
    assert samples["gamenet_sessions", "match"] == 0


@pytest.mark.parametrize("extra", [-1, 0, 1, 1000])
def test_labels_are_bounded(extra):
    count = metrics.MAX_LABELS + extra
    reasons = {"peer_closed": 1, **{f"own {n}": 1 for n in range(count)}, "idle_timeout": 5}
    bounded = metrics.bounded_labels(reasons)
    assert sum(bounded.values()) == count + 6
    assert len(bounded) == 2 + min(count, metrics.MAX_LABELS) + (extra > 0)
    assert (bounded["idle_timeout"], bounded.get("other", 0)) == (5, max(0, extra))
    more = metrics.bounded_labels({**reasons, "one more": 1, "own 0": 2})
    assert all(more[label] >= number for label, number in bounded.items())


def test_labels_can_be_shown():
    bounded = metrics.bounded_labels({"a\nb\ud800": 1, "x" * 99: 1, "y" * 100: 1, "z" * 101: 1, "z" * 102: 1})
    assert list(bounded) == [r"a\nb\ud800", "x" * 99, "y" * 100, "z" * 100]
    assert bounded["z" * 100] == 2


# -- handlers


async def test_nothing_stands_before_a_handler_unless_it_is_timed(net, registry):
    server = await net.server()

    def handler(session, packet):
        pass

    server.on(1)(handler)
    server.dispatch.set_default(handler)
    exported = metrics.export(server, registry=registry)
    server.on(2)(handler)
    routes = server.dispatch.routes
    plain = [routes.get(1), routes.get(2), routes.default]
    assert [route.handler for route in plain] == [handler] * 3
    exported.close()
    exported = metrics.export(server, handlers=True, registry=registry)
    assert [route.handler.__wrapped__ for route in (routes.get(1), routes.get(2), routes.default)] == [handler] * 3
    assert server.dispatch.handler_of(1) is handler
    exported.close()
    assert [routes.get(1), routes.get(2), routes.default] == plain


class Callable:
    async def __call__(self, session, packet):
        await asyncio.sleep(0.02)
        session.reply(packet)


async def test_the_times_of_every_kind_of_handler(net, registry):
    server = await net.server()
    metrics.export(server, handlers=True, registry=registry)
    server.on(1)(lambda session, packet: session.reply(packet))

    @server.on(2)
    async def waits(session, packet):
        await asyncio.sleep(0.02)
        assert await asyncio.gather(asyncio.sleep(0, "value")) == ["value"]
        session.reply(packet)

    @server.on(3)
    async def waits_not(session, packet):
        session.reply(packet)

    @server.on_batch(4)
    def batch(session, batch):
        batch.reply()

    @server.on_batch(5)
    async def waiting_batch(session, batch):
        await asyncio.sleep(0)
        batch.reply()

    server.on(6)(lambda session, packet: waits(session, packet))
    server.on(7)(lambda session, packet: asyncio.ensure_future(waits(session, packet)))
    server.on(8)(Callable())
    server.on(9)(partial(waits))
    server.dispatch.set_default(lambda session, packet: session.reply(packet))
    reader, writer = await net.open(server)
    for packet_id in (1, 2, 3, 4, 5, 6, 7, 8, 9, 700, 701):
        writer.write(wire(packet_id) * 3)
        for _ in range(3):
            assert (await read_packet(reader))[0] == packet_id
    await asyncio.sleep(0.01)
    samples, types = await scrape(registry)
    assert types["gamenet_handler_loop_seconds"] == types["gamenet_handler_duration_seconds"] == "histogram"
    for label in ("1", "2", "3", "4", "5", "6", "7", "8", "9", "other"):
        loop, done = (f"gamenet_handler_{what}_seconds" for what in ("loop", "duration"))
        calls = samples[f"{loop}_count", "server", label]
        assert samples[f"{done}_count", "server", label] == calls
        assert samples[f"{done}_bucket", "server", *sorted(["+Inf", label])] == calls
        if label not in ("4", "5"):
            assert calls == (6 if label == "other" else 3)
        assert samples["gamenet_handler_packets_total", "server", label] == (6 if label == "other" else 3)
        assert samples["gamenet_handler_failures_total", "server", label] == 0
        loop_sum, done_sum = samples[f"{loop}_sum", "server", label], samples[f"{done}_sum", "server", label]
        assert 0 < loop_sum <= done_sum
        if label in ("2", "6", "7", "8", "9"):
            assert done_sum >= 3 * 0.015  # a clock may be coarse, but the sleeps were 0.02
    assert not [key for key in samples if "700" in key]


async def test_failures_are_counted_and_reported_as_ever(net, registry, caplog):
    server = await net.server()
    metrics.export(server, handlers=True, registry=registry)

    def fails(session, packet):
        raise ValueError("at once")

    async def fails_later(session, packet):
        await asyncio.sleep(0)
        try:
            await asyncio.wait_for(asyncio.sleep(3600), 0.001)
        except TimeoutError:
            raise ValueError("later") from None

    server.on(1)(fails)
    server.on(2)(fails_later)
    server.on(3)(lambda session, packet: session.reply(packet))
    reader, writer = await net.open(server)
    writer.write(wire(1) + wire(2) + wire(3))
    await read_packet(reader)
    assert server.stats()["handler_errors"] == 2
    assert "ValueError: at once" in caplog.text
    assert "ValueError: later" in caplog.text
    samples, _ = read(registry)
    assert [samples["gamenet_handler_failures_total", "server", label] for label in "123"] == [1, 1, 0]


async def test_a_timed_handler_sees_what_its_awaits_raise(net, registry):
    server = await net.server()
    metrics.export(server, handlers=True, registry=registry)

    @server.on(1)
    async def handler(session, packet):
        failing = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(failing.set_exception, LookupError())
        try:
            await failing
        except LookupError:
            session.reply(packet)

    reader, writer = await net.open(server)
    writer.write(wire(1))
    await read_packet(reader)
    assert server.stats()["handler_errors"] == 0


async def test_a_handler_that_is_cancelled_is_no_failure(net, registry, until):
    server = await net.server()
    metrics.export(server, handlers=True, registry=registry)
    ended = []

    @server.on(1)
    async def handler(session, packet):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append(session)
            raise

    _, writer = await net.open(server)
    writer.write(wire(1))
    await until(lambda: server.stats()["packets_dispatched"] == 1)
    await asyncio.sleep(0.01)
    writer.close()
    next(iter(server.sessions)).abort()
    await until(lambda: ended)
    await until(lambda: read(registry)[0]["gamenet_handler_duration_seconds_count", "server", "1"] == 1)
    assert read(registry)[0]["gamenet_handler_failures_total", "server", "1"] == 0


async def test_times_survive_a_reload(net, registry, tmp_path, monkeypatch):
    server = await net.server()
    metrics.export(server, handlers=True, registry=registry)
    game = type(sys)("game")
    game.server = server
    monkeypatch.setitem(sys.modules, "game", game)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "handlers_timed.py"
    path.write_text("from game import server\n@server.on(1)\ndef h(session, packet): session.reply(packet)\n")
    module = importlib.import_module("handlers_timed")
    try:
        reader, writer = await net.open(server)
        for _ in range(3):
            writer.write(wire(1))
            await read_packet(reader)
            server.reload(module)
    finally:
        del sys.modules["handlers_timed"]
    assert read(registry)[0]["gamenet_handler_loop_seconds_count", "server", "1"] == 3


@pytest.mark.parametrize("extra", [-1, 0, 1, 10])
def test_packet_ids_are_bounded(gamenet, extra):
    times = HandlerTimes()
    for packet_id in range(MAX_PACKET_IDS + extra):
        times.wrap(packet_id, gamenet._core.Route(print))
    labels = [label for label, _ in times.items()]
    assert len(labels) == MAX_PACKET_IDS + min(extra, 1)
    assert ("other" in labels) == (extra > 0)
