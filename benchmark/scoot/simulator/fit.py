"""Fits a LinearModel to timed steps, some of which are far too slow. Pure.

Errors are relative, because a step of 10 ms matters as much as one of 200 ms. Coefficients are not negative: no work
takes less than no time. Logs of real engines hold 10 to 25 % of steps that something else on the machine slowed down,
so the fit has three parts: a start that minimises absolute errors (least squares, re-weighted; a step recorded far too
fast would rule relative least squares), a scale of the good steps from the median of their errors, and least squares
over the steps within a few of that scale, until they stay the same.

The leave-one-out error is exact: every kept step is predicted from a fit to all others that were kept. Those fits are
one downdate of the normal equations each, and where the coefficients at zero change without the step, solved anew.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from scoot.benchmark.quantile import percentile
from scoot.simulator.linear import TERMS, Covers, FitError, LinearModel
from scoot.wire.errors import UserError

MIN_ROWS: Final = 30
"""Fewest steps a fit is made from."""
FLOOR_SHARE: Final = 0.5
"""Of the fastest kept step; the model never predicts less."""

_FIRST_ROUNDS: Final = 25
_TRIM_ROUNDS: Final = 30
_CUT: Final = 3.5
"""Scales of the good steps beyond which a step is an outlier."""
_LEAST_CUT: Final = 0.25
"""A step this close is never an outlier, however exact the others are: it is the model that is not linear there."""
_NORMAL: Final = 1.4826
"""Median absolute deviation -> standard deviation of a normal distribution."""
_SAME: Final = 1e-3
"""Share of a column that the columns before it must leave unexplained for its coefficient to be told apart."""
_ZERO: Final = 1e-10

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_A, _B, _C, _D, _E, _F = range(6)
_ORDER: Final = (_A, _B, _E, _C, _F, _D)
"""Which coefficient explains a shared effect: the first of them."""


class Timings(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Timed steps, one for each index.

    Attributes:
        prefill_tokens: prompt tokens computed.
        sum_squares: sum over the step's chunks of tokens computed, squared.
        sum_cached: sum over the chunks of tokens computed x tokens cached before them.
        decode_seqs: sequences that got one token each.
        decode_context: tokens these attended to, summed.
        time_s: (n,) what it took, seconds, above 0. All are (n,) and the rest at least 0.
    """

    prefill_tokens: Floats
    sum_squares: Floats
    sum_cached: Floats
    decode_seqs: Floats
    decode_context: Floats
    time_s: Floats

    def __len__(self) -> int:
        return len(self.time_s)

    def take(self, chosen: npt.NDArray[np.intp] | Bools) -> Timings:
        """Some of the steps, by index or mask."""
        return Timings(**{name: getattr(self, name)[chosen] for name in self.__struct_fields__})


def fit(rows: Timings, *, source: str = "", covers: Covers = "step") -> LinearModel:
    """The model that explains most of the steps best.

    Args:
        rows: timed steps.
        source, covers: kept in the model; see there.

    Raises:
        UserError: too few steps, or none with a prompt or none with a decode: what was never seen cannot be predicted.
    """
    _check(rows)
    design = _design(rows)
    free, tied, notes = _told_apart(design)
    columns = _columns(design, free, tied=tied)
    keep = _good(columns, rows.time_s)
    relative = columns[keep] / rows.time_s[keep, np.newaxis]
    found, solved = _solve(relative)
    left_out = _leave_one_out(relative, found, solved)
    beta = np.zeros(len(TERMS))
    beta[free] = found
    if tied:
        beta[_D] = 2.0 * beta[_C]
    notes += [
        f"{TERMS[index][0]} ({TERMS[index][2]}) is zero: it explains nothing that others do not"
        for index in free
        if beta[index] == 0.0
    ]
    trimmed = int(len(rows) - np.count_nonzero(keep))
    return LinearModel(
        **{field: float(beta[index]) for index, (_, field, _, _) in enumerate(TERMS)},
        floor_s=FLOOR_SHARE * float(rows.time_s[keep].min()),
        covers=covers,
        source=source,
        rows=len(rows),
        trimmed=trimmed,
        error=_summary(left_out),
        method="leave-one-out over the kept steps, exact (downdated normal equations, refitted where the bounds move)",
        notes=tuple(notes),
    )


def predict(model: LinearModel, rows: Timings) -> Floats:
    """(n,) predicted seconds."""
    beta = np.array([getattr(model, field) for _, field, _, _ in TERMS])
    predicted: Floats = np.maximum(_design(rows) @ beta, model.floor_s)
    return predicted


def error_of(model: LinearModel, rows: Timings) -> FitError:
    """How far the model is from steps it was not fitted to."""
    return _summary(predict(model, rows) / rows.time_s - 1.0)


def _check(rows: Timings) -> None:
    if len(rows) < MIN_ROWS:
        raise UserError(f"{len(rows)} steps are too few to fit, {MIN_ROWS} are needed", hint="record more of them")
    if not rows.prefill_tokens.any():
        raise UserError("no step computes a prompt, so its time cannot be fitted", hint="record steps with prompts too")
    if not rows.decode_seqs.any():
        raise UserError("no step decodes, so its time cannot be fitted", hint="record steps that decode too")


def _design(rows: Timings) -> Floats:
    """(n, 6) what coefficients a to f are multiplied with."""
    design: Floats = np.column_stack(
        [
            np.ones(len(rows)),
            rows.prefill_tokens,
            rows.sum_squares,
            rows.sum_cached,
            rows.decode_seqs,
            rows.decode_context,
        ]
    ).astype(np.float64)
    return design


def _told_apart(design: Floats) -> tuple[list[int], bool, list[str]]:
    """(coefficients that the steps determine, whether d follows from c, what is to be said about the others)."""
    basis: list[Floats] = []
    free: list[int] = []
    notes: list[str] = []
    tied = False
    for index in _ORDER:
        letter, _, what, _ = TERMS[index]
        column = design[:, index]
        norm = float(np.linalg.norm(column))
        rest = column / norm if norm else column
        for _ in range(2):  # twice: once loses digits
            for vector in basis:
                rest = rest - float(vector @ rest) * vector
        left = float(np.linalg.norm(rest))
        if norm and left > _SAME:
            basis.append(rest / left)
            free.append(index)
        elif index == _D:
            tied = _C in free
            why = "cached tokens follow the chunks" if norm else "no chunk in the timings has cached tokens before it"
            how = (
                "tied to 2 c, as in causal attention, where c tokens after k cost c^2 + 2 c k"
                if tied
                else "set to zero"
            )
            notes.append(f"d ({what}) is {how}: {why}")
        else:
            notes.append(f"{letter} ({what}) is set to zero: the timings cannot tell it from the terms before it")
    return sorted(free), tied, notes


def _columns(design: Floats, free: list[int], *, tied: bool) -> Floats:
    """(n, free) columns to fit; where d is tied, c's column carries both."""
    columns = design[:, free].copy()
    if tied:
        columns[:, free.index(_C)] += 2.0 * design[:, _D]
    return columns


def _good(columns: Floats, time_s: Floats) -> Bools:
    """(n,) True for steps that are no outliers."""
    beta, _ = _solve(columns / time_s[:, np.newaxis])
    for _ in range(_FIRST_ROUNDS):
        predicted = _positive(columns @ beta)
        away = np.abs(np.log(time_s / predicted))
        weight = 1.0 / np.sqrt(np.maximum(away, 1e-3)) / predicted
        beta, _ = _solve(columns * weight[:, np.newaxis], time_s * weight)
    keep = np.ones(len(time_s), np.bool_)
    for _ in range(_TRIM_ROUNDS):
        away = np.log(time_s / _positive(columns @ beta))
        # Slow steps are what is to be found, so the centre and the scale come from all steps by medians.
        centre = float(np.median(away[keep]))
        scale = _NORMAL * float(np.median(np.abs(away - centre)))
        within = np.abs(away - centre) <= max(_CUT * scale, _LEAST_CUT)
        if np.array_equal(within, keep):
            break
        keep = within
        beta, _ = _solve(columns[keep] / time_s[keep, np.newaxis])
    return keep


def _positive(predicted: Floats) -> Floats:
    return np.maximum(predicted, _ZERO)


def _solve(columns: Floats, target: Floats | None = None) -> tuple[Floats, Bools]:
    """Non-negative least squares: (coefficients, which of them are not at zero). A target of ones without one."""
    target = np.ones(len(columns)) if target is None else target
    scale = np.linalg.norm(columns, axis=0)
    scaled = columns / scale
    found, positive = _active_set(scaled.T @ scaled, scaled.T @ target)
    return found / scale, positive


def _active_set(gram: Floats, right: Floats) -> tuple[Floats, Bools]:
    """Minimise x'Gx/2 - r'x over x >= 0 (Lawson and Hanson's method on the normal equations).

    Args:
        gram: (k, k) positive definite, with a diagonal of about 1.
        right: (k,).
    """
    size = len(right)
    found = np.zeros(size)
    positive = np.zeros(size, np.bool_)
    tolerance = _ZERO * max(1.0, float(np.abs(right).max()))
    for _ in range(10 * size):
        slope = np.where(positive, -np.inf, right - gram @ found)
        enters = int(np.argmax(slope))
        if slope[enters] <= tolerance:
            break
        positive[enters] = True
        while True:
            trial = np.zeros(size)
            trial[positive] = np.linalg.solve(gram[np.ix_(positive, positive)], right[positive])
            low = positive & (trial <= 0.0)
            if not low.any():
                break
            shares = np.where(low, found / np.maximum(found - trial, _ZERO**2), np.inf)
            found = found + float(shares.min()) * (trial - found)
            positive &= found > _ZERO * max(1.0, float(found.max()))
            found[~positive] = 0.0
            if not positive.any():
                break
        found = trial
    return found, positive


def _leave_one_out(relative: Floats, beta: Floats, positive: Bools) -> Floats:
    """(n,) signed relative error of every row, predicted by the fit to all others.

    Args:
        relative: (n, k) columns over the measured time, so that a perfect prediction is 1.
        beta, positive: the fit to all rows.
    """
    scale = np.linalg.norm(relative, axis=0)
    scaled = relative / scale
    gram = scaled.T @ scaled
    right = scaled.sum(axis=0)
    inside = scaled[:, positive]
    inverse = np.linalg.inv(gram[np.ix_(positive, positive)])
    reach = inside @ inverse
    leverage = np.einsum("nk,nk->n", reach, inside)
    error = relative @ beta - 1.0
    spare = np.maximum(1.0 - leverage, _ZERO)
    # Without row i the solution on the same coefficients is beta + reach_i * error_i / (1 - leverage_i).
    without = (beta * scale)[positive] + reach * (error / spare)[:, np.newaxis]
    left_out: Floats = error / spare
    moved = (without <= 0.0).any(axis=1) | (leverage >= 1.0 - math.sqrt(_ZERO))
    outside = ~positive
    if outside.any():
        slope = right[outside] - without @ gram[np.ix_(positive, outside)]
        own = 1.0 - np.einsum("nk,nk->n", inside, without)
        slope -= scaled[:, outside] * own[:, np.newaxis]
        moved |= (slope > _ZERO).any(axis=1)
    for index in np.flatnonzero(moved):
        row = scaled[index]
        again, _ = _active_set(gram - np.outer(row, row) + _ZERO * np.eye(len(row)), right - row)
        left_out[index] = float(row @ again) - 1.0
    return left_out


def _summary(relative_error: Floats) -> FitError:
    away = np.abs(relative_error)
    return FitError(mape=float(away.mean()), bias=float(relative_error.mean()), p95=percentile(away, 95))
