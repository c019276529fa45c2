"""The page of results: its numbers against cases by hand, its text, and its plots."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.optimizer.base import Problem
from scoot.coordinator.space.space import Space
from scoot.experiments import landscape, page_command
from scoot.experiments.catalogue import SERVICES, select
from scoot.experiments.command import cli
from scoot.experiments.evaluation import Evaluate, Evaluated
from scoot.experiments.fronts import Share, shares_of
from scoot.experiments.memo import fingerprint
from scoot.experiments.page import Comparison, page_of, slug
from scoot.experiments.plots import log_ticks, styles_of, svg
from scoot.experiments.recipe import recipes_of, services_text
from scoot.experiments.run import Design, Run, RunSpec, Step
from scoot.experiments.run_file import write_run
from scoot.experiments.scores import Reference, relative
from scoot.experiments.series import (
    Conflict,
    Conflicts,
    Curve,
    Curves,
    Degree,
    Degrees,
    Gains,
    Panel,
    Plot,
    Shares,
    Spread,
    Transfer,
    alone,
    common_runs,
    curves_of,
    degrees_of,
    gains_of,
    rivals_of,
    tallies_of,
)
from scoot.experiments.table import Known, Part, comparison, labels, overview, parts_of, scores_of
from scoot.wire.spec import Config, Parameter, ParameterKind

LESS, MORE = Direction.MINIMISE, Direction.MAXIMISE
CLS, CLS_TOO, SQL = "CLS-4a10-13b", "CLS-2a100-13b", "SQL-4a100-13b"
SPACE = Space.build((Parameter(name="a", kind=ParameterKind.INT, low=0, high=9, default=0),))


def known_as(name: str) -> Known:
    """One objective from 100 to 50, two from (10, 10) to (4, 4)."""
    several = len(SERVICES[name].objectives) > 1
    anchor, front = ((10.0, 10.0), ((4.0, 4.0),)) if several else ((100.0,), ((50.0,),))
    return Known(
        problem=Problem(space=SPACE, directions=(LESS,) * len(anchor)),
        reference=Reference(service=name, tried=9, failed=2, broken=0, default=anchor, anchor=anchor, front=front),
    )


KNOWN = {name: known_as(name) for name in (CLS, CLS_TOO, SQL)}


def run_of(
    service: str, method: str, seed: int, *last: float, parallelism: int = 1, design: Design = Design.OWN
) -> Run:
    """Two trials: the default, and one with these values."""
    anchor = KNOWN[service].reference.anchor
    steps = tuple(
        Step(
            number=number,
            config={"a": number},
            trial=Evaluated(values=values, outcomes=(), simulated_s=3600.0),
            source=("default", "m")[number],
            asked_s=0.0,
            ended_s=3600.0 * (number + 1) / parallelism,
        )
        for number, values in enumerate((anchor, last))
    )
    spec = RunSpec(service=service, method=method, seed=seed, budget=2, parallelism=parallelism, design=design)
    return Run(spec=spec, steps=steps)


def parts(*runs: Run) -> list[Part]:
    return parts_of(scores_of(runs, KNOWN), KNOWN)


# -- what is compared --------------------------------------------------------------------------------------------------


def test_methods_are_compared_on_the_pairs_that_all_have_and_the_tables_say_so() -> None:
    runs = [
        run_of(CLS, "x", 0, 50.0),
        run_of(CLS, "x", 1, 100.0),
        run_of(CLS, "y", 0, 75.0),
        run_of(SQL, "x", 0, 4.0, 4.0),
    ]
    one, several = parts(*runs)
    assert one.pairs == ((CLS, 0),)
    assert one.notes()[0] == (
        "Compared on the 1 of 2 pairs of service and seed that every method has; missing: 1 of y."
    )
    assert (several.pairs, several.absent) == (((SQL, 0),), ("y",))
    text = "\n".join(comparison(runs, KNOWN, against="x"))
    assert "| x | 1 | 0.000 |" in text
    assert "missing: 1 of y." in text
    assert "## Two or three objectives\n\nDid not run on these services: y.\n" in text
    assert "| x | 1 | 1.000 |" in text


def test_methods_without_a_common_pair_are_not_compared() -> None:
    runs = [run_of(CLS, "x", 0, 50.0), run_of(CLS, "y", 1, 75.0)]
    (part,) = parts(*runs)
    assert part.pairs == ()
    assert "| x |" not in "\n".join(comparison(runs, KNOWN, against="x"))
    assert common_runs(runs) == ()


def test_whole_comparisons_have_no_notes() -> None:
    (part,) = parts(run_of(CLS, "x", 0, 50.0), run_of(CLS, "y", 0, 75.0))
    assert part.notes() == []


def test_runs_in_common_are_of_the_methods_that_ran_on_the_service() -> None:
    runs = [
        run_of(CLS, "x", 0, 50.0),
        run_of(CLS, "x", 1, 50.0),
        run_of(CLS, "y", 1, 50.0),
        run_of(CLS_TOO, "x", 0, 50.0),
    ]
    assert [(run.spec.service, run.spec.method, run.spec.seed) for run in common_runs(runs)] == [
        (CLS, "x", 1),
        (CLS, "y", 1),
        (CLS_TOO, "x", 0),
    ]


RUNS = st.lists(
    st.builds(
        run_of,
        st.sampled_from([CLS, CLS_TOO]),
        st.sampled_from(["x", "y", "z"]),
        st.integers(0, 2),
        st.floats(50.0, 100.0),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda run: (run.spec.service, run.spec.method, run.spec.seed),
)


@given(RUNS)
def test_whatever_is_missing_the_rest_is_paired(runs: list[Run]) -> None:
    (part,) = parts(*runs)
    ran = {label: {(run.spec.service, run.spec.seed) for run in group} for label, group in labels(runs).items()}
    assert set(part.pairs) == set.intersection(*ran.values())
    assert bool(part.notes()) == (len(set(part.pairs)) < len(set().union(*ran.values())))
    kept = {(run.spec.service, run.spec.seed) for run in common_runs(runs)}
    assert set(part.pairs) <= kept
    if part.pairs:
        curves = curves_of(part)
        assert curves.pairs == len(part.pairs)
        for curve in curves.curves:
            finals = [part.scores[curve.label][pair].quality[-1] for pair in part.pairs]
            assert curve.mean[-1] == pytest.approx(1 - sum(finals) / len(finals))
            assert 0 <= curve.error[-1] <= 0.5 + 1e-9
        for tally in tallies_of(part, dict.fromkeys(part.scores, "x")):
            assert tally.total.wins == sum(one.wins for one in tally.seeds.values())
            assert tally.total.wins + tally.total.ties + tally.total.losses == len(part.pairs)


# -- series ------------------------------------------------------------------------------------------------------------


def test_curves_are_means_with_their_standard_error() -> None:
    (part,) = parts(run_of(CLS, "x", 0, 50.0), run_of(CLS, "x", 1, 90.0))
    (curve,) = curves_of(part).curves
    assert curve.mean == pytest.approx((1.0, 0.4))
    assert curve.error == pytest.approx((0.0, 0.4))  # of 0 and 0.8: their deviation 0.566 over the root of two
    (part,) = parts(run_of(CLS, "x", 0, 50.0))
    assert curves_of(part).curves[0].error == (0.0, 0.0)
    (part,) = parts(run_of(SQL, "x", 0, 7.0, 4.0))
    assert curves_of(part).curves[0].mean == pytest.approx((0.0, 0.5))


def test_gains_are_per_stratum_metric_and_service() -> None:
    runs = [run_of(CLS, "x", 0, 50.0), run_of(CLS, "x", 1, 90.0), run_of(SQL, "y", 0, 8.0, 5.0)]
    found = gains_of(runs, KNOWN, SERVICES)
    assert list(found) == ["SQL", "CLS"]
    (panel,) = found["CLS"].panels
    assert panel.metric == "e2e_p95"
    (spread,) = panel.rows[CLS]
    assert (spread.label, spread.mean, spread.low, spread.high) == ("x", *map(pytest.approx, (0.3, 0.1, 0.5)))
    panels = found["SQL"].panels
    assert [panel.metric for panel in panels] == ["ttft_mean", "tpot_mean"]
    assert [panel.rows[SQL][0].mean for panel in panels] == pytest.approx([0.2, 0.5])


def test_relative_improvements_know_directions() -> None:
    assert relative((50.0, 15.0), (100.0, 10.0), (LESS, MORE)) == pytest.approx((0.5, 0.5))
    assert relative((200.0,), (100.0,), (LESS,)) == (-1.0,)


def test_quality_and_time_by_trials_at_once() -> None:
    runs = [
        run_of(CLS, method, seed, last, parallelism=parallelism)
        for method, parallelism, last in (("x", 1, 50.0), ("x", 4, 60.0), ("y", 1, 100.0))
        for seed in (0, 1)
    ]
    (part,) = parts(*runs)
    degrees = degrees_of(part, runs).degrees
    assert [(each.method, each.at_once) for each in degrees] == [("x", 1), ("x", 4), ("y", 1)]
    assert [each.mean for each in degrees] == pytest.approx([0.0, 0.2, 1.0])
    assert [each.hours for each in degrees] == pytest.approx([2.0, 0.5, 2.0])
    assert [alone(label) for label in ("x sobol p16 b30", "p1-method p1", "x")] == ["x sobol b30", "p1-method", "x"]


def test_a_rival_differs_in_the_method_only() -> None:
    runs = [
        run_of(CLS, method, 0, 50.0, parallelism=parallelism)
        for method, parallelism in (("x", 1), ("x", 8), ("y", 1), ("y", 8), ("z", 2))
    ]
    assert rivals_of(runs, "x") == {"y p1": "x p1", "y p8": "x p8"}
    assert rivals_of(runs, "nobody") == {}


def test_wins_ties_and_losses_by_seed() -> None:
    runs = [run_of(CLS, "x", seed, 70.0) for seed in (0, 1, 2)]
    runs += [run_of(CLS, "y", seed, last) for seed, last in enumerate((60.0, 70.0, 80.0))]
    runs += [run_of(CLS_TOO, "x", 0, 70.0), run_of(CLS_TOO, "y", 0, 60.0)]
    (part,) = parts(*runs)
    (tally,) = tallies_of(part, {"y": "x"})
    counts = {seed: (each.wins, each.ties, each.losses) for seed, each in tally.seeds.items()}
    assert counts == {0: (2, 0, 0), 1: (0, 1, 0), 2: (0, 0, 1)}
    assert (tally.total.wins, tally.total.ties, tally.total.losses) == (2, 1, 1)


def test_parts_in_the_joint_front() -> None:
    runs = [
        run_of(SQL, "x", 0, 2.0, 8.0),
        run_of(SQL, "y", 0, 8.0, 2.0),
        run_of(SQL, "x", 1, 2.0, 2.0),
        run_of(SQL, "y", 1, 5.0, 5.0),
    ]
    found = shares_of([*runs, run_of(CLS, "x", 0, 60.0)], {SQL: KNOWN[SQL]})
    assert [(each.label, each.points, each.width) for each in found] == [("x", 0.75, 0.5), ("y", 0.25, 0.0)]
    twice = Run(spec=runs[0].spec, steps=(*runs[0].steps, runs[0].steps[-1]))
    assert [each.points for each in shares_of([twice, runs[1]], {SQL: KNOWN[SQL]})] == [0.5, 0.5]
    both = shares_of([run_of(SQL, "x", 0, 2.0, 8.0), run_of(SQL, "y", 0, 2.0, 8.0)], {SQL: KNOWN[SQL]})
    assert [each.points for each in both] == [1.0, 1.0]


# -- how the runs were made --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["all", "judging", "development", "paper", "BOT", "judging&SQL", f"{CLS_TOO},{CLS}"])
def test_services_are_called_as_the_command_line_calls_them(words: str) -> None:
    assert services_text(service.name for service in select(words)) in {words, f"{CLS},{CLS_TOO}"}


def test_the_command_that_makes_the_runs() -> None:
    runs = [run_of(CLS, method, seed, 50.0, parallelism=p) for method in "xy" for seed in (0, 1) for p in (1, 4)]
    (recipe,) = recipes_of(runs[:-1], "runs")
    assert " ".join(recipe.command) == (
        f"compare --methods x,y --services {CLS} --seeds 2 --budget 2 --parallelism 1,4 --out runs"
    )
    assert (recipe.runs, recipe.missing) == (7, {"y": 1})
    several = recipes_of([run_of(CLS, "x", 0, 50.0), run_of(CLS, "x", 0, 50.0, design=Design.AROUND)], "runs")
    assert [recipe.command[-4:-2] for recipe in several] == [("--budget", "2"), ("--design", "around")]


# -- the page ----------------------------------------------------------------------------------------------------------


def whole() -> tuple[Run, ...]:
    return (
        *(run_of(CLS, method, seed, 50.0 + seed) for method in ("x", "y") for seed in (0, 1, 2)),
        *(run_of(SQL, method, seed, 5.0, 6.0) for method in ("x", "y") for seed in (0, 1)),
    )


def page(runs: tuple[Run, ...], title: str = "Main", stale: int = 0, against: str = "x") -> tuple[str, dict[str, Plot]]:
    known = {name: KNOWN[name] for name in dict.fromkeys(run.spec.service for run in runs)}
    found = page_of(
        [Comparison(title=title, folder="runs", runs=runs, known=known, stale=stale)],
        command=("page", "runs"),
        folder="plots",
        against=against,
    )
    return found.text, found.plots


def test_the_page_says_what_ran_and_shows_every_plot() -> None:
    text, plots = page(whole())
    assert "10 runs: 2 methods, 2 services, seeds 0 to 2, 2 trials each, 1 at once, first design: own." in text
    assert "* For judging: all.\n* For developing: none.\n" in text
    assert f"compare --methods x,y --services {SQL},{CLS} --seeds 3 --budget 2 --out runs" in text
    assert "Of the runs that this makes, 1 of x, 1 of y are not here." in text
    assert "| one objective | y | x | 0-1-0 | 0-1-0 | 0-1-0 | 0-3-0 |" in text
    assert "| two or three objectives | y | x | 0-1-0 | 0-1-0 |  | 0-2-0 |" in text
    assert set(re.findall(r"\]\(plots/([a-z0-9-]+)\.svg\)", text)) == set(plots)
    assert set(plots) == {"main-regret", "main-hypervolume", "main-gain-cls", "main-gain-sql", "main-fronts"}
    assert "another version" not in text
    assert "3 runs are of another version" in page(whole(), stale=3)[0]


def test_tables_of_a_page_are_those_of_the_table_command() -> None:
    runs = whole()
    text, _ = page(runs)
    known = {name: KNOWN[name] for name in (CLS, SQL)}
    for line in comparison(runs, known, against="x"):
        assert (f"#{line}" if line.startswith("##") else line) in text.splitlines()


def test_parallelism_has_its_own_plots_and_no_joint_front() -> None:
    runs = tuple(run_of(SQL, "x", 0, 5.0, 6.0, parallelism=parallelism) for parallelism in (1, 8))
    text, plots = page(runs, title="Trials at once: 1 and 8")
    assert isinstance(plots["trials-at-once-1-and-8-parallel-hypervolume"], Degrees)
    assert not any(isinstance(plot, Shares) for plot in plots.values())
    assert "| x p8 | 1 |" in text


def test_a_page_without_anything_in_common_is_a_page() -> None:
    text, plots = page((run_of(CLS, "x", 0, 50.0), run_of(CLS, "y", 1, 60.0)))
    assert "Compared on the 0 of 2 pairs" in text
    assert plots == {}


def test_the_overview_has_seconds_only_where_they_are_known() -> None:
    assert "s per trial" not in overview(KNOWN, {}, [])[0]
    assert len({line.count("|") for line in overview(KNOWN, {}, [])}) == 1
    assert "s per trial" in overview(KNOWN, {CLS: 0.5}, [])[0]


def test_titles_become_names_of_files() -> None:
    assert slug("Judging: 27 services!") == "judging-27-services"


# -- plots -------------------------------------------------------------------------------------------------------------

CONFLICT = Conflict(
    service=SQL,
    metrics=("ttft_mean", "tpot_mean"),
    drawn=((20.0, 9.0), (40.0, 8.0)),
    front=((10.0, 7.0), (900.0, 3.0)),
    default=(30.0, 8.0),
)
PLOTS: list[tuple[Plot, list[str]]] = [
    (
        Curves(several=False, pairs=3, curves=(Curve(label="x", mean=(1.0, 0.5), error=(0.0, 0.1)),)),
        ["regret (1: default, 0: near-optimal)", "trials, the default's included"],
    ),
    (
        Gains(
            panels=(
                Panel(
                    metric="e2e_p95",
                    rows={
                        CLS: (
                            Spread(label="x", mean=0.2, low=0.1, high=0.3),
                            Spread(label="y $1$", mean=0.1, low=0.1, high=0.1),
                        )
                    },
                ),
            )
        ),
        [CLS, "x", "y $1$", "improvement of e2e_p95 over the default [%]"],
    ),
    (
        Degrees(
            several=True,
            degrees=tuple(
                Degree(method=method, at_once=at_once, mean=0.9, error=0.05, hours=2.0 / at_once)
                for method in ("x", "y $1$")
                for at_once in (1, 8)
            ),
        ),
        ["share of the hypervolume", "trials at once", "virtual hours of a run", "8"],
    ),
    (
        Shares(shares=(Share(service=SQL, label="x", points=0.75, width=0.5),)),
        [SQL, "share of the joint front, of its points [%]"],
    ),
    (
        Transfer(services=(CLS, SQL), gains=((0.5, None), (-3.0, 0.2))),
        ["fails", "50", "-300", "best configuration of", "improvement over the default [%]"],
    ),
    (Conflicts(conflicts=(CONFLICT,) * 3), ["ttft_mean [ms]", "tpot_mean [ms]", "default", "near-optimal", "100"]),
]


@pytest.mark.parametrize(("plot", "texts"), PLOTS, ids=[type(plot).__name__ for plot, _ in PLOTS])
def test_plots_are_small_documents_with_texts_and_the_same_bytes(plot: Plot, texts: list[str]) -> None:
    styles = styles_of(["x p1", "x p8", "y $1$"])
    found = svg(plot, styles)
    assert found == svg(plot, styles)
    assert len(found) < 60_000
    root = ET.fromstring(found)  # noqa: S314 - our own
    shown = ["".join(each.itertext()).strip() for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(texts) <= {text.replace("\N{MINUS SIGN}", "-") for text in shown}
    assert b"dc:date" not in found


def test_a_plot_of_many_methods_services_and_trials_is_small() -> None:
    methods = [f"method-{place}" for place in range(10)]
    rows = {name: tuple(Spread(label=label, mean=0.21, low=0.11, high=0.31) for label in methods) for name in SERVICES}
    crowd = dict(list(rows.items())[:8])
    gains = Gains(panels=tuple(Panel(metric=metric, rows=crowd) for metric in ("ttft_mean", "tpot_mean")))
    mean = tuple(1 / (1 + trial) for trial in range(60))
    curves = tuple(Curve(label=label, mean=mean, error=mean) for label in methods)
    shares = (
        Share(service=name, label=label, points=0.2, width=0.3) for name in list(SERVICES)[:20] for label in methods
    )
    for plot in (gains, Curves(several=False, pairs=2, curves=curves), Shares(shares=tuple(shares))):
        assert len(svg(plot, styles_of(methods))) < 60_000


def test_styles_tell_labels_apart() -> None:
    found = styles_of([*(f"m{place} p{degree}" for place in range(12) for degree in (1, 2)), "m0 sobol p1"])
    assert found["m0 p1"].colour == found["m0 p2"].colour == found["m0"].colour
    assert found["m0 p1"].dash != found["m0 p2"].dash
    assert len({(each.colour, each.dash) for label, each in found.items() if label.endswith(" p1")}) == 13
    assert "m0 sobol" in found


@given(st.floats(1e-3, 1e6), st.floats(1.1, 1e9))
def test_ticks_of_a_logarithmic_axis_are_few_and_inside(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert 2 <= len(ticks) <= 5
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert ticks == sorted(set(ticks))


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs whose services need no simulation."""
    monkeypatch.setattr(page_command, "known_of", lambda _cache, names: {name: KNOWN[name] for name in names})
    for run in whole():
        write_run(tmp_path / "runs", run, fingerprint(SERVICES[run.spec.service]))
    return tmp_path


def made(folder: Path, *arguments: str) -> dict[str, bytes]:
    done = CliRunner().invoke(cli, ["page", *arguments, "--cache", str(folder / "cache")])
    assert done.exit_code == 0, done.output
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("docs/**/*") if path.is_file()}


def test_the_same_runs_make_the_same_page(results: Path) -> None:
    arguments = (f"Main one={results / 'runs'}", "--against", "y", "--out", str(results / "docs" / "page.md"))
    first = made(results, *arguments)
    assert {"docs/page.md", "docs/page/main-one-regret.svg"} <= set(first)
    assert made(results, *arguments) == first
    text = first["docs/page.md"].decode()
    assert "python -m scoot.experiments page 'Main one=runs' --out page.md --against y" in text
    assert str(results) not in text
    assert "another version" not in text


def test_a_new_page_takes_the_plots_of_the_former_away_and_nothing_else(results: Path) -> None:
    out = ("--out", str(results / "docs" / "page.md"))
    made(results, f"Former={results / 'runs'}", *out)
    (results / "docs" / "page" / "by-hand.svg").write_text("<svg/>", encoding="utf-8")
    found = made(results, f"Newer={results / 'runs'}", *out)
    assert "docs/page/by-hand.svg" in found
    assert "docs/page/newer-regret.svg" in found
    assert not [name for name in found if "former" in name]


def test_runs_of_another_simulator_are_counted(results: Path) -> None:
    run = whole()[0]
    write_run(results / "runs", run, "0123456789ab")
    found = made(results, str(results / "runs"), "--out", str(results / "docs" / "page.md"))
    assert b"* 1 runs are of another version" in found["docs/page.md"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there are no runs"),
        (["runs", "Runs=runs"], "two folders have the same title"),
        (["runs", "--figures", "3"], "names a figure that there is not"),
        (["odd"], "there is no service gone any more"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    results: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(results)
    run = whole()[0]
    write_run(results / "odd", Run(spec=msgspec.structs.replace(run.spec, service="gone"), steps=run.steps), "0")
    done = CliRunner().invoke(cli, ["page", *arguments, "--out", "page.md", "--cache", "cache"])
    assert done.exit_code != 0
    assert message in done.output
    assert not Path("page.md").exists()


# -- figures that need no method ---------------------------------------------------------------------------------------


def test_the_best_configuration_of_a_service_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 - a is the first objective of one service, 10 / (1 + a) of the other, where 9 fails; the second is 5."""
    times: dict[str, list[float | None]] = {
        CLS: [10.0 - a for a in range(10)],
        CLS_TOO: [*(10.0 / (1 + a) for a in range(9)), None],
    }
    best = {CLS: {"a": 9, "gone": 1}, CLS_TOO: {"a": 4}}

    def site(_cache: str, name: str) -> tuple[Problem, Evaluate]:
        def memo(config: Config) -> Evaluated:
            found = times[name][int(config["a"])]
            return Evaluated() if found is None else Evaluated(values=(found, 5.0), outcomes=())

        return Problem(space=SPACE, directions=(LESS, LESS)), memo

    monkeypatch.setattr(landscape, "site", site)
    monkeypatch.setattr(landscape, "best_known", lambda _cache, name: best.get(name))
    monkeypatch.setattr(landscape, "catalogue", SimpleNamespace(default_of=lambda _service: {"a": 0}))
    found = landscape.transfer("", [SERVICES[CLS], SERVICES[CLS_TOO]])
    assert found.services == (CLS, CLS_TOO)
    assert found.gains[0][1] is None
    assert [found.gains[0][0], *found.gains[1]] == pytest.approx([0.45, 0.2, 0.4])
    times[CLS][0] = None  # now the default fails
    assert landscape.transfer("", [SERVICES[CLS]]).gains == ((None,),)
    best.clear()
    assert landscape.transfer("", [SERVICES[CLS_TOO]]).gains == ((None,),)


def test_two_objectives_at_odds(monkeypatch: pytest.MonkeyPatch) -> None:
    def memo(config: Config) -> Evaluated:
        a = int(config["a"])
        return Evaluated(values=(1.0 + a, 10.0 - a), outcomes=()) if a else Evaluated()

    monkeypatch.setattr(landscape, "site", lambda *_: (Problem(space=SPACE, directions=(LESS, LESS)), memo))
    known = msgspec.structs.replace(KNOWN[SQL].reference, front=((9.0, 2.0), (2.0, 9.0)), default=None)
    monkeypatch.setattr(landscape, "reference", lambda *_: known)
    found = landscape.conflict("", SERVICES[SQL])
    assert found.front == ((2.0, 9.0), (9.0, 2.0))
    assert set(found.drawn) == {(1.0 + a, 10.0 - a) for a in range(1, 10)}
    assert (found.metrics, found.default) == (("ttft_mean", "tpot_mean"), None)
    with pytest.raises(ValueError, match="unpack"):
        landscape.conflict("", SERVICES[CLS])
