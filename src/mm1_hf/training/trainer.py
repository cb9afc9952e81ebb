"""`MM1Trainer`: transformers' `Trainer` and what it cannot know about MM1.

The loop, the loss and the optimizer's steps are the stock ones; with the same groups the stock
`Trainer` trains to the same bit.
"""

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from mm1_hf.data.collators import PackedBatch
from mm1_hf.training.callbacks import SafeCheckpoints, SaveOnSignal, checkpoint_path
from mm1_hf.training.checkpoints import (
    checkpoint_bytes,
    disk_full,
    free_bytes,
    last_complete_checkpoint,
    require_complete_checkpoint,
)
from mm1_hf.training.flop_meter import flop_meter
from mm1_hf.training.loss_watch import LossWatch
from mm1_hf.training.metrics import ShareOf, TrainingMeter, rates_beside, tells_token_losses
from mm1_hf.training.parameters import DecayPolicy, Part, parameter_groups
from mm1_hf.training.requirements import require_arguments, require_processor


class MM1Trainer(Trainer):
    """`Trainer` with groups per tower, logs per source, and a run that survives.

    Adds to the logs what `TrainingMeter.report` lists. Stops at a loss that is no number, and says
    which packs made it. Brings `SaveOnSignal` and `SafeCheckpoints` along, unless `callbacks` has
    its own. `evaluate` computes losses only, unless `compute_metrics` is given.

    Args:
        model: An MM1, also with adapters.
        args: With `remove_unused_columns=False`.
        processing_class: The `MM1Processor`, which is saved with every checkpoint.
        rate_scales: Learning rate of parts, as a multiple; see `parameters.parameter_groups`.
        decay: What decays; see there.
        peak_flops: Operations per second that one device could do at best; for `mfu`.
        share_of: What the realised shares of sources are counted in.
        log_each_expert: Whether to log the load of each expert of a sparse decoder.
        callbacks: More callbacks.
        **kwargs: Everything else that `Trainer` takes.

    Raises:
        ValueError: If `processing_class` lacks a tokenizer or an image processor,
            `remove_unused_columns` is not False, or one process drives several devices.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        processing_class: Any = None,
        rate_scales: Mapping[Part, float] | None = None,
        decay: DecayPolicy = "matrices",
        peak_flops: float | None = None,
        share_of: ShareOf = "tokens",
        log_each_expert: bool = False,
        callbacks: Sequence[TrainerCallback] = (),
        **kwargs: Any,
    ):
        require_processor(processing_class)
        chosen = list(callbacks or ())
        for kind in (SaveOnSignal, SafeCheckpoints):
            if not any(isinstance(one, kind) for one in chosen):
                chosen.append(kind())
        super().__init__(
            model,
            args,
            processing_class=processing_class,
            callbacks=chosen,
            **kwargs,
        )
        require_arguments(self.args)
        if self.compute_metrics is None:
            self.args.prediction_loss_only = True
        self.group_settings: dict[str, Any] = {"rate_scales": rate_scales, "decay": decay}
        self.meter = TrainingMeter(
            share_of=share_of, peak_flops=peak_flops, each_expert=log_each_expert
        )
        self.watch = LossWatch()
        self._batch: Any = {}

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of `args`, with the groups of `parameters.parameter_groups`."""
        if self.optimizer is not None:
            return super().create_optimizer(model)
        target: Any = self.model if model is None else model
        chosen = self.optimizer_cls_and_kwargs
        kind, settings = chosen or self.get_optimizer_cls_and_kwargs(self.args, target)
        groups = parameter_groups(
            target,
            learning_rate=self.args.learning_rate,
            weight_decay=self.args.weight_decay,
            **self.group_settings,
        )
        # The one door that the stock method has for groups of one's own. Optimizers that work layer
        # by layer come with theirs.
        self.optimizer_cls_and_kwargs = (kind, {"params": groups, **settings})
        try:
            return super().create_optimizer(model)
        finally:
            self.optimizer_cls_and_kwargs = chosen

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any):
        """As in `Trainer`; resumes from whole checkpoints only.

        Raises:
            ValueError: If there is no whole checkpoint to resume from, or the given one is not.
        """
        if resume_from_checkpoint is True:
            folder = self.args.output_dir or "."
            if (last := last_complete_checkpoint(folder)) is None:
                raise ValueError(
                    f"There is no whole checkpoint in {folder} to resume from. To start anew where "
                    "there is none, pass checkpoints.last_complete_checkpoint(folder)."
                )
            resume_from_checkpoint = str(last)
        elif resume_from_checkpoint:
            resume_from_checkpoint = str(require_complete_checkpoint(resume_from_checkpoint))
        # What is frozen may have changed since the last time.
        model: Any = self.model
        self._flops = flop_meter(model)
        self._asks_token_losses = tells_token_losses(model)
        self.meter.reset()
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward; raises before the optimizer acts on a loss that is no number."""
        self.meter.start()
        self._batch = inputs  # with its origins, which the preparation below drops
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.watch.see(loss, inputs)
        if self.accelerator.sync_gradients:
            self.watch.require_numbers(step=self.state.global_step + 1, device=self.args.device)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The stock loss; notes on the way what it is made of."""
        batch = self._batch
        known = isinstance(batch, PackedBatch) and bool(batch.origins)
        told = known and model.training and self._asks_token_losses
        if told:
            inputs = {**inputs, "return_token_losses": True}
        result: Any = super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        loss, outputs = result
        # A loss of somebody's own, or label smoothing, computes none.
        if told and outputs.token_losses is not None:
            self.meter.add_losses(batch, outputs.token_losses)
        if model.training and getattr(outputs, "router_logits", None):
            config: Any = getattr(self.model, "config", None)
            self.meter.router.add(
                outputs.router_logits, text_config=config.get_text_config(), batch=inputs
            )
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Operations of a training step on a batch: of tiles, tokens and active experts."""
        flops = int(self._flops(inputs)) if self._flops else super().floating_point_ops(inputs)
        self.meter.add_batch(inputs, flops=flops)
        return flops

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; training's own entries get ours beside them."""
        if "loss" in logs and self.is_in_train:
            logs = logs | self.meter.report() | rates_beside(logs, self.optimizer)
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in `Trainer`; not counted as training time."""
        with self.meter.paused():
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        path = checkpoint_path(self.args, self.state)
        with self.meter.paused():
            try:
                super()._save_checkpoint(model, trial)
            except Exception as error:
                # Each library has an error of its own for a disk that is full.
                needed, free = checkpoint_bytes(model, self.optimizer), free_bytes(path)
                if free >= needed:
                    raise
                shutil.rmtree(path, ignore_errors=True)
                raise disk_full(path, needed=needed, free=free) from error
