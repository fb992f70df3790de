"""Pools that refuse: whatever fails, nothing worse than a closed session happens."""

import asyncio
import contextlib

import pytest

from gamenet.errors import PoolExhaustedError


@pytest.mark.parametrize("every", [1, 2, 3, 7, 50])
async def test_a_session_is_closed_and_the_server_goes_on(net, monkeypatch, every):
    monkeypatch.setenv("GAMENET_POOL_DEBUG", f"fail:{every}")
    server = await net.server(start=False)
    monkeypatch.delenv("GAMENET_POOL_DEBUG")

    @server.on(1)
    def answer(session, packet):
        session.send(2, b"one")
        session.reply(packet)

    await net.start(server)
    frame = net.frame(server.layout, 100)[:2] + (108).to_bytes(2, "little") + bytes(4) + b"x" * 100
    frame = b"\1\0" + frame[2:]
    for _ in range(20):
        reader, writer = await net.open(server)
        with contextlib.suppress(OSError):
            for _ in range(5):
                for part in (frame[:5], frame[5:60], frame[60:] + frame):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
            writer.write_eof()
            while await asyncio.wait_for(reader.read(65536), 20):
                pass
        writer.close()
    await server.stop()
    stats = server.stats()
    assert stats["accepted"] == 20 == sum(stats["closed"].values())
    assert set(stats["closed"]) <= {"out_of_memory", "peer_closed", "network_error", "incomplete_packet"}
    assert stats["pool"]["outstanding"] == 0
    assert stats["pool"]["refused"] > 0 or every == 50


@pytest.fixture
def failing(core, monkeypatch):
    def make(every, **options):
        monkeypatch.setenv("GAMENET_POOL_DEBUG", f"fail:{every}")
        return core.PoolAllocator(8192, sizes=(256, 2048), **options)

    return make


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_an_outbox_sends_whole_packets_or_none(core, failing, every):
    pool, codec = failing(every), core.HeaderCodec()
    outbox, taken = core.Outbox(codec, pool), []
    for number in range(60):
        body = b"x" * (number * 37 % 500)
        frame = codec.frame(number, body)
        with contextlib.suppress(PoolExhaustedError):
            outbox.append_frame(frame) if number % 7 == 0 else outbox.append(number, body)
            taken.append(frame)
        if number % 11 == 10:
            size = outbox.size
            with contextlib.suppress(PoolExhaustedError):
                chunks = outbox.take()
                assert b"".join(chunks) == b"".join(taken)
                taken.clear()
                continue
            assert outbox.size == size
    assert outbox.clear() == sum(map(len, taken))
    assert pool.outstanding == 0


@pytest.mark.parametrize("every", [2, 3, 5])
def test_a_buffer_loses_nothing(core, failing, every):
    pool, codec = failing(every), core.HeaderCodec()
    buffer = core.PacketBuffer(codec, pool)
    frames = [codec.frame(number, b"x" * (number * 131 % 3000)) for number in range(40)]
    data, seen, refused = b"".join(frames), [], 0
    for start in range(0, len(data), 97):
        buffer.feed(data[start : start + 97])
        while True:
            try:
                for packet in buffer:
                    seen.append((packet.packet_id, packet.body_size))
                break
            except PoolExhaustedError:
                refused += 1
    assert seen == [(number, number * 131 % 3000) for number in range(40)]
    assert refused > 0
    buffer.clear()
    del buffer
    assert pool.outstanding == 0
