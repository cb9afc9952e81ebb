"""MathVista: options, whole numbers, decimals and lists, extracted by rules."""

import re
from collections.abc import Sequence

from mm1_hf.evaluation.contract import Example, Scores, mean_figure
from mm1_hf.evaluation.metrics.choices import direct_choice, letters_of, mmmu_choice
from mm1_hf.evaluation.metrics.figures import group_figures, picture_clusters, require_pairs

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?|-?\.\d+")
_STATED = re.compile(r"(?:answer|result|value)(?:\s+is)?\s*[:=]?\s*(.*)", re.IGNORECASE)
_LIST = re.compile(r"\[[^\[\]]*\]")


def extract_answer(answer: str, example: Example) -> str | None:
    """What an answer says, in the form of the expected one; None if nothing of that form is found.

    With options, the text of the option that `direct_choice`, else `mmmu_choice`, finds. A whole
    number or a decimal is the whole answer, else the first number after the last "answer", "result"
    or "value", else the last number; it is cut to a whole number, or rounded to the question's
    `precision`. A list is the last one in square brackets.

    Source: conversion and rounding as in MathVista's evaluation (github.com/lupantech/MathVista,
    evaluation/calculate_score.py). There a GPT model extracts the answer from longer texts, and an
    option that is not found becomes the nearest in spelling; here rules extract, and it is wrong.
    Figures are therefore comparable with published ones only for models that answer briefly.

    Raises:
        ValueError: If the type of the expected answer is unknown.
    """
    said = answer.strip()
    if example.choices:
        letter = direct_choice(said, example.choices) or mmmu_choice(said, example.choices)
        if letter is None or not said:
            return None
        return example.choices[letters_of(example.choices).index(letter)]
    kind = example.details.get("answer_type")
    if kind == "list":
        lists = _LIST.findall(said)
        return lists[-1] if lists else None
    if kind == "text":
        return said or None
    if kind not in ("integer", "float"):
        raise ValueError(
            f"Example {example.key!r} has the answer_type {kind!r}, but integer, float, list or "
            "text is expected. Check the row."
        )
    number = _number(said)
    if number is None:
        return None
    if kind == "integer":
        return str(int(number))
    return str(round(number, int(float(example.details.get("precision") or 0))))


def mathvista(answers: Sequence[str], examples: Sequence[Example]) -> Scores:
    """The share of right answers after `extract_answer`.

    Figures: `accuracy`, `accuracy/group` for every kind of task, and `no_extraction`, the share of
    answers in which nothing of the expected form is found; those are wrong.

    Raises:
        ValueError: If an example has no answer to compare with.
    """
    require_pairs(answers, examples)
    said = [extract_answer(a, e) for a, e in zip(answers, examples, strict=True)]
    values = [float(_equal(s, e)) for s, e in zip(said, examples, strict=True)]
    clusters = picture_clusters(examples)
    figures = {"accuracy": mean_figure(values, clusters=clusters)}
    figures |= group_figures("accuracy", values, examples, clusters=clusters)
    missing = [float(one is None) for one in said]
    figures["no_extraction"] = mean_figure(missing, clusters=clusters)
    return Scores(figures, tuple(values))


def _number(text: str) -> float | None:
    if _NUMBER.fullmatch(text):
        return float(text.replace(",", ""))
    if stated := _STATED.findall(text):
        numbers = _NUMBER.findall(stated[-1])
        if numbers:
            return float(numbers[0].replace(",", ""))
    numbers = _NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def _equal(said: str | None, example: Example) -> bool:
    if not example.answers:
        raise ValueError(
            f"Example {example.key!r} has no answer to compare with. Use the split testmini, which "
            "is published with answers."
        )
    wanted = example.answers[0].strip()
    if said is None:
        return False
    if example.details.get("answer_type") in ("integer", "float") and not example.choices:
        # The data set writes 1.20 where rounding gives 1.2.
        return said == wanted or float(said) == float(wanted)
    return said.strip() == wanted
