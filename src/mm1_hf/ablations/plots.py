"""Pictures of a study: for every axis, figures over its values with their intervals."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mm1_hf.ablations.axis import Axis
from mm1_hf.ablations.results import Results
from mm1_hf.ablations.statistics import Interval

_INK = "#22313f"
_MARK = "#2b6ca3"
_SEED = "#b9c6d2"
_DOTS_PER_INCH = 110


def draw_axis(results: Results, axis: Axis, path: Path) -> None:
    """Draw one panel for each shown figure, with a dot for every seed, and save it as PNG."""
    names = results.shown
    points = [f"{axis.name}={label}" for label in axis.values]
    figure = Figure(figsize=(2.9 * len(names), 3.0), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for place, point in enumerate(points):
            seeds = list(results.values(point, name).values())
            panel.plot([place] * len(seeds), seeds, "o", color=_SEED, markersize=4, zorder=1)
        draw_intervals(
            panel,
            range(len(points)),
            [results.interval(point, name) for point in points],
            color=_MARK,
        )
        panel.set_xticks(range(len(points)), list(axis.values), rotation=20, fontsize=8)
        panel.set_xlim(-0.5, len(points) - 0.5)
        dress(panel, title=name, xlabel="")
    n = max(results.interval(point, name).n for point in points for name in names)
    figure.suptitle(f"{axis.name} (mean and 95 % interval, n = {n} seeds)", color=_INK)
    save(figure, path)


def draw_intervals(
    panel: Axes,
    places: Sequence[float],
    intervals: Sequence[Interval],
    *,
    color: str,
    label: str = "",
) -> None:
    """Draw means joined by a line; a mean of one run has no bar."""
    there = [
        (place, interval) for place, interval in zip(places, intervals, strict=True) if interval.n
    ]
    halves = [
        (interval.high - interval.low) / 2 if math.isfinite(interval.high) else 0.0
        for _, interval in there
    ]
    panel.errorbar(
        [place for place, _ in there],
        [interval.mean for _, interval in there],
        yerr=halves,
        fmt="o-",
        color=color,
        capsize=3,
        linewidth=1.4,
        markersize=5,
        label=label,
    )


def dress(panel: Axes, *, title: str, xlabel: str) -> None:
    """Title, label, grid, no frame."""
    panel.set_title(title, color=_INK, fontsize=10)
    panel.set_xlabel(xlabel, color=_INK)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Save as PNG on white."""
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH, facecolor="white")
