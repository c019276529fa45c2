"""The wire contract only grows: what a released version knows keeps its number, type, label and name.

`released/v1.txt` lists every field of the last release. A line that is no longer true breaks agents in the field. Add
lines with SCOOT_UPDATE_GOLDEN=1 when releasing; never remove one.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from scoot.v1 import agent_service_pb2, measurement_pb2, study_pb2, study_service_pb2, trial_pb2

RELEASED = pathlib.Path(__file__).parent / "released" / "v1.txt"
FILES = (study_pb2, trial_pb2, measurement_pb2, agent_service_pb2, study_service_pb2)


def contract() -> set[str]:
    """One line per field, enumeration value and method."""
    lines = set()
    for module in FILES:
        descriptor: Any = module.DESCRIPTOR
        for message in _messages(descriptor.message_types_by_name.values()):
            for field in message.fields:
                kind = field.message_type or field.enum_type
                label = "repeated" if field.is_repeated else "optional" if field.has_presence else "plain"
                name = kind.full_name if kind is not None else str(field.type)
                lines.add(f"field {message.full_name}.{field.name} = {field.number} {label} {name}")
        for enum in descriptor.enum_types_by_name.values():
            lines |= {f"enum {enum.full_name}.{value.name} = {value.number}" for value in enum.values}
        for service in descriptor.services_by_name.values():
            for method in service.methods:
                streams = f"{method.client_streaming} {method.server_streaming}"
                lines.add(
                    f"rpc {method.full_name} {method.input_type.full_name} {method.output_type.full_name} {streams}"
                )
    return lines


def _messages(found: Any) -> list[Any]:
    return [inner for message in found for inner in (message, *_messages(message.nested_types))]


def broken(released: set[str], current: set[str]) -> set[str]:
    """Promises that no longer hold."""
    return released - current


def test_released_fields_are_unchanged() -> None:
    current = contract()
    if os.environ.get("SCOOT_UPDATE_GOLDEN"):
        released = set(RELEASED.read_text().splitlines()) if RELEASED.exists() else set()
        RELEASED.parent.mkdir(exist_ok=True)
        RELEASED.write_text("".join(f"{line}\n" for line in sorted(released | current)))
    assert broken(set(RELEASED.read_text().splitlines()), current) == set()


def test_the_check_can_fail() -> None:
    current = contract()
    renumbered = {line.replace("StudySpec.name = 1", "StudySpec.name = 2") for line in current}
    assert broken(current, renumbered) == {"field scoot.v1.StudySpec.name = 1 plain 9"}
