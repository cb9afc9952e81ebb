"""Small benchmarks as their authors released them; each function writes so many questions."""

import base64
import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from .published import (
    CAPTIONS,
    Rows,
    ai2d_rows,
    chartqa_rows,
    docvqa_rows,
    gqa_rows,
    mathvista_rows,
    mmbench_rows,
    mme_rows,
    okvqa_rows,
    pope_rows,
    save_json,
    save_parquet,
    save_picture,
    scienceqa_rows,
    seed_rows,
    textvqa_rows,
    vizwiz_rows,
    vqav2_rows,
)


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
