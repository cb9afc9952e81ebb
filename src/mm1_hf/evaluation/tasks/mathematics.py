"""MathVista: mathematics in figures, charts and photographs."""

from collections.abc import Mapping

from mm1_hf.evaluation.contract import Example, Segments, Task
from mm1_hf.evaluation.metrics.choices import letters_of
from mm1_hf.evaluation.metrics.mathvista import mathvista
from mm1_hf.evaluation.reading import Reader, Release
from mm1_hf.evaluation.records import Record
from mm1_hf.evaluation.tasks.prompts import option_lines

_DECIMALS = {1: "one decimal place", 2: "two decimal places"}
_SHOWN = {1: "1.2, 1.3, 1.4", 2: "1.23, 1.34, 1.45"}


def _example(record: Record) -> Example:
    choices = record.texts("choices")
    answers = record.texts("answer")
    if choices and answers and answers[0] not in choices:
        record.fail("answer", repr(answers[0]), f"one of the options {choices} is expected")
    about = record.get("metadata")
    task = about.get("task") if isinstance(about, Mapping) else record.get("task")
    precision = record.get("precision")
    details = {
        "answer_type": record.text("answer_type"),
        "precision": int(float(precision)) if precision is not None else None,
        "unit": record.get("unit"),
        "query": record.get("query"),
        "image_id": record.get("image") if isinstance(record.get("image"), str) else None,
    }
    return Example(
        key=record.text("pid", "id"),
        images=record.pictures("decoded_image", "image"),
        question=record.text("question"),
        answers=answers,
        choices=choices,
        group=task,
        details=details,
    )


def _query(example: Example) -> str:
    """The published query of a row, or the same made of its parts."""
    if published := example.details.get("query"):
        return str(published)
    unit = example.details.get("unit")
    asked = f"Question: {example.question}" + (f" (Unit: {unit})" if unit else "")
    lines = [f"Hint: Please answer the question {_hint(example)}", asked]
    if example.choices:
        options = zip(letters_of(example.choices), example.choices, strict=True)
        lines += ["Choices:", *(f"({letter}) {text}" for letter, text in options)]
    return "\n".join(lines)


def _hint(example: Example) -> str:
    if example.choices:
        return "and provide the correct option letter, e.g., A, B, C, D, at the end."
    kind, precision = example.details["answer_type"], example.details.get("precision") or 1
    if kind == "integer":
        form, shown = "an integer answer and provide the final value", "1, 2, 3"
    elif kind == "list":
        form = "a Python list as an answer and provide the final list"
        shown = "[1, 2, 3], [1.2, 1.3, 1.4]"
    else:
        places = _DECIMALS.get(precision, f"{precision} decimal places")
        form = f"a floating-point number with {places} and provide the final value"
        shown = _SHOWN.get(precision, "1.2345")
    return f"requiring {form}, e.g., {shown}, at the end."


def _prompt(example: Example) -> Segments:
    return [*example.images, _query(example)]


def _continuation(example: Example) -> Segments:
    lines = option_lines(example.choices) if example.choices else []
    question = "\n".join([example.question, *lines])
    return [*example.images, f" Question: {question}\nAnswer:"]


def _answer(example: Example) -> str:
    if not example.choices:
        return example.answers[0]
    return letters_of(example.choices)[example.choices.index(example.answers[0])]


MATHVISTA = Task(
    name="mathvista",
    source="MathVista, arXiv 2310.02255",
    read=Reader(
        "MathVista",
        _example,
        splits=("testmini",),
        releases=(Release(("**/{split}.json",), ("", "images")),),
    ),
    prompt=_prompt,
    continuation=_continuation,
    answer=_answer,
    metric=mathvista,
    stops=("\n",),
    max_new_tokens=512,
)
