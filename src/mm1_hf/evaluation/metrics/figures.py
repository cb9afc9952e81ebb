"""From scores of examples to figures with errors."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mm1_hf.evaluation.contract import Example, Figure, Scores, mean_figure
from mm1_hf.evaluation.records import RowPictures


def picture_clusters(examples: Sequence[Example]) -> list[Hashable]:
    """What each example shares with others: its picture, where the data set names it.

    That is the detail `image_id` (readers put a data set's own name for the picture there), else
    the paths of the pictures, else the example alone. Bytes are not compared.
    """
    clusters: list[Hashable] = []
    for place, example in enumerate(examples):
        name = example.details.get("image_id")
        pictures = example.images
        paths = (pictures if isinstance(pictures, RowPictures) else RowPictures(pictures)).paths
        clusters.append(("id", str(name)) if name is not None else paths or ("alone", place))
    return clusters


def require_pairs(answers: Sequence[str], examples: Sequence[Example]) -> None:
    """Check that there is an answer for each example.

    Raises:
        ValueError: If the numbers differ, or there is nothing to score.
    """
    if len(answers) != len(examples):
        raise ValueError(
            f"There are {len(answers)} answers for {len(examples)} examples, but a metric compares "
            "as many of the one as of the other. Give an empty string where a model said nothing."
        )
    if not examples:
        raise ValueError("There are no examples to score: expected at least one.")


@dataclass(frozen=True)
class MeanMetric:
    """The mean of a score that every answer has by itself.

    Standard errors are clustered by picture (`picture_clusters`).

    Attributes:
        name: Name of the figure.
        score: How right an answer is, 0 to 1. Not asked for empty answers, which score 0.
        by_group: Whether `name/group` is reported for every group too.
    """

    name: str
    score: Callable[[str, Example], float]
    by_group: bool = False

    def __call__(self, answers: Sequence[str], examples: Sequence[Example]) -> Scores:
        """Score all answers together."""
        require_pairs(answers, examples)
        values = [
            float(self.score(answer, example)) if answer.strip() else 0.0
            for answer, example in zip(answers, examples, strict=True)
        ]
        clusters = picture_clusters(examples)
        figures = {self.name: mean_figure(values, clusters=clusters)}
        if self.by_group:
            figures |= group_figures(self.name, values, examples, clusters=clusters)
        return Scores(figures, tuple(values))


def group_figures(
    name: str,
    values: Sequence[float],
    examples: Sequence[Example],
    *,
    clusters: Sequence[Hashable],
) -> dict[str, Figure]:
    """A mean `name/group` for every group, in the order of first appearance."""
    places: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        if example.group is not None:
            places.setdefault(example.group, []).append(place)
    return {
        f"{name}/{group}": mean_figure(
            [values[p] for p in held], clusters=[clusters[p] for p in held]
        )
        for group, held in places.items()
    }


def jackknife_figure(
    counts: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    clusters: Sequence[Hashable],
) -> Figure:
    """A figure that is a function of summed counts, such as F1, with its jackknife error.

    The error is taken by leaving out one cluster at a time: the square root of
    (c - 1) / c · Σ (value without the cluster - their mean)², with c clusters.

    Args:
        counts: The counts of each example, of shape (examples, kinds of counts).
        statistic: The figure of the summed counts, an array with one entry per kind.
        clusters: What the examples share, one entry for each.
    """
    table = counts.astype(float)
    total = table.sum(axis=0)
    sums: dict[Hashable, np.ndarray] = {}
    for row, cluster in zip(table, clusters, strict=True):
        sums[cluster] = sums.get(cluster, np.zeros_like(total)) + row
    value = float(statistic(total))
    if len(sums) < 2:
        return Figure(value, None, len(sums))
    without = np.array([statistic(total - part) for part in sums.values()])
    spread = float(((without - without.mean()) ** 2).sum())
    return Figure(value, math.sqrt((len(sums) - 1) / len(sums) * spread), len(sums))


def sum_figures(parts: Mapping[str, Figure]) -> Figure:
    """The sum of figures of different examples; it has an error only where every part has one."""
    errors = [part.standard_error for part in parts.values()]
    known = [error for error in errors if error is not None]
    return Figure(
        math.fsum(part.value for part in parts.values()),
        math.hypot(*known) if len(known) == len(errors) else None,
        sum(part.count for part in parts.values()),
    )
