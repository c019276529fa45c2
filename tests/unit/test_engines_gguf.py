"""Vocabularies of GGUF files, of good ones and of hostile ones."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scoot.agent.engines.gguf_file import vocabulary_range
from scoot.wire.errors import UserError


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def array(kind: int, items: bytes, count: int) -> bytes:
    return struct.pack("<IIQ", 9, kind, count) + items


def gguf(tokens: int, types: list[int] | None, before: bytes = b"", extra: int = 0, version: int = 3) -> bytes:
    keys = (
        before + text("tokenizer.ggml.tokens") + array(8, b"".join(text("é" * (i % 5)) for i in range(tokens)), tokens)
    )
    if types is not None:
        keys += text("tokenizer.ggml.token_type") + array(5, struct.pack(f"<{len(types)}i", *types), len(types))
    count = 1 + (types is not None) + extra
    return b"GGUF" + struct.pack("<IQQ", version, 3, count) + keys


def longest_run(types: list[int]) -> tuple[int, int]:
    """The oracle: every run is tried."""
    best = (0, 0)
    for low in range(16, len(types)):
        high = low
        while high < len(types) and types[high] not in (2, 3, 5):
            high += 1
        if high - low > best[1] - best[0]:
            best = (low, high)
    return best


others = st.sampled_from(
    [
        text("general.name") + struct.pack("<I", 8) + text("x"),
        text("llama.context_length") + struct.pack("<II", 4, 7),
        text("f") + struct.pack("<Id", 12, 1.5),
        text("b") + struct.pack("<IB", 7, 1),
        text("a") + array(4, b"\0" * 12, 3),
        text("tokenizer.ggml.merges") + array(8, text("a b") + text(""), 2),
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 3, 2, 4, 5, 6]), min_size=40, max_size=200),
    st.lists(others, max_size=4),
    st.sampled_from([2, 3]),
)
def test_the_longest_run_of_usable_tokens(tmp_path: Path, types: list[int], before: list[bytes], version: int) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf(len(types), types, b"".join(before), len(before), version) + b"tensors")
    low, high = longest_run(types)
    if high - low < 16:
        with pytest.raises(UserError, match="tokens can be used"):
            vocabulary_range(path)
    else:
        assert vocabulary_range(path) == (low, high)


def test_without_types_all_but_the_lowest(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf(100, None))
    assert vocabulary_range(path) == (16, 100)


def test_cut_off_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    whole = gguf(40, [1] * 40, text("general.name") + struct.pack("<I", 8) + text("x"), 1)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError) as caught:
            vocabulary_range(path)
        assert caught.value.path == str(path)
    path.write_bytes(whole)
    assert vocabulary_range(path) == (16, 40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(tmp_path: Path, data: bytes, headed: bool) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes((b"GGUF" + struct.pack("<I", 3) if headed else b"") + data)
    with pytest.raises(UserError):
        vocabulary_range(path)


HUGE = 2**63
HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 2)


@pytest.mark.parametrize(
    "data",
    [
        b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE),
        b"GGUF" + struct.pack("<IQQ", 4, 0, 1) + gguf(40, None)[24:],
        b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + gguf(40, None)[24:],
        HEAD + struct.pack("<Q", HUGE) + b"x" * 64,
        HEAD + text("a") + struct.pack("<I", 8) + struct.pack("<Q", HUGE),
        HEAD + text("a") + struct.pack("<IIQ", 9, 0, HUGE),
        HEAD + text("a") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IIQ", 9, 9, 1),
        HEAD + text("a") + struct.pack("<I", 77),
        HEAD + text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, HUGE),
        HEAD + text("tokenizer.ggml.tokens") + struct.pack("<II", 4, 40),
        HEAD + text("tokenizer.ggml.token_type") + struct.pack("<IIQ", 9, 5, 2**20),
        gguf(40, [1] * 41),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
    ],
)
def test_hostile_sizes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    with pytest.raises(UserError):
        vocabulary_range(path)
