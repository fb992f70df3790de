# cython: freethreading_compatible=True
"""Typed packets: the compiled twin of `gamenet._pure.codec`.

What stays true: no field reads or writes outside its packet's body. Locking rule: fields and structs never change
after they are made; a packet belongs to one thread at a time.
"""

import sys

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.long cimport PyLong_AsLongLong, PyLong_AsUnsignedLongLong
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.math cimport isinf
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, memset

from gamenet._compiled.packet cimport as_number

from gamenet import errors

assert sizeof(float) == 4 and sizeof(double) == 8

cdef dict CODES = {
    "B": (UNSIGNED, 1), "H": (UNSIGNED, 2), "I": (UNSIGNED, 4), "Q": (UNSIGNED, 8),
    "b": (SIGNED, 1), "h": (SIGNED, 2), "i": (SIGNED, 4), "q": (SIGNED, 8),
    "f": (FLOAT, 4), "d": (FLOAT, 8), "?": (BOOLEAN, 1), "t": (TEXT, 0), "s": (RAW, 0),
}
cdef object MISSING = object()
cdef double FLOAT_MAX = 3.4028234663852886e38
cdef double DOUBLE_MAX = 1.7976931348623157e308


@cython.no_gc
cdef class Field:
    """One field of a packed struct, and the descriptor that reads and writes it.

    `code` is `struct`'s letter (`B H I Q b h i q f d ?`), `t` for text (a char[] that ends at its first NUL) or `s`
    for raw bytes; `offset` and `size` are bytes. A `secret` field never shows in a repr.
    Locking rule: it never changes; any thread may use it.
    """

    def __init__(
        self, str name not None, str code not None, Py_ssize_t offset, Py_ssize_t size,
        str byte_order not None="little", bint secret=False, default=MISSING
    ):
        cdef Py_ssize_t known
        if code not in CODES:
            raise ValueError(f"field {name!r} has the unknown code {code!r}")
        self.kind, known = CODES[code]
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
        self.swaps = known != 0 and byte_order != sys.byteorder
        self.secret = secret
        self.required = default is MISSING
        self.default = None if default is MISSING else default

    def __get__(self, packet, owner):
        cdef RawPacket held
        if packet is None:
            return self
        if not isinstance(packet, TypedPacket):
            raise errors.wrong_type("packet", "a typed packet", packet)
        held = <RawPacket>packet
        with cython.critical_section(held):
            self.require_room(held)
            return self.read(held.data + self.offset)

    def __set__(self, packet, value):
        cdef RawPacket held
        if not isinstance(packet, TypedPacket):
            raise errors.wrong_type("packet", "a typed packet", packet)
        held = <RawPacket>packet
        self.require_room(held)
        encoded = self.encode(value)  # first, for this may run code of the value's own
        with cython.critical_section(held):
            self.require_room(held)
            held.make_writable()
            memcpy(<uint8_t*>held.data + self.offset, <const char*><bytes>encoded, self.size)

    def encode(self, value):
        """The field's `size` bytes for `value`. `TypeError` or `ValueError` if it is not such a value."""
        cdef bytes encoded = PyBytes_FromStringAndSize(NULL, self.size)
        self.write(<uint8_t*><char*>encoded, value)
        return encoded

    cdef inline int require_room(self, RawPacket packet) except -1:
        if self.offset + self.size > packet.size:
            raise errors.body_too_short(type(packet).__name__, packet.size, self.offset + self.size)
        return 0

    cdef object read(self, const uint8_t* data):
        cdef const uint8_t* nul
        if self.kind == TEXT:
            nul = <const uint8_t*>memchr(data, 0, self.size)
            return PyUnicode_DecodeUTF8(<const char*>data, self.size if nul is NULL else nul - data, "replace")
        if self.kind == RAW:
            return PyBytes_FromStringAndSize(<const char*>data, self.size)
        if self.kind == BOOLEAN:
            return data[0] != 0
        if self.kind == FLOAT:
            return read_float(data, self.size, self.swaps)
        return read_integer(data, self.kind == SIGNED, self.size, self.swaps)

    cdef int write(self, uint8_t* out, object value) except -1:
        """Write `size` bytes to `out`."""
        cdef Py_buffer view
        if self.kind == UNSIGNED or self.kind == SIGNED:
            return self.write_integer(out, value)
        if self.kind == FLOAT:
            return self.write_float(out, value)
        if self.kind == TEXT:
            return self.write_text(out, value)
        if self.kind == BOOLEAN:
            if not isinstance(value, bool):
                raise errors.wrong_type(self.name, "a bool", value)
            out[0] = value is True
            return 0
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise errors.wrong_type(self.name, "bytes", value)
        PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
        try:
            return self.write_padded(out, <const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef int write_integer(self, uint8_t* out, object value) except -1:
        cdef uint64_t number = 0
        cdef int bits = <int>(8 * self.size)
        if not isinstance(value, int):
            raise errors.wrong_type(self.name, "an int", value)
        lowest = 0 if self.kind == UNSIGNED else -(<object>1 << bits - 1)
        try:
            if self.kind == UNSIGNED:
                number = PyLong_AsUnsignedLongLong(value)
                fits = self.size == 8 or number >> bits == 0
            else:
                number = <uint64_t>PyLong_AsLongLong(value)
                fits = self.size == 8 or number + (<uint64_t>1 << bits - 1) >> bits == 0
        except OverflowError:
            fits = False
        if not fits:
            raise errors.number_does_not_fit(self.name, value, lowest, lowest + (<object>1 << bits) - 1)
        write_integer(out, number, self.size, self.swaps)
        return 0

    cdef int write_float(self, uint8_t* out, object value) except -1:
        cdef double number
        cdef float single
        if not isinstance(value, (float, int)):
            raise errors.wrong_type(self.name, "a float", value)
        try:
            number = value
        except OverflowError:
            highest = FLOAT_MAX if self.size == 4 else DOUBLE_MAX
            raise errors.number_does_not_fit(self.name, value, -highest, highest) from None
        if self.size == 8:
            copy_bytes(out, <const uint8_t*>&number, 8, self.swaps)
            return 0
        single = <float>number
        if isinf(single) and not isinf(number):
            raise errors.number_does_not_fit(self.name, value, -FLOAT_MAX, FLOAT_MAX)
        copy_bytes(out, <const uint8_t*>&single, 4, self.swaps)
        return 0

    cdef int write_text(self, uint8_t* out, object value) except -1:
        cdef bytes encoded
        cdef const uint8_t* data
        cdef const uint8_t* nul
        if not isinstance(value, str):
            raise errors.wrong_type(self.name, "a str", value)
        encoded = (<str>value).encode("utf-8")
        data = <const uint8_t*><const char*>encoded
        nul = <const uint8_t*>memchr(data, 0, len(encoded))
        if nul is not NULL:
            raise errors.text_has_nul(self.name, nul - data)
        return self.write_padded(out, data, len(encoded))

    cdef int write_padded(self, uint8_t* out, const uint8_t* data, Py_ssize_t held) except -1:
        if held > self.size:
            raise errors.text_does_not_fit(self.name, held, self.size)
        memcpy(out, data, held)
        memset(out + held, 0, self.size - held)
        return 0


cdef object read_float(const uint8_t* data, Py_ssize_t size, bint swaps):
    cdef float single
    cdef double number
    if size == 4:
        copy_bytes(<uint8_t*>&single, data, 4, swaps)
        return single
    copy_bytes(<uint8_t*>&number, data, 8, swaps)
    return number


cdef object read_integer(const uint8_t* data, bint is_signed, Py_ssize_t size, bint swaps):
    cdef uint8_t narrow = data[0]
    cdef uint16_t short
    cdef uint32_t word
    cdef uint64_t number
    if size == 1:
        if is_signed:
            return <int8_t>narrow
        return narrow
    if size == 2:
        copy_bytes(<uint8_t*>&short, data, 2, swaps)
        if is_signed:
            return <int16_t>short
        return short
    if size == 4:
        copy_bytes(<uint8_t*>&word, data, 4, swaps)
        if is_signed:
            return <int32_t>word
        return word
    copy_bytes(<uint8_t*>&number, data, 8, swaps)
    if is_signed:
        return <int64_t>number
    return number


cdef void write_integer(uint8_t* out, uint64_t number, Py_ssize_t size, bint swaps) noexcept:
    cdef uint8_t narrow = <uint8_t>(number & 0xFF)
    cdef uint16_t short = <uint16_t>(number & 0xFFFF)
    cdef uint32_t word = <uint32_t>(number & 0xFFFFFFFF)
    if size == 1:
        out[0] = narrow
    elif size == 2:
        copy_bytes(out, <const uint8_t*>&short, 2, swaps)
    elif size == 4:
        copy_bytes(out, <const uint8_t*>&word, 4, swaps)
    else:
        copy_bytes(out, <const uint8_t*>&number, 8, swaps)


@cython.no_gc
cdef class Struct:
    """The fields of one packet class in wire order, and the bytes they take together.

    Locking rule: it never changes; any thread may use it.
    """

    def __init__(self, tuple fields not None):
        cdef Field field
        cdef Py_ssize_t end = 0
        for field in fields:
            if field.offset != end:
                raise ValueError(f"field {field.name!r} starts at {field.offset}, the one before it ends at {end}")
            end += field.size
        self.fields = fields
        self.size = end


@cython.no_gc
cdef class TypedPacket(RawPacket):
    """A packet whose class carries `_struct` and `_id`. Users derive from `gamenet.Packet`, which sets both.

    Locking rule: one thread at a time.
    """

    _struct = Struct(())
    _id = 0

    def __init__(self, *values, **named):
        cdef Struct layout = type(self)._struct
        if len(values) > len(layout.fields):
            raise TypeError(f"{type(self).__name__}() takes {len(layout.fields)} values, got {len(values)}")
        self.id = type(self)._id
        self.number = 0
        self.fill(layout, values, named)

    @classmethod
    def unpack(cls, body not None, sequence=0):
        """The packet with this body. `ValueError` if it is shorter than the struct; longer is taken as it is."""
        cdef Struct layout = cls._struct
        cdef TypedPacket packet
        if len(body) < layout.size:
            raise errors.body_too_short(cls.__name__, len(body), layout.size)
        packet = cls.__new__(cls)
        packet.id = cls._id
        packet.number = as_number("sequence", sequence)
        packet.take_body(body)
        return packet

    def __reduce__(self):
        return type(self).unpack, (self.body, self.number)

    def __repr__(self):
        cdef Field field
        shown = ", ".join([
            f"{field.name}=***" if field.secret else f"{field.name}={getattr(self, field.name)!r}"
            for field in (<Struct>type(self)._struct).fields
        ])
        return f"{type(self).__name__}({shown})"

    cdef int fill(self, Struct layout, tuple values, dict named) except -1:
        cdef Field field
        cdef Py_ssize_t index = 0, used = 0, given = len(values)
        # filled aside: code of a value's own must not see a half-made packet
        cdef bytes body = PyBytes_FromStringAndSize(NULL, layout.size)
        cdef uint8_t* out = <uint8_t*><char*>body
        name = type(self).__name__
        for field in layout.fields:
            if index < given:
                if field.name in named:
                    raise TypeError(f"{name}() got {field.name!r} twice")
                value = values[index]
            elif field.name in named:
                value = named[field.name]
                used += 1
            elif field.required:
                raise TypeError(f"{name}() needs {field.name!r}")
            else:
                value = field.default
            field.write(out + field.offset, value)
            index += 1
        if used != len(named):
            known = {field.name for field in layout.fields}
            unknown = next(key for key in named if key not in known)
            raise TypeError(f"{name}() has no field {unknown!r}")
        self.source = body
        self.data = out
        self.size = layout.size
        return 0
