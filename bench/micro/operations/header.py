"""Headers: parsed and encoded one by one, from a loop in C."""

from collections.abc import Callable
from itertools import repeat
from types import ModuleType

from bench.micro.traffic import BODY_SIZE, HEADER, MOVE_ID, PACKET_SIZE, move_burst
from bench.micro.workload import Run, Workload, Yardstick, drop, kept

HEADERS = 1000


def parse(twin: ModuleType, take: Callable[..., object] = drop) -> Run:
    """`HeaderCodec.parse()`, which also checks the size that the header states."""
    return _parse(twin.HeaderCodec().parse, take)


def parse_with_struct(take: Callable[..., object] = drop) -> Run:
    """`struct`, with no check."""
    return _parse(HEADER.unpack_from, take)


def encode(twin: ModuleType, take: Callable[..., object] = drop) -> Run:
    """`HeaderCodec.encode()`."""
    return _encode(twin.HeaderCodec().encode, BODY_SIZE, take)


def encode_with_struct(take: Callable[..., object] = drop) -> Run:
    """`struct`, given the packet's size."""
    return _encode(HEADER.pack, PACKET_SIZE, take)


def _parse(parse: Callable[..., object], take: Callable[..., object]) -> Run:
    data, offsets = move_burst(), range(0, HEADERS * PACKET_SIZE, PACKET_SIZE)
    return lambda: take(map(parse, repeat(data), offsets))


def _encode(encode: Callable[..., object], size: int, take: Callable[..., object]) -> Run:
    return lambda: take(map(encode, repeat(MOVE_ID), repeat(size), range(HEADERS)))


WORKLOADS = [
    Workload(
        "parse_header", "HeaderCodec.parse(), from a loop in C", "header", HEADERS, parse, kept(parse),
        beside=(Yardstick("struct, no check", parse_with_struct, kept(parse_with_struct)),),
    ),
    Workload(
        "encode_header", "HeaderCodec.encode(), from a loop in C", "header", HEADERS, encode, kept(encode),
        beside=(Yardstick("struct, no check", encode_with_struct, kept(encode_with_struct)),),
    ),
]
