"""Small benchmarks in their published formats: rows as on the Hub; see also `releases`.

Answers are balanced: answer number i is the i-th of the possible ones, in turn. Both formats of a
benchmark hold the same questions, as far as the authors' one can.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Rows = list[dict[str, Any]]

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230), "grey": (128,) * 3}
NAMES = list(COLOURS)
YES_NO = ["yes", "no"]
CAPTIONS = [
    "a red square lies on the table",
    "two green birds sit in a tall tree",
    "the blue boat sails over quiet water",
    "an old grey wall beside some houses",
]
PICTURE = {"bytes": pa.binary(), "path": pa.string()}


def picture(number: int) -> Image.Image:
    image = Image.new("RGB", (8, 6), COLOURS[NAMES[number % 4]])
    image.putpixel((0, 0), (number % 256, number // 256, 7))
    return image


def encoded(number: int) -> bytes:
    file = io.BytesIO()
    picture(number).save(file, "PNG")
    return file.getvalue()


def cell(number: int) -> dict[str, Any]:
    return {"bytes": encoded(number), "path": f"{number}.png"}


def save_picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(number))


def save_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def save_parquet(path: Path, rows: Rows, *, group: int = 2) -> None:
    """As the Hub's files are: pictures are structs of bytes and path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        first = next((value for value in values if value is not None), None)
        kind = None
        if isinstance(first, dict) and set(first) == set(PICTURE):
            kind = pa.struct(PICTURE)
        elif isinstance(first, list) and first and isinstance(first[0], dict):
            kind = pa.list_(pa.struct(PICTURE)) if set(first[0]) == set(PICTURE) else None
        columns[name] = pa.array(values, kind)
    pq.write_table(pa.table(columns), path, row_group_size=group)


# Rows as on the Hub.


def coco_rows(number: int) -> Rows:
    return [
        {
            "question_id": f"COCO_val2014_{i:012d}.jpg",
            "image": cell(i),
            "question": "Please carefully observe the image and come up with a caption for it",
            "answer": [f"{CAPTIONS[i % 4]} number {i}"],
            "id": i,
        }
        for i in range(number)
    ]


def nocaps_rows(number: int) -> Rows:
    return [
        {"image": cell(i), "image_id": i, "annotations_captions": [f"{CAPTIONS[i % 4]} number {i}"]}
        for i in range(number)
    ]


def textcaps_rows(number: int) -> Rows:
    return [
        {
            "question_id": str(i),
            "question": "Please carefully observe the image and come up with a caption for it",
            "image": cell(i),
            "image_id": f"t{i}",
            "caption_str": [f"{CAPTIONS[i % 4]} number {i}"],
        }
        for i in range(number)
    ]


def vqav2_rows(number: int) -> Rows:
    return [
        {
            "question_type": "what",
            "multiple_choice_answer": NAMES[i % 4],
            "answers": [
                {"answer": NAMES[i % 4], "answer_confidence": "yes", "answer_id": k + 1}
                for k in range(10)
            ],
            "image_id": i // 2,
            "answer_type": "other",
            "question_id": 1000 + i,
            "question": f"What colour is it ({i})?",
            "image": cell(i // 2),
        }
        for i in range(number)
    ]


def okvqa_rows(number: int) -> Rows:
    return [
        {
            "question_id": str(1000 + i),
            "image": cell(i),
            "question": f"What colour is it ({i})?",
            "answers": [NAMES[i % 4]] * 10,
            "answer_type": "other",
        }
        for i in range(number)
    ]


def textvqa_rows(number: int) -> Rows:
    return [
        {
            "image_id": f"t{i}",
            "question_id": 1000 + i,
            "question": f"what is written ({i})?",
            "image": cell(i),
            "answers": [NAMES[i % 4]] * 10,
            "ocr_tokens": ["a"],
        }
        for i in range(number)
    ]


def vizwiz_rows(number: int) -> Rows:
    return [
        {
            "question_id": f"VizWiz_val_{i:08d}.jpg",
            "image": cell(i),
            "question": f"What is this ({i})?",
            "answers": [NAMES[i % 4]] * 10,
            "category": "other",
        }
        for i in range(number)
    ]


def gqa_rows(number: int) -> Rows:
    return [
        {
            "id": f"20{i}",
            "imageId": f"n{i}",
            "question": f"Which colour is it ({i})?",
            "answer": NAMES[i % 4],
            "image": cell(i),
        }
        for i in range(number)
    ]


def scienceqa_rows(number: int) -> Rows:
    return [
        {
            "image": cell(i) if i % 3 else None,
            "question": f"Which is it ({i})?",
            "choices": NAMES,
            "answer": i % 4,
            "hint": "Look well." if i % 2 else "",
            "subject": "natural science",
        }
        for i in range(number)
    ]


def mmbench_rows(number: int) -> Rows:
    return [
        {
            "index": i,
            "question": f"Which is it ({i})?",
            "hint": "nan" if i % 2 else "Look well.",
            "answer": "ABCD"[i % 4],
            **dict(zip("ABCD", NAMES, strict=True)),
            "category": "colour",
            "image": cell(i),
            "L2-category": "perception",
        }
        for i in range(number)
    ]


def ai2d_rows(number: int) -> Rows:
    return [
        {
            "question": f"Which is it ({i})?",
            "options": NAMES,
            "answer": str(i % 4),
            "image": cell(i),
        }
        for i in range(number)
    ]


def seed_rows(number: int) -> Rows:
    return [
        {
            "answer": "ABCD"[i % 4],
            **{f"choice_{letter}": name for letter, name in zip("abcd", NAMES, strict=True)},
            "data_id": f"{i}.png",
            "data_type": "image",
            "question": f"Which is it ({i})?",
            "question_id": str(i),
            "question_type_id": 1,
            "image": [cell(i)],
        }
        for i in range(number)
    ]


def mmmu_rows(number: int) -> Rows:
    return [
        {
            "id": f"validation_Art_{i}",
            "question": f"What does <image 1> show ({i})?",
            "options": repr(["red", "green", "<image 2>", "grey"]),
            "answer": "ABCD"[i % 4],
            "question_type": "multiple-choice",
            "image_1": cell(i),
            "image_2": cell(i + 1),
            "image_3": None,
        }
        for i in range(number)
    ]


def mathvista_rows(number: int) -> Rows:
    return [
        {
            "pid": str(i),
            "question": f"How many ({i})?",
            "image": f"images/{i}.png",
            "decoded_image": cell(i),
            "choices": None,
            "unit": None,
            "precision": None,
            "answer": str(i % 4),
            "question_type": "free_form",
            "answer_type": "integer",
            "query": f"Hint: Please answer.\nQuestion: How many ({i})?",
        }
        for i in range(number)
    ]


def pope_rows(number: int) -> Rows:
    groups = ["random", "popular", "adversarial"]
    return [
        {
            "id": str(i),
            "question_id": str(i // 3),
            "question": f"Is there a dog in the image ({i // 3})?",
            "answer": YES_NO[i // 3 % 2],
            "image_source": f"COCO_val2014_{i // 6:012d}",
            "image": cell(i // 6),
            "category": groups[i % 3],
        }
        for i in range(number)
    ]


def mme_rows(number: int) -> Rows:
    subtasks = ["count", "code_reasoning"]
    return [
        {
            "question_id": f"{i // 2}.png",
            "image": cell(i // 2),
            "question": f"Is it so ({i})? Please answer yes or no.",
            "answer": YES_NO[i % 2].capitalize(),
            "category": subtasks[i // 2 % 2],
        }
        for i in range(number)
    ]


def chartqa_rows(number: int) -> Rows:
    return [
        {
            "type": "human_test" if i % 2 else "augmented_test",
            "question": f"How much ({i})?",
            "answer": str(10 * (i % 4 + 1)),
            "image": cell(i),
        }
        for i in range(number)
    ]


def docvqa_rows(number: int) -> Rows:
    return [
        {
            "questionId": str(i),
            "question": f"What is the title ({i})?",
            "docId": i // 2,
            "image": cell(i // 2),
            "answers": [NAMES[i % 4], NAMES[i % 4].upper()],
        }
        for i in range(number)
    ]


HUB_ROWS: dict[str, Callable[[int], Rows]] = {
    "coco": coco_rows,
    "nocaps": nocaps_rows,
    "textcaps": textcaps_rows,
    "vqav2": vqav2_rows,
    "textvqa": textvqa_rows,
    "vizwiz": vizwiz_rows,
    "okvqa": okvqa_rows,
    "gqa": gqa_rows,
    "scienceqa": scienceqa_rows,
    "mmbench": mmbench_rows,
    "mmmu": mmmu_rows,
    "ai2d": ai2d_rows,
    "seed": seed_rows,
    "mathvista": mathvista_rows,
    "pope": pope_rows,
    "mme": mme_rows,
    "chartqa": chartqa_rows,
    "docvqa": docvqa_rows,
    "infovqa": docvqa_rows,
}
