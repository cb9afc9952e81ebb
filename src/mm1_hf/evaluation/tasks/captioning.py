"""Captions: COCO, NoCaps, TextCaps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mm1_hf.evaluation.contract import Example, Task
from mm1_hf.evaluation.metrics.cider import Cider
from mm1_hf.evaluation.reading import Found, Reader, Release
from mm1_hf.evaluation.records import Record
from mm1_hf.evaluation.tables import read_file, read_json
from mm1_hf.evaluation.tasks.prompts import (
    CAPTION_STOPS,
    caption_continuation,
    caption_prompt,
    first_answer,
)

_REFERENCES = (
    "sentences",
    "sentences_raw",
    "captions",
    "annotations_captions",
    "reference_strs",
    "caption_str",
    "answer",
    "caption",
)


def _example(record: Record) -> Example:
    name = record.require("cocoid", "image_id", "question_id", "imgid", "id", "filename")
    answers = record.texts(*_REFERENCES, of=("raw", "caption"))
    images = record.pictures("image", "file_name", "image_path")
    if not images:
        path = "/".join(filter(None, (record.get("filepath"), record.get("filename"))))
        images = record.pictures("image") if not path else _path(record, path)
    if not images:
        record.fail("image", "nothing", "a picture, or its file_name, is expected")
    return Example(
        key=str(name),
        images=images,
        answers=answers,
        group=record.get("domain"),
        details={"image_id": str(name)},
    )


def _path(record: Record, path: str) -> Sequence[Any]:
    return Record({"image": path}, record.place, record.folders).pictures("image")


def _karpathy_rows(found: Found, folders: Sequence[Path]) -> list[Record]:
    # In Karpathy's split, what is left of the validation set belongs to training.
    wanted = ("train", "restval") if found.split == "train" else (found.split,)
    records = read_file(found.path, folders=folders)
    return [record for record in records if record.text("split") in wanted]


def _coco_rows(found: Found, folders: Sequence[Path]) -> list[Record]:
    """One row a picture out of a list of pictures and a list of captions."""
    content = read_json(found.path)
    place = f"File {str(found.path)!r}"
    if not isinstance(content, Mapping) or not {"images", "annotations"} <= set(content):
        raise ValueError(
            f"{place} is no COCO annotation file: expected an object with `images` and "
            "`annotations`."
        )
    captions: dict[Any, list[str]] = {image.get("id"): [] for image in content["images"]}
    for number, annotation in enumerate(content["annotations"]):
        entry = Record(annotation, f"{place}, annotation {number}")
        image_id = entry.require("image_id")
        if image_id not in captions:
            entry.fail("image_id", repr(image_id), "the id of one of the file's images is expected")
        captions[image_id].append(entry.text("caption"))
    return [
        Record(
            {**image, "image_id": image.get("id"), "captions": captions[image.get("id")] or None},
            place=f"{place}, image {number}",
            folders=tuple(folders),
            number=number,
        )
        for number, image in enumerate(content["images"])
    ]


def _textcaps_rows(found: Found, folders: Sequence[Path]) -> list[Record]:
    """One row a picture out of one row a caption."""
    by_image: dict[str, list[Record]] = {}
    for record in read_file(found.path, folders=folders):
        by_image.setdefault(record.text("image_id"), []).append(record)
    rows = []
    for name, records in by_image.items():
        captions = tuple(dict.fromkeys(record.text("caption_str") for record in records))
        fields = {"image_id": name, "captions": captions, "image": f"{name}.jpg"}
        rows.append(Record(fields, records[0].place, records[0].folders, records[0].number))
    return rows


_COCO_PICTURES = ("", "{split}", "images", "images/{split}", "val2014", "train2014")


def _task(name: str, source: str, read: Reader) -> Task:
    return Task(
        name=name,
        source=source,
        read=read,
        prompt=caption_prompt,
        continuation=caption_continuation,
        answer=first_answer,
        metric=Cider(),
        stops=CAPTION_STOPS,
        max_new_tokens=64,
    )


COCO = _task(
    "coco",
    "COCO captions, arXiv 1504.00325; Karpathy's split, arXiv 1412.2306",
    Reader(
        "COCO captions",
        _example,
        splits=("test", "validation", "val", "val2014", "val2017"),
        releases=(
            Release(
                ("**/dataset_coco.json",),
                _COCO_PICTURES,
                _karpathy_rows,
                splits=("test", "val", "train", "restval"),
            ),
            Release(("**/captions_{split}.json",), _COCO_PICTURES, _coco_rows),
        ),
    ),
)
NOCAPS = _task(
    "nocaps",
    "NoCaps, arXiv 1812.08658",
    Reader(
        "NoCaps",
        _example,
        releases=(
            Release(
                ("**/nocaps_{split}*.json",),
                ("images", "{split}", "validation", ""),
                _coco_rows,
            ),
        ),
    ),
)
TEXTCAPS = _task(
    "textcaps",
    "TextCaps, arXiv 2003.12462",
    Reader(
        "TextCaps",
        _example,
        splits=("val", "validation"),
        releases=(
            Release(
                ("**/TextCaps_*_{split}.json",),
                ("train_images", "images", "test_images", ""),
                _textcaps_rows,
            ),
        ),
    ),
)
