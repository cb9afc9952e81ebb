"""Tasks asked while a model is trained, by any `Trainer`, without changing its training."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mm1_hf.evaluation.answers import Answer
from mm1_hf.evaluation.contract import Example, Task
from mm1_hf.evaluation.generation import evaluation_mode
from mm1_hf.evaluation.questions import Questioner, labelled_examples
from mm1_hf.evaluation.report import SeedResult, score_answers
from mm1_hf.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from transformers import Trainer

When = int | Literal["evaluate", "end"]


class EvaluationCallback(TrainerCallback):
    """Asks a task of the model in training and logs the figures as `eval_<task>_<figure>`.

    A `Trainer` gives its callbacks no way to log, so this one is attached to it:
    `EvaluationCallback(task, examples, every=500).attach(trainer)`.

    Several processes share the examples and put their answers together; all compute the same
    figures. A model whose weights are spread over processes is refused: `generate` would wait for
    processes that have finished theirs. Random numbers, the modes of all parts and the order of
    logs are left as they were, so that training is the same to the bit with and without. An
    `MM1Trainer` does not count the time of the answers as training.

    With `every="evaluate"` the figures join what `Trainer.evaluate` returns. So
    `metric_for_best_model="eval_<task>_<figure>"` keeps the checkpoint that answers best, and
    `EarlyStoppingCallback` can wait for a figure.

    The model answers as it is computed in training: under autocast if training is.

    Args:
        task: The task.
        examples: A small split; it is asked whole every time.
        every: Number of steps; or `"evaluate"`: whenever the Trainer evaluates; or `"end"`: once,
            at the end of training.
        demonstrations: See `evaluator.evaluate`.
        settings: How the task is put; several seeds are averaged.
        processor: The `MM1Processor`; the Trainer's `processing_class` by default.

    Attributes:
        results: For each step that asked, the results of each seed. Only of this process's life.

    Raises:
        ValueError: If `every` is no number of steps, or examples have no answers to compare with.
    """

    def __init__(
        self,
        task: Task,
        examples: Sequence[Example],
        *,
        every: When,
        demonstrations: Sequence[Example] | None = None,
        settings: EvaluationSettings | None = None,
        processor: Any = None,
    ):
        if not (every in ("evaluate", "end") or (isinstance(every, int) and every > 0)):
            raise ValueError(
                f"every is {every!r}, but a number of steps, 'evaluate' or 'end' is expected."
            )
        self.task = task
        self.settings = settings or EvaluationSettings()
        self.examples = labelled_examples(task, examples, on_unlabelled=self.settings.on_unlabelled)
        self.unlabelled = len(examples) - len(self.examples)
        self.every = every
        self.demonstrations = demonstrations
        if demonstrations and self.settings.num_shots:
            self.demonstrations = labelled_examples(
                task, demonstrations, on_unlabelled=self.settings.on_unlabelled
            )
        self.processor = processor
        self.results: dict[int, dict[int, SeedResult]] = {}
        self._trainer: Trainer | None = None

    def attach(self, trainer: "Trainer") -> "EvaluationCallback":
        """Take part in the training of a `Trainer`, and log through it."""
        self._trainer = trainer
        if self not in trainer.callback_handler.callbacks:
            # First, as callbacks such as EarlyStoppingCallback read the figures.
            trainer.callback_handler.callbacks.insert(0, self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See that it can work, before hours have passed.

        Raises:
            ValueError: If it is attached to no Trainer, the model's weights are spread over
                processes, or there is no processor.
        """
        if self._trainer is None:
            raise ValueError(
                "This EvaluationCallback belongs to no Trainer yet, so it could not log. Call "
                "EvaluationCallback(…).attach(trainer) instead of passing it as callbacks=."
            )
        if spread := _how_spread(args, kwargs["model"]):
            raise ValueError(
                f"The model's weights are spread over processes ({spread}), and answers of "
                "different lengths would make them wait for each other for ever. Evaluate the "
                "saved checkpoints with `mm1 evaluate`, or train with DDP."
            )
        self._questioner(kwargs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask, if it is time."""
        if isinstance(self.every, int) and state.global_step % self.every == 0:
            self._ask(args, state, control, kwargs)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask, if it is to be asked here, and add the figures to the Trainer's."""
        if self.every == "evaluate":
            kwargs["metrics"].update(self._ask(args, state, control, kwargs))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask, if it is to be asked here."""
        if self.every == "end":
            self._ask(args, state, control, kwargs)

    def _ask(
        self, args: Any, state: TrainerState, control: TrainerControl, kwargs: dict[str, Any]
    ) -> dict[str, float]:
        assert self._trainer is not None
        meter = getattr(self._trainer, "meter", None)  # an `MM1Trainer` has one
        with (
            nullcontext() if meter is None else meter.paused(),
            _random_state_kept(args.device),
            evaluation_mode(kwargs["model"]),
        ):
            questioner = self._questioner(kwargs)
            results = {
                seed: score_answers(
                    self.task,
                    self.examples,
                    self._answers(questioner, seed),
                    unlabelled=self.unlabelled,
                )
                for seed in self.settings.asked_seeds
            }
        self.results[state.global_step] = results
        figures = _figures(self.task.name, list(results.values()))
        # Logging marks the training's own log of this step as written, which it is not.
        should_log = control.should_log
        self._trainer.log(dict(figures))
        control.should_log = should_log
        return figures

    def _questioner(self, kwargs: dict[str, Any]) -> Questioner:
        processor = self.processor or kwargs.get("processing_class")
        if getattr(processor, "tokenizer", None) is None:
            raise ValueError(
                "There is no processor to ask with. Pass processor=, or give the Trainer the "
                "MM1Processor as processing_class."
            )
        return Questioner(
            model=kwargs["model"],
            processor=processor,
            task=self.task,
            settings=self.settings,
            demonstrations=self.demonstrations,
        )

    def _answers(self, questioner: Questioner, seed: int) -> list[Answer]:
        """The answers to all examples, of which each process gives every n-th."""
        rank, ranks = _rank(), _num_ranks()
        mine, size = range(rank, len(self.examples), ranks), self.settings.batch_size
        answers: list[Answer] = []
        error = None
        try:
            for start in range(0, len(mine), size):
                batch = [self.examples[place] for place in mine[start : start + size]]
                answers += questioner.ask(batch, seed=seed)
        except Exception as found:
            # A process that raised alone would leave the others waiting for its answers.
            error = found
        # As text: not every error can be sent.
        own = (answers, None if error is None else str(error) or repr(error))
        told: list[Any] = [own]
        if ranks > 1:
            told = [None] * ranks
            distributed.all_gather_object(told, own)
        if error is not None:
            raise error
        if found := next((text for _, text in told if text is not None), None):
            raise ValueError(found)
        return [told[place % ranks][0][place // ranks] for place in range(len(self.examples))]


def _figures(task: str, results: Sequence[SeedResult]) -> dict[str, float]:
    """What is logged: figures, and counts of what is wrong with answers, as means over seeds."""
    logs: dict[str, float] = {}
    for name in results[0].figures:
        values = [result.figures[name].value for result in results]
        logs[f"eval_{task}_{name}"] = sum(values) / len(values)
    for name in ("empty", "unreadable", "too_long"):
        total = sum(getattr(result.counts, name) for result in results)
        if name == "empty" or total:
            logs[f"eval_{task}_{name}"] = total / len(results)
    return logs


def _rank() -> int:
    return distributed.get_rank() if _num_ranks() > 1 else 0


def _num_ranks() -> int:
    is_ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if is_ready else 1


def _how_spread(args: Any, model: torch.nn.Module) -> str:
    """By what the weights of a model are spread over processes; empty if they are not."""
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        return "FSDP"
    for parameter in model.parameters():
        if hasattr(parameter, "device_mesh"):
            return "DTensor: FSDP, tensor or expert parallelism"
        if hasattr(parameter, "ds_id"):
            return "DeepSpeed ZeRO-3"
    return "FSDP" if getattr(args, "fsdp", None) else ""


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
