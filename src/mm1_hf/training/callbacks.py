"""Callbacks with which a run survives what happens to long runs, also under the stock `Trainer`.

`SaveOnSignal` answers a scheduler that wants its machine back; `SafeCheckpoints` keeps a full disk
or a kill in the midst of writing from costing more than the steps since the last checkpoint.
"""

import functools
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mm1_hf.training.checkpoints import (
    break_seal,
    checkpoint_bytes,
    require_space,
    seal_checkpoint,
)
from mm1_hf.training.ranks import largest_of_ranks, raise_on_all_ranks, wait_for_ranks

logger = logging.getLogger(__name__)

AfterSaving = Literal["exit", "return"]


def survival_callbacks() -> list[TrainerCallback]:
    """What `MM1Trainer` brings along, for `Trainer(callbacks=survival_callbacks())`."""
    return [SaveOnSignal(), SafeCheckpoints()]


class SaveOnSignal(TrainerCallback):
    """On SIGTERM, finish the step, save a checkpoint and leave.

    The signal may reach one rank only, or several between different steps: ranks agree at the end
    of every step, with one all-reduce of a single number. Data workers are shielded, because
    schedulers signal every process of a job and a dead worker would end the run before it saved.

    Args:
        signals: What to answer; Slurm sends others on demand (`--signal=USR1@120`).
        then: `"exit"`: leave the process with code 128 + signal, as shells do, so that a scheduler
            starts the job again and nothing behind `train()` takes the model for finished.
            `"return"`: `train()` returns, and `received` says why.

    Attributes:
        received: Number of the signal that ended the run, or None.
    """

    def __init__(
        self,
        *,
        signals: Sequence[signal.Signals] = (signal.SIGTERM,),
        then: AfterSaving = "exit",
    ):
        if then not in ("exit", "return"):
            raise ValueError(f"then is {then!r}, but it must be 'exit' or 'return'.")
        self.signals = tuple(signals)
        self.then = then
        self.received: int | None = None
        self._pending = 0
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start to listen."""
        self.received, self._pending = None, 0
        if threading.current_thread() is not threading.main_thread():
            logger.warning("Not in the main thread: signals will end this run without saving.")
            return
        self._previous = {one: signal.signal(one, self._note) for one in self.signals}
        loader = kwargs.get("train_dataloader")
        loader = getattr(loader, "base_dataloader", loader)  # what accelerate's loader iterates
        if loader is not None and hasattr(signal, "sigwaitinfo"):
            loader.worker_init_fn = functools.partial(
                _shield_worker, signals=self.signals, then=loader.worker_init_fn
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """If any rank was signalled, save and stop on all."""
        signalled = largest_of_ranks(self._pending, device=args.device)
        if signalled:
            self.received = signalled
            logger.warning("Signal %d: saving step %d.", signalled, state.global_step)
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Do not evaluate, nor save the same step again, where the run only breaks off."""
        if self.received is not None:
            control.should_save = control.should_evaluate = False

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep what was just saved."""
        if self.received is not None:
            # With load_best_model_at_end and save_total_limit=1 the end of training deletes every
            # checkpoint but the best. The file that was just written still names the best one.
            state.best_model_checkpoint = None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop to listen, and leave if a signal ended the run."""
        for one, handler in self._previous.items():
            signal.signal(one, handler)
        self._previous = {}
        if self.received is not None and self.then == "exit":
            wait_for_ranks()
            raise SystemExit(128 + self.received)

    def _note(self, number: int, frame: Any) -> None:
        self._pending = number


class SafeCheckpoints(TrainerCallback):
    """Before a checkpoint is written, see that it fits; afterwards, seal it.

    Put it behind callbacks that ask for saving. See `checkpoints.last_complete_checkpoint`.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prepare the folder.

        Raises:
            OSError: (ENOSPC), on all ranks, if the checkpoint does not fit on the disk of one;
                names the folder, the needed and the free bytes.
        """
        if not control.should_save:
            return
        error = None
        if args.should_save:
            path = checkpoint_path(args, state)
            try:
                needed = checkpoint_bytes(kwargs["model"], kwargs.get("optimizer"))
                require_space(path, needed=needed)
                break_seal(path)
            except OSError as found:
                error = found
        raise_on_all_ranks(error, device=args.device)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """As `on_step_end`, for checkpoints at the end of an epoch."""
        self.on_step_end(args, state, control, **kwargs)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seal the checkpoint once all ranks have written their part of it."""
        wait_for_ranks()
        path = checkpoint_path(args, state)
        if args.should_save and path.is_dir():
            seal_checkpoint(path)


def checkpoint_path(args: TrainingArguments, state: TrainerState) -> Path:
    """Where a `Trainer` saves the present step."""
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"


def _shield_worker(
    worker: int, *, signals: Sequence[signal.Signals], then: Callable[[int], None] | None
) -> None:
    """Let a data worker obey signals of its parent only."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    threading.Thread(target=_obey_parent, args=(signals,), daemon=True).start()
    if then is not None:
        then(worker)


def _obey_parent(signals: Sequence[signal.Signals]) -> None:
    while True:
        if signal.sigwaitinfo(signals).si_pid == os.getppid():
            os._exit(0)
