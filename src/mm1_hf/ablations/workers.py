"""Several processes on one folder of studies."""

import multiprocessing
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mm1_hf.ablations.loading import load_studies, select
from mm1_hf.ablations.runner import run_study
from mm1_hf.ablations.study import Study


class Choice(NamedTuple):
    """Which studies to run, in words that another process understands too."""

    name: str
    quick: bool = False
    axes: tuple[str, ...] | None = None
    num_seeds: int | None = None

    def studies(self) -> tuple[Study, ...]:
        """The studies themselves; see `loading`."""
        studies = load_studies(self.name, quick=self.quick)
        return select(studies, axes=self.axes, num_seeds=self.num_seeds)


def run_all(choice: Choice, folder: Path, *, jobs: int = 1) -> Sequence[Study]:
    """Run all studies; this process works as well, and does what another leaves behind.

    Raises:
        ValueError: See `run_study`.
    """
    studies = choice.studies()
    # Not forked: a process that has used its threads for computing does not survive it.
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=work, args=(choice, folder)) for _ in range(jobs - 1)]
    for one in others:
        one.start()
    try:
        for study in studies:
            run_study(study, folder)
    finally:
        for one in others:
            one.terminate()
            one.join()
    return studies


def work(choice: Choice, folder: Path) -> None:
    """What every further process does, until it is done or the first process is gone."""
    from transformers import logging

    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for study in choice.studies():
        run_study(study, folder)


def _end_with_parent() -> None:
    """A first process that is killed cannot end the others; each looks for itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
