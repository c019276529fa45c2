"""Which parameters are the client's, what a study may say of them, and that no engine sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_bench import study, trial

from scoot.agent.core.plan import Prompting, load_plan, replicas
from scoot.benchmark.plan import PromptMode
from scoot.benchmark.process import senders_wanted
from scoot.benchmark.trace_row import TraceRow
from scoot.coordinator.optimizer.base import Ask, Suggestion
from scoot.coordinator.runtime.suggesting import Suggester
from scoot.coordinator.solver.pool import Solver
from scoot.coordinator.solver.result import SolverResult
from scoot.coordinator.study.effects import RequestSuggestions
from scoot.experiments.catalogue import SERVICES
from scoot.experiments.services import engine_of, workload_of
from scoot.simulator.study_service import service_of_study
from scoot.wire.assignment import Assignment
from scoot.wire.catalogue.option import Catalogue, EngineOption, OptionKind, Source
from scoot.wire.catalogue.study_check import check_options
from scoot.wire.catalogue.verdict import Checked, CheckState
from scoot.wire.client_parameters import CLIENT_PARAMETERS, client_config, engine_config, largest_load
from scoot.wire.client_parameters import workload_of as load_of
from scoot.wire.errors import UserError
from scoot.wire.spec import (
    ArrivalProcess,
    Arrivals,
    Config,
    Limits,
    Service,
    StudySpec,
    Workload,
)
from scoot.wire.study_file import parse_study

CLOSED = Workload(profile="BOT", arrivals=Arrivals(process=ArrivalProcess.CLOSED, users=8))
OPEN = Workload(profile="BOT", arrivals=Arrivals(rate=5.0))

STUDY = """\
name = "s"
objectives = ["ttft_mean"]
[service]
engine = "mock"
model = "m"
[workload]
profile = "BOT"
arrivals = {process = "poisson", rate = 5}
[parameters.max_num_seqs]
type = "int"
low = 1
high = 8
[parameters.max_in_flight]
type = "int"
low = 1
high = 64
scale = "log"
"""
CLOSED_STUDY = STUDY.replace('"poisson", rate = 5', '"closed", users = 8').replace("max_in_flight", "users")


def parsed(text: str = STUDY) -> StudySpec:
    return parse_study(text, path="s.toml")


# --- the parts of a configuration ------------------------------------------------------------------------------------


@given(
    config=st.dictionaries(
        st.sampled_from([*CLIENT_PARAMETERS, "max_num_seqs", "user", "block_size"]), st.integers(1, 9)
    )
)
def test_a_configuration_has_two_parts(config: Config) -> None:
    engine = engine_config(config)
    client = {name: value for name, value in config.items() if name in CLIENT_PARAMETERS}
    assert not engine.keys() & set(CLIENT_PARAMETERS)
    assert {**engine, **client} == config


def test_the_load_of_a_configuration() -> None:
    assert load_of(OPEN, {"max_num_seqs": 3}) is OPEN
    assert load_of(OPEN, {"max_in_flight": 4, "max_num_seqs": 3}) == msgspec.structs.replace(
        OPEN, arrivals=Arrivals(rate=5.0, max_in_flight=4)
    )
    assert load_of(CLOSED, {"users": 32}).arrivals == Arrivals(process=ArrivalProcess.CLOSED, users=32)
    assert client_config(OPEN) == {}
    assert client_config(CLOSED) == {"users": 8}
    assert client_config(load_of(OPEN, {"max_in_flight": 4})) == {"max_in_flight": 4}


@pytest.mark.parametrize(
    ("workload", "config"),
    [
        (OPEN, {"users": 4}),
        (CLOSED, {"max_in_flight": 4}),
        (CLOSED, {"users": 0}),
        (CLOSED, {"users": True}),
        (CLOSED, {"users": 2.0}),
        (CLOSED, {"users": "8"}),
        (OPEN, {"max_in_flight": 100_001}),
    ],
)
def test_what_cannot_be_the_clients_is_refused(workload: Workload, config: Config) -> None:
    with pytest.raises(UserError) as caught:
        load_of(workload, config)
    assert caught.value.key == f"parameters.{next(iter(config))}"
    assert caught.value.hint


# --- studies ---------------------------------------------------------------------------------------------------------


def test_studies_may_tune_and_fix_them() -> None:
    assert [parameter.name for parameter in parsed().parameters] == ["max_num_seqs", "max_in_flight"]
    assert parsed(STUDY.replace("rate = 5", "rate = 5, max_in_flight = 16")).workload.arrivals.max_in_flight == 16
    assert parsed(CLOSED_STUDY).workload.arrivals.users == 8
    for process in ('"gamma", rate = 5, cv = 2', '"constant", rate = 5', '"trace"'):
        text = STUDY.replace('"poisson", rate = 5', process).replace('profile = "BOT"', 'trace = "t.jsonl"')
        assert parsed(text).parameters[1].name == "max_in_flight"


@pytest.mark.parametrize(
    ("text", "old", "new", "key", "hint"),
    [
        (STUDY, "rate = 5", "rate = 5, max_in_flight = 0", "workload.arrivals.max_in_flight", "from 1 to 100000"),
        (CLOSED_STUDY, "users = 8", "users = 8, max_in_flight = 4", "workload.arrivals.max_in_flight", "users"),
        (STUDY, "[parameters.max_in_flight]", "[parameters.users]", "parameters.users", '"closed"'),
        (CLOSED_STUDY, "[parameters.users]", "[parameters.max_in_flight]", "parameters.max_in_flight", "`users`"),
        (STUDY, "low = 1\nhigh = 64", "low = 0\nhigh = 64", "parameters.max_in_flight.low", "from 1"),
        (STUDY, "high = 64", "high = 200_000", "parameters.max_in_flight.high", "to 100000"),
        (STUDY, "high = 64", "high = 64\ndefault = 0", "parameters.max_in_flight.default", "from 1"),
        (
            STUDY,
            'low = 1\nhigh = 64\nscale = "log"',
            "choices = [4, 0]",
            "parameters.max_in_flight.choices[1]",
            "from 1",
        ),
        (
            STUDY,
            'type = "int"\nlow = 1\nhigh = 64',
            'type = "float"\nlow = 1\nhigh = 64',
            "parameters.max_in_flight.type",
            '"int"',
        ),
        (
            STUDY,
            'model = "m"',
            'model = "m"\noptions = {users = 3}',
            "service.options.users",
            "workload.arrivals.users",
        ),
    ],
)
def test_what_a_study_may_not_say_of_them(text: str, old: str, new: str, key: str, hint: str) -> None:
    assert text.count(old) == 1
    with pytest.raises(UserError) as caught:
        parsed(text.replace(old, new))
    assert (caught.value.path, caught.value.key) == ("s.toml", key)
    assert caught.value.line > 0
    assert hint in caught.value.hint


def test_the_requests_do_for_the_most_users() -> None:
    assert largest_load(parsed()) == parsed().workload
    assert largest_load(parsed(CLOSED_STUDY)).arrivals.users == 64
    chosen = CLOSED_STUDY.replace('low = 1\nhigh = 64\nscale = "log"', "choices = [2, 4]")
    assert largest_load(parsed(chosen)).arrivals.users == 8


def test_they_are_no_options_of_an_engine_that_are_not_known() -> None:
    options = (EngineOption(name="max_num_seqs", kind=OptionKind.INT),)
    catalogue = Catalogue(engine="vllm", version="9", device="cpu", source=Source.SNAPSHOT, options=options)
    assert check_options(parsed(), catalogue, None) == ()
    other = parsed(STUDY.replace("parameters.max_in_flight", "parameters.max_flight"))
    assert [finding.key for finding in check_options(other, catalogue, None)] == ["parameters.max_flight"]


async def test_suggestions_with_another_client_are_trials_and_the_engines_check_sees_none_of_it() -> None:
    asked: list[Config] = []

    class More:
        """Proposes other users every time."""

        async def suggest(self, method: str, ask: Ask, deadline_s: float) -> SolverResult:
            found = tuple(Suggestion(config={"max_num_seqs": 8, "users": n + 1}, source="s") for n in range(ask.n))
            return SolverResult(suggestions=found)

    class Same:
        """Makes the same of everything."""

        async def check(self, service: Service, configs: Sequence[Config], names: Sequence[str]) -> tuple[Checked, ...]:
            asked.extend(configs)
            return tuple(Checked(state=CheckState.OK, digest="e") for _ in configs)

    record = study(spec=parsed(CLOSED_STUDY))
    default = msgspec.structs.replace(trial(0), config={})
    effect = RequestSuggestions(study_id="s-1", call=1, n=3)
    found = await Suggester(cast("Solver", More()), Same()).suggest(effect, record, {0: default})
    assert [each.config["users"] for each in found.suggestions] == [1, 2, 3]
    assert found.rejected == ()
    assert "users" not in {idle.name for idle in found.idle}
    assert len(asked) > 3
    assert not any(CLIENT_PARAMETERS[0] in config for config in asked)


# --- those who use them ----------------------------------------------------------------------------------------------


def test_the_agent_loads_as_the_configuration_says() -> None:
    asked = Assignment(
        attempt_id="s/0/1",
        fence=7,
        service=Service(engine="mock", model="m", device="cpu"),
        devices=("cpu-0",),
        config={"max_num_seqs": 8, "max_in_flight": 3},
        workload=OPEN,
        workload_sha256="0" * 64,
        limits=Limits(),
        run_seeds=(1,),
    )
    prompting = Prompting(model="m", prompt_mode=PromptMode.TOKEN_IDS, token_low=16, token_high=99, ignore_eos=True)
    plan = load_plan(asked, replicas(asked, [9000]), prompting, rows_path="/r", spool_path="/s", audit_path="/a")
    assert plan.workload.arrivals == Arrivals(rate=5.0, max_in_flight=3)
    rows = (TraceRow(input_tokens=1, output_tokens=1_000_000),)
    assert senders_wanted(plan, rows, 16) == 3, "each sender has a place at least"
    free = msgspec.structs.replace(plan, workload=OPEN)
    assert senders_wanted(free, rows, 16) == 15
    assert senders_wanted(msgspec.structs.replace(plan, senders=2), rows, 16) == 2
    assert senders_wanted(msgspec.structs.replace(plan, senders=8), rows, 16) == 3


def test_no_simulated_engine_gets_them() -> None:
    service = Service(engine="simulated", model="llama2-13b", device="cpu", devices=1)
    assert service_of_study(service, {"users": 3, "max_num_seqs": 4}).parameters == {"max_num_seqs": 4}


def test_parameters_of_the_experiments_are_split_alike() -> None:
    story = SERVICES["STL-vllm"]
    config: Config = {"users": 77, "max_num_seqs": 24}
    assert workload_of(story, config).arrivals.users == 77
    assert "users" not in engine_of(story, config).parameters
    assert engine_of(story, config).parameters["max_num_seqs"] == 24
