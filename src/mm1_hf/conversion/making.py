"""How the tensor of a step is made: whole, run by run, or by moving bytes."""

from collections.abc import Iterator
from typing import BinaryIO

import torch

from mm1_hf.conversion.checkpoints import Checkpoint, FileCheckpoint
from mm1_hf.conversion.renaming import Step
from mm1_hf.conversion.writing import write_tensor


def _only_moves(step: Step, checkpoint: Checkpoint) -> bool:
    """Whether the bytes of the tensor are those of its pieces."""
    return step.fill is None and all(
        checkpoint.tensors[name].dtype == step.info.dtype for name in step.sources
    )


def step_runs(step: Step, checkpoint: Checkpoint) -> Iterator[torch.Tensor]:
    """The elements of the tensor, row by row, as flat tensors one after the other."""
    shape, dtype = step.info
    if step.fill is not None:
        yield torch.full(shape, step.fill, dtype=dtype).flatten()
    for piece in step.pieces:
        name = step.sources[piece.source]
        yield checkpoint.elements(name, piece.start, piece.length).to(dtype)


def make_tensor(step: Step, checkpoint: Checkpoint) -> torch.Tensor:
    """The whole tensor; one that is a single piece shares the memory of its source."""
    found = list(step_runs(step, checkpoint))
    return (found[0] if len(found) == 1 else torch.cat(found)).reshape(step.info.shape)


def write_step(step: Step, checkpoint: FileCheckpoint, file: BinaryIO) -> None:
    """Write the data of the tensor, through a small buffer where its bytes only move."""
    if not _only_moves(step, checkpoint):
        for run in step_runs(step, checkpoint):
            write_tensor(run, file)
        return
    for piece in step.pieces:
        name = step.sources[piece.source]
        checkpoint.copy(name, file, start=piece.start, length=piece.length)
