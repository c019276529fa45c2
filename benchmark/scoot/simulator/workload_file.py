"""The workload of a simulated run, from a file with a [workload] table or from a whole study file. IO."""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path
from typing import Final

import msgspec

from scoot.benchmark.trace_row import TraceRow
from scoot.benchmark.workload import ResolvedWorkload, profile_rows, resolve
from scoot.simulator.serving.target import ENGINE_NAME
from scoot.simulator.study_service import default_of
from scoot.wire import limits
from scoot.wire.client_parameters import workload_of
from scoot.wire.errors import UserError
from scoot.wire.spec import Limits, Parameter, Service, StudySpec, Workload
from scoot.wire.study_file import located, parse_study

_FILLED: Final = (
    ("name", 'name = "simulated"'),
    ("objectives", 'objectives = ["ttft_mean"]'),
    ("service", 'service.engine = "none"'),
    ("service", 'service.model = "none"'),
    ("parameters", 'parameters.none.type = "bool"'),
)
"""Tables of a study file that a workload file may lack -> what is put in for them, so that the same checks apply."""


class WorkloadFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says of a workload.

    Attributes:
        path, text: of the file.
        workload: with the path of its trace absolute, and as trial 0 has it where parameters of the client are tuned.
        limits: of its [limits], else the defaults.
        service, parameters: of a study of the simulated engine; None and empty for other files.
    """

    path: str
    text: str
    workload: Workload
    limits: Limits
    service: Service | None
    parameters: tuple[Parameter, ...]

    def rows(self, max_model_len: int | None) -> ResolvedWorkload:
        """The requests, clipped to what an engine serves.

        Raises:
            UserError: the trace cannot be read, or the workload makes no sense.
        """
        workload = self.workload
        try:
            rows = profile_rows(workload) if workload.trace is None else _trace_rows(workload)
            return resolve(workload, max_model_len=max_model_len, rows=rows)
        except UserError as error:
            if error.path:
                raise
            raise located(error, self.text, path=self.path) from error


def read_workload(path: str, *, seed: int | None = None) -> WorkloadFile:
    """Read and check a workload file.

    Args:
        path: TOML with a [workload] table as in a study file; [limits] and all other tables of a study may be there.
        seed: in place of `workload.seed`.

    Raises:
        UserError: it cannot be read, or is none; names file, line and key.
    """
    text = _read(path)
    filled = _lacks(text)
    overrides = [item for table, item in _FILLED if table in filled] + (
        [] if seed is None else [f"workload.seed = {seed}"]
    )
    spec = parse_study(text, path=path, overrides=overrides)
    study = spec.service.engine == ENGINE_NAME
    return WorkloadFile(
        path=path,
        text=text,
        workload=_with_trace(spec, Path(path).resolve().parent),
        limits=spec.limits,
        service=spec.service if study else None,
        parameters=spec.parameters if study and "parameters" not in filled else (),
    )


def _lacks(text: str) -> frozenset[str]:
    """The tables of a study that the text does not have."""
    data: dict[str, object] = {}
    with contextlib.suppress(tomllib.TOMLDecodeError, RecursionError):  # parse_study says what is wrong, and where
        data = tomllib.loads(text)
    return frozenset(table for table, _ in _FILLED if table not in data)


def _read(path: str) -> str:
    file = Path(path)
    try:
        if file.stat().st_size > limits.SPEC_BYTES:
            raise UserError(f"is larger than {limits.SPEC_BYTES} bytes", path=path, hint="is it the right file?")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror}", path=path, key="--workload", hint="check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", path=path, key="--workload", hint="is it the right file?") from error


def _with_trace(spec: StudySpec, folder: Path) -> Workload:
    """The workload with its trace's path made absolute: in a file it is relative to that."""
    workload = workload_of(spec.workload, default_of(spec.parameters))
    trace = workload.trace
    if trace is None:
        return workload
    return msgspec.structs.replace(workload, trace=str((folder / Path(trace).expanduser()).resolve()))


def _trace_rows(workload: Workload) -> tuple[TraceRow, ...]:
    from scoot.benchmark.trace_file import read_trace

    return read_trace(workload.trace or "", format=workload.format, sessions=workload.sessions)
