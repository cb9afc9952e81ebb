"""`mm1 plan` plans recipes and configurations, and says what is wrong with others."""

import json

import pytest

from mm1_hf import MM1Config, MM1ConnectorConfig, MM1TextConfig, MM1VisionConfig
from mm1_hf.cli import main


@pytest.fixture
def folder(tmp_path):
    MM1Config(
        vision_config=MM1VisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        ),
        connector_config=MM1ConnectorConfig(connector_type="average_pool", num_image_tokens=4),
        text_config=MM1TextConfig(
            vocab_size=99,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        ),
    ).save_pretrained(tmp_path)
    return tmp_path


SHORT = ["--steps", "10", "--batch-size", "8", "--sequence-length", "64"]


def planned(capsys, arguments):
    assert main(["plan", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_folder_and_its_file_give_the_same_plan(folder, capsys):
    one = planned(capsys, [folder, *SHORT, "--devices", 2, "--price", 2])
    assert one == planned(capsys, [folder / "config.json", *SHORT, "--devices", 2, "--price", 2])
    assert one["tokens"] == 10 * 8 * 64
    assert one["cost"] == pytest.approx(2 * one["device_hours"])


def test_a_table_is_for_people(folder, capsys):
    assert main(["plan", str(folder), *SHORT, "--image", "60x40", "--tiling", "static"]) == 0
    out = capsys.readouterr().out
    assert "days" in out and "image of 60x40: 5 tiles, 20 tokens" in out


def test_a_recipe_brings_its_numbers_and_the_command_line_changes_them(folder, capsys):
    small = ["--model", folder, "--tiles-per-sequence", 3]
    paper = planned(capsys, ["mm1-sft", *small, "--tile-size", 28, "--sequence-length", 64])
    assert paper["tokens"] == 10_000 * 256 * 64
    assert paper["tiles"] == 10_000 * 256 * 3
    short = planned(
        capsys, ["mm1-pretrain", *small, "--tile-size", 28, "--sequence-length", 64, "--steps", 7]
    )
    assert short["tokens"] == 7 * 512 * 64


def test_a_recipe_bounds_the_tiles_of_a_sequence(folder, capsys):
    made = planned(
        capsys, ["mm1-pretrain", "--model", folder, "--tile-size", 28, "--sequence-length", 4096]
    )
    assert made["tiles"] == 200_000 * 512 * 16


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mm1-pretrian"], ["mm1-pretrian", "mm1-pretrain"]),
        (["{folder}", "--device", "abacus"], ["abacus", "h100", "PEAK:MEMORY"]),
        (["{folder}", "--model", "x"], ["--model"]),
        (["mm1-sft", "--model", "{folder}/nowhere"], ["nowhere", "config.json"]),
        (["{folder}", "--devices", "3"], ["512", "3"]),
        (["{folder}/broken.json"], ["broken.json", "not JSON"]),
        (["{folder}/clip.json"], ["clip", "mm1"]),
        (["{folder}/typo.json"], ["typo.json", "image_tokn_id"]),
    ],
)
def test_errors_are_one_line_that_names_the_cause(folder, capsys, arguments, words):
    (folder / "broken.json").write_text("{")
    (folder / "clip.json").write_text('{"model_type": "clip"}')
    (folder / "typo.json").write_text('{"model_type": "mm1", "image_tokn_id": 3}')
    assert main(["plan", *(text.format(folder=folder) for text in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert all(word in captured.err for word in words), captured.err
