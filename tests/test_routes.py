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
