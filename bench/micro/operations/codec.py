"""Typed packets: two fields of a MOVE read, and a MOVE made."""

from collections.abc import Callable
from functools import partial
from itertools import starmap
from operator import attrgetter, itemgetter
from types import ModuleType
from typing import Any

from bench.micro import by_hand
from bench.micro.streams import Handler, stream
from bench.micro.traffic import MOVE, MOVE_ID, PACKETS, move_body, typed_moves
from bench.micro.twins import package
from bench.micro.workload import Run, Workload, Yardstick, drop, kept

MOVES = 1000
BODIES = [move_body(number) for number in range(MOVES)]
VALUES = [MOVE.unpack(body) for body in BODIES]


def move_class(twin: ModuleType) -> Any:
    """The demo's MOVE, declared on `twin`."""
    game: Any = package(twin)

    class Move(game.Packet, id=MOVE_ID):  # type: ignore[call-arg, misc]
        player_id: game.u32
        x: game.f32
        y: game.f32

    return Move


def read_x_and_y(session: Any, move: Any) -> None:
    """The handler."""
    _x, _y = move.x, move.y


# -- from the wire: the chunk is cut, the handler called, the fields read


def read_fields(twin: ModuleType, handler: Handler = read_x_and_y) -> Run:
    """With gamenet."""
    move = move_class(twin)
    session, data = stream(twin, handler, packet_type=move, min_body_size=move.body_size_of()), typed_moves()
    return lambda: session.data_received(data)


def read_fields_by_hand(handler: by_hand.Handler) -> Run:
    """With the framing one writes by hand."""
    framing, data = by_hand.Framing(handler), typed_moves()
    return lambda: framing.data_received(data)


def read_dataclass(packet_id: int, sequence: int, body: bytes) -> None:
    """A handler by hand: every field into a dataclass."""
    move = by_hand.Move(*MOVE.unpack(body))
    _x, _y = move.x, move.y


def read_tuple(packet_id: int, sequence: int, body: bytes) -> None:
    """A handler by hand that makes do without a class."""
    _, _x, _y = MOVE.unpack(body)


def fields_read(twin: ModuleType) -> list[tuple[float, float]]:
    """What the handler reads."""
    seen: list[tuple[float, float]] = []
    read_fields(twin, lambda session, move: seen.append((move.x, move.y)))()
    return seen


def fields_read_by_hand(fields: Callable[[bytes], tuple[float, float]]) -> Run:
    """What a handler by hand reads that gets x and y of a body by `fields`."""

    def output() -> object:
        seen: list[tuple[float, float]] = []
        read_fields_by_hand(lambda packet_id, sequence, body: seen.append(fields(body)))()
        return seen

    return output


def dataclass_fields(body: bytes) -> tuple[float, float]:
    move = by_hand.Move(*MOVE.unpack(body))
    return move.x, move.y


def tuple_fields(body: bytes) -> tuple[float, float]:
    _, x, y = MOVE.unpack(body)
    return x, y


# -- alone: from a packet, or a body, that is at hand


def read_fields_alone(twin: ModuleType, take: Callable[..., object] = drop) -> Run:
    """Two fields of packets that were cut already, as a handler is given them."""
    moves = [*map(move_class(twin).unpack, BODIES)]
    return lambda: take(map(attrgetter("x", "y"), moves))


def unpack_moves(twin: ModuleType, take: Callable[..., object] = drop) -> Run:
    """`Move.unpack(body)`, then two fields."""
    unpack = move_class(twin).unpack
    return lambda: take(map(attrgetter("x", "y"), map(unpack, BODIES)))


def unpack_dataclasses(take: Callable[..., object] = drop) -> Run:
    """The body into a dataclass, then two fields."""
    return lambda: take(map(attrgetter("x", "y"), starmap(by_hand.Move, map(MOVE.unpack, BODIES))))


def unpack_tuples(take: Callable[..., object] = drop) -> Run:
    """The body into a tuple, then two of its items."""
    return lambda: take(map(itemgetter(1, 2), map(MOVE.unpack, BODIES)))


# -- the other way


def make_moves(twin: ModuleType, take: Callable[..., object] = drop) -> Run:
    """`Move(player_id, x, y)`, each value checked."""
    move = move_class(twin)
    return lambda: take(starmap(move, VALUES))


def moves_made(twin: ModuleType) -> list[bytes]:
    """Their bodies."""
    made: list[Any] = []
    make_moves(twin, made.extend)()
    return [move.body for move in made]


def pack_with_struct(take: Callable[..., object] = drop) -> Run:
    """The same bytes, with no object around them."""
    return lambda: take(starmap(MOVE.pack, VALUES))


by_dataclass = partial(read_fields_by_hand, read_dataclass)
by_tuple = partial(read_fields_by_hand, read_tuple)

ALONE_BY_HAND = (
    Yardstick("struct + dataclass", unpack_dataclasses, kept(unpack_dataclasses)),
    Yardstick("struct + tuple", unpack_tuples, kept(unpack_tuples)),
)

WORKLOADS = [
    Workload(
        "read_fields", "a chunk of MOVEs cut, a handler reads x and y", "packet", PACKETS, read_fields, fields_read,
        beside=(
            Yardstick("struct + dataclass", by_dataclass, fields_read_by_hand(dataclass_fields)),
            Yardstick("struct + tuple", by_tuple, fields_read_by_hand(tuple_fields)),
        ),
    ),
    Workload(
        "read_fields_alone", "x and y of a MOVE that was cut", "packet", MOVES,
        read_fields_alone, kept(read_fields_alone), beside=ALONE_BY_HAND,
    ),
    Workload(
        "unpack_move", "Move.unpack(body), then x and y", "packet", MOVES,
        unpack_moves, kept(unpack_moves), beside=ALONE_BY_HAND,
    ),
    Workload(
        "make_move", "Move(player_id, x, y)", "packet", MOVES, make_moves, moves_made,
        beside=(Yardstick("struct.pack", pack_with_struct, kept(pack_with_struct)),),
    ),
]
