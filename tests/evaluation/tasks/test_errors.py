import json

import pytest

from mm1_hf.evaluation.tasks import TASKS, get_task

from .published import HUB_ROWS, save_json
from .releases import RELEASES

ANSWER_FIELDS = ("answer", "answers", "annotations_captions", "caption_str")
WRITERS = {write.__name__: write for _, write in RELEASES}


def test_an_unknown_task_is_answered_with_the_known_ones():
    assert get_task("vqav2") is TASKS["vqav2"]
    with pytest.raises(ValueError, match=r"Did you mean 'vqav2'\? Known tasks: coco, nocaps"):
        get_task("VQAv2")


def test_every_task_has_its_own_name():
    assert [task.name for task in TASKS.values()] == list(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_a_row_without_an_answer_is_kept_and_a_split_without_any_is_an_error(name):
    rows = HUB_ROWS[name](3)
    unlabelled = [
        {k: None if k in ANSWER_FIELDS else v for k, v in row.items()} for row in HUB_ROWS[name](3)
    ]
    examples = TASKS[name].read([rows[0], unlabelled[1], rows[2]])
    assert [bool(example.answers) for example in examples] == [True, False, True]
    with pytest.raises(ValueError, match=r"Row 0: found no answers, here or in any of 3 rows"):
        TASKS[name].read(unlabelled)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in TASKS
        # Captions have no question, and a row of GQA without one is a picture.
        if name not in ("coco", "nocaps", "textcaps", "gqa")
    ],
)
def test_a_row_without_a_question_names_what_it_has(name):
    rows = HUB_ROWS[name](3)
    rows[2] = {k: v for k, v in rows[2].items() if k not in ("question", "image")}
    with pytest.raises(ValueError, match=r"Row 2, field 'question': found nothing.*fields: "):
        TASKS[name].read(rows)


def test_a_caption_without_a_picture_is_an_error():
    with pytest.raises(ValueError, match="Row 0, field 'image': found nothing, but a picture"):
        TASKS["nocaps"].read([{"image_id": 1, "annotations_captions": ["a dog"]}])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("scienceqa", {"answer": 7}, "index \\(from 0\\) of one of 4 options"),
        ("mmbench", {"B": None}, "options with a gap"),
        ("mmbench", {"image": "77"}, "index of a row with a picture"),
        ("pope", {"answer": "maybe"}, "yes or no is expected"),
        ("mme", {"category": "colours"}, "one of existence, count"),
        ("vqav2", {"answers": [{"reply": "x"}]}, r"field 'answers\[0\]'.*a text is expected"),
        ("mmmu", {"options": "['a', "}, "text of a list"),
        ("mathvista", {"choices": ["1", "2"], "answer": "3"}, "one of the options"),
        ("docvqa", {"image": 3}, "an image, its bytes or its path"),
        ("docvqa", {"question": ["?"]}, "a text is expected"),
    ],
)
def test_a_row_of_another_form_says_what_was_expected(name, change, message):
    rows = HUB_ROWS[name](2)
    rows[1] |= change
    with pytest.raises(ValueError, match=rf"Row 1.*{message}"):
        TASKS[name].read(rows)


def test_two_rows_of_one_key_are_an_error():
    rows = HUB_ROWS["docvqa"](2)
    rows[1]["questionId"] = "0"
    with pytest.raises(ValueError, match=r"Row 1: found the key '0' a second time \(before: Row 0"):
        TASKS["docvqa"].read(rows)


def test_damaged_files_are_named_with_the_line(tmp_path):
    (tmp_path / "validation.jsonl").write_text('{"questionId": 1}\n{"questionId": \n')
    with pytest.raises(ValueError, match=r"validation.jsonl.*line 2"):
        TASKS["docvqa"].read(tmp_path)
    (tmp_path / "validation.jsonl").rename(tmp_path / "validation.parquet")
    with pytest.raises(ValueError, match=r"validation.parquet.*cannot be read as parquet"):
        TASKS["docvqa"].read(tmp_path)
    (tmp_path / "validation.parquet").rename(tmp_path / "validation.json")
    with pytest.raises(ValueError, match=r"validation.json.*line 2"):
        TASKS["docvqa"].read(tmp_path)
    save_json(tmp_path / "validation.json", {"version": 1})
    with pytest.raises(ValueError, match="JSON dict without rows"):
        TASKS["docvqa"].read(tmp_path)
    (tmp_path / "validation.json").write_text('[{"questionId": 1},\n {"questionId"')
    with pytest.raises(ValueError, match=r"validation.json.*cannot be read as JSON"):
        TASKS["docvqa"].read(tmp_path)
    (tmp_path / "validation.json").write_text("[1]")
    with pytest.raises(ValueError, match="row 0: found a int"):
        TASKS["docvqa"].read(tmp_path)
    (tmp_path / "validation.json").unlink()
    (tmp_path / "validation.tsv").write_text("a\tb\n1\n")
    with pytest.raises(ValueError, match="row 0: found 2 cells"):
        TASKS["docvqa"].read(tmp_path)


def test_questions_and_annotations_must_match(tmp_path):
    WRITERS["vqav2_official"](tmp_path, 3)
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    content = json.loads(path.read_text())
    save_json(path, {"annotations": content["annotations"][1:]})
    with pytest.raises(ValueError, match=r"row 2, field 'question_id': found 1002, but a question"):
        TASKS["vqav2"].read(tmp_path)
    extra = [*content["annotations"], {**content["annotations"][0], "question_id": 7}]
    save_json(path, {"annotations": extra})
    with pytest.raises(ValueError, match=r"answers 1 questions that .* such as 7"):
        TASKS["vqav2"].read(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"annotations\.json' are missing"):
        TASKS["vqav2"].read(tmp_path)


def test_captions_of_pictures_that_are_not_listed_are_an_error(tmp_path):
    save_json(
        tmp_path / "captions_val2014.json",
        {"images": [], "annotations": [{"image_id": 4, "caption": "a dog"}]},
    )
    with pytest.raises(ValueError, match=r"annotation 0, field 'image_id': found 4"):
        TASKS["coco"].read(tmp_path)


def test_ai2d_without_its_list_of_test_diagrams_is_an_error(tmp_path):
    WRITERS["ai2d_official"](tmp_path, 2)
    (tmp_path / "ai2d_test_ids.csv").unlink()
    with pytest.raises(ValueError, match=r"ai2d_test_ids.csv' is missing"):
        TASKS["ai2d"].read(tmp_path)


def test_a_place_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no file or folder"):
        TASKS["coco"].read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no files\. Expected are files named"):
        TASKS["pope"].read(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"ends in '\.txt'"):
        TASKS["coco"].read(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="location is a int"):
        TASKS["coco"].read(3)


def test_a_data_set_of_the_hub_that_cannot_be_had_is_named():
    with pytest.raises(ValueError, match="'owner/none' is neither a local path nor"):
        TASKS["coco"].read("owner/none")


def test_a_missing_picture_is_left_to_whoever_opens_it(tmp_path):
    WRITERS["docvqa_official"](tmp_path, 2)
    (tmp_path / "documents" / "0.png").unlink()
    (example, _) = TASKS["docvqa"].read(tmp_path)
    assert example.images[0] == tmp_path / "documents" / "0.png"
