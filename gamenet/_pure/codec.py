"""Typed packets: a body read and written through a table of fields at fixed offsets, packed as C packs it.

What stays true: a typed packet's body is at least as long as its struct; reading a field touches only that field.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar, Literal, Self, overload

from gamenet import errors
from gamenet._pure.packet import RawPacket, cut_packet

_INTEGERS = {"B": 1, "H": 2, "I": 4, "Q": 8, "b": 1, "h": 2, "i": 4, "q": 8}
_FLOATS = {"f": 4, "d": 8}
_FLOAT_MAX = {"f": 3.4028234663852886e38, "d": 1.7976931348623157e308}
_MISSING = object()


class Field:
    """One field of a packed struct, and the descriptor that reads and writes it.

    `code` is `struct`'s letter (`B H I Q b h i q f d ?`), `t` for text (a char[] that ends at its first NUL) or `s`
    for raw bytes; `offset` and `size` are bytes. A `secret` field never shows in a repr.
    Locking rule: it never changes; any thread may use it.
    """

    __slots__ = ("_struct", "byte_order", "code", "default", "name", "offset", "required", "secret", "size")

    def __init__(
        self,
        name: str,
        code: str,
        offset: int,
        size: int,
        byte_order: Literal["little", "big"] = "little",
        secret: bool = False,
        default: object = _MISSING,
    ) -> None:
        known = _INTEGERS.get(code) or _FLOATS.get(code) or (1 if code == "?" else 0)
        if code not in ("t", "s") and not known:
            raise ValueError(f"field {name!r} has the unknown code {code!r}")
        if size < 1 or (known and size != known):
            raise ValueError(f"field {name!r} of code {code!r} cannot have {size} bytes")
        if offset < 0:
            raise ValueError(f"field {name!r} has the offset {offset}")
        if byte_order not in ("little", "big"):
            raise ValueError(f"field {name!r} has byte order {byte_order!r}, not 'little' or 'big'")
        self.name = name
        self.code = code
        self.offset = offset
        self.size = size
        self.byte_order = byte_order
        self.secret = secret
        self.required = default is _MISSING
        self.default = None if default is _MISSING else default
        prefix = "<" if byte_order == "little" else ">"
        self._struct = struct.Struct(prefix + (code if known else f"{size}s"))

    @overload
    def __get__(self, packet: None, owner: type) -> Field: ...
    @overload
    def __get__(self, packet: TypedPacket, owner: type | None = None) -> Any: ...
    def __get__(self, packet: TypedPacket | None, owner: type | None = None) -> Any:
        if packet is None:
            return self
        start = packet._start + self.offset
        if start + self.size > packet._end:
            raise errors.body_too_short(type(packet).__name__, packet.body_size, self.offset + self.size)
        value = self._struct.unpack_from(packet._source, start)[0]
        if self.code == "t":
            return value.split(b"\0", 1)[0].decode("utf-8", "replace")
        return value

    def __set__(self, packet: TypedPacket, value: object) -> None:
        self._require_room(packet)
        encoded = self.encode(value)  # this may run code of the value's own
        self._require_room(packet)
        body = packet.body
        packet._set_body(body[: self.offset] + encoded + body[self.offset + self.size :])

    def _require_room(self, packet: TypedPacket) -> None:
        if self.offset + self.size > packet.body_size:
            raise errors.body_too_short(type(packet).__name__, packet.body_size, self.offset + self.size)

    def encode(self, value: object) -> bytes:
        """The field's `size` bytes for `value`. `TypeError` or `ValueError` if it is not such a value."""
        if self.code in _INTEGERS:
            return self._encode_integer(value)
        if self.code in _FLOATS:
            return self._encode_float(value)
        if self.code == "?":
            if not isinstance(value, bool):
                raise errors.wrong_type(self.name, "a bool", value)
            return self._struct.pack(value)
        return self._encode_text(value) if self.code == "t" else self._encode_raw(value)

    def _encode_integer(self, value: object) -> bytes:
        if not isinstance(value, int):
            raise errors.wrong_type(self.name, "an int", value)
        bits = 8 * self.size
        lowest, highest = (0, (1 << bits) - 1) if self.code.isupper() else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        if not lowest <= value <= highest:
            raise errors.number_does_not_fit(self.name, value, lowest, highest)
        return self._struct.pack(value)

    def _encode_float(self, value: object) -> bytes:
        if not isinstance(value, (float, int)):
            raise errors.wrong_type(self.name, "a float", value)
        highest = _FLOAT_MAX[self.code]
        try:
            return self._struct.pack(value)
        except (OverflowError, struct.error):
            raise errors.number_does_not_fit(self.name, value, -highest, highest) from None

    def _encode_text(self, value: object) -> bytes:
        if not isinstance(value, str):
            raise errors.wrong_type(self.name, "a str", value)
        encoded = value.encode("utf-8")
        nul = encoded.find(b"\0")
        if nul >= 0:
            raise errors.text_has_nul(self.name, nul)
        return self._padded(encoded)

    def _encode_raw(self, value: object) -> bytes:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise errors.wrong_type(self.name, "bytes", value)
        return self._padded(bytes(value))

    def _padded(self, encoded: bytes) -> bytes:
        if len(encoded) > self.size:
            raise errors.text_does_not_fit(self.name, len(encoded), self.size)
        return encoded.ljust(self.size, b"\0")


class Struct:
    """The fields of one packet class in wire order, and the bytes they take together.

    Locking rule: it never changes; any thread may use it.
    """

    __slots__ = ("fields", "size")

    def __init__(self, fields: tuple[Field, ...]) -> None:
        end = 0
        for field in fields:
            if field.offset != end:
                raise ValueError(f"field {field.name!r} starts at {field.offset}, the one before it ends at {end}")
            end += field.size
        self.fields = fields
        self.size = end


class TypedPacket(RawPacket):
    """A packet whose class carries `_struct` and `_id`. Users derive from `gamenet.Packet`, which sets both.

    Locking rule: one thread at a time.
    """

    __slots__ = ()

    _struct: ClassVar[Struct] = Struct(())
    _id: ClassVar[int] = 0

    def __init__(self, *values: object, **named: object) -> None:
        name, fields = type(self).__name__, self._struct.fields
        if len(values) > len(fields):
            raise TypeError(f"{name}() takes {len(fields)} values, got {len(values)}")
        encoded = []
        for index, field in enumerate(fields):
            if index < len(values):
                if field.name in named:
                    raise TypeError(f"{name}() got {field.name!r} twice")
                value = values[index]
            elif field.name in named:
                value = named.pop(field.name)
            elif field.required:
                raise TypeError(f"{name}() needs {field.name!r}")
            else:
                value = field.default
            encoded.append(field.encode(value))
        if named:
            raise TypeError(f"{name}() has no field {next(iter(named))!r}")
        self._packet_id = self._id
        self._sequence = 0
        self._head = None
        self._set_body(b"".join(encoded))

    @classmethod
    def unpack(cls, body: bytes, sequence: int = 0) -> Self:
        """The packet with this body. `ValueError` if it is shorter than the struct; longer is taken as it is."""
        if len(body) < cls._struct.size:
            raise errors.body_too_short(cls.__name__, len(body), cls._struct.size)
        packet = cut_packet(cls, cls._id, 0, bytes(body), 0, len(body))
        packet.sequence = sequence
        assert isinstance(packet, cls)
        return packet

    def __reduce__(self) -> tuple[Any, ...]:
        return self.unpack, (self.body, self._sequence)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{field.name}=***" if field.secret else f"{field.name}={getattr(self, field.name)!r}"
            for field in self._struct.fields
        )
        return f"{type(self).__name__}({shown})"
