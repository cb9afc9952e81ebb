"""The command answers, and says in one line what is wrong with its input."""

import numpy as np
import pytest
from PIL import Image

from mm1_hf import (
    MM1Config,
    MM1ConnectorConfig,
    MM1ForConditionalGeneration,
    MM1Processor,
    MM1TextConfig,
    MM1VisionConfig,
)
from mm1_hf.cli import VERBS, main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from mm1_hf.demo.canvases import Painter
    from mm1_hf.demo.digits import load_split
    from mm1_hf.demo.vocabulary import build_tokenizer

    folder = tmp_path_factory.mktemp("cli") / "model"
    tokenizer = build_tokenizer(Painter(load_split().train), seed=0)
    config = MM1Config(
        vision_config=MM1VisionConfig(
            image_size=16,
            patch_size=8,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        ),
        connector_config=MM1ConnectorConfig(
            connector_type="average_pool", num_image_tokens=4, hidden_size=16
        ),
        text_config=MM1TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
    )
    MM1Processor.from_parts(tokenizer=tokenizer, config=config).save_pretrained(folder)
    MM1ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.zeros((20, 30), dtype=np.uint8)).save(path)
    return str(path)


@pytest.mark.parametrize(
    "extra",
    [
        ["--prompt", "Hello"],
        ["--prompt", "Hello", "--chat"],
        ["--prompt", "a <image> b", "--raw"],
        ["--prompt", "no placeholder", "--raw"],
    ],
)
def test_generate_answers_with_a_picture(checkpoint, picture, capsys, extra):
    arguments = ["generate", "--model", checkpoint, "--max-new-tokens", "2"]
    assert main([*arguments, "--image", picture, *extra]) == 0
    assert capsys.readouterr().err == ""


def test_generate_takes_several_pictures_and_none(checkpoint, picture):
    arguments = ["generate", "--model", checkpoint, "--max-new-tokens", "2", "--prompt", "Hello"]
    assert main([*arguments, "--image", picture, "--image", picture]) == 0
    assert main(arguments) == 0


def fails_with(capsys, arguments, *words):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert all(word in captured.err for word in words), captured.err


def test_a_missing_picture_is_named(checkpoint, capsys):
    arguments = ["generate", "--model", checkpoint, "--prompt", "?", "--image", "nowhere.png"]
    fails_with(capsys, arguments, "nowhere.png", "no image file")


def test_a_broken_picture_is_an_error(checkpoint, capsys, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"not a picture")
    arguments = ["generate", "--model", checkpoint, "--prompt", "?", "--image", str(path)]
    fails_with(capsys, arguments, "image")


@pytest.mark.parametrize("place", ["{0}/nowhere", "./nowhere", "nowhere", "/no/where/nowhere"])
def test_a_missing_model_is_named_without_asking_the_hub(capsys, tmp_path, place):
    arguments = ["generate", "--model", place.format(tmp_path), "--prompt", "?"]
    fails_with(capsys, arguments, "no folder", "nowhere")


def test_a_folder_without_a_model_is_named(capsys, tmp_path):
    arguments = ["generate", "--model", str(tmp_path), "--prompt", "?"]
    fails_with(capsys, arguments, "no checkpoint", "config.json")


def test_placeholders_and_pictures_must_agree(checkpoint, picture, capsys):
    arguments = ["generate", "--model", checkpoint, "--raw", "--prompt", "<image> <image>"]
    fails_with(capsys, [*arguments, "--image", picture], "2", "1")


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)
