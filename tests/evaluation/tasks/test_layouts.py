import io
from pathlib import Path

import datasets
import pytest
from PIL import Image

from mm1_hf.evaluation.tasks import TASKS

from .published import HUB_ROWS, encoded, save_parquet
from .releases import RELEASES

# How the Hub calls the split that is read by default.
HUB_SPLITS = {
    "coco": "val",
    "gqa": "testdev",
    "mmbench": "dev",
    "mathvista": "testmini",
    "okvqa": "val2014",
    "vizwiz": "val",
    "textcaps": "val",
} | dict.fromkeys(("scienceqa", "ai2d", "seed", "pope", "mme", "chartqa"), "test")


def _pixels(picture) -> bytes:
    if isinstance(picture, bytes):
        picture = io.BytesIO(picture)
    image = picture if isinstance(picture, Image.Image) else Image.open(picture)
    return image.convert("RGB").tobytes()


def _compared(example) -> tuple:
    pictures = [_pixels(picture) for picture in example.images]
    return (example.question, example.answers, example.choices, pictures)


def _write_table(folder: Path, name: str, number: int) -> None:
    file = f"{HUB_SPLITS.get(name, 'validation')}-00000-of-00001.parquet"
    save_parquet(folder / "data" / file, HUB_ROWS[name](number))


@pytest.mark.parametrize("name", TASKS)
def test_a_table_of_the_hub_a_data_set_and_rows_in_memory_are_read_alike(name, tmp_path):
    rows = HUB_ROWS[name](12)
    _write_table(tmp_path, name, 12)
    from_folder = TASKS[name].read(tmp_path)
    from_rows = TASKS[name].read(rows)
    from_dataset = TASKS[name].read(datasets.Dataset.from_parquet(str(next(tmp_path.rglob("*t")))))
    assert len(from_folder) == 12
    compared = [_compared(example) for example in from_folder]
    assert compared == [_compared(example) for example in from_rows]
    assert compared == [_compared(example) for example in from_dataset]
    assert [e.group for e in from_folder] == [e.group for e in from_rows]


@pytest.mark.parametrize(("name", "write"), RELEASES, ids=[w.__name__ for _, w in RELEASES])
def test_the_authors_release_holds_what_the_hub_holds(name, write, tmp_path):
    write(tmp_path, 12)
    examples = sorted(TASKS[name].read(tmp_path), key=lambda e: (e.question, e.answers))
    hub = sorted(TASKS[name].read(HUB_ROWS[name](12)), key=lambda e: (e.question, e.answers))
    assert len(examples) == 12
    for ours, theirs in zip(examples, hub, strict=True):
        assert _compared(ours)[:3] == _compared(theirs)[:3]
        assert len(ours.images) == len(theirs.images)
        # A picture that is missing would be a path to nothing.
        for picture in ours.images:
            _pixels(picture)
    assert len({example.key for example in examples}) == 12
    if name != "vqav2":
        assert [_compared(e)[3] for e in examples] == [_compared(e)[3] for e in hub]


@pytest.mark.parametrize("name", TASKS)
def test_a_file_is_read_as_the_folder_that_holds_it(name, tmp_path):
    _write_table(tmp_path, name, 4)
    from_file = TASKS[name].read(next(tmp_path.rglob("*.parquet")))
    assert [e.key for e in from_file] == [e.key for e in TASKS[name].read(tmp_path)]


def test_a_picture_in_a_table_is_read_when_it_is_asked_for(tmp_path):
    _write_table(tmp_path, "docvqa", 4)
    file = next(tmp_path.rglob("*.parquet"))
    examples = TASKS["docvqa"].read(tmp_path)
    assert [len(example.images) for example in examples] == [1, 1, 1, 1]
    assert examples[3].images[0] == encoded(1)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        _ = examples[0].images[0]


def test_the_split_chooses_files_and_a_split_that_is_not_there_is_an_error(tmp_path):
    rows = HUB_ROWS["docvqa"](4)
    save_parquet(tmp_path / "validation-00000-of-00002.parquet", rows[:1])
    save_parquet(tmp_path / "validation-00001-of-00002.parquet", rows[1:2])
    save_parquet(tmp_path / "train" / "0000.parquet", rows[2:])
    read = TASKS["docvqa"].read
    assert [e.key for e in read(tmp_path)] == ["0", "1"]
    assert [e.key for e in read(tmp_path, split="train")] == ["2", "3"]
    with pytest.raises(ValueError, match=r"No split 'test' of DocVQA .*validation-00000-of-00002"):
        read(tmp_path, split="test")
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_list([{"a": 1}])})
    with pytest.raises(ValueError, match="only 'train'"):
        read(splits)


def test_karpathys_training_split_takes_what_is_left_of_the_validation_set(tmp_path):
    dict((w.__name__, w) for _, w in RELEASES)["coco_karpathy"](tmp_path, 3)
    assert [e.key for e in TASKS["coco"].read(tmp_path, split="train")] == ["3"]
    with pytest.raises(ValueError, match="no rows of COCO"):
        TASKS["coco"].read(tmp_path, split="val")


def test_rotations_of_mmbench_find_the_picture_of_their_question():
    rows = HUB_ROWS["mmbench"](2)
    rotated = {**rows[1], "index": 1_000_001, "image": "1", "A": "green", "B": "red", "answer": "A"}
    examples = TASKS["mmbench"].read([*rows, rotated])
    assert list(examples[2].images) == list(examples[1].images)
    assert [e.details["question"] for e in examples] == ["0", "1", "1"]
    assert examples[2].choices == ("green", "red", "blue", "grey")


def test_lists_that_mmmu_writes_as_text_are_read():
    row = HUB_ROWS["mmmu"](1)[0]
    row |= {"question_type": "open", "options": "[]", "answer": "['3.14', 'pi']"}
    (example,) = TASKS["mmmu"].read([row])
    assert (example.choices, example.answers, example.group) == ((), ("3.14", "pi"), "Art")


def test_a_local_copy_with_configurations_reads_the_benchmarks_own(tmp_path):
    file = "validation-00000-of-00001.parquet"
    save_parquet(tmp_path / "DocVQA" / file, HUB_ROWS["docvqa"](3))
    save_parquet(tmp_path / "InfographicVQA" / file, HUB_ROWS["infovqa"](5))
    assert len(TASKS["docvqa"].read(tmp_path)) == 3
    assert len(TASKS["infovqa"].read(tmp_path)) == 5


def test_a_hub_data_set_is_read_by_configuration_and_split(monkeypatch):
    """The Hub's two calls, stood in for by rows in memory."""
    rows = HUB_ROWS["gqa"](4)
    held = {
        "testdev_balanced_instructions": [
            {k: v for k, v in row.items() if k != "image"} for row in rows
        ],
        "testdev_balanced_images": [{"id": r["imageId"], "image": r["image"]} for r in rows],
    }
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, part: ["testdev"])
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, part, split: datasets.Dataset.from_list(held[part])
    )
    by_default = TASKS["gqa"].read("lmms-lab/GQA")
    assert [_compared(e) for e in by_default] == [_compared(e) for e in TASKS["gqa"].read(rows)]
    named = TASKS["gqa"].read("lmms-lab/GQA:" + ",".join(held))
    assert [e.key for e in named] == [e.key for e in by_default]
    with pytest.raises(ValueError, match=r"no split 'val' in the data set 'lmms-lab/GQA', only"):
        TASKS["gqa"].read("lmms-lab/GQA", split="val")
