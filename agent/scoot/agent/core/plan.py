"""From an assignment to what has to be started: the engine's replicas, and the plan of the load process. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from scoot.benchmark.plan import LoadPlan, PromptMode
from scoot.wire.assignment import Assignment
from scoot.wire.client_parameters import workload_of
from scoot.wire.errors import UserError
from scoot.wire.spec import Workload
from scoot.wire.topology import topology


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One engine process to start: its tensor-parallel degree, the devices it may see, and where it listens."""

    index: int
    tensor_parallel: int
    devices: tuple[str, ...]
    port: int

    @property
    def url(self) -> str:
        """Base URL; engines listen on loopback only."""
        return f"http://127.0.0.1:{self.port}"


class Prompting(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine is asked: see the fields of the same names in LoadPlan."""

    model: str
    prompt_mode: PromptMode
    token_low: int
    token_high: int
    ignore_eos: bool


def replica_count(assignment: Assignment) -> int:
    """Engines to start, after checking that the assigned devices are what the configuration needs.

    Raises:
        UserError: the tensor-parallel degree is no divisor, or the coordinator gave another number of devices.
    """
    shape = topology(assignment.service, assignment.config)
    if shape.devices != len(assignment.devices):
        raise UserError(
            f"the configuration needs {shape.devices} devices ({shape.replicas} replicas of {shape.per_replica}, "
            f"tensor-parallel degree {shape.tensor_parallel}), {len(assignment.devices)} were assigned",
            key="service.devices",
        )
    return shape.replicas


def replicas(assignment: Assignment, ports: Sequence[int]) -> tuple[Replica, ...]:
    """The replicas on their devices and ports: consecutive devices, as they were assigned, share a replica.

    Raises:
        UserError: as `replica_count`.
        ValueError: not one port per replica.
    """
    count = replica_count(assignment)
    shape = topology(assignment.service, assignment.config)
    each = shape.per_replica
    return tuple(
        Replica(
            index=index,
            tensor_parallel=shape.tensor_parallel,
            devices=assignment.devices[index * each : (index + 1) * each],
            port=port,
        )
        for index, port in zip(range(count), ports, strict=True)
    )


def load_of(assignment: Assignment) -> Workload:
    """The load of the assigned configuration: client's parameters in it replace what they stand for.

    Raises:
        UserError: they do not fit the workload.
    """
    return workload_of(assignment.workload, assignment.config)


def load_plan(
    assignment: Assignment,
    fleet: Sequence[Replica],
    prompting: Prompting,
    *,
    rows_path: str,
    spool_path: str,
    audit_path: str,
    own_root: int = 0,
) -> LoadPlan:
    """What the load process is told. Paths are absolute paths on this host; `own_root` as in LoadPlan."""
    return LoadPlan(
        targets=tuple(replica.url for replica in fleet),
        model=prompting.model,
        prompt_mode=prompting.prompt_mode,
        token_low=prompting.token_low,
        token_high=prompting.token_high,
        ignore_eos=prompting.ignore_eos,
        max_model_len=assignment.service.max_model_len or 0,
        workload=load_of(assignment),
        rows_path=rows_path,
        run_seeds=assignment.run_seeds,
        limits=assignment.limits,
        spool_path=spool_path,
        audit_path=audit_path,
        own_root=own_root,
    )
