"""The bytes that the workloads share, under the names of what a game sends."""

import functools
import struct

HEADER = struct.Struct("<HHI")  # packet_id, packet_size, sequence
MOVE = struct.Struct("<Iff")  # player_id, x, y: the demo's MOVE

MOVE_ID = 1003
PACKET_SIZE = 64
BODY_SIZE = PACKET_SIZE - HEADER.size
BURST_SIZE = 1 << 20
PACKETS = BURST_SIZE // PACKET_SIZE
FRESH_BURSTS = 64  # 64 MiB: more than any second-level cache holds
CHUNK_PACKETS = 64
"""As many as a client of `bench net` keeps on their way: what one read brings, 4.6 kB of 72-byte packets."""


@functools.cache
def move_burst() -> bytes:
    """1 MiB of 64-byte packets, as 16,384 players' moves."""
    return b"".join(_packet(sequence, BODY_SIZE) for sequence in range(PACKETS))


def fresh_bursts() -> list[bytes]:
    """64 copies of the burst, each in memory of its own."""
    return [bytes(bytearray(move_burst())) for _ in range(FRESH_BURSTS)]


def move_pieces() -> list[bytes]:
    """A 16th of the burst in pieces of 1, 2, ... 17 bytes, over and over."""
    data, pieces, at = move_burst()[: BURST_SIZE // 16], [], 0
    while at < len(data):
        for size in range(1, 18):
            pieces.append(data[at : at + size])
            at += size
    return [piece for piece in pieces if piece]


def move_chunks() -> list[bytes]:
    """16,384 packets with 64-byte bodies, 64 of them in each chunk."""
    return [
        b"".join(_packet(first + number, 64) for number in range(CHUNK_PACKETS))
        for first in range(0, PACKETS, CHUNK_PACKETS)
    ]


@functools.cache
def typed_moves() -> bytes:
    """16,384 packets as a MOVE packs them: 20 bytes each, all places different."""
    return b"".join(
        HEADER.pack(MOVE_ID, HEADER.size + MOVE.size, sequence) + move_body(sequence) for sequence in range(PACKETS)
    )


def move_body(number: int) -> bytes:
    """The body of the MOVE of this number."""
    return MOVE.pack(number, number + 0.5, -number - 0.25)


def _packet(sequence: int, body_size: int) -> bytes:
    body = sequence.to_bytes(4, "little") * (body_size // 4)
    return HEADER.pack(MOVE_ID, HEADER.size + body_size, sequence) + body
