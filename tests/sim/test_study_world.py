"""Whole studies in a simulated world: random agents, outcomes, crashes and lost messages; invariants after every step.

No clock, no socket, no process: the machine's effects are messages in a bag that a seeded generator delivers in any
order, twice, or never (a session that drops). A world must end with every study ended once its faults stop.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import msgspec
import pytest

from scoot.coordinator.study import stopping
from scoot.coordinator.study.draft import CoordinatorState, Delta
from scoot.coordinator.study.effects import (
    AcknowledgeOutcome,
    Effect,
    Measure,
    RequestSuggestions,
    SendAssign,
    SendCancel,
)
from scoot.coordinator.study.events import (
    AgentConnected,
    AgentLeaseChanged,
    AttemptEnded,
    AttemptRef,
    AttemptStarted,
    Event,
    JournalEntry,
    Measured,
    StudyCancelRequested,
    StudySubmitted,
    Suggested,
    SuggestedConfig,
)
from scoot.coordinator.study.invariants import violations
from scoot.coordinator.study.machine import resume, step
from scoot.coordinator.study.state import AttemptState
from scoot.wire.assignment import Device, EngineOffer, Inventory
from scoot.wire.lease import LeaseState
from scoot.wire.measurement import AttemptOutcome, Distribution, LoadAudit, Metrics, RunResult, Validity
from scoot.wire.reasons import Reason
from scoot.wire.spec import (
    Budget,
    Config,
    Confirm,
    Objective,
    Parameter,
    ParameterKind,
    Service,
    StudySpec,
    Workload,
    WorkloadFacts,
)
from scoot.wire.states import StudyState, TrialKind, TrialState

SEEDS = int(os.environ.get("SCOOT_SIM_SEEDS", "150"))
FAULTY_STEPS = 150
QUIET_STEPS = 3000


def spec(rng: random.Random, min_gain: float | None) -> StudySpec:
    return StudySpec(
        name="world",
        service=Service(engine="mock", model="m"),
        workload=Workload(profile="BOT"),
        parameters=(
            Parameter(name="tensor_parallel_size", kind=ParameterKind.ENUM, choices=(1, 2, 4)),
            Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=1, high=rng.choice([2, 64])),
        ),
        objectives=(Objective(metric="ttft_mean"), Objective(metric="tpot_mean"))[: rng.choice([1, 2])],
        budget=Budget(
            trials=rng.randint(1, 8),
            parallelism=rng.randint(1, 4),
            max_attempts=rng.randint(1, 6),
            min_gain=min_gain,
        ),
        confirm=Confirm(arrival_orders=rng.choice([0, 3])),
        workload_facts=WorkloadFacts(sha256="0", requests=1, input_p50=1, input_max=1, output_p50=1, output_max=1),
    )


def metrics(rng: random.Random, failed: int) -> Metrics:
    def flat(value: float) -> Distribution:
        return Distribution(n=99, mean=value, p50=value, p90=value, p95=value, p99=value, max=value)

    return Metrics(
        sent=100,
        completed=100 - failed,
        failed=failed,
        failures={"RESET": failed} if failed else {},
        duration_s=10.0,
        request_throughput=9.9,
        output_token_throughput=99.0,
        input_token_throughput=99.0,
        offered_rate=10.0,
        ttft_ms=flat(rng.uniform(1, 100)),
        tpot_ms=flat(rng.uniform(1, 100)),
        itl_ms=None,
        e2e_ms=flat(100.0),
        ttft_from_send_ms=None,
        e2e_from_send_ms=None,
        lateness_ms=None,
        output_tokens=1,
        input_tokens=1,
        merged_share=0.0,
    )


class Agent:
    """A host: what it runs, what it finished and was not told to forget."""

    def __init__(self, name: str, gpus: int) -> None:
        self.name = name
        self.gpus = gpus
        self.life = 0
        self.connected = False
        self.running: dict[str, tuple[int, tuple[str, ...]]] = {}
        self.finished: dict[str, AttemptOutcome] = {}

    def hello(self) -> AgentConnected:
        self.connected = True
        return AgentConnected(
            agent_id=self.name,
            incarnation=f"{self.name}.{self.life}",
            boot_id="b",
            version="1",
            inventory=Inventory(
                devices=tuple(Device(id=f"g{n}", kind="H200") for n in range(self.gpus)),
                engines=(EngineOffer(name="mock", version="1"),),
            ),
            running=tuple(AttemptRef(attempt_id=key, fence=fence) for key, (fence, _) in self.running.items()),
            finished=tuple(AttemptRef(attempt_id=o.attempt_id, fence=o.fence) for o in self.finished.values()),
        )


class World:
    """A coordinator that commits, agents that answer, and a bag of effects on their way."""

    def __init__(self, seed: int, min_gain: float | None = None) -> None:
        self.rng = random.Random(seed)
        self.gains = random.Random(-seed)
        self.min_gain = min_gain
        self.state = CoordinatorState()
        self.journal: list[bytes] = []
        self.bag: list[Effect] = []
        self.agents = [Agent(f"a{n}", self.rng.choice([1, 2, 4, 8])) for n in range(self.rng.randint(1, 3))]
        self.agents[0].gpus = max(self.agents[0].gpus, 4)
        self.ran: Counter[tuple[str, int]] = Counter()
        self.faults: Counter[str] = Counter()

    def feed(self, event: Event) -> None:
        before = self.state
        state, effects, delta = step(before, event, 0.0)
        assert violations(state) == []
        if delta.is_empty:
            assert state is before
        else:
            self.journal.append(msgspec.json.encode(JournalEntry(now_s=0.0, event=event)))
            assert apply(before, delta) == state
        self.state = state
        self.bag += effects

    def crash_coordinator(self) -> None:
        """What was committed stays; effects under way, sessions and nothing else are gone."""
        self.bag = list(resume(self.state))
        for agent in self.agents:
            agent.connected = False

    def crash_agent(self, agent: Agent) -> None:
        """Its engines die with it; outcomes on its disk stay."""
        agent.life += 1
        agent.connected = False
        agent.running.clear()

    def deliver(self, effect: Effect) -> None:
        match effect:
            case RequestSuggestions():
                self.suggest(effect)
            case Measure():
                self.measure(effect)
            case SendAssign() | SendCancel() | AcknowledgeOutcome():
                agent = next(a for a in self.agents if a.name == effect.agent_id)
                if agent.connected:
                    self.tell(agent, effect)

    def suggest(self, effect: RequestSuggestions) -> None:
        study = self.state.studies[effect.study_id]
        high = study.spec.parameters[1].high
        assert high is not None
        known = [t.config for t in self.state.trials[effect.study_id].values()]
        room: list[Config] = [
            {"tensor_parallel_size": degree, "max_num_seqs": seqs} for degree in (1, 2, 4) for seqs in (1, 2, int(high))
        ]
        fresh = [config for config in room if config not in known]
        unique = [c for n, c in enumerate(fresh) if c not in fresh[:n]]
        self.rng.shuffle(unique)
        self.feed(
            Suggested(
                study_id=effect.study_id,
                call=effect.call,
                suggestions=tuple(
                    SuggestedConfig(config=c, source="sim", explanation={"expected_gain": self.gains.random()})
                    for c in unique[: effect.n]
                ),
            )
        )

    def measure(self, effect: Measure) -> None:
        attempt = self.state.attempts[effect.attempt_id]
        seeds = self.state.trials[attempt.study_id][attempt.trial].run_seeds
        dice = self.rng.random()
        if dice < 0.05:
            event = Measured(attempt_id=effect.attempt_id, fence=effect.fence, reason=Reason.UPLOAD_CORRUPT)
        else:
            audit = LoadAudit(run=0, cpu_share=0.1, run_queue_s=0.0, clock_step_ms=0.0, dropped=0)
            fault = Reason.LOAD_LATE if dice < 0.1 else Reason.HOST_NOISY
            valid = Validity(valid=True) if dice > 0.15 else Validity(valid=False, reason=fault)
            event = Measured(
                attempt_id=effect.attempt_id,
                fence=effect.fence,
                runs=tuple(
                    RunResult(
                        run=run,
                        seed=seed,
                        metrics=metrics(self.rng, 5 if dice > 0.95 else 0),
                        audit=audit,
                        validity=valid,
                    )
                    for run, seed in enumerate(seeds)
                ),
            )
        self.feed(event)

    def tell(self, agent: Agent, effect: SendAssign | SendCancel | AcknowledgeOutcome) -> None:
        match effect:
            case SendAssign():
                attempt = self.state.attempts[effect.attempt_id]
                if attempt.state is not AttemptState.OFFERED or attempt.incarnation != f"{agent.name}.{agent.life}":
                    return
                if effect.attempt_id in agent.running or effect.attempt_id in agent.finished:
                    return
                held = {device for _, devices in agent.running.values() for device in devices}
                assert not held & set(attempt.devices), "a device was given out twice"
                agent.running[effect.attempt_id] = (attempt.fence, attempt.devices)
                self.ran[attempt.study_id, attempt.trial] += 1
                self.feed(AttemptStarted(attempt_id=effect.attempt_id, fence=attempt.fence))
            case SendCancel():
                if effect.attempt_id in agent.running:
                    self.finish(agent, effect.attempt_id, "CANCELLED", Reason.CANCELLED_BY_USER)
            case AcknowledgeOutcome():
                agent.finished.pop(effect.attempt_id, None)

    def finish(self, agent: Agent, attempt_id: str, end: str, reason: Reason | None) -> None:
        fence, _ = agent.running.pop(attempt_id)
        outcome = AttemptOutcome(attempt_id=attempt_id, fence=fence, state=end, reason=reason, message="m")
        agent.finished[attempt_id] = outcome
        if agent.connected:
            self.feed(AttemptEnded(outcome=outcome))

    def connect(self, agent: Agent) -> None:
        self.feed(agent.hello())
        for outcome in list(agent.finished.values()):
            self.feed(AttemptEnded(outcome=outcome))

    def turn(self, *, faults: bool) -> None:
        """One random thing happens."""
        rng = self.rng
        agent = rng.choice(self.agents)
        dice = rng.random()
        if self.bag and dice < 0.45:
            effect = self.bag.pop(rng.randrange(len(self.bag)))
            self.deliver(effect)
            if rng.random() < 0.1:
                self.deliver(effect)
        elif agent.running and dice < 0.75:
            end, reason = rng.choices(
                [
                    ("COMPLETED", None),
                    ("INFEASIBLE", Reason.ENGINE_OOM),
                    ("ABORTED", Reason.PORT_TAKEN),
                    ("REFUSED", Reason.GPU_BUSY),
                ],
                [6, 2, 1, 1],
            )[0]
            self.finish(agent, rng.choice(sorted(agent.running)), end, reason)
        elif not agent.connected:
            self.connect(agent)
        elif faults:
            self.fault(agent)

    def fault(self, agent: Agent) -> None:
        kinds = ["none", "coordinator", "agent", "disconnect", "lease", "messages", "stale"]
        kind = self.rng.choices(kinds, [45, 10, 10, 15, 10, 5, 5])[0]
        if kind == "coordinator":
            self.crash_coordinator()
        elif kind == "agent":
            self.crash_agent(agent)
        elif kind == "disconnect":
            agent.connected = False
        elif kind == "lease" and agent.name in self.state.agents:
            agent.connected = False
            agent.running.clear()  # it has fenced itself, long before the lease says lost
            self.feed(AgentLeaseChanged(agent_id=agent.name, lease=LeaseState.LOST))
        elif kind == "messages" and self.bag:
            for other in self.agents:
                other.connected = False
            self.bag = [e for e in self.bag if isinstance(e, RequestSuggestions | Measure)]
        elif kind == "stale" and self.state.attempts:
            stale = self.rng.choice(sorted(self.state.attempts))
            self.feed(AttemptEnded(outcome=AttemptOutcome(attempt_id=stale, fence=0, state="COMPLETED")))
        else:
            return
        self.faults[kind] += 1


def apply(state: CoordinatorState, delta: Delta) -> CoordinatorState:
    """What a store would hold after the delta."""
    trials = {study_id: dict(rows) for study_id, rows in state.trials.items()}
    for trial in delta.trials:
        trials.setdefault(trial.study_id, {})[trial.number] = trial
    return CoordinatorState(
        studies={**state.studies, **{r.study_id: r for r in delta.studies}},
        trials=trials,
        attempts={**state.attempts, **{r.attempt_id: r for r in delta.attempts}},
        agents={**state.agents, **{r.agent_id: r for r in delta.agents}},
        next_fence=state.next_fence if delta.next_fence is None else delta.next_fence,
    )


def run_world(seed: int, min_gain: float | None = None) -> World:
    world = World(seed, min_gain)
    for n in range(world.rng.randint(1, 3)):
        submitted = StudySubmitted(study_id=f"s{n}", spec=spec(world.rng, min_gain), idempotency_key=f"k{n}")
        world.feed(submitted)
        world.feed(submitted)
    for _ in range(FAULTY_STEPS):
        world.turn(faults=True)
    if world.rng.random() < 0.3:
        world.feed(StudyCancelRequested(study_id="s0", reason="enough"))
    for _ in range(QUIET_STEPS):
        if all(study.state.is_terminal for study in world.state.studies.values()):
            break
        world.turn(faults=False)
        if not world.bag and not any(agent.running for agent in world.agents):
            for agent in world.agents:
                agent.connected = False  # a fresh hello settles what lost messages left open
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_study_ends_and_nothing_is_lost_or_done_twice(seed: int) -> None:
    world = run_world(seed)
    check_ended(world)
    check_replay(world)


def test_searches_that_end_before_their_budget_end_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "MIN_TRIALS", 2)  # the worlds' budgets are small
    monkeypatch.setattr(stopping, "TRIALS_PER_PARAMETER", 1)
    worlds = [run_world(seed, min_gain=0.8) for seed in range(SEEDS // 3)]
    for world in worlds:
        check_ended(world)
        check_replay(world)
    early = [study for world in worlds for study in world.state.studies.values() if study.enough]
    assert {study.state for study in early} >= {StudyState.COMPLETED}
    assert all("expected further gain" in study.message for study in early if not study.cancelling)


def test_the_worlds_see_every_fault_and_every_end() -> None:
    """A simulation that no longer reaches its faults proves nothing."""
    worlds = [run_world(seed) for seed in range(60)]
    faults = sum((world.faults for world in worlds), Counter())
    assert set(faults) == {"coordinator", "agent", "disconnect", "lease", "messages", "stale"}
    attempts = Counter(a.state for world in worlds for a in world.state.attempts.values())
    assert set(attempts) == {state for state in AttemptState if state.is_terminal}
    trials = Counter(t.state for world in worlds for rows in world.state.trials.values() for t in rows.values())
    assert set(trials) == {state for state in TrialState if state.is_terminal}
    studies = Counter(study.state for world in worlds for study in world.state.studies.values())
    assert set(studies) == {state for state in StudyState if state.is_terminal}


def check_ended(world: World) -> None:
    for study_id, study in world.state.studies.items():
        assert study.state.is_terminal, (study, world.state.trials[study_id], world.state.attempts)
        trials = world.state.trials[study_id]
        searched = [t for t in trials.values() if t.kind is not TrialKind.CONFIRMATION]
        assert len(searched) <= study.spec.budget.trials
        configs = [msgspec.json.encode(t.config, order="sorted") for t in searched]
        assert len(set(configs)) == len(configs)
        for trial in trials.values():
            assert trial.attempts <= study.spec.budget.max_attempts
            assert world.ran[study_id, trial.number] <= trial.attempts
            assert (trial.state, trial.reason) != (TrialState.FAILED, Reason.HOST_NOISY), "noise fails no trial"
            if trial.state is TrialState.SUCCEEDED:
                assert len(trial.runs) == len(trial.run_seeds)
        if study.state is StudyState.COMPLETED and not study.exhausted and not study.enough:
            assert len(searched) == study.spec.budget.trials


def check_replay(world: World) -> None:
    """Replaying the journal gives the stored state (I8)."""
    state = CoordinatorState()
    for line in world.journal:
        entry = msgspec.json.decode(line, type=JournalEntry)
        state, _, _ = step(state, entry.event, entry.now_s)
    assert state == world.state
