"""Metrics in Prometheus' text format, with vLLM's names. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[str, str, float]
"""Name, "gauge" or "counter", value."""


def exposition(model: str, samples: Iterable[Sample]) -> bytes:
    """One sample for each metric, labelled with the model's name."""
    label = f'{{model_name="{_escaped(model)}"}}'
    return "".join(f"# TYPE {name} {kind}\n{name}{label} {value}\n" for name, kind, value in samples).encode()


def info_line(name: str, labels: Mapping[str, object]) -> bytes:
    """A metric whose value is 1 and whose labels tell."""
    inside = ",".join(f'{label}="{_escaped(str(value))}"' for label, value in labels.items())
    return f"# TYPE {name} gauge\n{name}{{{inside}}} 1.0\n".encode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
