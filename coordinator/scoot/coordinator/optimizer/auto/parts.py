"""The parts of method="auto", each of which can be left out to show what it is worth. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Which parts there are: all of them, but in comparisons.

    Attributes:
        around: first points around the default; without it as many Sobol points.
        logs: objectives are modelled by their logarithms.
        warp: numbers that span more than a decade are on a logarithmic scale.
        alone: the covariance has what features do each by itself.
        both: half of the time it has not.
        works: a model of what works at all.
        cover: values never seen to work are tried with little else changed.
        mixed: mixtures of good points and the default are among the candidates.
        niches: candidates are around the best with each value, too, and not only around the best of all.
        refined: the best candidates are looked around.
        doubt: every third suggestion takes the model for half as sure as it is.
        close: of one objective, what is far from all good points must promise more, ever less so as observations come.
    """

    around: bool = True
    logs: bool = True
    warp: bool = True
    alone: bool = True
    both: bool = True
    works: bool = True
    cover: bool = True
    mixed: bool = True
    niches: bool = True
    refined: bool = True
    doubt: bool = True
    close: bool = True


ALL = Parts()
