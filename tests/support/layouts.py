"""Layouts of protocols that exist, and odd ones, for tests that run on each."""

from gamenet.layout import BOOK_HEADER, LINES, DelimiterLayout, HeaderField, HeaderLayout, VarIntField

LAYOUTS = {
    "book": BOOK_HEADER,
    "minecraft": HeaderLayout((VarIntField("packet_size", 3), VarIntField("packet_id", 5)), "after"),
    "rcon": HeaderLayout(
        (HeaderField("packet_size", 4), HeaderField("sequence", 4), HeaderField("packet_id", 4)), "after",
        trailer=b"\0\0",
    ),
    "mqtt": HeaderLayout((HeaderField("packet_id", 1), VarIntField("packet_size", 4)), "after"),
    "modbus": HeaderLayout(
        (
            HeaderField("sequence", 2, "big"), HeaderField("protocol", 2, "big"), HeaderField("packet_size", 2, "big"),
            HeaderField("unit", 1), HeaderField("packet_id", 1),
        ),
        "after",
        max_packet_size=260,
    ),
    "dns": HeaderLayout((HeaderField("packet_size", 2, "big"),), "after", min_packet_size=14),
    "mongodb": HeaderLayout(
        (
            HeaderField("packet_size", 4, signed=True), HeaderField("sequence", 4),
            HeaderField("response_to", 4, signed=True), HeaderField("packet_id", 4),
        )
    ),
    "mysql": HeaderLayout((HeaderField("packet_size", 3), HeaderField("sequence", 1)), "body"),
    "postgresql": HeaderLayout((HeaderField("packet_id", 1), HeaderField("packet_size", 4, "big")), 1),
    "int16": HeaderLayout((HeaderField("packet_size", 2, "big"),), "body"),
    "lines": LINES,
    "nul-terminated": DelimiterLayout(b"\0"),
    "boundary": DelimiterLayout(b"--end"),
    "frames": HeaderLayout((HeaderField("packet_id", 1), HeaderField("flags", 3, "big", True)), frame_size=16),
    "gaps": HeaderLayout(
        (HeaderField("packet_id", 2, offset=1), HeaderField("packet_size", 3, "big", offset=5)), -2, header_size=12
    ),
    "varints": HeaderLayout(
        (
            VarIntField("stream", 10), VarIntField("packet_size", 2), HeaderField("delta", 8, "big", True),
            VarIntField("sequence", 6),
        ),
        "body",
        trailer=b"!",
    ),
}


def limit_of(layout, wanted):
    """`wanted`, or what is nearest to it among the sizes that the layout allows."""
    return min(max(wanted, getattr(layout, "min_packet_size", 1)), layout.max_packet_size)


def random_packet(rng, layout, limit):
    """Arguments of `codec.frame`: id, body, sequence, extra fields; all that fits the layout and `limit`."""
    if isinstance(layout, DelimiterLayout):
        size = rng.choice([0, 1, 7, max(0, limit - len(layout.ending))])
        return 0, bytes(rng.choice(b"abcdefg") for _ in range(size)), 0, None
    numbers = {field.name: number_for(rng, field) for field in layout.fields}
    packet_id, sequence = numbers.pop("packet_id", 0), numbers.pop("sequence", 0)
    numbers.pop("packet_size", None)
    longest = layout.overhead + sum(field.max_bytes - 1 for field in layout.fields if isinstance(field, VarIntField))
    least, most = layout.min_packet_size - layout.overhead, limit - longest
    if layout.frame_size is not None:
        most = least
    size = max(least, rng.choice([0, 1, 3, 20, max(0, most)]))
    return packet_id, rng.randbytes(min(size, max(least, most))), sequence, numbers


def number_for(rng, field):
    return rng.choice([field.min_value, field.max_value, 0, 1, rng.randrange(field.min_value, field.max_value + 1)])
