import pytest
import torch
from transformers import AutoModel, CLIPVisionModel

from mm1_hf.cli import main

from .originals import assert_bit_equal, saved


def run(*arguments) -> int:
    return main(["convert", *(str(argument) for argument in arguments)])


def test_there_and_back_by_command(tmp_path, capsys):
    theirs = saved("clip", tmp_path / "theirs")
    assert run(tmp_path / "theirs", tmp_path / "ours", "--feature-layer", -2) == 0
    said = capsys.readouterr().out
    assert "CLIPVisionModel -> MM1VisionModel: " in said
    assert "set aside 16: " in said
    assert run(tmp_path / "ours", tmp_path / "again", "--reverse", "--kind", "clip") == 0
    assert_bit_equal(CLIPVisionModel.from_pretrained(tmp_path / "again"), theirs)


def test_options_reach_the_conversion(tmp_path):
    saved("clip", tmp_path / "theirs")
    options = ("--dtype", "bfloat16", "--final-norm", "skip", "--unused", "drop")
    assert run(tmp_path / "theirs", tmp_path / "ours", *options) == 0
    ours = AutoModel.from_pretrained(tmp_path / "ours")
    assert (ours.dtype, ours.config.use_final_norm) == (torch.bfloat16, False)
    assert not (tmp_path / "ours" / "unused.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kind", "klip"), "Unknown kind 'klip'"),
        (("--max-positions", 8), "max_positions has no meaning for kind 'clip'"),
        (("--reverse",), "cannot be converted back"),
        (("--reverse", "--feature-layer", -2), "no meaning with --reverse"),
    ],
)
def test_what_is_wrong_is_one_line(options, message, tmp_path, capsys):
    saved("clip", tmp_path / "theirs")
    assert run(tmp_path / "theirs", tmp_path / "ours", *options) == 2
    said = capsys.readouterr().err
    assert said.startswith("mm1 convert: ")
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "ours").exists()
