import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mm1_hf.conversion.operations import (
    Join,
    LinearToPointwise,
    Operation,
    PointwiseToLinear,
    PutInBatch,
    Split,
    TakeRows,
)

sizes = st.integers(1, 5)
CASES = {
    "split": (Split(3), lambda a, b: [(3 * a, b)]),
    "join": (Join(3), lambda a, b: [(a, b)] * 3),
    "pointwise": (PointwiseToLinear(), lambda a, b: [(a, b, 1, 1)]),
    "linear": (LinearToPointwise(), lambda a, b: [(a, b)]),
    "rows": (TakeRows(), lambda a, b: [(1, a, b)]),
    "batch": (PutInBatch(), lambda a, b: [(a, b)]),
}


def regroup(operation: Operation, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """What an operation gives, from the pieces and shapes that it says."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    flat = [tensor.reshape(-1) for tensor in tensors]
    return [
        torch.cat([flat[p.source][p.start : p.start + p.length] for p in pieces]).reshape(shape)
        for pieces, shape in zip(operation.pieces(shapes), operation.shapes(shapes), strict=True)
    ]


@pytest.mark.parametrize("name", CASES)
@given(a=sizes, b=sizes)
def test_shapes_are_known_before_the_data_and_there_and_back_changes_no_bit(name, a, b):
    operation, shapes_of = CASES[name]
    shapes = shapes_of(a, b)
    tensors = [torch.randn(shape) for shape in shapes]
    made = regroup(operation, tensors)
    back = regroup(operation.inverse(), made)
    assert len(back) == len(tensors)
    assert all(torch.equal(found, tensor) for found, tensor in zip(back, tensors, strict=True))


def test_pieces_are_what_the_names_say():
    table = torch.arange(6.0).reshape(1, 3, 2)
    assert torch.equal(regroup(TakeRows(1), [table])[0], table[0, 1:])
    fused = torch.randn(6, 2)
    for found, expected in zip(regroup(Split(3), [fused]), fused.chunk(3), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("operation", "shapes"),
    [
        (Split(3), [(4, 2)]),
        (Join(2), [(2, 2), (3, 2)]),
        (PointwiseToLinear(), [(2, 2, 3, 3)]),
        (LinearToPointwise(), [(2, 2, 1)]),
        (TakeRows(), [(2, 3, 4)]),
        (PutInBatch(), [(2,)]),
    ],
)
def test_a_shape_it_is_not_made_for_is_an_error(operation, shapes):
    with pytest.raises(ValueError, match="expected"):
        operation.shapes(shapes)
