"""The ledger's marks of what is being handled, on both twins; its balance is tested with whatever moves bytes."""

import pytest


def test_the_ledger_says_what_is_handled_now(gamenet):
    """Also in a packet handled inside another, and again behind it."""
    core = gamenet._core
    pool, ledger, table = core.PoolAllocator(1024), core.Ledger(), core.RouteTable()
    codec = core.codec_for(gamenet.BOOK_HEADER, 1024)
    flushes = core.FlushQueue(lambda flush: None)
    outer, inner = (core.Stream(codec, pool, table, ledger, flushes, lambda: 0.0) for _ in range(2))
    seen = []

    class Transport:
        def write(self, data):
            pass

    def look(stream, packet):
        seen.append((ledger.pumping, ledger.packet_id, len(packet) if isinstance(packet, gamenet.Batch) else 1))

    def nest(stream, packet):
        look(stream, packet)
        inner.data_received(codec.frame(1, b"") + codec.frame(2, b"") + codec.frame(2, b""))
        look(stream, packet)

    def fail(stream, packet):
        inner.data_received(codec.frame(1, b""))
        raise KeyboardInterrupt

    table.set(1, core.Route(look))
    table.set(2, core.Route(look, is_batch=True))
    table.set(60000, core.Route(nest))
    table.set(9, core.Route(fail))
    for stream in (outer, inner):
        stream.attach(Transport())
    outer.data_received(codec.frame(60000, b"") + codec.frame(1, b""))
    ids = id(outer), id(inner)
    assert seen == [
        (ids[0], 60000, 1), (ids[1], 1, 1), (ids[1], 2, 2), (ids[0], 60000, 1), (ids[0], 1, 1)
    ]
    assert (ledger.pumping, ledger.packet_id) == (0, 0)
    with pytest.raises(KeyboardInterrupt):
        outer.data_received(codec.frame(9, b""))
    assert (ledger.pumping, ledger.packet_id) == (0, 0)
