"""Findings as rules: which points, which figure, which difference.

A claim is a number taken from the figures of each seed, with a bound. Over the seeds it has a
two-sided 95 % interval. The claim holds if the whole interval is on the claimed side of the bound,
fails if the whole interval is on the other, and is open otherwise. A finding is reproduced if all
its claims hold, not reproduced if one fails, and else nobody can tell. Intervals are not corrected
for their number: of twenty claims about nothing, one is expected not to be open.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

# Figures of one seed, by name of the point.
ByPoint = Mapping[str, float]


@dataclass(frozen=True)
class Claim:
    """That a number is above a bound, or within it.

    Attributes:
        text: What is claimed, for readers.
        figure: The figure of which it is taken.
        points: Names of the points that it needs; a seed without one of them does not count.
        number: Of the figures of one seed, by point.
        bound: For `"above"` the number must be larger; for `"within"` its size must be smaller.
        kind: `"above"` or `"within"`.
    """

    text: str
    figure: str
    points: tuple[str, ...]
    number: Callable[[ByPoint], float]
    bound: float = 0.0
    kind: Literal["above", "within"] = "above"


@dataclass(frozen=True)
class Finding:
    """A finding of a paper, and the claims that it stands on.

    Attributes:
        number: Its number.
        text: What the paper says.
        claims: All must hold.
        source: Where it is published.
        untested: What the finding says beyond the claims; empty if nothing.
    """

    number: int
    text: str
    claims: tuple[Claim, ...]
    source: str
    untested: str = ""


def above(text: str, figure: str, better: str, worse: str) -> Claim:
    """The claim that one point's figure is larger than another's, seed by seed."""
    return Claim(text, figure, (better, worse), lambda by: by[better] - by[worse])


def within(text: str, figure: str, one: str, other: str, *, bound: float) -> Claim:
    """The claim that two points' figures differ by less than a bound."""
    return Claim(
        text, figure, (one, other), lambda by: by[one] - by[other], bound=bound, kind="within"
    )
