from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.agent.core import inventory
from scoot.agent.core.inventory import Holdings
from scoot.agent.core.plan import Prompting, load_plan, replica_count, replicas
from scoot.agent.core.run import EndState, Unclean
from scoot.benchmark.plan import LoadPlan, PromptMode
from scoot.wire.assignment import Assignment, Device
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason
from scoot.wire.spec import Limits, Scalar, Service, Workload


def assignment(
    devices: int, degree: int | None = None, *, of: int | None = None, max_len: int | None = 2048
) -> Assignment:
    config: dict[str, Scalar] = {"max_num_seqs": 8}
    if degree is not None:
        config["tensor_parallel_size"] = degree
    return Assignment(
        attempt_id="s/0/1",
        fence=7,
        service=Service(engine="mock", model="m", device="gpu", devices=of, max_model_len=max_len),
        devices=tuple(f"GPU-{index}" for index in range(devices)),
        config=config,
        workload=Workload(profile="SQL"),
        workload_sha256="0" * 64,
        limits=Limits(),
        run_seeds=(1, 2, 3),
    )


@given(degree=st.integers(1, 8), count=st.integers(1, 8))
def test_every_device_serves_exactly_one_replica(degree: int, count: int) -> None:
    asked = assignment(degree * count, degree, of=degree * count)
    fleet = replicas(asked, range(9000, 9000 + count))
    assert [replica.index for replica in fleet] == list(range(count))
    assert all(len(replica.devices) == replica.tensor_parallel == degree for replica in fleet)
    assert tuple(device for replica in fleet for device in replica.devices) == asked.devices
    assert len({replica.url for replica in fleet}) == count


def test_a_replica_that_copies_itself_has_the_devices_of_all_its_copies() -> None:
    asked = assignment(8, 2, of=8)
    asked = msgspec.structs.replace(asked, config={**asked.config, "data_parallel_size": 2})
    fleet = replicas(asked, [9000, 9001])
    assert [(replica.tensor_parallel, len(replica.devices)) for replica in fleet] == [(2, 4), (2, 4)]


def test_devices_that_do_not_fit_the_configuration_are_refused() -> None:
    with pytest.raises(UserError, match="needs 2 devices"):
        replica_count(assignment(3, 2))
    with pytest.raises(UserError, match="does not divide"):
        replica_count(assignment(4, 3, of=4))


def test_one_port_per_replica() -> None:
    with pytest.raises(ValueError, match="zip"):
        replicas(assignment(4, 2, of=4), [9000])


def test_the_load_plan_survives_its_file() -> None:
    asked = assignment(4, 2, of=4)
    fleet = replicas(asked, [9000, 9001])
    prompting = Prompting(model="m", prompt_mode=PromptMode.TOKEN_IDS, token_low=16, token_high=99, ignore_eos=True)
    plan = load_plan(asked, fleet, prompting, rows_path="/r", spool_path="/s", audit_path="/a")
    assert msgspec.json.decode(msgspec.json.encode(plan), type=LoadPlan) == plan
    assert plan.targets == ("http://127.0.0.1:9000", "http://127.0.0.1:9001")
    assert plan.run_seeds == (1, 2, 3)
    assert (plan.token_low, plan.token_high, plan.max_model_len) == (16, 99, 2048)


def test_an_unknown_context_length_is_zero() -> None:
    asked = assignment(1, max_len=None)
    prompting = Prompting(model="m", prompt_mode=PromptMode.TEXT, token_low=0, token_high=9, ignore_eos=False)
    fleet = replicas(asked, [9000])
    assert load_plan(asked, fleet, prompting, rows_path="/r", spool_path="/s", audit_path="/a").max_model_len == 0


HOLDINGS = Holdings(tuple(Device(id=f"GPU-{index}", kind="H200") for index in range(4)))


def test_free_devices_are_given_and_held_ones_are_not() -> None:
    held = inventory.hold(HOLDINGS, "a", ["GPU-0", "GPU-1"])
    assert inventory.refuse(held, "b", ["GPU-2", "GPU-3"]) is None
    refused = inventory.refuse(held, "b", ["GPU-1", "GPU-2"])
    assert refused is not None
    assert (refused.state, refused.reason) == (EndState.REFUSED, Reason.GPU_BUSY)
    assert "attempt a" in refused.message
    assert inventory.refuse(inventory.release(held, "a"), "b", ["GPU-1", "GPU-2"]) is None


def test_unknown_and_repeated_devices_are_refused() -> None:
    unknown = inventory.refuse(HOLDINGS, "a", ["GPU-9"])
    twice = inventory.refuse(HOLDINGS, "a", ["GPU-1", "GPU-1"])
    none = inventory.refuse(HOLDINGS, "a", [])
    assert unknown is not None
    assert unknown.reason is Reason.GPU_BUSY
    assert twice is not None
    assert none is not None
    assert twice.reason is none.reason is Reason.SPEC_INVALID


def test_a_quarantined_device_is_never_used_or_offered_again() -> None:
    bad = inventory.quarantine(HOLDINGS, Unclean(Reason.GPU_MEMORY_NOT_RELEASED, "3 GiB not released", ("GPU-2",)))
    bad = inventory.quarantine(bad, Unclean(Reason.GPU_FAULT, "Xid 79", ("GPU-2", "GPU-3")))
    refused = inventory.refuse(bad, "a", ["GPU-2"])
    assert refused is not None
    assert refused.reason is Reason.GPU_MEMORY_NOT_RELEASED
    assert "3 GiB" in refused.message
    other = inventory.refuse(bad, "a", ["GPU-3"])
    assert other is not None
    assert (other.reason, "Xid 79" in other.message) == (Reason.GPU_FAULT, True)
    assert [device.id for device in inventory.trusted(bad)] == ["GPU-0", "GPU-1"]
