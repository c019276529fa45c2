"""Built-in workloads: length distributions and shared prefixes fitted to public data, so nothing is downloaded. Pure.

A profile draws input and output lengths independently (rank correlations in the data lie between -0.11 and 0.20) from
quantile functions: straight lines in log length between fitted quantiles. Draws are stratified, one per n-th of the
distribution in random order, so that a workload of a few hundred requests has the profile's quantiles too.
Token counts are LLaMA-2's, or the provider's own for Azure. Arrivals are not part of a profile.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from scoot.benchmark.trace_row import MAX_THINK_S, Rows, TraceRow
from scoot.wire import limits
from scoot.wire.errors import UserError

_MASK: Final = (1 << 64) - 1

_Knots = tuple[tuple[float, int], ...]


class PrefixGroup(msgspec.Struct, frozen=True):
    """Requests that share a prefix: their weight among all, and the prefix's tokens."""

    weight: float
    tokens: int


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A built-in workload.

    Attributes:
        name: as in a study file.
        source: where its figures come from, one sentence; shown in reports.
        own_tokens: quantile knots (percent 0..100, tokens) of the input behind the shared prefix.
        output_tokens: quantile knots of the output length.
        groups: shared prefixes; empty when there are none.
        rate: requests per second in the source (for the applications of the SCOOT paper: section 5.1, on A10).
    """

    name: str
    source: str
    own_tokens: _Knots
    output_tokens: _Knots
    groups: tuple[PrefixGroup, ...] = ()
    rate: float


class SessionProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A built-in workload of conversations. Each prompt is the system prompt and all that was said before.

    Attributes:
        name, source: as in Profile.
        turns: lengths of sessions, in turns, ascending, each with its weight.
        own_tokens: quantile knots of a user's message.
        output_tokens: quantile knots of an answer.
        system_tokens: length of the system prompt, which all sessions share.
        think_median_s, think_sigma: pauses are log-normal, of this median (seconds) and deviation of the logarithm.
        rate: sessions per second when a study names none.
    """

    name: str
    source: str
    turns: tuple[tuple[int, int], ...]
    own_tokens: _Knots
    output_tokens: _Knots
    system_tokens: int
    think_median_s: float
    think_sigma: float
    rate: float


_LEVELS: Final = (0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 100)
_AZURE_LEVELS: Final = (0, 1, 5, 10, 20, 30, 35, 40, 50, 60, 65, 70, 75, 80, 88, 90, 95, 98, 99, 100)


def _knots(levels: Sequence[float], tokens: Sequence[int]) -> _Knots:
    return tuple(zip(levels, tokens, strict=True))


_SQL: Final = Profile(
    name="SQL",
    # Wei, Li et al., BIRD development set (CC-BY-SA-4.0): one group per database, its schema being the prefix. Lengths
    # were counted on prompts of schema, question and hint, answers on the reference SQL.
    source="fitted to 1,534 text-to-SQL requests over the 11 databases of the BIRD development set",
    own_tokens=_knots(_LEVELS, (20, 34, 45, 51, 58, 64, 69, 77, 85, 93, 105, 122, 142, 166, 182, 261)),
    output_tokens=_knots(_LEVELS, (13, 18, 23, 29, 44, 52, 57, 63, 70, 76, 86, 99, 110, 137, 172, 644)),
    groups=(
        PrefixGroup(89, 1054),
        PrefixGroup(106, 629),
        PrefixGroup(145, 188),
        PrefixGroup(191, 1234),
        PrefixGroup(186, 816),
        PrefixGroup(129, 455),
        PrefixGroup(174, 1024),
        PrefixGroup(129, 2466),
        PrefixGroup(163, 646),
        PrefixGroup(158, 567),
        PrefixGroup(64, 282),
    ),
    rate=5.0,
)

_BOT: Final = Profile(
    name="BOT",
    # Arena-Hard v0.1 (Apache-2.0): user questions behind one short system prompt, lengths of one model's answers.
    source="fitted to the 500 chat questions of Arena-Hard v0.1 and the lengths of their answers",
    own_tokens=_knots(_LEVELS, (11, 12, 15, 17, 21, 26, 30, 38, 48, 67, 110, 283, 492, 806, 1527, 2832)),
    output_tokens=_knots(_LEVELS, (8, 35, 116, 158, 219, 271, 314, 361, 404, 458, 526, 641, 759, 918, 1147, 4490)),
    groups=(PrefixGroup(1, 18),),
    rate=5.0,
)

_CLS: Final = Profile(
    name="CLS",
    # Banking77 (CC-BY-4.0, PolyAI): customer messages behind one head that lists 77 intents and a dozen examples.
    source="fitted to 4,000 bank messages of Banking77 behind one few-shot head",
    own_tokens=_knots(_LEVELS, (9, 11, 13, 13, 15, 16, 17, 18, 19, 21, 24, 33, 41, 51, 58, 104)),
    output_tokens=_knots(_LEVELS, (4, 4, 4, 5, 5, 6, 7, 8, 8, 9, 10, 12, 13, 15, 20, 20)),
    groups=(PrefixGroup(1, 984),),
    rate=10.0,
)

_REC: Final = Profile(
    name="REC",
    # No public data set stands for the paper's recommendation service. The shape is a choice: a long, mostly private
    # input (profile, history, candidates; log-normal with median 1,400 and 95th percentile 2,900) behind a short
    # instruction, and a short list of items as output (log-normal, median 24, 95th percentile 60).
    source="not fitted: a documented choice for recommendation, long private inputs and short outputs",
    own_tokens=_knots(
        _LEVELS, (300, 500, 676, 794, 965, 1111, 1251, 1400, 1566, 1764, 2031, 2469, 2900, 3480, 3919, 6000)
    ),
    output_tokens=_knots(_LEVELS, (4, 7, 10, 12, 15, 18, 21, 24, 28, 32, 38, 49, 60, 75, 88, 160)),
    groups=(PrefixGroup(1, 120),),
    rate=15.0,
)

_AZURE_CONV: Final = Profile(
    name="AZURE_CONV",
    # Azure Public Dataset, LLM inference trace 2023, conversation (CC-BY-4.0; Patel et al., Splitwise, ISCA 2024).
    source="fitted to 9,739 requests (half an hour) of Azure's 2023 conversation trace",
    own_tokens=_knots(
        _AZURE_LEVELS,
        (2, 40, 181, 298, 390, 407, 431, 968, 1035, 1081, 1105, 1140, 1200, 1317, 2825, 4075, 4086, 4098, 4122, 14050),
    ),
    output_tokens=_knots(
        _AZURE_LEVELS,
        (7, 16, 38, 50, 71, 88, 94, 102, 140, 211, 377, 393, 397, 404, 421, 428, 463, 565, 612, 1000),
    ),
    rate=5.56,
)

_CHAT_SESSIONS: Final = SessionProfile(
    name="CHAT_SESSIONS",
    # Turns and the spread of pauses: Mooncake's conversation trace (Apache-2.0; Qin et al., FAST 2025), where a request
    # whose prompt blocks continue those of an earlier one was taken for its next turn: 947 conversations of several
    # turns in half an hour, which cuts the longest short. Logarithms of the gaps between arrivals have a standard
    # deviation of 0.9 there, around a median of 120 s, answer included. The median of 10 s is a choice: windows of a
    # few minutes see later turns. Messages and answers are those of BOT; the system prompt's length is a choice.
    source=(
        "messages and answers as in BOT, turns fitted to 947 conversations of Mooncake's conversation trace, pauses"
        " log-normal with its spread and a chosen median of 10 s"
    ),
    turns=(
        *((2, 605), (3, 182), (4, 85), (5, 28), (6, 18), (7, 10), (8, 7)),
        *((9, 5), (10, 1), (11, 1), (12, 3), (18, 1), (21, 1)),
    ),
    own_tokens=_BOT.own_tokens,
    output_tokens=_BOT.output_tokens,
    system_tokens=64,
    think_median_s=10.0,
    think_sigma=0.9,
    rate=1.0,
)

PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {profile.name: profile for profile in (_SQL, _BOT, _CLS, _REC, _AZURE_CONV)}
)
"""Built-in workloads of independent requests by name."""

SESSION_PROFILES: Final[Mapping[str, SessionProfile]] = MappingProxyType({_CHAT_SESSIONS.name: _CHAT_SESSIONS})
"""Built-in workloads of sessions by name."""


def profile_named(name: str) -> Profile | SessionProfile:
    """The built-in workload `name`.

    Raises:
        UserError: there is none of that name.
    """
    profile = PROFILES.get(name) or SESSION_PROFILES.get(name)
    if profile is None:
        names = (*PROFILES, *SESSION_PROFILES)
        close = difflib.get_close_matches(name.upper(), names, n=1)
        raise UserError(
            f"unknown profile {name!r}",
            key="workload.profile",
            hint=f"did you mean {close[0]}?" if close else f"one of {', '.join(names)}",
        )
    return profile


def draw(profile: Profile, n: int, seed: int) -> tuple[TraceRow, ...]:
    """`n` requests of a profile; the same seed gives the same rows. Their `notes` name the profile's source.

    Args:
        profile: one of PROFILES, or one of your own.
        n: 1..limits.REQUESTS.
        seed: any integer.

    Raises:
        UserError: n is out of range.
    """
    if not 1 <= n <= limits.REQUESTS:
        raise UserError(f"{n} requests cannot be drawn, 1 to {limits.REQUESTS} can", key="workload.max_requests")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed & _MASK)))
    own = _lengths(profile.own_tokens, n, rng).tolist()
    output = _lengths(profile.output_tokens, n, rng).tolist()
    note = f"profile {profile.name}: {n} requests drawn with seed {seed}, {profile.source}"
    if not profile.groups:
        rows = [TraceRow(input_tokens=i, output_tokens=o) for i, o in zip(own, output, strict=True)]
        return Rows(rows, (note,))
    weights = np.cumsum([group.weight for group in profile.groups])
    chosen = np.searchsorted(weights / weights[-1], _levels(n, rng), side="right").tolist()
    rows = [
        TraceRow(input_tokens=tokens + i, output_tokens=o, blocks=(group,), block_tokens=tokens)
        for i, o, group, tokens in zip(own, output, chosen, [profile.groups[g].tokens for g in chosen], strict=True)
    ]
    return Rows(rows, (note,))


def draw_sessions(profile: SessionProfile, n: int, seed: int) -> tuple[TraceRow, ...]:
    """All turns of `n` sessions, session by session; the same seed gives the same rows. `notes` name the source.

    Args:
        profile: one of SESSION_PROFILES, or one of your own.
        n: sessions, 1..limits.REQUESTS; fewer come back when their turns would be more than limits.REQUESTS.
        seed: any integer.

    Raises:
        UserError: n is out of range.
    """
    if not 1 <= n <= limits.REQUESTS:
        raise UserError(f"{n} sessions cannot be drawn, 1 to {limits.REQUESTS} can", key="workload.max_requests")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed & _MASK)))
    lengths, weights = np.array(profile.turns, dtype=np.int64).T
    upto = np.cumsum(weights) / weights.sum()
    turns = lengths[np.searchsorted(upto, _levels(n, rng), side="right")]
    turns = turns[np.cumsum(turns) <= limits.REQUESTS]
    total = int(turns.sum())
    own = _lengths(profile.own_tokens, total, rng).tolist()
    output = _lengths(profile.output_tokens, total, rng).tolist()
    pauses = np.exp(np.log(profile.think_median_s) + profile.think_sigma * rng.standard_normal(total))
    think_s = np.minimum(MAX_THINK_S, np.round(pauses, 3)).tolist()
    rows: list[TraceRow] = []
    for session, length in enumerate(turns.tolist()):
        said = profile.system_tokens
        for turn in range(length):
            at = len(rows)
            rows.append(
                TraceRow(
                    input_tokens=said + own[at],
                    output_tokens=output[at],
                    blocks=(0,),
                    block_tokens=profile.system_tokens,
                    session=session,
                    think_s=think_s[at] if turn else 0.0,
                )
            )
            said += own[at] + output[at]
    note = f"profile {profile.name}: {len(turns)} sessions of {total} turns drawn with seed {seed}, {profile.source}"
    return Rows(rows, (note,))


def mean_turns(profile: SessionProfile) -> float:
    """Turns of a session on average."""
    return sum(turns * weight for turns, weight in profile.turns) / sum(weight for _, weight in profile.turns)


def _levels(n: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """(n,) stratified uniform numbers in [0, 1): one in each n-th, in random order."""
    return (rng.permutation(n) + rng.random(n)) / n


def _lengths(knots: _Knots, n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """(n,) lengths in tokens, at least 1, by inverting the quantile function."""
    levels, tokens = zip(*knots, strict=True)
    log_length = np.interp(100.0 * _levels(n, rng), levels, np.log(tokens))
    return np.maximum(1, np.rint(np.exp(log_length))).astype(np.int64)
