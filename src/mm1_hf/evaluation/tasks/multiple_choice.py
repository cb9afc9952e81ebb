"""Multiple choice: ScienceQA, MMBench, AI2D, SEED-Bench."""

import csv
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mm1_hf.evaluation.contract import Example, Task
from mm1_hf.evaluation.metrics.choices import LETTERS, ChoiceAccuracy
from mm1_hf.evaluation.reading import Found, Reader, Release
from mm1_hf.evaluation.records import Record
from mm1_hf.evaluation.tables import read_file, read_json
from mm1_hf.evaluation.tasks.prompts import choice_continuation, choice_prompt, first_answer

# A rotation of a question of MMBench has the question's index plus a multiple of this.
_ROTATION = 1_000_000


def letter_answer(record: Record, choices: Sequence[str], *names: str) -> tuple[str, ...]:
    """The right letter of a row that has it as a letter or as an index from 0.

    Raises:
        ValueError: If it is none of an option.
    """
    value = record.get(*names)
    if value is None:
        return ()
    text = str(value).strip()
    letter = LETTERS[int(text)] if text.isdigit() and int(text) < len(LETTERS) else text.upper()
    if len(letter) != 1 or letter not in LETTERS[: len(choices)]:
        record.fail(
            names[0],
            repr(value),
            f"the letter or the index (from 0) of one of {len(choices)} options is expected",
        )
    return (letter,)


def _scienceqa_example(record: Record) -> Example:
    choices = record.texts("choices")
    name = record.get("id")
    picture = record.get("image")
    if isinstance(picture, str) and name is not None:
        # The official release keeps each picture in a folder of the problem's name.
        record = Record(
            {**record.fields, "image": f"{name}/{picture}"}, record.place, record.folders
        )
    hint = record.get("hint")
    return Example(
        key=str(name) if name is not None else str(record.number),
        images=record.pictures("image"),
        question=record.text("question"),
        answers=letter_answer(record, choices, "answer"),
        choices=choices,
        group=record.get("subject"),
        details={"hint": f"Context: {hint}"} if hint else {},
    )


def _scienceqa_rows(found: Found, folders: Sequence[Path]) -> list[Record]:
    records = read_file(found.path, folders=folders)
    return [record for record in records if record.text("split") == found.split]


def _mmbench_example(record: Record) -> Example:
    index = int(record.text("index"))
    choices = [record.get(letter) for letter in "ABCDE"]
    held = [str(choice) for choice in choices if not _is_nan(choice)]
    if any(not _is_nan(choice) for choice in choices[len(held) :]):
        record.fail("A", "options with a gap between them", "options from A on are expected")
    hint = record.get("hint")
    question = str(index % _ROTATION)
    return Example(
        key=str(index),
        images=record.pictures("image"),
        question=record.text("question"),
        answers=letter_answer(record, held, "answer"),
        choices=tuple(held),
        group=record.get("l2-category", "L2-category", "category"),
        details={"question": question, "image_id": question}
        | ({} if _is_nan(hint) else {"hint": hint}),
    )


def _is_nan(value: Any) -> bool:
    # Tables that went through pandas hold the text "nan" where a cell was empty.
    return value is None or str(value) == "nan"


def _mmbench_pictures(records: Sequence[Record]) -> Sequence[Record]:
    """A rotation may name, in the place of its picture, the row that has it."""
    pictures = {record.text("index"): record.fields.get("image") for record in records}
    joined = []
    for record in records:
        image = record.get("image")
        if isinstance(image, int) or (isinstance(image, str) and image.isdigit()):
            if str(image) not in pictures:
                record.fail("image", repr(image), "the index of a row with a picture is expected")
            fields = {**record.fields, "image": pictures[str(image)]}
            record = Record(fields, record.place, record.folders, record.number)
        joined.append(record)
    return joined


def _ai2d_example(record: Record) -> Example:
    choices = record.texts("options", "answerTexts")
    name = record.get("questionId", "id")
    image_id = record.get("imageName")
    return Example(
        key=str(name) if name is not None else str(record.number),
        images=record.pictures("image", "imageName"),
        question=record.text("question"),
        answers=letter_answer(record, choices, "answer", "correctAnswer"),
        choices=choices,
        details={} if image_id is None else {"image_id": image_id},
    )


def _ai2d_rows(found: Found, folders: Sequence[Path]) -> list[Record]:
    """The questions about one diagram, if it is of the split (`ai2d_test_ids.csv`)."""
    ids = found.path.parent.parent / "ai2d_test_ids.csv"
    if not ids.is_file():
        raise ValueError(
            f"The file {str(ids)!r} is missing, which tells AI2D's test diagrams from the others. "
            "Put it beside the folder of questions."
        )
    is_test = found.path.name.partition(".")[0] in _test_ids(ids)
    if is_test != (found.split == "test"):
        return []
    content = read_json(found.path)
    place = f"File {str(found.path)!r}"
    if not isinstance(content, Mapping) or not isinstance(content.get("questions"), Mapping):
        raise ValueError(f"{place} has no object `questions`. Restore it from its source.")
    return [
        Record(
            {"question": text, "imageName": content.get("imageName"), **entry},
            place=f"{place}, question {number}",
            folders=tuple(folders),
            number=number,
        )
        for number, (text, entry) in enumerate(content["questions"].items())
    ]


@lru_cache(maxsize=2)
def _test_ids(path: Path) -> frozenset[str]:
    with path.open(newline="") as file:
        return frozenset(row[0].strip() for row in csv.reader(file) if row)


def _seed_example(record: Record) -> Example:
    choices = tuple(record.text(f"choice_{letter}") for letter in "abcd")
    images = record.pictures("image")
    data_id = record.get("data_id")
    if not len(images):
        images = Record({"image": record.text("data_id")}, record.place, record.folders).pictures(
            "image"
        )
    return Example(
        key=record.text("question_id"),
        images=images,
        question=record.text("question"),
        answers=letter_answer(record, choices, "answer"),
        choices=choices,
        group=record.get("data_type"),
        details={} if data_id is None else {"image_id": str(data_id)},
    )


def _seed_rows(found: Found, folders: Sequence[Path]) -> list[Record]:
    records = read_file(found.path, folders=folders)
    return [record for record in records if record.text("data_type") == found.split]


def _task(name: str, source: str, read: Reader) -> Task:
    return Task(
        name=name,
        source=source,
        read=read,
        prompt=choice_prompt,
        continuation=choice_continuation,
        answer=first_answer,
        metric=ChoiceAccuracy(),
        stops=("\n",),
        max_new_tokens=16,
    )


SCIENCEQA = _task(
    "scienceqa",
    "ScienceQA, arXiv 2209.09513; prompt as in lmms-eval 0.7.3",
    Reader(
        "ScienceQA",
        _scienceqa_example,
        splits=("test", "validation", "val"),
        releases=(
            Release(
                ("**/problems.json",),
                ("{split}", "images/{split}", "images"),
                _scienceqa_rows,
                splits=("test", "val", "train", "minival", "minitest"),
            ),
        ),
        configurations=("ScienceQA-IMG",),
    ),
)
MMBENCH = _task(
    "mmbench",
    "MMBench, arXiv 2307.06281; prompt of LLaVA-1.5, arXiv 2310.03744",
    Reader(
        "MMBench",
        _mmbench_example,
        splits=("dev", "DEV"),
        releases=(Release(("**/[Mm][Mm][Bb]ench_{split}*.tsv",)),),
        prepare=_mmbench_pictures,
        configurations=("en",),
    ),
)
AI2D = _task(
    "ai2d",
    "AI2D, arXiv 1603.07396; prompt of LLaVA-1.5, arXiv 2310.03744",
    Reader(
        "AI2D",
        _ai2d_example,
        splits=("test",),
        releases=(
            Release(("**/questions/*.json",), ("images",), _ai2d_rows, splits=("test", "train")),
        ),
    ),
)
SEED = _task(
    "seed",
    "SEED-Bench, arXiv 2307.16125; prompt of LLaVA-1.5, arXiv 2310.03744",
    Reader(
        "SEED-Bench",
        _seed_example,
        splits=("test", "image"),
        releases=(
            # Videos of the official release are not read: it names them, but does not hold them.
            Release(
                ("**/SEED-Bench.json",),
                ("SEED-Bench-image", "images", ""),
                _seed_rows,
                splits=("image",),
            ),
        ),
    ),
)
