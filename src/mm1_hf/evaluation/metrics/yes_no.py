"""Yes or no: POPE and MME."""

import re
from collections.abc import Hashable, Sequence

import numpy as np

from mm1_hf.evaluation.contract import Example, Figure, Scores, mean_figure
from mm1_hf.evaluation.metrics.figures import (
    jackknife_figure,
    picture_clusters,
    require_pairs,
    sum_figures,
)

# Source: MME, arXiv 2306.13394, section 2.
PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def pope_answer(answer: str) -> str | None:
    """`yes`, `no`, or None for an answer that says neither.

    Of the first sentence: "no" or "not" as a word means no, else "yes" as a word means yes.

    Source: POPE's evaluation (github.com/RUCAIBox/POPE, evaluate.py), but for answers with neither
    word, empty ones included: there they count as yes, here as wrong.
    """
    words = set(re.findall(r"\w+", answer.split(".")[0].lower()))
    if words & {"no", "not"}:
        return "no"
    return "yes" if "yes" in words else None


def mme_answer(answer: str) -> str | None:
    """`yes`, `no`, or None for an answer that begins with neither.

    The first four letters, without periods, are looked at; `y` and `n` alone count.

    Source: MME's evaluation tool, as in lmms-eval 0.7.3.
    """
    said = answer.lower().strip().replace(".", "")
    if len(said) == 1:
        return {"y": "yes", "n": "no"}.get(said)
    start = said[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def pope(answers: Sequence[str], examples: Sequence[Example]) -> Scores:
    """POPE: is there such a thing in the picture?

    Figures, for all examples together and as `name/group` for each way of asking (adversarial,
    popular, random): `f1`, `accuracy`, `precision`, `recall` with "yes" as the positive answer, and
    `yes_ratio`, the share of answers that say yes. Before them `mean_f1`, the mean over groups,
    which papers print. A share whose denominator is 0 is 0. Errors are jackknife errors over
    pictures.

    Source: POPE, arXiv 2305.10355, section 5.

    Raises:
        ValueError: If the right answer of an example is neither yes nor no.
    """
    require_pairs(answers, examples)
    said = [pope_answer(answer) for answer in answers]
    wanted = [_right(example) for example in examples]
    counts = np.array(
        [
            (s == w == "yes", s == "yes", w == "yes", s == w, 1)
            for s, w in zip(said, wanted, strict=True)
        ],
        dtype=float,
    )
    clusters = picture_clusters(examples)
    groups: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        groups.setdefault(example.group or "all", []).append(place)
    overall = _pope_figures(counts, clusters)
    figures = {} if len(groups) < 2 else {"mean_f1": _mean_f1(counts, clusters, groups)}
    figures |= overall
    if len(groups) > 1:
        for group, places in groups.items():
            part = _pope_figures(counts[places], [clusters[p] for p in places])
            figures |= {f"{name}/{group}": figure for name, figure in part.items()}
    return Scores(figures, tuple(counts[:, 3].tolist()))


def mme(answers: Sequence[str], examples: Sequence[Example]) -> Scores:
    """MME: two questions about each picture, one whose answer is yes and one whose answer is no.

    For every subtask, accuracy over questions plus accuracy+ over pictures (both questions right),
    each out of 100. Figures: `total`, `perception` (10 subtasks, at most 2000) and `cognition` (4
    subtasks, at most 800) are sums over the subtasks at hand; `accuracy/subtask` and
    `accuracy_plus/subtask` are shares. `incomplete_pictures` is there if pictures have another
    number of questions than two: then accuracy+ takes those at hand.

    Source: MME, arXiv 2306.13394, section 2.3 (scores), as in its evaluation tool.

    Raises:
        ValueError: If an example has no known subtask as its group, no picture name as its detail
            `image_id`, or a right answer that is neither yes nor no.
    """
    require_pairs(answers, examples)
    values = [
        float(mme_answer(answer) == _right(example))
        for answer, example in zip(answers, examples, strict=True)
    ]
    pictures: dict[str, dict[str, list[float]]] = {}
    for value, example in zip(values, examples, strict=True):
        name = example.details.get("image_id")
        if example.group not in (*PERCEPTION, *COGNITION) or name is None:
            raise ValueError(
                f"Example {example.key!r} has the group {example.group!r} and the picture name "
                f"{name!r}, but one of MME's subtasks ({', '.join((*PERCEPTION, *COGNITION))}) and "
                "a name are expected."
            )
        pictures.setdefault(example.group, {}).setdefault(str(name), []).append(value)
    figures: dict[str, Figure] = {}
    scores: dict[str, Figure] = {}
    for subtask, held in pictures.items():
        shares = [np.mean(rows).item() for rows in held.values()]
        both = [float(min(rows)) for rows in held.values()]
        flat = [value for rows in held.values() for value in rows]
        owners = [name for name, rows in held.items() for _ in rows]
        figures[f"accuracy/{subtask}"] = mean_figure(flat, clusters=owners)
        figures[f"accuracy_plus/{subtask}"] = mean_figure(both)
        scores[subtask] = mean_figure(
            [100 * (share + right) for share, right in zip(shares, both, strict=True)]
        )
    sums = {"total": sum_figures(scores)}
    for name, subtasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
        if part := {subtask: scores[subtask] for subtask in subtasks if subtask in scores}:
            sums[name] = sum_figures(part)
    odd = [len(rows) != 2 for held in pictures.values() for rows in held.values()]
    if any(odd):
        sums["incomplete_pictures"] = Figure(float(sum(odd)), None, len(odd))
    return Scores(sums | figures, tuple(values))


def _right(example: Example) -> str:
    answer = example.answers[0].lower().strip().rstrip(".") if example.answers else None
    if answer not in ("yes", "no"):
        raise ValueError(
            f"Example {example.key!r} has the right answers {example.answers!r}, but yes or no is "
            "expected. Check the row."
        )
    return answer


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _f1(counts: np.ndarray) -> float:
    # The harmonic mean of precision and recall: 2·hits / (said yes + is yes).
    return _share(2 * counts[0], counts[1] + counts[2])


def _pope_figures(counts: np.ndarray, clusters: Sequence[Hashable]) -> dict[str, Figure]:
    statistics = {
        "f1": _f1,
        "accuracy": lambda c: _share(c[3], c[4]),
        "precision": lambda c: _share(c[0], c[1]),
        "recall": lambda c: _share(c[0], c[2]),
        "yes_ratio": lambda c: _share(c[1], c[4]),
    }
    return {
        name: jackknife_figure(counts, statistic, clusters=clusters)
        for name, statistic in statistics.items()
    }


def _mean_f1(
    counts: np.ndarray, clusters: Sequence[Hashable], groups: dict[str, list[int]]
) -> Figure:
    # Groups ask about the same pictures, so a picture is left out of all of them at once.
    kinds = counts.shape[1]
    wide = np.zeros((len(counts), kinds * len(groups)))
    for number, places in enumerate(groups.values()):
        wide[places, number * kinds : (number + 1) * kinds] = counts[places]

    def mean(sums: np.ndarray) -> float:
        return float(np.mean([_f1(part) for part in sums.reshape(len(groups), kinds)]))

    return jackknife_figure(wide, mean, clusters=clusters)
