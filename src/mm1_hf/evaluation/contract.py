"""What the parts of an evaluation pass to one another: examples, tasks, metrics, scores."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True)
class Example:
    """One question of a benchmark, as its data set states it.

    Attributes:
        key: Names the example within its split; answers are kept under it.
        images: Pictures in the order in which the question refers to them, each a path, the bytes
            of an image file, or a PIL image. They are decoded only when they are shown. Readers
            give a sequence that reads a picture of a table each time it is asked for it.
        question: What is asked, without the benchmark's instructions; empty for a caption.
        answers: What people or the data set answered; metrics compare with these.
        choices: The options of a multiple-choice question, without their letters.
        group: What belongs together: the category of a question, the pair of questions about one
            picture. Metrics that report by category read it.
        details: Anything else a metric or a prompt of this benchmark needs, by the name that the
            published data set gives it.
    """

    key: str
    images: Sequence[Any] = ()
    question: str = ""
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    group: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Figure(NamedTuple):
    """One number of a result.

    Attributes:
        value: The number, in the unit that the benchmark reports: shares as 0 to 1.
        standard_error: Its standard error; None where none is defined.
        count: Over how many independent examples it was taken.
    """

    value: float
    standard_error: float | None
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]


class Scores(NamedTuple):
    """What a metric says about a set of answers.

    Attributes:
        figures: Figures by name; the first is the one that the benchmark is known for.
        per_example: How right each answer is, in the order of the examples; 1 is right.
    """

    figures: Mapping[str, Figure]
    per_example: tuple[float, ...]


class Metric(Protocol):
    """Compares answers with examples. An empty answer is an answer, and a wrong one."""

    def __call__(self, answers: Sequence[str], examples: Sequence[Example]) -> Scores:
        """Score all answers together; both sequences have one length and order."""
        ...


Segments = list[Any]


@dataclass(frozen=True)
class Task:
    """A benchmark: how its examples are shown to a model, and how answers are scored.

    Attributes:
        name: As users type it.
        source: Where prompt and metric come from.
        read: Reads a split from a local folder, a file, or a Hub data set in its published format.
            Called as `read(location, split=...)`.
        prompt: Texts and pictures in reading order up to the place of the answer, for a tuned
            model; shown through its chat template.
        continuation: The same for a pre-trained model, which continues the text.
        answer: The answer that a demonstration shows.
        metric: See `Metric`.
        stops: A continuation is cut before the first of these texts.
        max_new_tokens: Tokens to generate at most.
    """

    name: str
    source: str
    read: Callable[..., Sequence[Example]]
    prompt: Callable[[Example], Segments]
    continuation: Callable[[Example], Segments]
    answer: Callable[[Example], str]
    metric: Metric
    stops: tuple[str, ...] = ("\n",)
    max_new_tokens: int = 32


def mean_figure(values: Sequence[float], *, clusters: Sequence[Any] | None = None) -> Figure:
    """Mean and standard error of per-example scores.

    Args:
        values: One score for each example.
        clusters: What the examples share (a picture, a passage), one entry for each. Examples of
            one cluster are not independent, so the error is taken over clusters.

    Raises:
        ValueError: If there are no values.
    """
    if not values:
        raise ValueError("There are no scores to average: expected at least one example.")
    mean = math.fsum(values) / len(values)
    sums: dict[Any, float] = {}
    for place, value in enumerate(values):
        cluster = place if clusters is None else clusters[place]
        sums[cluster] = sums.get(cluster, 0.0) + (value - mean)
    count = len(sums)
    if count < 2:
        return Figure(mean, None, count)
    # The sandwich estimate, with the small-sample factor of the ordinary standard error.
    variance = math.fsum(part * part for part in sums.values()) * count / (count - 1)
    return Figure(mean, math.sqrt(variance) / len(values), count)
