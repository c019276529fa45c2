"""What is wrong with a trace is said with path, line and remedy."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from scoot.benchmark import trace_file
from scoot.benchmark.trace import parse_trace
from scoot.benchmark.trace_file import read_trace
from scoot.wire import limits
from scoot.wire.errors import UserError

_AZURE = "arrived_at,input_tokens,output_tokens\n"
_MOONCAKE = '{"timestamp": %d, "input_length": 5, "output_length": 5}\n'
_GROUPED = '{"input_tokens": 4, "output_tokens": 1, "prefix_group": "a", "prefix_tokens": %d}\n'
_BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (_AZURE + "0,5,5\n1,nan,5\n", 3, "not a whole number"),
        (_AZURE + "0,5,inf\n", 2, "not a whole number"),
        (_AZURE + "0,5,2.5\n", 2, "not a whole number"),
        (_AZURE + "0,-5,5\n", 2, "-5 tokens"),
        (_AZURE + "0,5,0\n", 2, "at least 1"),
        (_AZURE + "0,5,99999999\n", 2, "over the limit"),
        (_AZURE + "0,5,\n", 2, "not a number"),
        (_AZURE + "nan,5,5\n", 2, "not a time"),
        (_AZURE + "inf,5,5\n", 2, "not a time"),
        (_AZURE + "-1,5,5\n", 2, "negative"),
        (_AZURE + "0,5,5\n3,5,5\n2,5,5\n", 4, "before the previous row's"),
        (_AZURE + "0,5\n", 2, "2 values"),
        (_AZURE + '0,5,5\n1,"5,5\n', 3, "malformed CSV"),
        ("arrived_at,input_tokens,output_tokns\n0,5,5\n", 1, "'output_tokens' is missing"),
        ("arrived_at,input_tokens,output_tokens,colour\n0,5,5,red\n", 1, "unknown column 'colour'"),
        ("input_tokens,output_tokens,output_tokens\n5,5,5\n", 1, "twice"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,5,5\n", 2, "not a date"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:01,5,5\n2024-05-10 00:00:00,5,5\n",
            3,
            "before the previous",
        ),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:01,5,5\n2024-05-10 00:00:02+00:00,5,5\n",
            3,
            "time zone",
        ),
        (_BURST + "5,GPT-4,10,-1,9,API log\n", 2, "-1 tokens"),
        (_BURST + "5,GPT-4,0,10,9,API log\n", 2, "at least 1"),
        (_BURST + "5,GPT-4,10,0,10,API log\n", 0, "no usable request: 1 requests that had failed"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 5}\n{"timestamp": 0, "input_length"', 2, "malformed"),
        ('{"timestamp": 0, "input_length": 5, "output_length": "5"}\n', 1, "output_length"),
        ('{"timestamp": NaN, "input_length": 5, "output_length": 5}\n', 1, "JSON"),
        (_MOONCAKE % 5 + _MOONCAKE % 4, 2, "before the previous"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [-1]}\n', 1, "block ids"),
        ('{"prompt": "a", "output_len": 1}\n{"prompt": "b"}\n', 2, "length is missing"),
        ('{"prompt": " ", "output_tokens": 1}\n', 1, "prompt is empty"),
        ('{"output_tokens": 1}\n', 1, "neither prompt nor input_tokens"),
        ('{"input_tokens": 4, "output_tokens": 1, "arived_at": 1}\n', 1, "arived_at"),
        ('{"input_tokens": 4, "output_tokens": true}\n', 1, "output_tokens"),
        ('{"input_tokens": 4, "output_tokens": 1, "arrived_at": 1}\n{"input_tokens": 4, "output_tokens": 1}\n', 2,
         "some rows have an arrival time"),
        ('{"input_tokens": 4, "output_tokens": 1, "prefix_tokens": 2}\n', 1, "without prefix_group"),
        (_GROUPED % 2 + _GROUPED % 3, 2, "an earlier row"),
        ('[\n{"conversations": [}\n]', 2, "malformed JSON"),
        ('[{"conversations": "none"}]', 0, "not a ShareGPT file"),
        ("[]", 0, "no usable request"),
        ("hello world\n", 1, "cannot tell the format"),
        ('{"input_tokens": 4,\n', 1, "not a JSON object on one line"),
        ("", 0, "the trace is empty"),
        ("\n  \n", 0, "the trace is empty"),
        (_AZURE, 0, "no usable request"),
    ],
)  # fmt: skip
def test_bad_rows(text: str, line: int, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_trace(text.splitlines(keepends=True), path="t.csv")
    error = caught.value
    assert words in str(error)
    assert (error.path, error.line) == ("t.csv", line)


def test_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="azure, burstgpt") as caught:
        parse_trace(["x"], format="parquet")
    assert caught.value.key == "workload.format"


@pytest.mark.parametrize("format_", ["azure", "jsonl"])
def test_too_many_rows(monkeypatch: pytest.MonkeyPatch, format_: str) -> None:
    monkeypatch.setattr(limits, "REQUESTS", 2)
    rows = ["5,5\n"] * 3 if format_ == "azure" else ['{"input_tokens": 5, "output_tokens": 5}\n'] * 3
    head = ["input_tokens,output_tokens\n"] if format_ == "azure" else []
    with pytest.raises(UserError, match="more than 2 requests"):
        parse_trace(head + rows)
    assert len(parse_trace((head + rows)[:-1])) == 2


def _written(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


_GOOD = (_AZURE + "0,5,6\n").encode()


@pytest.mark.parametrize(
    "data",
    [_GOOD, b"\xef\xbb\xbf" + _GOOD, gzip.compress(_GOOD), _GOOD.replace(b"\n", b"\r\n")],
    ids=["plain", "bom", "gzip", "crlf"],
)
def test_plain_and_gzip_are_told_apart_by_content(tmp_path: Path, data: bytes) -> None:
    rows = read_trace(_written(tmp_path, "trace.bin", data))
    assert [(row.input_tokens, row.output_tokens) for row in rows] == [(5, 6)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the trace is empty"),
        (b"\x7fELF\x02\x01\x01\0\0\0", "binary file"),
        (b"\xff\xfe\xfd some, text", "not UTF-8"),
        (gzip.compress(_GOOD + b"1,5,6\n" * 100)[:-9], "cut off"),
        (gzip.compress(_GOOD)[:-8] + bytes(8), "damaged"),
        (gzip.compress(_GOOD) + b"junk", "damaged"),
        (b"\x28\xb5\x2f\xfd\0\0", "zstd"),
        (b"PK\x03\x04....", "zip"),
    ],
    ids=["empty", "elf", "latin", "cut", "checksum", "trailing", "zstd", "zip"],
)
def test_bad_files(tmp_path: Path, data: bytes, words: str) -> None:
    path = _written(tmp_path, "trace.csv.gz", data)
    with pytest.raises(UserError, match=words) as caught:
        read_trace(path)
    assert caught.value.path == path


def test_missing_file_folder_and_empty_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such trace file") as missing:
        read_trace(str(tmp_path / "nothing.csv"))
    assert missing.value.key == "workload.trace"
    with pytest.raises(UserError, match="a folder"):
        read_trace(str(tmp_path))
    with pytest.raises(UserError, match="no trace file is named"):
        read_trace("")
    with pytest.raises(UserError, match="cannot be read"):
        read_trace("a\0b")


def test_a_bomb_is_refused_before_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_file, "TRACE_BYTES", 1000)
    with pytest.raises(UserError, match="the trace is over"):
        read_trace(_written(tmp_path, "bomb.gz", gzip.compress(_AZURE.encode() + b"0,5,6\n" * 1000)))
    monkeypatch.setattr(trace_file, "_LINE_CHARS", 100)
    with pytest.raises(UserError, match="the trace is over"):
        read_trace(_written(tmp_path, "line.gz", gzip.compress(b"[" + b" " * 500)))
