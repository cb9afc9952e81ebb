"""What a checkpoint's folder tells about its making: recipe, mixture, steps, results.

`mm1 pretrain` and `mm1 sft` write the first three, `mm1 evaluate` the last. They are read as plain
JSON: a file of another form is an error that names it, for a model card must not leave out silently
what its author measured.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECIPE_FILE = "recipe.json"
MIXTURE_FILE = "mixture.json"
STATE_FILE = "trainer_state.json"
RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Measured:
    """One figure of an evaluation.

    Attributes:
        name: As the metric calls it.
        value: In the unit of the benchmark; None where it is not defined.
        standard_error: None where there is none.
        count: Examples it was taken over; None if the file does not say.
    """

    name: str
    value: float | None
    standard_error: float | None
    count: int | None


@dataclass(frozen=True)
class TaskResult:
    """What was measured on one task.

    Attributes:
        task: Name of the task.
        figures: The first is the one that the task is known for.
        settings: How it was measured: shots, style, split.
    """

    task: str
    figures: tuple[Measured, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Records:
    """All that is known about the making of a model.

    Attributes:
        recipe: Entries of `recipe.json`; empty if there is none.
        mixture: Entries of `mixture.json`; empty if there is none.
        steps: Optimizer steps that were made; None if not known.
        results: Results of evaluations.
    """

    recipe: Mapping[str, Any] = field(default_factory=dict)
    mixture: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    results: tuple[TaskResult, ...] = ()


def read_records(folder: str | Path | None, *, results: Sequence[str | Path] = ()) -> Records:
    """Read what lies in a checkpoint's folder, and further results.

    Args:
        folder: The folder, or None for a model that comes from memory.
        results: Files that `mm1 evaluate` wrote, beyond `results.json` in the folder.

    Raises:
        ValueError: If a file is not of the form that its name promises; names it.
    """
    folder = None if folder is None else Path(folder)
    files = [Path(file) for file in results]
    recipe: Mapping[str, Any] = {}
    mixture: Mapping[str, Any] = {}
    steps = None
    if folder is not None:
        recipe, mixture = _read(folder / RECIPE_FILE), _read(folder / MIXTURE_FILE)
        steps = _read(folder / STATE_FILE).get("global_step")
        if (folder / RESULTS_FILE).is_file():
            files.insert(0, folder / RESULTS_FILE)
    found = [result for file in files for result in read_results(file)]
    return Records(recipe, mixture, steps, tuple(found))


def read_results(file: str | Path) -> list[TaskResult]:
    """The results in a file: one object with `task` and `figures`, or a list of them.

    Raises:
        ValueError: If the file cannot be read as that; names it, and what is missing.
    """
    file = Path(file)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"The results {str(file)!r} cannot be read: {error}.") from error
    entries = content if isinstance(content, list) else [content]
    return [_task_result(entry, file) for entry in entries]


def _task_result(entry: Any, file: Path) -> TaskResult:
    try:
        figures = tuple(
            Measured(
                str(name),
                None if one["value"] is None else float(one["value"]),
                _number(one, "standard_error"),
                one.get("count"),
            )
            for name, one in entry["figures"].items()
        )
        return TaskResult(str(entry["task"]), figures, dict(entry.get("settings") or {}))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"The results {str(file)!r} are not of the form that `mm1 evaluate` writes "
            f"({type(error).__name__}: {error}): expected is an object, or a list of them, such as "
            '{"task": "vqav2", "figures": {"accuracy": {"value": 0.5, "standard_error": 0.01, '
            '"count": 100}}, "settings": {}}.'
        ) from error


def _number(entry: Mapping[str, Any], name: str) -> float | None:
    value = entry.get(name)
    return None if value is None else float(value)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is no JSON: {error}. Correct or remove it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(file)!r} holds a {type(content).__name__}, expected is an object.")
    return content
