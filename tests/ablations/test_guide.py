"""The study that the guide shows runs as it stands there, around a recipe."""

import json
import re
from pathlib import Path

import pytest

from mm1_hf.cli import main

from ..data.small_corpus import make_model, make_processor, write_corpus

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "ablate.md"
SOURCES = {
    "captions": {"path": "captions.tar", "part": "captions"},
    "pages": {"path": "pages.jsonl", "images": "pages", "part": "interleaved"},
    "texts": {"path": "texts.parquet", "part": "text"},
}
RECIPE = {
    "base": "mm1-pretrain",
    "learning_rate": 1e-3,
    "batch_size": 2,
    "steps": 3,
    "sequence_length": 96,
    "tile_size": None,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(# my_study\.py\n.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "my_study.py").write_text(code)
    write_corpus(tmp_path)
    processor = make_processor()
    processor.save_pretrained(tmp_path / "model")
    make_model(processor).save_pretrained(tmp_path / "model")
    (tmp_path / "data.json").write_text(json.dumps({"sources": SOURCES}))
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_guides_study_of_a_recipe_runs(folder, capsys):
    command = ["ablate", "my_study.py:STUDY", "--output", "out", "--jobs", "1", "--seeds", "1"]
    assert main([*command, "--list"]) == 0
    assert "my-mixture: 4 runs, 1 seeds of 4 settings" in capsys.readouterr().out
    assert main(command) == 0
    assert "| rate=double | 1 |" in capsys.readouterr().out
    results = json.loads(Path("out/results.json").read_text(encoding="utf-8"))
    points = results["studies"]["my-mixture"]["points"]
    losses = {name: point["figures"]["train_loss"]["mean"] for name, point in points.items()}
    assert losses["rate=half"] != losses["rate=double"]
    assert losses["mixture=45:45:10"] == losses["baseline"]
