"""`examples/protocols/minecraft_status.py` with mcstatus and mcproto."""

import pytest

TIMEOUT = 20.0


async def test_mcstatus_reads_the_status(serve, in_thread):
    mcstatus = pytest.importorskip("mcstatus", reason="mcstatus is not installed")
    served = await serve("minecraft_status")
    client = mcstatus.JavaServer(served.host, served.port, timeout=TIMEOUT)
    status = await in_thread(client.status, tries=1)
    assert (status.version.name, status.version.protocol) == ("1.21", 767)
    assert (status.players.online, status.players.max) == (0, 20)
    assert status.motd.to_plain() == "A gamenet server"
    assert status.latency > 0


async def test_mcstatus_pings(serve, in_thread):
    mcstatus = pytest.importorskip("mcstatus", reason="mcstatus is not installed")
    served = await serve("minecraft_status")
    client = mcstatus.JavaServer(served.host, served.port, timeout=TIMEOUT)
    assert await in_thread(client.ping, tries=1) > 0
    assert await client.async_ping(tries=1) > 0
    assert served.server.stats()["packets_dispatched"] == 4


async def test_mcstatus_with_a_long_status(serve, in_thread):
    mcstatus = pytest.importorskip("mcstatus", reason="mcstatus is not installed")
    served = await serve("minecraft_status")
    served.module.status["description"]["text"] = "long " * 500  # its sizes take two bytes
    client = mcstatus.JavaServer(served.host, served.port, timeout=TIMEOUT)
    status = await in_thread(client.status, tries=1)
    assert status.motd.to_plain() == "long " * 500


async def test_mcproto_reads_the_status_and_pings_on_one_connection(serve):
    pytest.importorskip("mcproto", reason="mcproto is not installed")
    from mcproto.connection import TCPAsyncConnection
    from mcproto.packets import async_read_packet, async_write_packet, generate_packet_map
    from mcproto.packets.handshaking.handshake import Handshake, NextState
    from mcproto.packets.packet import GameState, PacketDirection
    from mcproto.packets.status.ping import PingPong
    from mcproto.packets.status.status import StatusRequest

    answers = generate_packet_map(PacketDirection.CLIENTBOUND, GameState.STATUS)
    served = await serve("minecraft_status")
    async with await TCPAsyncConnection.make_client((served.host, served.port), TIMEOUT) as connection:
        hello = Handshake(767, served.host, served.port, NextState.STATUS)
        for packet in (hello, StatusRequest(), PingPong(-5), PingPong(1 << 40)):
            await async_write_packet(connection, packet)
        status = await async_read_packet(connection, answers)
        assert status.data == served.module.status
        assert [(await async_read_packet(connection, answers)).payload for _ in range(2)] == [-5, 1 << 40]


async def test_mcproto_is_told_why_it_cannot_log_in(serve, in_thread):
    pytest.importorskip("mcproto", reason="mcproto is not installed")
    from mcproto.connection import TCPSyncConnection
    from mcproto.packets import generate_packet_map, sync_read_packet, sync_write_packet
    from mcproto.packets.handshaking.handshake import Handshake, NextState
    from mcproto.packets.login.login import LoginStart
    from mcproto.packets.packet import GameState, PacketDirection
    from mcproto.types.uuid import UUID

    answers = generate_packet_map(PacketDirection.CLIENTBOUND, GameState.LOGIN)
    served = await serve("minecraft_status")

    def log_in():
        with TCPSyncConnection.make_client((served.host, served.port), TIMEOUT) as connection:
            sync_write_packet(connection, Handshake(767, served.host, served.port, NextState.LOGIN))
            sync_write_packet(connection, LoginStart(username="player", uuid=UUID("0" * 32)))
            answer = sync_read_packet(connection, answers)
            assert connection.socket.recv(1) == b""
            return answer

    answer = await in_thread(log_in)
    assert "no game here" in str(answer.reason)


@pytest.mark.parametrize(
    "sent",
    [b"\x01\x00", b"\x05\x00\x00\x00\x00\x00", b"\x07\x00\x01\x00\x00\x00\x00\x09", b"\x09\x01" + bytes(8), b"\x01\x05",
     b"\xfe\x01", b"\x80\x80\x80\x80"],
    ids=["empty", "short", "odd wish", "ping first", "unknown", "legacy", "endless"],
)  # fmt: skip
async def test_rubbish_ends_the_session(send_bytes, sent):
    server, answer = await send_bytes("minecraft_status", sent + bytes(300))
    assert answer == b""
    assert server.stats()["handler_errors"] == 0
