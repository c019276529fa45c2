from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scoot.agent.core import guard
from scoot.agent.core.guard import Guard
from scoot.wire.lease import LeasePolicy, LeaseState, lease_state

POLICY = LeasePolicy()


def test_before_the_first_welcome_there_is_nothing_to_fence() -> None:
    assert not guard.is_fenced(Guard(), 1e9)
    assert guard.fences_at_s(Guard()) is None


def test_a_welcome_proves_the_lease_from_the_hello_on() -> None:
    state = guard.welcomed(Guard(), POLICY, 100.0)
    assert guard.fences_at_s(state) == 120.0
    assert not guard.is_fenced(state, 119.9)
    assert guard.is_fenced(state, 120.0)


def test_an_acknowledgement_counts_from_when_its_heartbeat_was_sent() -> None:
    state = guard.welcomed(Guard(), POLICY, 0.0)
    state = guard.heartbeat_sent(state, 1, 5.0)
    state = guard.heartbeat_sent(state, 2, 10.0)
    state = guard.heartbeat_acknowledged(state, 1)  # comes at 14 s, say
    assert state.proven_at_s == 5.0
    assert state.in_flight == ((2, 10.0),)


def test_sending_alone_proves_nothing() -> None:
    state = guard.welcomed(Guard(), POLICY, 0.0)
    for seq in range(1, 5):
        state = guard.heartbeat_sent(state, seq, 5.0 * seq)
    assert guard.is_fenced(state, 20.0)


def test_an_acknowledgement_of_another_session_proves_nothing() -> None:
    state = guard.heartbeat_sent(guard.welcomed(Guard(), POLICY, 0.0), 1, 5.0)
    state = guard.welcomed(state, POLICY, 6.0)
    assert guard.heartbeat_acknowledged(state, 1).proven_at_s == 6.0
    assert guard.heartbeat_acknowledged(state, 99) == state


def test_old_heartbeats_are_forgotten() -> None:
    state = guard.welcomed(Guard(), POLICY, 0.0)
    for seq in range(1, 1000):
        state = guard.heartbeat_sent(state, seq, 5.0 * seq)
    assert len(state.in_flight) <= POLICY.self_fence_s / POLICY.heartbeat_s


def test_a_silent_session_is_replaced_before_the_lease_ends() -> None:
    assert 2 * POLICY.heartbeat_s <= guard.session_patience_s(POLICY) < POLICY.self_fence_s


policies = st.builds(
    lambda heartbeat, fence, lost, grace: LeasePolicy(
        heartbeat_s=heartbeat,
        self_fence_s=2 * heartbeat + fence,
        lost_s=2 * heartbeat + fence + lost,
        reassign_s=2 * heartbeat + fence + lost + 2 * grace + 1,
        stop_grace_s=grace,
        kill_grace_s=grace,
    ),
    st.floats(0.1, 10),
    st.floats(0, 50),
    st.floats(0.1, 50),
    st.floats(0.1, 20),
)

EVENTS = st.lists(
    st.tuples(st.sampled_from(["send", "ack", "hello"]), st.floats(0.0, 20.0), st.floats(0.0, 5.0)), max_size=40
)


@given(policy=policies, events=EVENTS)
def test_the_agent_lets_go_before_its_devices_are_given_away(
    policy: LeasePolicy, events: list[tuple[str, float, float]]
) -> None:
    """Whatever is sent, delayed or lost: engines are dead (fence + both graces) before the coordinator reassigns."""
    state, now_s, seq = guard.welcomed(Guard(), policy, 0.0), 0.0, 0
    sent: dict[int, float] = {}
    heard_at_s = 0.0  # when the coordinator last heard of the agent, at the earliest that is possible
    for kind, gap_s, delay_s in events:
        now_s += gap_s
        if kind == "send":
            seq += 1
            sent[seq] = now_s
            state = guard.heartbeat_sent(state, seq, now_s)
        elif kind == "ack" and sent:
            acked = min(sent)
            heard_at_s = max(heard_at_s, sent.pop(acked))
            state = guard.heartbeat_acknowledged(state, acked)
        elif kind == "hello":
            sent.clear()
            heard_at_s = max(heard_at_s, now_s)
            state = guard.welcomed(state, policy, now_s)
            now_s += delay_s
    fenced_at_s = guard.fences_at_s(state)
    assert fenced_at_s is not None
    dead_at_s = fenced_at_s + policy.stop_grace_s + policy.kill_grace_s
    assert lease_state(policy, dead_at_s - heard_at_s) is not LeaseState.RELEASED
    assert guard.is_fenced(state, fenced_at_s + 1e-6)
