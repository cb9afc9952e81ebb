"""The best learning rate of each size, and the log-linear law through them.

Source: MM1, arXiv 2403.09611, section 3.3: a grid of rates at several sizes, a regression of
ln(rate) on ln(parameters). How the paper finds the best rate of a size is not public; here it is
the vertex of a parabola through the losses over ln(rate) (our choice).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class BestRate(NamedTuple):
    """The best rate of one size.

    Attributes:
        rate: The rate at the vertex.
        loss: The loss there.
        is_inside: Whether it lies between the smallest and the largest rate that were tried. If
            not, the grid does not hold the best rate, and the fit should not be trusted.
    """

    rate: float
    loss: float
    is_inside: bool


class RateLaw(NamedTuple):
    """ln(rate) = slope · ln(parameters) + offset; the paper's are -0.4214 and -0.5535."""

    slope: float
    offset: float

    def rate(self, num_parameters: float) -> float:
        """The rate of a size."""
        return math.exp(self.slope * math.log(num_parameters) + self.offset)


def best_rate(losses: Mapping[float, float]) -> BestRate:
    """The vertex of the parabola through the lowest loss and its two neighbours.

    Three points only: far from the best rate, where training falls apart, losses follow no
    parabola. Where the lowest loss is at the end of the grid, or the parabola has no lowest point,
    the best rate that was tried stands for it.

    Args:
        losses: Loss by learning rate; at least three rates.

    Raises:
        ValueError: If there are fewer than three rates.
    """
    if len(losses) < 3:
        raise ValueError(
            f"There are losses of {len(losses)} learning rates, but a parabola takes at least "
            "three. Run more rates."
        )
    rates = sorted(losses)
    lowest = min(range(len(rates)), key=lambda index: losses[rates[index]])
    if lowest in (0, len(rates) - 1):
        return BestRate(rates[lowest], losses[rates[lowest]], is_inside=False)
    near = rates[lowest - 1 : lowest + 2]
    logs = np.log(near) - math.log(rates[lowest])
    bend, tilt, height = np.polyfit(logs, [losses[rate] for rate in near], 2)
    if bend <= 0:
        return BestRate(rates[lowest], losses[rates[lowest]], is_inside=True)
    shift = -tilt / (2 * bend)
    return BestRate(
        rates[lowest] * math.exp(shift), float(height - tilt**2 / (4 * bend)), is_inside=True
    )


def fit_law(best: Sequence[tuple[float, float]]) -> RateLaw:
    """The least-squares line through pairs of size (parameters) and best rate, in logarithms.

    Raises:
        ValueError: If there are fewer than two sizes.
    """
    if len({size for size, _ in best}) < 2:
        raise ValueError(
            f"There are {len(best)} pairs of size and rate, but a line takes at least two sizes."
        )
    sizes, rates = np.log(np.array(best, dtype=float)).T
    slope, offset = np.polyfit(sizes, rates, 1)
    return RateLaw(float(slope), float(offset))
