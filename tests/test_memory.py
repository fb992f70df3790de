"""What a hostile peer can make a session hold: the sums of docs/memory.md, on both twins and without sockets.

Sizes are what Python counts as allocated (tracemalloc), so nothing here depends on the machine's speed or its system.
"""

import tracemalloc

import pytest

from gamenet import HeaderCodec, Packet, u32
from gamenet._core import Ledger
from gamenet.backlog import FRAME_COST, Backlog, SlowPolicies

RECEIVE_SIZE = 262_144  # bytes that a loop may bring at once
MAX_READ_BUFFER = 65_536
MAX_WRITE_BUFFER = 1_048_576
MAX_PACKET_SIZE = 8192


class Peer:
    """A transport whose peer takes nothing."""

    def __init__(self):
        self.queue = []

    def write(self, data):
        self.queue.append(bytes(data))

    def writelines(self, chunks):
        self.queue.extend(map(bytes, chunks))

    def get_write_buffer_size(self):
        return sum(map(len, self.queue))


def session_of(core, handler=None):
    """A stream with the default limits that notes which of them it passed, and ends where a session would."""

    class Noting(core.Stream):
        passed = ()

        def on_read_full(self):
            self.passed += ("max_read_buffer",)

        def on_backlog(self):
            if "high_watermark" not in self.passed:
                self.passed += ("high_watermark",)

        def on_overflow(self):
            self.most = self.unsent_size
            self.passed += ("max_write_buffer",)
            self.shut()

    routes = core.RouteTable()
    routes.set(7, core.Route(handler or (lambda session, packet: None)))
    stream = Noting(
        core.HeaderCodec(max_packet_size=MAX_PACKET_SIZE), core.PoolAllocator(MAX_PACKET_SIZE), routes, core.Ledger(),
        core.FlushQueue(lambda flush: None), lambda: 1.0, receiver=core.Receiver(RECEIVE_SIZE),
    )
    stream.attach(Peer())
    return stream


def receive(stream, data):
    """As a loop that reads into our memory."""
    view = stream.get_buffer(-1)
    view[: len(data)] = data
    del view
    stream.buffer_updated(len(data))


def allocated(action):
    """What `action()` gave, and how many bytes are allocated since."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = action()
        return result, tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def buffer_behind_a_handler(core, pieces):
    """A buffer whose packets nobody asks for, as behind a handler that waits."""
    buffer = core.PacketBuffer(core.HeaderCodec(), core.PoolAllocator(8192))
    for piece in pieces:
        buffer.feed(piece)
    return buffer


def pieces_of(data, size):
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 2, 7, 100, 1023, 1024, 1025, 4096])
def test_bytes_that_wait_cost_little_more_than_themselves_however_small_they_come(core, size):
    frames = core.HeaderCodec().frame(7, b"x" * 56) * 1024
    pieces = list(pieces_of(frames, size))
    buffer, memory = allocated(lambda: buffer_behind_a_handler(core, pieces))
    assert buffer.buffered == len(frames) == MAX_READ_BUFFER
    assert memory < 1.3 * MAX_READ_BUFFER + 8192
    assert [bytes(packet.body) for packet in buffer] == [b"x" * 56] * 1024
    assert buffer.buffered == 0


def test_behind_a_handler_waits_the_read_buffer_and_one_chunk(core):
    stream = session_of(core)
    stream.suspend()
    receive(stream, bytes(MAX_READ_BUFFER - 1))
    assert stream.passed == ()
    _, memory = allocated(lambda: receive(stream, bytes(RECEIVE_SIZE)))
    assert stream.passed == ("max_read_buffer",)  # and nothing more is read
    assert stream.inbox_size == MAX_READ_BUFFER - 1 + RECEIVE_SIZE
    assert memory < 1.05 * RECEIVE_SIZE


@pytest.mark.parametrize("size", [1, 1000, MAX_PACKET_SIZE - 1])
def test_of_an_incomplete_packet_waits_one_block(core, size):
    stream = session_of(core)
    frame = core.HeaderCodec(max_packet_size=MAX_PACKET_SIZE).frame(7, bytes(MAX_PACKET_SIZE - 8))
    receive(stream, frame)  # the receive buffer, which all sessions share, is there now
    _, memory = allocated(lambda: receive(stream, frame[:size]))
    assert stream.inbox_size == size
    assert memory < MAX_PACKET_SIZE + 1024
    receive(stream, frame[size:])
    assert stream.inbox_size == 0


# -- what is to be sent


def test_an_ask_for_much_waits_up_to_the_write_buffer_and_one_packet(core):
    answer = b"x" * (MAX_PACKET_SIZE - 8)

    def handler(session, packet):
        session.send(7, answer)

    stream = session_of(core, handler)
    stream.pause_writing()  # the transport took none of what came before
    asked = core.HeaderCodec().frame(7)
    receive(stream, asked * (MAX_WRITE_BUFFER // MAX_PACKET_SIZE))
    assert stream.passed == ("high_watermark",)
    assert stream.unsent_size == MAX_WRITE_BUFFER
    receive(stream, asked * (RECEIVE_SIZE // len(asked)))
    assert stream.passed == ("high_watermark", "max_write_buffer")
    assert stream.most == MAX_WRITE_BUFFER + MAX_PACKET_SIZE


class Place(Packet, id=9):
    entity: u32


def backlog_of(policy=None, key=()):
    policies = SlowPolicies()
    policies.set(Place if policy else 10, policy or "drop_oldest", key)
    return Backlog(policies, MAX_WRITE_BUFFER, Ledger())


def add_places(backlog, numbers):
    codec = HeaderCodec()
    for number in numbers:
        backlog.add(codec, codec.frame(9, number.to_bytes(4, "little")))


@pytest.mark.parametrize(
    ("policy", "key"), [(None, ()), ("drop_oldest", ()), ("drop_newest", ()), ("keep_latest", "entity")]
)
def test_small_frames_of_a_backlog_are_counted_with_what_keeping_them_takes(policy, key):
    backlog = backlog_of(policy, key)
    _, memory = allocated(lambda: add_places(backlog, range(4000)))
    assert (len(backlog), backlog.size) == (4000, 4000 * 12)
    assert backlog.held_size == 4000 * (12 + FRAME_COST)
    assert memory < 1.3 * backlog.held_size


def test_keys_of_frames_that_left_are_forgotten():
    """A peer that reads, but is never quite up to date, must not collect the keys of all that it was ever told."""
    backlog = backlog_of("keep_latest", "entity")
    for number in range(0, 10_000, 2):
        add_places(backlog, [number, number + 1])
        backlog.take(12 if number < 10 else 24)
    assert len(backlog) == len(backlog._frames) == 5


def test_a_backlog_of_small_frames_ends_at_the_write_buffer(core):
    stream = session_of(core)
    stream.pause_writing()
    stream.backlog = backlog_of()
    fitting = MAX_WRITE_BUFFER // (12 + FRAME_COST)
    for _ in range(fitting):
        stream.send(9, b"1234")
    assert (stream.passed, stream.backlog.held_size <= MAX_WRITE_BUFFER) == ((), True)
    stream.send(9, b"1234")
    assert stream.passed == ("max_write_buffer",)
    assert not stream.is_open
