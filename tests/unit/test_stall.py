"""A hang under load and what only looks like one."""

from __future__ import annotations

import asyncio

import pytest

from scoot.agent.core import stall
from scoot.agent.fleet import ReplicaTrouble
from scoot.agent.stall import StallWatch
from scoot.benchmark.plan import LoadProgress
from scoot.wire.assignment import Phase

LIMIT_S = 60.0
TIMEOUT = ReplicaTrouble(replica=1, exit=None, silent=True, detail="/v1/completions: no answer within 30.0 s")
ERROR = ReplicaTrouble(replica=1, exit=None, detail="/v1/completions: HTTP 503: busy")


def sign(tokens: int, *, silent_s: float = 0.0, outstanding: int = 9, failed: int = 0, run: int = 0) -> LoadProgress:
    return LoadProgress(
        phase=Phase.MEASURE,
        run=run,
        sent=99,
        completed=0,
        failed=failed,
        tokens=tokens,
        outstanding=outstanding,
        silent_s=silent_s,
        silent_replica=1,
    )


def after(*signs: tuple[float, LoadProgress]) -> stall.Advance:
    advance = stall.begin(0.0)
    for at_s, progress in signs:
        advance = stall.heard(advance, progress, at_s)
    return advance


def test_tokens_are_progress_and_so_is_a_new_run_and_having_nothing_to_do() -> None:
    still = after((10.0, sign(5)), (70.0, sign(5, failed=3)))
    assert still.idle_s == 60.0, "a request that failed is none"
    assert after((10.0, sign(5)), (70.0, sign(6))).idle_s == 0.0
    assert after((10.0, sign(5)), (70.0, sign(5, run=1))).idle_s == 0.0
    assert after((10.0, sign(5)), (70.0, sign(5, outstanding=0, silent_s=60.0))).idle_s == 0.0
    assert after((10.0, sign(5)), (70.0, sign(5, outstanding=0, silent_s=60.0))).mute_s == 0.0


@pytest.mark.parametrize(("idle_s", "suspicious"), [(29.9, False), (30.0, True)])
def test_half_the_time_allowed_is_suspicious(idle_s: float, suspicious: bool) -> None:
    assert stall.suspicious(after((10.0, sign(5)), (10.0 + idle_s, sign(5))), LIMIT_S) == suspicious
    assert stall.suspicious(after((99.0, sign(5, silent_s=idle_s))), LIMIT_S) == suspicious
    assert stall.patience_s(LIMIT_S) == 30.0


def test_a_hang_is_silence_or_bytes_without_tokens_and_no_answer() -> None:
    mute = after((100.0, sign(5)), (101.0, sign(6, silent_s=60.0)))
    for timed_out in (True, False):
        why = stall.hang(mute, LIMIT_S, timed_out=timed_out)
        assert "replica 1" in why
        assert "60.0 s" in why
    dribbling = after((10.0, sign(5)), (70.0, sign(5, silent_s=0.1)))
    assert "no token for 60.0 s" in stall.hang(dribbling, LIMIT_S, timed_out=True)
    assert stall.hang(dribbling, LIMIT_S, timed_out=False) == "", "it answers, with errors: those are counted"
    assert stall.hang(after((10.0, sign(5)), (69.9, sign(5, silent_s=59.9))), LIMIT_S, timed_out=True) == ""


def test_a_completion_that_was_answered_counts_as_a_sign_of_life() -> None:
    silent = after((10.0, sign(5)), (100.0, sign(5, silent_s=90.0)))
    proven = stall.proven(silent, 100.5)
    assert not stall.suspicious(proven, LIMIT_S)
    later = stall.heard(proven, sign(5, silent_s=150.0), 160.5)
    assert "60.0 s" in stall.hang(later, LIMIT_S, timed_out=True), "but not for ever"


class Script:
    """An engine's answers to our completions, and a clock."""

    def __init__(self, *answers: ReplicaTrouble | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[float, float]] = []
        self.now_s = 0.0
        self.watch = StallWatch(LIMIT_S, self.ask, lambda: self.now_s)
        self.task = asyncio.create_task(self.watch.hang())

    async def ask(self, timeout_s: float) -> ReplicaTrouble | None:
        self.asked.append((self.now_s, timeout_s))
        return self.answers.pop(0)

    async def hear(self, at_s: float, progress: LoadProgress) -> None:
        await settle()
        self.now_s = at_s
        self.watch.heard(progress)
        await settle()

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)  # noqa: TID251 - gives others their turn, and no time passes


async def test_nothing_is_asked_while_tokens_come() -> None:
    script = Script()
    for at in range(0, 300, 10):
        await script.hear(float(at), sign(at, silent_s=9.0))
    assert (script.asked, script.task.done()) == ([], False)
    await script.close()


async def test_an_engine_that_answers_is_slow_however_long_it_takes() -> None:
    script = Script(*[None] * 20)
    for at in range(0, 600, 10):
        await script.hear(float(at), sign(5, silent_s=float(at)))
    assert not script.task.done()
    assert [at for at, _ in script.asked] == [float(at) for at in range(30, 600, 30)]
    assert {timeout_s for _, timeout_s in script.asked} == {30.0}
    await script.close()


async def test_an_engine_that_does_not_answer_hangs_when_the_time_is_up() -> None:
    script = Script(TIMEOUT)
    for at in (0, 29, 31, 45, 59):
        await script.hear(float(at), sign(5, silent_s=float(at)))
    assert (len(script.asked), script.task.done()) == (1, False)
    await script.hear(61.0, sign(5, silent_s=61.0))
    trouble = await script.task
    assert (trouble.replica, trouble.silent, trouble.exit) == (1, True, None)
    assert "no byte from replica 1 for 61.0 s, 9 requests outstanding" in trouble.detail
    assert TIMEOUT.detail in trouble.detail


async def test_an_engine_that_goes_on_is_forgiven_and_asked_again_the_next_time() -> None:
    script = Script(TIMEOUT, TIMEOUT)
    await script.hear(0.0, sign(5))
    await script.hear(31.0, sign(5, silent_s=31.0))
    await script.hear(59.0, sign(6))
    await script.hear(61.0, sign(6, silent_s=2.0))
    assert len(script.asked) == 1
    await script.hear(95.0, sign(6, silent_s=36.0))
    assert (len(script.asked), script.task.done()) == (2, False)
    await script.hear(120.0, sign(6, silent_s=61.0))
    assert "61.0 s" in (await script.task).detail


async def test_errors_are_no_hang_while_bytes_come() -> None:
    script = Script(ERROR)
    for at in range(0, 200, 10):
        await script.hear(float(at), sign(5, silent_s=1.0))
    assert (len(script.asked), script.task.done()) == (1, False)
    await script.hear(261.0, sign(5, silent_s=60.0))
    assert "HTTP 503" in (await script.task).detail
