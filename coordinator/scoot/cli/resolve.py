"""From a study file to a study that can be submitted: parsed, checked, its workload read and normalised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from scoot.benchmark.trace_file import read_trace
from scoot.benchmark.trace_row import TraceRow
from scoot.benchmark.workload import profile_rows, resolve
from scoot.cli.files import read_text
from scoot.cli.validators import Metric, Outcome, SpaceSize, check_method, goal_of, space_of
from scoot.wire import limits
from scoot.wire.client_parameters import largest_load
from scoot.wire.errors import UserError
from scoot.wire.spec import StudySpec
from scoot.wire.study_file import check_study, located, parse_study

_LOCAL_PREFIXES = ("./", "../", "~/")
_PATH_KEYS = ("workload.trace", "service.model")


class ResolvedStudy(msgspec.Struct, frozen=True, kw_only=True):
    """A study ready to be submitted.

    Attributes:
        spec: with `workload_facts`.
        blob: the workload's normalised requests.
        metrics: of the objectives, in order.
        outcomes: limits to be kept.
        space_size: how many configurations satisfy the known constraints.
    """

    spec: StudySpec
    blob: bytes
    metrics: tuple[Metric, ...]
    outcomes: tuple[Outcome, ...]
    space_size: SpaceSize


def resolve_study(path: Path, overrides: Sequence[str] = ()) -> ResolvedStudy:
    """Read, check and resolve the study file at `path`. Nothing is written.

    `overrides` are "dotted.key=value"; relative paths in them are relative to the current folder, those in the file to
    the file's folder. A model is a path only if it is absolute or begins with "./", "../" or "~/".

    Raises:
        UserError: anything wrong with the file, the workload, the space or the objectives, naming file, line and key.
    """
    text = read_text(path, limit_bytes=limits.SPEC_BYTES)
    spec = parse_study(text, path=str(path), overrides=[_absolute(item) for item in overrides])
    spec = _with_paths(spec, path.resolve().parent)
    try:
        check_study(spec)
        goal = goal_of(spec)
        check_method(spec.optimizer.method, objectives=len(spec.objectives))
        space = space_of(spec)
        rows = profile_rows(largest_load(spec)) if spec.workload.trace is None else _trace_rows(spec)
        resolved = resolve(spec.workload, max_model_len=spec.service.max_model_len, rows=rows)
    except UserError as error:
        # An error inside the trace names the trace and its own line.
        if error.path:
            raise
        raise located(error, text, path=str(path), overrides=overrides) from error
    return ResolvedStudy(
        spec=msgspec.structs.replace(spec, workload_facts=resolved.facts),
        blob=resolved.blob,
        metrics=goal.metrics,
        outcomes=goal.outcomes,
        space_size=space.size(),
    )


def _trace_rows(spec: StudySpec) -> tuple[TraceRow, ...]:
    trace = spec.workload.trace or ""
    if not Path(trace).is_file():
        raise UserError(
            f"there is no trace file {trace}",
            key="workload.trace",
            hint="a path in the study file is relative to that file",
        )
    return read_trace(trace, format=spec.workload.format, sessions=spec.workload.sessions)


def _absolute(override: str) -> str:
    """An override of a path, made independent of the study file's folder."""
    key, equals, value = override.partition("=")
    plain = value.strip().strip("\"'")
    if key.strip() == "workload.trace" or (key.strip() in _PATH_KEYS and plain.startswith(_LOCAL_PREFIXES)):
        return f"{key}{equals}{msgspec.json.encode(str(Path(plain).expanduser().absolute())).decode()}"
    return override


def _with_paths(spec: StudySpec, folder: Path) -> StudySpec:
    """The specification with its relative paths made absolute."""
    trace, model = spec.workload.trace, spec.service.model
    if trace is not None:
        trace = str((folder / Path(trace).expanduser()).resolve())
    if model.startswith(_LOCAL_PREFIXES):
        model = str((folder / Path(model).expanduser()).resolve())
    return msgspec.structs.replace(
        spec,
        workload=msgspec.structs.replace(spec.workload, trace=trace),
        service=msgspec.structs.replace(spec.service, model=model),
    )
