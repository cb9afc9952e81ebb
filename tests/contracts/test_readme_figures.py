"""Numbers in prose rot; those of the README are generated from what a run measured."""

import json

from mm1_hf.demo.report import markdown_table


def test_the_readme_shows_what_the_demo_measured(root):
    metrics = json.loads((root / "docs" / "demo" / "metrics.json").read_text(encoding="utf-8"))
    table = markdown_table(metrics)
    assert table in (root / "README.md").read_text(encoding="utf-8"), (
        "run `python benchmarks/demo_figures.py runs/demo` after `make demo`"
    )
    assert all(target["met"] for target in metrics["targets"].values())
