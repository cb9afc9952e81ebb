"""MMMU: college questions with pictures inside question and options."""

import ast
import re

from mm1_hf.evaluation.contract import Example, Segments, Task
from mm1_hf.evaluation.metrics.mmmu import mmmu
from mm1_hf.evaluation.reading import Reader
from mm1_hf.evaluation.records import Record, RowPictures
from mm1_hf.evaluation.tasks.multiple_choice import letter_answer
from mm1_hf.evaluation.tasks.prompts import LETTER, SHORT_ANSWER, first_answer, option_lines

_PLACE = re.compile(r"(<image \d+>)")
_PICTURES = range(1, 8)
_SUBJECT = re.compile(r"[a-z]+_(.+)_\d+")


def _example(record: Record) -> Example:
    key = record.text("id")
    numbers = [n for n in _PICTURES if record.get(f"image_{n}") is not None]
    parts = [record.pictures(f"image_{n}") for n in numbers]
    is_choice = record.text("question_type") == "multiple-choice"
    choices = _texts(record, "options") if is_choice else ()
    subject = _SUBJECT.fullmatch(key)
    if is_choice:
        answers = letter_answer(record, choices, "answer")
    else:
        answers = _texts(record, "answer")
    return Example(
        key=key,
        images=RowPictures.join(parts),
        question=record.text("question"),
        answers=answers,
        choices=choices,
        group=subject.group(1) if subject else None,
        details={"image_numbers": tuple(numbers)},
    )


def _texts(record: Record, name: str) -> tuple[str, ...]:
    """A list, which the data set writes as the text of a Python list."""
    value = record.get(name)
    if not isinstance(value, str) or not value.startswith("["):
        return record.texts(name)
    try:
        parsed = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        record.fail(name, repr(value), "the text of a list is expected")
    return Record({name: parsed}, record.place).texts(name)


def interleave(text: str, example: Example) -> Segments:
    """The text with pictures in the places that it marks as `<image 1>`.

    A picture stands where its mark comes first; later marks stay text. Pictures without a mark come
    first of all.
    """
    waiting = dict(zip(example.details["image_numbers"], example.images, strict=True))
    marked = {int(mark[7:-1]) for mark in _PLACE.findall(text)}
    segments: Segments = [waiting.pop(n) for n in sorted(waiting) if n not in marked]
    for part in _PLACE.split(text):
        number = int(part[7:-1]) if _PLACE.fullmatch(part) else None
        if number in waiting:
            segments.append(waiting.pop(number))
        elif part:
            segments.append(part)
    return _joined(segments)


def _joined(segments: Segments) -> Segments:
    joined: Segments = []
    for segment in segments:
        if isinstance(segment, str) and joined and isinstance(joined[-1], str):
            joined[-1] += segment
        else:
            joined.append(segment)
    return joined


def _question(example: Example) -> str:
    lines = option_lines(example.choices) if example.choices else []
    return "\n".join([example.question.strip(), *lines])


def _prompt(example: Example) -> Segments:
    asked = LETTER if example.choices else SHORT_ANSWER
    return interleave(f"{_question(example)}\n\n{asked}", example)


def _continuation(example: Example) -> Segments:
    return interleave(f" Question: {_question(example)}\nAnswer:", example)


MMMU = Task(
    name="mmmu",
    source="MMMU, arXiv 2311.16502; prompt as in lmms-eval 0.7.3",
    read=Reader("MMMU", _example, splits=("validation", "dev")),
    prompt=_prompt,
    continuation=_continuation,
    answer=first_answer,
    metric=mmmu,
    stops=("\n",),
    max_new_tokens=128,
)
