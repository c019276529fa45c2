"""Rows' bodies: records as JSON, tolerant of other minor versions, and a checksum over every row.

A body written by a newer minor version may hold keys this one does not know: they are ignored. Absent keys take their
defaults. The checksum is there because SQLite's pages have none: a flipped bit in a row would otherwise be believed.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from scoot.wire.errors import LocalProtocolError, PermanentInfraError

R = TypeVar("R", bound=msgspec.Struct)


def encode(record: msgspec.Struct) -> bytes:
    """A record as JSON that is known to decode again.

    Raises:
        LocalProtocolError: the record cannot be kept (a NaN or infinity in a typed field, a lone surrogate, a foreign
            type): stored, it would make the store unreadable.
    """
    try:
        body = msgspec.json.encode(record)
        _decoder(type(record)).decode(body)
    except (msgspec.MsgspecError, TypeError, ValueError) as exc:
        raise LocalProtocolError(f"a {type(record).__name__} cannot be stored: {exc}") from exc
    return body


def decode(body: bytes, kind: type[R]) -> R:
    """The record in `body`.

    Raises:
        PermanentInfraError: it is not a `kind`, whatever is ignored or defaulted.
    """
    try:
        record: R = _decoder(kind).decode(body)
    except msgspec.MsgspecError:
        # Some structs refuse unknown keys (they double as the study file's schema), so those are taken out first.
        try:
            known = _known(msgspec.json.decode(body), inspect.type_info(kind))
            record = msgspec.convert(known, kind)
        except msgspec.MsgspecError as exc:
            raise PermanentInfraError(f"a stored {kind.__name__} cannot be read: {exc}") from exc
    return record


def checksum(*parts: object) -> int:
    """CRC-32 over values and their types and lengths: it catches every flipped bit and every burst up to 32 bits."""
    crc = 0
    for part in parts:
        data = bytes(part) if isinstance(part, bytes | memoryview) else str(part).encode("utf-8", "surrogatepass")
        tag = "bytes" if isinstance(part, bytes | memoryview) else type(part).__name__
        crc = zlib.crc32(data, zlib.crc32(f"{tag}:{len(data)}:".encode(), crc))
    return crc


@cache
def _decoder(kind: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _known(value: object, kind: inspect.Type) -> object:
    """`value` without the keys that the structs in `kind` do not have."""
    if isinstance(kind, inspect.UnionType):
        # In SCOOT's records a union holds at most one type that has keys inside; the rest are scalars and None.
        inner = [member for member in kind.types if isinstance(member, _NESTED)]
        return _known(value, inner[0]) if inner else value
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        fields = {field.encode_name: field.type for field in kind.fields}
        return {key: _known(item, fields[key]) for key, item in value.items() if key in fields}
    if isinstance(kind, inspect.DictType) and isinstance(value, dict):
        return {key: _known(item, kind.value_type) for key, item in value.items()}
    if isinstance(kind, inspect.VarTupleType | inspect.ListType) and isinstance(value, list):
        return [_known(item, kind.item_type) for item in value]
    return value


_NESTED = (inspect.StructType, inspect.DictType, inspect.VarTupleType, inspect.ListType)
