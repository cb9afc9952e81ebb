"""What may happen to tensors between two layouts, besides a new name: each step can be undone.

All of them only regroup: a tensor of the target is some pieces of tensors of the source, one after
the other, under another shape. So bytes can be copied without ever being a tensor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Shape = tuple[int, ...]


class Piece(NamedTuple):
    """A run of elements, row by row, of one of the tensors an operation takes.

    Attributes:
        source: Which of the tensors.
        start: First element.
        length: Number of elements.
    """

    source: int
    start: int
    length: int


class Operation(Protocol):
    """A step from some tensors to others."""

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """Shapes that come of shapes; raises ValueError for those it is not made for."""
        ...

    def pieces(self, shapes: Sequence[Shape]) -> list[list[Piece]]:
        """For each tensor it gives, the pieces that it is made of, for tensors of these shapes."""
        ...

    def inverse(self) -> "Operation":
        """The step back."""
        ...


@dataclass(frozen=True)
class Split:
    """One tensor into equal parts along its first axis, as a fused query, key and value."""

    parts: int

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """`(parts * n, …)` to `parts` times `(n, …)`."""
        (shape,) = shapes
        if not shape or shape[0] % self.parts:
            raise ValueError(f"expected a first axis of {self.parts} equal parts")
        return [(shape[0] // self.parts, *shape[1:])] * self.parts

    def pieces(self, shapes: Sequence[Shape]) -> list[list[Piece]]:
        """One part of the source each."""
        length = math.prod(shapes[0]) // self.parts
        return [[Piece(0, part * length, length)] for part in range(self.parts)]

    def inverse(self) -> "Join":
        """Put the parts together."""
        return Join(self.parts)


@dataclass(frozen=True)
class Join:
    """Equal parts into one tensor along the first axis."""

    parts: int

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """`parts` times `(n, …)` to `(parts * n, …)`."""
        if len(set(shapes)) != 1 or not shapes[0]:
            raise ValueError("expected parts of one shape")
        return [(self.parts * shapes[0][0], *shapes[0][1:])]

    def pieces(self, shapes: Sequence[Shape]) -> list[list[Piece]]:
        """All parts, in order."""
        return [[Piece(part, 0, math.prod(shape)) for part, shape in enumerate(shapes)]]

    def inverse(self) -> Split:
        """Take the parts apart."""
        return Split(self.parts)


@dataclass(frozen=True)
class PointwiseToLinear:
    """The weight of a 1 x 1 convolution to that of a linear layer."""

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """`(out, in, 1, 1)` to `(out, in)`."""
        (shape,) = shapes
        if len(shape) != 4 or shape[2:] != (1, 1):
            raise ValueError("expected the weight of a 1 x 1 convolution, (out, in, 1, 1)")
        return [shape[:2]]

    def pieces(self, shapes: Sequence[Shape]) -> list[list[Piece]]:
        """All of it."""
        return [[Piece(0, 0, math.prod(shapes[0]))]]

    def inverse(self) -> "LinearToPointwise":
        """Back to a convolution."""
        return LinearToPointwise()


@dataclass(frozen=True)
class LinearToPointwise:
    """The weight of a linear layer to that of a 1 x 1 convolution."""

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """`(out, in)` to `(out, in, 1, 1)`."""
        (shape,) = shapes
        if len(shape) != 2:
            raise ValueError("expected the weight of a linear layer, (out, in)")
        return [(*shape, 1, 1)]

    def pieces(self, shapes: Sequence[Shape]) -> list[list[Piece]]:
        """All of it."""
        return [[Piece(0, 0, math.prod(shapes[0]))]]

    def inverse(self) -> PointwiseToLinear:
        """Back to a linear layer."""
        return PointwiseToLinear()


@dataclass(frozen=True)
class TakeRows:
    """A table of positions out of its batch of one, without its first `skip` rows.

    Its inverse cannot bring skipped rows back: they are gone, as they are when the original code
    reads such a checkpoint.
    """

    skip: int = 0

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """`(1, skip + rows, width)` to `(rows, width)`."""
        (shape,) = shapes
        if len(shape) != 3 or shape[0] != 1:
            raise ValueError("expected a table of positions, (1, rows, width)")
        return [(shape[1] - self.skip, shape[2])]

    def pieces(self, shapes: Sequence[Shape]) -> list[list[Piece]]:
        """What follows the skipped rows."""
        _, rows, width = shapes[0]
        return [[Piece(0, self.skip * width, (rows - self.skip) * width)]]

    def inverse(self) -> "PutInBatch":
        """Back into a batch of one."""
        return PutInBatch()


@dataclass(frozen=True)
class PutInBatch:
    """A table of positions into a batch of one."""

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        """`(rows, width)` to `(1, rows, width)`."""
        (shape,) = shapes
        if len(shape) != 2:
            raise ValueError("expected a table of positions, (rows, width)")
        return [(1, *shape)]

    def pieces(self, shapes: Sequence[Shape]) -> list[list[Piece]]:
        """All of it."""
        return [[Piece(0, 0, math.prod(shapes[0]))]]

    def inverse(self) -> TakeRows:
        """Out of the batch."""
        return TakeRows()
