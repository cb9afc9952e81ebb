"""A loss that is no number stops the run, on every rank, before the optimizer acts on it."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from mm1_hf.data.collators import PackOrigin
from mm1_hf.training.ranks import raise_on_all_ranks

# Keys of documents that an error names. Our choice.
MAX_KEYS = 40


class LossWatch:
    """Remembers which batches of a step had a loss that is no number."""

    def __init__(self) -> None:
        self._broken: list[str] = []

    def see(self, loss: torch.Tensor, batch: Mapping[str, Any]) -> None:
        """Look at the loss of a batch, a scalar."""
        if not math.isfinite(value := loss.item()):
            self._broken.append(f"{value} for {_describe(getattr(batch, 'origins', ()))}")

    def require_numbers(self, *, step: int, device: torch.device) -> None:
        """Go on if all losses of the step were numbers, on all ranks; all of them must call it.

        Raises:
            FloatingPointError: If one was not; names the step, the packs and their documents.
        """
        error = None
        if self._broken:
            found = "; ".join(self._broken)
            self._broken = []
            error = FloatingPointError(
                f"The loss of step {step} is {found}. A finite number is expected. The optimizer "
                "has not acted on it: resume from the last checkpoint with a lower learning rate, "
                "or look at these packs with `mm1 view` and repair or leave out what is odd."
            )
        raise_on_all_ranks(error, device=device)


def _describe(origins: Iterable[PackOrigin]) -> str:
    """Packs and documents of a batch, in words."""
    packs = list(origins)
    indices = [str(pack.index) for pack in packs if pack.index is not None]
    keys = [f"{piece.source}: {piece.key!r}" for pack in packs for piece in pack.pieces]
    if not keys:
        return "a batch that does not say what it is made of"
    left_out = f" and {len(keys) - MAX_KEYS} more" if len(keys) > MAX_KEYS else ""
    packed = f"packs {', '.join(indices)} with " if indices else ""
    return f"{packed}documents {', '.join(keys[:MAX_KEYS])}{left_out}"
