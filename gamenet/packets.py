"""Packet classes: one declaration gives the parser, the packer and the type checker's view.

What stays true: a class is checked when it is made, and never again; its layout is C's `#pragma pack(1)`.
"""

from __future__ import annotations

from typing import Any, Literal, dataclass_transform

from gamenet._core import Struct, TypedPacket
from gamenet.declaration import declared_fields
from gamenet.errors import number_does_not_fit, wrong_type
from gamenet.fields import char, raw

MAX_ID = (1 << 64) - 1
"""The largest packet id that any header can carry; the book's carries 65535."""


@dataclass_transform(field_specifiers=(char, raw))
class PacketMeta(type):
    """Turns the annotations of a packet class into a table of fields at fixed offsets."""

    _struct: Struct
    _id: int

    def __new__(
        mcs,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        id: int | None = None,
        byte_order: Literal["little", "big"] = "little",
    ) -> PacketMeta:
        # no instance dict: a packet object is used again, and nothing of the last one may survive
        namespace.setdefault("__slots__", ())
        if namespace["__slots__"]:
            raise TypeError(f"{name}: a packet class takes no __slots__, its fields are the wire's")
        return super().__new__(mcs, name, bases, namespace)

    def __init__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        id: int | None = None,
        byte_order: Literal["little", "big"] = "little",
    ) -> None:
        super().__init__(name, bases, namespace)
        inherited = cls._struct.fields
        declared = declared_fields(cls, inherited, namespace, byte_order)
        for field in declared:
            setattr(cls, field.name, field)
        cls._struct = Struct((*inherited, *declared))
        if id is not None:
            cls._id = _checked_id(name, id)


class Packet(TypedPacket, metaclass=PacketMeta):
    """The base of packet classes.

        class Move(Packet, id=1003):
            player_id: u32
            x: f32
            y: f32 = 0.0

        class Chat(Packet, id=1002):
            message: str = char(256)

    `id` is the packet id (0 to 65535 under the book's header), `byte_order` that of every number. Instances are
    made like a dataclass's; setting a field that does not fit raises `ValueError`, of a wrong type `TypeError`. A
    declaration that cannot be raises `TypeError` or `ValueError` when the class is made.

    Locking rule: a class never changes, any thread may use it; a packet belongs to one thread at a time.
    """

    @property
    def fields(self) -> dict[str, object]:
        """Every field by name, secret ones too."""
        return {field.name: getattr(self, field.name) for field in self._struct.fields}

    @classmethod
    def body_size_of(cls) -> int:
        """Bytes of the struct: the shortest body that reaches a handler."""
        return cls._struct.size


def _checked_id(name: str, id: int) -> int:
    if not isinstance(id, int):
        raise wrong_type(f"{name}: id", "an int", id)
    if not 0 <= id <= MAX_ID:
        raise number_does_not_fit(f"{name}: id", id, 0, MAX_ID)
    return id


def packet_id_of(packet: type[Packet] | int) -> int:
    """The id of a packet class, or the id itself. `TypeError` for a class that was declared without one, and for what
    is neither.
    """
    if not isinstance(packet, type):
        if not hasattr(packet, "__index__"):
            raise wrong_type("packet", "a packet class or a packet id", packet)
        return packet
    if not issubclass(packet, Packet) or "_id" not in vars(packet):
        raise TypeError(f"{packet.__name__} has no packet id; declare it as: class {packet.__name__}(Packet, id=...)")
    return packet._id
