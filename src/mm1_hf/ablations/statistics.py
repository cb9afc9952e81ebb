"""Means over seeds and their intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean and where the true one lies.

    Attributes:
        mean: The mean; NaN of nothing.
        low: Lower end; minus infinity of fewer than two values, which say nothing about spread.
        high: Upper end, likewise.
        n: How many values.
    """

    mean: float
    low: float
    high: float
    n: int

    def show(self, *, digits: int = 3) -> str:
        """Mean and half of the width, such as `"0.512 ± 0.021"`; thousands as whole numbers."""
        if not self.n:
            return "–"
        if abs(self.mean) >= 1000:
            digits = 0
        if self.n < 2:
            return f"{self.mean:,.{digits}f}"
        return f"{self.mean:,.{digits}f} ± {(self.high - self.low) / 2:,.{digits}f}"


def t_interval(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """Two-sided interval of a mean of independent values, such as figures of several seeds."""
    count = len(values)
    if not count:
        return Interval(math.nan, -math.inf, math.inf, 0)
    mean = math.fsum(values) / count
    if count < 2:
        return Interval(mean, -math.inf, math.inf, count)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = t_quantile((1 + confidence) / 2, degrees=count - 1) * math.sqrt(variance / count)
    return Interval(mean, mean - half, mean + half, count)


def t_quantile(probability: float, *, degrees: int) -> float:
    """The value below which Student's t of so many degrees of freedom lies with a probability.

    >>> round(t_quantile(0.975, degrees=2), 3)
    4.303
    """
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees=degrees)
    low, high = 0.0, 1.0
    while _t_within(high, degrees) < 2 * probability - 1:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        if _t_within(middle, degrees) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _t_within(bound: float, degrees: int) -> float:
    """Probability that |t| is below a bound.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(bound, math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term = total = cosine if odd else 1.0
    for step in range(2 if odd else 1, degrees - 2 if odd else degrees - 1, 2):
        term *= step / (step + 1) * cosine**2
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if degrees > 1 else 0.0))
