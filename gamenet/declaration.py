"""Reading a packet class's annotations: names and kinds in, fields at fixed offsets out.

What stays true: a declaration that cannot be is refused here, when the class is made, with the field's name.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Literal, get_args, get_origin

from gamenet._core import Field, TypedPacket
from gamenet.fields import BOOLEAN, REQUIRED, Kind, Specifier

_RESERVED = frozenset(dir(TypedPacket)) | {"fields", "body_size_of"}


def declared_fields(
    cls: type, inherited: tuple[Field, ...], namespace: dict[str, Any], byte_order: Literal["little", "big"]
) -> list[Field]:
    """The fields that `cls` itself declares, behind the inherited ones; `TypeError`, `ValueError` if one cannot be."""
    fields = list(inherited)
    for name, annotation in inspect.get_annotations(cls, eval_str=True).items():
        origin: object = get_origin(annotation)
        if origin is ClassVar:
            continue
        where = f"{cls.__name__}.{name}"
        if name in _RESERVED or name.startswith("_"):
            raise TypeError(f"{where}: that name is not free; choose another one")
        if name in [field.name for field in fields]:
            raise TypeError(f"{where} is declared twice")
        field = _field(name, _specifier(where, annotation, namespace.get(name, REQUIRED)), fields, byte_order)
        if field.required and fields and not fields[-1].required:
            raise TypeError(f"{where} has no default, but {fields[-1].name} before it has one")
        fields.append(field)
    return fields[len(inherited) :]


def _specifier(where: str, annotation: Any, value: Any) -> Specifier:
    if isinstance(value, Specifier):
        return value
    if annotation is bool:
        return Specifier(BOOLEAN, value)
    for extra in get_args(annotation)[1:]:
        if isinstance(extra, Kind):
            return Specifier(extra, value)
    raise TypeError(f"{where} has no wire kind; annotate it with u8 ... f64 or bool, or give it = char(n) or raw(n)")


def _field(name: str, specifier: Specifier, before: list[Field], byte_order: Literal["little", "big"]) -> Field:
    offset = before[-1].offset + before[-1].size if before else 0
    kind, default = specifier.kind, specifier.default
    if default is REQUIRED:
        return Field(name, kind.code, offset, kind.size, byte_order, specifier.secret)
    field = Field(name, kind.code, offset, kind.size, byte_order, specifier.secret, default)
    field.encode(default)  # a default that does not fit is found now
    return field
