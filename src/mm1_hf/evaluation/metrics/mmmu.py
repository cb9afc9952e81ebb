"""MMMU: questions with options and without."""

import re
from collections.abc import Sequence

from mm1_hf.evaluation.contract import Example, Scores, mean_figure
from mm1_hf.evaluation.metrics.choices import mmmu_choice, right_letter
from mm1_hf.evaluation.metrics.figures import group_figures, picture_clusters, require_pairs

_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_WITH_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
_SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")


def mmmu(answers: Sequence[str], examples: Sequence[Example]) -> Scores:
    """The share of right answers by MMMU's rules, with options and without.

    Figures: `accuracy` over all questions, `accuracy/group` for every subject, and `no_option`, the
    share of questions with options whose answer names none; those are wrong.

    Source: MMMU, arXiv 2311.16502, section 4; rules as in `mmmu_choice` and `mmmu_open_match`.

    Raises:
        ValueError: If an example has no answer to compare with.
    """
    require_pairs(answers, examples)
    values, missing = [], []
    for answer, example in zip(answers, examples, strict=True):
        if example.choices:
            letter = mmmu_choice(answer, example.choices)
            missing.append(float(letter is None))
            values.append(float(letter == right_letter(example)))
        elif example.answers:
            values.append(mmmu_open_match(answer, example.answers))
        else:
            raise ValueError(
                f"Example {example.key!r} has no answer to compare with. Use the split validation, "
                "which is published with answers."
            )
    clusters = picture_clusters(examples)
    figures = {"accuracy": mean_figure(values, clusters=clusters)}
    figures |= group_figures("accuracy", values, examples, clusters=clusters)
    if missing:
        figures["no_option"] = mean_figure(missing)
    return Scores(figures, tuple(values))


def mmmu_open_match(answer: str, answers: Sequence[str]) -> float:
    """1 if a long answer holds one of `answers`, else 0.

    Of every line, the shortest text after a word such as "is" or "answer" is looked at (after "="
    too in the last line), or the whole answer where no line has one. It matches if a number in it
    equals the expected one to two decimals, or if it contains the expected text, without regard to
    case; a text of one letter must stand beside a space.

    Source: MMMU's evaluation (github.com/MMMU-Benchmark/MMMU, eval/eval_utils.py, commit 51ce7f3),
    whose split at sentences never applies, because letters are made small before it.
    """
    if not answer.strip():
        return 0.0
    said = answer.strip().strip(".").lower()
    lines = said.split("\n")
    keyed = [_tail(line, last=place == len(lines) - 1) for place, line in enumerate(lines)]
    places = [tail for tail in keyed if tail is not None] or [said]
    found = [form for place in places for form in _forms(place)]
    found += [form for place in places for number in _numbers(place) for form in _forms(number)]
    wanted = [form for one in answers for form in _forms(one)]
    return float(any(_matches(form, wanted) for form in found))


def _tail(line: str, *, last: bool) -> str | None:
    keys = (*_KEYS, "=") if last else _KEYS
    tails = [line.rpartition(key)[2].strip() for key in keys if key in line]
    if not tails:
        return None
    # An empty tail gives way to any later one, and of equals the first is kept.
    shortest = ""
    for tail in tails:
        if not shortest or len(tail) < len(shortest):
            shortest = tail
    return shortest if shortest and shortest not in (*":,.!?;'",) else None


def _numbers(text: str) -> list[str]:
    return [found for rule in (_WITH_COMMAS, _SCIENTIFIC, _SIMPLE) for found in rule.findall(text)]


def _forms(text: str) -> Sequence[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        small = text.lower()
        return [f" {small}", f"{small} "] if len(small) == 1 else [small]


def _matches(form: str | float, wanted: Sequence[str | float]) -> bool:
    if isinstance(form, str):
        return any(one in form for one in wanted if isinstance(one, str))
    return form in wanted
