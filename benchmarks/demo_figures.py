"""Puts what a run of `mm1 demo` measured into the README and the documentation.

    python benchmarks/demo_figures.py runs/demo

reads `metrics.json` and the pictures there, copies them to `docs/demo/`, and writes the table
between the marks in README.md. A test keeps the README equal to `docs/demo/metrics.json`.
"""

import json
import shutil
import sys
from pathlib import Path

from mm1_hf.demo.report import markdown_table

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- demo figures: begin -->", "<!-- demo figures: end -->"


def main() -> None:
    run = Path(sys.argv[1])
    target = ROOT / "docs" / "demo"
    target.mkdir(exist_ok=True)
    for file in [run / "metrics.json", *run.glob("*.png")]:
        shutil.copyfile(file, target / file.name)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    table = markdown_table(metrics)
    readme.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
