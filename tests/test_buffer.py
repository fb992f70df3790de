"""Framing, on both twins: every stream is fed whole, byte by byte, in random pieces, and with a tail."""

import gc
import struct

import pytest
from wire import wire

from gamenet.errors import InvalidPacketError


def cut(buffer, *chunks):
    """(id, sequence, body) of every packet that becomes whole while the chunks are fed one after the other."""
    found = []
    for chunk in chunks:
        buffer.feed(chunk)
        found += [(packet.packet_id, packet.sequence, packet.body) for packet in buffer]
    return found


PACKETS = [(1, 0, b""), (2, 1, b"x"), (1002, 2, b"hello" * 50), (65535, (1 << 32) - 1, b"\0" * 8184)]
STREAM = b"".join(wire(packet_id, body, sequence) for packet_id, sequence, body in PACKETS)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 17, 1024, len(STREAM)])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_packets_come_out_however_they_came_in(core, size, kind):
    buffer = core.PacketBuffer()
    pieces = [kind(STREAM[at : at + size]) for at in range(0, len(STREAM), size)]
    assert cut(buffer, *pieces) == PACKETS
    assert (buffer.buffered, buffer.holds_block) == (0, False)


def test_random_pieces(core, rng):
    for _ in range(50):
        buffer, pieces, at = core.PacketBuffer(), [], 0
        while at < len(STREAM):
            size = rng.choice([0, 1, 2, 5, 8, 64, 4000])
            pieces.append(STREAM[at : at + size])
            at += size
        assert cut(buffer, *pieces) == PACKETS


def test_a_tail_waits_in_one_block_of_the_pool(core):
    pool = core.PoolAllocator(block_size=8192)
    buffer = core.PacketBuffer(core.HeaderCodec(), pool)
    assert cut(buffer, wire(1, b"abc") + wire(2, b"defg")[:10]) == [(1, 0, b"abc")]
    assert (buffer.buffered, buffer.holds_block, pool.outstanding) == (10, True, 1)
    assert cut(buffer, wire(2, b"defg")[10:]) == [(2, 0, b"defg")]
    gc.collect()
    assert (buffer.buffered, buffer.holds_block, pool.outstanding) == (0, False, 0)


def test_a_large_packet_leaves_no_memory_behind(core):
    pool = core.PoolAllocator(block_size=65535)
    buffer = core.PacketBuffer(core.HeaderCodec(max_packet_size=65535), pool)
    large = wire(1, b"z" * (65535 - 8))
    assert cut(buffer, large[:1], large[1:40000], large[40000:]) == [(1, 0, large[8:])]
    gc.collect()
    assert pool.outstanding == 0


def test_the_buffer_never_holds_more_than_one_packet(core):
    pool = core.PoolAllocator(block_size=100)
    buffer = core.PacketBuffer(core.HeaderCodec(max_packet_size=100), pool)
    for byte in wire(1, b"z" * 92) * 3:
        buffer.feed(bytes([byte]))
        for packet in buffer:
            assert packet.body == b"z" * 92
        assert buffer.buffered < 100
        assert pool.outstanding <= 2  # a completed one that was lent, and the next


@pytest.mark.parametrize("size", [0, 1, 6, 7])
@pytest.mark.parametrize("step", [1, 8])
def test_a_size_below_the_header_ends_the_stream(core, size, step):
    buffer = core.PacketBuffer()
    bad = struct.pack("<HHI", 1, size, 0) + wire(2)
    with pytest.raises(InvalidPacketError, match=f"packet_size {size} is below the smallest packet of 8 bytes"):
        cut(buffer, wire(5), *[bad[at : at + step] for at in range(0, len(bad), step)])


@pytest.mark.parametrize(("size", "accepted"), [(99, True), (100, True), (101, False)])
def test_too_large_is_refused_on_the_header_alone(core, size, accepted):
    buffer = core.PacketBuffer(core.HeaderCodec(max_packet_size=100), core.PoolAllocator(100))
    buffer.feed(struct.pack("<HHI", 1, size, 0))
    if accepted:
        assert list(buffer) == []
    else:
        with pytest.raises(InvalidPacketError, match="packet_size 101 is above the limit of 100 bytes"):
            list(buffer)


def test_what_came_before_a_bad_header_is_not_lost(core):
    buffer = core.PacketBuffer()
    buffer.feed(wire(1, b"a") + wire(2, b"b") + bytes(8) + wire(3))
    assert next(buffer).body == b"a"
    assert next(buffer).body == b"b"
    with pytest.raises(InvalidPacketError):
        next(buffer)


def test_a_broken_stream_stays_broken_until_it_is_cleared(core):
    buffer = core.PacketBuffer()
    buffer.feed(bytes(8))
    for _ in range(3):
        with pytest.raises(InvalidPacketError, match="packet_size 0"):
            next(buffer)
    buffer.feed(wire(1))
    with pytest.raises(InvalidPacketError):
        next(buffer)
    assert buffer.clear() == 16
    assert cut(buffer, wire(1)) == [(1, 0, b"")]


def test_feeding_nothing_and_clearing_nothing_is_fine(core):
    buffer = core.PacketBuffer()
    assert cut(buffer, b"", b"") == []
    assert (buffer.clear(), buffer.clear()) == (0, 0)
    assert cut(buffer, wire(1)[:3], b"", wire(1)[3:]) == [(1, 0, b"")]


def test_feed_while_iterating_is_read_in_its_turn(core):
    buffer = core.PacketBuffer()
    buffer.feed(wire(1) + wire(2)[:5])
    order = []
    for packet in buffer:
        order.append(packet.packet_id)
        if packet.packet_id == 1:
            buffer.feed(wire(2)[5:] + wire(3))
            buffer.feed(wire(4))
    assert order == [1, 2, 3, 4]


def test_chunks_that_are_not_read_wait_in_order(core):
    buffer = core.PacketBuffer()
    pieces = [STREAM[at : at + 100] for at in range(0, len(STREAM), 100)]
    for piece in pieces:
        buffer.feed(piece)
    assert buffer.buffered == len(STREAM)
    assert [(packet.packet_id, packet.sequence, packet.body) for packet in buffer] == PACKETS


def test_a_chunk_fed_when_another_was_just_used_up_comes_behind_those_that_wait(core):
    buffer = core.PacketBuffer()
    buffer.feed(wire(1))
    buffer.feed(wire(2))
    first = next(buffer)
    buffer.feed(wire(3))
    assert [first.packet_id, *(packet.packet_id for packet in buffer)] == [1, 2, 3]


@pytest.mark.parametrize("cuts", ["whole packets", "anywhere"])
def test_order_is_kept_however_feeding_and_reading_take_turns(core, rng, cuts):
    for _ in range(300):
        buffer, read = core.PacketBuffer(), []
        packets = [wire(1, bytes(rng.choice([0, 1, 20])), n) for n in range(40)]
        chunks = list(packets)
        if cuts == "anywhere":
            stream = b"".join(packets)
            places = sorted(rng.sample(range(len(stream)), 30))
            chunks = [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]
        while chunks:
            for _ in range(rng.randrange(4)):
                buffer.feed(chunks.pop(0) if chunks else b"")
            for _ in range(rng.randrange(4)):
                read += [packet.sequence for packet in [next(buffer, None)] if packet is not None]
        read += [packet.sequence for packet in buffer]
        assert read == list(range(40))


def test_clear_drops_everything(core):
    pool = core.PoolAllocator(block_size=8192)
    buffer = core.PacketBuffer(core.HeaderCodec(), pool)
    buffer.feed(wire(1)[:3])
    list(buffer)
    buffer.feed(wire(2) + b"x")
    buffer.feed(b"yz")
    assert buffer.clear() == 3 + 9 + 2
    assert (buffer.buffered, pool.outstanding) == (0, 0)
    assert cut(buffer, wire(7)) == [(7, 0, b"")]


def test_a_kept_packet_and_its_view_stay_true(core):
    pool = core.PoolAllocator(block_size=256)
    buffer = core.PacketBuffer(core.HeaderCodec(max_packet_size=256), pool)
    kept, views = [], []
    for number in range(200):
        packet_bytes = wire(number, bytes([number]) * 60, number)
        cut_at = number % len(packet_bytes)
        for piece in (packet_bytes[:cut_at], packet_bytes[cut_at:]):
            buffer.feed(bytearray(piece))
            for packet in buffer:
                if number % 3:
                    kept.append(packet)
                views.append(packet.view())
    gc.collect()
    assert [(p.packet_id, p.sequence, p.body) for p in kept] == [
        (n, n, bytes([n]) * 60) for n in range(200) if n % 3
    ]
    assert [bytes(view) for view in views] == [bytes([n]) * 60 for n in range(200)]


def test_views_are_read_only(core):
    buffer = core.PacketBuffer()
    pieces = wire(1, b"body")
    for chunk in ([pieces], [pieces[:9], pieces[9:]]):
        for piece in chunk:
            buffer.feed(piece)
        view = next(buffer).view()
        assert (view.readonly, bytes(view)) == (True, b"body")
        with pytest.raises(TypeError):
            view[0] = 1


def test_changing_a_fed_bytearray_changes_no_packet(core):
    buffer = core.PacketBuffer()
    data = bytearray(wire(1, b"before"))
    buffer.feed(data)
    packet = next(buffer)
    data[8:] = b"after!"
    assert packet.body == b"before"
    data.clear()  # nothing of it is exported


def test_blocks_smaller_than_a_packet_are_refused(core):
    with pytest.raises(ValueError, match="blocks of 99 bytes do not hold a packet of 100"):
        core.PacketBuffer(core.HeaderCodec(max_packet_size=100), core.PoolAllocator(99))


@pytest.mark.parametrize("chunk", [None, "text", 5, [1]])
def test_only_bytes_can_be_fed(core, chunk):
    buffer = core.PacketBuffer()
    with pytest.raises(TypeError):
        buffer.feed(chunk)
    assert cut(buffer, wire(1)) == [(1, 0, b"")]


def test_an_exhausted_pool_raises_and_loses_nothing(core):
    from gamenet.errors import PoolExhaustedError

    pool = core.PoolAllocator(block_size=8192, max_blocks=1, when_empty="raise")
    block = pool.acquire()
    buffer = core.PacketBuffer(core.HeaderCodec(), pool)
    buffer.feed(wire(1, b"abc")[:9])
    with pytest.raises(PoolExhaustedError):
        list(buffer)
    block.release()
    assert cut(buffer, wire(1, b"abc")[9:]) == [(1, 0, b"abc")]
