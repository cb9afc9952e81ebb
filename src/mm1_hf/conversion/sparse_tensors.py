"""How the tensors of an upcycled model are made: pieces of dense ones, many times over.

Letters: E experts, D width, I inner width.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import torch

from mm1_hf.conversion.checkpoints import Checkpoint, FileCheckpoint
from mm1_hf.conversion.formats import Side
from mm1_hf.conversion.making import step_runs, write_step
from mm1_hf.conversion.operations import Piece
from mm1_hf.conversion.renaming import Plan, Step, TensorInfo
from mm1_hf.conversion.sources import common_dtype
from mm1_hf.conversion.writing import write_tensor

_BLOCK = re.compile(r"((?:.*\.)?layers\.(\d+)\.mlp\.)(.+)")
_PROJECTIONS = {
    "experts.gate_up_proj": ("gate_proj", "up_proj"),
    "experts.down_proj": ("down_proj",),
}

# Elements that noise is drawn for at once.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Start:
    """How experts and routers begin.

    Attributes:
        noise: Standard deviation of what is added to a matrix, as a share of the matrix's own.
        seed: Of all that is drawn.
        router_std: Standard deviation of the routers' weights.
    """

    noise: float
    seed: int
    router_std: float

    def generator(self, *names: Any) -> torch.Generator:
        """Random numbers that depend on the seed and on what they are for, not on their turn."""
        key = " ".join(map(str, (self.seed, *names))).encode()
        digest = hashlib.blake2b(key, digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


class Recipe(NamedTuple):
    """How one tensor of the sparse model is made.

    Attributes:
        info: What it will be.
        step: Pieces of dense tensors; None for a router.
        drawn: Where random numbers are in it, its elements, row by row, as flat tensors one after
            the other. None where it is what its step makes.
    """

    info: TensorInfo
    step: Step | None
    drawn: Callable[[], Iterator[torch.Tensor]] | None = None

    def runs(self, checkpoint: Checkpoint) -> Iterator[torch.Tensor]:
        """Its elements, row by row, as flat tensors one after the other."""
        if self.drawn is not None:
            return self.drawn()
        assert self.step is not None
        return step_runs(self.step, checkpoint)

    def write(self, checkpoint: FileCheckpoint, file: BinaryIO) -> None:
        """Write its data, through a small buffer wherever its bytes only move."""
        if self.drawn is None and self.step is not None:
            write_step(self.step, checkpoint, file)
            return
        for run in self.runs(checkpoint):
            write_tensor(run, file)


def plan_recipes(plan: Plan, side: Side, checkpoint: Checkpoint, start: Start) -> dict[str, Recipe]:
    """Find out how each tensor of a sparse model is made, in the model's order.

    Args:
        plan: How the tensors of the dense model of ours are made.
        side: The sparse model.
        checkpoint: What the dense model is made of.
        start: How experts and routers begin.
    """
    router_dtype = common_dtype({name: step.info for name, step in plan.steps.items()})
    assert router_dtype is not None
    deviations: dict[str, float] = {}
    recipes = {}
    for name, shape in (side.shapes() or {}).items():
        if (step := plan.steps.get(name)) is not None:
            recipes[name] = Recipe(step.info, step)
            continue
        match = _BLOCK.fullmatch(name)
        assert match is not None
        block, layer, part = match[1], int(match[2]), match[3]
        if part == "gate.weight":
            info = TensorInfo(shape, router_dtype)
            recipes[name] = Recipe(info, None, partial(_draw_router, info, start, layer))
            continue
        matrices = [plan.steps[f"{block}{one}.weight"] for one in _PROJECTIONS[part]]
        step = _repeated(matrices, shape)
        recipes[name] = Recipe(step.info, step)
        if start.noise:
            drawn = partial(_noisy_runs, step, checkpoint, start, f"{layer} {part}", deviations)
            recipes[name] = Recipe(step.info, step, drawn)
    return recipes


def _repeated(matrices: list[Step], shape: tuple[int, ...]) -> Step:
    """An expert's matrices, one below the other, once for each expert."""
    sources = tuple(name for matrix in matrices for name in matrix.sources)
    assert len(sources) == len(matrices)
    once = [
        Piece(place, matrix.pieces[0].start, matrix.pieces[0].length)
        for place, matrix in enumerate(matrices)
    ]
    dtype = common_dtype({name: one.info for name, one in zip(sources, matrices, strict=True)})
    assert dtype is not None
    return Step(sources, TensorInfo(shape, dtype), tuple(once * shape[0]))


def _noisy_runs(
    step: Step, checkpoint: Checkpoint, start: Start, what: str, deviations: dict[str, float]
) -> Iterator[torch.Tensor]:
    for number, piece in enumerate(step.pieces):
        name = step.sources[piece.source]
        if name not in deviations:
            deviations[name] = _deviation(checkpoint, name, piece)
        generator = start.generator("noise", what, number)
        for values in _chunks(checkpoint, name, piece):
            drawn = torch.randn(len(values), generator=generator)
            yield values.add_(drawn, alpha=start.noise * deviations[name]).to(step.info.dtype)


def _deviation(checkpoint: Checkpoint, name: str, piece: Piece) -> float:
    """Standard deviation of a matrix."""
    total = squares = 0.0
    for values in _chunks(checkpoint, name, piece):
        total += values.sum(dtype=torch.float64).item()
        squares += values.double().square_().sum().item()
    mean = total / piece.length
    return max(squares / piece.length - mean**2, 0.0) ** 0.5


def _chunks(checkpoint: Checkpoint, name: str, piece: Piece) -> Iterator[torch.Tensor]:
    """Elements in fp32, in memory of their own."""
    for begin in range(0, piece.length, _CHUNK):
        length = min(_CHUNK, piece.length - begin)
        values = checkpoint.elements(name, piece.start + begin, length)
        yield values.to("cpu", torch.float32, copy=True)


def _draw_router(info: TensorInfo, start: Start, layer: int) -> Iterator[torch.Tensor]:
    drawn = torch.randn(info.shape, generator=start.generator("router", layer))
    yield drawn.mul_(start.router_std).to(info.dtype).flatten()
