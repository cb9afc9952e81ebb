"""A run of two steps per stage does everything the long one does."""

import dataclasses
import json

import pytest
from PIL import Image

from mm1_hf.cli import main
from mm1_hf.demo.report import TARGETS, Report
from mm1_hf.demo.run import Settings, run_demo
from mm1_hf.demo.stages import Schedule

TINY = Settings(
    encoder=Schedule(2, 4, learning_rate=1e-3, final_share=0.0),
    pretraining=Schedule(2, 4, learning_rate=None, final_share=0.1),
    finetuning=Schedule(2, 4, learning_rate=1e-3, final_share=0.0),
    num_questions=4,
    num_shown=1,
)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "run"
    run_demo(folder, settings=TINY)
    return folder


@pytest.mark.slow
def test_a_run_leaves_model_figures_and_pictures(output):
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert {target.figure for target in TARGETS} <= set(metrics["figures"])
    assert len(metrics["losses"]) == 3 and metrics["seed"] == 0
    for name in ("losses.png", "answers.png"):
        with Image.open(output / name) as picture:
            assert min(picture.size) > 200


@pytest.mark.slow
def test_the_published_model_answers_on_the_command_line(output, capsys):
    picture = str(output / "questions" / "00.png")
    prompt = ["--prompt", "Which digit is top left?", "--max-new-tokens", "3"]
    assert main(["generate", "--model", str(output / "model"), "--image", picture, *prompt]) == 0
    assert capsys.readouterr().out.count("\n") >= 1


def test_the_same_seed_gives_the_same_losses():
    from transformers import set_seed

    from mm1_hf.demo.canvases import Painter
    from mm1_hf.demo.digits import load_split
    from mm1_hf.demo.stages import train_encoder
    from mm1_hf.demo.vocabulary import build_tokenizer

    painter = Painter(load_split().train)
    tokenizer = build_tokenizer(painter, seed=0)
    losses = []
    for _ in range(2):
        set_seed(0)
        losses.append(train_encoder(painter, tokenizer, TINY.encoder, seed=0).losses)
    assert losses[0] == losses[1]


def test_the_table_marks_what_was_missed():
    report = Report(seed=0, figures={target.figure: target.bound for target in TARGETS})
    assert "missed" not in report.table()
    report.figures["read"] = 0.5
    (missed,) = [line for line in report.table().splitlines() if "missed" in line]
    assert "50.0 %" in missed and "≥ 90.0 %" in missed


def test_settings_are_not_shared_between_runs():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY.num_shown = 2
