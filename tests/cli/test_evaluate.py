"""`mm1 evaluate` asks tasks of a saved model, and goes on where it was stopped."""

import json
import sys
from types import ModuleType

import pytest

from mm1_hf.cli import main
from mm1_hf.cli.evaluate import _parse_named as parse_named
from mm1_hf.evaluation import Example

from ..evaluation import small_tasks as small
from ..evaluation.tasks import published


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "checkpoint"
    processor = small.processor()
    small.model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def read(location, *, split=None):
    """Eight questions, or twelve of "train"; the location tells what is wrong with them."""
    if split == "train":
        return small.examples(12, start=60, split="t")
    asked = small.examples(8, split=f"{location}-")
    if location == "bad":
        asked[1] = Example(key="bad", images=(b"",), question="?", answers=("red",))
    return asked


@pytest.fixture
def tasks(monkeypatch):
    """Two tasks in the place of the published ones."""
    known = {name: small.task(name=name, read=read) for name in ("colours", "shades")}
    module = ModuleType("mm1_hf.evaluation.tasks")

    def get_task(name):
        if name not in known:
            raise ValueError(f"There is no task {name!r}.")
        return known[name]

    module.get_task = get_task
    monkeypatch.setitem(sys.modules, "mm1_hf.evaluation.tasks", module)
    return known


@pytest.fixture
def run(model, tasks, tmp_path, capsys):
    """Runs the verb; gives its status, standard output and standard error."""

    def run(*options, task=("colours",), data=("here",)):
        arguments = ["evaluate", "--model", model, "--task", *task, "--data", *data]
        arguments += ["--no-progress", "--output", tmp_path / "out", *options]
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


def test_several_tasks_and_shots_make_one_table(run, tmp_path):
    status, said, _ = run(
        "--shots", 0, 2, "--seeds", 0, 1, "--batch-size", 4, task=("colours", "shades")
    )
    assert status == 0
    table = (tmp_path / "out" / "summary.txt").read_text()
    assert said.endswith(table)
    rows = [line.split()[:4] for line in table.splitlines()[2:6]]
    assert rows == [
        ["colours", "0", "1", "accuracy"],
        ["colours", "2", "2", "accuracy"],
        ["shades", "0", "1", "accuracy"],
        ["shades", "2", "2", "accuracy"],
    ]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [one["settings"]["num_shots"] for one in summary] == [0, 2, 0, 2]
    for name in ("answers.jsonl", "results.json", "answers.html"):
        assert (tmp_path / "out" / "shades" / "2-shot-chat" / name).is_file()


def test_the_same_command_goes_on(run, tmp_path):
    first = run("--style", "continuation")
    path = tmp_path / "out" / "colours" / "0-shot-continuation" / "answers.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:9])
    assert run("--style", "continuation", "--batch-size", 3) == first
    assert path.read_bytes() == b"".join(lines)
    status, _, error = run("--style", "continuation", "--max-new-tokens", 3)
    assert status == 2 and "another run: max_new_tokens 6 instead of 3" in error


def test_a_larger_limit_asks_only_what_is_new(run, tmp_path):
    path = tmp_path / "out" / "colours" / "0-shot-chat" / "answers.jsonl"
    run("--limit", 3)
    few = path.read_text()
    run("--limit", 6)
    assert few.count("\n") == 3 and path.read_text().count("\n") == 6
    assert path.read_text().startswith(few)


def test_locations_belong_to_tasks(run, tmp_path):
    status, *_ = run(task=("colours", "shades"), data=("shades=there", "colours=here"))
    assert status == 0
    path = tmp_path / "out" / "shades" / "0-shot-chat" / "answers.jsonl"
    assert json.loads(path.read_text().splitlines()[0])["key"].startswith("there-")


def test_splits_belong_to_tasks(run, tmp_path):
    status, *_ = run("--split", "train", "shades=x", task=("colours", "shades"))
    assert status == 0
    for name, first in {"colours": "t60", "shades": "here-0"}.items():
        told = (tmp_path / "out" / name / "0-shot-chat" / "answers.jsonl").read_text()
        assert json.loads(told.splitlines()[0])["key"] == first


def test_a_published_benchmark_is_asked_from_its_files(model, tmp_path, capsys):
    for split, number in {"validation": 6, "train": 9}.items():
        rows = published.vqav2_rows(number)
        published.save_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", rows)
    options = ["--shots", 0, 3, "--style", "continuation", "--no-progress"]
    options += ["--data", tmp_path / "data", "--output", tmp_path / "out"]
    arguments = ["evaluate", "--model", model, "--task", "vqav2", *options]
    assert main([str(argument) for argument in arguments]) == 0
    assert "vqav2, 3 shots: 6 examples, 6 answered" in capsys.readouterr().out
    told = (tmp_path / "out" / "vqav2" / "3-shot-continuation" / "answers.jsonl").read_text()
    rows = [json.loads(line) for line in told.splitlines()]
    # Both splits hold the same pictures, each twice; neither is shown with its own question.
    for place, row in enumerate(rows):
        assert place // 2 not in {shown // 2 for shown in row["demonstrations"]}
    assert sum(row["equal"] for row in rows) > 0


def test_trouble_may_be_counted(run):
    status, _, error = run(data=("bad",))
    assert status == 2 and "'bad'" in error and error.count("\n") == 1
    status, said, _ = run("--bad-images", "count", data=("bad",))
    assert status == 0 and "8 examples, 7 answered" in said and "1 unreadable" in said


def test_wrong_calls_are_one_line_that_says_what_to_do(run):
    cases = [
        ({"task": ("x",)}, (), "no task 'x'"),
        ({"data": ("shades=there",)}, (), "asked are: colours"),
        ({"data": ("one", "two")}, (), "'one' and 'two' are both given"),
        ({"task": ("colours", "shades"), "data": ("colours=a",)}, (), "Add shades=LOCATION"),
        ({}, ("--limit", "0"), "at least one"),
        ({}, ("--shots", "-1"), "num_shots is -1"),
        ({}, ("--model", "./nowhere"), "no folder './nowhere'"),
    ]
    for places, options, words in cases:
        status, said, error = run(*options, **places)
        assert (status, said) == (2, "") and words in error, error
        assert error.count("\n") == 1


def test_a_path_that_exists_is_taken_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert parse_named("a=b") == (None, "a=b")
    assert parse_named("t=a=b") == ("t", "a=b")
    assert parse_named("owner/name") == (None, "owner/name")
