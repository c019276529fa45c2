"""Files of timed steps: both formats, plain and gzip, filters, and errors that name line, column and remedy."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from scoot.simulator import timings_file
from scoot.simulator.timings_file import COLUMNS, read_timings
from scoot.wire.errors import UserError

HEAD = ",".join(COLUMNS)
GOOD = "512,262144,0,2,900,61.5"


def write(folder: Path, text: str, name: str = "steps.csv") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(path: str, where: dict[str, str] | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        read_timings(path, where=where)
    assert caught.value.path == path
    return caught.value


def test_csv_by_column_names_whatever_their_order(tmp_path: Path) -> None:
    rows = read_timings(write(tmp_path, f"note,time_ms,{','.join(COLUMNS[:5])}\nx,61.5,512,262144,0,2,900\n\n"))
    assert len(rows) == 1
    assert rows.time_s == pytest.approx([0.0615])
    assert (rows.prefill_tokens[0], rows.sum_squares[0], rows.sum_cached[0]) == (512, 262144, 0)
    assert (rows.decode_seqs[0], rows.decode_context[0]) == (2, 900)


def test_lists_and_sums_say_the_same(tmp_path: Path) -> None:
    lines = [
        json.dumps({"prefills": [[512, 0], [128, 1024]], "decodes": [700, 200], "ms": 61.5, "other": None}),
        json.dumps(dict(zip(COLUMNS, (640, 512**2 + 128**2, 128 * 1024, 2, 900, 61.5), strict=True))),
    ]
    rows = read_timings(write(tmp_path, "\n".join(lines), "steps.jsonl"))
    for name in ("prefill_tokens", "sum_squares", "sum_cached", "decode_seqs", "decode_context", "time_s"):
        values = getattr(rows, name)
        assert values[0] == values[1] > 0


def test_gzip_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    plain = write(tmp_path, f"{HEAD}\n{GOOD}\n")
    packed = tmp_path / "no_ending"
    packed.write_bytes(gzip.compress(Path(plain).read_bytes()))
    assert np.array_equal(read_timings(str(packed)).time_s, read_timings(plain).time_s)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    assert len(read_timings(write(tmp_path, f"\ufeff{HEAD}\r\n{GOOD}\r\n"))) == 1


def test_several_services_are_asked_to_be_chosen_from(tmp_path: Path) -> None:
    path = write(tmp_path, f"gpu,model,tp,{HEAD}\na100,m,1,{GOOD}\nh100,m,1,{GOOD}\nh100,m,1,{GOOD}\n")
    error = refused(path)
    assert "steps of 2 services: gpu=a100 (1 steps); gpu=h100 (2 steps)" in str(error)
    assert "--where gpu=..." in error.hint
    assert "model" not in str(error).replace(path, "")
    assert len(read_timings(path, where={"gpu": "h100"})) == 2


def test_json_lines_are_filtered_by_their_keys(tmp_path: Path) -> None:
    step = {"decodes": [5], "ms": 1}
    path = write(tmp_path, "\n".join(json.dumps({**step, "tp": tp}) for tp in (1, 2, 2)), "steps.jsonl")
    assert "tp=1 (1 steps); tp=2 (2 steps)" in str(refused(path))
    assert len(read_timings(path, where={"tp": "2"})) == 2


@pytest.mark.parametrize(
    ("where", "says"),
    [({"gpux": "a"}, "there is no 'gpux' to choose steps by"), ({"gpu": "b"}, "no steps with gpu=b in the file")],
)
def test_a_filter_that_finds_nothing_says_so(tmp_path: Path, where: dict[str, str], says: str) -> None:
    assert says in str(refused(write(tmp_path, f"gpu,{HEAD}\na,{GOOD}\n"), where))


@pytest.mark.parametrize(
    ("row", "line", "key"),
    [
        ("512,262144,0,2,900,fast", 3, "time_ms"),
        ("512,262144,0,2,900,nan", 3, "time_ms"),
        ("512,262144,0,2,900,inf", 3, "time_ms"),
        ("512,262144,0,2,900,0", 3, "time_ms"),
        ("512,262144,0,2,900,-3", 3, "time_ms"),
        ("512,262144,,2,900,61", 3, "prefill_sum_tokens_x_ctx"),
        ("512,511,0,2,900,61", 3, "prefill_sum_sq"),
        ("512,262145,0,2,900,61", 3, "prefill_sum_sq"),
        ("0,0,7,2,900,61", 3, "prefill_sum_sq"),
        ("0,0,0,2,1,61", 3, "decode_ctx_sum"),
        ("512,262144,0,0,900,61", 3, "decode_ctx_sum"),
        ("0,0,0,0,0,61", 3, "prefill_tokens"),
        ("1e300,1,0,2,900,61", 3, "prefill_tokens"),
        ("1,1,0,2,900", 3, ""),
    ],
)
def test_a_wrong_row_ends_the_reading(tmp_path: Path, row: str, line: int, key: str) -> None:
    error = refused(write(tmp_path, f"{HEAD}\n{GOOD}\n{row}\n{GOOD}\n"))
    assert (error.line, error.key) == (line, key)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("{", 1, "not valid JSON"),
        ('{"decodes": [5], "ms": 1}\n[1]', 2, "not an object"),
        ('{"decodes": [5]}', 1, "no 'ms'"),
        ('{"decodes": 5, "ms": 1}', 1, "not a list"),
        ('{"prefills": [[5]], "ms": 1}', 1, "not a list of pairs"),
        ('{"prefills": [[5, true]], "ms": 1}', 1, "'True' is not a number"),
        ('{"decodes": [5], "ms": ' + "9" * 400 + "}", 1, "is not a number"),
        ('{"decodes": [5], "ms": NaN}', 1, "is not a number"),
        ('{"prefill_tokens": 3, "ms": 1}', 1, "no 'prefill_sum_sq'"),
        ('{"decodes": [5], "ms": ' + "9" * 5000 + "}", 1, "too long a number"),
        ('{"a": ' + "[" * 100_000, 1, "not valid JSON"),
    ],
)
def test_a_wrong_json_line_ends_the_reading(tmp_path: Path, text: str, line: int, says: str) -> None:
    error = refused(write(tmp_path, text, "steps.jsonl"))
    assert error.line == line
    assert says in error.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column 'prefill_tokens'"),
        ("a,b\n1,2\n", "no column 'prefill_tokens'"),
        (f"{HEAD}\n", "no steps in the file"),
        (f"{HEAD},time_ms\n", "'time_ms' is there twice"),
        (f'{HEAD}\n"' + "x" * 200_000, "not valid CSV"),
    ],
)
def test_files_that_are_no_timings_are_refused(tmp_path: Path, text: str, says: str) -> None:
    assert says in str(refused(write(tmp_path, text)))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert "no such file" in str(refused(str(tmp_path / "none.csv")))
    assert "a folder" in str(refused(str(tmp_path)))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"x" * 5000)[:-9])
    assert "cut off" in str(refused(str(tmp_path / "cut.gz")))
    (tmp_path / "bad.gz").write_bytes(b"\x1f\x8bnothing of the kind")
    assert "damaged" in str(refused(str(tmp_path / "bad.gz")))
    (tmp_path / "latin").write_bytes(b"\xe4\xf6")
    assert "not UTF-8" in str(refused(str(tmp_path / "latin")))
    with pytest.raises(UserError, match="cannot be read"):
        read_timings("a\0b")


def test_limits_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, f"{HEAD}\n" + f"{GOOD}\n" * 10)
    monkeypatch.setattr(timings_file, "MAX_ROWS", 9)
    assert refused(path).line == 11
    monkeypatch.setattr(timings_file, "FILE_BYTES", 200)
    assert "over 0 MiB" in str(refused(path))
    monkeypatch.setattr(timings_file, "_LINE_CHARS", 40)
    assert "a line of over" in str(refused(path))
