"""Generic conversion between msgspec structs and protobuf messages that mirror them field by field.

Knows nothing of any particular message: the codecs of each side (rpc, link, cli) name the pairs. Rules: field names are
equal; a StrEnum member MEMBER of a field of enum type TypeName is TYPE_NAME_MEMBER on the wire; None is an absent
optional field; a message called Scalar is a plain bool, int, float or str; enumeration values that this side does not
know are refused.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import Message

from scoot.wire.errors import RemoteProtocolError

S = TypeVar("S", bound=msgspec.Struct)
M = TypeVar("M", bound=Message)

_Value = Any
_Descriptor = Any
"""protobuf has two unrelated descriptor classes (Python and upb) with the same attributes."""

_SCALAR_FIELD = {bool: "bool_value", int: "int_value", float: "float_value", str: "string_value"}


def to_message(value: msgspec.Struct, into: M) -> M:
    """Fill the empty message `into` from `value` and return it.

    Raises:
        TypeError, ValueError: the struct does not mirror the message (a bug on this side).
    """
    _fill(msgspec.to_builtins(value, builtin_types=(bytes,)), into)
    return into


def from_message(message: Message, type_: type[S]) -> S:
    """A `type_` from `message`, validated.

    Raises:
        RemoteProtocolError: an enumeration value is unknown or unset, or a value has the wrong type.
    """
    try:
        return msgspec.convert(_builtins(message), type_)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"{message.DESCRIPTOR.name}: {error}") from error


def _is_map(field: _Descriptor) -> bool:
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def _enum_prefix(field: _Descriptor) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", field.enum_type.name).upper() + "_"


def _to_single(field: _Descriptor, item: _Value) -> _Value:
    """A plain value as what a scalar or enum field accepts."""
    if field.enum_type is not None:
        return field.enum_type.values_by_name[_enum_prefix(field) + str(item).upper()].number
    return item


def _fill_scalar(item: _Value, into: Message) -> None:
    setattr(into, _SCALAR_FIELD[type(item)], item)


def _fill(data: dict[str, Any], into: Message) -> None:
    for name, item in data.items():
        field = into.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            raise ValueError(f"{into.DESCRIPTOR.name} has no field {name!r}")
        if item is None:
            continue
        if _is_map(field):
            _fill_map(field, item, getattr(into, name))
        elif field.is_repeated:
            target = getattr(into, name)
            for element in item:
                if field.message_type is None:
                    target.append(_to_single(field, element))
                else:
                    _fill_message(field.message_type, element, target.add())
        elif field.message_type is not None:
            target = getattr(into, name)
            target.SetInParent()
            _fill_message(field.message_type, item, target)
        else:
            setattr(into, name, _to_single(field, item))


def _fill_message(kind: _Descriptor, item: _Value, into: Message) -> None:
    if kind.name == "Scalar":
        _fill_scalar(item, into)
    else:
        _fill(item, into)


def _fill_map(field: _Descriptor, item: dict[Any, Any], target: _Value) -> None:
    value_type = field.message_type.fields_by_name["value"].message_type
    for key, element in item.items():
        if value_type is None:
            target[key] = element
        else:
            _fill_message(value_type, element, target[key])


def _builtins_of(kind: _Descriptor, message: Message) -> _Value:
    if kind.name != "Scalar":
        return _builtins(message)
    chosen = message.WhichOneof("value")
    if chosen is None:
        raise RemoteProtocolError("a Scalar without a value")
    return getattr(message, chosen)


def _from_single(field: _Descriptor, item: _Value) -> _Value:
    if field.enum_type is None:
        return item
    known = field.enum_type.values_by_number.get(item)
    if known is None or known.number == 0:
        raise RemoteProtocolError(f"{field.full_name}: unknown or unset value {item}")
    name = known.name.removeprefix(_enum_prefix(field))
    return name.lower() if field.enum_type.name in _LOWER_CASE_ENUMS else name


_LOWER_CASE_ENUMS = frozenset({"ParameterKind", "Scale", "ArrivalProcess", "Selection"})
"""Enumerations whose struct values are the lower-case words of a study file."""


def _builtins(message: Message) -> dict[str, Any]:
    out: dict[str, Any] = {}
    fields: list[_Descriptor] = list(message.DESCRIPTOR.fields)
    for field in fields:
        name = field.name
        if _is_map(field):
            value_type = field.message_type.fields_by_name["value"].message_type
            out[name] = {
                key: item if value_type is None else _builtins_of(value_type, item)
                for key, item in getattr(message, name).items()
            }
        elif field.is_repeated:
            kind = field.message_type
            out[name] = [
                _from_single(field, item) if kind is None else _builtins_of(kind, item)
                for item in getattr(message, name)
            ]
        elif field.has_presence and not message.HasField(name):
            out[name] = None
        elif field.message_type is not None:
            out[name] = _builtins_of(field.message_type, getattr(message, name))
        else:
            out[name] = _from_single(field, getattr(message, name))
    return out
