"""Reading a packet class's annotations: names and kinds in, fields at fixed offsets out.

What stays true: a declaration that cannot be is refused here, when the class is made, with the field's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_origin

from gamenet._core import Field, TypedPacket
from gamenet.fields import BOOLEAN, REQUIRED, Kind, Specifier

_RESERVED = frozenset(dir(TypedPacket)) | {"fields", "body_size_of"}


def declared_fields(
    cls: type, inherited: tuple[Field, ...], namespace: dict[str, Any], byte_order: Literal["little", "big"]
) -> list[Field]:
    """The fields that `cls` itself declares, behind the inherited ones; `TypeError`, `ValueError` if one cannot be."""
    fields = list(inherited)
    annotations = inspect.get_annotations(cls, eval_str=True)
    _refuse_unannotated(cls, annotations, namespace)
    for name, annotation in annotations.items():
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


def _refuse_unannotated(cls: type, annotations: Mapping[str, Any], namespace: Mapping[str, Any]) -> None:
    """`message = char(256)` and `x = f32` look like fields, and would silently be none."""
    for name, value in namespace.items():
        if name not in annotations and (isinstance(value, Specifier) or _kind_of(value) is not None):
            raise TypeError(f"{cls.__name__}.{name} has no annotation; write {name}: str = char(n), or {name}: u32")


def _kind_of(annotation: Any) -> Kind | None:
    """The kind that an annotation such as `u8` brings."""
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, Kind):
            return extra
    return None


def _specifier(where: str, annotation: Any, value: Any) -> Specifier:
    kind = BOOLEAN if annotation is bool else _kind_of(annotation)
    if isinstance(value, Specifier):
        if kind is not None:
            raise TypeError(f"{where} = char() or raw() is annotated as a number; annotate it with str or bytes")
        return value
    if kind is not None:
        return Specifier(kind, value)
    raise TypeError(f"{where} has no wire kind; annotate it with u8 ... f64 or bool, or give it = char(n) or raw(n)")


def _field(name: str, specifier: Specifier, before: list[Field], byte_order: Literal["little", "big"]) -> Field:
    offset = before[-1].offset + before[-1].size if before else 0
    kind, default = specifier.kind, specifier.default
    if default is REQUIRED:
        return Field(name, kind.code, offset, kind.size, byte_order, specifier.secret)
    field = Field(name, kind.code, offset, kind.size, byte_order, specifier.secret, default)
    field.encode(default)  # a default that does not fit is found now
    return field
