"""Operations of a training step, by the planner's formula, for the batches of a run."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mm1_hf.data.collators import IGNORED, PackedBatch
from mm1_hf.planning.flops import FlopModel, flop_model
from mm1_hf.planning.parameters import part_modules

logger = logging.getLogger(__name__)


class FlopMeter:
    """Counts the operations that training an MM1 on a batch needs.

    Neither recomputation nor padding counts, where a batch says what is padding: the result divided
    by time and peak is the model FLOPs utilisation. What is frozen now is taken to stay frozen; a
    part with adapters counts as trained.

    Args:
        model: The MM1, without wrappers.

    Raises:
        ValueError: If the planner has no formula for its decoder.
    """

    def __init__(self, model: Any):
        self._config = model.config
        # By size of the tiles; None means the tower's own.
        self._costs: dict[tuple[int, int] | None, FlopModel] = {None: flop_model(model.config)}
        self._frozen = [
            name
            for name, part in part_modules(model).items()
            if not any(parameter.requires_grad for parameter in part.parameters())
        ]

    def __call__(self, batch: Mapping[str, Any]) -> float:
        """Operations of forward and backward.

        Args:
            batch: Arguments of the forward; documents are told apart in a `PackedBatch`.
        """
        rows, length = batch["input_ids"].shape
        lengths = [length] * rows
        targets = num_targets(batch)
        if isinstance(batch, PackedBatch) and batch.origins:
            pieces = [piece for origin in batch.origins for piece in origin.pieces]
            lengths = [piece.tokens for piece in pieces]
            targets = sum(piece.targets for piece in pieces)
        tiles = batch.get("pixel_values", ())
        size = (int(tiles.shape[-2]), int(tiles.shape[-1])) if len(tiles) else None
        if size not in self._costs:
            self._costs[size] = flop_model(self._config, tile_size=size)
        count = self._costs[size].training(
            num_tokens=sum(lengths),
            num_tiles=len(tiles),
            num_supervised=int(targets),
            document_lengths=lengths,
            frozen=self._frozen,
        )
        return count.total


def flop_meter(model: nn.Module) -> FlopMeter | None:
    """The meter of the MM1 inside `model`, or None where there is none or no formula for it."""
    for module in model.modules():
        if "lm_head" in module._modules and hasattr(getattr(module, "model", None), "vision_tower"):
            try:
                return FlopMeter(module)
            except ValueError as error:
                logger.warning("Operations are estimated by parameters alone: %s", error)
                return None
    return None


def num_tokens(batch: Mapping[str, Any]) -> int | torch.Tensor:
    """Tokens of a batch that does not say where they come from; padding too, without a mask."""
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else mask.sum()


def num_targets(batch: Mapping[str, Any]) -> int | torch.Tensor:
    """Tokens of a batch that carry a loss."""
    labels = batch.get("labels")
    return 0 if labels is None else (labels[..., 1:] != IGNORED).sum()
