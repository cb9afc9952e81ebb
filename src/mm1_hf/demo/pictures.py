"""Pictures of a run: loss curves, and a grid of questions with answers and truths."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mm1_hf.demo.evaluation import Answered

_INK = "#22313f"
_RIGHT = "#1b7f4d"
_WRONG = "#b3362b"
_FAINT = "#6b7a88"
_CURVE = "#2b6ca3"


def draw_losses(
    curves: Mapping[str, Sequence[tuple[float, float]]], path: Path, *, dots_per_inch: int = 150
) -> None:
    """Draw one panel per stage, of (step, loss) pairs, and save it as PNG."""
    figure = Figure(figsize=(3.6 * len(curves), 3.0), layout="constrained")
    for axes, (name, curve) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        steps, losses = zip(*curve, strict=True)
        axes.plot(steps, losses, color=_CURVE, linewidth=1.8)
        axes.set_title(name, color=_INK, fontsize=11)
        axes.set_xlabel("step", color=_INK)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("loss", color=_INK)
    _save(figure, path, dots_per_inch)


def draw_answers(
    answered: Sequence[Answered], path: Path, *, columns: int = 6, dots_per_inch: int = 150
) -> None:
    """Draw each picture with its question, the model's answer, and the truth; save it as PNG."""
    rows = -(-len(answered) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.95 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, one in zip(panels, answered, strict=False):
        height, width = one.canvas.pixels.shape
        axes.set_axis_on()
        axes.set_xticks([width / 2 - 0.5])
        axes.set_yticks([height / 2 - 0.5])
        axes.tick_params(length=0, labelbottom=False, labelleft=False)
        axes.grid(color=_INK, alpha=0.12)
        axes.spines[:].set_color("#c4ccd4")
        axes.imshow(one.canvas.pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(one.question.text, color=_INK, fontsize=10)
        axes.set_xlabel(
            f"answer: {one.answer or '(nothing)'}",
            color=_RIGHT if one.is_right else _WRONG,
            fontsize=10,
            fontweight="bold",
        )
        axes.annotate(
            f"truth: {one.question.answer}",
            xy=(0.5, -0.19),
            xycoords="axes fraction",
            ha="center",
            va="center",
            color=_FAINT,
            fontsize=9,
            annotation_clip=False,
        )
    _save(figure, path, dots_per_inch)


def _save(figure: Figure, path: Path, dots_per_inch: int) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=dots_per_inch, facecolor="white")
