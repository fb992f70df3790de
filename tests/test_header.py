"""Headers, on both twins: the book's bytes, every width and order, and the limits of each number."""

import struct

import pytest

from gamenet.errors import InvalidPacketError
from gamenet.layout import BOOK_HEADER, HeaderField, HeaderLayout


def layout(*fields, size_counts="packet"):
    return HeaderLayout(tuple(HeaderField(*field) for field in fields), size_counts)


def test_the_book_header_is_the_packed_struct(core):
    codec = core.HeaderCodec()
    assert codec.header_size == 8
    assert codec.layout == BOOK_HEADER
    assert codec.encode(1002, 256, 7) == struct.pack("<HHI", 1002, 264, 7)
    assert codec.parse(struct.pack("<HHI", 1002, 264, 7)) == (1002, 264, 7)


def test_parse_reads_at_an_offset_of_any_buffer(core):
    wire = b"xyz" + struct.pack("<HHI", 1, 8, 2) + b"tail"
    for data in (wire, bytearray(wire), memoryview(wire)):
        assert core.HeaderCodec().parse(data, 3) == (1, 8, 2)


@pytest.mark.parametrize("offset", [-1, 1, 9])
def test_parse_needs_a_whole_header(core, offset):
    with pytest.raises(ValueError, match="do not hold a 8-byte header"):
        core.HeaderCodec().parse(bytes(8), offset)


@pytest.mark.parametrize(("size", "accepted"), [(7, False), (8, True), (9, True), (99, True), (100, True), (101, False)])
def test_the_size_limits(core, size, accepted):
    codec = core.HeaderCodec(max_packet_size=100)
    wire = struct.pack("<HHI", 1, size, 0)
    if accepted:
        assert codec.parse(wire).packet_size == size
    else:
        with pytest.raises(InvalidPacketError, match=f"packet_size {size} is (below the smallest packet of 8 bytes|above the limit)"):
            codec.parse(wire)


@pytest.mark.parametrize(("limit", "accepted"), [(7, False), (8, True), (9, True), (65534, True), (65535, True), (65536, False)])
def test_max_packet_size_must_be_what_the_header_can_state(core, limit, accepted):
    if accepted:
        assert core.HeaderCodec(max_packet_size=limit).max_packet_size == limit
    else:
        with pytest.raises(ValueError, match=f"max_packet_size {limit} is outside 8 to 65535"):
            core.HeaderCodec(max_packet_size=limit)


@pytest.mark.parametrize(
    ("packet_id", "body_size", "sequence", "message"),
    [
        (-1, 0, 0, "packet_id -1 is outside 0 to"),
        (65536, 0, 0, "packet_id 65536 is outside 0 to 65535"),
        (1, 0, 1 << 32, "sequence 4294967296 is outside 0 to 4294967295"),
        (1, 0, -1, "sequence -1 is outside 0 to"),
        (1, 8185, 0, "a packet of 8193 bytes does not fit, limit 8192"),
        (1, -1, 0, "a packet of 7 bytes is below the smallest of 8"),
    ],
)
def test_encode_refuses_what_does_not_fit(core, packet_id, body_size, sequence, message):
    with pytest.raises(ValueError, match=message):
        core.HeaderCodec().encode(packet_id, body_size, sequence)


def test_encode_takes_the_largest_numbers(core):
    codec = core.HeaderCodec(max_packet_size=65535)
    wire = codec.encode(65535, 65535 - 8, (1 << 32) - 1)
    assert codec.parse(wire) == (65535, 65535, (1 << 32) - 1)


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("order", ["little", "big"])
def test_every_width_and_byte_order(core, width, order):
    codec = core.HeaderCodec(
        layout(("sequence", width, order), ("packet_size", 2, "big"), ("packet_id", width, order)), 500
    )
    top = (1 << 8 * width) - 1
    for number in (0, 1, top - 1, top):
        wire = codec.encode(number, 100, number)
        size = 2 * width + 2 + 100
        assert wire == number.to_bytes(width, order) + size.to_bytes(2, "big") + number.to_bytes(width, order)
        assert codec.parse(wire) == (number, size, number)


@pytest.mark.parametrize(("counts", "stated"), [("packet", 20), ("after", 17), ("body", 13)])
def test_what_the_size_counts(core, counts, stated):
    # u8 id, u16 size, u32 sequence: 7 bytes, 3 of them up to the size's end
    codec = core.HeaderCodec(layout(("packet_id", 1), ("packet_size", 2), ("sequence", 4), size_counts=counts), 100)
    wire = codec.encode(9, 13, 5)
    assert struct.unpack("<BHI", wire) == (9, stated, 5)
    assert codec.parse(wire) == (9, 20, 5)


def test_a_layout_without_sequence(core):
    codec = core.HeaderCodec(layout(("packet_size", 4, "big"), ("packet_id", 1)), 100)
    assert codec.encode(3, 2) == b"\0\0\0\x07\x03"
    assert codec.parse(b"\0\0\0\x07\x03") == (3, 7, 0)
    with pytest.raises(ValueError, match="sequence 1 is outside 0 to 0"):
        codec.encode(3, 2, 1)


def test_a_size_near_2_to_the_64_is_too_large_and_does_not_wrap(core):
    codec = core.HeaderCodec(layout(("packet_id", 1), ("packet_size", 8), size_counts="after"), 100)
    with pytest.raises(InvalidPacketError, match="above the limit of 100 bytes"):
        codec.parse(b"\1" + b"\xff" * 8)


@pytest.mark.parametrize("value", ["1", 1.5, None])
def test_numbers_must_be_integers(core, value):
    with pytest.raises(TypeError):
        core.HeaderCodec().encode(value, 0, 0)


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ([("packet_id", 2)], {}, "needs a field 'packet_size'"),
        ([("packet_id", 2), ("packet_size", 2), ("packet_id", 2)], {}, "'packet_id' stands 2 times"),
        ([("packet_id", 9), ("packet_size", 2)], {}, "'packet_id' is 9 bytes wide, allowed are 1 to 8"),
        ([("packet_id", 0), ("packet_size", 2)], {}, "'packet_id' is 0 bytes wide"),
        ([("packet_id", 2, "middle"), ("packet_size", 2)], {}, "'packet_id' has byte order 'middle'"),
        ([("packet_id", 2), ("packet_size", 2)], {"size_counts": "all"}, "size_counts is 'all'"),
    ],
)
def test_a_layout_that_cannot_be_names_the_field(fields, options, message):
    with pytest.raises(ValueError, match=message):
        layout(*fields, **options)
