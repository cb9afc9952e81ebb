"""Yes or no about what is in a picture: POPE and MME."""

import re
from collections.abc import Sequence
from pathlib import Path

from mm1_hf.evaluation.contract import Example, Metric, Task
from mm1_hf.evaluation.metrics.yes_no import COGNITION, PERCEPTION, mme, pope
from mm1_hf.evaluation.reading import Found, Reader, Release
from mm1_hf.evaluation.records import Record
from mm1_hf.evaluation.tables import read_file
from mm1_hf.evaluation.tasks.prompts import (
    LINE_STOPS,
    first_answer,
    short_answer_continuation,
    short_answer_prompt,
)

_SUBTASKS = (*PERCEPTION, *COGNITION)
_MME_REQUEST = re.compile(r"\s*Please answer yes or no\.\s*$", re.IGNORECASE)


def _yes_no(record: Record, *names: str) -> tuple[str, ...]:
    value = record.get(*names)
    if value is None:
        return ()
    answer = str(value).strip().rstrip(".").lower()
    if answer not in ("yes", "no"):
        record.fail(names[0], repr(value), "yes or no is expected")
    return (answer,)


def _pope_example(record: Record) -> Example:
    group = record.get("category")
    picture = record.get("image_source", "image")
    question = record.text("question_id")
    return Example(
        key=f"{group}/{question}" if group else question,
        images=record.pictures("image"),
        question=record.text("question", "text"),
        answers=_yes_no(record, "answer", "label"),
        group=group,
        details={"image_id": picture} if isinstance(picture, str) else {},
    )


def _pope_rows(found: Found, folders: Sequence[Path]) -> list[Record]:
    category = found.path.stem.rpartition("_")[2]
    return [
        Record({**record.fields, "category": category}, record.place, record.folders, record.number)
        for record in read_file(found.path, folders=folders)
    ]


def _mme_example(record: Record) -> Example:
    group = record.text("category")
    if group not in _SUBTASKS:
        record.fail("category", repr(group), f"one of {', '.join(_SUBTASKS)} is expected")
    picture = record.text("question_id")
    # The benchmark's own request is taken off: the prompt's request for a word stands for it.
    question = _MME_REQUEST.sub("", record.text("question"))
    return Example(
        key=f"{group}/{picture}/{question}",
        images=record.pictures("image"),
        question=question,
        answers=_yes_no(record, "answer"),
        group=group,
        details={"image_id": f"{group}/{picture}"},
    )


def _mme_rows(found: Found, folders: Sequence[Path]) -> list[Record]:
    """The lines `question, tab, answer` about one picture, in the folder of a subtask."""
    holder = found.path.parent
    subtask = holder.parent if holder.name == "questions_answers_YN" else holder
    if subtask.name not in _SUBTASKS:
        return []
    pictures = [
        path
        for folder in (subtask / "images", subtask)
        for path in sorted(folder.glob("*.*"))
        if path.stem == found.path.stem and path.suffix.lower() in (".jpg", ".jpeg", ".png")
    ]
    rows = []
    for number, line in enumerate(found.path.read_text(encoding="utf-8").split("\n")):
        place = f"File {str(found.path)!r}, line {number + 1}"
        if not line.strip():
            continue
        question, sign, answer = line.partition("\t")
        if not sign:
            raise ValueError(
                f"{place}: found {line!r}, but a question, a tab and an answer are expected."
            )
        fields = {
            "question_id": found.path.stem,
            "category": subtask.name,
            "question": question,
            "answer": answer.strip(),
            "image": pictures[0] if pictures else subtask / f"{found.path.stem}.jpg",
        }
        rows.append(Record(fields, place, number=number))
    return rows


def _task(name: str, source: str, read: Reader, metric: Metric) -> Task:
    return Task(
        name=name,
        source=source,
        read=read,
        prompt=short_answer_prompt,
        continuation=short_answer_continuation,
        answer=first_answer,
        metric=metric,
        stops=LINE_STOPS,
        max_new_tokens=16,
    )


POPE = _task(
    "pope",
    "POPE, arXiv 2305.10355; prompt of LLaVA-1.5, arXiv 2310.03744",
    Reader(
        "POPE",
        _pope_example,
        splits=("test",),
        releases=(
            Release(
                ("**/coco_pope_{split}.json", "**/coco_pope_*.json"),
                ("val2014", "images", ""),
                _pope_rows,
                splits=("test", "random", "popular", "adversarial"),
            ),
        ),
    ),
    pope,
)
MME = _task(
    "mme",
    "MME, arXiv 2306.13394; prompt of LLaVA-1.5, arXiv 2310.03744",
    Reader(
        "MME",
        _mme_example,
        splits=("test",),
        releases=(Release(("**/*.txt",), ("",), _mme_rows, splits=("test",)),),
    ),
    mme,
)
