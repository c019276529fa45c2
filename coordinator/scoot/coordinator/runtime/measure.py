"""Metrics of an attempt, computed from its stored timings: the stored bytes are the truth, not the agent's word."""

from __future__ import annotations

import msgspec

from scoot.benchmark.goodput import goodput
from scoot.benchmark.metrics import summarise
from scoot.benchmark.validity import judge
from scoot.coordinator.store.base import SegmentInfo, Store
from scoot.coordinator.store.inflate import inflate
from scoot.coordinator.study.events import Measured
from scoot.coordinator.study.state import AttemptRecord, StudyRecord, TrialRecord
from scoot.wire import columns
from scoot.wire.errors import PermanentInfraError, RemoteProtocolError
from scoot.wire.measurement import RunResult
from scoot.wire.reasons import Reason


def measure(store: Store, study: StudyRecord, trial: TrialRecord, attempt: AttemptRecord) -> Measured:
    """Metrics and verdict per arrival order, and goodput where latencies are promised.

    Blocking: run it on the store's thread.
    A missing or damaged batch is an outcome (UPLOAD_CORRUPT), not an exception: the trial is run again.
    """
    outcome = attempt.outcome
    infos = store.segments(attempt.attempt_id)
    announced = outcome.batches if outcome is not None else 0
    if [info.seq for info in infos] != list(range(announced)):
        return _corrupt(attempt, f"{len(infos)} timing batches are stored, {announced} were announced")
    try:
        whole = columns.concatenate([columns.decode(_read(store, info)) for info in infos])
    except (PermanentInfraError, RemoteProtocolError) as error:
        return _corrupt(attempt, str(error))
    classes = study.spec.workload.slo_classes
    if classes and whole.slo_class is not None and len(whole) and int(whole.slo_class.max()) >= len(classes):
        return _corrupt(attempt, f"a request of SLO class {int(whole.slo_class.max())}, of {len(classes)} classes")
    audits = {audit.run: audit for audit in outcome.audits} if outcome is not None else {}
    results = []
    for run, seed in enumerate(trial.run_seeds):
        if run not in audits:
            return _corrupt(attempt, f"run {run} has no audit of its load process")
        metrics = summarise(whole, run=run)
        if classes:
            together, each = goodput(whole, run=run, classes=classes)
            metrics = msgspec.structs.replace(metrics, goodput=together, goodput_by_class=each)
        verdict = judge(metrics, audits[run], study.spec.limits)
        results.append(RunResult(run=run, seed=seed, metrics=metrics, audit=audits[run], validity=verdict))
    return Measured(attempt_id=attempt.attempt_id, fence=attempt.fence, runs=tuple(results))


def _read(store: Store, info: SegmentInfo) -> bytes:
    return inflate(store.read_segment(info), info.encoding, info.raw_bytes)


def _corrupt(attempt: AttemptRecord, message: str) -> Measured:
    return Measured(attempt_id=attempt.attempt_id, fence=attempt.fence, reason=Reason.UPLOAD_CORRUPT, message=message)
