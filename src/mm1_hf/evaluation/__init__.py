"""Few-shot and zero-shot evaluation on published benchmarks.

Names load when they are first used. Tasks are in `mm1_hf.evaluation.tasks`, metrics in
`mm1_hf.evaluation.metrics`.
"""

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC_NAMES = {
    "Example": "contract",
    "Figure": "contract",
    "Metric": "contract",
    "Scores": "contract",
    "Task": "contract",
    "mean_figure": "contract",
    "EvaluationCallback": "callback",
    "EvaluationResult": "report",
    "EvaluationSettings": "settings",
    "evaluate": "evaluator",
    "results_table": "report",
}

__all__ = [
    "EvaluationCallback",
    "EvaluationResult",
    "EvaluationSettings",
    "Example",
    "Figure",
    "Metric",
    "Scores",
    "Task",
    "evaluate",
    "mean_figure",
    "results_table",
]

if TYPE_CHECKING:
    from mm1_hf.evaluation.callback import EvaluationCallback
    from mm1_hf.evaluation.contract import Example, Figure, Metric, Scores, Task, mean_figure
    from mm1_hf.evaluation.evaluator import evaluate
    from mm1_hf.evaluation.report import EvaluationResult, results_table
    from mm1_hf.evaluation.settings import EvaluationSettings


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
