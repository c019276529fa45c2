"""Other people's optimizers, for `scoot.experiments`: run by the interpreter of an environment that has them.

    .scoot/peers/optuna/bin/python tools/optimizer_peer.py optuna-tpe

It knows nothing of SCOOT: JSON in, JSON out, a line each.

    {"ask": {"space": [{"name": "a", "kind": "int", "low": 1, "high": 9, "log": false}, ...],
             "history": [{"config": {"a": 3}, "values": [1.5], "infeasible": false, "pending": false}, ...],
             "objectives": 1, "n": 1, "seed": 7, "draw": [12, 0]}}
    {"configs": [{"a": 4}], "cpu_s": 0.01}            or            {"error": "ValueError: ..."}

Kinds are int and float (low, high, log) and choice (high + 1 unordered choices, numbered from 0). Every value is
minimised, and a configuration that crashed comes with values that punish it. Everything is rebuilt from the history for
each question, with random numbers that follow from `seed` (of the run) and `draw` (of this question); known constraints
are the asker's business, and so are repeated proposals.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

Ask = dict[str, Any]
Configs = list[dict[str, float]]

POPULATION = 10
"""Individuals of NSGA-II, as in SCOOT's appendix A.3."""


def optuna_peer(make: Callable[[Any, int], Any]) -> Callable[[Ask], Configs]:
    """A peer from what makes its sampler of optuna's module `samplers` and a seed."""
    optuna = importlib.import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spread = {"int": optuna.distributions.IntDistribution, "float": optuna.distributions.FloatDistribution}

    def distribution(parameter: dict[str, Any]) -> Any:  # noqa: ANN401 - optuna is not installed where types are checked
        if parameter["kind"] == "choice":
            return optuna.distributions.CategoricalDistribution(list(range(parameter["high"] + 1)))
        return spread[parameter["kind"]](parameter["low"], parameter["high"], log=parameter["log"])

    def ask(question: Ask) -> Configs:
        space = {parameter["name"]: distribution(parameter) for parameter in question["space"]}
        sampler = make(optuna.samplers, mixed(question["seed"], *question["draw"]))
        study = optuna.create_study(sampler=sampler, directions=["minimize"] * question["objectives"])
        finished = 0
        broken = any(trial["infeasible"] for trial in question["history"])
        for trial in question["history"]:
            # NSGA-II finds its generations in its trials' attributes; in order of the history they are as good as told
            attributes: dict[str, Any] = {"NSGAIISampler:generation": finished // POPULATION}
            if trial["pending"]:
                state = optuna.trial.TrialState.RUNNING
            else:
                state, finished = optuna.trial.TrialState.COMPLETE, finished + 1
                if broken:  # what optuna calls a constraint: above 0 is violated
                    attributes["constraints"] = [1.0 if trial["infeasible"] else -1.0]
            study.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    params=trial["config"],
                    distributions=space,
                    values=None if trial["pending"] else trial["values"],
                    system_attrs=attributes,
                )
            )
        return [study.ask(space).params for _ in range(question["n"])]

    return ask


def hebo_peer() -> Callable[[Ask], Configs]:
    """HEBO 0.3.6, one objective; what is pending it is not told."""
    numpy, pandas, torch = (importlib.import_module(name) for name in ("numpy", "pandas", "torch"))
    importlib.import_module("pymoo.config").Config.show_compile_hint = False
    hebo = importlib.import_module("hebo.optimizers.hebo").HEBO
    design_space = importlib.import_module("hebo.design_space.design_space").DesignSpace

    def described(parameter: dict[str, Any]) -> dict[str, Any]:
        name, low, high = parameter["name"], parameter.get("low"), parameter["high"]
        if parameter["kind"] == "choice":
            return {"name": name, "type": "cat", "categories": list(range(high + 1))}
        if low == high:
            return {"name": name, "type": "cat", "categories": [low]}
        kinds = {("int", False): "int", ("int", True): "pow_int", ("float", False): "num", ("float", True): "pow"}
        return {"name": name, "type": kinds[parameter["kind"], parameter["log"]], "lb": low, "ub": high}

    def ask(question: Ask) -> Configs:
        if question["objectives"] != 1:
            raise ValueError("HEBO takes one objective here")
        seed = mixed(question["seed"], *question["draw"])
        numpy.random.seed(seed)
        torch.manual_seed(seed)
        space = design_space().parse([described(each) for each in question["space"]])
        optimizer = hebo(space, scramble_seed=mixed(question["seed"]))
        optimizer.sobol.fast_forward(sum(question["draw"]))  # its first design goes on where it was
        names = [parameter["name"] for parameter in question["space"]]
        finished = [trial for trial in question["history"] if not trial["pending"]]
        if finished:
            told = pandas.DataFrame([trial["config"] for trial in finished], columns=names)
            optimizer.observe(told, numpy.array([trial["values"] for trial in finished], dtype=float))
        rows = optimizer.suggest(n_suggestions=question["n"])[names].to_dict("records")
        return [{name: float(value) for name, value in row.items()} for row in rows]

    return ask


def ax_peer() -> Callable[[Ask], Configs]:
    """Ax 1.3 as it comes: Sobol points up to five trials, then Gaussian processes; a crash is a failed trial."""
    client_of = importlib.import_module("ax.api.client").Client
    configs = importlib.import_module("ax.api.configs")
    logging.disable()  # a line per trial, and each of Ax's modules has a level of its own

    def described(parameter: dict[str, Any]) -> Any:  # noqa: ANN401 - Ax is not installed where types are checked
        name, kind = parameter["name"], parameter["kind"]
        if kind == "choice":
            values = list(range(parameter["high"] + 1))
            return configs.ChoiceParameterConfig(name=name, values=values, parameter_type="int", is_ordered=False)
        return configs.RangeParameterConfig(
            name=name,
            bounds=(parameter["low"], parameter["high"]),
            parameter_type=kind,
            scaling="log" if parameter["log"] else "linear",
        )

    def ask(question: Ask) -> Configs:
        seed = mixed(question["seed"], *question["draw"])
        # what has one value is no parameter for Ax
        fixed = {each["name"]: each.get("low", 0) for each in question["space"] if each.get("low", 0) == each["high"]}
        client = client_of(random_seed=seed)
        client.configure_experiment([described(each) for each in question["space"] if each["name"] not in fixed])
        names = [f"objective{place}" for place in range(question["objectives"])]
        client.configure_optimization(objective=", ".join(f"-{name}" for name in names))
        client.configure_generation_strategy(
            initialization_random_seed=seed,
            initialize_with_center=False,  # the default configuration was tried in its place
            allow_exceeding_initialization_budget=True,  # else it waits for pending trials
        )
        for trial in question["history"]:
            index = client.attach_trial({name: at for name, at in trial["config"].items() if name not in fixed})
            if trial["infeasible"]:
                client.mark_trial_failed(index)
            elif not trial["pending"]:
                client.complete_trial(index, raw_data=dict(zip(names, trial["values"], strict=True)))
        found = client.get_next_trials(question["n"]).values()
        return [fixed | dict(each) for each in found]

    return ask


def mixed(*parts: int) -> int:
    """One number below 2**31 from several."""
    state = 0
    for part in parts:
        state = (state * 1_000_003 + part) % (2**31 - 1)
    return state


PEERS: dict[str, Callable[[], Callable[[Ask], Configs]]] = {
    "optuna-tpe": lambda: optuna_peer(lambda samplers, seed: samplers.TPESampler(seed=seed)),
    "optuna-gp": lambda: optuna_peer(lambda samplers, seed: samplers.GPSampler(seed=seed)),
    "optuna-nsga2": lambda: optuna_peer(
        lambda samplers, seed: samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
    ),
    "hebo": hebo_peer,
    "ax": ax_peer,
}


def main() -> None:
    """Answer until the input ends."""
    if len(sys.argv) != 2 or sys.argv[1] not in PEERS:  # noqa: PLR2004 - the program and one argument
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(PEERS)}")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    warnings.simplefilter("ignore")  # theirs, not ours to mend
    ask: Callable[[Ask], Configs] | None = None
    for line in sys.stdin:
        answer: dict[str, Any]
        try:
            ask = ask or PEERS[sys.argv[1]]()
            began = time.process_time()
            configs = ask(json.loads(line)["ask"])
            answer = {"configs": configs, "cpu_s": time.process_time() - began}
        except Exception as error:  # noqa: BLE001 - whatever it is, the asker decides
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
