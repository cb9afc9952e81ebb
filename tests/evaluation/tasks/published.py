"""Small benchmarks in their published formats: rows as on the Hub, and the authors' own releases.

Answers are balanced: answer number i is the i-th of the possible ones, in turn. Both formats of a
benchmark hold the same questions, as far as the authors' one can.
"""

import base64
import csv
import io
import json
from collections.abc import Callable, Sequence
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


# The authors' own releases; each writes `number` questions into a folder.


def _coco_annotations(folder: Path, number: int, name: str) -> None:
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(number)]
    captions = [
        {"id": 10 + i, "image_id": i, "caption": f"{CAPTIONS[i % 4]} number {i}"}
        for i in range(number)
    ]
    save_json(folder / name, {"images": images, "annotations": captions})


def coco_karpathy(folder: Path, number: int) -> None:
    rows = [
        {
            "filepath": "val2014",
            "filename": f"{i}.png",
            "imgid": 50 + i,
            "cocoid": i,
            "split": "test" if i < number else "restval",
            "sentences": [{"raw": f"{CAPTIONS[i % 4]} number {i}", "tokens": ["a"]}],
        }
        for i in range(number + 1)
    ]
    save_json(folder / "dataset_coco.json", {"images": rows, "dataset": "coco"})
    for i in range(number + 1):
        save_picture(folder / "val2014" / f"{i}.png", i)


def coco_official(folder: Path, number: int) -> None:
    _coco_annotations(folder, number, "annotations/captions_val2014.json")
    for i in range(number):
        save_picture(folder / "val2014" / f"{i}.png", i)


def nocaps_official(folder: Path, number: int) -> None:
    _coco_annotations(folder, number, "nocaps_val_4500_captions.json")
    for i in range(number):
        save_picture(folder / "images" / f"{i}.png", i)


def textcaps_official(folder: Path, number: int) -> None:
    data = [
        {"image_id": f"t{i}", "caption_id": i, "caption_str": f"{CAPTIONS[i % 4]} number {i}"}
        for i in range(number)
    ]
    save_json(folder / "TextCaps_0.1_val.json", {"data": data})
    for i in range(number):
        save_picture(folder / "train_images" / f"t{i}.jpg", i)


def _coco_vqa(folder: Path, rows: Rows, questions: str, annotations: str) -> None:
    asked = [
        {"image_id": i, "question": row["question"], "question_id": int(row["question_id"])}
        for i, row in enumerate(rows)
    ]
    answered = [
        {
            "question_id": int(row["question_id"]),
            "image_id": i,
            "answer_type": "other",
            "answers": [
                {"answer": a["answer"] if isinstance(a, dict) else a, "answer_id": k}
                for k, a in enumerate(row["answers"])
            ],
        }
        for i, row in enumerate(rows)
    ]
    save_json(folder / questions, {"questions": asked})
    save_json(folder / annotations, {"annotations": answered[::-1]})
    for i in range(len(rows)):
        save_picture(folder / "val2014" / f"COCO_val2014_{i:012d}.jpg", i)


def vqav2_official(folder: Path, number: int) -> None:
    _coco_vqa(
        folder,
        vqav2_rows(number),
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_mscoco_val2014_annotations.json",
    )


def okvqa_official(folder: Path, number: int) -> None:
    _coco_vqa(
        folder,
        okvqa_rows(number),
        "OpenEnded_mscoco_val2014_questions.json",
        "mscoco_val2014_annotations.json",
    )


def textvqa_official(folder: Path, number: int) -> None:
    data = [{k: v for k, v in row.items() if k != "image"} for row in textvqa_rows(number)]
    save_json(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": data})
    for i in range(number):
        save_picture(folder / "train_images" / f"t{i}.jpg", i)


def vizwiz_official(folder: Path, number: int) -> None:
    data = [
        {
            "image": row["question_id"],
            "question": row["question"],
            "answers": [{"answer": a, "answer_confidence": "yes"} for a in row["answers"]],
            "answer_type": "other",
            "answerable": 1,
        }
        for row in vizwiz_rows(number)
    ]
    save_json(folder / "Annotations" / "val.json", data)
    for i, row in enumerate(data):
        save_picture(folder / "val" / row["image"], i)


def gqa_official(folder: Path, number: int) -> None:
    rows = {
        row["id"]: {k: row[k] for k in ("imageId", "question", "answer")}
        for row in gqa_rows(number)
    }
    save_json(folder / "testdev_balanced_questions.json", rows)
    for i in range(number):
        save_picture(folder / "images" / f"n{i}.jpg", i)


def gqa_two_tables(folder: Path, number: int) -> None:
    rows = gqa_rows(number)
    asked = [{k: v for k, v in row.items() if k != "image"} for row in rows]
    shown = [{"id": row["imageId"], "image": row["image"]} for row in rows[::-1]]
    name = "testdev-00000-of-00001.parquet"
    save_parquet(folder / "testdev_balanced_instructions" / name, asked)
    save_parquet(folder / "testdev_balanced_images" / name, shown)


def scienceqa_official(folder: Path, number: int) -> None:
    problems = {}
    for i, row in enumerate(scienceqa_rows(number)):
        has_image = row["image"] is not None
        problems[str(i)] = {**row, "image": "image.png" if has_image else None, "split": "test"}
        if has_image:
            save_picture(folder / "test" / str(i) / "image.png", i)
    problems["other"] = {**problems["0"], "split": "train"}
    save_json(folder / "problems.json", problems)


def mmbench_official(folder: Path, number: int) -> None:
    rows = mmbench_rows(number)
    for row in rows:
        row["image"] = base64.b64encode(row["image"]["bytes"]).decode()
        row["hint"] = "" if row["hint"] == "nan" else row["hint"]
        row["l2-category"] = row.pop("L2-category")
    with (folder / "mmbench_dev_en_20231003.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


def ai2d_official(folder: Path, number: int) -> None:
    for i, row in enumerate(ai2d_rows(number)):
        question = {
            "abcLabel": False,
            "answerTexts": row["options"],
            "correctAnswer": int(row["answer"]),
            "questionId": f"{i}.png-0",
        }
        content = {"imageName": f"{i}.png", "questions": {row["question"]: question}}
        save_json(folder / "questions" / f"{i}.png.json", content)
        save_picture(folder / "images" / f"{i}.png", i)
    save_json(folder / "questions" / "99.png.json", {"imageName": "99.png", "questions": {}})
    (folder / "ai2d_test_ids.csv").write_text("\n".join(map(str, range(number))))


def seed_official(folder: Path, number: int) -> None:
    rows = [{k: v for k, v in row.items() if k != "image"} for row in seed_rows(number)]
    video = {**rows[0], "data_type": "video", "question_id": "v0", "data_id": "v.mp4"}
    save_json(folder / "SEED-Bench.json", {"questions": [*rows, video], "question_type": {}})
    for i in range(number):
        save_picture(folder / "SEED-Bench-image" / f"{i}.png", i)


def mathvista_official(folder: Path, number: int) -> None:
    rows = {
        row["pid"]: {k: v for k, v in row.items() if k != "decoded_image"}
        for row in mathvista_rows(number)
    }
    save_json(folder / "testmini.json", rows)
    for i in range(number):
        save_picture(folder / "images" / f"{i}.png", i)


def pope_official(folder: Path, number: int) -> None:
    for category in ("random", "popular", "adversarial"):
        rows = [row for row in pope_rows(number) if row["category"] == category]
        lines = [
            json.dumps(
                {
                    "question_id": row["question_id"],
                    "image": f"{row['image_source']}.jpg",
                    "text": row["question"],
                    "label": row["answer"],
                }
            )
            for row in rows
        ]
        (folder / f"coco_pope_{category}.json").write_text("\n".join(lines))
    for i in range(number):
        save_picture(folder / "val2014" / f"COCO_val2014_{i // 6:012d}.jpg", i // 6)


def mme_official(folder: Path, number: int) -> None:
    rows = mme_rows(number)
    for yes, no in zip(rows[::2], rows[1::2], strict=True):
        stem = Path(yes["question_id"]).stem
        subtask = folder / yes["category"]
        # Some subtasks have folders of their own for texts and pictures.
        texts = subtask / "questions_answers_YN" if yes["category"] == "count" else subtask
        pictures = subtask / "images" if yes["category"] == "count" else subtask
        texts.mkdir(parents=True, exist_ok=True)
        lines = (f"{row['question']}\t{row['answer']}" for row in (yes, no))
        (texts / f"{stem}.txt").write_text("\n".join(lines))
        save_picture(pictures / f"{stem}.png", int(stem))
    save_json(folder / "eval_tool" / "readme.txt", "not a question")


def chartqa_official(folder: Path, number: int) -> None:
    for kind in ("human", "augmented"):
        rows = [
            {"imgname": f"{i}.png", "query": row["question"], "label": row["answer"]}
            for i, row in enumerate(chartqa_rows(number))
            if row["type"] == f"{kind}_test"
        ]
        save_json(folder / "test" / f"test_{kind}.json", rows)
    for i in range(number):
        save_picture(folder / "test" / "png" / f"{i}.png", i)


def docvqa_official(folder: Path, number: int) -> None:
    data = [
        {**row, "image": f"documents/{row['docId']}.png", "questionId": int(row["questionId"])}
        for row in docvqa_rows(number)
    ]
    save_json(folder / "val_v1.0_withQT.json", {"dataset_name": "docvqa", "data": data})
    for i in range(number):
        save_picture(folder / "documents" / f"{i // 2}.png", i // 2)


def infovqa_official(folder: Path, number: int) -> None:
    data = []
    for row in docvqa_rows(number):
        name = f"{row['docId']}.png"
        data.append({k: v for k, v in row.items() if k != "image"} | {"image_local_name": name})
        save_picture(folder / "images" / name, row["docId"])
    save_json(folder / "infographicsVQA_val_v1.0_withQT.json", {"data": data})


RELEASES: Sequence[tuple[str, Callable[[Path, int], None]]] = (
    ("coco", coco_karpathy),
    ("coco", coco_official),
    ("nocaps", nocaps_official),
    ("textcaps", textcaps_official),
    ("vqav2", vqav2_official),
    ("okvqa", okvqa_official),
    ("textvqa", textvqa_official),
    ("vizwiz", vizwiz_official),
    ("gqa", gqa_official),
    ("gqa", gqa_two_tables),
    ("scienceqa", scienceqa_official),
    ("mmbench", mmbench_official),
    ("ai2d", ai2d_official),
    ("seed", seed_official),
    ("mathvista", mathvista_official),
    ("pope", pope_official),
    ("mme", mme_official),
    ("chartqa", chartqa_official),
    ("docvqa", docvqa_official),
    ("infovqa", infovqa_official),
)
