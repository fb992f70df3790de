"""Routes and the dispatch table, on both twins."""

import gc
import weakref

import pytest


def handler(session, packet):
    pass


@pytest.mark.parametrize("packet_id", [0, 255, 256, 65535, 65536, (1 << 64) - 1])
def test_a_route_is_found_by_its_id_only(core, packet_id):
    table = core.RouteTable()
    route = core.Route(handler)
    table.set(packet_id, route)
    assert table.get(packet_id) is table.find(packet_id) is route
    assert (len(table), table.ids()) == (1, [packet_id])
    assert table.find(packet_id ^ 1) is None
    table.remove(packet_id)
    assert table.find(packet_id) is None
    with pytest.raises(KeyError):
        table.remove(packet_id)


def test_the_default_takes_every_other_id(core):
    table = core.RouteTable()
    own, default = core.Route(handler), core.Route(handler)
    table.set(5, own)
    table.default = default
    assert [table.find(number) is default for number in (0, 5, 70000)] == [True, False, True]
    assert table.get(6) is None
    table.default = None
    assert table.find(6) is None


def test_a_replaced_route_is_let_go(core):
    table = core.RouteTable()

    def old(session, packet):
        pass

    table.set(1, core.Route(old))
    alive = weakref.ref(old)
    del old
    table.set(1, core.Route(handler))
    gc.collect()
    assert alive() is None


IDS = [0, 255, 256, 65535, 65536, (1 << 64) - 1]


def filled(core, ids, default=None):
    table = core.RouteTable()
    for packet_id in ids:
        table.set(packet_id, core.Route(handler))
    table.default = default
    return table


def content(table, ids):
    return [table.find(packet_id) for packet_id in ids], table.default, table.ids(), len(table)


def test_two_tables_exchange_everything(core):
    ours, theirs = filled(core, IDS[::2]), filled(core, IDS[1:], core.Route(handler))
    before = content(ours, IDS), content(theirs, IDS)
    ours.exchange(theirs)
    assert (content(theirs, IDS), content(ours, IDS)) == before
    ours.exchange(ours)
    assert content(ours, IDS) == before[1]
    with pytest.raises(TypeError, match="other must be a RouteTable, got dict"):
        ours.exchange({})


def test_what_was_exchanged_is_freed_with_the_other_table(core):
    def old(session, packet):
        pass

    table, other = core.RouteTable(), filled(core, IDS)
    for packet_id in IDS:
        table.set(packet_id, core.Route(old))
    alive = weakref.ref(old)
    del old
    table.exchange(other)
    gc.collect()
    assert alive() is not None
    del other
    gc.collect()
    assert alive() is None
    assert [table.find(packet_id).handler for packet_id in IDS] == [handler] * len(IDS)


def test_a_table_is_exchanged_inside_a_handler_of_its_own(gamenet):
    """The handler that runs is freed by the exchange: the stream must still hold it."""
    core = gamenet._core
    pool, ledger, table = core.PoolAllocator(1024), core.Ledger(), core.RouteTable()
    codec = core.codec_for(gamenet.BOOK_HEADER, 1024)
    stream = core.Stream(codec, pool, table, ledger, core.FlushQueue(lambda flush: None), lambda: 0.0)
    handled = []

    def new(session, packet):
        handled.append(("new", packet.sequence))

    def exchanging(session, packet):
        other = core.RouteTable()
        other.set(1, core.Route(new))
        table.exchange(other)
        del other
        gc.collect()
        handled.append(("old", packet.sequence))

    class Transport:
        def write(self, data):
            pass

    table.set(1, core.Route(exchanging))
    del exchanging
    stream.attach(Transport())
    stream.data_received(b"".join(codec.frame(1, b"x", n) for n in range(4)))
    assert handled == [("old", 0), ("new", 1), ("new", 2), ("new", 3)]


@pytest.mark.parametrize("packet_id", [-1, 1 << 64])
def test_ids_that_cannot_be(core, packet_id):
    with pytest.raises(ValueError, match=f"packet_id {packet_id} is outside 0 to"):
        core.RouteTable().set(packet_id, core.Route(handler))


def test_routes_that_cannot_be(core):
    with pytest.raises(TypeError, match="a handler must be callable, got NoneType"):
        core.Route(None)
    with pytest.raises(TypeError, match="a packet class must derive from RawPacket, got int"):
        core.Route(handler, int)
    with pytest.raises(ValueError, match="min_body_size -1 is outside"):
        core.Route(handler, core.RawPacket, -1)
    with pytest.raises(TypeError):
        core.RouteTable().set(1, handler)
    with pytest.raises(TypeError):
        core.RouteTable().set("1", core.Route(handler))


def test_a_dispatch_table_registers_replaces_and_forgets(gamenet):
    class Chat(gamenet.Packet, id=1002):
        message: str = gamenet.char(256)

    table = gamenet.DispatchTable()
    assert table.on(Chat)(handler) is handler
    assert (len(table), table.handler_of(1002), table.handler_of(Chat)) == (1, handler, handler)
    table.register(1002, print)
    assert table.handler_of(Chat) is print
    table.unregister(Chat)
    assert (len(table), table.handler_of(Chat)) == (0, None)
    with pytest.raises(TypeError, match="str has no packet id"):
        table.on(str)(handler)
