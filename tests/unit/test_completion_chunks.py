"""What the events of a completion say, how tokens are counted: what a chunk is, and what it counts for (sans-IO)."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.benchmark.completion import Chunk, ChunkKind, TokenCount, parse_chunk, parse_lines


def _text(text: str | None = None, *, finish: str | None = None, usage: int | None = None, **more: Any) -> bytes:
    body: dict[str, Any] = {"choices": [{"index": 0, "text": text, "finish_reason": finish, **more}]}
    if usage is not None:
        body["usage"] = {"prompt_tokens": 7, "completion_tokens": usage}
    return json.dumps(body).encode()


def _delta(**delta: Any) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode()


_USAGE_ONLY = b'{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}}'


@pytest.mark.parametrize(
    ("data", "tokens"),
    [
        (_text("a"), 1),
        (_text(""), 0),
        (_text(None), 0),
        (_text("abc", token_ids=[1, 2, 3]), 3),
        (_text("", token_ids=[5]), 1),
        (_text("abc", logprobs={"tokens": ["a", "b"]}), 2),
        (_text("", usage=1), 1),
        (_text("four", usage=4), 4),
        (_text("a", usage=0), 1),
        (_delta(role="assistant"), 0),
        (_delta(role="assistant", content=""), 0),
        (_delta(content="a"), 1),
        (_delta(reasoning_content="hm"), 1),
        (_delta(reasoning="hm"), 1),
        (_delta(tool_calls=[{"index": 0}]), 1),
        (_USAGE_ONLY, 0),
        (b'{"choices": [{"text": "a", "future": {"x": [1]}}], "error": null}', 1),
        (b"", 0),
    ],
)
def test_tokens_of_a_chunk(data: bytes, tokens: int) -> None:
    chunk = parse_chunk(data)
    assert chunk.kind is ChunkKind.DELTA
    assert TokenCount().add(chunk) == tokens


@pytest.mark.parametrize(
    ("data", "event", "kind"),
    [
        (b"[DONE]", b"", ChunkKind.DONE),
        (b" [DONE] ", b"", ChunkKind.DONE),
        (b'{"error": {"message": "dead"}}', b"", ChunkKind.ERROR),
        (b'{"error": "dead"}', b"", ChunkKind.ERROR),
        (b'{"object": "error", "message": "dead", "code": 400}', b"", ChunkKind.ERROR),
        (b"whatever", b"error", ChunkKind.ERROR),
        (b"{", b"", ChunkKind.MALFORMED),
        (b"[1]", b"", ChunkKind.MALFORMED),
        (b"{}", b"", ChunkKind.MALFORMED),
        (b'{"choices": 3}', b"", ChunkKind.MALFORMED),
        (b"\xff", b"", ChunkKind.MALFORMED),
        (b'{"x": ' + b"[" * 100_000, b"", ChunkKind.MALFORMED),
    ],
)
def test_kinds(data: bytes, event: bytes, kind: ChunkKind) -> None:
    assert parse_chunk(data, event=event).kind is kind


@given(
    data=st.one_of(
        st.binary(max_size=80),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["choices", "usage", "error", "text", "delta", "finish_reason", "completion_tokens"]
                    ),
                    inner,
                    max_size=4,
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
@settings(max_examples=300, deadline=None)
def test_anything_is_understood_as_something(data: bytes) -> None:
    chunk = parse_chunk(data)
    assert isinstance(chunk, Chunk)
    assert TokenCount().add(chunk) >= 0


def test_a_rising_count_makes_an_empty_text_a_token_and_the_last_usage_adds_none() -> None:
    count = TokenCount()
    assert [count.add(parse_chunk(_text(text, usage=n))) for text, n in [("a", 1), ("", 2), ("b", 3), ("", 3)]] == [
        1,
        1,
        1,
        0,
    ]
    assert count.add(parse_chunk(_USAGE_ONLY)) == 0
    assert count.total == 9


@given(
    payloads=st.lists(
        st.one_of(
            st.builds(
                _text,
                st.sampled_from(["a", "", None]),
                finish=st.sampled_from([None, None, "stop"]),
                usage=st.one_of(st.none(), st.integers(min_value=0, max_value=9)),
            ),
            st.sampled_from([_delta(content="a"), _delta(role="assistant"), _USAGE_ONLY, b"{", b"[DONE]", b"{}"]),
            st.sampled_from([_text("abc", token_ids=[1, 2, 3]), _text("a", logprobs={"tokens": ["a"]})]),
            st.sampled_from([b'{"error": "dead"}', b'{"object": "error", "choices": [{"text": "a"}]}']),
        ),
        max_size=8,
    )
)
@settings(deadline=None)
def test_the_cheap_way_counts_as_the_thorough_one(payloads: list[bytes]) -> None:
    cheap, thorough = TokenCount(), TokenCount()
    for payload in payloads:
        chunk = parse_chunk(payload)
        try:
            (message,) = parse_lines(payload)
            new = cheap.add_plain(message)
        except msgspec.DecodeError:
            new = -1
        if new < 0 and chunk.kind is ChunkKind.DELTA:
            new = cheap.add(chunk)
        if chunk.kind is ChunkKind.DELTA:
            assert new == thorough.add(chunk)
        else:
            assert new == -1, "errors, ends and rubbish are never taken for tokens"
        assert cheap.total == thorough.total
