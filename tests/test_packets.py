"""Packets with and without fields, on both twins: the C layout, the limits of each kind, declarations."""

import copy
import math
import pickle
import struct

import pytest


@pytest.fixture
def chat(gamenet):
    class Chat(gamenet.Packet, id=1002):
        message: str = gamenet.char(256)

    return Chat


@pytest.fixture(params=["little", "big"])
def everything(request, gamenet):
    class Everything(gamenet.Packet, id=7, byte_order=request.param):
        a: gamenet.u8
        b: gamenet.u16
        c: gamenet.u32
        d: gamenet.u64
        e: gamenet.i8
        f: gamenet.i16
        g: gamenet.i32
        h: gamenet.i64
        i: gamenet.f32
        j: gamenet.f64
        k: bool
        text: str = gamenet.char(5)
        data: bytes = gamenet.raw(3)

    Everything.prefix = "<" if request.param == "little" else ">"
    return Everything


VALUES = (1, 2, 3, 4, -1, -2, -3, -4, 1.5, 2.5, True, "héa", b"xy")


def test_the_layout_is_the_packed_struct(everything):
    packet = everything(*VALUES)
    packed = struct.pack(
        everything.prefix + "BHIQbhiqfd?5s3s", *VALUES[:11], "héa".encode(), b"xy\0"
    )
    assert packet.body == packed
    assert everything.body_size_of() == packet.body_size == len(packed) == 51
    assert everything.unpack(packed) == packet
    assert list(everything.unpack(packed).fields.values()) == [*VALUES[:12], b"xy\0"]


@pytest.mark.parametrize(("name", "size", "signed"), [("a", 1, 0), ("b", 2, 0), ("c", 4, 0), ("d", 8, 0), ("e", 1, 1), ("f", 2, 1), ("g", 4, 1), ("h", 8, 1)])
def test_integers_at_their_limits(everything, name, size, signed):
    lowest = -(1 << 8 * size - 1) if signed else 0
    highest = lowest + (1 << 8 * size) - 1
    packet = everything(*VALUES)
    for value in (lowest, lowest + 1, highest - 1, highest):
        setattr(packet, name, value)
        assert getattr(packet, name) == getattr(everything.unpack(packet.body), name) == value
    before = packet.body
    for value in (lowest - 1, highest + 1, 1 << 70, -(1 << 70)):
        with pytest.raises(ValueError, match=f"{name} {value} is outside {lowest} to {highest}"):
            setattr(packet, name, value)
    for value in (1.0, "1", None, b"1"):
        with pytest.raises(TypeError, match=f"{name} must be an int, got {type(value).__name__}"):
            setattr(packet, name, value)
    assert packet.body == before


def test_floats(everything):
    packet = everything(*VALUES)
    for value in (0.0, -0.0, 1e30, math.inf, -math.inf, 5):
        packet.i = packet.j = value
        assert (packet.j, packet.i) == (value, struct.unpack("f", struct.pack("f", value))[0])
    packet.i = packet.j = math.nan
    assert math.isnan(packet.i)
    assert math.isnan(packet.j)
    with pytest.raises(ValueError, match=r"i 1e\+39 is outside -3.4028234663852886e\+38 to 3.4028234663852886e\+38"):
        packet.i = 1e39
    with pytest.raises(ValueError, match=r"is outside -1.7976931348623157e\+308 to 1.79769"):
        packet.j = 10**400
    with pytest.raises(TypeError, match="i must be a float, got str"):
        packet.i = "1"


def test_bool_is_a_bool(everything):
    packet = everything(*VALUES)
    packet.k = False
    assert packet.k is False
    assert everything.unpack(packet.body.replace(b"\0" * 9, b"\0" * 9)).k is False
    with pytest.raises(TypeError, match="k must be a bool, got int"):
        packet.k = 1


@pytest.mark.parametrize(("text", "accepted"), [("", True), ("abcd", True), ("abcde", True), ("abcdef", False), ("hé", True), ("héé", True), ("ééé", False)])
def test_text_at_its_limit(everything, text, accepted):
    packet = everything(*VALUES)
    if accepted:
        packet.text = text
        assert packet.text == everything.unpack(packet.body).text == text
    else:
        with pytest.raises(ValueError, match="text takes 5 bytes, got 6"):
            packet.text = text


def test_text_without_a_nul_ends_at_its_field(everything):
    body = everything(*VALUES).body
    start = len(body) - 8
    packet = everything.unpack(body[:start] + b"abcdefgh")
    assert (packet.text, packet.data) == ("abcde", b"fgh")


def test_text_stops_at_the_first_nul_and_survives_rubbish(everything):
    body = everything(*VALUES).body
    start = len(body) - 8
    assert everything.unpack(body[:start] + b"a\0cde" + b"fgh").text == "a"
    assert everything.unpack(body[:start] + b"\xff\xc3\0\0\0" + b"fgh").text == "��"


def test_text_with_a_nul_is_refused(everything):
    packet = everything(*VALUES)
    with pytest.raises(ValueError, match="text has a NUL at byte 2"):
        packet.text = "ab\0c"
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        packet.text = b"ab"
    with pytest.raises(UnicodeEncodeError):
        packet.text = "\ud800"


@pytest.mark.parametrize(("data", "held"), [(b"", b"\0\0\0"), (bytearray(b"ab"), b"ab\0"), (memoryview(b"abc"), b"abc")])
def test_raw_bytes(everything, data, held):
    packet = everything(*VALUES)
    packet.data = data
    assert packet.data == held


def test_raw_bytes_that_do_not_fit(everything):
    packet = everything(*VALUES)
    with pytest.raises(ValueError, match="data takes 3 bytes, got 4"):
        packet.data = b"abcd"
    with pytest.raises(TypeError, match="data must be bytes, got str"):
        packet.data = "abc"


def test_a_body_shorter_than_the_struct_is_refused(chat):
    with pytest.raises(ValueError, match="Chat needs a body of 256 bytes, got 255"):
        chat.unpack(b"x" * 255)
    assert chat.unpack(b"x" * 256).message == "x" * 256
    longer = chat.unpack(b"y" * 257)
    assert (longer.message, longer.body_size) == ("y" * 256, 257)


def test_writing_a_field_leaves_views_and_copies_alone(chat):
    packet = chat("before")
    view, body = packet.view(), packet.body
    packet.message = "after"
    assert packet.message == "after"
    assert bytes(view) == body == chat("before").body


@pytest.mark.parametrize(
    ("values", "named", "message"),
    [
        ((), {}, r"Chat\(\) needs 'message'"),
        (("a", "b"), {}, r"Chat\(\) takes 1 values, got 2"),
        (("a",), {"message": "b"}, r"Chat\(\) got 'message' twice"),
        ((), {"message": "b", "other": 1}, r"Chat\(\) has no field 'other'"),
    ],
)
def test_wrong_construction(chat, values, named, message):
    with pytest.raises(TypeError, match=message):
        chat(*values, **named)


def test_defaults_and_inheritance(gamenet):
    class Base(gamenet.Packet):
        hp: gamenet.u16 = 100

    class Player(Base, id=5):
        name: str = gamenet.char(4, default="bob")

    assert Player().fields == {"hp": 100, "name": "bob"}
    assert Player(7, name="al").body == b"\x07\0al\0\0"
    assert Player().packet_id == 5


def test_packets_compare_by_class_id_and_body(gamenet, chat):
    assert chat("a") == chat("a")
    assert chat("a") != chat("b")
    assert chat("a") != gamenet.RawPacket(1002, chat("a").body)
    assert gamenet.RawPacket(1, b"x") == gamenet.RawPacket(1, b"x", sequence=9)
    assert gamenet.RawPacket(1, b"x") != gamenet.RawPacket(2, b"x")
    assert chat("a") != "a"
    with pytest.raises(TypeError, match="unhashable"):
        hash(chat("a"))


def test_a_secret_never_shows(gamenet):
    class Login(gamenet.Packet, id=1001):
        user_id: str = gamenet.char(32)
        password: str = gamenet.char(64, secret=True)

    packet = Login("somebody", "hunter2")
    assert packet.password == "hunter2"
    assert repr(packet) == f"{Login.__name__}(user_id='somebody', password=***)"
    assert "hunter2" not in f"{packet} {packet!r} {[packet]}"


def test_packets_have_no_room_for_strays(chat):
    with pytest.raises(AttributeError):
        chat("a").note = 1


def test_a_raw_packet_has_its_own_bytes(core):
    body = bytearray(b"body")
    packet = core.RawPacket(5, body, sequence=6)
    body[:] = b"gone"
    assert (packet.packet_id, packet.body, packet.sequence, packet.body_size) == (5, b"body", 6, 4)
    assert bytes(packet.view()) == b"body"
    assert repr(packet) == "RawPacket(packet_id=5, body_size=4, sequence=6)"


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_numbers_outside_64_bits_are_refused(core, value):
    packet = core.RawPacket(5)
    with pytest.raises(ValueError, match=f"sequence {value} is outside 0 to 18446744073709551615"):
        packet.sequence = value
    with pytest.raises(ValueError, match=f"packet_id {value} is outside"):
        core.RawPacket(value)
    packet.sequence = (1 << 64) - 1
    assert packet.sequence == (1 << 64) - 1


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256])
def test_bodies_of_small_sizes_are_their_own(core, size):
    first, second = core.RawPacket(1, bytes(size)), core.RawPacket(1, bytes(size))
    assert first == second
    assert first.body == bytes(size)


def test_declarations_that_cannot_be(gamenet):
    def declare(kinds, **values):
        return type(gamenet.Packet)("Bad", (gamenet.Packet,), {"__annotations__": kinds, "__module__": __name__, **values})

    with pytest.raises(TypeError, match="Bad.x has no wire kind"):
        declare({"x": int})
    with pytest.raises(TypeError, match="Bad.body: that name is not free"):
        declare({"body": gamenet.u8})
    with pytest.raises(TypeError, match="Bad._x: that name is not free"):
        declare({"_x": gamenet.u8})
    with pytest.raises(TypeError, match="Bad.y has no default, but x before it has one"):
        declare({"x": gamenet.u8, "y": gamenet.u8}, x=1)
    with pytest.raises(ValueError, match="x 300 is outside 0 to 255"):
        declare({"x": gamenet.u8}, x=300)
    with pytest.raises(ValueError, match="a field of 0 bytes is outside 1 to 65535"):
        gamenet.char(0)
    with pytest.raises(ValueError, match="a field of 65536 bytes is outside 1 to 65535"):
        gamenet.raw(65536)
    with pytest.raises(TypeError, match="takes no __slots__"):
        declare({}, __slots__=("x",))


def test_a_class_without_id_cannot_be_registered(gamenet):
    class Part(gamenet.Packet):
        x: gamenet.u8

    with pytest.raises(TypeError, match=r"Part has no packet id; declare it as: class Part\(Packet, id=...\)"):
        gamenet.DispatchTable().register(Part, print)


def test_field_reads_only_typed_packets(core):
    field = core.Field("x", "H", 0, 2)
    packet = type("P", (core.TypedPacket,), {"_struct": core.Struct((field,)), "_id": 1, "x": field, "__slots__": ()})
    assert packet.x is field
    assert packet(258).body == b"\x02\x01"
    assert packet.unpack(b"\x02\x01\xff").x == 258


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", "Z", 0, 2), "unknown code 'Z'"),
        (("x", "H", 0, 3), "of code 'H' cannot have 3 bytes"),
        (("x", "t", 0, 0), "of code 't' cannot have 0 bytes"),
        (("x", "H", -1, 2), "has the offset -1"),
        (("x", "H", 0, 2, "middle"), "has byte order 'middle'"),
    ],
)
def test_fields_that_cannot_be(core, arguments, message):
    with pytest.raises(ValueError, match=message):
        core.Field(*arguments)


def test_a_struct_has_no_holes(core):
    with pytest.raises(ValueError, match="field 'b' starts at 3, the one before it ends at 2"):
        core.Struct((core.Field("a", "H", 0, 2), core.Field("b", "B", 3, 1)))


def test_values_whose_code_interferes(chat):
    class Sly(str):
        __slots__ = ()

        def encode(self, *args):
            raise RuntimeError("no")

    try:
        packet = chat(Sly("text"))
    except RuntimeError:
        return
    assert packet.message == "text"


def test_packets_can_be_copied_and_pickled(core, chat):
    original = core.RawPacket(1, b"x", sequence=3)
    for again in (copy.copy(original), copy.deepcopy(original)):
        assert (again, again.sequence, again is original) == (original, 3, False)
    assert pickle.loads(pickle.dumps(original)) == original
    packet = chat("hello")
    packet.sequence = 4
    again = copy.copy(packet)
    again.message = "other"
    assert (packet.message, again.message, again.sequence) == ("hello", "other", 4)
