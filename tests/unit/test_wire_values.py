"""Leases, addresses, topology, errors."""

from __future__ import annotations

import pytest

from scoot.wire.endpoint import Endpoint, TlsFiles, parse_endpoint, require_tls
from scoot.wire.errors import UserError
from scoot.wire.lease import LeasePolicy, LeaseState, lease_state, must_self_fence
from scoot.wire.spec import Config, Service
from scoot.wire.topology import Topology, topology


def test_the_holder_lets_go_before_the_grantor_reassigns() -> None:
    policy = LeasePolicy()
    assert policy.self_fence_s + policy.stop_grace_s + policy.kill_grace_s < policy.reassign_s
    with pytest.raises(UserError, match="reassign"):
        LeasePolicy(reassign_s=40.0)
    with pytest.raises(UserError, match="heartbeat"):
        LeasePolicy(heartbeat_s=15.0)
    with pytest.raises(UserError, match="positive"):
        LeasePolicy(stop_grace_s=0.0)


@pytest.mark.parametrize(
    ("silent_s", "state"),
    [
        (0.0, LeaseState.ACTIVE),
        (9.9, LeaseState.ACTIVE),
        (10.0, LeaseState.SUSPECT),
        (30.0, LeaseState.LOST),
        (45.0, LeaseState.RELEASED),
    ],
)
def test_lease_states(silent_s: float, state: LeaseState) -> None:
    assert lease_state(LeasePolicy(), silent_s) is state


def test_self_fencing_starts_at_its_time_exactly() -> None:
    assert not must_self_fence(LeasePolicy(), 19.99)
    assert must_self_fence(LeasePolicy(), 20.0)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:7070", Endpoint("127.0.0.1", 7070)),
        ("[::1]:1", Endpoint("::1", 1)),
        ("gpu-box.example:65535", Endpoint("gpu-box.example", 65535)),
    ],
)
def test_addresses_parse_and_print(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:65536", "host:-1", "::1:80", "host:1x"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="listen"):
        parse_endpoint(text, key="listen")


def test_plaintext_stays_on_loopback() -> None:
    for text in ("127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1"):
        require_tls(parse_endpoint(text), None)
    for text in ("10.0.0.1:1", "example.com:1", "0.0.0.0:1", "[::]:1"):
        with pytest.raises(UserError, match="plaintext"):
            require_tls(parse_endpoint(text), None)
        require_tls(parse_endpoint(text), TlsFiles("ca", "cert", "key"))


def test_topology() -> None:
    service = Service(engine="vllm", model="m", devices=8)
    assert topology(service, {"tensor_parallel_size": 2}) == Topology(8, 2, 4)
    assert topology(service, {}) == Topology(8, 1, 8)
    alone = Service(engine="vllm", model="m", replicas=2, options={"tensor_parallel_size": 4})
    assert topology(alone, {}) == Topology(8, 4, 2)
    assert topology(Service(engine="trtllm", model="m"), {"tp_size": 4}) == Topology(4, 4, 1)
    for bad in (0, -1, True, 1.0, "2"):
        with pytest.raises(UserError, match="positive integer"):
            topology(service, {"tensor_parallel_size": bad})
    with pytest.raises(UserError, match="does not divide"):
        topology(service, {"tensor_parallel_size": 3})


def test_every_degree_that_lays_a_model_over_devices_or_copies_it_multiplies_them() -> None:
    whole: Config = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "data_parallel_size": 2}
    assert topology(Service(engine="vllm", model="m", devices=16), whole) == Topology(16, 2, 2)
    assert topology(Service(engine="vllm", model="m", devices=16), whole).per_replica == 8
    assert topology(Service(engine="trtllm", model="m", options={"pp_size": 2}), {"cp_size": 2}) == Topology(4, 1, 1)
    assert topology(Service(engine="vllm", model="m"), {"decode_context_parallel_size": 2}) == Topology(1, 1, 1)
    copies = Service(engine="sglang", model="m", options={"tp_size": 4, "dp_size": 2})
    assert topology(copies, {}) == Topology(8, 4, 1)
    assert topology(copies, {"enable_dp_attention": True}) == Topology(4, 4, 1)
    with pytest.raises(UserError, match="pp_size 0 is not a positive integer"):
        topology(Service(engine="trtllm", model="m"), {"pp_size": 0})
    with pytest.raises(UserError, match="6 devices of a replica does not divide"):
        topology(Service(engine="vllm", model="m", devices=8), {"tensor_parallel_size": 2, "data_parallel_size": 3})


def test_user_errors_name_file_line_key_and_remedy() -> None:
    error = UserError("must be positive", key="budget.trials", hint="write 30").at(path="study.toml", line=7)
    assert str(error) == "study.toml:7: budget.trials: must be positive (write 30)"
    assert error.at(path="other.toml", line=1).path == "study.toml"
