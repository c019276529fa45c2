"""Every trace format, from text as its publisher writes it, to rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scoot.benchmark.trace import FORMATS, Rows, TraceRow, detect_format, parse_trace
from scoot.benchmark.trace_file import read_trace
from scoot.benchmark.trace_row import estimate_tokens

_TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"


def _notes(rows: tuple[TraceRow, ...]) -> tuple[str, ...]:
    assert isinstance(rows, Rows)
    return rows.notes


def test_azure_with_wall_clock_times() -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
        "2023-11-16 18:15:46.6805900,374,44\r\n"
        "2023-11-16 18:15:50.9951690,396,109\r\n"
    )
    rows = parse_trace(text.splitlines(keepends=True))
    assert rows == (
        TraceRow(arrived_s=0.0, input_tokens=374, output_tokens=44),
        TraceRow(arrived_s=4.314579, input_tokens=396, output_tokens=109),
    )
    assert _notes(rows) == ()


def test_azure_with_time_zones() -> None:
    lines = [
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2024-05-10 00:00:00.009930+00:00,2162,5",
        "2024-05-10 02:00:01.009930+02:00,2399,6",
    ]
    assert [row.arrived_s for row in parse_trace(lines)] == [0.0, 1.0]


def test_azure_with_seconds() -> None:
    rows = parse_trace(["arrived_at,input_tokens,output_tokens", "0.000,374,44", "4.315,396,109"])
    assert rows[1] == TraceRow(arrived_s=4.315, input_tokens=396, output_tokens=109)


def test_lengths_without_arrivals() -> None:
    rows = parse_trace(["output_tokens,input_tokens", "122,3683", "299,2582.0"])
    assert rows == (TraceRow(input_tokens=3683, output_tokens=122), TraceRow(input_tokens=2582, output_tokens=299))


def test_mooncake_blocks_share_prefixes() -> None:
    lines = [
        '{"timestamp": 0, "input_length": 1100, "output_length": 500, "hash_ids": [0, 1, 2]}',
        '{"timestamp": 3000, "input_length": 600, "output_length": 7, "hash_ids": [0, 9]}',
    ]
    assert parse_trace(lines) == (
        TraceRow(arrived_s=0.0, input_tokens=1100, output_tokens=500, blocks=(0, 1, 2), block_tokens=512),
        TraceRow(arrived_s=3.0, input_tokens=600, output_tokens=7, blocks=(0, 9), block_tokens=512),
    )


def test_sharegpt_takes_the_first_pair_and_says_how_it_counted() -> None:
    answer = "Paris is the capital of France."
    conversations = [
        {"id": "a", "conversations": [{"from": "system", "value": "Be brief."}, *_pair("Capital of France?", answer)]},
        {"id": "b", "conversations": [*_pair("First?", "Yes."), *_pair("Second?", "No.")]},
        {"id": "empty", "conversations": []},
        {"id": "unanswered", "conversations": [{"from": "human", "value": "Hello?"}]},
        {"id": "blank", "conversations": _pair("Hello?", "  ")},
    ]
    rows = parse_trace(json.dumps(conversations, indent=1).splitlines())
    assert [row.prompt for row in rows] == ["Capital of France?", "First?"]
    assert [row.output_tokens for row in rows] == [estimate_tokens(answer), estimate_tokens("Yes.")]
    assert all(row.input_tokens is None for row in rows)
    estimated, skipped = _notes(rows)
    assert "estimates" in estimated
    assert skipped.startswith("3 conversations")


def _pair(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def test_burstgpt_skips_failed_requests_and_says_so() -> None:
    lines = [
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        "5,ChatGPT,472,18,490,Conversation log",
        "45,ChatGPT,1087,0,1087,Conversation log",
        "118,GPT-4,417,276,693,API log",
    ]
    rows = parse_trace(lines)
    assert rows == (
        TraceRow(arrived_s=5.0, input_tokens=472, output_tokens=18),
        TraceRow(arrived_s=118.0, input_tokens=417, output_tokens=276),
    )
    assert _notes(rows)[0].startswith("1 requests that had failed")


@pytest.mark.parametrize("name", ["output_tokens", "output_len", "expected_output_len"])
def test_vllm_custom(name: str) -> None:
    lines = [json.dumps({"prompt": "What is the capital of India?", name: 10, "tag": "x"})]
    assert parse_trace(lines, format="vllm") == (TraceRow(prompt="What is the capital of India?", output_tokens=10),)


def test_plain_with_lengths_and_groups() -> None:
    lines = [
        '{"input_tokens": 100, "output_tokens": 5, "arrived_at": 0, "prefix_group": "a", "prefix_tokens": 64}',
        '{"input_tokens": 50, "output_tokens": 6, "arrived_at": 0.5, "prefix_group": "b"}',
        "",
        '{"input_tokens": 90, "output_tokens": 7, "arrived_at": 0.5, "prefix_group": "a"}',
        '{"input_tokens": 41, "output_tokens": 8, "arrived_at": 2, "prefix_group": "b"}',
        '{"input_tokens": 10, "output_tokens": 9, "arrived_at": 2}',
    ]
    rows = parse_trace(lines)
    assert [row.blocks for row in rows] == [(0,), (1,), (0,), (1,), ()]
    assert [row.block_tokens for row in rows] == [64, 20, 64, 20, 0]
    assert [row.arrived_s for row in rows] == [0.0, 0.5, 0.5, 2.0, 2.0]
    assert "1 prefix groups give no prefix_tokens" in _notes(rows)[0]


def test_plain_with_prompt_keeps_text_and_count_and_needs_no_blocks() -> None:
    line = '{"id": "x", "app": "SQL", "prompt": "p q", "output": "r", "input_tokens": 2, "output_tokens": 1,'
    line += ' "prefix_group": "g"}'
    lines = [line]
    assert parse_trace(lines) == (TraceRow(prompt="p q", input_tokens=2, output_tokens=1),)


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("TIMESTAMP,ContextTokens,GeneratedTokens", "azure"),
        ("arrived_at,input_tokens,output_tokens", "azure"),
        ("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type", "burstgpt"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": []}', "mooncake"),
        ('[{"id": "x", "conversations": []}', "sharegpt"),
        ("[", "sharegpt"),
        ('{"prompt": "x", "output_len": 3}', "vllm"),
        ('{"prompt": "x", "output_tokens": 3}', "jsonl"),
        ('\ufeff{"input_tokens": 5, "output_tokens": 3}', "jsonl"),
    ],
)
def test_auto_detection(first: str, expected: str) -> None:
    assert detect_format(first) == expected
    assert expected in FORMATS


def test_blank_lines_before_the_trace_are_passed_over() -> None:
    rows = parse_trace(["\n", "  \n", '{"input_tokens": 5, "output_tokens": 3}\n'])
    assert rows == (TraceRow(input_tokens=5, output_tokens=3),)


@pytest.mark.skipif(not _TRACES.is_dir(), reason=f"no traces at {_TRACES}")
@pytest.mark.parametrize(
    ("name", "rows", "first_input"),
    [
        ("azure2023_conv.csv.gz", 9739, 374),
        ("azure2023_code.csv.gz", 5353, 4808),
        ("mooncake_conversation.jsonl.gz", 5606, 6758),
        ("app_SQL_bird_dev.jsonl.gz", 1534, 1152),
        ("arxiv_summarization_lengths.csv.gz", 3000, 3683),
    ],
)
def test_real_traces_are_read_whole(name: str, rows: int, first_input: int) -> None:
    read = read_trace(str(_TRACES / name))
    assert len(read) == rows
    assert read[0].input_tokens == first_input
