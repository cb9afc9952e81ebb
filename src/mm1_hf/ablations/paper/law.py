"""The study of learning rates: the best rate of each size, and the line through them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from mm1_hf.ablations.paper.studies import RATE_WIDTHS, rates_name
from mm1_hf.ablations.plots import draw_intervals, dress, save
from mm1_hf.ablations.rates import BestRate, RateLaw, best_rate, fit_law
from mm1_hf.ablations.report import PLOTS, Section
from mm1_hf.ablations.results import Results
from mm1_hf.ablations.statistics import Interval, t_interval
from mm1_hf.training.laws import learning_rate

PLOT = f"{PLOTS}/rates-law.png"
_COLORS = ("#2b6ca3", "#1b7f4d", "#b3362b")
_PUBLISHED_SLOPE = -0.4214  # Source: MM1, arXiv 2403.09611, section 3.3.


class FittedSeed(NamedTuple):
    """What one seed says: the best rate of each size (by parameters), and the law."""

    best: dict[float, BestRate]
    law: RateLaw


def fit_seeds(results: Sequence[Results]) -> dict[int, FittedSeed]:
    """Fit every seed of which all sizes are there; other studies are passed over."""
    names = {rates_name(width) for width in RATE_WIDTHS}
    grids = [one for one in results if one.study.name in names]
    fitted: dict[int, FittedSeed] = {}
    for seed in sorted({seed for one in grids for seed in one.study.seeds}):
        best = {}
        for one in grids:
            losses, size = {}, 0.0
            for point in one.study.points():
                figures = one.figures.get(point.name, {}).get(seed, {})
                if point.axis is not None and "loss" in figures:
                    losses[point.settings.learning_rate] = figures["loss"]
                    size = figures["parameters"]
            if len(losses) >= 3:
                best[size] = best_rate(losses)
        if len(best) > 1 and len(best) == len(grids):
            law = fit_law([(size, found.rate) for size, found in best.items()])
            fitted[seed] = FittedSeed(best, law)
    return fitted


def law_section(results: Sequence[Results], folder: Path) -> Section | None:
    """The law over all seeds beside the paper's, with a plot; None if no seed is whole."""
    fitted = fit_seeds(results)
    if not fitted:
        return None
    slope = t_interval([one.law.slope for one in fitted.values()])
    sizes = list(next(iter(fitted.values())).best)
    rows = ["| parameters | best rate of each seed | inside the grid | the paper's law |"]
    rows.append("|---:|---|---:|---:|")
    for size in sizes:
        found = [one.best[size] for one in fitted.values()]
        rates = ", ".join(f"{one.rate:.2g}" for one in found)
        inside = f"{sum(one.is_inside for one in found)} of {len(found)}"
        rows.append(f"| {size:,.0f} | {rates} | {inside} | {learning_rate(int(size)):.2g} |")
    text = "\n".join(
        [
            f"ln(rate) = a · ln(parameters) + b, fitted to each of {len(fitted)} seeds: "
            f"a = {slope.show()}. {_compare(slope)}",
            "",
            *rows,
            "",
            *_warn(fitted),
            f"![Losses over learning rates, and the law]({PLOT})",
        ]
    )
    _draw(results, fitted, folder / PLOT)
    data = {
        "slopes": {seed: round(one.law.slope, 4) for seed, one in fitted.items()},
        "offsets": {seed: round(one.law.offset, 4) for seed, one in fitted.items()},
        "best": {
            seed: {str(int(size)): found._asdict() for size, found in one.best.items()}
            for seed, one in fitted.items()
        },
    }
    return Section("Learning rates: the log-linear law", text, "law", data)


def _compare(slope: Interval) -> str:
    if slope.low <= _PUBLISHED_SLOPE <= slope.high:
        return f"The paper's {_PUBLISHED_SLOPE} lies in the interval."
    return f"The paper's {_PUBLISHED_SLOPE} lies outside the interval."


def _warn(fitted: dict[int, FittedSeed]) -> list[str]:
    """What weakens the fit, as a paragraph."""
    if all(found.is_inside for one in fitted.values() for found in one.best.values()):
        return []
    return ["Where the best rate lies at the edge of the grid, the true one may lie beyond it.", ""]


def _draw(results: Sequence[Results], fitted: dict[int, FittedSeed], path: Path) -> None:
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    grids = {one.study.name: one for one in results}
    for width, color in zip(RATE_WIDTHS, _COLORS, strict=True):
        one = grids.get(rates_name(width))
        if one is None:
            continue
        points = [point for point in one.study.points() if point.axis is not None]
        rates = [point.settings.learning_rate for point in points]
        intervals = [one.interval(point.name, "loss") for point in points]
        draw_intervals(left, rates, intervals, color=color, label=f"width {width}")
    left.set_xscale("log")
    left.legend(frameon=False, fontsize=8)
    dress(left, title="loss on held-out documents", xlabel="learning rate")
    sizes = sorted(next(iter(fitted.values())).best)
    for one in fitted.values():
        right.plot(
            list(one.best), [found.rate for found in one.best.values()], "o", color="#7f93a6"
        )
        right.plot(sizes, [one.law.rate(size) for size in sizes], color="#b9c6d2")
    paper = [learning_rate(int(size)) for size in sizes]
    right.plot(sizes, paper, "--", color=_COLORS[2], label="MM1's law")
    right.set_xscale("log")
    right.set_yscale("log")
    right.legend(frameon=False, fontsize=8)
    dress(right, title="best learning rate, by seed", xlabel="parameters without embeddings")
    save(figure, path)
