"""Catalogues as values and as files, the ones that come with SCOOT, and what changed between two of them."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.wire.catalogue import shelf
from scoot.wire.catalogue.diff import diff_catalogues
from scoot.wire.catalogue.option import (
    Catalogue,
    EngineOption,
    OptionKind,
    Source,
    decode_catalogue,
    encode_catalogue,
    without_host,
)
from scoot.wire.catalogue.overlay import parse_overlay
from scoot.wire.errors import UserError

names = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
scalars = st.one_of(
    st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
values = st.none() | scalars | st.lists(scalars, max_size=3).map(tuple)
limits = st.none() | st.integers(-100, 100) | st.floats(-100, 100)
options = st.builds(
    EngineOption,
    name=names,
    kind=st.sampled_from(OptionKind),
    aliases=st.lists(names, max_size=2).map(tuple),
    choices=st.lists(scalars, max_size=3).map(tuple),
    minimum=limits,
    maximum=limits,
    above_minimum=st.booleans(),
    below_maximum=st.booleans(),
    default=values,
    effective=values,
    nullable=st.booleans(),
    help=st.text(max_size=20),
    group=st.text(max_size=8),
)


def catalogue_of(items: list[EngineOption], version: str = "1.0") -> Catalogue:
    unique = {option.name: option for option in items}
    return Catalogue(
        engine="vllm",
        version=version,
        device="cpu",
        source=Source.LIVE,
        options=tuple(unique[name] for name in sorted(unique)),
    )


catalogues = st.lists(options, max_size=8).map(catalogue_of)


@given(catalogues)
def test_a_catalogue_comes_back_from_its_file(catalogue: Catalogue) -> None:
    data = encode_catalogue(catalogue)
    assert decode_catalogue(data, path="x.json") == catalogue
    assert len(data.decode().splitlines()) >= len(catalogue.options)


HEAD = {"schema": 1, "engine": "e", "version": "1", "device": "cpu", "source": "live"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"schema"', "x.json: not JSON"),
        (msgspec.json.encode({**HEAD, "schema": 2, "options": []}), "schema"),
        (msgspec.json.encode(HEAD), "options"),
        (msgspec.json.encode({**HEAD, "options": [{"name": "a", "kind": "word"}]}), "$.options[0].kind"),
        (
            msgspec.json.encode({**HEAD, "options": [{"name": "b", "kind": "int"}, {"name": "a", "kind": "int"}]}),
            "'a' comes after 'b'",
        ),
    ],
)
def test_a_broken_file_is_named_with_the_place(data: bytes, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        decode_catalogue(data, path="x.json")
    assert raised.value.path == "x.json"
    assert "catalogue_snapshot" in raised.value.hint or "once" in raised.value.hint


def test_stated_limits_and_their_words() -> None:
    share = EngineOption(name="share", kind=OptionKind.FLOAT, minimum=0, above_minimum=True, maximum=1)
    assert [share.allows(value) for value in (0, 0.01, 1, 1.01)] == [False, True, True, False]
    assert share.limits() == "above 0, at most 1"
    open_top = EngineOption(name="watermark", kind=OptionKind.FLOAT, minimum=0, maximum=1, below_maximum=True)
    assert [open_top.allows(value) for value in (-0.1, 0, 0.99, 1)] == [False, True, True, False]
    assert open_top.limits() == "at least 0, below 1"
    assert EngineOption(name="free", kind=OptionKind.INT).limits() == ""


def test_a_snapshot_has_nothing_of_its_host() -> None:
    def option(name: str, **fields: object) -> EngineOption:
        return EngineOption(name=name, kind=OptionKind.TEXT, **fields)  # type: ignore[arg-type]

    live = catalogue_of(
        [
            option("cores", effective=16),
            option("folder", default="/opt/engine/cache", effective="~/cache/x"),
            option("kept", default="auto", effective=("a/b", "model/**/*")),
            option("listed", effective=("x", "/tmp/y")),  # noqa: S108 - a path as an engine would print it
        ]
    )
    other = catalogue_of([option("cores", effective=1), option("kept", effective=("a/b", "model/**/*"))])
    found = without_host(live, other)
    assert found.source is Source.SNAPSHOT
    assert {item.name: (item.default, item.effective) for item in found.options} == {
        "cores": (None, None),
        "folder": (None, None),
        "kept": ("auto", ("a/b", "model/**/*")),
        "listed": (None, None),
    }
    assert without_host(live).by_name["cores"].effective == 16
    assert without_host(live, forget={"cores"}).by_name["cores"].effective is None


@given(catalogues)
def test_nothing_changed_between_a_version_and_itself(catalogue: Catalogue) -> None:
    found = diff_catalogues(catalogue, catalogue)
    assert (found.added, found.removed, found.changed) == ((), (), ())


@given(catalogues, catalogues)
def test_a_comparison_accounts_for_every_option(one: Catalogue, two: Catalogue) -> None:
    found, back = diff_catalogues(one, two), diff_catalogues(two, one)
    added = {option.name for option in found.added}
    removed = {item.name for item in found.removed}
    changed = {item.name for item in found.changed}
    assert two.by_name.keys() - added == one.by_name.keys() - removed
    assert added == {item.name for item in back.removed}
    assert changed == {item.name for item in back.changed}
    for change in found.changed:
        for field in change.fields:
            assert field.old == getattr(one.by_name[change.name], field.field)
            assert field.new == getattr(two.by_name[change.name], field.field)
    same = (one.by_name.keys() & two.by_name.keys()) - changed
    for name in same:
        plain = msgspec.structs.replace(one.by_name[name], help="", group="")
        assert plain == msgspec.structs.replace(two.by_name[name], help="", group="")


def test_a_flag_that_becomes_a_number_is_a_change() -> None:
    old = catalogue_of([EngineOption(name="a", kind=OptionKind.TEXT, default=True, choices=(1, 2))])
    new = catalogue_of([EngineOption(name="a", kind=OptionKind.TEXT, default=1, choices=(True, 2))])
    (change,) = diff_catalogues(old, new).changed
    assert {field.field for field in change.fields} == {"default", "choices"}


def test_effective_defaults_of_other_devices_are_not_compared() -> None:
    old = catalogue_of([EngineOption(name="a", kind=OptionKind.INT, effective=128)])
    new = catalogue_of([EngineOption(name="a", kind=OptionKind.INT, effective=256)])
    assert len(diff_catalogues(old, new).changed) == 1
    assert diff_catalogues(old, msgspec.structs.replace(new, device="cuda")).changed == ()


OVERLAY = """
engine = "vllm"
about = "made up"
[changes.old_name]
change = "renamed"
to = "new_name"
[changes.gone]
change = "removed"
nearest = ["near", "absent"]
note = "nobody needs it"
"""


def test_what_replaces_a_removed_option() -> None:
    gone = ["alias_now", "gone", "old_name", "reqs_max", "unheard_of"]
    old = catalogue_of([EngineOption(name=name, kind=OptionKind.INT) for name in gone], "1.0")
    new = catalogue_of(
        [
            EngineOption(name="near", kind=OptionKind.INT),
            EngineOption(name="new_name", kind=OptionKind.INT),
            EngineOption(name="now", kind=OptionKind.INT, aliases=("alias_now",)),
            EngineOption(name="reqs_maxi", kind=OptionKind.INT),
        ],
        "2.0",
    )
    found = {item.name: item for item in diff_catalogues(old, new, parse_overlay(OVERLAY, path="o.toml")).removed}
    assert found["alias_now"].instead == ("now",)
    assert found["gone"].instead == ("near",), "one that the version does not have is no replacement"
    assert found["gone"].note == "nobody needs it"
    assert found["old_name"].instead == ("new_name",)
    assert (found["reqs_max"].instead, found["reqs_max"].guess) == ((), "reqs_maxi")
    assert (found["unheard_of"].instead, found["unheard_of"].guess) == ((), "")


def test_an_alias_never_hides_an_option_of_that_name() -> None:
    catalogue = catalogue_of(
        [
            EngineOption(name="a", kind=OptionKind.INT, aliases=("b", "c")),
            EngineOption(name="b", kind=OptionKind.INT),
        ]
    )
    assert set(catalogue.by_alias) == {"c"}


# --- what comes with SCOOT -------------------------------------------------------------------------------------------

SNAPSHOTS = [(engine, version) for engine in shelf.engines() for version in shelf.versions(engine)]


def test_versions_are_in_their_order() -> None:
    assert shelf.versions("vllm")[:2] == ("0.27.1", "0.32.0")
    mixed = ["0.27.1.post1", "0.9", "0.27.1", "0.100", "0.27.1rc2"]
    assert sorted(mixed, key=shelf.version_key)[:2] == ["0.9", "0.27.1"]
    assert max(mixed, key=shelf.version_key) == "0.100"


def test_the_latest_version_is_not_the_last_in_the_alphabet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for version in ("0.9.1", "0.100.0", "0.27.1"):
        (tmp_path / f"vllm-{version}.json").write_bytes(encode_catalogue(catalogue_of([], version)))
    (tmp_path / "vllm-notes.txt").touch()
    monkeypatch.setattr(shelf, "_folder", lambda _: tmp_path)
    shelf.versions.cache_clear()
    shelf.snapshot_of.cache_clear()
    try:
        assert shelf.versions("vllm") == ("0.9.1", "0.27.1", "0.100.0")
        latest = shelf.snapshot_of("vllm")
    finally:
        shelf.versions.cache_clear()
        shelf.snapshot_of.cache_clear()
    assert latest is not None
    assert latest.version == "0.100.0"


@pytest.mark.parametrize(("engine", "version"), SNAPSHOTS)
def test_snapshots_are_whole_and_of_no_host(engine: str, version: str) -> None:
    catalogue = shelf.snapshot_of(engine, version)
    assert catalogue is not None
    assert (catalogue.engine, catalogue.version, catalogue.source) == (engine, version, Source.SNAPSHOT)
    assert len(catalogue.options) >= {"vllm": 282, "sglang": 530, "transformers": 21}[engine]
    assert without_host(catalogue) == catalogue
    for option in catalogue.options:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", option.name), option.name
        assert "\n" not in option.help
        assert option.default != "==SUPPRESS=="
        if option.kind is OptionKind.ENUM:
            assert option.choices, option.name
            assert option.default is None or option.default in option.choices, option.name


def test_the_catalogue_of_vllm_knows_types_choices_and_resolved_defaults() -> None:
    catalogue = shelf.snapshot_of("vllm")
    assert catalogue is not None
    seqs = catalogue.by_name["max_num_seqs"]
    assert (seqs.kind, seqs.default, seqs.effective, seqs.nullable) == (OptionKind.INT, None, 128, True)
    assert catalogue.by_name["enable_prefix_caching"].kind is OptionKind.BOOL
    assert catalogue.by_name["enable_prefix_caching"].effective is True
    assert "throughput" in catalogue.by_name["performance_mode"].choices
    assert catalogue.by_name["gpu_memory_utilization"].limits() == "above 0, at most 1"
    assert catalogue.by_alias["tp"].name == "tensor_parallel_size"


def test_an_unknown_version_names_those_there_are() -> None:
    with pytest.raises(UserError, match=r"0\.27\.1"):
        shelf.snapshot_of("vllm", "0.1")
    with pytest.raises(UserError, match="did you mean 'vllm'"):
        shelf.snapshot_of("vlm")
    with pytest.raises(UserError, match="none at all"):
        shelf.snapshot_of("trtllm", "1.2")
    assert shelf.snapshot_of("trtllm") is None
