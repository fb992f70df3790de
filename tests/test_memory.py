"""What a hostile peer can make a session hold: the sums of docs/memory.md, on both twins and without sockets.

Sizes are what Python counts as allocated (tracemalloc), so nothing here depends on the machine's speed or its system.
"""

import tracemalloc

import pytest

RECEIVE_SIZE = 262_144  # bytes that a loop may bring at once
MAX_READ_BUFFER = 65_536


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
