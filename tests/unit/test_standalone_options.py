"""Texts of the stand-alone tool's command line become values, or one clear error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.benchmark.standalone.command import without_secrets
from scoot.benchmark.standalone.options import (
    Span,
    parse_cpus,
    parse_header,
    parse_limits,
    parse_rates,
    parse_slo_classes,
    parse_slos,
    parse_span,
    parse_vocab,
)
from scoot.wire.errors import UserError
from scoot.wire.spec import Limits, SloClass


def test_lengths() -> None:
    assert parse_span("512", key="--x") == Span(512, 512)
    assert parse_span("128:1024", key="--x") == Span(128, 1024)


@pytest.mark.parametrize("text", ["", "x", "0", "5:", "8:4", "-1", "1:2:3", "99999999"])
def test_lengths_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_span(text, key="--input-tokens")
    assert caught.value.key == "--input-tokens"
    assert caught.value.hint


def test_vocabulary_leaves_its_end_out() -> None:
    assert parse_vocab("16:32000", key="--vocab") == Span(16, 31_999)
    assert parse_vocab("0:1", key="--vocab") == Span(0, 0)


@pytest.mark.parametrize("text", ["", "16", "16:16", "5:4", "-1:4", "0:4294967297"])
def test_vocabularies_refused(text: str) -> None:
    with pytest.raises(UserError, match="token id"):
        parse_vocab(text, key="--vocab")


def test_objectives_have_units_and_are_milliseconds_without() -> None:
    (promise,) = parse_slos(["ttft=500ms, tpot=50", "e2el=1.5s"], key="--slo")
    assert promise == SloClass(name="all", ttft_ms=500.0, tpot_ms=50.0, e2e_ms=1500.0)
    assert parse_slos(["ttft=250us"], key="--slo")[0].ttft_ms == 0.25
    assert parse_slos([], key="--slo") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ttft", "no objective"),
        ("ttft=", "no duration"),
        ("ttft=0ms", "no duration"),
        ("ttft=-1ms", "no duration"),
        ("ttft=nan", "no duration"),
        ("ttft=5m", "no duration"),
        ("itl=5ms", "unknown latency"),
        ("share=1", "unknown latency"),
        ("ttft=1ms,ttft=2ms", "twice"),
    ],
)
def test_objectives_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_slos([text], key="--slo")


def test_classes() -> None:
    classes = parse_slo_classes(["chat:share=0.8,ttft=500ms", "batch:share=0.2"], key="--slo-class")
    assert classes == (SloClass(name="chat", share=0.8, ttft_ms=500.0), SloClass(name="batch", share=0.2))


@pytest.mark.parametrize("text", ["share=1", ":share=1", "chat:share=1ms", "chat:share=0", "chat:foo=1", "chat:"])
def test_classes_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_slo_classes([text], key="--slo-class")


def test_headers() -> None:
    assert parse_header("X-Team:  a:b ", key="--header") == ("X-Team", "a:b")


@pytest.mark.parametrize("text", ["X-Team", ": x", "X Team: x", "X-Team: a\nEvil: b", "X-Team: ü"])
def test_headers_refused(text: str) -> None:
    with pytest.raises(UserError, match="header"):
        parse_header(text, key="--header")


def test_cpus_keep_their_order() -> None:
    assert parse_cpus("4-6, 2", key="--cpus") == (4, 5, 6, 2)


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,1", "1-", "-2", "0-99999999"])
def test_cpus_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_cpus(text, key="--cpus")


def test_rates() -> None:
    assert parse_rates("8,1, 2.5", key="--rates") == (1.0, 2.5, 8.0)
    assert parse_rates(" auto ", key="--rates") is None


@pytest.mark.parametrize("text", ["", "a", "1,,2", "0,1", "-1", "inf", "nan", "1,1.0"])
def test_rates_refused(text: str) -> None:
    with pytest.raises(UserError, match="rate"):
        parse_rates(text, key="--rates")


def test_limits_keep_their_defaults() -> None:
    limits = parse_limits(["min_requests=5", "lateness_p99_ms=1.5"], key="--limit")
    assert limits == Limits(min_requests=5, lateness_p99_ms=1.5)


@pytest.mark.parametrize("text", ["min_requests", "min_requests=1.5", "foo=1", "merged_share=x", "start_timeout_s=1"])
def test_limits_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"limit|number"):
        parse_limits([text], key="--limit")


@given(st.text(), st.sampled_from([parse_span, parse_vocab, parse_cpus, parse_rates, parse_header]))
def test_any_text_is_a_value_or_the_users_error(text: str, parse: object) -> None:
    assert callable(parse)
    keys = set()
    try:
        parse(text, key="--x")
    except UserError as error:
        keys.add(error.key)
    assert keys <= {"--x"}


def test_secrets_of_headers_are_left_out_of_the_command_line() -> None:
    told = without_secrets(["run", "--header", "Key: s3cret", "--header=X: s3cret", "--rate", "5"])
    assert told == ("run", "--header", "Key:...", "--header=X:...", "--rate", "5")
