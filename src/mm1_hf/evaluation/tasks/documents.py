"""Charts and documents: ChartQA, DocVQA, InfographicVQA."""

from collections.abc import Sequence
from pathlib import Path

from mm1_hf.evaluation.contract import Example, Metric, Task
from mm1_hf.evaluation.metrics.short_answers import ANLS, RELAXED_ACCURACY
from mm1_hf.evaluation.reading import Found, Reader, Release
from mm1_hf.evaluation.records import Record
from mm1_hf.evaluation.tables import read_file
from mm1_hf.evaluation.tasks.prompts import (
    LINE_STOPS,
    first_answer,
    short_answer_continuation,
    short_answer_prompt,
)

_BY_NUMBER = {"0": "human", "1": "augmented"}


def _chartqa_example(record: Record) -> Example:
    kind = record.get("type", "human_or_machine")
    group = None if kind is None else str(kind).removesuffix("_test")
    name = record.get("imgname")
    return Example(
        key=str(record.number),
        images=record.pictures("image", "imgname"),
        question=record.text("question", "query"),
        answers=record.texts("answer", "label"),
        group=_BY_NUMBER.get(group or "", group),
        details={} if name is None else {"image_id": name},
    )


def _chartqa_rows(found: Found, folders: Sequence[Path]) -> list[Record]:
    kind = found.path.stem.removeprefix(f"{found.split}_")
    records = read_file(found.path, folders=[found.path.parent / "png", *folders])
    return [
        Record({**record.fields, "type": kind}, record.place, record.folders, record.number)
        for record in records
    ]


def _docvqa_example(record: Record) -> Example:
    picture = record.get("image_local_name", "image_url", "ucsf_document_id", "docId")
    page = record.get("ucsf_document_page_no")
    image_id = picture if page is None else f"{picture}/{page}"
    return Example(
        key=record.text("questionId"),
        images=record.pictures("image", "image_local_name"),
        question=record.text("question"),
        answers=record.texts("answers"),
        details={} if picture is None else {"image_id": str(image_id)},
    )


def _task(name: str, source: str, read: Reader, metric: Metric) -> Task:
    return Task(
        name=name,
        source=f"{source}; prompt of LLaVA-1.5, arXiv 2310.03744",
        read=read,
        prompt=short_answer_prompt,
        continuation=short_answer_continuation,
        answer=first_answer,
        metric=metric,
        stops=LINE_STOPS,
        max_new_tokens=32,
    )


CHARTQA = _task(
    "chartqa",
    "ChartQA, arXiv 2203.10244",
    Reader(
        "ChartQA",
        _chartqa_example,
        splits=("test", "val"),
        releases=(Release(("**/{split}/{split}_*.json",), ("",), _chartqa_rows),),
    ),
    RELAXED_ACCURACY,
)
DOCVQA = _task(
    "docvqa",
    "DocVQA, arXiv 2007.00398",
    Reader(
        "DocVQA",
        _docvqa_example,
        splits=("validation", "val"),
        releases=(
            Release(("**/{split}_v1.0_withQT.json", "**/{split}_v1.0.json"), ("", "images")),
        ),
        configurations=("DocVQA",),
    ),
    ANLS,
)
INFOVQA = _task(
    "infovqa",
    "InfographicVQA, arXiv 2104.12756",
    Reader(
        "InfographicVQA",
        _docvqa_example,
        splits=("validation", "val"),
        releases=(
            Release(
                (
                    "**/infographicsVQA_{split}_v1.0_withQT.json",
                    "**/infographicsVQA_{split}_v1.0.json",
                ),
                ("images", "infographicsvqa_images", ""),
            ),
        ),
        configurations=("InfographicVQA",),
    ),
    ANLS,
)
