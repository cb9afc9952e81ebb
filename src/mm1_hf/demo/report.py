"""Figures of a run, their targets, `metrics.json`, and the table at the end."""

import json
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import sklearn
import torch
import transformers


class Target(NamedTuple):
    """A figure to reach: at least or at most `bound`, printed as a percentage or a plain number."""

    figure: str
    label: str
    direction: Literal["at least", "at most"]
    bound: float
    unit: Literal["%", "min", "GB"] = "%"

    def is_met(self, value: float) -> bool:
        """Whether `value` reaches the target."""
        return value >= self.bound if self.direction == "at least" else value <= self.bound

    def show(self, value: float) -> str:
        """`value` with its unit."""
        return f"{value:.1%}".replace("%", " %") if self.unit == "%" else f"{value:.1f} {self.unit}"


TARGETS = (
    Target("caption_exact", "captions exact: every place and digit", "at least", 0.75),
    Target("shots_4_digit", "digit read, 4 examples in context", "at least", 0.90),
    Target("questions", "questions, mean over the kinds", "at least", 0.90),
    Target("read", "which digit is …?", "at least", 0.90),
    Target("read_wrong_picture", "the same, shown a wrong picture", "at most", 0.25),
    Target("count", "how many digits?", "at least", 0.98),
    Target("exists", "is there a digit …?", "at least", 0.90),
    Target("training_minutes", "time of training", "at most", 6.0, "min"),
    Target("peak_gigabytes", "peak memory", "at most", 4.0, "GB"),
)


@dataclass
class Report:
    """Everything a run measured.

    Attributes:
        seed: What decided everything random.
        figures: Shares from 0 to 1 by name, and time and memory.
        seconds: Wall time of each stage.
        losses: (step, loss) pairs of each training stage.
    """

    seed: int
    figures: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    losses: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage and time it."""
        print(f"\n{name}", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)

    def finish(self) -> None:
        """Add what only the end can tell: time of training and peak memory."""
        training = sum(self.seconds[name] for name in self.losses)
        self.figures["training_minutes"] = round(training / 60, 2)
        self.figures["total_minutes"] = round(sum(self.seconds.values()) / 60, 2)
        self.figures["peak_gigabytes"] = round(_peak_bytes() / 1e9, 2)

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        content = {
            "figures": self.figures,
            "targets": {
                target.figure: {
                    target.direction: target.bound,
                    "met": target.is_met(self.figures[target.figure]),
                }
                for target in TARGETS
            },
            "seconds": self.seconds,
            "seed": self.seed,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "numpy": np.__version__,
                "scikit-learn": sklearn.__version__,
            },
            "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
            "losses": self.losses,
        }
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def table(self) -> str:
        """The figures against their targets, for a terminal."""
        rows = [("on writers never seen", "target", "measured", "")]
        for target in TARGETS:
            value = self.figures[target.figure]
            sign = "≥" if target.direction == "at least" else "≤"
            mark = "✓" if target.is_met(value) else "missed"
            rows.append(
                (target.label, f"{sign} {target.show(target.bound)}", target.show(value), mark)
            )
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            f"{label:<{widths[0]}}  {target:>{widths[1]}}  {measured:>{widths[2]}}  {mark}".rstrip()
            for label, target, measured, mark in rows
        ]
        return "\n".join([lines[0], "─" * len(lines[0]), *lines[1:]])


def markdown_table(metrics: dict) -> str:
    """The content of `metrics.json` as a table in Markdown: figures, targets, where measured."""
    rows = ["| on writers never seen | target | measured |", "|---|---|---|"]
    for target in TARGETS:
        sign = "≥" if target.direction == "at least" else "≤"
        value = metrics["figures"][target.figure]
        rows.append(
            f"| {target.label} | {sign} {target.show(target.bound)} | {target.show(value)} |"
        )
    versions = ", ".join(f"{name} {number}" for name, number in metrics["versions"].items())
    threads = metrics["machine"]["threads"]
    return "\n".join([*rows, "", f"Measured with {threads} threads of a CPU; {versions}."])


def _peak_bytes() -> int:
    """Largest resident size of this process and of its finished children."""
    kilobytes = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024
