"""Figures of a study by point and seed, read back from its cells."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1_hf.ablations.axis import Point
from mm1_hf.ablations.fingerprints import fingerprint
from mm1_hf.ablations.runner import cell_file
from mm1_hf.ablations.statistics import Interval, t_interval
from mm1_hf.ablations.study import Study


@dataclass(frozen=True)
class Results:
    """What the cells of a study measured.

    Attributes:
        study: The study.
        figures: By name of the point and seed: figures by name. Cells that are not there yet have
            no entry; a figure that was not finite is missing from its cell.
        processor_seconds: By point and seed, likewise.
        runs: How many cells are there; points of equal settings share theirs.
        missing: How many are not there yet.
        total_seconds: Processor time of all that are there, and of what they found to make for the
            cache.
        dates: First and last day of the runs.
    """

    study: Study
    figures: dict[str, dict[int, dict[str, float]]]
    processor_seconds: dict[str, dict[int, float]]
    runs: int
    missing: int
    total_seconds: float
    dates: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Names of all figures, in the order in which runs return them."""
        found: dict[str, None] = {}
        for by_seed in self.figures.values():
            for figures in by_seed.values():
                found.update(dict.fromkeys(figures))
        return list(found)

    @property
    def shown(self) -> list[str]:
        """Names of the figures for plots."""
        return [name for name in self.study.shown if name in self.names] or self.names

    def values(self, point: str, figure: str) -> dict[int, float]:
        """A figure by seed."""
        by_seed = self.figures.get(point, {})
        return {seed: one[figure] for seed, one in by_seed.items() if figure in one}

    def interval(self, point: str, figure: str) -> Interval:
        """Mean over the seeds and its interval."""
        return t_interval(list(self.values(point, figure).values()))


def load_results(study: Study, folder: Path) -> Results:
    """Read what there is of a study in the folder that `run_study` was given."""
    home = folder / study.name
    figures: dict[str, dict[int, dict[str, float]]] = {}
    seconds: dict[str, dict[int, float]] = {}
    dates: set[str] = set()
    runs, missing, total = 0, 0, 0.0
    for cell in study.cells():
        path = cell_file(home, cell)
        if not path.is_file():
            missing += 1
            continue
        runs += 1
        content = json.loads(path.read_text(encoding="utf-8"))
        total += content["processor_seconds"]
        dates.add(content["date"])
        found = {name: value for name, value in content["figures"].items() if value is not None}
        for name in cell.names:
            figures.setdefault(name, {})[cell.seed] = found
            seconds.setdefault(name, {})[cell.seed] = content["processor_seconds"]
    span = tuple(sorted({min(dates), max(dates)})) if dates else ()
    return Results(study, figures, seconds, runs, missing, total, span)


def markdown_table(results: Results, *, figures: Sequence[str] | None = None) -> str:
    """One row for each point: mean and half of the 95 % interval of every figure, and n."""
    names = list(figures or results.names)
    lines = [
        f"| point | n | {' | '.join(names)} |",
        f"|---|---:|{'---:|' * len(names)}",
    ]
    for point in results.study.points():
        count = len(results.figures.get(point.name, {}))
        cells = [results.interval(point.name, name).show() for name in names]
        lines.append(f"| {_shown(results.study, point)} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def as_data(results: Results) -> dict[str, Any]:
    """All figures of a study, seed by seed, as plain data."""
    points = {}
    for point in results.study.points():
        by_seed = results.figures.get(point.name, {})
        points[point.name] = {
            "fingerprint": fingerprint(point.settings),
            "figures": {
                name: _entry(results.interval(point.name, name), results.values(point.name, name))
                for name in results.names
            },
            "seeds": sorted(by_seed),
            "processor_seconds": results.processor_seconds.get(point.name, {}),
        }
    return {"points": points, "missing": results.missing, "dates": list(results.dates)}


def _entry(interval: Interval, values: dict[int, float]) -> dict[str, Any]:
    spread = interval.n > 1
    return {
        "mean": round(interval.mean, 5) if interval.n else None,
        "low": round(interval.low, 5) if spread else None,
        "high": round(interval.high, 5) if spread else None,
        "values": {seed: round(value, 5) for seed, value in values.items()},
    }


def _shown(study: Study, point: Point) -> str:
    """The point's name, marked where it is the baseline again."""
    is_baseline = point.axis and fingerprint(point.settings) == fingerprint(study.baseline)
    return f"{point.name} (baseline)" if is_baseline else point.name
