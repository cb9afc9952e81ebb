"""What came out of an evaluation: figures with their errors, and counts of everything."""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mm1_hf.evaluation.answers import Answer
from mm1_hf.evaluation.contract import Example, Figure, Task

_PACKAGES = ("mm1-hf", "torch", "transformers", "tokenizers", "pillow")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of the questions. `answered`, `unreadable` and `too_long` make `examples`.

    Attributes:
        examples: Questions; each counts in the figures.
        answered: Put to the model.
        empty: Answered with no text; wrong.
        cut: Answered up to `max_new_tokens` and cut there.
        unreadable: Not asked, because a picture cannot be decoded; wrong.
        too_long: Not asked, because the prompt exceeds the context; wrong.
        unlabelled: Further examples, for which the data set has no answer to compare with. They
            were not asked and are not among `examples`.
        equal_demonstrations: Demonstrations put back because they are the question.
        unreadable_demonstrations: Demonstrations put back because they cannot be decoded.
    """

    examples: int = 0
    answered: int = 0
    empty: int = 0
    cut: int = 0
    unreadable: int = 0
    too_long: int = 0
    unlabelled: int = 0
    equal_demonstrations: int = 0
    unreadable_demonstrations: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        mine, more = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + more[name] for name in mine})


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One figure over all seeds.

    Attributes:
        value: Mean over seeds.
        standard_error: Of the sample of questions: the root mean square of the seeds' errors. All
            seeds ask the same questions, so more seeds do not make it smaller (our choice; it
            errs on the wide side).
        seed_deviation: Standard deviation between seeds; None for a single one.
        count: Independent examples.
    """

    value: float
    standard_error: float | None
    seed_deviation: float | None
    count: int


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """The task asked once.

    Attributes:
        figures: As the metric gives them.
        per_example: How right each answer is, in the order of the examples.
        counts: What became of the questions.
        answers: In the order of the examples.
    """

    figures: Mapping[str, Figure]
    per_example: tuple[float, ...]
    counts: Counts
    answers: tuple[Answer, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """A task asked of a model.

    Attributes:
        task: Name of the task.
        source: Where its prompt and metric come from.
        settings: Everything that answers depend on.
        per_seed: The results of each seed.
        versions: Of the packages that took part.
    """

    task: str
    source: str
    settings: Mapping[str, Any]
    per_seed: Mapping[int, SeedResult]
    versions: Mapping[str, str]

    @property
    def figures(self) -> dict[str, Summary]:
        """Each figure over all seeds; the first is the one that the task is known for."""
        seeds = list(self.per_seed.values())
        return {name: _summarise([s.figures[name] for s in seeds]) for name in seeds[0].figures}

    @property
    def counts(self) -> Counts:
        """The counts of all seeds together."""
        return sum((one.counts for one in self.per_seed.values()), start=Counts())

    def table(self) -> str:
        """Figures and counts as text."""
        return results_table([self])

    def as_dict(self) -> dict[str, Any]:
        """For JSON: figures with n and errors, per seed and over seeds, counts, settings."""
        return {
            "task": self.task,
            "source": self.source,
            "figures": {name: _plain(one) for name, one in self.figures.items()},
            "counts": asdict(self.counts),
            "per_seed": {
                str(seed): {
                    "figures": {name: _plain(one) for name, one in result.figures.items()},
                    "counts": asdict(result.counts),
                }
                for seed, result in self.per_seed.items()
            },
            "settings": dict(self.settings),
            "versions": dict(self.versions),
        }


def score_answers(
    task: Task,
    examples: Sequence[Example],
    answers: Sequence[Answer],
    *,
    unlabelled: int = 0,
) -> SeedResult:
    """Compare the answers of one seed with the examples.

    Args:
        task: Has the metric.
        examples: What was asked; each has answers to compare with.
        answers: In the order of the examples. What was not asked goes to the metric as an empty
            answer.
        unlabelled: How many examples were left out because they have no answers.

    Raises:
        ValueError: If the metric does not give a score for each.
    """
    scores = task.metric([answer.text for answer in answers], examples)
    if len(scores.per_example) != len(answers):
        raise ValueError(
            f"The metric of task {task.name!r} gave {len(scores.per_example)} scores for "
            f"{len(answers)} examples. Give one for each, in their order."
        )
    counts = Counts(
        examples=len(answers),
        answered=sum(answer.status == "answered" for answer in answers),
        empty=sum(answer.status == "answered" and not answer.text for answer in answers),
        cut=sum(answer.ending == "length" for answer in answers),
        unreadable=sum(answer.status == "unreadable" for answer in answers),
        too_long=sum(answer.status == "too_long" for answer in answers),
        unlabelled=unlabelled,
        equal_demonstrations=sum(answer.equal for answer in answers),
        unreadable_demonstrations=sum(answer.unreadable for answer in answers),
    )
    return SeedResult(
        figures=dict(scores.figures),
        per_example=tuple(scores.per_example),
        counts=counts,
        answers=tuple(answers),
    )


def results_table(results: Sequence[EvaluationResult]) -> str:
    """Several results as one table: a line per figure, and a line of counts per task."""
    head = ("task", "shots", "seeds", "figure", "value", "s.e.", "between seeds", "n")
    rows: list[tuple[str, ...]] = [head]
    for result in results:
        shots, seeds = result.settings["num_shots"], len(result.per_seed)
        for name, figure in result.figures.items():
            errors = (_number(figure.standard_error), _number(figure.seed_deviation))
            value = _number(figure.value)
            rows.append(
                (result.task, str(shots), str(seeds), name, value, *errors, str(figure.count))
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    is_text = {0, 3}
    lines = [
        "  ".join(
            cell.ljust(width) if column in is_text else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([*lines, "", *map(counts_line, results)])


def counts_line(result: EvaluationResult) -> str:
    """The counts of a task in one line; those of trouble only where there is some."""
    counts = result.counts
    always = ("examples", "answered", "empty")
    parts = [
        f"{getattr(counts, one.name)} {one.name.replace('_', ' ')}"
        for one in fields(counts)
        if one.name in always or getattr(counts, one.name)
    ]
    shots, seeds = result.settings["num_shots"], len(result.per_seed)
    over = f" over {seeds} seeds" if seeds > 1 else ""
    return f"{result.task}, {shots} shots{over}: {', '.join(parts)}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that answers depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _summarise(figures: Sequence[Figure]) -> Summary:
    values = [figure.value for figure in figures]
    mean = math.fsum(values) / len(values)
    errors = [figure.standard_error for figure in figures if figure.standard_error is not None]
    error = None
    if len(errors) == len(figures):
        error = math.sqrt(math.fsum(one**2 for one in errors) / len(errors))
    deviation = None
    if len(values) > 1:
        deviation = math.sqrt(math.fsum((one - mean) ** 2 for one in values) / (len(values) - 1))
    return Summary(
        value=mean,
        standard_error=error,
        seed_deviation=deviation,
        count=min(figure.count for figure in figures),
    )


def _plain(figure: Figure | Summary) -> dict[str, float | int | None]:
    """JSON knows no NaN: a figure that is not defined is null."""
    named = asdict(figure) if isinstance(figure, Summary) else figure._asdict()
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in named.items()
    }


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
