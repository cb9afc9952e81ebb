"""`mm1 pretrain` and `mm1 sft` train, resume and explain themselves on small real files."""

import argparse
import json
import re
import shutil

import datasets
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mm1_hf.cli import main, pretrain
from mm1_hf.training.data_files import load_data
from mm1_hf.training.recipes import RECIPES

from ..data.small_corpus import make_model, make_processor, picture, write_corpus

# Another option is a decision: what belongs to the recipe goes into the recipe.
FLAGS = {
    "--data",
    "--model",
    "--output",
    "--steps",
    "--seed",
    "--per-device-batch-size",
    "--precision",
    "--attention",
    "--workers",
    "--save-steps",
    "--log-steps",
    "--resume",
    "--dry-run",
}
SMALL = {"batch_size": 4, "steps": 4, "sequence_length": 96, "tile_size": None}
SOURCES = {
    "captions": {"path": "captions.tar", "part": "captions"},
    "pages": {"path": "pages.jsonl", "images": "pages", "part": "interleaved"},
    "texts": {"path": "texts.parquet", "part": "text"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data of three kinds, chats, recipes and a checkpoint."""
    folder = tmp_path_factory.mktemp("job")
    write_corpus(folder)
    processor = make_processor()
    processor.save_pretrained(folder / "model")
    make_model(processor).save_pretrained(folder / "model")
    (folder / "chats").mkdir()
    chats = []
    for number in range(12):
        (folder / "chats" / f"{number}.jpg").write_bytes(picture(number))
        said = [("human", "<image>\nWhat?"), ("gpt", f"Number {number}.")]
        turns = [{"from": who, "value": what} for who, what in said]
        chats.append({"id": str(number), "image": f"{number}.jpg", "conversations": turns})
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    chat = {"path": "chats.jsonl", "images": "chats", "converter": "from_llava"}
    write(folder / "data.json", {"sources": SOURCES})
    write(folder / "chat.json", {"sources": {"chats": chat}})
    write(folder / "pretrain.json", {"base": "mm1-pretrain", "learning_rate": 1e-3, **SMALL})
    write(folder / "sft.json", {"base": "mm1-sft", **SMALL, "tile_size": 28})
    return folder


def write(path, content) -> None:
    path.write_text(json.dumps(content))


def call(folder, verb: str, recipe: str, data: str, output, *more: str) -> int:
    files = ["--data", str(folder / data), "--model", str(folder / "model")]
    path = folder / recipe
    name = str(path) if path.is_file() else recipe
    return main([verb, name, *files, "--output", str(output), *more])


def assert_complete(output) -> None:
    model = AutoModelForImageTextToText.from_pretrained(output)
    processor = AutoProcessor.from_pretrained(output)
    inputs = processor(
        text="<image> What?", images=torch.zeros(3, 30, 30, dtype=torch.uint8), return_tensors="pt"
    )
    assert torch.isfinite(model(**inputs).logits).all()
    recipe = json.loads((output / "recipe.json").read_text())
    assert recipe["base"] in RECIPES and recipe["steps"] == 4
    assert set(json.loads((output / "mixture.json").read_text())) == {"unit", "seed", "sources"}


def test_options_are_few_and_frozen():
    parser = argparse.ArgumentParser(add_help=False)
    pretrain.add_arguments(parser)
    found = {option for action in parser._actions for option in action.option_strings}
    assert found == FLAGS


def test_pretraining_leaves_model_processor_and_what_was_done(folder, tmp_path, capsys):
    output = tmp_path / "run"
    more = ["--per-device-batch-size", "2", "--log-steps", "1", "--save-steps", "2"]
    assert call(folder, "pretrain", "pretrain.json", "data.json", output, *more) == 0
    assert_complete(output)
    assert {path.name for path in output.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert "Trained 4 steps" in capsys.readouterr().out


def test_a_resumed_run_ends_as_the_uninterrupted_one(folder, tmp_path):
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    for output in (whole, halved):
        assert call(folder, "pretrain", "pretrain.json", "data.json", output, "--save-steps=2") == 0
    shutil.rmtree(halved / "checkpoint-4")
    (halved / "model.safetensors").unlink()
    more = ["--save-steps=2", "--resume"]
    assert call(folder, "pretrain", "pretrain.json", "data.json", halved, *more) == 0
    assert (halved / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_fine_tuning_cuts_pictures_as_its_recipe_says(folder, tmp_path):
    output = tmp_path / "run"
    assert call(folder, "sft", "sft.json", "chat.json", output) == 0
    assert_complete(output)
    processor = AutoProcessor.from_pretrained(output)
    assert processor.image_processor.plan(100, 100).num_tiles == 5


def test_a_dry_run_shows_recipe_and_plan_and_trains_nothing(folder, tmp_path, capsys):
    output = tmp_path / "run"
    more = ["--dry-run", "--steps", "50"]
    assert call(folder, "pretrain", "pretrain.json", "data.json", output, *more) == 0
    shown = capsys.readouterr().out
    assert "steps            yours         50" in shown
    assert "Sequences: 200 of 96 positions" in shown
    (captions,) = [line.split() for line in shown.splitlines() if line.startswith("captions ")]
    assert captions[-2:] == ["45.0%", "45.0%"]
    assert not list(output.glob("checkpoint-*")) and not (output / "config.json").exists()


def test_a_run_is_not_mixed_with_an_earlier_one(folder, tmp_path, capsys):
    output = tmp_path / "run"
    arguments = (folder, "sft", "sft.json", "chat.json", output)
    assert call(*arguments) == 0
    assert call(*arguments) == 2
    assert "--resume" in capsys.readouterr().err
    assert call(*arguments, "--resume", "--seed", "1") == 2
    assert "seed 0, not 1" in capsys.readouterr().err
    write(folder / "other.json", {"base": "mm1-sft", **SMALL, "tile_size": 28, "batch_size": 2})
    assert call(folder, "sft", "other.json", "chat.json", output, "--resume") == 2
    assert "batch_size 4, not 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb, recipe, data, more, message",
    [
        ("pretrain", "mm1-sft", "chat.json", [], "Use: mm1 sft"),
        ("sft", "mm1-pretrain", "data.json", [], "Use: mm1 pretrain"),
        ("sft", "mm1.5-sf", "chat.json", [], "mm1.5-sft"),
        ("pretrain", "pretrain.json", "none.json", [], "no data file"),
        ("pretrain", "pretrain.json", "data.json", ["--steps", "0"], "at least 1"),
        ("pretrain", "pretrain.json", "data.json", ["--per-device-batch-size=3"], "3 at once"),
    ],
)
def test_wrong_arguments_are_one_line_that_says_what_to_do(
    verb, recipe, data, more, message, folder, tmp_path, capsys
):
    assert call(folder, verb, recipe, data, tmp_path / "run", *more) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("mm1 ")]
    assert message in line


@pytest.mark.parametrize(
    "content, message",
    [
        ({"source": {}}, "did you mean 'sources'"),
        ({"sources": {}}, "at least one"),
        ({"sources": {"a": {"pth": "x"}}}, "Source 'a'.*path"),
        ({"sources": {"a": {"path": "missing.jsonl"}}}, "missing.jsonl"),
        ({"sources": {"a": {"path": "chats"}}}, "Add a kind"),
        ({"sources": {"a": {"path": "chats", "kind": "folder"}}}, "dataset, jsonl"),
        ({"sources": {"a": {"path": "chats.jsonl", "options": {}}}}, "from_llava"),
        ({"sources": {"a": {"path": "chats.jsonl", "converter": "llava"}}}, "from_llava"),
        ({"sources": {"a": {"path": "chats.jsonl", "part": "caption"}}}, "mean 'captions'"),
        ({"sources": {"a": {"path": "chats.jsonl", "part": "text"}}}, "no source for 'captions'"),
        ({"sources": SOURCES, "errors": {"mode": "ignore"}}, "'raise', 'skip'"),
        ({"sources": SOURCES, "errors": {"budget": 1}}, "budget_per_source"),
    ],
)
def test_a_wrong_data_file_is_an_error_that_says_where(content, message, folder, tmp_path, capsys):
    write(folder / "wrong.json", content)
    assert call(folder, "pretrain", "pretrain.json", "wrong.json", tmp_path / "run") == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_data_file_reads_a_saved_dataset_with_options(folder, tmp_path):
    rows = datasets.Dataset.from_dict({"body": ["one", "two"]})
    rows.save_to_disk(folder / "saved")
    entry = {"path": "saved", "kind": "dataset", "converter": "from_text", "weight": 2}
    content = {"sources": {"a": {**entry, "options": {"text_field": "body"}}}}
    write(folder / "saved.json", {**content, "errors": {"mode": "skip", "budget_per_source": 5}})
    ((source, part, weight), *rest), errors = load_data(
        folder / "saved.json", index_folder=tmp_path
    )
    assert (source[1].segments[0].text, part, weight, rest) == ("two", None, 2, [])
    assert (errors.mode, errors.budget_per_source) == ("skip", 5)
