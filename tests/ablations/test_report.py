"""The page says what was measured, how often, and what is missing."""

import json
from dataclasses import dataclass

import pytest
from PIL import Image

from mm1_hf.ablations import Axis, Study
from mm1_hf.ablations.findings import Finding, above
from mm1_hf.ablations.report import write_report
from mm1_hf.ablations.results import load_results, markdown_table
from mm1_hf.ablations.runner import run_study


@dataclass(frozen=True)
class Settings:
    size: int = 2


CLAIM = above("larger is better", "score", "size=3", "size=1")
STUDY = Study(
    name="toy",
    title="How large?",
    baseline=Settings(),
    axes=(Axis("size", "size", {"1": 1, "2": 2, "3": 3}),),
    run=lambda settings, context: {
        "score": settings.size + 0.01 * context.seed * settings.size,
        "seconds": 1.0,
    },
    shown=("score",),
    findings=(Finding(1, "Size matters.", (CLAIM,), "our choice", untested="its price."),),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    run_study(STUDY, folder, report=lambda _: None)
    return folder


def test_the_table_has_means_half_intervals_and_n(folder):
    lines = markdown_table(load_results(STUDY, folder)).splitlines()
    assert lines[0] == "| point | n | score | seconds |"
    assert lines[2] == "| baseline | 3 | 2.020 ± 0.050 | 1.000 ± 0.000 |"
    assert lines[4].startswith("| size=2 (baseline) | 3 | 2.020")
    assert len(lines) == 6


def test_page_data_and_plots_are_written(folder):
    page = write_report([load_results(STUDY, folder)], folder).read_text(encoding="utf-8")
    assert "seeds 0, 1, 2; 9 runs" in page and "How large?" in page
    assert "**reproduced**" in page and "Not tested: its price." in page
    data = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    entry = data["studies"]["toy"]["points"]["size=3"]["figures"]["score"]
    assert entry["values"] == {"0": 3.0, "1": 3.03, "2": 3.06}
    assert entry["low"] < entry["mean"] < entry["high"]
    assert data["studies"]["toy"]["findings"][0]["ruling"] == "reproduced"
    with Image.open(folder / "plots" / "toy-size.png") as picture:
        assert min(picture.size) > 200


def test_missing_runs_are_said_to_be_missing(folder, tmp_path):
    more = STUDY.select(seeds=[0, 1, 2, 3])
    text = write_report([load_results(more, folder)], tmp_path).read_text(encoding="utf-8")
    assert "**3 runs are missing.**" in text
    nothing = write_report([load_results(STUDY, tmp_path / "none")], tmp_path / "empty")
    assert "Nothing run yet" in nothing.read_text(encoding="utf-8")
    assert "cannot tell" in nothing.read_text(encoding="utf-8")
