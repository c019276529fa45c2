"""Built-in profiles agree with the traces they were fitted to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scoot.benchmark.profiles import PROFILES, draw
from scoot.benchmark.quantile import percentile
from scoot.benchmark.trace_file import read_trace
from scoot.wire.errors import UserError

_TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"

_TOLERANCE = 0.05
"""Relative, on p50 and p95 of inputs and outputs; lengths are whole tokens, so one token is always allowed."""


@pytest.mark.skipif(not _TRACES.is_dir(), reason=f"no traces at {_TRACES}")
@pytest.mark.parametrize("percent", [50, 95])
@pytest.mark.parametrize(
    ("name", "trace"),
    [
        ("SQL", "app_SQL_bird_dev.jsonl.gz"),
        ("BOT", "app_BOT_arena_hard_v0.1.jsonl.gz"),
        ("CLS", "app_CLS_banking77_train.jsonl.gz"),
        ("AZURE_CONV", "azure2023_conv.csv.gz"),
    ],
)
def test_quantiles_are_those_of_the_trace(name: str, trace: str, percent: int) -> None:
    drawn = draw(PROFILES[name], 2000, seed=11)
    real = read_trace(str(_TRACES / trace))
    for field in ("input_tokens", "output_tokens"):
        expected = percentile(np.array([getattr(row, field) for row in real]), percent)
        got = percentile(np.array([getattr(row, field) for row in drawn]), percent)
        assert abs(got - expected) <= max(1.0, _TOLERANCE * expected), field


def test_the_profiles_are_those_of_the_paper_and_azure() -> None:
    assert list(PROFILES) == ["SQL", "BOT", "CLS", "REC", "AZURE_CONV"]
    assert all(profile.name == name for name, profile in PROFILES.items())


@pytest.mark.parametrize("name", list(PROFILES))
def test_knots_are_quantile_functions_and_rows_obey_them(name: str) -> None:
    profile = PROFILES[name]
    for knots in (profile.own_tokens, profile.output_tokens):
        levels, tokens = zip(*knots, strict=True)
        assert (levels[0], levels[-1]) == (0, 100)
        assert list(levels) == sorted(set(levels))
        assert list(tokens) == sorted(tokens)
        assert tokens[0] >= 1
    for row in draw(profile, 500, seed=5):
        prefix = profile.groups[row.blocks[0]].tokens if profile.groups else 0
        assert row.block_tokens == prefix
        assert profile.own_tokens[0][1] <= (row.input_tokens or 0) - prefix <= profile.own_tokens[-1][1]
        assert profile.output_tokens[0][1] <= row.output_tokens <= profile.output_tokens[-1][1]


def test_sql_groups_appear_by_weight_and_cls_has_one_head() -> None:
    rows = draw(PROFILES["SQL"], 1534, seed=2)
    counts = np.bincount([row.blocks[0] for row in rows])
    weights = [group.weight for group in PROFILES["SQL"].groups]
    assert np.abs(counts - np.array(weights)).max() <= 1  # stratified: off by rounding only
    assert {row.blocks for row in draw(PROFILES["CLS"], 300, seed=2)} == {(0,)}


def test_draws_follow_the_seed() -> None:
    profile = PROFILES["BOT"]
    assert draw(profile, 300, 7) == draw(profile, 300, 7)
    assert draw(profile, 300, 7) != draw(profile, 300, 8)
    assert draw(profile, 3, -1) != draw(profile, 3, 1)


@pytest.mark.parametrize("n", [0, -1, 10**9])
def test_counts_out_of_range(n: int) -> None:
    with pytest.raises(UserError, match="cannot be drawn"):
        draw(PROFILES["BOT"], n, 0)
