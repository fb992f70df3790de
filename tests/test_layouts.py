"""Every kind of layout, on both twins: what it frames, what it refuses, and changing it in mid-stream."""

import asyncio
import struct

import pytest
from layouts import LAYOUTS, limit_of, random_packet

from gamenet.errors import InvalidPacketError
from gamenet.layout import LINES, DelimiterLayout, HeaderField, HeaderLayout, VarIntField

ID, SIZE = HeaderField("packet_id", 2), HeaderField("packet_size", 2)
VARINT = HeaderLayout((VarIntField("packet_size", 3), VarIntField("packet_id", 2)), "after")

every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))


def codec_and_buffer(core, layout, limit=500):
    codec = core.codec_for(layout, limit_of(layout, limit))
    return codec, core.PacketBuffer(codec, core.PoolAllocator(codec.max_packet_size))


def read(buffer):
    return [(packet.packet_id, packet.body, packet.sequence, packet.header) for packet in buffer]


def split(rng, data):
    """One piece, single bytes, or random pieces."""
    kind, pieces = rng.choice(["whole", "bytes", "random"]), []
    if kind == "whole":
        return [data]
    while data:
        size = 1 if kind == "bytes" else rng.randrange(1, 40)
        pieces.append(data[:size])
        data = data[size:]
    return pieces


# -- what is framed


@every_layout
def test_packets_come_out_as_they_went_in_however_they_are_split(core, layout, rng):
    codec, buffer = codec_and_buffer(core, layout)
    for _ in range(20):
        packets = [random_packet(rng, layout, codec.max_packet_size) for _ in range(rng.randrange(1, 8))]
        found = []
        for piece in split(rng, b"".join(codec.frame(*packet) for packet in packets)):
            buffer.feed(piece)
            found += read(buffer)
        assert found == [(number, body, sequence, extras or {}) for number, body, sequence, extras in packets]
        assert buffer.buffered == 0
        assert not buffer.holds_block


@every_layout
def test_a_packet_cut_at_any_byte_waits_and_is_then_whole(core, layout, rng):
    codec, buffer = codec_and_buffer(core, layout, 60)
    packet = random_packet(rng, layout, codec.max_packet_size)
    frame = codec.frame(*packet)
    for cut in range(len(frame)):
        buffer.feed(frame[:cut])
        assert read(buffer) == []
        assert buffer.buffered == cut
        buffer.feed(frame[cut:])
        assert len(read(buffer)) == 1


@every_layout
def test_parse_and_encode_agree(core, layout, rng):
    codec, _ = codec_and_buffer(core, layout)
    packet_id, body, sequence, extras = random_packet(rng, layout, codec.max_packet_size)
    frame = codec.frame(packet_id, body, sequence, extras)
    assert frame == codec.encode(packet_id, len(body), sequence, extras) + body + codec.ending
    assert codec.parse(frame) == (packet_id, len(frame), sequence)


@every_layout
def test_an_outbox_sends_what_frame_makes(core, layout, rng):
    codec, _ = codec_and_buffer(core, layout)
    outbox, expected = core.Outbox(codec, core.PoolAllocator(200)), b""
    for _ in range(50):
        packet_id, body, sequence, extras = random_packet(rng, layout, codec.max_packet_size)
        expected += codec.frame(packet_id, body, sequence, extras)
        outbox.append(packet_id, body, sequence, extras)
    assert b"".join(outbox.take()) == expected


@pytest.mark.parametrize(
    ("name", "arguments", "wire"),
    [
        ("minecraft", (0, b"\x2f", 0), b"\x02\x00\x2f"),
        ("minecraft", (300, bytes(200), 0), b"\xca\x01\xac\x02" + bytes(200)),
        ("rcon", (3, b"secret", 7), struct.pack("<iii", 16, 7, 3) + b"secret\0\0"),
        ("mqtt", (0xC0, b"", 0), b"\xc0\x00"),
        ("modbus", (3, b"\0\0\0\1", 9, {"unit": 17}), b"\0\x09\0\0\0\x06\x11\x03\0\0\0\x01"),
        ("dns", (0, bytes(12), 0), b"\0\x0c" + bytes(12)),
        ("mongodb", (2013, b"body", 5, {"response_to": -1}), struct.pack("<iiii", 20, 5, -1, 2013) + b"body"),
        ("mysql", (0, b"\x0e", 1), b"\x01\0\0\x01\x0e"),
        ("postgresql", (ord("Q"), b"x\0", 0), b"Q\0\0\0\x06x\0"),
        ("int16", (0, b"abc", 0), b"\0\x03abc"),
        ("lines", (0, b"NICK me", 0), b"NICK me\r\n"),
        ("frames", (7, bytes(12), 0, {"flags": -2}), b"\x07\xff\xff\xfe" + bytes(12)),
        ("gaps", (0x0102, b"x", 0), b"\0\x02\x01\0\0\0\0\x0f\0\0\0\0x"),
    ],
)
def test_the_bytes_of_real_protocols(core, name, arguments, wire):
    codec, buffer = codec_and_buffer(core, LAYOUTS[name])
    assert codec.frame(*arguments) == wire
    buffer.feed(wire)
    (packet,) = buffer
    assert (packet.packet_id, packet.body, packet.sequence) == arguments[:3]


def test_lines_end_with_lf_and_lose_one_cr(core):
    _, buffer = codec_and_buffer(core, LINES)
    buffer.feed(b"one\r\ntwo\n\n\r\r\nthr")
    assert [packet.body for packet in buffer] == [b"one", b"two", b"", b"\r"]
    buffer.feed(b"ee\r")
    assert list(buffer) == []
    buffer.feed(b"\n")
    assert [packet.body for packet in buffer] == [b"three"]


# -- what is refused


def feed_all(buffer, pieces):
    for piece in pieces:
        buffer.feed(piece)
        assert list(buffer) == []


def refused(core, layout, data, limit=100):
    """The text of the error, which is the same however the bytes come; nothing comes out behind it."""
    texts = set()
    for pieces in ([data], [data[n : n + 1] for n in range(len(data))]):
        _, buffer = codec_and_buffer(core, layout, limit)
        with pytest.raises(InvalidPacketError) as caught:
            feed_all(buffer, pieces)
        texts.add(str(caught.value))
        buffer.feed(bytes(50))
        with pytest.raises(InvalidPacketError):
            next(buffer)
    (text,) = texts
    return text


@pytest.mark.parametrize(
    ("name", "wire", "message"),
    [
        ("minecraft", b"\x00", "packet_size 1 is below the smallest packet of 2 bytes"),
        ("minecraft", b"\x80\x00", "packet_size is a VarInt of 2 bytes, more than it needs"),
        ("minecraft", b"\x05\x80\x80\x80\x80\x80", "packet_id is a VarInt that does not end within 5 bytes"),
        ("minecraft", b"\xff\xff\xff", "packet_size is a VarInt that does not end within 3 bytes"),
        ("minecraft", b"\xff\xff\x7f\x00", "packet_size 2097154 is above the limit of 100 bytes"),
        ("minecraft", b"\x01\x80\x01", "packet_size 2 is below the smallest packet of 3 bytes"),
        ("rcon", struct.pack("<iii", 9, 1, 1), "packet_size 13 is below the smallest packet of 14 bytes"),
        ("rcon", struct.pack("<iii", -1, 1, 1), "packet_size 4294967299 is above the limit of 100 bytes"),
        ("rcon", struct.pack("<iii", 10, 1, 1) + b"\0x", "the packet ends with b'\\x00x', not with its trailer"),
        ("mongodb", struct.pack("<iiii", -5, 1, 1, 1), "packet_size -5 is below the smallest packet of 16 bytes"),
        ("mongodb", struct.pack("<iiii", 101, 1, 1, 1), "packet_size 101 is above the limit of 100 bytes"),
        ("modbus", b"\0\1\0\0\0\1\1\1", "packet_size 7 is below the smallest packet of 8 bytes"),
        ("dns", b"\0\x0b", "packet_size 13 is below the smallest packet of 14 bytes"),
        ("postgresql", b"Q\0\0\0\3", "packet_size 4 is below the smallest packet of 5 bytes"),
        ("lines", b"x" * 100, "no delimiter b'\\n' within the limit of 100 bytes"),
        ("boundary", b"--en-" * 20, "no delimiter b'--end' within the limit of 100 bytes"),
        ("varints", b"\xff" * 9 + b"\x02", "stream is a VarInt above 18446744073709551615"),
        ("varints", b"\xff" * 10, "stream is a VarInt that does not end within 10 bytes"),
        ("varints", b"\0" + b"\x3f" + bytes(8) + b"\x80" * 6, "sequence is a VarInt that does not end within 6 bytes"),
    ],
)
def test_bytes_that_cannot_be_are_refused_with_their_numbers(core, name, wire, message):
    assert message in refused(core, LAYOUTS[name], wire)


@pytest.mark.parametrize(("name", "limit"), [("minecraft", 100), ("rcon", 100), ("dns", 100), ("lines", 100), ("gaps", 100)])
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_the_largest_packet(core, name, limit, over):
    layout = LAYOUTS[name]
    generous, _ = codec_and_buffer(core, layout, 1000)
    strict, buffer = codec_and_buffer(core, layout, limit)
    body = b"x" * (limit + over - len(generous.frame(0, b"x" * 50)) + 50)
    frame = generous.frame(0, body)
    assert len(frame) == limit + over
    if over <= 0:
        assert strict.frame(0, body) == frame
        buffer.feed(frame)
        assert [packet.body for packet in buffer] == [body]
    else:
        with pytest.raises(ValueError, match="a packet of 101 bytes does not fit, limit 100"):
            strict.frame(0, body)
        assert "limit of 100 bytes" in refused(core, layout, frame)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("minecraft", (1 << 35, b""), "packet_id 34359738368 is outside 0 to 34359738367"),
        ("minecraft", (1, b"", 1), "sequence 1 is outside 0 to 0"),
        ("modbus", (3, b"", 0, {"unit": 256}), "unit 256 is outside 0 to 255"),
        ("modbus", (3, b"", 0, {"unti": 1}), "header has no extra field 'unti', it has protocol, unit"),
        ("mongodb", (1, b"", 0, {"response_to": 1 << 31}), "response_to 2147483648 is outside -2147483648 to 2147483647"),
        ("dns", (0, bytes(11)), "a packet of 13 bytes is below the smallest of 14"),
        ("dns", (1, bytes(12)), "packet_id 1 is outside 0 to 0"),
        ("frames", (0, bytes(11)), "a packet of 15 bytes is below the smallest of 16"),
        ("frames", (0, bytes(13)), "a packet of 17 bytes does not fit, limit 16"),
        ("lines", (0, b"a\nb"), "the body has the delimiter b'\\n' at byte 1; the packet would end there"),
        ("lines", (1, b""), "packet_id 1 is outside 0 to 0"),
        ("lines", (0, b"", 0, {"x": 1}), "header has no extra field 'x', it has none"),
        ("book", (1, b"", 0, {"x": 1}), "header has no extra field 'x', it has none"),
    ],
)
def test_what_a_layout_cannot_carry_is_not_sent(core, name, arguments, message):
    codec, _ = codec_and_buffer(core, LAYOUTS[name])
    outbox = core.Outbox(codec, core.PoolAllocator(500))
    for call in (codec.frame, outbox.append):
        with pytest.raises(ValueError) as caught:
            call(*arguments)
        assert message in str(caught.value)
    assert outbox.size == 0


def test_a_delimiter_that_only_body_and_ending_make_together_is_refused(core):
    codec, _ = codec_and_buffer(core, DelimiterLayout(b"aa"))
    assert codec.frame(0, b"ab") == b"abaa"
    with pytest.raises(ValueError, match="at byte 1"):
        codec.frame(0, b"ba")


@pytest.mark.parametrize("name", ["HeaderCodec", "DelimiterCodec"])
def test_a_codec_that_was_never_initialised_does_no_harm(core, name):
    if core.__name__.endswith("_pure"):
        pytest.skip("only memory of C could be harmed")
    kind = getattr(core, name)
    codec = kind.__new__(kind)
    for call in (lambda: codec.parse(b"\n" * 9), lambda: codec.frame(0, b"abc"), lambda: codec.encode(1, 2)):
        with pytest.raises((ValueError, InvalidPacketError, AttributeError)):
            call()


# -- generated: every field, every size


def number_bytes(field, number):
    if isinstance(field, HeaderField):
        return number.to_bytes(field.width, field.byte_order, signed=field.signed)
    groups = [number >> shift & 0x7F for shift in range(0, max(1, number.bit_length()), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def header_stating(layout, whole):
    """A header of zeros whose size field says that the packet has `whole` bytes."""
    parts, shortest = [], layout.header_size
    for gap, field in layout.pieces:
        number = 0
        if field.name == "packet_size":
            after_size = shortest - layout.offset_of("packet_size")[1]
            number = {"packet": whole, "after": whole - shortest + after_size, "body": whole - layout.overhead}.get(
                layout.size_counts, whole - layout.size_bias
            )
        parts.append(bytes(gap) + number_bytes(field, number))
    return b"".join(parts) + bytes(layout.last_gap)


header_layouts = {name: layout for name, layout in LAYOUTS.items() if isinstance(layout, HeaderLayout)}
sized_layouts = {name: layout for name, layout in header_layouts.items() if layout.has("packet_size")}


@pytest.mark.parametrize("layout", sized_layouts.values(), ids=list(sized_layouts))
def test_every_size_around_the_smallest_and_the_largest(core, layout):
    limit = layout.min_packet_size + 40
    codec, _ = codec_and_buffer(core, layout, limit)
    for whole in (layout.min_packet_size, limit):
        assert codec.parse(header_stating(layout, whole) + layout.trailer).packet_size == whole
    assert f"packet_size {limit + 1} is above the limit of {limit} bytes" in refused(
        core, layout, header_stating(layout, limit + 1), limit
    )
    short = layout.min_packet_size - 1
    if layout.size_bias <= short and not (layout.size_counts == "body" and short < layout.overhead):
        assert f"packet_size {short} is below the smallest packet of" in refused(
            core, layout, header_stating(layout, short), limit
        )


@pytest.mark.parametrize("layout", header_layouts.values(), ids=list(header_layouts))
def test_every_field_at_its_limits_and_beyond(core, layout):
    codec, buffer = codec_and_buffer(core, layout)
    body = bytes(layout.min_packet_size - layout.overhead)
    for field in layout.fields:
        if field.name == "packet_size":
            continue
        for number in (field.min_value, field.max_value):
            buffer.feed(codec.frame(*arguments_with(field.name, number, body)))
            (packet,) = buffer
            found = {"packet_id": packet.packet_id, "sequence": packet.sequence, **packet.header}
            assert found[field.name] == number
        for number in (field.min_value - 1, field.max_value + 1):
            with pytest.raises(ValueError, match=f"{field.name} {number} is outside"):
                codec.frame(*arguments_with(field.name, number, body))


def arguments_with(name, number, body):
    packet_id, sequence = (number if name == role else 0 for role in ("packet_id", "sequence"))
    extras = {} if name in ("packet_id", "sequence") else {name: number}
    return packet_id, body, sequence, extras


@pytest.mark.parametrize("layout", header_layouts.values(), ids=list(header_layouts))
def test_every_varint_that_does_not_end_or_is_longer_than_it_needs(core, layout):
    front = b""
    for gap, field in layout.pieces:
        front += bytes(gap)
        if isinstance(field, VarIntField):
            unended, overlong = b"\x80" * field.max_bytes, b"\x81\x00"
            assert f"{field.name} is a VarInt that does not end within" in refused(core, layout, front + unended)
            assert f"{field.name} is a VarInt of 2 bytes, more than" in refused(core, layout, front + overlong)
        front += number_bytes(field, 40 if field.name == "packet_size" else 0)


# -- layouts that contradict themselves


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeaderLayout((ID, HeaderField("packet_size", 2, offset=1))), "'packet_size' at 1 overlaps"),
        (lambda: HeaderLayout((ID, SIZE), header_size=3), "'packet_size' ends at 4, outside a header of 3"),
        (lambda: HeaderLayout((HeaderField("packet_size", 1),), max_packet_size=256), "max_packet_size 256 is outside 1 to 255"),
        (lambda: HeaderLayout((ID, SIZE), min_packet_size=3), "min_packet_size 3 is outside 4 to 65535"),
        (lambda: HeaderLayout((ID, SIZE), min_packet_size=9, max_packet_size=8), "min_packet_size 9 is above"),
        (lambda: HeaderLayout((HeaderField("packet_size", 1),), -255), "states at most 0, a header alone has 1"),
        (lambda: HeaderLayout((VarIntField("packet_size"),)), "'packet_size' counts 'after' or 'body'"),
        (lambda: HeaderLayout((VarIntField("packet_size"),), 3), "'packet_size' counts 'after' or 'body'"),
        (lambda: HeaderLayout((ID, SIZE), frame_size=16), "'packet_size' contradicts a frame_size"),
        (lambda: HeaderLayout((ID,), frame_size=1), "frame_size 1 is below header and trailer of 2"),
        (lambda: HeaderLayout((ID,)), "needs a field 'packet_size' or a frame_size"),
        (lambda: HeaderLayout((SIZE, SIZE)), "'packet_size' stands 2 times"),
        (lambda: HeaderLayout((SIZE,), 1000), "size_counts is 1000, a number must be within 256"),
        (lambda: HeaderLayout((SIZE,), trailer=bytes(255)), "up to 257 bytes, above 256"),
        (lambda: HeaderLayout((VarIntField("packet_size"), HeaderField("x", 1, offset=9)), "after"), "'x' has an offset behind"),
        (lambda: HeaderField("packet_id", 2, signed=True), "'packet_id' cannot be signed"),
        (lambda: HeaderField("sequence", 2, signed=True), "'sequence' cannot be signed"),
        (lambda: HeaderField("a b", 2), "'a b' is not named by an identifier"),
        (lambda: HeaderField("x", 2, offset=-1), "'x' has the offset -1"),
        (lambda: VarIntField("x", 11), "'x' has 11 bytes, allowed are 1 to 10"),
        (lambda: DelimiterLayout(b""), "delimiter is b''"),
        (lambda: DelimiterLayout(b"\n", strip=b"\n"), "strip is b'\\n'"),
    ],
)
def test_a_layout_that_contradicts_itself_says_where(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert message in str(caught.value)


# -- changing it


@every_layout
def test_what_is_buffered_is_read_again_under_a_new_layout(core, layout, rng):
    codec, _ = codec_and_buffer(core, layout)
    packet = random_packet(rng, layout, 100)
    first, second = VARINT, codec.frame(*packet)
    for cut in range(1, len(second) + 1):
        before, buffer = codec_and_buffer(core, first)
        buffer = core.PacketBuffer(before, core.PoolAllocator(codec.max_packet_size + 500))
        data = before.frame(1, b"hello") + second
        buffer.feed(data[: 7 + cut])
        assert next(buffer).body == b"hello"
        buffer.codec = codec
        buffer.feed(data[7 + cut :])
        assert read(buffer) == [(packet[0], packet[1], packet[2], packet[3] or {})]


def test_bytes_of_a_half_packet_are_read_again_too(core):
    _, buffer = codec_and_buffer(core, LAYOUTS["book"])
    buffer.feed(b"ab\nc")  # no book header yet: 4 bytes wait in a block
    assert list(buffer) == []
    buffer.codec = core.codec_for(LINES, 100)
    assert [packet.body for packet in buffer] == [b"ab"]
    assert buffer.buffered == 1
    with pytest.raises(ValueError, match="blocks of 500 bytes do not hold a packet of 501"):
        buffer.codec = core.codec_for(LINES, 501)


async def test_a_session_changes_its_layout_inside_a_handler(net, until):
    server = await net.server(layout=LAYOUTS["int16"])
    said = []

    @server.on(0)
    def first(session, packet):
        said.append((session.layout, packet.body))
        if packet.body == b"lines":
            session.send(0, b"now")
            session.layout = LINES
            session.send(0, b"lines")
        if packet.body == b"back":
            session.layout = LAYOUTS["int16"]
            session.send(0, b"again")

    reader, writer = await net.open(server)
    for data in (b"\0\5lines", b"one\r\nback\n", b"\0\3end"):
        for byte in data:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
    expected = [b"lines", b"one", b"back", b"end"]
    await until(lambda: [body for _, body in said] == expected)
    writer.write(b"\0\5linesone\r\nback\n\0\3end")
    await until(lambda: [body for _, body in said] == expected * 2)
    assert await reader.readexactly(2 * 19) == b"\0\3nowlines\r\n\0\5again" * 2


async def test_a_cipher_can_start_inside_a_handler(net, until):
    server = await net.server()
    seen = []

    def cipher(key):
        """A cipher with state: what comes after depends on all that came before."""
        state = [key]

        def turn(data):
            out = bytearray()
            for byte in data:
                out.append(byte ^ state[0])
                state[0] = (state[0] * 5 + 1) % 256
            return bytes(out)

        return turn

    @server.on(1)
    def handler(session, packet):
        seen.append(packet.body)
        session.reply(packet)
        if packet.body == b"secret":
            session.set_transform(cipher(7), cipher(9))

    def packet(body):
        return struct.pack("<HHI", 1, 8 + len(body), 0) + body

    tail = b"".join(packet(bytes([n]) * n) for n in range(1, 60))
    for pieces in ([packet(b"secret") + cipher(7)(tail)], [bytes([byte]) for byte in packet(b"secret") + cipher(7)(tail)]):
        seen.clear()
        reader, writer = await net.open(server)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        assert await reader.readexactly(14) == packet(b"secret")
        assert cipher(9)(await reader.readexactly(len(tail))) == tail
        assert seen == [b"secret", *(bytes([n]) * n for n in range(1, 60))]
        writer.close()
        await until(lambda: not server.sessions)


async def test_a_decoder_that_raises_ends_the_session(net, until):
    server = await net.server()
    reasons = []
    server.on_closed(lambda session, reason: reasons.append(reason))

    @server.on_opened
    def opened(session):
        def decode(data):
            raise ValueError("bad padding")

        session.set_transform(decode)

    reader, writer = await net.open(server)
    writer.write(b"x" * 20)
    assert await reader.read() == b""
    await until(lambda: reasons == ["invalid_packet"])


@pytest.mark.parametrize("name", sorted(LAYOUTS.keys() - {"frames"}))  # no bytes are bad in frames of one size
async def test_bad_bytes_close_the_session_with_their_reason_and_nothing_behind_them_is_dispatched(net, until, name):
    bad = {
        "minecraft": b"\x80\x00", "mqtt": b"\x10\x80\x00", "varints": b"\x80\x00", "rcon": bytes(20), "mongodb": bytes(16),
        "modbus": bytes(8), "dns": bytes(2), "postgresql": bytes(5), "book": bytes(8), "gaps": bytes(12),
        "lines": b"x" * 300, "nul-terminated": b"x" * 300, "boundary": b"x" * 300, "int16": b"\xff\xff",
        "mysql": b"\xff\xff\xff\0",
    }
    layout = LAYOUTS[name]
    server = await net.server(layout=layout, max_packet_size=limit_of(layout, 300))
    handled, reasons = [], []
    server.dispatch.routes.default = net.route(lambda session, packet: handled.append(packet.body))
    server.on_closed(lambda session, reason: reasons.append(reason))
    good = net.frame(layout, 300)
    reader, writer = await net.open(server)
    writer.write(good + bad[name] + good)
    assert await reader.read() == b""
    await until(lambda: reasons == ["invalid_packet"])
    assert len(handled) == 1
    assert server.stats()["rejected"]["invalid"] == 1


async def test_a_broadcast_reaches_sessions_of_every_layout_in_their_own_frames(net, until):
    server = await net.server(layout=LAYOUTS["int16"])

    @server.on(0)
    def handler(session, packet):
        session.layout = LAYOUTS[packet.body.decode()]

    names = ["int16", "lines", "mysql", "frames"]
    streams = {name: await net.open(server) for name in names}
    for name, (_, writer) in streams.items():
        writer.write(struct.pack(">H", len(name)) + name.encode())
    await until(lambda: {session.layout for session in server.sessions} == {LAYOUTS[name] for name in names})
    assert server.sessions.broadcast(0, b"all") == 3  # a frame of 16 bytes cannot carry it
    for name, expected in (("int16", b"\0\3all"), ("lines", b"all\r\n"), ("mysql", b"\3\0\0\0all")):
        assert await streams[name][0].readexactly(len(expected)) == expected


@pytest.mark.parametrize("name", ["minecraft", "modbus", "varints", "lines"])
async def test_batches_of_any_layout_are_answered_with_themselves(net, name, rng):
    layout = LAYOUTS[name]
    server = await net.server(layout=layout, max_packet_size=limit_of(layout, 300))
    seen = []

    def answer(session, batch):
        seen.extend((packet.body, packet.header) for packet in batch)
        assert batch.reply()

    server.dispatch.routes.default = net.route(answer, is_batch=True)
    packets = [random_packet(rng, layout, 200) for _ in range(30)]
    codec = server._codec
    data = b"".join(codec.frame(*packet) for packet in packets)
    reader, writer = await net.open(server)
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    assert seen == [(body, extras or {}) for _, body, _, extras in packets]


async def test_an_answer_carries_the_extra_fields_of_its_request(net, gamenet):
    server = await net.server(layout=LAYOUTS["modbus"], max_packet_size=260)

    @server.on(3)
    def handler(session, packet):
        session.reply(packet, gamenet.RawPacket(131, b"\x02"))
        session.send(packet)
        session.send(4, b"", header={"unit": 200})

    reader, writer = await net.open(server)
    writer.write(b"\0\x09\0\0\0\x03\x11\x03\x07")
    expected = b"\0\x09\0\0\0\x03\x11\x83\x02" b"\0\x09\0\0\0\x03\x11\x03\x07" b"\0\0\0\0\0\x02\xc8\x04"
    assert await reader.readexactly(len(expected)) == expected


# -- the decoder alone


@every_layout
def test_the_decoder_alone(gamenet, layout, rng):
    limit = limit_of(layout, 400)
    decoder, other = gamenet.Decoder(layout, limit), gamenet.Decoder(layout, limit)
    assert decoder.layout == layout
    packet = random_packet(rng, layout, limit)
    decoder.feed(other.encode(*packet))
    assert read(decoder) == [(packet[0], packet[1], packet[2], packet[3] or {})]


def test_a_decoder_changes_its_layout(gamenet):
    decoder = gamenet.Decoder(LINES)
    decoder.feed(b"size\r\n\0\3abc")
    assert next(decoder).body == b"size"
    decoder.layout = LAYOUTS["int16"]
    assert [packet.body for packet in decoder] == [b"abc"]


def test_a_layout_states_less_than_the_limit_of_a_server(gamenet):
    assert gamenet.Decoder(LAYOUTS["modbus"]).codec.max_packet_size == 260
    assert gamenet.Server(layout=LAYOUTS["modbus"])._codec.max_packet_size == 260
    with pytest.raises(ValueError, match="max_packet_size 13 is outside 14 to 65537"):
        gamenet.Server(layout=LAYOUTS["dns"], max_packet_size=13)


async def test_a_small_first_layout_does_not_limit_the_next(net, gamenet):
    one_byte = HeaderLayout((HeaderField("packet_id", 1),), frame_size=1)
    for limits in ({}, {"max_packet_size": 70_000}):
        server = await net.server(layout=one_byte, **limits)

        @server.on(7)
        def start(session, packet):
            session.layout = LAYOUTS["mysql"]
            session.send(0, bytes(5000), 1)

        client = await net.connect(server, layout=one_byte, **limits)
        client.layout = LAYOUTS["mysql"]
        client.session.send_frame(b"\x07")
        assert (await anext(client)).body == bytes(5000)


async def test_a_client_counts_by_the_layout_it_has_now(net):
    server = await net.server(layout=LAYOUTS["int16"])

    @server.on(0)
    def start(session, packet):
        session.layout = LAYOUTS["modbus"]

    @server.on(3)
    def answer(session, packet):
        session.reply(packet)

    client = await net.connect(server, layout=LAYOUTS["int16"])
    with pytest.raises(ValueError, match="no sequence number"):
        await client.request(0, b"x")
    client.send(0, b"start")
    client.layout = LAYOUTS["modbus"]
    answered = await client.request(3, b"abc", header={"unit": 9})
    assert (answered.body, answered.header["unit"], answered.sequence) == (b"abc", 9, 1)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_handler_may_say_that_a_packet_is_invalid(net, gamenet, until, is_async):
    server = await net.server(layout=LINES)
    reasons, handled = [], []
    server.on_closed(lambda session, reason: reasons.append(reason))

    def handler(session, packet):
        handled.append(packet.body)
        if packet.body == b"bad":
            raise gamenet.InvalidPacketError("a verb is missing")

    async def waiting(session, packet):
        await asyncio.sleep(0)
        handler(session, packet)

    server.on(0)(waiting if is_async else handler)
    reader, writer = await net.open(server)
    writer.write(b"good\nbad\nnever\n")
    assert await reader.read() == b""
    await until(lambda: reasons == ["invalid_packet"])
    assert handled == [b"good", b"bad"]
    stats = server.stats()
    assert (stats["rejected"]["invalid"], stats["handler_errors"]) == (1, 0)
