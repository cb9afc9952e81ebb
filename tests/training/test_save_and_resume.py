"""What a trainer saves is all that a fresh process or a second life needs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mm1_hf.training.checkpoints import checkpoint_problems

from . import small_runs

STEPS = 4

FRESH = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
import mm1_hf

given, *folders = map(Path, sys.argv[1:])
example = torch.load(given)
for folder in folders:
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(text=example["text"], images=example["images"], return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    torch.save({"inputs": dict(inputs), "logits": logits}, folder / "found")
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    return small_runs.packs(tmp_path_factory.mktemp("corpus"))


def test_what_is_saved_loads_in_a_fresh_process_with_the_same_logits(rows, tmp_path):
    run = small_runs.trainer(rows, tmp_path, args={"save_strategy": "steps", "save_steps": 2})
    run.train()
    folders = [tmp_path / "saved", tmp_path / "checkpoint-2"]
    run.save_model(str(folders[0]))
    image = torch.randint(0, 256, (3, 40, 30), dtype=torch.uint8)
    processor = run.processing_class
    example = {"text": f"a picture {processor.image_token} of", "images": [image]}
    torch.save(example, tmp_path / "given")
    script = [sys.executable, "-c", FRESH, tmp_path / "given", *folders]
    subprocess.run(list(map(str, script)), check=True, timeout=120)
    inputs = processor(**example, return_tensors="pt")
    with torch.no_grad():
        logits = run.model.eval()(**inputs).logits
    for folder in folders:
        found = torch.load(folder / "found")
        assert set(inputs) == set(found["inputs"])
        assert all(torch.equal(inputs[name], found["inputs"][name]) for name in inputs)
        assert torch.equal(logits, found["logits"])


def test_resumed_a_run_has_the_losses_and_weights_of_the_whole_one_to_the_bit(rows, tmp_path):
    settings = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 2}
    scales = {"vision_tower": 0.5}
    whole = small_runs.trainer(rows, tmp_path / "whole", rate_scales=scales, args=settings)
    whole.train()
    again = small_runs.trainer(rows, tmp_path / "again", rate_scales=scales, args=settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    names = ("loss", "grad_norm", "learning_rate", "learning_rate/vision_tower", "loss/pages")
    for name in names:
        assert small_runs.logs(again, name) == small_runs.logs(whole, name), name
    after = whole.model.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in again.model.state_dict().items())


def test_resume_needs_the_whole_checkpoint_and_keeps_its_groups(rows, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1}
    run = small_runs.trainer(rows, tmp_path, rate_scales={"connector": 2.0}, args=settings)
    run.train()
    names = [group["name"] for group in run.optimizer.param_groups]
    stored = torch.load(tmp_path / "checkpoint-2" / "optimizer.pt")
    assert [group["name"] for group in stored["param_groups"]] == names
    assert checkpoint_problems(tmp_path / "checkpoint-2") == []
    assert {path.name for path in Path(tmp_path / "checkpoint-2").iterdir()} >= {
        "processor_config.json",
        "tokenizer.json",
        "config.json",
    }
