"""The catalogue, what is seen of a configuration, and what is remembered of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from scoot.experiments import evaluation
from scoot.experiments.catalogue import DEVELOPMENT_SHARE, SERVICES, default_of, development, select, smallest_degree
from scoot.experiments.evaluation import Evaluated, Evaluator
from scoot.experiments.figures import FIGURE_2, FIGURE_13, PRESETS
from scoot.experiments.memo import Memo, fingerprint
from scoot.experiments.services import TuningService, engine_of, problem_of, rows_of, workload_of
from scoot.simulator.load import Load
from scoot.simulator.service import SimulatedService
from scoot.simulator.trial import simulate
from scoot.wire.errors import UserError
from scoot.wire.spec import Config

SMALL = "CLS-4a10-13b"


def short(name: str) -> TuningService:
    """A service under a load of a few seconds."""
    service = SERVICES[name]
    return msgspec.structs.replace(service, workload=msgspec.structs.replace(service.workload, duration_s=5.0))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_space_with_its_default_in_it(name: str) -> None:
    problem = problem_of(SERVICES[name])
    default = problem.space.default_config()
    assert problem.space.key(default) is not None
    assert problem.space.feasible([default]).all()
    assert 1 <= len(problem.directions) <= 3
    drawn = problem.space.sample(np.random.default_rng(1), 50)
    assert len({tuple(config.values()) for config in drawn}) == 50
    for parameter in SERVICES[name].parameters:
        assert len({config[parameter.name] for config in drawn}) > 1


def test_the_paper_has_32_services_and_the_split_is_fixed() -> None:
    assert len(select("paper")) == 32
    assert len(SERVICES) == 44
    # Anything that changes this list makes earlier results worthless: methods were developed on these alone.
    assert set(development()) == {
        *("SQL-2a10-7b", "SQL-2a10-13b", "SQL-2a100-13b", "BOT-2a10-13b", "BOT-2a100-13b", "BOT-4a100-13b"),
        *("CLS-2a100-13b", "CLS-4a100-7b", "CLS-4a100-13b", "REC-2a10-7b", "REC-2a100-13b", "REC-4a100-7b"),
        *("BOT-2a100-14b-today", "AZURE_CONV-2l40s-8b-today", "REC-2l40s-8b-today", "STL-trtllm", "STS-trtllm"),
    }
    strata = {service.stratum for service in SERVICES.values()}
    for stratum in strata:
        size = len(select(stratum))
        assert len(select(f"development&{stratum}")) == round(DEVELOPMENT_SHARE * size)


def test_selections() -> None:
    assert {each.name for each in select("judging")} == set(SERVICES) - set(development())
    assert select("all") == tuple(SERVICES.values())
    assert [each.name for each in select("STS-vllm, SQL-2a10-7b")] == ["SQL-2a10-7b", "STS-vllm"]
    assert {each.stratum for each in select("paper&BOT")} == {"BOT"}
    with pytest.raises(UserError, match="did you mean 'SQL-2a10-7b'"):
        select("SQL-2a10-7")
    with pytest.raises(UserError, match="no service is"):
        select("judging&SQL-2a10-7b")


def test_presets_name_services_that_there_are() -> None:
    for preset in PRESETS.values():
        assert select(preset.services)
    assert len(select(",".join(FIGURE_2))) == 5
    assert len(select(",".join(FIGURE_13))) == 4


def test_the_default_degree_is_the_smallest_that_starts() -> None:
    engine = SimulatedService(engine="vllm-0.4.2", model="llama2-13b", gpu="a10", devices=4, max_model_len=4096)
    assert smallest_degree(engine) == 2
    assert smallest_degree(msgspec.structs.replace(engine, gpu="a100")) == 1
    with pytest.raises(UserError, match="does not start"):
        smallest_degree(msgspec.structs.replace(engine, model="llama2-70b"))


def test_what_is_seen_is_what_the_simulator_says() -> None:
    service = short(SMALL)
    config = {**default_of(service), "max_num_seqs": 64}
    workload = workload_of(service, config)
    load = Load(workload, rows_of(service, workload), seed=1)
    trial = simulate(engine_of(service, config), workload, (), seed=1, limits=service.limits, load=load)
    assert trial.metrics is not None
    assert trial.metrics.e2e_ms is not None
    seen = Evaluator(service)(config)
    assert seen == Evaluated(values=(trial.metrics.e2e_ms.p95,), outcomes=(), noise=None, simulated_s=trial.simulated_s)
    assert Evaluator(service)(config) == seen


def test_a_crash_has_its_reason_and_no_values() -> None:
    service = short(SMALL)
    seen = Evaluator(service)({**default_of(service), "tensor_parallel_size": 1})
    assert (seen.values, seen.outcomes, seen.noise, seen.failed) == (None, None, None, True)
    assert seen.reason == "ENGINE_OOM"
    assert seen.message
    assert seen.simulated_s > 0


def test_users_are_of_the_load_and_not_of_the_engine() -> None:
    service = SERVICES["STS-trtllm"]
    evaluate = Evaluator(service)
    few, many = (evaluate({**default_of(service), "users": users}) for users in (4, 16))
    assert few.values is not None
    assert many.values is not None
    assert many.values[0] > few.values[0]
    assert few.outcomes is not None
    assert len(few.outcomes) == len(problem_of(service).outcomes) == 2
    assert "users" not in engine_of(service, default_of(service)).parameters


@pytest.mark.parametrize(
    ("name", "key", "refused"),
    [("STL-trtllm", "workload.arrivals", False), ("STL-trtllm", "x", True), (SMALL, "workload.arrivals", True)],
)
def test_users_who_ask_again_without_end_are_a_failure(
    name: str, key: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(*_: object, **__: object) -> None:
        raise UserError("1000001 requests in one run are too many to simulate", key=key)

    monkeypatch.setattr(evaluation, "simulate", endless)
    service = short(name)
    if refused:
        with pytest.raises(UserError):
            Evaluator(service)(default_of(service))
    else:
        seen = Evaluator(service)(default_of(service))
        assert (seen.failed, seen.reason) == (True, "ENGINE_REQUESTS_FAILED")
        assert "too many" in seen.message


class Counter(Evaluator):
    """An evaluator that counts."""

    def __init__(self, service: TuningService) -> None:
        super().__init__(service)
        self.calls: list[Config] = []

    def __call__(self, config: Config) -> Evaluated:
        self.calls.append(config)
        return Evaluated(values=(float(config["max_num_seqs"]),), outcomes=())


def test_a_trial_is_simulated_once_for_all_who_share_a_cache(tmp_path: Path) -> None:
    service = short(SMALL)
    counter = Counter(service)
    first, second = (Memo(tmp_path, service, evaluator=counter) for _ in range(2))
    config = default_of(service)
    shuffled = dict(reversed(config.items()))
    assert first(config) == second(shuffled) == first(config)
    assert counter.calls == [config]
    assert (first.simulated, second.simulated) == (1, 0)
    third = Memo(tmp_path, service, evaluator=counter)
    assert [each.config for each in third.everything()] == [config]


def test_half_a_line_of_a_killed_process_harms_nobody(tmp_path: Path) -> None:
    service = short(SMALL)
    counter = Counter(service)
    memo = Memo(tmp_path, service, evaluator=counter)
    memo(default_of(service))
    with memo.path.open("ab") as file:
        file.write(b'{"config": {"max_num')
    other = {**default_of(service), "max_num_seqs": 8}
    Memo(tmp_path, service, evaluator=counter)(other)
    found = Memo(tmp_path, service, evaluator=counter).everything()
    assert sorted(str(each.config["max_num_seqs"]) for each in found) == ["256", "8"]


def test_what_changes_a_trial_changes_the_file(tmp_path: Path) -> None:
    service = SERVICES[SMALL]
    assert fingerprint(service) == fingerprint(service)
    assert fingerprint(service) != fingerprint(short(SMALL))
    assert fingerprint(service) != fingerprint(service, 2)
    narrower = msgspec.structs.replace(service, parameters=service.parameters[:3])
    assert fingerprint(service) == fingerprint(narrower)  # the same configuration does the same in another space
    assert Memo(tmp_path, service).path.name == f"{SMALL}-{fingerprint(service)}.jsonl"
