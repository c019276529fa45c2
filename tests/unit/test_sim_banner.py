"""A simulated engine is told in large letters wherever a study's figures are shown; a real one has no such banner."""

from __future__ import annotations

import pytest

from scoot.cli.progress import headline
from scoot.coordinator.report.build import build_results
from scoot.coordinator.report.html import render_html
from scoot.coordinator.report.markdown import render_markdown
from scoot.coordinator.report.results import Results
from scoot.coordinator.study.state import StudyRecord
from scoot.simulator.serving.target import pretence
from scoot.wire.spec import Objective, Parameter, ParameterKind, Scalar, Service, StudySpec, Workload
from scoot.wire.states import StudyState
from scoot.wire.view import Study, StudyDetail

SAID = "llama2-13b on 2 x H100 (pcie), engine generation vllm-0.32"


def service(engine: str, **options: Scalar) -> Service:
    return Service(engine=engine, model="llama2-13b", device="cpu", devices=2, options=options)


SIMULATED = service("simulated", simulated_gpu="h100", simulated_link="pcie")


def spec(served: Service) -> StudySpec:
    return StudySpec(
        name="chat",
        service=served,
        workload=Workload(profile="BOT"),
        parameters=(Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=8, high=64),),
        objectives=(Objective(metric="ttft_mean"),),
    )


def results(served: Service) -> Results:
    study = StudyRecord(
        study_id="s-1", spec=spec(served), idempotency_key="k", created_at_s=1.0, state=StudyState.COMPLETED
    )
    return build_results(study, (), scoot_version="0", now_s=2.0)


def test_reports_of_a_simulated_engine_begin_with_it() -> None:
    simulated = results(SIMULATED)
    markdown, html = render_markdown(simulated), render_html(simulated)
    assert markdown.startswith("# SIMULATED ENGINE\n")
    assert SAID in markdown.split("# SCOOT")[0]
    head, _, rest = html.partition("<main>")
    assert '<p class="banner" role="note"><strong>SIMULATED ENGINE</strong>' in head
    assert SAID in head
    assert "SIMULATED ENGINE" not in rest
    assert [caveat.code for caveat in simulated.caveats].count("pretend-engine") == 1


@pytest.mark.parametrize("engine", ["vllm", "mock"])
def test_reports_of_other_engines_have_no_banner(engine: str) -> None:
    other = results(service(engine))
    assert "SIMULATED" not in render_markdown(other)
    html = render_html(other)
    assert "SIMULATED" not in html
    assert '<p class="banner"' not in html


def test_an_engine_of_another_name_is_known_by_its_version() -> None:
    assert pretence(service("mine"), ["simulator-1.0"]) is not None
    assert pretence(service("mine"), ["1.0"]) is None


def test_wrong_options_do_not_hide_that_it_is_simulated() -> None:
    told = pretence(service("simulated", simulated_gpu="nonsense"))
    assert told is not None
    assert told[0] == "SIMULATED ENGINE"


def detail(served: Service) -> StudyDetail:
    study = Study(study_id="s-1", spec=spec(served), state=StudyState.COMPLETED)
    return StudyDetail(study=study, trials=())


def test_the_terminal_says_it_before_what_was_found() -> None:
    lines = headline(detail(SIMULATED))
    assert lines[0] == "*** SIMULATED ENGINE ***"
    assert lines[1].startswith(SAID)
    assert lines[2] == "No feasible configuration was found."
    assert headline(detail(service("vllm"))) == ("No feasible configuration was found.",)
