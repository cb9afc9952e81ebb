"""Runs the cells of a study: one after the other, each kept on disk, by one process or several.

A folder of a study holds `study.json` (what it is), `cells/` (figures of every run, a log beside
each) and `scratch/`; the cache lies beside the studies. A cell belongs to the process that holds
its lock. So a run that was killed is resumed by starting it again, and several processes, also on
several machines with a common file system, share the work by being started on one folder.
"""

import contextlib
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from filelock import FileLock, Timeout

from mm1_hf.ablations.cache import StageCache
from mm1_hf.ablations.fingerprints import fingerprint, plain
from mm1_hf.ablations.study import Cell, Context, Study

STUDY_FILE = "study.json"
CELLS = "cells"
CACHE = "cache"
_SCRATCH = "scratch"
_SECONDS_TO_LOOK_AGAIN = 2.0


class Outcome(NamedTuple):
    """What a process has done for a study.

    Attributes:
        done: Cells that it ran.
        kept: Cells that were there.
    """

    done: int
    kept: int


def run_study(study: Study, folder: Path, *, report: Any = print) -> Outcome:
    """Run every cell that is not there yet; returns when all are.

    Computes with one thread, so that figures do not depend on how many processes share the work.

    Args:
        study: The study.
        folder: Holds the studies, each in a folder of its name, and their cache.
        report: Called with a line about each cell.

    Raises:
        ValueError: If the folder holds the same study with another baseline or of other versions of
            the libraries, or a run does not return figures.
    """
    home = folder / study.name
    _claim(study, home)
    cells = study.cells()
    torch.set_num_threads(1)
    waiting = [cell for cell in cells if not cell_file(home, cell).is_file()]
    kept, done = len(cells) - len(waiting), 0
    while waiting:
        progress = False
        for cell in list(waiting):
            path = cell_file(home, cell)
            try:
                with FileLock(os.fspath(path.with_suffix(".lock")), timeout=0):
                    if not path.is_file():
                        seconds = _run_cell(study, cell, home)
                        done += 1
                        report(
                            f"{study.name}: {', '.join(cell.names)}, seed {cell.seed}: "
                            f"{seconds:.0f} s of the processor"
                        )
                    waiting.remove(cell)
                    progress = True
            except Timeout:
                continue
        if not progress:
            time.sleep(_SECONDS_TO_LOOK_AGAIN)
    return Outcome(done, kept)


def cell_file(home: Path, cell: Cell) -> Path:
    """Where the figures of a cell are kept."""
    return home / CELLS / f"{cell.key}-seed{cell.seed}.json"


def versions() -> dict[str, str]:
    """Versions of what decides the figures."""
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def _claim(study: Study, home: Path) -> None:
    """Write down what the study is, or require that the folder holds the same."""
    (home / CELLS).mkdir(parents=True, exist_ok=True)
    mine = {
        "study": study.name,
        "fingerprint": fingerprint(study.baseline),
        "versions": versions(),
        "baseline": plain(study.baseline),
    }
    path = home / STUDY_FILE
    with FileLock(os.fspath(path.with_suffix(".lock"))):
        if not path.is_file():
            _write(path, mine)
            return
    begun = json.loads(path.read_text(encoding="utf-8"))
    differs = [
        f"{name} {old!r}, not {new!r}"
        for part in ("versions", "baseline")
        for name, old, new in _differences(begun.get(part, {}), mine[part])
    ]
    if differs:
        raise ValueError(
            f"The study in {os.fspath(home)!r} was begun with {'; '.join(differs)}. Results of "
            "different settings are not mixed: choose another output folder."
        )


def _differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in {**old, **new}:
            inner = f"{name}.{key}" if name else key
            found += _differences(old.get(key), new.get(key), inner)
        return found
    return [] if old == new else [(name, old, new)]


def _run_cell(study: Study, cell: Cell, home: Path) -> float:
    """Run one cell and keep its figures; returns the seconds of processor time."""
    path = cell_file(home, cell)
    scratch = home / _SCRATCH / path.stem
    scratch.mkdir(parents=True, exist_ok=True)
    context = Context(cell.seed, scratch, StageCache(home.parent / CACHE))
    begun, processor = time.perf_counter(), time.process_time()
    with (
        open(path.with_suffix(".log"), "w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        figures = study.run(cell.settings, context)
    seconds = time.process_time() - processor
    _write(
        path,
        {
            "points": cell.names,
            "seed": cell.seed,
            "settings": plain(cell.settings),
            "figures": _checked(figures, cell),
            "processor_seconds": round(seconds, 2),
            "seconds": round(time.perf_counter() - begun, 2),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "versions": versions(),
            "machine": platform.machine(),
        },
    )
    shutil.rmtree(scratch, ignore_errors=True)
    return seconds


def _checked(figures: Any, cell: Cell) -> dict[str, float | None]:
    """Figures as plain numbers; one that is not finite is kept as None, and counts as missing."""
    if not isinstance(figures, Mapping) or not figures:
        raise ValueError(
            f"The run of {cell.names[0]!r} returned {figures!r}, but figures by name are expected, "
            'such as {"accuracy": 0.5}.'
        )
    numbers = {str(name): float(value) for name, value in figures.items()}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _write(path: Path, content: Any) -> None:
    """Write JSON so that a reader finds the whole file or none."""
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
