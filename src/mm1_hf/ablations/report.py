"""The page of a study's results: tables, plots, verdicts, and the same as data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mm1_hf.ablations.plots import draw_axis
from mm1_hf.ablations.results import Results, as_data, markdown_table
from mm1_hf.ablations.runner import versions
from mm1_hf.ablations.verdicts import as_data as verdicts_as_data
from mm1_hf.ablations.verdicts import describe, judge

RESULTS_FILE = "results.json"
PAGE_FILE = "results.md"
PLOTS = "plots"


class Section(NamedTuple):
    """A further part of the page: its title, its Markdown, and the same as data under a key."""

    title: str
    text: str
    key: str
    data: Any


def write_report(
    results: Sequence[Results],
    folder: Path,
    *,
    title: str = "Results",
    preface: str = "",
    sections: Sequence[Section] = (),
) -> Path:
    """Write `results.md`, `results.json` and `plots/`; returns the path of the page."""
    page = [f"# {title}", "", *([preface, ""] if preface else []), _origin(results), ""]
    data: dict[str, Any] = {"versions": versions(), "studies": {}}
    for one in results:
        study = one.study
        page += [f"## {study.title or study.name}", "", markdown_table(one), ""]
        data["studies"][study.name] = as_data(one)
        if study.findings:
            verdicts = judge(study.findings, one)
            page += ["### Findings", "", describe(verdicts)]
            data["studies"][study.name]["findings"] = verdicts_as_data(verdicts)
        for axis in study.axes:
            if one.figures:
                name = f"{PLOTS}/{study.name}-{axis.name}.png"
                draw_axis(one, axis, folder / name)
                page += [f"![{axis.name}, {axis.source}]({name})", ""]
    for section in sections:
        page += [f"## {section.title}", "", section.text, ""]
        data[section.key] = section.data
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS_FILE).write_text(
        json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    path = folder / PAGE_FILE
    path.write_text("\n".join(page).rstrip() + "\n", encoding="utf-8")
    return path


def _origin(results: Sequence[Results]) -> str:
    """Where the figures come from, in one paragraph."""
    days = sorted({day for one in results for day in one.dates})
    missing = sum(one.missing for one in results)
    seeds = sorted({seed for one in results for seed in one.study.seeds})
    libraries = ", ".join(f"{name} {number}" for name, number in versions().items())
    runs = sum(one.runs for one in results)
    minutes = sum(one.total_seconds for one in results) / 60
    when = " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "Nothing run yet"
    text = (
        f"{when}; seeds {', '.join(map(str, seeds))}; {runs} runs, {minutes:.0f} minutes of one "
        f"processor core; {libraries}. Figures are means over the seeds; ± is half of the "
        "two-sided 95 % interval (Student's t), n the seeds."
    )
    return text + (f" **{missing} runs are missing.**" if missing else "")
