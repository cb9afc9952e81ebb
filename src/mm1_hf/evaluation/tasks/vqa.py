"""Questions with short answers about photographs: VQAv2, OKVQA, TextVQA, VizWiz, GQA."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mm1_hf.evaluation.contract import Example, Metric, Segments, Task
from mm1_hf.evaluation.metrics.short_answers import EXACT_MATCH
from mm1_hf.evaluation.metrics.vqa import VQA_ACCURACY, VQA_ACCURACY_EVALAI
from mm1_hf.evaluation.reading import Found, Reader, Release
from mm1_hf.evaluation.records import Record
from mm1_hf.evaluation.tables import read_file, read_json_rows
from mm1_hf.evaluation.tasks.prompts import (
    SHORT_ANSWER,
    UNANSWERABLE,
    VQA_STOPS,
    commonest_answer,
    instruction,
    short_answer_continuation,
    short_answer_prompt,
)

_COCO_PICTURES = ("{split}", "images/{split}", "images", "")


def _vqa_example(record: Record) -> Example:
    image_id = record.get("image_id")
    return Example(
        key=record.text("question_id"),
        images=record.pictures("image"),
        question=record.text("question"),
        answers=record.texts("answers", of=("answer",)),
        group=record.get("answer_type"),
        details={} if image_id is None else {"image_id": str(image_id)},
    )


def _coco_vqa_rows(found: Found, folders: Sequence[Path], *, annotations: str) -> list[Record]:
    """Questions joined with the file of annotations beside them."""
    path = found.path.with_name(annotations.replace("{split}", found.split))
    if not path.is_file():
        raise ValueError(
            f"File {str(found.path)!r} has questions, but the answers in {str(path)!r} are missing."
            " Put the annotations beside the questions."
        )
    answers = {row.get("question_id"): row for row in read_json_rows(path)}
    records = read_file(found.path, folders=folders)
    joined = []
    for record in records:
        question = record.require("question_id")
        if question not in answers:
            record.fail(
                "question_id",
                repr(question),
                f"a question with an entry in {str(path)!r} is expected",
            )
        image_id = record.require("image_id")
        name = f"COCO_{found.split}_{int(image_id):012d}.jpg"
        fields = {**answers.pop(question), **record.fields, "image": name}
        joined.append(Record(fields, record.place, record.folders, record.number))
    if answers:
        raise ValueError(
            f"File {str(path)!r} answers {len(answers)} questions that {str(found.path)!r} does "
            f"not ask, such as {next(iter(answers))!r}, but the two are expected to match."
        )
    return joined


def _textvqa_example(record: Record) -> Example:
    image_id = record.text("image_id")
    images = record.pictures("image")
    return Example(
        key=record.text("question_id"),
        images=images if len(images) else _by_name(record, f"{image_id}.jpg"),
        question=record.text("question"),
        answers=record.texts("answers", of=("answer",)),
        details={"image_id": image_id},
    )


def _vizwiz_example(record: Record) -> Example:
    # The official file names a question by its picture.
    name = record.get("question_id")
    return Example(
        key=str(name) if name is not None else record.text("image"),
        images=record.pictures("image"),
        question=record.text("question"),
        answers=record.texts("answers", of=("answer",)),
        group=record.get("answer_type", "category"),
    )


def _gqa_example(record: Record) -> Example:
    image_id = record.text("imageId")
    images = record.pictures("image")
    return Example(
        key=record.text("id", "question_id"),
        images=images if len(images) else _by_name(record, f"{image_id}.jpg"),
        question=record.text("question"),
        answers=record.texts("answer"),
        details={"image_id": image_id},
    )


def _join_gqa(records: Sequence[Record]) -> Sequence[Record]:
    """The Hub keeps questions and pictures in two configurations; rows of both are joined."""
    questions = [record for record in records if record.get("question") is not None]
    pictures = [record for record in records if record.get("question") is None]
    if not pictures:
        return questions
    images = {record.text("id"): record.fields.get("image") for record in pictures}
    joined = []
    for record in questions:
        name = record.text("imageId")
        if name not in images:
            record.fail("imageId", repr(name), f"one of the {len(images)} pictures is expected")
        fields = {**record.fields, "image": images[name]}
        joined.append(Record(fields, record.place, record.folders, record.number))
    return joined


def _by_name(record: Record, name: str) -> Sequence[Any]:
    return Record({"image": name}, record.place, record.folders).pictures("image")


def _task(
    name: str,
    source: str,
    read: Reader,
    *,
    metric: Metric,
    prompt: Callable[[Example], Segments] = short_answer_prompt,
) -> Task:
    return Task(
        name=name,
        source=source,
        read=read,
        prompt=prompt,
        continuation=short_answer_continuation,
        answer=commonest_answer,
        metric=metric,
        stops=VQA_STOPS,
        max_new_tokens=16,
    )


def _release(questions: str, annotations: str) -> Release:
    return Release(
        (f"**/{questions}",),
        _COCO_PICTURES,
        partial(_coco_vqa_rows, annotations=annotations),
    )


VQAV2 = _task(
    "vqav2",
    "VQA v2, arXiv 1612.00837",
    Reader(
        "VQAv2",
        _vqa_example,
        splits=("validation", "val2014"),
        releases=(
            _release(
                "v2_OpenEnded_mscoco_{split}_questions.json", "v2_mscoco_{split}_annotations.json"
            ),
        ),
    ),
    metric=VQA_ACCURACY,
)
OKVQA = _task(
    "okvqa",
    "OK-VQA, arXiv 1906.00067",
    Reader(
        "OK-VQA",
        _vqa_example,
        splits=("val2014", "validation"),
        releases=(
            _release("OpenEnded_mscoco_{split}_questions.json", "mscoco_{split}_annotations.json"),
        ),
    ),
    metric=VQA_ACCURACY_EVALAI,
)
TEXTVQA = _task(
    "textvqa",
    "TextVQA, arXiv 1904.08920",
    Reader(
        "TextVQA",
        _textvqa_example,
        splits=("validation", "val"),
        releases=(
            Release(("**/TextVQA_*_{split}.json",), ("train_images", "test_images", "images", "")),
        ),
    ),
    metric=VQA_ACCURACY_EVALAI,
)
VIZWIZ = _task(
    "vizwiz",
    "VizWiz-VQA, arXiv 1802.08218; the prompt from LLaVA-1.5, arXiv 2310.03744",
    Reader(
        "VizWiz-VQA",
        _vizwiz_example,
        splits=("val", "validation"),
        releases=(
            Release(
                ("Annotations/{split}.json", "annotations/{split}.json", "{split}.json"),
                ("{split}", "images/{split}", "images", ""),
            ),
        ),
    ),
    metric=VQA_ACCURACY_EVALAI,
    prompt=instruction(UNANSWERABLE, SHORT_ANSWER),
)
GQA = _task(
    "gqa",
    "GQA, arXiv 1902.09506",
    Reader(
        "GQA",
        _gqa_example,
        splits=("testdev", "val"),
        releases=(Release(("**/{split}_balanced_questions.json",)),),
        prepare=_join_gqa,
        configurations=("testdev_balanced_instructions", "testdev_balanced_images"),
    ),
    metric=EXACT_MATCH,
)
