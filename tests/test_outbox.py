"""The outgoing side, on both twins."""

import pytest
from wire import wire


def test_packets_leave_together_and_in_order(core):
    outbox = core.Outbox()
    assert outbox.append(1, b"abc", 9) == 11
    assert outbox.append_packet(core.RawPacket(2, b"de", 3)) == 10
    assert outbox.append_frame(wire(4)) == 8
    assert outbox.size == 29
    assert outbox.take() == [wire(1, b"abc", 9) + wire(2, b"de", 3) + wire(4)]
    assert (outbox.size, outbox.take()) == (0, [])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_copied_when_they_are_handed_in(core, kind):
    outbox = core.Outbox()
    body = kind(b"xy")
    outbox.append(1, body)
    if isinstance(body, bytearray):
        body[:] = b"no"
    assert b"".join(outbox.take()) == wire(1, b"xy")


def test_an_empty_outbox_holds_no_block(core):
    pool = core.PoolAllocator(8192)
    outbox = core.Outbox(core.HeaderCodec(), pool)
    outbox.append(1)
    outbox.take()
    assert pool.outstanding == 0
    outbox.append(1)
    assert outbox.clear() == 8
    assert (pool.outstanding, outbox.size, outbox.clear()) == (0, 0, 0)


def test_any_mix_of_sizes_comes_out_as_it_went_in(core, rng):
    outbox = core.Outbox(core.HeaderCodec(max_packet_size=65535), core.PoolAllocator(65535))
    for _ in range(30):
        expected = b""
        for _ in range(rng.randrange(1, 40)):
            body = rng.randbytes(rng.choice([0, 1, 100, 4088, 4096, 30000, 65527]))
            if rng.random() < 0.3:
                outbox.append_frame(wire(3, body))
                expected += wire(3, body)
            else:
                outbox.append(5, body, 6)
                expected += wire(5, body, 6)
        assert outbox.size == len(expected)
        assert b"".join(outbox.take()) == expected


def test_pieces_come_out_as_it_went_in(core, rng):
    """Each is what was asked for, or a little more or less where a chunk ends; the last one leaves no block behind."""
    pool = core.PoolAllocator(65535)
    outbox = core.Outbox(core.HeaderCodec(max_packet_size=65535), pool)
    for _ in range(30):
        expected, taken, max_size = [], [], rng.choice([1000, 5000, 100_000, 1 << 30])
        for _ in range(rng.randrange(1, 40)):
            body = rng.randbytes(rng.choice([0, 1, 100, 4088, 4096, 30000, 65527]))
            outbox.append(5, body, 6) if rng.random() < 0.7 else outbox.append_frame(wire(5, body, 6))
            expected.append(wire(5, body, 6))
        while outbox.size:
            left, piece = outbox.size, b"".join(outbox.take(max_size))
            assert 0 < len(piece) <= max(max_size, 65535)
            assert outbox.size == left - len(piece)
            taken.append(piece)
            if rng.random() < 0.1:
                outbox.append(7)
                expected.append(wire(7))
        assert b"".join(taken) == b"".join(expected)
        assert (pool.outstanding, outbox.take(max_size)) == (0, [])


@pytest.mark.parametrize(("size", "accepted"), [(91, True), (92, True), (93, False)])
def test_the_largest_body(core, size, accepted):
    outbox = core.Outbox(core.HeaderCodec(max_packet_size=100), core.PoolAllocator(100))
    outbox.append(1)
    if accepted:
        assert outbox.append(1, bytes(size)) == size + 8
    else:
        with pytest.raises(ValueError, match="a packet of 101 bytes does not fit, limit 100"):
            outbox.append(1, bytes(size))
        assert b"".join(outbox.take()) == wire(1)


@pytest.mark.parametrize("arguments", [(-1,), (65536,), (1, b"", -1), (1, b"", 1 << 32)])
def test_a_refused_packet_leaves_nothing(core, arguments):
    outbox = core.Outbox()
    with pytest.raises(ValueError, match="is outside 0 to"):
        outbox.append(*arguments)
    assert outbox.size == 0


@pytest.mark.parametrize("arguments", [("1",), (1, "text"), (1, 5), (None,), (1, b"", "2")])
def test_wrong_types(core, arguments):
    outbox = core.Outbox()
    with pytest.raises(TypeError):
        outbox.append(*arguments)
    with pytest.raises(TypeError):
        outbox.append_packet(None)
    with pytest.raises(TypeError):
        outbox.append_frame(None)
    assert outbox.size == 0
