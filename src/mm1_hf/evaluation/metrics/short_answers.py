"""Metrics of one short answer: exact match, relaxed accuracy, ANLS."""

import string
from collections.abc import Sequence

from mm1_hf.evaluation.contract import Example
from mm1_hf.evaluation.metrics.figures import MeanMetric

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(answer: str, answers: Sequence[str]) -> float:
    """1 if the answer equals one of `answers`, else 0.

    Case, ASCII punctuation and repeated spaces do not count.

    Source: GQA's evaluation compares strings as they are (cs.stanford.edu/people/dorarad/gqa);
    case and punctuation are ignored as in lmms-eval 0.7.3.
    """
    said = _plain(answer)
    return float(bool(answer.strip()) and any(said == _plain(one) for one in answers))


def relaxed_accuracy(answer: str, answers: Sequence[str], *, tolerance: float = 0.05) -> float:
    """1 if the answer is a number within `tolerance` of one of `answers`, or the same text, else 0.

    A number may end in `%` and is then a hundredth. Where one of the two is no number, or the
    expected number is 0, texts are compared without regard to case.

    Source: ChartQA, arXiv 2203.10244, section 5.1; numbers are read as in lmms-eval 0.7.3.
    """
    said = answer.strip()
    if not said:
        return 0.0
    for expected in (one.strip() for one in answers):
        found, wanted = _number(said), _number(expected)
        if found is not None and wanted:
            if abs(found - wanted) / abs(wanted) <= tolerance:
                return 1.0
        elif said.lower() == expected.lower():
            return 1.0
    return 0.0


def anls(answer: str, answers: Sequence[str], *, threshold: float = 0.5) -> float:
    """Normalised Levenshtein similarity to the nearest of `answers`; 0 below `threshold`.

    Case and repeated spaces do not count in the distance; it is divided by the greater length as
    written.

    Source: ST-VQA, arXiv 1905.13648, equation 1, for the measure. At the threshold itself the paper
    gives 0 and the published evaluation code of DocVQA and InfographicVQA the similarity; here as
    the code.
    """
    if not answer.strip():
        return 0.0
    best = 0.0
    for expected in answers:
        distance = edit_distance(_spaced(answer), _spaced(expected))
        best = max(best, 1.0 - distance / max(len(answer), len(expected)))
    return best if best >= threshold else 0.0


def edit_distance(one: str, other: str) -> int:
    """Insertions, deletions and replacements of a character that turn one text into the other."""
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, start=1):
        diagonal, row[0] = row[0], place
        for column, opposite in enumerate(other, start=1):
            cost = min(diagonal + (letter != opposite), row[column] + 1, row[column - 1] + 1)
            diagonal, row[column] = row[column], cost
    return row[-1]


def _plain(text: str) -> str:
    return _spaced(text.translate(_NO_PUNCTUATION))


def _spaced(text: str) -> str:
    return " ".join(text.lower().split())


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _exact(answer: str, example: Example) -> float:
    return exact_match(answer, example.answers)


def _relaxed(answer: str, example: Example) -> float:
    return relaxed_accuracy(answer, example.answers)


def _anls(answer: str, example: Example) -> float:
    return anls(answer, example.answers)


EXACT_MATCH = MeanMetric("exact_match", _exact)
RELAXED_ACCURACY = MeanMetric("relaxed_accuracy", _relaxed, by_group=True)
ANLS = MeanMetric("anls", _anls)
