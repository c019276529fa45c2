"""Many runs, over processes: joblib's, or a Dask or Ray cluster that joblib knows. IO."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Final

import msgspec
from joblib import Parallel, delayed, parallel_config

from scoot.coordinator.optimizer.base import Problem
from scoot.experiments import methods
from scoot.experiments.catalogue import SERVICES
from scoot.experiments.memo import Memo, fingerprint
from scoot.experiments.run import Design, Run, RunSpec, perform
from scoot.experiments.run_file import finished, write_run
from scoot.experiments.services import TuningService, problem_of

THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Set to 1 in every process, peers' included: the runs are what is parallel, and CPU seconds mean something then."""

_LOCAL: Final = "loky"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is compared.

    Attributes:
        services: which.
        methods: names, see scoot.experiments.methods.
        seeds: how many; 0, 1, ...
        budget: trials of a run.
        parallelisms: each is a comparison of its own.
        design: who chooses the first configurations.
        noise: whether methods are told standard errors.
    """

    services: tuple[TuningService, ...]
    methods: tuple[str, ...]
    seeds: int
    budget: int = 30
    parallelisms: tuple[int, ...] = (1,)
    design: Design = Design.OWN
    noise: bool = True


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where runs happen and what they leave.

    Attributes:
        out: folder of the results.
        cache: folder of remembered trials.
        jobs: processes.
        backend: joblib's name of what runs them: "loky" (processes here), "dask", "ray", ...
    """

    out: Path
    cache: Path
    jobs: int = 1
    backend: str = _LOCAL


def specs_of(plan: Plan) -> tuple[RunSpec, ...]:
    """Its runs; those of one service together, as they share trials."""
    return tuple(
        RunSpec(
            service=service.name,
            method=method,
            seed=seed,
            budget=plan.budget,
            parallelism=parallelism,
            design=plan.design,
            noise=plan.noise,
        )
        for service, seed, parallelism, method in product(
            plan.services, range(plan.seeds), plan.parallelisms, plan.methods
        )
    )


def compare(plan: Plan, place: Place, *, tell: Callable[[str], None]) -> int:
    """Do every run of a plan that is not there yet, but those of more objectives than a method takes.

    Args:
        plan, place: see there.
        tell: gets a line per finished run, and one per method that some services are not for.

    Returns:
        How many runs were done.

    Raises:
        UserError: a method is unknown, or its environment is not there.
        PermanentInfraError: results cannot be written.
    """
    for method in plan.methods:
        methods.check_method(method)
    left_out = unsuited(plan)
    for method, services in left_out.items():
        most = methods.MOST_OBJECTIVES[method]
        tell(f"{method} takes {most} objective{'s' * (most > 1)} at most, no runs of {', '.join(services)}")
    prints = {service.name: fingerprint(service) for service in plan.services}
    specs = [spec for spec in specs_of(plan) if spec.service not in left_out.get(spec.method, ())]
    todo = [spec for spec in specs if not finished(place.out, spec, prints[spec.service])]
    tell(f"{len(specs)} runs, {len(specs) - len(todo)} of them are there")
    done = 0
    try:
        for line in over(place, do_run, [(str(place.out), str(place.cache), spec) for spec in todo]):
            done += 1
            tell(f"{done}/{len(todo)} {line}")
    finally:
        methods.close()  # what runs left here; in other processes it ends with these
    return done


def unsuited(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Services of a plan that have more objectives than a method takes, by method."""
    found = {
        method: tuple(
            service.name
            for service in plan.services
            if len(service.objectives) > methods.MOST_OBJECTIVES.get(method, len(service.objectives))
        )
        for method in plan.methods
    }
    return {method: services for method, services in found.items() if services}


def over(place: Place, function: Callable[..., str], arguments: Sequence[tuple[object, ...]]) -> Iterator[str]:
    """`function` of each of the arguments, over the processes of a place, in the order in which they end."""
    chosen: AbstractContextManager[object] = (
        nullcontext() if place.backend == _LOCAL else parallel_config(backend=place.backend)
    )
    with chosen:
        parallel = Parallel(n_jobs=place.jobs, return_as="generator_unordered", batch_size=1)
        yield from parallel(delayed(function)(*each) for each in arguments)


def do_run(out: str, cache: str, spec: RunSpec) -> str:
    """One run, in any process; a line about it.

    Raises:
        UserError: the method is unknown, or its environment is not there.
        PermanentInfraError: its result cannot be written.
    """
    problem, memo = site(cache, spec.service)
    simulated = memo.simulated
    with methods.method_of(spec.method) as method:
        run = perform(spec, problem, method, memo, cpu_clock=time.process_time)
    write_run(Path(out), run, fingerprint(memo.service))
    return _line(run, memo.simulated - simulated)


@lru_cache(maxsize=64)
def site(cache: str, service: str) -> tuple[Problem, Memo]:
    """What all runs of a service share in one process. Starts with one thread for linear algebra."""
    for name in THREADS:
        os.environ.setdefault(name, "1")
    return problem_of(SERVICES[service]), Memo(Path(cache), SERVICES[service])


def _line(run: Run, simulated: int) -> str:
    spec = run.spec
    failed = sum(step.trial.failed for step in run.steps)
    cpu_s = sum(step.cpu_s for step in run.steps)
    text = (
        f"{spec.service} {spec.method} seed {spec.seed} p{spec.parallelism}: {len(run.steps)} trials, {failed} failed,"
        f" {simulated} simulated, {cpu_s:.1f} s CPU to suggest"
    )
    return f"{text}, {run.error}" if run.error else text
